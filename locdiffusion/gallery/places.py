"""Places that the hybrid may answer with: GeoCLIP's own, or a list of the user's, each embedded.

A list is CSV or (Geo)Parquet with columns `latitude` and `longitude` (or LAT and LON) in degrees.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from locdiffusion.gallery.hybrid import HybridConfig, HybridGallery
from locdiffusion.geography.polygons import PolygonError, file_identity
from locdiffusion.model import geoclip
from locdiffusion.photos.lists import LATITUDE, LONGITUDE, read_list
from locdiffusion.photos.storage import DataError
from locdiffusion.sphere.geodesy import wrap_longitude

OWN = "geoclip"
"""The name of GeoCLIP's gallery."""

ROWS_AT_ONCE = 2000


def gallery_identity(gallery: str) -> str:
    """What a run records of its gallery: its name, or `file_identity`.

    Raises:
        DataError: There is no such file.
    """
    if gallery == OWN:
        return OWN
    try:
        return file_identity(gallery)
    except PolygonError as error:
        raise DataError(str(error)) from error


def read_gallery(gallery: str) -> NDArray[np.float64]:
    """The places of a gallery, ``(G, 2)``: latitude, longitude in [-180, 180), in degrees.

    Args:
        gallery: `geoclip` for GeoCLIP's own, or a list: a path or URL.

    Raises:
        DataError: The list cannot be used.
        EncoderWeightsError: GeoCLIP's package is missing.
    """
    if gallery == OWN:
        return geoclip.load_gallery().astype(np.float64)
    rows = read_list(gallery)
    if not len(rows):
        raise DataError(f"the gallery {gallery} has no rows; want at least one place.")
    places = np.stack([rows.degrees(LATITUDE, -90, 90), rows.degrees(LONGITUDE, -180, 360)], 1)
    beyond = places[:, 1] >= 180.0
    places[beyond, 1] = wrap_longitude(places[beyond, 1])
    return places


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
