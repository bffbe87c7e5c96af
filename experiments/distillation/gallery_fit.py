r"""Fits the temperatures to several kinds of noise, and how a gallery is mixed with the densities.

    python -m experiments.distillation.gallery_fit --checkpoint RUN/checkpoint --output FITTED

The queries are simulated with three kinds of noise (`queries.TRAINING`, `ALONG` and `CROWDED`), at
places of the gallery and far from it, so that nothing is fitted to one simulator alone. The places
of queries are taken out of the gallery, as no photo was taken at a place of the gallery itself.

1. The temperature network is fitted as by `locdiffusion train`, and all temperatures are multiplied
   by `COOLER`.
2. The numbers of `MixtureConfig` maximise the likelihood of p' = β p_G + (1 - β) p.

`--leave-out along` fits without one kind of noise and shows the radii under it.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid

from experiments.distillation.dataset import PlaceMix, simulate, true_places
from experiments.distillation.fidelity import far_places
from experiments.distillation.queries import ALONG, CROWDED, TRAINING, Ambiguity
from experiments.distillation.run import gallery_simulator
from experiments.distillation.teacher import Teacher, TeacherConfig
from locdiffusion import checkpoint
from locdiffusion.calibrate.fitting import fit_temperatures
from locdiffusion.calibrate.parts import CalibrationPart, LocatedDensities, temperature_features
from locdiffusion.config import from_dict
from locdiffusion.evaluate.metrics import coverage, within_thresholds
from locdiffusion.gallery.gallery_decoder import GalleryDecoder
from locdiffusion.gallery.place_mixture import (
    KERNELS_KM,
    LEAST_LOG_DENSITY,
    MIDDLE_SPACING_KM,
    MOST_SIMILAR,
    MixtureConfig,
    PlaceMixture,
)
from locdiffusion.gallery.places import embed_places
from locdiffusion.inference import Answerer, decode_all, natural_parameters
from locdiffusion.photos.embedding_cache import EmbeddedPhotos
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, great_circle_km

KINDS: Mapping[str, Mapping[str, Ambiguity]] = {
    "white": TRAINING,
    "along": ALONG,
    "crowded": CROWDED,
}
FAR_SHARE = 0.5
"""Queries far from the gallery for each one near it, and their weight in the fit."""

COOLER = 0.95
"""Factor on all temperatures after the fit by likelihood, whose radii are wide."""

NEAREST = 96
"""Places nearest to a truth, whose kernels count there."""

RIDGE, TURNS, BATCH = 1e-3, 25, 64
"""Penalty on the squares of gate weights and kernel slopes; turns of L-BFGS; queries at once."""

START = MixtureConfig(
    *(12.0, -1.3, 0.2, (0.0, 0.8, 0.0, -1.3), (-1.4, -0.6, 0.2, 1.8), -1.0, (0.1, 0.2, -0.7))
)


def simulated(teacher: Teacher, kind: str, count: int, seed: int) -> list[EmbeddedPhotos]:
    """Simulates queries with one kind of noise: `count` near the gallery, and some far from it."""
    rng, settings = np.random.default_rng([seed, *kind.encode()]), KINDS[kind]
    simulator, found = gallery_simulator(teacher), []
    far = far_places(teacher, int(FAR_SHARE * count), rng)
    for places in (true_places(teacher, count, PlaceMix(), rng), (far, embed_places(far))):
        parts = []
        for number, setting in enumerate(settings.values()):
            rows = slice(number, None, len(settings))
            some = places[0][rows], places[1][rows]
            made = simulate(teacher, simulator, {"": setting}, some, 0, seed + number)
            parts.append(made.as_photos())
        found.append(
            EmbeddedPhotos(
                [f"{i}-{key}" for i, part in enumerate(parts) for key in part.keys],
                np.concatenate([part.embeddings for part in parts]),
                np.concatenate([part.latitude for part in parts]),
                np.concatenate([part.longitude for part in parts]),
            )
        )
    return found


def without_truths(teacher: Teacher, parts: Sequence[EmbeddedPhotos]) -> NDArray[np.int64]:
    """Numbers of the gallery's places at which no query was simulated."""
    vectors = teacher.vectors[: teacher.gallery]
    truths = np.concatenate([part.vectors for part in parts])
    chord, nearest = cKDTree(vectors).query(truths)
    taken = nearest[chord * EARTH_RADIUS_KM < 1e-3]
    return np.setdiff1d(np.arange(teacher.gallery), taken)


