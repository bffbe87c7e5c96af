"""Scores a checkpoint, or written predictions, on photos with known position.

This is `locdiffusion evaluate`. It embeds the test photos once (cached), answers them as the
pipeline does, and writes accuracy, calibration and likelihood with bootstrap intervals, by distance
to the nearest training photo too. `locdiffusion.evaluate.record` says what scores.json holds.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from locdiffusion.cli.flags import add_flags, add_number, folder
from locdiffusion.cli.parser import DONE, Parser
from locdiffusion.cli.terminal import printable, tell
from locdiffusion.files import write_atomically
from locdiffusion.model.weights import EncoderWeightsError

if TYPE_CHECKING:
    from locdiffusion.evaluate.bootstrap import Bootstrap
    from locdiffusion.evaluate.proximity import Stratum
    from locdiffusion.evaluate.record import Evaluation, SplitRecord
    from locdiffusion.evaluate.scores import Scores
    from locdiffusion.evaluate.sources import Answers, Float
    from locdiffusion.geotagger import Geotagger

ABOUT = """\
Scores a checkpoint, or predictions already written, on photos with known position:
accuracy, calibration and likelihood, with bootstrap intervals.

examples:
  locdiffusion evaluate --test val='DATA/val/*.tar' --output SCORES
  locdiffusion evaluate --checkpoint RUN/checkpoint --train 'DATA/train/*.tar' \\
      --test seen='DATA/seen/*.tar' unseen='DATA/unseen/*.tar' --output SCORES
  locdiffusion evaluate --input im2gps3ktest --truth im2gps3k_places365.csv \\
      --checkpoint geoclip-distilled
  locdiffusion geotag 'patches/*.tar' --output out
  locdiffusion evaluate --predictions out --output SCORES
  locdiffusion evaluate --output SCORES \\
      --predictions seen='out/predictions/part-seen-*.parquet'
"""

MORE = """\
what is written to --output:
  scores.json              all numbers, with hashes of checkpoint and data
  scores.md                the tables
  errors.png               share of photos within any distance
  coverage.png             truths inside the stated 50 % and 90 % radii
  reliability-<split>.png  stated probabilities against what came true
  by-distance-<km>km.png   accuracy by distance to the nearest training photo
  missing-<list>.txt       photos of a list that were not found or not decoded

photos and lists:
  Shards are webdataset tars with <key>.jpg and <key>.json, which holds
  {"latitude": ..., "longitude": ...}; `locdiffusion overhead` makes some.
  --truth reads the lists of Im2GPS3k, YFCC26k, GWS15k and OSV-5M, and any CSV
  with columns such as id,latitude,longitude; a photo's id is its file's name or
  path, with or without the extension.

