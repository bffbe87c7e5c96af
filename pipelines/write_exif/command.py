"""Copies photos and writes their geotags into the copies' EXIF; `locdiffusion write-exif`.

The originals are only read. A copy differs in the GPS tags alone: position, the 90 %
radius as positioning error, and which model estimated it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from locdiffusion.cli.flags import add_flags, add_input
from locdiffusion.cli.parser import DONE, FAILED, Parser, UsageError, fraction
from locdiffusion.files import write_atomically
from locdiffusion.photos.archive import Sample, ShardReader
from locdiffusion.photos.folder import FolderReader
from locdiffusion.photos.listing import Shard, list_shards
from locdiffusion.photos.photo import open_image
from locdiffusion.photos.picture import PhotoError
from locdiffusion.photos.storage import DataError
from pipelines.geotag.output import Output
from pipelines.geotag.tables import PREDICTIONS
from pipelines.write_exif.exif import ExifError, Position, with_position
from pipelines.writing.directory import RUN

COLUMNS = ("key", "latitude", "longitude", "radius_90_km", "prob_25km", "prob_200km", "model_id")
SUMMARY = "write_exif.json"

ABOUT = """\
Copies photos and writes their geotags into the EXIF of the copies, where a geotag is
certain enough. The originals are only read. Photos that have a position of their own
keep it.

examples:
  locdiffusion geotag PHOTOS --checkpoint geoclip-distilled
  locdiffusion write-exif PHOTOS --predictions PHOTOS-geotags \\
      --output COPIES --max-radius-90-km 200    # 90 % radius at most 200 km
  locdiffusion write-exif 'photos/*.tar' --predictions out \\
      --output COPIES --min-prob-200km 0.8
"""

MORE = """\
Which limit? The 90 % radius is the distance from the geotag within which the photo was
taken with probability 0.9. Of several limits a geotag must meet all. Only photos that
get a geotag are copied. --dry-run counts how many photos a limit would give.