def fit_all_temperatures(
    loaded: checkpoint.Checkpoint, parts: Sequence[EmbeddedPhotos], weights: Sequence[float]
) -> None:
    """Fits the temperature network of a checkpoint in place."""
    denoiser, answerer = loaded.denoiser, Answerer(loaded.decoder())
    measured = []
    for photos, weight in zip(parts, weights, strict=True):
        natural = natural_parameters(denoiser.network, photos.embeddings)
        features = temperature_features(denoiser.temperatures, photos, natural)
        densities = LocatedDensities(photos, natural, weight)
        measured.append(CalibrationPart.measure(densities, features, answerer))
    fit_temperatures(denoiser.temperatures, measured)
    denoiser.temperatures.out.bias.add_(math.log(COOLER))


@dataclass(frozen=True)
class _Table:
    """What the likelihood of N truths needs: see `PlaceMixture.weighed`.

    Attributes:
        similar, near: Similarities of the C most similar places, and log p there, ``(N, C)``.
        of_density: Features of the densities, ``(N, 2)``.
        log_p: Log p at the truths, ``(N,)``.
        which, km: Columns of the places nearest to the truths, and their distances, ``(N, M)``.
        log_spacing: Log δ of these places, ``(N, M)``.
    """

    similar: Tensor
    near: Tensor
    of_density: Tensor
    log_p: Tensor
    which: Tensor
    km: Tensor
    log_spacing: Tensor

    @classmethod
    def measure(cls, decoder: GalleryDecoder, natural: Tensor, photos: EmbeddedPhotos) -> _Table:
        """Measures N queries."""
        parts = [
            cls._batch(decoder, natural[rows, None], photos.take(rows))
            for rows in (
                np.arange(i, min(i + BATCH, len(photos))) for i in range(0, len(photos), BATCH)
            )
        ]
        return cls(*(torch.cat(columns) for columns in zip(*map(_values, parts), strict=True)))

    @classmethod
    def _batch(cls, decoder: GalleryDecoder, natural: Tensor, photos: EmbeddedPhotos) -> _Table:
        mixture = decoder.mixture
        log_density_at, of_density = decoder.seen(natural)
        similarity = torch.from_numpy(photos.embeddings) @ mixture.embeddings.T
        similar, index = similarity.topk(min(MOST_SIMILAR, similarity.shape[1]))
        near = log_density_at(index).clamp(min=LEAST_LOG_DENSITY)
        log_p = decoder.decoder.tables.log_probability(natural, photos.vectors)
        truths = torch.from_numpy(photos.vectors)[:, None]
        km = EARTH_RADIUS_KM * (mixture.vectors[index] - truths).norm(dim=2).float()
        km, which = km.topk(min(NEAREST, km.shape[1]), largest=False)
        spacing = mixture.log_spacing[index].gather(1, which)
        known = torch.from_numpy(log_p).float()
        return cls(similar, near, of_density.clone(), known, which, km, spacing)


def _values(table: _Table) -> list[Tensor]:
    return list(vars(table).values())


def log_likelihood(table: _Table, numbers: Mapping[str, Tensor]) -> Tensor:
    """Computes log p' at N truths ``(N,)`` as a function of the numbers of a `MixtureConfig`."""
    top = table.similar[:, :1]
    logit = numbers["scale"] * top ** numbers["scale_power"] * table.similar
    log_weight = log_softmax(logit + numbers["density_power"] * table.near, 1)
    agreement = torch.logsumexp(log_weight + table.near, 1, keepdim=True)
    features = torch.cat([agreement, table.of_density], 1)
    gate = features @ numbers["gate_weights"] + numbers["gate_bias"]
    slopes = (table.log_spacing - math.log(MIDDLE_SPACING_KM))[..., None]
    log_kernel = log_softmax(numbers["kernel_weights"] + slopes * numbers["kernel_slopes"], 2)
    sigma = torch.tensor(KERNELS_KM)
    height = (
        torch.log(2.0 * (EARTH_RADIUS_KM / sigma) ** 2) - (table.km[..., None] / sigma) ** 2 / 2
    )
    at_truth = torch.logsumexp(log_kernel + height, 2) + log_weight.gather(1, table.which)
    of_places = torch.logsumexp(at_truth, 1)
    return torch.logaddexp(logsigmoid(gate) + of_places, logsigmoid(-gate) + table.log_p)


