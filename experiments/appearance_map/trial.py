"""The trial: maps of several sizes, their fused densities, and rivals, on validation photos.

Half of each validation set fits the gates, the other half is scored. Both halves are made of whole
cells of the Earth. No test photo is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from experiments.appearance_map.log_z import Gap, gap
from experiments.appearance_map.photos import (
    first_axes,
    first_components,
    halves,
    located,
    projection,
)
from experiments.appearance_map.timing import StepCost, time_steps
from experiments.appearance_map.training_photos import Cost, Meter, TrainingFiles, observe
from experiments.baselines.evidence import Evidence, fit_radius, fit_settings
from experiments.baselines.neighbours import NEIGHBOURS, Neighbours
from experiments.baselines.network import Budget
from locdiffusion.appearance.appearance_map import AppearanceMap
from locdiffusion.appearance.gaussian_process import Kriging, KrigingConfig
from locdiffusion.appearance.likelihood import FEATURES
from locdiffusion.appearance.model import AppearanceModel
from locdiffusion.calibrate.fitting import FIRST_WEIGHT
from locdiffusion.calibrate.fused_fitting import FusedPart, fit_likelihood, fit_radii
from locdiffusion.checkpoint import Checkpoint
from locdiffusion.decoding.answers import Predictions
from locdiffusion.decoding.fused_decoder import FusedDecoder
from locdiffusion.decoding.fused_density import Nodes
from locdiffusion.decoding.node_masses import NodeMasses
from locdiffusion.density.log_partition import LOG_SPHERE_AREA_KM2
from locdiffusion.evaluate.bootstrap import Bootstrap, Estimate
from locdiffusion.evaluate.metrics import within_thresholds
from locdiffusion.evaluate.scores import Scores, errors_km, score
from locdiffusion.inference import Answerer, predictions
from locdiffusion.photos.embedding_cache import EmbeddedPhotos, read_embedded
from locdiffusion.sphere.geodesy import latitude_longitude

DENSITY = "density alone"
THRESHOLDS, BALL, RADII_FITTED = "thresholds", "ball", "thresholds, radii fitted"
ALL_SETS, FIRST_SET = "neighbours + KDE", "neighbours + KDE, fitted on the first set"
_TIMED = 256


class BallDecoder(FusedDecoder):
    """Decides as the plain decoder does: by the mass within ρ, nearer mass counting more."""

    def answer(self, rings: NodeMasses, nodes: Nodes) -> Tensor:
        """Decides the answers ``(N, 3)``."""
        return rings.most_within(nodes.peak, self.decoder.config.radius_km)


RULES: dict[str, type[FusedDecoder]] = {THRESHOLDS: FusedDecoder, BALL: BallDecoder}


@dataclass(frozen=True)
class MapSize:
    """Size of a map.

    Attributes:
        share: Share of the training photos that it is made from.
        cell_km: Size of its cells.
        components: Number of discriminants.
    """

    share: float = 1.0
    cell_km: float = 40.0
    components: int = 64


@dataclass(frozen=True)
class MapRecord:
    """A map and its fused density, measured.

    Attributes:
        size: Size of the map.
        photos: Number of training photos.
        places: Number of places at which they were averaged.
        cells: Number of cells of the map.
        bytes: Size of its file.
        averaging: Cost of reading, projecting and averaging the photos.
        kriging: Cost of the predictions.
        fitted_nats: Log likelihood of the half that was fitted.
        constants: Fitted constants by name.
        scores: Scores by rule and set.
    """

    size: MapSize
    photos: int
    places: int
    cells: int
    bytes: int
    averaging: Cost
    kriging: Cost
    fitted_nats: float
    constants: dict[str, float]
    scores: dict[str, dict[str, Scores]]


@dataclass(frozen=True)
class Difference:
    """Paired differences of two methods on one set of photos.

    Attributes:
        within: Differences of the shares within `schemas.geotags.THRESHOLDS_KM`.
        nats: Difference of the log density at the truth.
    """

    within: tuple[Estimate, ...]
    nats: Estimate


@dataclass(frozen=True)
class Record:
    """Result of a trial.

    Attributes:
        model: Id of the checkpoint.
        machine: Processor and versions.
        fitted, scored: Number of photos of each set in both halves.
        rivals: Scores by method and set.
        maps: Maps; the first one is the one that is compared, checked and timed.
        differences: By rival and set: first map, first rule, minus the rival.
        shifts: Shifts of the exponents that fit the radii of the first map.
        log_z: Error of log Z by set.
        step: CPU time of the fused step.
    """

    model: str
    machine: dict[str, str | int | float | None]
    fitted: dict[str, int]
    scored: dict[str, int]
    rivals: dict[str, dict[str, Scores]]
    maps: list[MapRecord]
    differences: dict[str, dict[str, Difference]]
    shifts: tuple[float, float]
    log_z: dict[str, Gap]
    step: StepCost


class Trial:
    """The photos of a trial and the methods that are tried on them."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        training: TrainingFiles,
        validation: Mapping[str, Sequence[Path]],
        photos_per_set: int,
        say: Callable[[str], object] = print,
    ) -> None:
        """Reads and decodes the validation photos.

        Args:
            checkpoint: Checkpoint whose density and discriminants are used.
            training: Files of the training photos.
            validation: Files of each validation set, that of the training regions first.
            photos_per_set: Largest number of photos in a half of a set.
            say: Receives a line of text about each step.
        """
        self.checkpoint, self.training, self.say = checkpoint, training, say
        self.decoder = checkpoint.decoder()
        self.embedded: dict[str, tuple[EmbeddedPhotos, EmbeddedPhotos]] = {}
        self.fitted: dict[str, FusedPart] = {}
        self.scored: dict[str, FusedPart] = {}
        for name, files in validation.items():
            photos = read_embedded(files)
            parts = [photos.take(_some(rows, photos_per_set)) for rows in halves(photos.vectors)]
            self.embedded[name] = (parts[0], parts[1])
            self.fitted[name] = located(checkpoint, parts[0])
            self.scored[name] = located(checkpoint, parts[1])
            say(f"{name}: {len(parts[0])} photos to fit with, {len(parts[1])} to score")

    def density(self) -> dict[str, Predictions]:
        """Answers the scored photos with the density alone."""
        return {
            name: predictions(Answerer(self.decoder), photos.natural, photos.truth)
            for name, photos in self.scored.items()
        }

    def neighbours(self) -> dict[str, dict[str, Predictions]]:
        """Answers the scored photos with kernels around their nearest training photos.

        Returns:
            Answers by set under two names: with settings that were fitted on all sets, the first
            one with the weight that it has for us, and with those of the first set alone.
        """
        train = read_embedded([*self.training.plain, *self.training.augmented])
        rival = Neighbours(NEIGHBOURS)
        fitted = [pair[0] for pair in self.embedded.values()]
        rival.fit(train, fitted[0], Budget())
        rival.count = max(NEIGHBOURS)
        known = [rival.evidence(photos) for photos in fitted]
        asked = {name: rival.evidence(pair[1]) for name, pair in self.embedded.items()}
        often = [0] * round(FIRST_WEIGHT) + list(range(1, len(fitted)))
        found = {}
        for label, rows in ((ALL_SETS, often), (FIRST_SET, [0])):
            evidence = _joined_evidence([known[row] for row in rows])
            truth = np.concatenate([fitted[row].vectors for row in rows])
            choices = {k: fit_settings(evidence.heaviest(k), truth) for k in NEIGHBOURS}
            count = min(choices, key=lambda k: choices[k][1])
            settings = choices[count][0]
            radius = fit_radius(evidence.heaviest(count).mixture(settings), truth)
            self.say(f"{label}: {count} neighbours, {settings}, radius {radius:g} km")
            found[label] = {
                name: evidence.heaviest(count)
                .mixture(settings)
                .predictions(self.embedded[name][1].vectors, radius)
                for name, evidence in asked.items()
            }
        return found

    def fused(
        self, size: MapSize, config: KrigingConfig, rules: Sequence[str], file: Path
    ) -> tuple[FusedDecoder, MapRecord, dict[str, dict[str, Predictions]]]:
        """Makes a map, fits its likelihood and answers the scored photos.

        Args:
            size: Size of the map.
            config: Settings of the Gaussian process.
            rules: Names of the rules of the answers, of `RULES`.
            file: File to which the map is written.
        """
        project = first_axes(projection(self.checkpoint), size.components)
        with Meter() as averaging:
            observed = observe(self.training, project, config, size.share)
        with Meter() as kriging:
            made = AppearanceMap.fit(Kriging(observed, config), size.cell_km)
        written = made.save(file)
        self.say(
            f"map of {observed.photos:,} photos at {len(observed.vectors):,} places: "
            f"{len(made.held):,} cells of {size.cell_km:g} km, {written / 1e6:.1f} MB"
        )
        model = AppearanceModel(made)
        decoders = {rule: RULES[rule](self.decoder, model) for rule in rules}
        fused = decoders[rules[0]]
        nats = fit_likelihood(fused, self._weighted(size.components))[-1]
        self.say(f"  likelihood fitted: {nats:.3f} nats")
        found = {rule: self._answers(decoder) for rule, decoder in decoders.items()}
        scores = {rule: self.score(answers) for rule, answers in found.items()}
        record = MapRecord(
            size,
            observed.photos,
            len(observed.vectors),
            len(made.held),
            written,
            averaging.cost,
            kriging.cost,
            nats,
            constants(fused),
            scores,
        )
        return fused, record, found

    def _answers(self, fused: FusedDecoder) -> dict[str, Predictions]:
        """Answers the scored photos."""
        found, components = {}, fused.density.lookup.components
        for name, photos in self.scored.items():
            some = first_components(photos, components)
            inputs = some.natural[:, None], some.appearance, some.trust
            nats = fused.log_probability(*inputs, some.truth) - LOG_SPHERE_AREA_KM2
            numbers = {**fused(*inputs).numbers(), "log_density_km2": nats}
            found[name] = Predictions.from_numbers(numbers)
        return found

    def with_radii(
        self, fused: FusedDecoder, record: MapRecord
    ) -> tuple[MapRecord, tuple[float, float]]:
        """Fits the radii in place, and adds the scores that follow to the record of a map.

        Returns:
            The record, and the shifts d₀ and d₁ of `calibrate.fused_fitting`.
        """
        shifts = fit_radii(fused, self._weighted(record.size.components))
        self.say(f"  radii fitted: shifts {shifts[0]:.3f} and {shifts[1]:.3f}")
        scores = self.score(self._answers(fused))
        return replace(record, scores={**record.scores, RADII_FITTED: scores}), shifts

    def _weighted(self, components: int) -> list[FusedPart]:
        """Lists the photos to fit with, each set with its weight."""
        return [
            replace(first_components(part, components), weight=1.0 if i else FIRST_WEIGHT)
            for i, part in enumerate(self.fitted.values())
        ]

    def score(self, answers: Mapping[str, Predictions]) -> dict[str, Scores]:
        """Scores answers to the scored photos."""
        return {
            name: score(found, *_truth(self.scored[name]), reliability=False)
            for name, found in answers.items()
        }

    def difference(
        self, ours: Mapping[str, Predictions], rival: Mapping[str, Predictions]
    ) -> dict[str, Difference]:
        """Compares answers of two methods to the same photos."""
        found = {}
        for name, photos in self.scored.items():
            truth = _truth(photos)
            hits = [
                within_thresholds(errors_km(answers[name], *truth)).astype(float)
                for answers in (ours, rival)
            ]
            gain = ours[name].log_density_km2 - rival[name].log_density_km2
            estimates = Bootstrap().mean_estimates(np.column_stack([hits[0] - hits[1], gain]))
            found[name] = Difference(estimates[:-1], estimates[-1])
        return found

    def log_z(self, fused: FusedDecoder, checked: int) -> dict[str, Gap]:
        """Compares log Z with a dense grid on some photos of each set."""
        return {name: gap(fused, photos.thinned(checked)) for name, photos in self.scored.items()}

    def step(self, fused: FusedDecoder) -> StepCost:
        """Times the fused step on photos of the first set."""
        name = next(iter(self.scored))
        photos, embedded = self.scored[name], self.embedded[name][1]
        rows = np.arange(min(_TIMED, len(embedded)))
        return time_steps(self.checkpoint, fused, photos.take(rows), embedded.embeddings[rows])


