"""Rows of two runs that must agree, though they were computed in another order or process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import shapely

from schemas.geotags import PROBABILITY_COLUMNS

EXACT = (
    "key",
    "shard",
    "model_id",
    "country_code",
    "country_found_by",
    "exif_source",
    "truth_source",
    "photo_id",
    "path",
    "stem",
    "region",
    "best_source",
)
HEIGHTS = (*PROBABILITY_COLUMNS, "information_nats")
PLACES = ("bbox", "latitude", "longitude", "best_latitude", "best_longitude", "modes")
KM_PER_DEGREE = 111.2
ONE_NODE, FLAT = 5e-4, 2e-3


def columns(output: Path) -> dict[str, list]:
    """Reads all columns of all predictions of a run, in the order of shard and key."""
    table = pq.read_table(output / "predictions").sort_by(
        [("shard", "ascending"), ("key", "ascending")]
    )
    return table.to_pydict()


def assert_same_rows(found: dict[str, list], wanted: dict[str, list]) -> None:
    """Fails unless two runs gave the same rows, up to the rounding of float32.

    A place is as exact as its density is narrow: how a processor adds up a product of matrices
    moves the top of a density by a millionth of its own radius. In sampling mode a network of
    random weights turns the last bit of such a product into 1e-5 of a coefficient. The heights of
    the density move by as much, the place of a flat top by more, also because the way to the answer
    of a map begins at the highest of its nodes: rounding chooses among those that are as high. Land
    is a raster: of the nodes of a quadrature one on the edge of a cell may count for either side.
    """
    assert list(found) == list(wanted)
    close = 1e-3
    narrowest = min(wanted["radius_50_km"]) / KM_PER_DEGREE
    for name in wanted:
        if name in EXACT:
            assert found[name] == wanted[name], name
        elif name == "geometry":
            points = shapely.get_coordinates(shapely.from_wkb(found[name]))
            assert points.T.tolist() == [found["longitude"], found["latitude"]]
        else:
            ours, theirs = flat(found[name]), flat(wanted[name])
            atol = max(close, FLAT * narrowest) if name in PLACES else close
            atol = max(atol, ONE_NODE) if name == "land_probability" else atol
            atol = min(atol, 5e-5) if name in HEIGHTS else atol
            np.testing.assert_allclose(ours, theirs, rtol=close, atol=atol, err_msg=name)


def flat(values: list) -> np.ndarray:
    """Numbers, however deep in lists and structs; None is NaN."""
    if all(value is None or isinstance(value, (int, float)) for value in values):
        return np.array([np.nan if value is None else value for value in values])
    parts = [list(value.values()) if isinstance(value, dict) else value for value in values]
    return np.concatenate([[len(part), *flat(part)] for part in parts])
