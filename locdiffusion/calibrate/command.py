"""Fits the radii of a checkpoint to an archive; `locdiffusion calibrate`.

All temperatures are multiplied by one factor, so that the 50 % and 90 % radii hold as many truths
as they say (`coverage.fit_factor`). What that does for photos that the fit did not see is measured
by fitting on one half of the photos and looking at the other half.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from locdiffusion.cli.flags import add_flags, add_input, add_number, folder
from locdiffusion.cli.parser import DONE, Parser, positive
from locdiffusion.cli.terminal import progress_bar, tell
from locdiffusion.model.weights import EncoderWeightsError

if TYPE_CHECKING:
    from locdiffusion.model.image_encoder import ImageEncoder
    from locdiffusion.photos.embedding_cache import EmbeddedPhotos

FEWEST = 50
"""Photos with a known position that a fit wants at least."""

Positions = dict[str, dict[str, tuple[float, float]]]
"""Latitude and longitude in degrees by shard and key."""

ABOUT = """\
Fits the radii of a checkpoint to an archive in which some positions are known, so that
the 50 % and 90 % radii hold as many photos as they say, and writes a new checkpoint.
The points hardly move; the stated uncertainty does.

examples:
  locdiffusion calibrate 'photos/*.tar' --predictions out --output MINE
  locdiffusion calibrate FOLDER --predictions FOLDER-geotags --output MINE
  locdiffusion calibrate 'scored/*.tar' --output MINE   # truth from <key>.json
  locdiffusion geotag 'photos/*.tar' --output again --checkpoint MINE
"""

MORE = """\
Positions come from --predictions, which `locdiffusion geotag` wrote for these photos
(the true position where there is one, else that of the photo's EXIF; never one that
`locdiffusion write-exif` wrote); without it, from <key>.json beside each photo. Give
the same paths as to geotag, and the --checkpoint that made the predictions. At least 50 photos
with a position are needed, better 200, of the same kind as the rest of the archive.
"""


def parser() -> Parser:
    """Returns the parser of the command."""
    usage, required = "PATH ... --output DIR [flags]", ["input", "output"]
    old = {"--photos": "--input"}
    made = Parser("calibrate", usage, ABOUT, MORE, old=old, required=required)
    group = made.add_argument_group("input and output")
    add_input(group, "shards, or one folder, of photos of the archive")
    group.add_argument(
        "--predictions", type=Path, metavar="DIR", help="output of `locdiffusion geotag` for them"
    )
    add_flags(group, "--output", type=folder, help="directory of the new checkpoint")
    group = made.add_argument_group("the model")
    add_flags(group, "--checkpoint", "--encoder", "--device")
    group = made.add_argument_group("the fit")
    add_number(group, "--most", positive, 2000, "N", "use at most so many photos, drawn at random")
    add_flags(group, "--seed")
    return made


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Embeds the photos, fits the factor, measures it and writes the checkpoint.

    Args:
        options: Parsed command line.

    Returns:
        The record of the fit, as the checkpoint holds it.

    Raises:
        ValueError: Too few photos have a position, or the output is a checkpoint already.
    """
    from locdiffusion import checkpoint
    from locdiffusion.calibrate import fitting
    from locdiffusion.calibrate.coverage import fit_factor
    from locdiffusion.calibrate.parts import LocatedDensities
    from locdiffusion.geotagger import Geotagger
    from locdiffusion.inference import natural_parameters

    if (options.output / checkpoint.CONFIG).exists():
        raise ValueError(f"{options.output} holds a checkpoint; give another --output.")
    tagger = Geotagger.load(options.checkpoint, encoder=options.encoder, device=options.device)
    loaded, denoiser = tagger.checkpoint, tagger.checkpoint.denoiser
    config = loaded.config
    photos = _photos(options, tagger.encoder)
    natural = natural_parameters(denoiser, photos.embeddings)
    decoder = loaded.decoder(options.device)

    everybody = LocatedDensities(photos, natural)
    table = fitting.factor_table(everybody, decoder)

    def coverages(rows: np.ndarray, factor: float) -> dict[str, float]:
        some = LocatedDensities(photos.take(rows), natural[rows])
        found = fitting.measure(some, decoder, factor)
        return {name: found[name] for name in ("coverage_50", "coverage_90", "nats")}

    rows = np.random.default_rng(options.seed).permutation(len(photos))
    halves = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    factor = fit_factor(table)
    crossed = [coverages(halves[1 - i], fit_factor(table.take(halves[i])).value) for i in range(2)]
    record = {
        "photos": len(photos),
        "sha256": photos.fingerprint,
        "from": loaded.model_id,
        "factor": factor.value,
        "why": factor.why,
        "before": coverages(rows, 1.0),
        "other_half": {n: float(np.mean([c[n] for c in crossed])) for n in crossed[0]},
    }
    denoiser.temperatures.out.bias.add_(float(np.log(factor.value)))
    changed = replace(
        config,
        record=config.record | {"refitted": record},
        fingerprint=config.fingerprint or tagger.encoder.fingerprint,
    )
    checkpoint.save(options.output, changed, denoiser, loaded.base_measure)
    return record


