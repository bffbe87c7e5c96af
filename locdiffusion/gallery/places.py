"""Places that the hybrid may answer with: GeoCLIP's own, or a list of the user's, each embedded.

A list is CSV or (Geo)Parquet with columns `latitude` and `longitude` (or LAT and LON) in degrees.
"""

from __future__ import annotations

import io

import fsspec
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pyarrow import csv, parquet
from torch import Tensor

from locdiffusion.gallery.hybrid import HybridConfig, HybridGallery
from locdiffusion.geography.polygons import PolygonError, file_identity
from locdiffusion.model import geoclip
from locdiffusion.sphere.geodesy import wrap_longitude

OWN = "geoclip"
"""The name of GeoCLIP's gallery."""

AXES = {"latitude": ("latitude", "lat"), "longitude": ("longitude", "lon")}
"""What a column is called in a list, in capitals or not; the first that is there is taken."""

LIMITS = {"latitude": (-90.0, 90.0), "longitude": (-180.0, 360.0)}
ROWS_AT_ONCE = 2000
_PARQUET = (".parquet", ".geoparquet", ".pq")


class GalleryError(ValueError):
    """A gallery cannot be used; the message says why and what to do."""


def gallery_identity(gallery: str) -> str:
    """What a run records of its gallery: its name, or `file_identity`.

    Raises:
        GalleryError: There is no such file.
    """
    if gallery == OWN:
        return OWN
    try:
        return file_identity(gallery)
    except PolygonError as error:
        raise GalleryError(str(error)) from error


def read_gallery(gallery: str) -> NDArray[np.float64]:
    """The places of a gallery, ``(G, 2)``: latitude, longitude in [-180, 180), in degrees.

    Args:
        gallery: `geoclip` for GeoCLIP's own, or a list: a path or URL.

    Raises:
        GalleryError: The list cannot be used.
        EncoderWeightsError: GeoCLIP's package is missing.
    """
    if gallery == OWN:
        return geoclip.load_gallery().astype(np.float64)
    table = _table(gallery)
    places = np.stack([_column(table, gallery, axis) for axis in AXES], 1)
    if not len(places):
        raise GalleryError(f"the gallery {gallery} has no rows; want at least one place.")
    for degrees, (axis, (least, most)) in zip(places.T, LIMITS.items(), strict=True):
        wrong = np.flatnonzero(~((degrees >= least) & (degrees <= most)))  # NaN is wrong as well
        if len(wrong):
            raise GalleryError(
                f"the gallery {gallery} has {degrees[wrong[0]]:g} as {axis} in row {wrong[0] + 1} "
                f"({len(wrong):,} such rows of {len(places):,}); want degrees from {least:g} to "
                f"{most:g} in every row. Are the columns swapped, or projected?"
            )
    beyond = places[:, 1] >= 180.0
    places[beyond, 1] = wrap_longitude(places[beyond, 1])
    return places


def _table(path: str) -> pa.Table:
    try:
        with fsspec.open(path, "rb") as file:
            data = io.BytesIO(file.read())
        return parquet.read_table(data) if path.lower().endswith(_PARQUET) else csv.read_csv(data)
    except Exception as error:  # each file system and reader has its own kinds
        reason = " ".join(str(error).split())[:300]
        raise GalleryError(
            f"the gallery {path} cannot be read ({type(error).__name__}: {reason}); want "
            f"{OWN!r}, or a CSV or Parquet file with columns latitude and longitude."
        ) from error


def _column(table: pa.Table, path: str, axis: str) -> NDArray[np.float64]:
    """One of AXES, ``(G,)`` degrees; NaN where it is empty."""
    named = {name.lower(): name for name in reversed(table.column_names)}
    found = [named[name] for name in AXES[axis] if name in named]
    if not found:
        raise GalleryError(
            f"the gallery {path} has columns {table.column_names[:8]}; want latitude and longitude "
            "(or LAT and LON), in degrees."
        )
    column = table.column(table.column_names.index(found[0]))
    kind = column.type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise GalleryError(
            f"the column {found[0]} of the gallery {path} is {kind}; want numbers, in degrees."
        )
    degrees: NDArray[np.float64] = column.cast(pa.float64()).to_numpy()
    return degrees


def embedded_gallery(
    places: NDArray[np.float64], max_degree: int, config: HybridConfig | None = None
) -> HybridGallery:
    """Places with GeoCLIP's embeddings: about a minute for 100,000.

    Args:
        places: ``(G, 2)`` latitude, longitude in degrees.
        max_degree: L of the densities.
        config: How it is used.

    Raises:
        EncoderWeightsError: GeoCLIP's package is missing.
    """
    scale = geoclip.logit_scale()
    return HybridGallery(places, embed_places(places), scale, max_degree, config)


def embed_places(positions: NDArray[np.float64]) -> Tensor:
    """GeoCLIP's location embeddings, unit vectors ``(N, 512)``, of degrees ``(N, 2)``."""
    encoder = geoclip.location_encoder()
    parts = []
    with torch.inference_mode():
        for first in range(0, len(positions), ROWS_AT_ONCE):
            rows = torch.from_numpy(positions[first : first + ROWS_AT_ONCE].astype(np.float32))
            parts.append(torch.nn.functional.normalize(encoder(rows), dim=1))
    return torch.cat(parts) if parts else torch.zeros(0, geoclip.EMBEDDING_DIM)
