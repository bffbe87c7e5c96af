"""Rows of an earlier run that stay, where only the photos in errors are done again. Knows no Beam.

What is made of them and of the new rows is in the order, and in the bytes, of one whole run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from locdiffusion.decoding.answers import Columns
from locdiffusion.photos.positions import PhotoPositions
from locdiffusion.sphere.hilbert import hilbert_index
from schemas import geoparquet
from schemas.layers import Thumbnail

WIDE_DEG = 90.0
"""Width of a region's box above which the region comes after all others."""


@dataclass(frozen=True)
class KeptRows:
    """Rows of a shard that an earlier run wrote and that stay as they are.

    Attributes:
        predictions: Table of PREDICTION_SCHEMA.
        regions: Table of REGION_SCHEMA; None if the run draws none.
        thumbnails: Thumbnails of some of the photos.
        failed: Number of these photos whose extra failed, by field of the manifest and reason.
        embeddings: Table of `embedding_schema`; None if the run keeps none.
        areas: Table of AREA_SCHEMA; None if the run writes none.
    """

    predictions: pa.Table
    regions: pa.Table | None = None
    thumbnails: tuple[Thumbnail, ...] = ()
    failed: Mapping[str, Mapping[str, int]] | None = None
    embeddings: pa.Table | None = None
    areas: pa.Table | None = None

    @cached_property
    def keys(self) -> frozenset[str]:
        """Keys of the photos."""
        return frozenset(self.predictions["key"].to_pylist())


@dataclass(frozen=True)
class EmbeddedPhotos(Columns):
    """Embeddings as they are kept, float16 ``(N, E)``, with keys, known positions, own priors."""

    keys: list[str]
    known: list[PhotoPositions]
    priors: list[str | None]
    values: np.ndarray


def spatial_order(latitude: np.ndarray, longitude: np.ndarray, keys: Sequence[str]) -> np.ndarray:
    """Orders N rows along Hilbert's curve, and at one place by key; their numbers, ``(N,)``."""
    place = hilbert_index(latitude, longitude).tolist()
    order = sorted(range(len(keys)), key=lambda row: (place[row], keys[row]))
    return np.array(order, np.int64)


def joined_predictions(kept: pa.Table, new: pa.Table) -> pa.Table:
    """Puts predictions of before among new ones; both are tables of PREDICTION_SCHEMA."""
    table = _concatenated(kept, new)
    latitude, longitude = (table[name].to_numpy() for name in ("latitude", "longitude"))
    table = table.take(spatial_order(latitude, longitude, table["key"].to_pylist()))
    latitude, longitude = (table[name].to_numpy() for name in ("latitude", "longitude"))
    metadata = geoparquet.create_metadata(longitude, latitude)
    return table.replace_schema_metadata({geoparquet.METADATA_KEY: metadata})


def joined_regions(kept: pa.Table, new: pa.Table, keys: Sequence[str]) -> pa.Table:
    """Puts regions of before among new ones.

    Args:
        kept: Table of REGION_SCHEMA.
        new: Table of REGION_SCHEMA.
        keys: Keys of all predictions in their order, which that of the regions follows.
    """
    table = _concatenated(kept, new)
    bounds = [tuple(box.values()) for box in table[geoparquet.BBOX].to_pylist()]
    place = {key: row for row, key in enumerate(keys)}
    rows = zip(bounds, table["key"].to_pylist(), strict=True)
    sorted_by = [(wide(box), place[key], row) for row, (box, key) in enumerate(rows)]
    order = [row for _, _, row in sorted(sorted_by)]
    table = table.take(pa.array(order, pa.int64()))
    wkb = table[geoparquet.GEOMETRY].to_pylist()
    metadata = geoparquet.create_polygon_metadata(wkb, [bounds[row] for row in order])
    return table.replace_schema_metadata({geoparquet.METADATA_KEY: metadata})


def joined_areas(kept: pa.Table, new: pa.Table, keys: Sequence[str]) -> pa.Table:
    """Puts areas of before among new ones.

    Args:
        kept: Table of AREA_SCHEMA.
        new: Table of AREA_SCHEMA.
        keys: Keys of all predictions in their order, which that of the areas follows.
    """
    table = _concatenated(kept, new)
    place = {key: row for row, key in enumerate(keys)}
    order = np.argsort([place[key] for key in table["key"].to_pylist()], kind="stable")
    return table.take(pa.array(order, pa.int64()))


def wide(bounds: Sequence[float]) -> bool:
    """Whether a box, west to north in degrees, would widen that of its whole row group."""
    return bounds[2] - bounds[0] > WIDE_DEG


def _concatenated(kept: pa.Table, new: pa.Table) -> pa.Table:
    parts = (kept.cast(new.schema.remove_metadata()), new.replace_schema_metadata(None))
    return pa.concat_tables(parts).combine_chunks()