Choose and calibrate on validation photos; look at test photos once, at the end.
"""

BY_DISTANCE_KM = (25, 200, 750)

_Named = dict[str, list[str]]


def parser() -> Parser:
    """Returns the parser of the command."""
    made = Parser(
        "evaluate",
        "--test NAME=GLOB ... [flags]\n--input DIR --truth CSV [flags]\n--predictions DIR [flags]",
        ABOUT,
        MORE,
        old={"--photos": "--input"},
    )
    group = made.add_argument_group("what is scored: one of three")
    several: dict[str, Any] = {"nargs": "+", "default": []}
    group.add_argument(
        "--test",
        **several,
        metavar="NAME=GLOB",
        help="named sets of shards: tars of photos with their positions",
    )
    group.add_argument("--input", type=Path, metavar="DIR", help="photos of a benchmark list")
    group.add_argument(
        "--truth", type=Path, metavar="CSV", help="the list: ids, latitudes and longitudes"
    )
    group.add_argument(
        "--predictions",
        **several,
        metavar="[NAME=]DIR",
        help="output of `locdiffusion geotag`, or NAME=GLOB of its Parquet files; rows with a "
        "position in <key>.json, else in their EXIF, are scored, without likelihood, which those "
        "files do not hold",
    )
    group = made.add_argument_group("the model")
    add_flags(group, "--checkpoint", "--encoder", "--device")
    group = made.add_argument_group("output")
    add_flags(
        group,
        "--output",
        default=Path("scores"),
        type=folder,
        help="directory of the scores; files are replaced (default %(default)s)",
    )
    add_flags(group, "--embeddings", type=Path)
    _add_scoring(made.add_argument_group("scoring"))
    return made


def _add_scoring(group: argparse._ActionsContainer) -> None:
    add = group.add_argument
    add(
        "--train",
        nargs="+",
        default=[],
        metavar="GLOB",
        help="training shards: score by distance to the nearest of their photos",
    )
    add(
        "--edges",
        nargs="+",
        type=float,
        metavar="KM",
        help="lower bounds of the distances to training photos that are scored apart, the first 0 "
        "(default 0 10 25 50 100 200 400 800 1600 3200); strata of under 20 photos are joined",
    )
    add_number(group, "--resamples", int, 1000, "N", "resamples of the bootstrap")
    add_flags(group, "--seed")


def run(options: argparse.Namespace) -> Evaluation:
    """Answers the photos, scores the answers, and writes and returns the scores."""
    from locdiffusion.evaluate.bootstrap import Bootstrap
    from locdiffusion.evaluate.proximity import strata_numbers
    from locdiffusion.evaluate.record import Evaluation, Training
    from locdiffusion.evaluate.sources import positions_sha256, training_positions
    from locdiffusion.photos.patterns import expand_patterns

    splits = _splits(options)
    bootstrap = Bootstrap(resamples=options.resamples, seed=options.seed)
    if options.edges:
        strata_numbers([], options.edges)  # refuses bad edges before the long work
    if options.output.is_file():
        raise ValueError(f"--output {options.output} is a file; want a directory to create.")
    options.output.mkdir(parents=True, exist_ok=True)
    near = training_positions(expand_patterns(options.train)) if options.train else None
    records, errors, models = [], {}, {}
    for name, answers in _answers(options, splits):
        print(f"scoring {name}: {len(answers.predictions):,} photos", file=sys.stderr, flush=True)
        record, errors[name] = _score(name, splits[name], answers, near, bootstrap, options.edges)
        records.append(record)
        _tell_missing(name, answers.missing, options.output)
        models[answers.model] = answers.model_sha256
    if len(models) > 1:
        raise ValueError(f"The splits were answered by {sorted(models)}; want one model at a time.")
    model, sha256 = next(iter(models.items()))
    training = Training(len(near[0]), positions_sha256(*near)) if near else None
    evaluation = Evaluation(model, sha256, bootstrap, training, tuple(records))
    _write(options.output, evaluation, errors)
    return evaluation


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return parser().run(
        arguments,
        _run,
        *(ValueError, OSError, EncoderWeightsError),
        stopped="stopped; the same command starts again, with the embeddings it has",
    )


def _run(options: argparse.Namespace) -> int:
    from locdiffusion.evaluate import tables

    print(tables.page(run(options)))
    print(f"scores: {options.output / 'scores.json'}")
    return DONE


def _answers(options: argparse.Namespace, splits: _Named) -> Iterator[tuple[str, Answers]]:
    from locdiffusion.evaluate.sources import predicted, stored

    if options.predictions:
        for name, places in splits.items():
            yield name, stored(places)
        return
    if options.input:
        yield next(iter(splits)), _listed(options)
        return
    from locdiffusion.photos.embedding_cache import load_photos
    from locdiffusion.photos.patterns import expand_patterns

    shards = {name: expand_patterns(patterns) for name, patterns in splits.items()}
    tagger, cache = _tagger(options)
    for name, files in shards.items():
        photos = load_photos(files, tagger.encoder, cache)
        yield name, predicted(tagger.checkpoint, photos, options.device, name)


def _listed(options: argparse.Namespace) -> Answers:
    """Answers the photos of a benchmark list that are there."""
    from locdiffusion.evaluate.lists import embed_list, find_photos, read_truth
    from locdiffusion.evaluate.sources import predicted

    truth = read_truth(options.truth)
    files = find_photos(truth.ids, options.input)
    tell(f"{options.truth}: {len(files):,} of {len(truth):,} photos found")
    tagger, cache = _tagger(options)
    photos = embed_list(truth, files, tagger.encoder, cache)
    missing = tuple(sorted(set(truth.ids) - set(photos.keys)))
    answers = predicted(tagger.checkpoint, photos, options.device, options.truth.stem)
    return replace(answers, missing=missing)


def _tagger(options: argparse.Namespace) -> tuple[Geotagger, Path]:
    """Returns the model, and the directory in which embeddings are kept."""
    from locdiffusion.geotagger import Geotagger

    tagger = Geotagger.load(options.checkpoint, encoder=options.encoder, device=options.device)
    return tagger, options.embeddings or options.output / "embeddings"


def _score(
    name: str,
    source: Sequence[str],
    answers: Answers,
    near: tuple[Float, Float] | None,
    bootstrap: Bootstrap,
    edges: Sequence[float] | None,
) -> tuple[SplitRecord, Float]:
    """Returns the record of one split, and the errors of its photos in km."""
    from locdiffusion.evaluate.proximity import EDGES_KM, nearest_training_km, score_strata
    from locdiffusion.evaluate.record import SplitRecord
    from locdiffusion.evaluate.scores import errors_km, score

    scored = (answers.predictions, answers.latitude, answers.longitude)
    strata: tuple[Stratum, ...] = ()
    if near is not None:
        distance = nearest_training_km(answers.latitude, answers.longitude, *near)
        strata = score_strata(*scored, distance, edges or EDGES_KM, bootstrap)
    record = SplitRecord(
        name,
        tuple(source),
        answers.data_sha256,
        answers.without_truth,
        score(*scored, bootstrap),
        strata,
        len(answers.missing),
        dict(answers.by_kind),
        answers.estimates,
        *_familiar(answers, bootstrap),
    )
    return record, errors_km(*scored)


def _familiar(answers: Answers, bootstrap: Bootstrap) -> tuple[int, Scores | None]:
    """Counts the photos unlike those that the model is for, and scores the others."""
    from locdiffusion.evaluate.scores import score

    unlike = answers.unfamiliar
    if unlike is None or not unlike.any():
        return 0, None
    if unlike.all():
        return len(unlike), None
    place = answers.latitude[~unlike], answers.longitude[~unlike]
    return int(unlike.sum()), score(answers.predictions.take(~unlike), *place, bootstrap)


def _tell_missing(name: str, missing: Sequence[str], output: Path) -> None:
    if not missing:
        return
    path = output / f"missing-{name}.txt"
    lines = "".join(f"{printable(key)}\n" for key in missing)
    write_atomically(path, lines)
    print(
        f"{len(missing):,} photos of {name} are missing or unreadable, and not scored: see {path}",
        file=sys.stderr,
    )


def _write(output: Path, evaluation: Evaluation, errors: dict[str, Float]) -> None:
    from locdiffusion.evaluate import plots, tables

    rows = {split.name: split.scores for split in evaluation.splits}
    plots.plot_errors(output / "errors.png", errors, f"Errors of {evaluation.model}")
    plots.plot_coverage(output / "coverage.png", rows)
    for name, scores in rows.items():
        title = f"{evaluation.model} on {name}"
        plots.plot_reliability(output / f"reliability-{name}.png", scores.reliability, title)
    if evaluation.training:
        strata = {split.name: split.strata for split in evaluation.splits}
        for km in BY_DISTANCE_KM:
            path = output / f"by-distance-{km}km.png"
            plots.plot_accuracy_by_distance(path, strata, km)
    write_atomically(output / "scores.md", tables.page(evaluation))
    evaluation.write(output / "scores.json")


def _splits(options: argparse.Namespace) -> _Named:
    """Returns the patterns of each split, from whichever flag is given."""
    ways = {
        "--test NAME=GLOB of shards": options.test,
        "--input DIR --truth CSV of a benchmark list": options.input or options.truth,
        "--predictions DIR of answers already written": options.predictions,
    }
    given = [way.split()[0] for way, value in ways.items() if value]
    if len(given) != 1:
        raise ValueError(f"Given: {', '.join(given) or 'nothing'}; want one of {', '.join(ways)}.")
    if bool(options.input) != bool(options.truth):
        raise ValueError("--input DIR and --truth CSV go together; one of them is missing.")
    if options.input:
        name = re.sub(r"[^\w.-]", "-", options.truth.stem)
        return {name: [str(options.input), str(options.truth)]}
    if options.predictions and (options.checkpoint or options.encoder or options.embeddings):
        raise ValueError(
            "--predictions are answers already; leave out --checkpoint, --encoder, --embeddings."
        )
    named: _Named = {}
    for pair in options.test or options.predictions:
        name, equals, pattern = pair.partition("=")
        if options.predictions and (not equals or Path(pair).is_dir()):
            name, pattern = Path(pair).resolve().name, pair
        if not (name and pattern):
            flag = "--test" if options.test else "--predictions"
            raise ValueError(
                f"{flag} got {pair!r}; want NAME=GLOB, as in unseen='DATA/unseen/*.tar'."
            )
        if not re.fullmatch(r"[\w.-]+", name):
            raise ValueError(
                f"The split is named {name!r}; want letters, digits, '-', '_' and '.', as files "
                "are named after it: give a NAME=."
            )
        named.setdefault(name, []).append(pattern)
    return named