def _photos(options: argparse.Namespace, encoder: ImageEncoder) -> EmbeddedPhotos:
    """Embeds at most `options.most` photos with a known position."""
    from locdiffusion.photos.embedding_cache import EmbeddedPhotos
    from locdiffusion.photos.labelled_samples import read_images, read_samples
    from locdiffusion.photos.listing import list_shards
    from locdiffusion.photos.patterns import expand_patterns

    found: list[tuple[str, bytes, float, float]] = []
    why = ""
    if options.predictions is None:
        shards = expand_patterns(options.input)
        for sample, truth in (pair for shard in shards for pair in read_samples(shard)):
            assert sample.image is not None
            found.append((sample.key, sample.image, truth.latitude, truth.longitude))
    else:
        positions = _positions(options.predictions)
        listed = list_shards(options.input, tell=tell)
        for shard in listed:
            of_shard = positions.get(shard.id, {})
            images = read_images(shard.url, shard.photos)
            found += [(key, image, *of_shard[key]) for key, image in images if key in of_shard]
        if not found and positions:
            why = (
                f" The predictions are of {min(positions)!r} and others, these photos are of "
                f"{listed[0].id!r}: give the same paths as to `locdiffusion geotag`."
            )
    if len(found) < FEWEST:
        raise ValueError(
            f"{len(found)} of these photos have a known position; want at least {FEWEST}, better "
            f"200, of the same kind as the rest of the archive.{why}"
        )
    chosen = np.sort(np.random.default_rng(options.seed).permutation(len(found))[: options.most])
    some = [found[row] for row in chosen]
    return EmbeddedPhotos(
        [key for key, *_ in some],
        _embedded([(key, image) for key, image, *_ in some], encoder),
        np.array([latitude for *_, latitude, _ in some]),
        np.array([longitude for *_, longitude in some]),
    )


def _embedded(images: Sequence[tuple[str, bytes]], encoder: ImageEncoder) -> np.ndarray:
    from locdiffusion.photos.labelled_samples import pixels_of

    parts = []
    for start in progress_bar(range(0, len(images), 64), desc="embedding", unit="batch"):
        batch = images[start : start + 64]
        pixels = [pixels_of(image, encoder, repr(key)) for key, image in batch]
        parts.append(encoder.embed(np.stack(pixels)))
    return np.concatenate(parts)


def _positions(predictions: Path) -> Positions:
    """Returns the known positions by shard and key; tells how many are estimates of ours."""
    from locdiffusion.evaluate.known_positions import POSITION_COLUMNS, known_positions
    from locdiffusion.evaluate.sources import read_predictions

    folder = predictions / "predictions"
    if not folder.is_dir():
        raise ValueError(
            f"{predictions} holds no predictions; give the output of `locdiffusion geotag`."
        )
    found: Positions = {}
    estimates = 0
    files = sorted(map(str, folder.glob("*.parquet")))
    wanted = ["key", "shard", *POSITION_COLUMNS[:2]]
    for table in read_predictions(files, wanted) if files else ():
        columns = table.to_pydict()
        places = known_positions(columns)
        estimates += int(places.estimated.sum())
        for row in np.flatnonzero(places.known):
            place = float(places.latitude[row]), float(places.longitude[row])
            found.setdefault(columns["shard"][row], {})[columns["key"][row]] = place
    if estimates:
        print(
            f"{estimates:,} photos have only a position that an earlier run wrote; they are passed "
            "over",
            file=sys.stderr,
        )
    return found


def _run(options: argparse.Namespace) -> int:
    record = run(options)
    before, after = record["before"], record["other_half"]
    print(f"{record['photos']:,} photos with a position; all temperatures x {record['factor']:.3f}")
    if record["why"]:
        told = "nothing is changed" if record["factor"] == 1.0 else "this is the last factor tried"
        print(f"{told}: {record['why']}")
    for level in ("50", "90"):
        name = f"coverage_{level}"
        print(
            f"truths within the {level} % radius: {100 * before[name]:.1f} % before, "
            f"{100 * after[name]:.1f} % after (fitted on one half, measured on the other)"
        )
    print(f"checkpoint: {options.output}")
    return DONE


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return parser().run(arguments, _run, ValueError, OSError, EncoderWeightsError)
