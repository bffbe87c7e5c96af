"""The report: main table, figures, page.

python -m experiments.report table --train 'DATA/train/*.tar' --calibration 'DATA/val/*.tar' \
      --test val='DATA/val/*.tar' unseen='DATA/unseen/*.tar' --embeddings CACHE --output OUT
python -m experiments.report figures --output OUT --embeddings CACHE \
      --maps val='DATA/val/*.tar' unseen='DATA/unseen/*.tar' --ablations ABL --sampling FILE
python -m experiments.report render --output OUT --ablations ABL --sampling FILE \
      --page docs/REPORT.md
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FIGURES = "figures"


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report",
        description="Fit and score every method, draw the figures, write the page.",
        epilog=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    rivals = commands.add_parser("rivals", help="train rivals, which `table` then asks only")
    _training_flags(rivals)
    _table_flags(commands.add_parser("table", help="fit every rival, answer and score every split"))
    _figure_flags(commands.add_parser("figures", help="draw posterior maps and all other figures"))
    page = commands.add_parser("render", help="write the page from the JSON files and figures")
    _shared_flags(page)
    page.add_argument("--networks", type=Path, metavar="DIR", help="ablations of --networks")
    page.add_argument(
        "--ambiguous", type=Path, metavar="FILE", help="results.json of ambiguous photos"
    )
    page.add_argument("--log-z", type=Path, metavar="FILE", help="check of log Z on a finer grid")
    page.add_argument("--benchmark", type=Path, metavar="FILE", help="record of the benchmark")
    page.add_argument("--findings", type=Path, metavar="FILE", help="Markdown with the findings")
    page.add_argument(
        "--page", type=Path, default=Path("docs/REPORT.md"), help="page to write (%(default)s)"
    )
    return parser.parse_args(argv)


def _shared_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--output", type=Path, required=True, metavar="DIR", help="directory of table and figures")
    add("--ablations", type=Path, metavar="DIR", help="output of experiments.ablations")
    add("--sampling", type=Path, metavar="FILE", help="results.json of experiments.sampling_steps")


def _training_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="output directory; resumed if it holds rivals or a table",
    )
    add(
        "--train",
        nargs="+",
        required=True,
        metavar="GLOB",
        help="shards on which rivals are trained",
    )
    add(
        "--calibration",
        nargs="+",
        required=True,
        metavar="GLOB",
        help="validation shards, one GLOB per part, that of the regions of training first",
    )
    add(
        "--embeddings",
        type=Path,
        required=True,
        metavar="DIR",
        help="directory of cached embeddings",
    )
    add("--checkpoint", help="directory or name of a checkpoint (default: the shipped one)")
    add("--rivals", nargs="+", metavar="NAME", help="names of the rivals (default: all)")
    add("--steps", type=int, help="steps of the rivals' training (default: as our checkpoint)")
    add("--threads", type=int, default=2, help="threads of torch (default %(default)s)")


def _table_flags(parser: argparse.ArgumentParser) -> None:
    _training_flags(parser)
    add = parser.add_argument
    add("--test", nargs="+", required=True, metavar="NAME=GLOB", help="splits of the table")
    add("--paper", metavar="DIR", help="checkpoint of the recipe 'paper', for a row of its own")
    add("--resamples", type=int, default=1000, help="bootstrap resamples (default %(default)s)")


def _figure_flags(parser: argparse.ArgumentParser) -> None:
    _shared_flags(parser)
    add = parser.add_argument
    add("--maps", nargs="+", default=[], metavar="NAME=GLOB", help="splits of the posterior maps")
    add("--embeddings", type=Path, metavar="DIR", help="directory of cached embeddings, for --maps")
    add("--checkpoint", help="directory or name of a checkpoint (default: the shipped one)")
    add("--photos", type=int, default=12, help="number of posterior maps (default %(default)s)")


def rivals(options: argparse.Namespace) -> list[Path]:
    """Trains rivals and asks them about the validation photos."""
    from experiments.report.rival_files import FOLDER
    from experiments.report.table import budget_like, train_rival
    from locdiffusion.checkpoint import load
    from locdiffusion.cpu import torch_threads

    names = _known(options.rivals)
    checkpoint = load(options.checkpoint)
    photos = _photos(options, checkpoint, {})
    budget = budget_like(checkpoint, options.steps)
    with torch_threads(options.threads):
        for name in names:
            train_rival(options.output, name, photos, budget)
    return [options.output / FOLDER / name for name in names]


def table(options: argparse.Namespace) -> list[Path]:
    """Makes the main table."""
    from experiments.report.record import MAIN_TABLE, SplitData
    from experiments.report.table import budget_like, make_answers, make_table
    from locdiffusion.checkpoint import load
    from locdiffusion.cpu import torch_threads
    from locdiffusion.evaluate.bootstrap import Bootstrap

    names, named = _known(options.rivals), splits_of(options.test)
    checkpoint = load(options.checkpoint)
    paper = None if options.paper is None else load(options.paper)
    photos = _photos(options, checkpoint, named)
    sets = [("train", photos.train, options.train)]
    for part, pattern in zip(photos.calibration, options.calibration, strict=True):
        sets.append(("calibration", part, [pattern]))
    sets += [(name, part, named[name]) for name, part in photos.splits.items()]
    data = [SplitData(n, len(part), part.fingerprint, describe(made)) for n, part, made in sets]
    budget = budget_like(checkpoint, options.steps)
    options.output.mkdir(parents=True, exist_ok=True)
    with torch_threads(options.threads):
        methods = make_answers(options.output, checkpoint, photos, budget, names, paper)
        print(f"scoring {len(methods)} methods on {len(photos.splits)} splits", file=sys.stderr)
        bootstrap = Bootstrap(options.resamples)
        made = make_table(options.output, methods, checkpoint, budget, photos, data, bootstrap)
    made.write(options.output / MAIN_TABLE)
    return [options.output / MAIN_TABLE]


def _photos(options: argparse.Namespace, checkpoint: Any, tests: Mapping[str, list[str]]) -> Any:
    """Reads the photos of the options, and those of test splits by name."""
    from experiments.report.table import Photos
    from locdiffusion.model.image_encoder import load_image_encoder
    from locdiffusion.photos.embedding_cache import load_photos
    from locdiffusion.photos.patterns import expand_patterns

    encoder = load_image_encoder(checkpoint.config.encoder.name)

    def read(patterns: Sequence[str]) -> Any:
        return load_photos(expand_patterns(patterns), encoder, options.embeddings)

    calibration = [read([pattern]) for pattern in options.calibration]
    splits = {name: read(patterns) for name, patterns in tests.items()}
    return Photos(read(options.train), calibration, splits)


def _known(names: Sequence[str] | None) -> Sequence[str]:
    """Selects rivals by name; all by default."""
    from experiments.baselines import RIVALS

    unknown = sorted(set(names or ()) - set(RIVALS))
    if unknown:
        raise ValueError(f"No rival is named {unknown[0]!r}; there are {', '.join(RIVALS)}.")
    return names or tuple(RIVALS)


def figures(options: argparse.Namespace) -> list[Path]:
    """Draws all figures for which there are numbers."""
    from experiments.report.figures import draw_all, read_records

    folder = options.output / FIGURES
    drawn = draw_all(
        folder,
        read_table(options.output),
        read_records(options.ablations),
        read_json(options.sampling),
    )
    return drawn + (_draw_maps(options, folder) if options.maps else [])


def _draw_maps(options: argparse.Namespace, folder: Path) -> list[Path]:
    from experiments.report import answers, posterior_maps
    from experiments.report.record import OURS
    from locdiffusion.checkpoint import load
    from locdiffusion.model.image_encoder import load_image_encoder
    from locdiffusion.photos.embedding_cache import load_photos
    from locdiffusion.photos.patterns import expand_patterns

    if options.embeddings is None:
        raise ValueError("--maps without --embeddings; want the cache that `table` used.")
    named = splits_of(options.maps)
    checkpoint = load(options.checkpoint)
    encoder = load_image_encoder(checkpoint.config.encoder.name)
    shards = {name: expand_patterns(patterns) for name, patterns in named.items()}
    photos = {n: load_photos(files, encoder, options.embeddings) for n, files in shards.items()}
    paths = {name: answers.path_of(options.output, OURS, name) for name in named}
    missing = [name for name, path in paths.items() if not path.is_file()]
    if missing:
        raise ValueError(f"{options.output} has no answers on {missing[0]}; run `table` with it.")
    picks = posterior_maps.pick({n: answers.read(p) for n, p in paths.items()}, options.photos)
    images: dict[str, Any] = {}
    for name, files in shards.items():
        images |= posterior_maps.find_images(files, {p.key for p in picks if p.split == name})
    path = folder / "posteriors.png"
    posterior_maps.draw(path, picks, photos, images, checkpoint)
    return [path]


def render(options: argparse.Namespace) -> list[Path]:
    """Writes the page and copies its figures."""
    from experiments.report import page
    from experiments.report.figures import read_records
    from locdiffusion.files import write_atomically

    findings = options.findings or page.FINDINGS
    inputs = page.Inputs(
        table=read_table(options.output),
        ablations=read_records(options.ablations),
        networks=read_records(options.networks),
        sampling=read_json(options.sampling),
        ambiguous=read_json(options.ambiguous),
        log_z=read_json(options.log_z),
        benchmark=read_json(options.benchmark),
        findings=findings.read_text("utf-8"),
    )
    beside = options.page.parent / "report"
    beside.mkdir(parents=True, exist_ok=True)
    paths = {}
    for picture in sorted((options.output / FIGURES).glob("*.png")):
        shutil.copyfile(picture, beside / picture.name)
        paths[picture.stem] = f"{beside.name}/{picture.name}"
    write_atomically(options.page, page.render(inputs, paths))
    return [options.page]


def read_table(output: Path) -> Any:
    """Reads the main table of an output directory; None if there is none."""
    from experiments.report.record import MAIN_TABLE, MainTable

    path = output / MAIN_TABLE
    return MainTable.read(path) if path.is_file() else None


def read_json(path: Path | None) -> Any:
    """Reads a JSON file; None if no file is named, or it does not exist."""
    return json.loads(path.read_text("utf-8")) if path is not None and path.is_file() else None


def splits_of(pairs: Sequence[str]) -> dict[str, list[str]]:
    """Parses NAME=GLOB pairs into patterns by the name of the split.

    Raises:
        ValueError: A pair is not NAME=GLOB, or its name cannot be that of a file.
    """
    named: dict[str, list[str]] = {}
    for pair in pairs:
        name, _, pattern = pair.partition("=")
        if not pattern or not re.fullmatch(r"\w+", name):
            raise ValueError(
                f"Got {pair!r}; want NAME=GLOB, as in unseen='DATA/unseen/*.tar', with a name of "
                "letters, digits and '_'."
            )
        named.setdefault(name, []).append(pattern)
    return named


def describe(patterns: Sequence[str]) -> list[dict[str, Any]]:
    """Summarises `dataset.json` beside the shards, which says how they were made."""
    from experiments.report.record import how_made

    files = [p / "dataset.json" for p in dict.fromkeys(Path(x).parent for x in patterns)]
    return how_made(json.loads(file.read_text("utf-8")) for file in files if file.is_file())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = parse(argv)
    commands = {"rivals": rivals, "table": table, "figures": figures, "render": render}
    try:
        written = commands[options.command](options)
    except KeyboardInterrupt:
        print("stopped; the same command goes on.", file=sys.stderr)
        return 130
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for path in written:
        print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