def constants(fused: FusedDecoder) -> dict[str, float]:
    """Lists the fitted constants and the weights of the gates by name."""
    likelihood = fused.density.likelihood
    found = {name: float(value) for name, value in likelihood.named_parameters() if not value.ndim}
    for row, exponent in enumerate(("log_a", "log_b")):
        found[exponent] = float(likelihood.gates.bias[row])
        for column, feature in enumerate(FEATURES):
            found[f"{exponent}.{feature}"] = float(likelihood.gates.weight[row, column])
    return found


def sizes_of(
    photos: int, counts: Sequence[int], cells: Sequence[float], components: Sequence[int]
) -> list[MapSize]:
    """Lists the maps of a trial: one with the first of everything, and one for each other value.

    Args:
        photos: Number of all training photos; the first map takes all.
        counts: Other numbers of training photos; those that are too large are left out.
        cells: Sizes of cells in km.
        components: Numbers of discriminants.
    """
    first = MapSize(1.0, cells[0], components[0])
    smaller = [replace(first, share=count / photos) for count in counts if count < photos]
    others = [replace(first, cell_km=cell) for cell in cells[1:]]
    return [first, *smaller, *others, *[replace(first, components=c) for c in components[1:]]]


def _joined_evidence(parts: Sequence[Evidence]) -> Evidence:
    return Evidence(
        np.concatenate([part.points for part in parts]),
        np.concatenate([part.logits for part in parts]),
        np.concatenate([part.kappa for part in parts]),
    )


def _some(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Takes evenly spaced rows, at most so many."""
    return rows if len(rows) <= most else rows[np.arange(most) * len(rows) // most]


def _truth(photos: FusedPart) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return latitude_longitude(photos.truth)
