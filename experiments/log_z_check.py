r"""Measures the error of log Z: the quadratures of decoder and loss against a much denser grid.

A density whose log Z is too small has too large a likelihood. A network that learned to hide mass
from the quadrature would be noticed only here. The dense grid is a Gauss-Legendre product grid with
at least `DENSER` times the nodes of the decoder's. It is visited in blocks of rows, so that memory
stays small. Fields are in float32 (about 1e-5 nats), sums in float64. q₀ is evaluated at each node,
as it is for the density of a point.

    python -m experiments.log_z_check --photos 'DATA/val/*.tar' --train 'DATA/train/*.tar' \
      --embeddings CACHE --output log_z.json
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from locdiffusion.checkpoint import Checkpoint
from locdiffusion.config import from_dict
from locdiffusion.decoding.tables import DecoderTables
from locdiffusion.density.base_measure import BaseMeasure
from locdiffusion.density.log_partition import LogPartition, PartitionConfig
from locdiffusion.density.shdd import max_degree_of
from locdiffusion.density.transforms import ProductTransform
from locdiffusion.inference import natural_parameters
from locdiffusion.photos.embedding_cache import EmbeddedPhotos
from locdiffusion.sphere.grids import LatLonGrid, gauss_legendre_grid
from locdiffusion.train.recipe import TrainConfig

DENSER = 50
_NODES_AT_ONCE, _VALUES_AT_ONCE = 100_000, 4_000_000


@dataclass(frozen=True)
class NormalisationGap:
    """Difference of log Z between a quadrature and the dense grid, over many densities.

    Attributes:
        densities: Number of densities.
        mean_nats, max_nats: Mean and largest absolute difference in nats.
        bias_nats: Mean signed difference in nats; below 0 the quadrature misses mass.
        nodes: Number of nodes of the dense grid.
        times_denser: Nodes of the dense grid divided by those of the grid under test.
    """

    densities: int
    mean_nats: float
    max_nats: float
    bias_nats: float
    nodes: int
    times_denser: float


@torch.inference_mode()
def dense_log_partition(
    natural: Tensor, rows: int, base_measure: BaseMeasure | None = None
) -> NDArray[np.float64]:
    """Computes log Z = log (1/4π) ∫ q₀ exp F dΩ on a grid of `rows` × 2·`rows` nodes.

    Args:
        natural: Natural parameters, shape ``(N, d)``.
        rows: Number of rows of the grid.
        base_measure: Base measure q₀; None is the uniform measure.

    Returns:
        Log Z in nats, shape ``(N,)``.
    """
    max_degree = max_degree_of(natural.shape[-1])
    grid = gauss_legendre_grid(rows, 2 * rows)
    block = max(1, _NODES_AT_ONCE // (2 * rows))
    log_z = np.full(len(natural), -np.inf)
    for first in range(0, rows, block):
        part = slice(first, first + block)
        band = LatLonGrid(grid.cos_theta[part], grid.longitude, grid.row_weight[part])
        transform = ProductTransform(band, max_degree).to(natural.device)
        log_weight = transform.row_weight.log()[:, None].expand(-1, 2 * rows).flatten()
        if base_measure is not None:
            log_weight = log_weight + base_measure(transform.nodes.to(base_measure.log_weight)).to(
                log_weight
            )
        at_once = max(1, _VALUES_AT_ONCE // len(log_weight))
        for i in range(0, len(natural), at_once):
            field = transform.synthesis(natural[i : i + at_once]).flatten(1) + log_weight
            highest = field.amax(1, keepdim=True)
            mass = (field - highest).exp_().sum(1, dtype=torch.float64)
            in_band = (mass.log() + highest.squeeze(1)).cpu().numpy()
            log_z[i : i + at_once] = np.logaddexp(log_z[i : i + at_once], in_band)
    return log_z - math.log(4.0 * math.pi)


def decoder_gap(
    tables: DecoderTables, natural: Tensor, rows: int | None = None, batch: int = 64
) -> NormalisationGap:
    """Compares the decoder's log Z, over the base measure of the answers, with the dense grid's.

    Args:
        tables: Tables of the decoder.
        natural: Calibrated natural parameters ``(N, d)``.
        rows: Rows of the dense grid; None takes `DENSER` times the decoder's nodes.
        batch: How many densities the decoder normalises at once.
    """
    rows = rows or denser_rows(tables.grid)
    natural = natural.to(tables.grid.nodes)
    dense = dense_log_partition(natural, rows, tables.base_measure)
    parts = natural[:, None].split(batch)
    found = torch.cat([tables.log_normaliser(part)[:, 0] for part in parts])
    return _gap(found.cpu().double().numpy(), dense, rows, len(tables.grid.nodes))


@torch.inference_mode()
def training_gap(
    partition: LogPartition,
    natural: Tensor,
    truth: NDArray[np.float64],
    rows: int | None = None,
    seed: int = 0,
    batch: int = 64,
) -> NormalisationGap:
    """Measures the log Z of the loss, which uses the true points and shifts its grid at random.

    Args:
        partition: Quadrature of the loss, with the base measure of the training.
        natural: Natural parameters of the network, not calibrated, shape ``(N, d)``.
        truth: True points as unit vectors, shape ``(N, 3)``.
        rows: Rows of the dense grid; by default it has `DENSER` times the nodes of the loss's.
        seed: Seed of the shifts; each batch has another shift, as in training.
        batch: Number of densities that the loss takes at once.
    """
    grid = partition.grids[0]
    assert isinstance(grid, ProductTransform)
    rows = rows or denser_rows(grid)
    dense = dense_log_partition(natural, rows, partition.base_measure)
    generator = torch.Generator().manual_seed(seed)
    points = torch.from_numpy(truth).to(natural)
    found = [
        partition(natural[i : i + batch], points[i : i + batch], generator).cpu().double().numpy()
        for i in range(0, len(natural), batch)
    ]
    return _gap(np.concatenate(found), dense, rows, len(grid.nodes))


def denser_rows(grid: ProductTransform) -> int:
    """Computes the rows of a grid of `rows` × 2·`rows` with at least `DENSER` times the nodes."""
    return math.ceil(math.sqrt(DENSER * grid.rows * grid.columns / 2.0))


def _gap(
    found: NDArray[np.float64], dense: NDArray[np.float64], rows: int, nodes: int
) -> NormalisationGap:
    difference = found - dense
    return NormalisationGap(
        densities=len(difference),
        mean_nats=float(np.abs(difference).mean()),
        max_nats=float(np.abs(difference).max()),
        bias_nats=float(difference.mean()),
        nodes=2 * rows**2,
        times_denser=2 * rows**2 / nodes,
    )


def measure(
    checkpoint: Checkpoint, photos: EmbeddedPhotos, train: EmbeddedPhotos | None = None
) -> dict[str, Any]:
    """Measures both gaps of a checkpoint.

    Args:
        checkpoint: Checkpoint; its answers are calibrated, its network is taken as trained.
        photos: Photos with truth.
        train: Training photos, which give the base measure of the loss; None takes that of the
            answers.

    Returns:
        `NormalisationGap` of ``answers`` and ``loss`` as dictionaries.
    """
    config = checkpoint.config
    degree, recipe = config.model.max_degree, config.record.get("recipe", {})
    answers = natural_parameters(checkpoint.denoiser, photos.embeddings)
    base_measure = checkpoint.base_measure
    if train is not None:
        settings = from_dict(TrainConfig, recipe).base_measure
        base_measure = settings.build(settings.training, train.vectors)
    partition = LogPartition(
        degree, from_dict(PartitionConfig, recipe.get("partition", {})), base_measure
    )
    trained = natural_parameters(checkpoint.network, photos.embeddings)
    return {
        "model": checkpoint.model_id,
        "answers": asdict(decoder_gap(checkpoint.decoder().tables, answers)),
        "loss": asdict(training_gap(partition, trained, photos.vectors)),
    }


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.log_z_check",
        description="Compare a checkpoint's log Z with a grid of at least 50 times as many nodes.",
    )
    add = parser.add_argument
    add("--photos", nargs="+", required=True, metavar="GLOB", help="shards of photos with truth")
    add(
        "--train",
        nargs="+",
        metavar="GLOB",
        help="training shards, for the base measure of the loss",
    )
    add(
        "--embeddings",
        type=Path,
        required=True,
        metavar="DIR",
        help="directory of cached embeddings",
    )
    add("--output", type=Path, required=True, metavar="FILE", help="JSON file to write")
    add("--checkpoint", help="directory or name of a checkpoint (default: the shipped one)")
    add(
        "--limit",
        type=int,
        default=200,
        help="number of photos, the first ones (default %(default)s)",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = parse(argv)
    from locdiffusion.checkpoint import CheckpointError, load
    from locdiffusion.model.image_encoder import load_image_encoder
    from locdiffusion.photos.embedding_cache import load_photos
    from locdiffusion.photos.patterns import expand_patterns
    from locdiffusion.photos.storage import DataError

    try:
        checkpoint = load(options.checkpoint)
        encoder = load_image_encoder(checkpoint.config.encoder.name)
        photos = load_photos(expand_patterns(options.photos), encoder, options.embeddings)
        few = photos.take(np.arange(min(options.limit, len(photos))))
        train = None
        if options.train:
            train = load_photos(expand_patterns(options.train), encoder, options.embeddings)
        found = measure(checkpoint, few, train)
    except (CheckpointError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name in ("answers", "loss"):
        gap = found[name]
        print(
            f"log Z of the {name}: off by {gap['mean_nats']:.4f} nats on average, "
            f"{gap['max_nats']:.3f} at most, against {gap['times_denser']:.0f} times the nodes "
            f"({gap['densities']} densities)"
        )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
