"""Overhead trips: random ways through regions that training never saw, a patch at each stop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.albums.scores import Scored, scored
from locdiffusion.albums.album import Album
from locdiffusion.albums.evidence import FROM_ABOVE, Evidence
from locdiffusion.albums.joint import JointAlbum
from locdiffusion.albums.parameters import AlbumParameters
from locdiffusion.albums.placing import believed
from locdiffusion.density.log_partition import LOG_SPHERE_AREA_KM2
from locdiffusion.geotagger import Geotagger
from locdiffusion.inference import Answerer, log_probability
from locdiffusion.overhead.mosaics import LandMask, MosaicSource, load_land_mask, load_mosaic
from locdiffusion.overhead.patches import PatchGeometry, cut_patch, land_fraction
from locdiffusion.overhead.splits import CentreRule, Region, in_region
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, great_circle_km, latitude_longitude

Float = NDArray[np.float64]

STEP_KM, STEP_HOURS = 150.0, 24.0
"""Mean length of a step, and mean time that it takes."""

START_HOUR = 24.0 * 365.2425 * 45.0


@dataclass(frozen=True)
class Trips:
    """Trips with what the photos look like.

    Attributes:
        hours: Times of the photos, ``(T, n)``.
        vectors: Unit vectors of their places, ``(T, n, 3)``.
        natural: Natural parameters of their densities, ``(T, n, K, d)``.
        embeddings: Embeddings of the photos, ``(T, n, E)``.
    """

    hours: Float
    vectors: Float
    natural: NDArray[np.float32]
    embeddings: NDArray[np.float32]


def draw_trip(
    count: int, rng: np.random.Generator, land: LandMask, region: Region = Region.VALIDATION
) -> Float:
    """Draws the places of a trip on land inside a region of the splits, ``(count, 3)``."""
    rule, geometry = CentreRule(), PatchGeometry()

    def allowed(vector: Float) -> bool:
        latitude, longitude = (float(x) for x in latitude_longitude(vector))
        return bool(
            abs(latitude) <= rule.max_abs_latitude_deg
            and in_region(region, latitude, longitude)
            and land.at(latitude, longitude)
            and land_fraction(land, latitude, longitude, geometry) >= rule.min_land_fraction
        )

    while True:
        here = rng.normal(size=3)
        here /= np.linalg.norm(here)
        if not allowed(here):
            continue
        trip = [here]
        for _ in range(50 * count):
            # A step of two normal components of this deviation has the mean length STEP_KM.
            step = rng.normal(size=3) * STEP_KM / np.sqrt(np.pi / 2.0) / EARTH_RADIUS_KM
            there = trip[-1] + step - (step @ trip[-1]) * trip[-1]
            there /= np.linalg.norm(there)
            if allowed(there):
                trip.append(there)
            if len(trip) == count:
                return np.stack(trip)


def make_trips(geotagger: Geotagger, trips: int, photos: int, seed: int) -> Trips:
    """Draws trips, cuts a patch at each place and embeds it.

    Args:
        geotagger: Geotagger of the checkpoint for overhead pictures.
        trips: Number of trips.
        photos: Photos of each trip.
        seed: Seed of ways and times.
    """
    land, geometry = load_land_mask(), PatchGeometry()
    mosaic = load_mosaic(MosaicSource("july"), geometry.km_per_px)
    rng = np.random.default_rng(seed)
    vectors = np.stack([draw_trip(photos, rng, land) for _ in range(trips)])
    hours = START_HOUR + np.cumsum(rng.exponential(STEP_HOURS, (trips, photos)), 1)
    latitude, longitude = latitude_longitude(vectors.reshape(-1, 3))
    places = list(zip(latitude.tolist(), longitude.tolist(), strict=True))
    parts = []
    for start in range(0, len(places), 32):
        some = [cut_patch(mosaic, *place, geometry) for place in places[start : start + 32]]
        parts.append(geotagger.embed(np.stack(some)))
    embeddings = np.concatenate(parts)
    natural = geotagger.sample(embeddings, [str(i) for i in range(len(embeddings))])
    shape = (trips, photos)
    return Trips(
        hours, vectors, natural.reshape(*shape, *natural.shape[1:]), embeddings.reshape(*shape, -1)
    )


def photos_alone(geotagger: Geotagger, trips: Trips) -> Scored:
    """Scores each photo by itself, as `geotag` answers it."""
    natural = trips.natural.reshape(-1, *trips.natural.shape[2:])
    embeddings = trips.embeddings.reshape(len(natural), -1)
    vectors = trips.vectors.reshape(-1, 3)
    found = geotagger.decode(natural, embeddings)
    answerer = Answerer.of_checkpoint(geotagger.checkpoint)
    density = torch.from_numpy(natural[:, 0])
    log_p = log_probability(answerer, density, vectors, embeddings)
    return Scored(
        np.repeat(np.arange(len(trips.hours)), trips.hours.shape[1]),
        great_circle_km(found.latitude, found.longitude, *latitude_longitude(vectors)),
        found.radius_50_km,
        found.radius_90_km,
        log_p - LOG_SPHERE_AREA_KM2,
    )


def in_albums(geotagger: Geotagger, trips: Trips, share: float, seed: int) -> Scored:
    """Scores the photos of trips as albums of which a share are anchors."""
    parameters, rng, parts = AlbumParameters.load(), np.random.default_rng(seed), []
    for number, (hours, vectors) in enumerate(zip(trips.hours, trips.vectors, strict=True)):
        known = rng.random(len(hours)) < share
        places = (np.where(known, x, np.nan) for x in latitude_longitude(vectors))
        anchors, _ = believed(Album.of(hours, *places), parameters)
        likelihood = geotagger.likelihood(trips.natural[number], trips.embeddings[number])
        joint = JointAlbum(anchors, Evidence(np.arange(len(hours)), likelihood, FROM_ABOVE))
        for part in joint.densities(np.flatnonzero(~known)):
            here = vectors[part.photos]
            log_p = part.at(here[:, None])[:, 0]
            parts.append(scored(part.decision(), here, log_p, number))
    return Scored.joined(parts)


def trip_lines(geotagger: Geotagger, trips: int, photos: int, seed: int) -> list[str]:
    """Rows of a table for overhead trips, see `make_trips` for the arguments."""
    made = make_trips(geotagger, trips, photos, seed)
    return [
        photos_alone(geotagger, made).line("each photo alone"),
        in_albums(geotagger, made, 0.0, seed).line("album, no anchors"),
        in_albums(geotagger, made, 0.1, seed).line("album, 10 % anchors"),
    ]
