"""Fits the radii of a checkpoint to an archive; `locdiffusion calibrate`.

All temperatures are multiplied by one factor, so that the 50 % and 90 % radii hold as many truths
as they say (`coverage.fit_factor`). What that does for photos that the fit did not see is measured
by fitting on one half of the photos and looking at the other half.

What an older checkpoint lacks is added: the fingerprint of its encoder, and how alike photos of its
kind are (`locdiffusion.temperature.familiarity`). Of photos that are unlike those that it is for,
the checkpoint may know something all the same, as of pictures by another satellite. If it is better
than chance on them, the familiarity is fitted anew to the archive; else they are left out.
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
    from locdiffusion.calibrate.coverage import Factor
    from locdiffusion.calibrate.parts import LocatedDensities
    from locdiffusion.checkpoint import Checkpoint
    from locdiffusion.inference import Answerer
    from locdiffusion.model.image_encoder import ImageEncoder
    from locdiffusion.photos.embedding_cache import EmbeddedPhotos

FEWEST = 50
"""Photos with a known position that a fit wants at least."""

FAMILIARITY = {
    "fitted": "fitted on these photos",
    "kept": "as it was",
    "none": "none, as the checkpoint is no better than chance on these photos",
}

Positions = dict[str, dict[str, tuple[float, float]]]
"""Latitude and longitude in degrees by shard and key."""

ABOUT = """\
Fits the radii of a checkpoint to an archive in which some positions are known, so that
the 50 % and 90 % radii hold as many photos as they say, and writes a new checkpoint.
The points hardly move; the stated uncertainty does. An older checkpoint learns which
photos are like those it is for (the column familiarity).

examples:
  locdiffusion calibrate 'patches/*.tar' --predictions out --output MINE
  locdiffusion calibrate FOLDER --predictions FOLDER-geotags --output MINE
  locdiffusion calibrate 'scored/*.tar' --output MINE   # truth from <key>.json
  locdiffusion geotag 'patches/*.tar' --output again --checkpoint MINE
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
    group.add_argument(
        "--keep-radii", action="store_true", help="only add what an older checkpoint lacks"
    )
    group.add_argument("--purpose", metavar="TEXT", help="photos that the checkpoint is for")
    group.add_argument("--unlike", metavar="TEXT", help="what to do with photos of another kind")
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
    from locdiffusion.calibrate.coverage import Factor
    from locdiffusion.calibrate.parts import LocatedDensities
    from locdiffusion.geotagger import Geotagger
    from locdiffusion.inference import Answerer, natural_parameters

    if (options.output / checkpoint.CONFIG).exists():
        raise ValueError(f"{options.output} holds a checkpoint; give another --output.")
    tagger = Geotagger.load(options.checkpoint, encoder=options.encoder, device=options.device)
    loaded, denoiser = tagger.checkpoint, tagger.checkpoint.denoiser
    config = replace(
        loaded.config,
        purpose=options.purpose or loaded.config.purpose,
        unlike=options.unlike or loaded.config.unlike,
    )
    photos = _photos(options, tagger.encoder)
    answerer = Answerer.of_checkpoint(loaded, options.device)
    photos, found = _with_familiarity(photos, loaded, answerer)
    natural = natural_parameters(denoiser, photos.embeddings)
    everybody = LocatedDensities(photos, natural)
    before = after = _coverages(everybody, answerer, 1.0)
    factor = Factor(1.0, "--keep-radii")
    if not options.keep_radii:
        factor, after = _fitted(everybody, answerer, options.seed)
    record = {
        "photos": len(photos),
        "sha256": photos.fingerprint,
        "from": loaded.model_id,
        "factor": factor.value,
        "why": factor.why,
        "before": before,
        "other_half": after,
        "familiarity": found,
    }
    denoiser.temperatures.out.bias.add_(float(np.log(factor.value)))
    changed = replace(
        config,
        record=config.record | {"refitted": record},
        fingerprint=config.fingerprint or tagger.encoder.fingerprint,
    )
    checkpoint.save(options.output, changed, denoiser, loaded.base_measure, loaded.appearance)
    return record


