"""Measures what a GPU makes of the model and of the pipeline, in at most 8 minutes.

python -m experiments.speed.gpu --output gpu.json
python -m experiments.speed.gpu --device cpu --tiny
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.speed.gpu.model import ARITHMETIC, RandomLoader
from experiments.speed.head.timing import machine
from experiments.speed.pipeline.trivial import write_archive
from locdiffusion.cli.parser import DONE, run_command
from locdiffusion.files import write_json
from locdiffusion.geotagger import Geotagger
from locdiffusion.model.cuda import check_gpu, uses_bf16
from locdiffusion.sphere.geodesy import great_circle_km
from pipelines.geotag import command as geotag
from pipelines.geotag.options import parse as parse_geotag

EPILOG = """\
lines:
  embed, sample, decode   seconds of a call alone, data copied to the GPU and back: the median of
                          several, after two that are not counted
  share of the head       sample and decode, of embed, sample and decode
  parity                  against the same model in float32 on the CPU: the least cosine of an
                          embedding, and the largest distance of an answer
  pipeline                `geotag` on generated JPEGs, on this machine, start to end; busy is the
                          time in which a call has the model, by wall time

CLIP ViT-L/14 has random weights; the head is the shipped geoclip-distilled. Every line has the seed
0. bf16 is left out on a GPU that computes without it; on a processor only float32 is measured.
"""
MINUTES = 8.0
FORMS = {
    "batch": "batch {:5}",
    "ms": "{:9.2f} ms",
    "per_s": "{:9.1f} photos/s",
    "share": "{:6.1%}",
    "cosine": "cosine {:.6f}",
    "km": "{:.3f} km",
    "busy": "busy {:.0%}",
}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.speed.gpu",
        description="Measure the model and the pipeline on a GPU.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--device", default="cuda", help="torch device (%(default)s)")
    add("--output", type=Path, metavar="FILE", help="also write the lines as JSON")
    add("--batch-sizes", type=int, nargs="+", default=[32, 128, 512], metavar="N")
    add("--photos", type=int, default=4096, help="photos of the pipeline (%(default)s)")
    add("--megapixels", type=float, default=0.5, help="size of a photo (%(default)s)")
    add("--tiny", action="store_true", help="another network, few photos: only shows that it runs")
    return parser.parse_args(argv)


def seconds_of(call: Callable[[], object], least: float) -> float:
    """Returns the median time of a call, over at least three and `least` seconds."""
    for _ in range(2):
        call()
    times: list[float] = []
    while len(times) < 3 or sum(times) < least:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def alone(model: Geotagger, sizes: Sequence[int], least: float) -> Iterator[dict[str, Any]]:
    """Times the steps of the model by themselves, for each batch size."""
    rng = np.random.default_rng(0)
    side = model.encoder_spec.image_size
    for size in sizes:
        pixels = rng.integers(0, 256, (size, side, side, 3), dtype=np.uint8)
        keys = [str(number) for number in range(size)]
        embeddings = model.embed(pixels)
        natural = model.sample(embeddings, keys)
        calls: dict[str, Callable[[], object]] = {
            "embed": functools.partial(model.embed, pixels),
            "sample": functools.partial(model.sample, embeddings, keys),
            "decode": functools.partial(model.decode, natural),
        }
        taken = {step: seconds_of(call, least) for step, call in calls.items()}
        head = (taken["sample"] + taken["decode"]) / sum(taken.values())
        for step, seconds in taken.items():
            yield {"line": step, "batch": size, "ms": 1000 * seconds, "per_s": size / seconds}
        yield {"line": "share of the head", "batch": size, "share": head}


def parity(model: Geotagger, plain: Geotagger, count: int) -> dict[str, Any]:
    """Compares a model with the same one in float32 on the CPU."""
    side = model.encoder_spec.image_size
    pixels = np.random.default_rng(1).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    keys = [str(number) for number in range(count)]
    embeddings, answers = [], []
    for one in (model, plain):
        embeddings.append(one.embed(pixels))
        answers.append(one.decode(one.sample(embeddings[-1], keys)))
    ours, theirs = answers
    apart = great_circle_km(ours.latitude, ours.longitude, theirs.latitude, theirs.longitude)
    cosine = np.sum(embeddings[0] * embeddings[1], axis=1)
    return {"line": "parity", "cosine": float(cosine.min()), "km": float(np.max(apart))}


def pipeline(loader: RandomLoader, photos: Path, batch: int) -> dict[str, Any]:
    """Runs the geotag job on this machine, with the model loaded before the clock starts."""
    flags = ["--output", str(photos.parent / loader.arithmetic), f"--batch-size={batch}"]
    flags += [f"--device={loader.device}", "--no-bf16"]  # the loader decides
    job = geotag.build(parse_geotag([str(photos / "*.tar"), *flags]), loader)
    found = geotag.run(job) or {}
    model = sum(found["stage_seconds"].get(step, 0.0) for step in ("embed", "sample", "decode"))
    return {
        "line": "pipeline",
        "batch": batch,
        "per_s": found["images_per_second"],
        "busy": model / found["seconds"],
        "stage_seconds": found["stage_seconds"],
    }


def measure(options: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Measures line by line; what does not fit into the time is left out, and said."""
    began = time.monotonic()
    on_gpu = torch.device(options.device).type == "cuda"
    many = 3 if uses_bf16(options.device, None) else 2
    kinds = ARITHMETIC[: many if on_gpu else 1]
    least, sizes = (0.0, [4]) if options.tiny else (1.0, options.batch_sizes)
    count, shards = (8, 2) if options.tiny else (options.photos, 16)
    side = round((options.megapixels * 1e6 / 12) ** 0.5)  # of 4:3
    size = (64, 48) if options.tiny else (4 * side, 3 * side)
    write_archive(folder / "photos", shards, count // shards, size)
    plain = RandomLoader("cpu", "float32", options.tiny)()
    for kind in kinds:
        loader = RandomLoader(options.device, kind, options.tiny)
        model = loader()
        lines = [*alone(model, sizes, least), parity(model, plain, 4 if options.tiny else 16)]
        del model
        yield from ({"arithmetic": kind, **line} for line in lines)
        if time.monotonic() - began > 60 * MINUTES * 0.7:
            yield {"arithmetic": kind, "line": "left out: the time is over"}
            return
        yield {"arithmetic": kind, **pipeline(loader, folder / "photos", sizes[len(sizes) // 2])}


def shown(line: dict[str, Any]) -> str:
    """Returns a line of the table."""
    cells = [f"{line['arithmetic']:8} {line['line']:18}"]
    cells += [form.format(line[name]) for name, form in FORMS.items() if name in line]
    return "  ".join(cells)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status, 2 where there is no GPU."""
    return run_command(lambda: _run(parse(argv)), ValueError)


def _run(options: argparse.Namespace) -> int:
    check_gpu(options.device)
    about = machine()
    if torch.device(options.device).type == "cuda":
        about |= {"gpu": torch.cuda.get_device_name(options.device), "cuda": torch.version.cuda}
    lines = []
    if options.tiny:
        print("tiny: these numbers say nothing about any machine")
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as folder:
        for line in measure(options, Path(folder)):
            print(shown(line), flush=True)
            lines.append(line)
    print(*(f"{name:18} {value}" for name, value in about.items()), sep="\n")
    if options.output:
        write_json(options.output, {"about": about, "lines": lines})
    return DONE


if __name__ == "__main__":
    sys.exit(main())
