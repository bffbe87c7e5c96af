"""Measures how close a distilled checkpoint is to GeoCLIP, and the accuracy of both.

All methods answer the same simulated queries. Their settings and their gap were not used in
training, and no choice was made on their places. The rival's scale and radius are fitted on
validation queries, as is how the gallery is mixed with our density.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pyarrow import csv
from scipy.spatial import cKDTree
from torch import Tensor, nn

from experiments.distillation import rivals
from experiments.distillation.dataset import BATCH as SIMULATED_TOGETHER
from experiments.distillation.dataset import PlaceMix, jitter, simulate, true_places
from experiments.distillation.queries import HELD_OUT, HELD_OUT_ALONG, HELD_OUT_MASKED, TRAINING
from experiments.distillation.run import gallery_simulator, photos_at, spread_out
from experiments.distillation.source import code_table, projected_exponent
from experiments.distillation.teacher import Teacher, random_land
from locdiffusion.checkpoint import Checkpoint
from locdiffusion.decoding.answers import GeotagColumns, Predictions
from locdiffusion.evaluate.bootstrap import Bootstrap
from locdiffusion.evaluate.scores import Scores, score
from locdiffusion.gallery.place_mixture import PlaceMixture
from locdiffusion.geotagger import Geotagger
from locdiffusion.model.image_encoder import ImageEncoder
from locdiffusion.photos.embedding_cache import EmbeddedPhotos
from locdiffusion.settings import GeotaggerSettings, PosteriorMode
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, unit_vectors
from schemas.geotags import THRESHOLDS_KM

FAR_KM = 50.0
BATCH = 128
ARGMAX, DECODED = "GeoCLIP, argmax", "GeoCLIP, decoded by mass"
CLOSED_FORM = "GeoCLIP's exponent, projected"
PLACE = "ours, place alone"
DENSITY, SAMPLING = "ours, density alone", "ours, density alone, sampling mode"
RULE, TOGETHER = "our rule without our density", "ours, with the gallery"


@dataclass(frozen=True)
class Split:
    """Test queries.

    Attributes:
        name: Name in tables.
        about: One line that says how the queries were made.
        photos: Embeddings and true places.
    """

    name: str
    about: str
    photos: EmbeddedPhotos


@dataclass(frozen=True)
class Fidelity:
    """Results of the measurement.

    Attributes:
        scores: Scores by split, then by method.
        kl_nats: By split, the mean KL divergence of our density from the teacher's over its places,
            and that of q₀ alone, which ignores the query.
        chosen: Settings that were fitted on validation queries.
    """

    scores: dict[str, dict[str, Scores]]
    kl_nats: dict[str, tuple[float, float]]
    chosen: dict[str, Any]


def splits(
    teacher: Teacher, lists: Mapping[str, NDArray[np.float64]], count: int, seed: int
) -> list[Split]:
    """Makes the test queries.

    Args:
        teacher: Teacher whose gallery holds the places that photos are mistaken for.
        lists: Real positions ``(N, 2)`` in degrees by name of their list.
        count: Largest number of positions taken from each list.
        seed: Seed of the selection and of the queries.
    """
    rng = np.random.default_rng([seed, 99])
    found: list[Split] = []
    lists = lists or {"gallery": _beside_the_gallery(teacher, 2 * count, rng)}
    for name, places in lists.items():
        some = places[np.sort(rng.permutation(len(places))[:count])]
        about = f"positions of {name}, held-out setting"
        found.append(Split(name, about, photos_at(teacher, HELD_OUT, some, seed + 1)))
        about = f"positions of {name}, noise of another kind"
        along = photos_at(teacher, HELD_OUT_ALONG, some, seed + 2)
        found.append(Split(f"{name}, other noise", about, along))
        about = f"positions of {name}, a third kind of noise, on which nothing was fitted"
        masked = photos_at(teacher, HELD_OUT_MASKED, some, seed + 4)
        found.append(Split(f"{name}, third noise", about, masked))
    far = far_places(teacher, count, rng)
    about = f"land at least {FAR_KM:g} km from every place of the gallery, held-out setting"
    return [*found, Split("far", about, photos_at(teacher, HELD_OUT, far, seed + 3))]


def _beside_the_gallery(
    teacher: Teacher, count: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    chosen = teacher.positions[rng.integers(0, teacher.gallery, count)]
    return jitter(chosen, PlaceMix().jitter_km, rng)


def validation(teacher: Teacher, count: int, seed: int) -> EmbeddedPhotos:
    """Makes validation queries: all training settings in equal shares, places drawn from q₀."""
    rng = np.random.default_rng([seed, 98])
    batches = math.ceil(count / (SIMULATED_TOGETHER * len(TRAINING))) * len(TRAINING)
    places = true_places(teacher, batches * SIMULATED_TOGETHER, PlaceMix(), rng)
    simulator = gallery_simulator(teacher)
    made = simulate(teacher, simulator, TRAINING, places, 0, seed + 98)
    return spread_out(made.as_photos(), count)


def far_places(teacher: Teacher, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draws places on land ``(count, 2)`` that are far from every place of the gallery."""
    tree = cKDTree(teacher.vectors[: teacher.gallery])
    found = np.zeros((0, 2))
    while len(found) < count:
        land = random_land(4 * count, rng)
        chord = tree.query(unit_vectors(land[:, 0], land[:, 1]))[0]
        far = 2.0 * np.arcsin(chord / 2.0) * EARTH_RADIUS_KM >= FAR_KM
        found = np.concatenate([found, land[far]])
    return found[:count]


