"""Trains a checkpoint on shards of photos with known position.

    python -m locdiffusion.train --train 'DATA/train/*.tar' --val 'DATA/val/*.tar' --output RUN

embeds every photo once with the frozen image encoder (cached under RUN/embeddings), trains CS-UNet
with SHDD-KL, prints validation accuracy as it goes, fits temperatures and decoding radius on the
validation photos, and writes RUN/checkpoint (model.safetensors, config.json). Stop it with Ctrl-C
and start it again with the same command: it goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EPILOG = """examples:
  python -m locdiffusion.train --train 'DATA/train/*.tar' --val 'DATA/val/*.tar' --output RUN
  python -m locdiffusion.train ... --max-degree 23 --steps 1000     # smaller and faster
  python -m locdiffusion.train ... --test unseen='DATA/unseen/*.tar'  # measured once at the end

Shards are webdataset tars with <key>.jpg and <key>.json {"latitude": ..., "longitude": ...}; make
some with: python -m locdiffusion.overhead --split train --count 2000 --output DATA/train
"""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line to settings."""
    parser = argparse.ArgumentParser(
        prog="python -m locdiffusion.train",
        description="Train a LocDiffusion checkpoint on webdataset shards of photos with truth.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--train", nargs="+", required=True, metavar="GLOB", help="shards to learn from")
    add(
        "--val", nargs="+", required=True, metavar="GLOB", help="shards for choices and calibration"
    )
    add(
        "--val-regions",
        nargs="*",
        default=[],
        metavar="GLOB",
        help="validation shards from regions that --train leaves out: with them the radii learn "
        "how far to trust the network on new ground",
    )
    add(
        "--test", nargs="*", default=[], metavar="NAME=GLOB", help="shards measured once at the end"
    )
    add("--output", required=True, type=Path, help="directory of the run; resumed if it holds one")
    add("--embeddings", type=Path, help="cache of embeddings (default OUTPUT/embeddings)")
    add("--overwrite", action="store_true", help="start anew in OUTPUT; keeps the embeddings")
    add(
        "--about",
        type=Path,
        metavar="FILE",
        help="Markdown that opens the model card: purpose, limits",
    )
    add("--name", default="overhead", help="name of the checkpoint (default %(default)s)")
    add(
        "--encoder",
        default="efficientnet_lite0",
        help="frozen image encoder: efficientnet_lite0, "
        "open_clip:MODEL/TAG or open_clip:MODEL/FILE (default %(default)s)",
    )
    add("--max-degree", type=int, default=31, help="L, detail of the codes (default %(default)s)")
    add(
        "--answer-base",
        default="positions",
        choices=("positions", "land", "uniform"),
        help="where photos may be before they are looked at: as the training photos, on land, "
        "or anywhere (default %(default)s)",
    )
    add("--steps", type=int, default=3000, help="training steps (default %(default)s)")
    add("--batch-size", type=int, default=256, help="photos per step (default %(default)s)")
    add("--learning-rate", type=float, default=1e-3, help="peak rate (default %(default)s)")
    add("--dropout", type=float, default=0.1, help="in the network (default %(default)s)")
    add("--evaluate-every", type=int, default=500, help="steps between validations")
    add("--device", default="cpu", help="cpu, cuda, cuda:1 ... (default %(default)s)")
    add("--seed", type=int, default=0, help="of weights, batches and noise (default %(default)s)")
    return parser.parse_args(argv)


def run(options: argparse.Namespace) -> Path:
    """Embeds, trains, calibrates, measures, writes the checkpoint; returns its directory."""
    from locdiffusion import calibration, checkpoint
    from locdiffusion.data import EmbeddedPhotos, expand_shards, load_photos
    from locdiffusion.model.image_encoder import load_image_encoder
    from locdiffusion.posterior import natural_parameters
    from locdiffusion.training import PROGRESS, STATE, Trainer

    tests = _named(options.test)
    encoder = load_image_encoder(options.encoder, options.device)
    cache = options.embeddings or options.output / "embeddings"

    def photos(patterns: Sequence[str]) -> EmbeddedPhotos:
        return load_photos(expand_shards(patterns), encoder, cache)

    train = photos(options.train)
    validation = {"val": photos(options.val)}
    if options.val_regions:
        validation["val_regions"] = photos(options.val_regions)
    counts = ", ".join(f"{len(part):,} {name}" for name, part in validation.items())
    print(f"{len(train):,} training photos; validation: {counts}", flush=True)
    config = _recipe(options, encoder.spec)
    if options.overwrite:
        for name in (PROGRESS, STATE, "checkpoint"):
            target = options.output / name
            shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    trainer = Trainer(config, train, validation["val"], options.output, options.device)
    if trainer.resume():
        print(f"resuming at step {trainer.step}", flush=True)
    _train(trainer, config.steps)

    degree, base = config.model.max_degree, trainer.answer_base
    denoiser = _with_temperatures(trainer, train)
    decode = calibration.fit(denoiser, list(validation.values()), base)
    print(f"fitted on validation: temperatures, ρ {decode.radius_km:g} km", flush=True)
    metrics = {}
    for name, part in (validation | {name: photos(globs) for name, globs in tests.items()}).items():
        natural = natural_parameters(denoiser, part.embeddings)
        metrics[name] = calibration.measure(natural, part, degree, decode, base)
    _print_metrics(metrics)
    sources = {"train": options.train, "val": options.val, "val_regions": options.val_regions}
    data = {
        name: {
            "photos": len(part),
            "sha256": part.fingerprint,
            "source": _describe(sources[name]),
        }
        for name, part in ({"train": train} | validation).items()
    }
    saved = checkpoint.CheckpointConfig(
        config.name,
        config.model,
        config.noise,
        decode,
        encoder.spec,
        denoiser.temperatures.config,
        _record(trainer, metrics, data),
    )
    return _write(options, saved, denoiser, base)


