"""Places of a gallery with their embeddings: GeoCLIP's own places, or a list of the user's.

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
from locdiffusion.model.weights import GEOCLIP, split_name
from locdiffusion.photos.lists import LATITUDE, LONGITUDE, read_list
from locdiffusion.photos.storage import DataError
from locdiffusion.sphere.geodesy import wrap_longitude

OWN = "geoclip"
"""The name of GeoCLIP's gallery."""

ROWS_AT_ONCE = 2000
MOST_PLACES = 1_000_000
"""Most places of a list, which take ten minutes; a kilobyte may repeat one ten million times."""


def places_for(gallery: str, encoder: str) -> NDArray[np.float64]:
    """Reads the places of a gallery, if an encoder's embeddings can be compared with places.

    Args:
        gallery: `geoclip`, or the path or URL of a list.
        encoder: Name of the encoder.

    Raises:
        DataError: It is another encoder than GeoCLIP's, or the list cannot be used.
    """
    if split_name(encoder)[0] != GEOCLIP:
        raise DataError(
            f"the gallery {gallery} needs the image encoder {GEOCLIP!r}, whose embeddings its "
            f"places are compared with, and this checkpoint has {encoder!r}; choose the checkpoint "
            "geoclip-distilled, or leave the gallery out."
        )
    return read_gallery(gallery)


def gallery_identity(gallery: str) -> str:
    """Names a gallery for the record of a run: `geoclip`, or the name and hash of the file.

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
    """Reads the places of a gallery.

    Args:
        gallery: `geoclip` for GeoCLIP's own, or the path or URL of a list.

    Returns:
        Latitude and longitude in degrees, the latter in [-180, 180), ``(G, 2)``.

    Raises:
        DataError: The list cannot be used.
        EncoderWeightsError: GeoCLIP's package is missing.
    """
    if gallery == OWN:
        return geoclip.load_gallery().astype(np.float64)
    rows = read_list(gallery)
    if not len(rows):
        raise DataError(f"the gallery {gallery} has no rows; want at least one place.")
    if len(rows) > MOST_PLACES:
        raise DataError(
            f"the gallery {gallery} has {len(rows):,} places; want at most {MOST_PLACES:,}, such "
            "as the centres of the cells that hold photos."
        )
    places = np.stack([rows.degrees(LATITUDE, -90, 90), rows.degrees(LONGITUDE, -180, 360)], 1)
    beyond = places[:, 1] >= 180.0
    places[beyond, 1] = wrap_longitude(places[beyond, 1])
    return places


def embedded_gallery(
    places: NDArray[np.float64], max_degree: int, config: HybridConfig | None = None
) -> HybridGallery:
    """Embeds places with GeoCLIP's location encoder; takes about a minute for 100,000.

    Args:
        places: Latitude and longitude in degrees, ``(G, 2)``.
        max_degree: Degree L of the densities.
        config: How the gallery is used.

    Raises:
        EncoderWeightsError: GeoCLIP's package is missing.
    """
    scale = geoclip.logit_scale()
    return HybridGallery(places, embed_places(places), scale, max_degree, config)


def embed_places(positions: NDArray[np.float64]) -> Tensor:
    """Embeds positions in degrees ``(N, 2)`` with GeoCLIP as unit vectors ``(N, 512)``."""
    encoder = geoclip.location_encoder()
    parts = []
    with torch.inference_mode():
        for first in range(0, len(positions), ROWS_AT_ONCE):
            rows = torch.from_numpy(positions[first : first + ROWS_AT_ONCE].astype(np.float32))
            parts.append(torch.nn.functional.normalize(encoder(rows), dim=1))
    return torch.cat(parts) if parts else torch.zeros(0, geoclip.EMBEDDING_DIM)