class Student:
    """A distilled checkpoint that is given embeddings instead of photos.

    Args:
        checkpoint: Checkpoint that was trained on GeoCLIP's embeddings.
        teacher: Teacher with GeoCLIP's gallery.
    """

    def __init__(self, checkpoint: Checkpoint, teacher: Teacher) -> None:
        self.checkpoint = checkpoint
        self.max_degree = checkpoint.config.model.max_degree
        self._encoder = ImageEncoder(checkpoint.config.encoder, nn.Identity())
        self._geotaggers: dict[tuple[PosteriorMode, str], Geotagger] = {}
        self._places = teacher.positions[: teacher.gallery]
        self._embeddings = teacher.embeddings[: teacher.gallery]

    def geotagger(
        self, mode: PosteriorMode = PosteriorMode.DENSITY, method: str = DENSITY
    ) -> Geotagger:
        """Makes a Geotagger for embeddings instead of photos.

        Args:
            mode: How the posterior is obtained.
            method: `DENSITY` without a gallery, `TOGETHER` with GeoCLIP's, or `RULE` with the
                gallery alone: the same kernels and decision, and no density.

        Raises:
            ValueError: The checkpoint does not say how a gallery is mixed with its densities.
        """
        if (mode, method) not in self._geotaggers:  # a decoder's tables take seconds
            gallery = None
            if method != DENSITY:
                config = self.checkpoint.config.gallery
                if config is None:
                    raise ValueError("the checkpoint has no gallery; run gallery_fit on it first.")
                if method == RULE:
                    none = (0.0,) * len(config.gate_weights)
                    config = replace(config, density_power=0.0, gate_bias=50.0, gate_weights=none)
                gallery = PlaceMixture(self._places, self._embeddings, config)
            settings = GeotaggerSettings(mode=mode)
            self._geotaggers[mode, method] = Geotagger(
                self.checkpoint, self._encoder, settings, gallery
            )
        return self._geotaggers[mode, method]

    def natural(
        self, photos: EmbeddedPhotos, mode: PosteriorMode = PosteriorMode.DENSITY
    ) -> NDArray[np.float32]:
        """Computes natural parameters ``(N, K, d)``."""
        geotagger = self.geotagger(mode)
        starts = range(0, len(photos), BATCH)
        return np.concatenate(
            [
                geotagger.sample(photos.embeddings[i : i + BATCH], photos.keys[i : i + BATCH])
                for i in starts
            ]
        )

    def answers(
        self, natural: NDArray[np.float32], photos: EmbeddedPhotos, method: str = DENSITY
    ) -> Predictions:
        """Decodes densities ``(N, K, d)`` by one of the methods of `geotagger`."""
        geotagger, columns = self.geotagger(method=method), []
        for i in range(0, len(natural), BATCH):
            rows = slice(i, i + BATCH)
            columns.append(geotagger.decode(natural[rows], photos.embeddings[rows]))
        return Predictions.from_numbers(GeotagColumns.joined(columns).numbers())

    def places(self, natural: NDArray[np.float32]) -> rivals.Places:
        """Locates densities ``(N, 1, d)`` without radii."""
        return self.geotagger().locate(natural)


