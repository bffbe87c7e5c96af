"""Places of a gallery with their embeddings: GeoCLIP's own places, or a list of the user's.

A list is CSV or (Geo)Parquet with columns `latitude` and `longitude` (or LAT and LON) in degrees.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from locdiffusion.gallery.place_mixture import MixtureConfig, PlaceMixture
from locdiffusion.geography.polygons import PolygonError, file_identity
from locdiffusion.model import geoclip
from locdiffusion.model.weights import GEOCLIP, split_name
from locdiffusion.photos.lists import LATITUDE, LONGITUDE, read_list
from locdiffusion.photos.storage import DataError
from locdiffusion.sphere.geodesy import wrap_longitude

OWN, NONE = "geoclip", "none"
"""The name of GeoCLIP's gallery, and that for no gallery."""

ROWS_AT_ONCE = 2000
MOST_PLACES = 1_000_000
"""Most places of a list, which take ten minutes; a kilobyte may repeat one ten million times."""


def places_for(
    gallery: str | None, encoder: str, config: MixtureConfig | None
) -> NDArray[np.float64] | None:
    """Reads the places of a checkpoint's gallery.

    Args:
        gallery: `geoclip`, the path or URL of a list, `none`, or None for the checkpoint's own
            choice: `geoclip` if it says how a gallery is mixed with its densities.
        encoder: Name of the checkpoint's encoder.
        config: How the checkpoint mixes a gallery with its densities; None if it does not say.

    Returns:
        Latitude and longitude in degrees, ``(G, 2)``; None for no gallery.

    Raises:
        DataError: The checkpoint takes no gallery, or the list cannot be used.
        EncoderWeightsError: GeoCLIP's package is missing.
    """
    if gallery is None:
        gallery = NONE if config is None else OWN
    if gallery == NONE:
        return None
    if split_name(encoder)[0] != GEOCLIP:
        raise DataError(
            f"the gallery {gallery} needs the image encoder {GEOCLIP!r}, whose embeddings its "
            f"places are compared with, and this checkpoint has {encoder!r}; choose the checkpoint "
            "geoclip-distilled, or leave the gallery out."
        )
    if config is None:
        raise DataError(
            f"the gallery {gallery} needs a checkpoint that says how places are mixed with its "
            "densities, and this one does not; choose the checkpoint geoclip-distilled, or leave "
            "the gallery out."
        )
    return read_gallery(gallery)


def embedded(
    places: NDArray[np.float64] | None, config: MixtureConfig | None
) -> PlaceMixture | None:
    """Embeds places as `places_for` gives them, which takes about a minute for 100,000."""
    if places is None or config is None:
        return None
    return PlaceMixture(places, embed_places(places), config)


def gallery_identity(gallery: str) -> str:
    """Names a gallery for the record of a run: its word, or the name and hash of the file.

    Raises:
        DataError: There is no such file.
    """
    if gallery in (OWN, NONE):
        return gallery
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


def embed_places(positions: NDArray[np.float64]) -> Tensor:
    """Embeds positions in degrees ``(N, 2)`` with GeoCLIP as unit vectors ``(N, 512)``."""
    encoder = geoclip.location_encoder()
    parts = []
    with torch.inference_mode():
        for first in range(0, len(positions), ROWS_AT_ONCE):
            rows = torch.from_numpy(positions[first : first + ROWS_AT_ONCE].astype(np.float32))
            parts.append(torch.nn.functional.normalize(encoder(rows), dim=1))
    return torch.cat(parts) if parts else torch.zeros(0, geoclip.EMBEDDING_DIM)
