"""What a card shows of one photo: its geotag, its density, its truth, and the rows of text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from locdiffusion.card.album import AlbumAnswer
from locdiffusion.decoding.area_masses import Partitions, region_partition
from locdiffusion.decoding.geotag import Geotag, geotags, km_text, percent, place_text
from locdiffusion.geotagger import Geotagger
from locdiffusion.photos.capture_time import CaptureTime
from locdiffusion.photos.coordinates import Source
from locdiffusion.photos.exif import upright
from locdiffusion.photos.names import document_names
from locdiffusion.photos.picture import load_picture
from locdiffusion.photos.positions import PhotoPositions, own_capture, own_position
from locdiffusion.photos.sidecar import read_sidecar
from locdiffusion.sphere.geodesy import great_circle_km
from schemas.geotags import PROBABILITY_COLUMNS, THRESHOLDS_KM
from schemas.samples import MAX_METADATA_BYTES, Truth

SOURCES = {Source.EXIF: "EXIF", Source.XMP: "XMP"}
SOURCES |= {Source.JSON: "its JSON", Source.TAKEOUT: "Google Takeout", Source.TABLE: "its table"}
"""Sources of a true position as a card names them."""

LOST_KM = 2500.0
"""50 % radius beyond which a card says that the model does not know."""


@dataclass(frozen=True)
class Known:
    """The true position of a photo.

    Attributes:
        place: The true position.
        source: Where the true position was found, as in `SOURCES`.
        error_km: Distance from the answer to the true position in km.
    """

    place: Truth
    source: str
    error_km: float


@dataclass(frozen=True)
class AnsweredPhoto:
    """A photo, its geotag and its density.

    Attributes:
        path: Path of the photo.
        image: The photo, upright.
        geotag: Answer for the photo.
        known: True position, if the photo or its document states one.
        log_density: Computes the log density on circles around a place, see
            `inference.log_density_around`.
        about: What the checkpoint is for, in its own words; empty if it does not say.
        problem: Reason why the photo's document says nothing; empty if it does, or there is none.
        time: Time at which the photo was taken, if the photo or its document states one.
        album: What the other photos of its album say, if that was asked for.
    """

    path: Path
    image: Image.Image
    geotag: Geotag
    known: Known | None
    log_density: Callable[[tuple[float, float], NDArray[np.float64], int], NDArray[np.float64]]
    about: str
    problem: str = ""
    time: CaptureTime | None = None
    album: AlbumAnswer | None = None

    @property
    def centre(self) -> tuple[float, float]:
        """Latitude and longitude of the answer."""
        return self.geotag.latitude, self.geotag.longitude

    def rows(self) -> list[tuple[str, str]]:
        """The table of the card: pairs of a name and its value."""
        tag = self.geotag
        rows = [
            ("answer", place_text(*self.centre)),
            ("country", tag.country_text),
            ("50 % radius", km_text(tag.radius_50_km)),
            ("90 % radius", km_text(tag.radius_90_km)),
        ]
        rows += [(f"within {km:,} km", percent(p)) for km, p in self.probabilities()]
        rows.append(("information", f"{tag.information_nats:.1f} nats (0: knows nothing)"))
        if tag.familiarity is not None:
            share = percent(tag.familiarity)
            rows.append(("familiarity", f"more like training than {share} of its kind"))
        for i, mode in enumerate(tag.modes):
            where = place_text(mode.latitude, mode.longitude)
            share = f"{percent(mode.probability)} within {km_text(mode.radius_km)}"
            rows.append((f"place {i + 1}", f"{where}: {share}"))
        if self.known is not None:
            place = self.known.place
            rows.append(
                (f"truth ({self.known.source})", place_text(place.latitude, place.longitude))
            )
            rows.append(("error", f"{km_text(self.known.error_km)}, {self.verdict()}"))
        if self.time is not None:
            rows.append(("taken", f"{self.time} ({self.time.source.value})"))
        if self.album is not None:
            rows += self.album.rows()
        rows.append(("model", tag.model_id))
        return rows

    def certainty(self) -> str:
        """The radii in one line, and whether the model does not know."""
        lost = ": the model does not know" if self.geotag.radius_50_km > LOST_KM else ""
        return f"{self.geotag.radii_text}{lost}"

    def probabilities(self) -> list[tuple[int, float]]:
        """Pairs of a distance in km and the probability that the truth lies within it."""
        values = (getattr(self.geotag, name) for name in PROBABILITY_COLUMNS)
        return list(zip(THRESHOLDS_KM, values, strict=True))

    def verdict(self) -> str:
        """Whether the truth lies inside the radii."""
        assert self.known is not None
        if self.known.error_km <= self.geotag.radius_50_km:
            return "inside the 50 % radius"
        if self.known.error_km <= self.geotag.radius_90_km:
            return "inside the 90 % radius"
        return "outside the 90 % radius"

    def to_geojson(self) -> dict[str, Any]:
        """A GeoJSON Feature of the geotag, with the true position and the time if it is known."""
        feature = self.geotag.to_geojson()
        if self.time is not None:
            feature["properties"]["captured_at"] = str(self.time)
        if self.album is not None:
            feature["properties"] |= self.album.properties()
        if self.known is not None:
            feature["properties"] |= {
                "truth_latitude": self.known.place.latitude,
                "truth_longitude": self.known.place.longitude,
                "truth_source": self.known.source,
                "error_km": self.known.error_km,
            }
        return feature


def answer(geotagger: Geotagger, path: Path, about: str = "") -> AnsweredPhoto:
    """Geotags one photo and keeps its density.

    Args:
        geotagger: Geotagger that answers.
        path: Path of the photo. A document beside it may hold its true position, see
            `photos.sidecar`.
        about: What the checkpoint is for.

    Raises:
        FileNotFoundError: There is no such photo.
        ValueError: It cannot be decoded.
    """
    stored = load_picture(path)
    image = upright(stored)
    key = str(path)
    embeddings = geotagger.embed(geotagger.preprocess(image)[None])
    natural = geotagger.sample(embeddings, [key])
    columns = geotagger.decode(natural, embeddings, Partitions(region_partition()))
    [tag] = geotags(columns, [key], geotagger.model_id)

    def log_density(
        centre: tuple[float, float], distance_deg: NDArray[np.float64], bearings: int
    ) -> NDArray[np.float64]:
        circles = centre, distance_deg, bearings
        return geotagger.log_density_around(natural[0], *circles, embeddings[0])

    stated = stated_positions(path, stored)
    problem = stated.sidecar.problem if stated.sidecar else ""
    known, time = _known(stated, tag), stated.capture.time
    return AnsweredPhoto(path, image, tag, known, log_density, about, problem, time)


def stated_positions(path: Path, image: Image.Image) -> PhotoPositions:
    """Reads what a photo and the nearest document beside it say of its position and its time."""
    data = path.read_bytes()
    own, capture = own_position(data), own_capture(data)
    documents = (path.with_name(name) for name in document_names(path.name))
    for document in filter(Path.is_file, documents):
        with document.open("rb") as stream:
            sidecar = read_sidecar(document.name, stream.read(MAX_METADATA_BYTES + 1))
        return PhotoPositions(own, sidecar, capture)
    return PhotoPositions(own, own_capture=capture)


def _known(stated: PhotoPositions, tag: Geotag) -> Known | None:
    place, source = stated.truth, stated.truth_source
    if place is None:
        place, source = stated.exif, stated.exif_source
    if place is None or source is None:
        return None
    error = great_circle_km(tag.latitude, tag.longitude, place.latitude, place.longitude)
    return Known(place, SOURCES[source], float(error))
