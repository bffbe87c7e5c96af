r"""Fits the radii of a checkpoint to an archive, on those of its photos whose position is known.

    python -m pipelines.geotag --input 'photos/*.tar' --output out
    python -m locdiffusion.calibrate --photos 'photos/*.tar' --predictions out --output MINE
    python -m pipelines.geotag --input 'photos/*.tar' --output again --checkpoint MINE

All temperatures are multiplied by one factor, so that the 50 % and 90 % radii hold as many truths
as they say (`calibration.fit_factor`). What that does for photos that the fit did not see is
measured first, by fitting on one half and looking at the other.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from locdiffusion.model.image_encoder import ImageEncoder
    from locdiffusion.photos.embedding_cache import EmbeddedPhotos

FEWEST = 50
"""Photos with a known position that a fit wants at least."""

Positions = dict[str, tuple[float, float]]

EPILOG = """examples:
  python -m locdiffusion.calibrate --photos 'photos/*.tar' --predictions out --output MINE
  python -m locdiffusion.calibrate --photos FOLDER --predictions out --output MINE
  python -m locdiffusion.calibrate --photos 'scored/*.tar' --output MINE   # truth from <key>.json

positions come from --predictions, what pipelines.geotag wrote for these photos: the true position
where there is one, else that of the photo's EXIF. The points hardly move; the stated
uncertainty does.
"""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line to settings."""
    parser = argparse.ArgumentParser(
        prog="python -m locdiffusion.calibrate",
        description="Fit the radii of a checkpoint to an archive with some known positions.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--photos", nargs="+", required=True, metavar="PATH", help="shards, or one folder")
    add("--predictions", type=Path, metavar="DIR", help="output of pipelines.geotag for them")
    add("--checkpoint", metavar="PATH", help="default: the one that is shipped")
    add("--output", required=True, type=Path, metavar="DIR", help="the new checkpoint")
    add("--most", type=int, default=2000, help="photos used, drawn at random (%(default)s)")
    add("--device", default="cpu", help="cpu, cuda, cuda:1 ... (%(default)s)")
    add("--seed", type=int, default=0, help="of the draw and the halves (%(default)s)")
    return parser.parse_args(argv)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Embeds, fits, measures, writes; returns what is recorded in the checkpoint.

    Raises:
        ValueError: Too few photos have a position, or the output is a checkpoint already.
    """
    from locdiffusion import checkpoint
    from locdiffusion.calibrate import fitting
    from locdiffusion.calibrate.parts import LocatedDensities
    from locdiffusion.inference import natural_parameters
    from locdiffusion.model.image_encoder import load_image_encoder

    if (options.output / checkpoint.CONFIG).exists():
        raise ValueError(f"{options.output} holds a checkpoint; give another --output.")
    loaded = checkpoint.load(options.checkpoint)
    config = loaded.config
    encoder = load_image_encoder(config.encoder.name, options.device)
    photos = _photos(options, encoder)
    denoiser = loaded.denoiser.to(options.device)
    natural = natural_parameters(denoiser, photos.embeddings)
    decoder = loaded.decoder(options.device)

    def densities(rows: np.ndarray) -> LocatedDensities:
        return LocatedDensities(photos.take(rows), natural[rows])

    def fit(rows: np.ndarray) -> float:
        return fitting.fit_factor(densities(rows), decoder)

    def coverages(rows: np.ndarray, factor: float) -> dict[str, float]:
        found = fitting.measure(densities(rows), decoder, factor)
        return {name: found[name] for name in ("coverage_50", "coverage_90", "nats")}

    rows = np.random.default_rng(options.seed).permutation(len(photos))
    halves = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    factor = fit(rows)
    crossed = [coverages(halves[1], fit(halves[0])), coverages(halves[0], fit(halves[1]))]
    record = {
        "photos": len(photos),
        "sha256": photos.fingerprint,
        "from": loaded.model_id,
        "factor": factor,
        "before": coverages(rows, 1.0),
        "other_half": {n: float(np.mean([c[n] for c in crossed])) for n in crossed[0]},
    }
    denoiser.temperatures.out.bias.add_(float(np.log(factor)))
    changed = replace(config, record=config.record | {"refitted": record})
    checkpoint.save(options.output, changed, denoiser, loaded.base)
    return record


def _photos(options: argparse.Namespace, encoder: ImageEncoder) -> EmbeddedPhotos:
    """At most `options.most` photos with a position, embedded."""
    from locdiffusion.photos.embedding_cache import EmbeddedPhotos
    from locdiffusion.photos.labelled_samples import read_images, read_samples
    from locdiffusion.photos.listing import expand_patterns

    shards = expand_patterns(options.photos)
    found: list[tuple[str, bytes, float, float]] = []
    if options.predictions is None:
        for sample, truth in (pair for shard in shards for pair in read_samples(shard)):
            assert sample.image is not None
            found.append((sample.key, sample.image, truth.latitude, truth.longitude))
    else:
        positions = _positions(options.predictions)
        images = (pair for shard in shards for pair in read_images(shard))
        found = [(key, image, *positions[key]) for key, image in images if key in positions]
    if len(found) < FEWEST:
        raise ValueError(
            f"{len(found)} of these photos have a known position; want at least {FEWEST}, better "
            "200, of the same kind as the rest of the archive."
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
    from tqdm import tqdm

    from locdiffusion.photos.labelled_samples import pixels_of

    parts = []
    for start in tqdm(range(0, len(images), 64), desc="embedding", unit="batch", file=sys.stderr):
        batch = images[start : start + 64]
        pixels = [pixels_of(image, encoder, repr(key)) for key, image in batch]
        parts.append(encoder.embed(np.stack(pixels)))
    return np.concatenate(parts)


def _positions(predictions: Path) -> Positions:
    """Known positions by key: the truth, else the EXIF's."""
    import pyarrow.parquet as pq

    folder = predictions / "predictions"
    if not folder.is_dir():
        raise ValueError(
            f"{predictions} holds no predictions; give the output of pipelines.geotag."
        )
    kinds = ("truth", "exif")
    names = [f"{kind}_{axis}" for kind in kinds for axis in ("latitude", "longitude")]
    found: Positions = {}
    for row in pq.read_table(folder, columns=["key", *names]).to_pylist():
        for kind in kinds:
            position = row[f"{kind}_latitude"], row[f"{kind}_longitude"]
            if None not in position:
                found[row["key"]] = position
                break
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = parse(argv)
    from locdiffusion.model.image_encoder import EncoderWeightsError

    try:
        record = run(options)
    except (ValueError, OSError, EncoderWeightsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    before, after = record["before"], record["other_half"]
    print(f"{record['photos']:,} photos with a position; all temperatures x {record['factor']:.3f}")
    for level in ("50", "90"):
        name = f"coverage_{level}"
        print(
            f"truths within the {level} % radius: {100 * before[name]:.1f} % before, "
            f"{100 * after[name]:.1f} % after (fitted on one half, measured on the other)"
        )
    print(f"checkpoint: {options.output}")
    return 0