def measure(
    student: Student,
    teacher: Teacher,
    tests: list[Split],
    val: EmbeddedPhotos,
    sampled: int,
    report: Callable[[str], None],
) -> Fidelity:
    """Scores all methods on all splits.

    Args:
        student: Distilled checkpoint.
        teacher: GeoCLIP as teacher.
        tests: Test queries; they are measured once.
        val: Validation queries, which choose settings.
        sampled: Number of queries per split for sampling mode and for the divergence.
        report: Function that is given one line per step.
    """
    report("choosing the rival's scale and radius")
    rival = rivals.fit(teacher, val)
    scores: dict[str, dict[str, Scores]] = {}
    divergence = {}
    codes = code_table(teacher.vectors, student.max_degree)
    exponent = projected_exponent(teacher, student.max_degree)
    for split in tests:
        report(f"{split.name}: {len(split.photos):,} queries")
        photos, truth = split.photos, (split.photos.latitude, split.photos.longitude)
        natural = student.natural(photos)
        answers = {
            ARGMAX: _points(rivals.best_places(teacher, photos.embeddings)),
            DECODED: _points(rival.answer(teacher, photos.embeddings)),
            RULE: student.answers(natural, photos, RULE),
            CLOSED_FORM: student.answers(_projected(exponent, photos), photos),
            DENSITY: student.answers(natural, photos),
            PLACE: _points(student.places(natural)),
            TOGETHER: student.answers(natural, photos, TOGETHER),
        }
        scores[split.name] = {n: score(a, *truth, Bootstrap()) for n, a in answers.items()}
        some = photos.take(np.arange(min(sampled, len(photos))))
        drawn = student.natural(some, PosteriorMode.SAMPLING)
        by_samples = student.answers(drawn, some)
        scores[split.name][SAMPLING] = score(by_samples, some.latitude, some.longitude)
        divergence[split.name] = _divergence(teacher, some, natural[: len(some), 0], codes)
    chosen = {"rival": vars(rival)}
    return Fidelity(scores, divergence, chosen)


def _projected(exponent: Tensor, photos: EmbeddedPhotos) -> NDArray[np.float32]:
    """Computes natural parameters ``(N, 1, d)`` by the closed form, without training."""
    return (torch.from_numpy(photos.embeddings) @ exponent.T)[:, None].numpy()


def _points(places: rivals.Places) -> Predictions:
    nothing = np.full(len(places[0]), np.nan)
    none = np.full((len(nothing), len(THRESHOLDS_KM)), np.nan)
    return Predictions(*places, nothing, nothing, none, nothing)


def _divergence(
    teacher: Teacher, photos: EmbeddedPhotos, natural: NDArray[np.float32], codes: Tensor
) -> tuple[float, float]:
    """Computes mean KL(t ‖ p) and KL(t ‖ q₀) in nats over the teacher's places.

    Both densities have the same q₀ there, so only their exponents differ.
    """
    ours, nothing = [], []
    for i in range(0, len(photos), BATCH):
        log_t = teacher.log_posterior(torch.from_numpy(photos.embeddings[i : i + BATCH]))
        field = torch.from_numpy(natural[i : i + BATCH]) @ codes.T
        log_p = torch.log_softmax(field + teacher.log_weight, 1)
        ours.append(_expected(log_t, log_t - log_p))
        nothing.append(_expected(log_t, log_t - teacher.log_weight))
    return float(torch.cat(ours).mean()), float(torch.cat(nothing).mean())


def _expected(log_t: Tensor, values: Tensor) -> Tensor:
    return (log_t.exp() * values).sum(1)


def read_places(path: Path) -> NDArray[np.float64]:
    """Reads positions ``(N, 2)`` of a list with columns LAT and LON, as `im2gps3k_places365.csv`.

    Raises:
        ValueError: The list has no such columns.
    """
    table = csv.read_csv(path)
    if not {"LAT", "LON"} <= set(table.column_names):
        raise ValueError(f"{path} has columns {table.column_names[:8]}; want LAT and LON.")
    return np.stack([table[name].to_numpy() for name in ("LAT", "LON")], 1).astype(np.float64)