PHOTOS is what was geotagged: the same folder or the same tars. COPIES must not be that
folder, nor lie in it. Only JPEG carries EXIF GPS that every program reads; other formats
are counted and left out. write_exif.json in COPIES says what became of the photos.
"""


class Fate(str, Enum):
    """Outcome for one photo."""

    WRITTEN = "written"
    UNCERTAIN = "not certain enough"
    OWN_POSITION = "has a position of its own"
    NO_PREDICTION = "has no prediction"
    NOT_JPEG = "is no JPEG"
    UNREADABLE = "cannot be read"
    BROKEN_EXIF = "has a broken EXIF block"


def parser() -> Parser:
    """Returns the parser of the command."""
    usage = "PHOTOS ... --predictions DIR --output DIR [flags]"
    failed, old = "no geotag was written", {"--photos": "--input"}
    required = ["input", "predictions", "output"]
    made = Parser("write-exif", usage, ABOUT, MORE, failed, old, required)
    group = made.add_argument_group("input and output")
    add_input(group, "folders, tars or photos that were geotagged", "PHOTOS")
    group.add_argument("--predictions", metavar="DIR", help="output of `locdiffusion geotag`")
    add_flags(group, "--output", help="folder for the copies")
    group.add_argument("--dry-run", action="store_true", help="count, and write nothing")
    add = made.add_argument_group("which geotags are written; give at least one limit").add_argument
    add("--max-radius-90-km", type=float, metavar="KM", help="those with at most this 90 %% radius")
    add("--min-prob-25km", type=fraction, metavar="P", help="those within 25 km with at least P")
    add("--min-prob-200km", type=fraction, metavar="P", help="those within 200 km with at least P")
    add(
        "--replace-own-position",
        action="store_true",
        help="also where the photo's EXIF has a position",
    )
    return made


def write_copies(options: argparse.Namespace) -> Counter[Fate]:
    """Copies the photos whose geotags are certain enough.

    Raises:
        UsageError: No threshold is given, or the copies would lie among the originals.
        DataError: No photo or no prediction is found.
    """
    limits = (options.max_radius_90_km, options.min_prob_25km, options.min_prob_200km)
    if all(limit is None for limit in limits):
        raise UsageError(
            "how certain must a geotag be? Give --max-radius-90-km KM, --min-prob-25km P or "
            "--min-prob-200km P (all that are given must hold)"
        )
    shards = list_shards(options.input, lambda note: print(note, file=sys.stderr))
    _refuse_in_place(shards, options.output)
    output = Output(options.predictions)
    run = output.read_json(RUN)
    if run is None:
        raise DataError(
            f"--predictions {options.predictions} holds no run.json; give the --output of "
            "`locdiffusion geotag`"
        )
    fates: Counter[Fate] = Counter()
    for shard in shards:
        geotags = _geotags(output, shard)
        for item in FolderReader(shard.photos) if shard.photos else ShardReader(shard.url):
            if item.key is None:
                print(f"{shard.url}: {item.message}", file=sys.stderr)
                continue
            if not isinstance(item, Sample) or item.image is None:
                fates[Fate.UNREADABLE] += 1
                continue
            fate, copy = _copy(item.image, geotags.get(item.key), options)
            if copy is not None and not options.dry_run:
                _write(options.output, shard, item.key, copy)
            fates[fate] += 1
    return fates


def _geotags(output: Output, shard: Shard) -> Mapping[str, Mapping[str, Any]]:
    import pyarrow.parquet as pq

    path = output.part(PREDICTIONS, shard.id)
    if not os.path.exists(path) and "://" not in path:
        return {}
    rows = pq.read_table(path, columns=list(COLUMNS)).to_pylist()
    return {row["key"]: row for row in rows}


def _copy(
    image: bytes, geotag: Mapping[str, Any] | None, options: argparse.Namespace
) -> tuple[Fate, bytes | None]:
    if geotag is None:
        return Fate.NO_PREDICTION, None
    if not _certain(geotag, options):
        return Fate.UNCERTAIN, None
    if image[:2] != b"\xff\xd8":
        return Fate.NOT_JPEG, None
    try:
        own = open_image(image)[1]
    except PhotoError:
        return Fate.UNREADABLE, None
    if (own.known or own.problem) and not options.replace_own_position:
        return Fate.OWN_POSITION, None
    position = Position(
        geotag["latitude"],
        geotag["longitude"],
        geotag["radius_90_km"],
        f"LocDiffusion {geotag['model_id']}, estimated from the picture",
        f"within {geotag['radius_90_km']:.0f} km with probability 0.9",
    )
    try:
        return Fate.WRITTEN, with_position(image, position)
    except ExifError:
        return Fate.BROKEN_EXIF, None


def _certain(geotag: Mapping[str, Any], options: argparse.Namespace) -> bool:
    radius = options.max_radius_90_km
    least = {"prob_25km": options.min_prob_25km, "prob_200km": options.min_prob_200km}
    return (radius is None or geotag["radius_90_km"] <= radius) and all(
        limit is None or geotag[name] >= limit for name, limit in least.items()
    )


def _refuse_in_place(shards: Sequence[Shard], output: str) -> None:
    target = Path(output).resolve()
    for folder in {shard.folder for shard in shards if shard.folder and "://" not in shard.folder}:
        original = Path(folder).resolve()
        if target == original or original in target.parents or target in original.parents:
            raise UsageError(
                f"--output {output} and the originals in {original} lie in one another; copies go "
                "to a folder of their own"
            )


def _write(output: str, shard: Shard, key: str, copy: bytes) -> None:
    """Writes a copy: under its own path, or for a tar into a folder named after the tar."""
    name = key if shard.photos else f"{shard.id}/{key}.jpg"
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    write_atomically("/".join([output.rstrip("/"), *parts]), copy)


def _run(options: argparse.Namespace) -> int:
    fates = write_copies(options)
    counts = {fate.value: fates[fate] for fate in Fate if fates[fate]}
    for fate, count in counts.items():
        print(f"{count:>10,}  {fate}")
    if options.dry_run:
        return DONE
    text = json.dumps({"photos": fates.total(), **counts}, indent=1) + "\n"
    write_atomically("/".join([options.output.rstrip("/"), SUMMARY]), text.encode())
    return DONE if fates[Fate.WRITTEN] else FAILED


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return parser().run(arguments, _run, DataError)