def _recipe(options: argparse.Namespace, encoder: Any) -> Any:
    from locdiffusion.model.cs_unet import CSUNetConfig
    from locdiffusion.prior import BaseConfig, BaseKind
    from locdiffusion.training import TrainConfig

    return TrainConfig(
        name=options.name,
        encoder=encoder.name,
        model=CSUNetConfig(
            max_degree=options.max_degree,
            embedding_dim=encoder.embedding_dim,
            dropout=options.dropout,
        ),
        base=BaseConfig(answers=BaseKind(options.answer_base)),
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        warmup=min(200, options.steps // 10 + 1),
        evaluate_every=options.evaluate_every,
        seed=options.seed,
    )


def _with_temperatures(trainer: Any, train: Any) -> Any:
    """The averaged network as a checkpoint stores it, and temperatures still to be fitted."""
    from locdiffusion.checkpoint import as_stored
    from locdiffusion.temperature import CalibratedDenoiser, TemperatureModel

    config = trainer.config
    temperatures = TemperatureModel.of_training(
        train.embeddings,
        train.vectors,
        config.model.max_degree,
        trainer.answer_base,
        seed=config.seed,
    )
    return CalibratedDenoiser(as_stored(trainer.average), temperatures.to(trainer.device))


def _record(trainer: Any, metrics: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """How the weights came to be."""
    import torch

    from locdiffusion.config import to_dict

    return {
        "environment": f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"{trainer.device}, {torch.get_num_threads()} threads",
        "parameters": sum(p.numel() for p in trainer.average.parameters()),
        "recipe": to_dict(trainer.config),
        "metrics": metrics,
        "history": trainer.history,
        "data": data,
    }


def _write(options: argparse.Namespace, saved: Any, denoiser: Any, base: Any) -> Path:
    from locdiffusion import checkpoint, model_card

    directory: Path = options.output / "checkpoint"
    checkpoint.save(directory, saved, denoiser, base)
    about = options.about.read_text() if options.about else f"# Model card: `{saved.name}`"
    (directory / model_card.CARD).write_text(model_card.render(saved, about))
    return directory


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = parse(argv)
    from locdiffusion.model.image_encoder import EncoderWeightsError
    from locdiffusion.training import Stopped

    try:
        directory = run(options)
    except Stopped as stopped:
        print(f"{stopped}; the same command resumes.", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("stopped; the same command resumes.", file=sys.stderr)
        return 130
    except (ValueError, FloatingPointError, EncoderWeightsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"checkpoint: {directory}")
    return 0


def _train(trainer: Any, steps: int) -> None:
    stop = []
    previous = {
        number: signal.signal(number, lambda *_: stop.append(True))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    began, first = time.monotonic(), trainer.step

    def report(figures: dict[str, float]) -> None:
        rate = (figures["step"] - first) / max(1e-9, time.monotonic() - began)
        left = (steps - figures["step"]) / max(1e-9, rate) / 60.0
        print(
            f"step {figures['step']:.0f}/{steps}  train {figures['train_nats']:.3f} nats  "
            f"val {figures['val_nats']:.3f} nats, median {figures['val_median_km']:.0f} km, "
            f"{100 * figures['val_within_25']:.0f} % within 25 km, "
            f"{100 * figures['val_within_200']:.0f} % within 200 km  "
            f"({rate:.1f} steps/s, {left:.0f} min left)",
            flush=True,
        )

    try:
        trainer.run(report, lambda: bool(stop))
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _print_metrics(metrics: dict[str, dict[str, Any]]) -> None:
    print(f"{'split':<12}{'n':>7}{'median km':>11}   within 1/25/200/750/2500 km   cover 50/90")
    for name, m in metrics.items():
        within = "/".join(f"{100 * v:.0f}" for v in m["within"].values())
        cover = f"{100 * m['coverage_50']:.0f}/{100 * m['coverage_90']:.0f}"
        print(f"{name:<12}{m['n']:>7}{m['median_km']:>11.0f}   {within:<28}  {cover}")


def _named(pairs: Sequence[str]) -> dict[str, list[str]]:
    named: dict[str, list[str]] = {}
    for pair in pairs:
        name, equals, pattern = pair.partition("=")
        if not (name and equals and pattern):
            raise ValueError(
                f"--test got {pair!r}; want NAME=GLOB, as in unseen='DATA/unseen/*.tar'."
            )
        named.setdefault(name, []).append(pattern)
    return named


def _describe(patterns: Sequence[str]) -> list[dict[str, Any]]:
    """The `dataset.json` beside the shards, where there is one: how the data were made."""
    found = []
    for directory in dict.fromkeys(Path(p).parent for p in patterns):
        file = directory / "dataset.json"
        if file.is_file():
            found.append(json.loads(file.read_text()))
    return found


if __name__ == "__main__":
    sys.exit(main())