def _with_familiarity(
    photos: EmbeddedPhotos, loaded: Checkpoint, answerer: Answerer
) -> tuple[EmbeddedPhotos, str]:
    """Fits the familiarity in place, if it lacks or if the checkpoint knows other photos too.

    Returns:
        The photos to fit radii on, and what was done, one of FAMILIARITY.

    Raises:
        ValueError: Too few photos are like those that the checkpoint is for.
    """
    import torch

    from locdiffusion.calibrate.fitting import better_than_chance
    from locdiffusion.calibrate.parts import LocatedDensities
    from locdiffusion.inference import natural_parameters
    from locdiffusion.temperature import TemperatureConfig

    config, temperatures = loaded.config, loaded.denoiser.temperatures
    familiarity, least = temperatures.familiarity, config.temperature.unfamiliar
    if not familiarity.known and not least:  # fitted on simulated photos, and these are real
        least = TemperatureConfig.unfamiliar
    unlike = temperatures.dissimilarity(
        torch.from_numpy(photos.embeddings).to(temperatures.mean.device)
    )
    own, strange = familiarity.quantiles, np.ones(len(photos), np.bool_)
    if familiarity.known:
        strange = familiarity(unlike).cpu().numpy() < least
    left = int(np.sum(strange))
    if least and left >= FEWEST:
        familiarity.quantiles = own[:0]  # what is known without a weight
        others = photos.take(np.flatnonzero(strange))
        natural = natural_parameters(loaded.denoiser, others.embeddings)
        if better_than_chance(LocatedDensities(others, natural), answerer):
            familiarity.fit([unlike])
            temperatures.config = replace(temperatures.config, unfamiliar=least)
            return photos, "fitted"
        familiarity.quantiles = own
    if not familiarity.known:
        return photos, "none"
    what = f"{left:,} of {len(photos):,} photos are unlike those that the checkpoint is for"
    if len(photos) - left < FEWEST:
        about = f" ({config.purpose}); {config.unlike}" if config.purpose else ""
        raise ValueError(f"{what}{about}; want at least {FEWEST} others to fit radii on.")
    if left:
        tell(f"{what}; they are left out")
    return photos.take(np.flatnonzero(~strange)), "kept"


def _coverages(densities: LocatedDensities, answerer: Answerer, factor: float) -> dict[str, float]:
    from locdiffusion.calibrate.fitting import measure

    found = measure(densities, answerer, factor)
    return {name: found[name] for name in ("coverage_50", "coverage_90", "nats")}


def _fitted(
    everybody: LocatedDensities, answerer: Answerer, seed: int
) -> tuple[Factor, dict[str, float]]:
    """Fits the factor; returns it, and the means of what it does for halves it did not see."""
    from locdiffusion.calibrate.coverage import fit_factor
    from locdiffusion.calibrate.fitting import factor_table
    from locdiffusion.calibrate.parts import LocatedDensities

    table = factor_table(everybody, answerer)
    rows = np.random.default_rng(seed).permutation(len(everybody.natural))
    crossed = []
    for fitted, other in ((rows[::2], rows[1::2]), (rows[1::2], rows[::2])):
        some = LocatedDensities(everybody.photos.take(other), everybody.natural[other])
        crossed.append(_coverages(some, answerer, fit_factor(table.take(fitted)).value))
    means = {name: float(np.mean([one[name] for one in crossed])) for name in crossed[0]}
    return fit_factor(table), means


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
    print(f"familiarity: {FAMILIARITY[record['familiarity']]}")
    print(f"checkpoint: {options.output}")
    return DONE


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return parser().run(arguments, _run, ValueError, OSError, EncoderWeightsError)