def fit_mixture(tables: Sequence[_Table], weights: Sequence[float]) -> MixtureConfig:
    """Fits the numbers of a mixture by likelihood.

    Args:
        tables: Tables of the parts of the queries.
        weights: Weights of the parts.
    """
    numbers = {name: torch.tensor(value) for name, value in vars(START).items()}
    # Gates are fitted around the means of their features, where bias and weights do not correlate.
    middle = torch.cat([table.of_density for table in tables]).mean(0)
    centre = torch.cat([torch.tensor([7.0]), middle])
    numbers["gate_bias"] = numbers["gate_bias"] * 0.0
    for number in numbers.values():
        number.requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        list(numbers.values()), max_iter=TURNS, line_search_fn="strong_wolfe"
    )

    def shifted() -> dict[str, Tensor]:
        bias = numbers["gate_bias"] - centre @ numbers["gate_weights"]
        return {**numbers, "gate_bias": bias}

    def loss() -> Tensor:
        optimizer.zero_grad()
        means = [log_likelihood(table, shifted()).mean() for table in tables]
        total = -sum(w * m for w, m in zip(weights, means, strict=True)) / sum(weights)
        total = total + RIDGE * numbers["gate_weights"].square().sum()
        total = total + RIDGE * numbers["kernel_slopes"].square().sum()
        total.backward()
        return total

    optimizer.step(loss)
    values = {name: number.tolist() for name, number in shifted().items()}
    return from_dict(MixtureConfig, values)


def run(options: argparse.Namespace) -> None:
    """Simulates, fits, shows the radii under each kind of noise, and writes the checkpoint."""
    loaded = checkpoint.load(options.checkpoint)
    teacher = Teacher.of_geoclip(TeacherConfig(seed=options.seed), options.teacher)
    by_kind = {kind: simulated(teacher, kind, options.count, options.seed + 1000) for kind in KINDS}
    parts = [part for kind, pair in by_kind.items() if kind != options.leave_out for part in pair]
    weights = [1.0, FAR_SHARE] * (len(parts) // 2)
    print(f"fitting temperatures to {sum(map(len, parts)):,} queries", flush=True)
    fit_all_temperatures(loaded, parts, weights)
    kept = without_truths(teacher, [part for pair in by_kind.values() for part in pair])
    gallery = teacher.positions[kept], teacher.embeddings[torch.from_numpy(kept)]
    decoder = GalleryDecoder(loaded.decoder(), PlaceMixture(*gallery, START))
    tables = [
        _Table.measure(decoder, natural_parameters(loaded.denoiser, part.embeddings), part)
        for part in parts
    ]
    config = fit_mixture(tables, weights)
    print(config, flush=True)
    answerer = Answerer(loaded.decoder(), gallery=PlaceMixture(*gallery, config))
    shown = [options.leave_out] if options.leave_out else list(KINDS)
    for kind in shown:
        for name, part in zip(("near", "far"), by_kind[kind], strict=True):
            _show(f"{kind}, {name}", answerer, loaded, part.take(np.arange(options.shown)))
    if options.output:
        record = {"queries": sum(map(len, parts)), "seed": options.seed, "kinds": list(KINDS)}
        fitted = replace(
            loaded.config, gallery=config, record={**loaded.config.record, "gallery": record}
        )
        checkpoint.save(options.output, fitted, loaded.denoiser, loaded.base_measure)


def _show(
    name: str, answerer: Answerer, loaded: checkpoint.Checkpoint, photos: EmbeddedPhotos
) -> None:
    natural = natural_parameters(loaded.denoiser, photos.embeddings)
    for what, embeddings in (("density", None), ("with gallery", photos.embeddings)):
        answers = decode_all(answerer, natural, embeddings)
        error = great_circle_km(
            answers.latitude, answers.longitude, photos.latitude, photos.longitude
        )
        held = [coverage(error, radius) for radius in (answers.radius_50_km, answers.radius_90_km)]
        within = " / ".join(f"{100 * share:.1f}" for share in within_thresholds(error).mean(0))
        radii = " / ".join(f"{100 * (share or 0.0):.0f}" for share in held)
        print(f"{name}, {what}: {within} %, in radii {radii} %", flush=True)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.distillation.gallery_fit",
        description="Fit temperatures and the mixture with a gallery on simulated queries.",
    )
    add = parser.add_argument
    add("--checkpoint", default="geoclip-distilled", help="directory or name (%(default)s)")
    add("--output", type=Path, help="directory of the fitted checkpoint; none writes nothing")
    add("--count", type=int, default=512, help="queries near the gallery per noise (%(default)s)")
    add("--shown", type=int, default=200, help="queries per part that are decoded (%(default)s)")
    add("--leave-out", choices=list(KINDS), help="kind of noise that is not fitted, and shown")
    add("--teacher", type=Path, metavar="FILE", help="file that caches the location embeddings")
    add("--seed", type=int, default=0, help="seed of the queries (%(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    run(parse(argv))
    return 0


if __name__ == "__main__":
    sys.exit(main())
