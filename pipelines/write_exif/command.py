"""Copies photos and writes their geotags into the copies' EXIF; `locdiffusion write-exif`.

The originals are only read. A copy differs in the GPS tags alone: position, the 90 %
radius as positioning error, and which model estimated it. No pixel is decoded.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from locdiffusion.cli.flags import add_flags, add_input, from_home
from locdiffusion.cli.parser import DONE, FAILED, Parser, RunFailed, UsageError, fraction
from locdiffusion.cli.terminal import printable, tell
from locdiffusion.photos.archive import Sample
from locdiffusion.photos.folder import PhotoFile
from locdiffusion.photos.listing import Shard, list_shards
from locdiffusion.photos.storage import DataError
from pipelines.geotag.console import number
from pipelines.geotag.manifests import ManifestName
from pipelines.geotag.output import Output
from pipelines.geotag.tables import PREDICTIONS
from pipelines.write_exif.copies import Copies, Original, PlaceTakenError
from pipelines.write_exif.fates import Fate, Outcome, Outcomes, Rules
from pipelines.write_exif.geotags import PROBLEM, GeotagReader, PredictionsError
from pipelines.writing.directory import RUN
from schemas.geotags import ErrorRow

ABOUT = """\
Copies photos and writes their geotags into the EXIF of the copies, where a geotag is
certain enough. The originals are only read. Photos that have a position of their own
keep it, whether in EXIF, in XMP or in a file beside the photo.

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

PHOTOS is what was geotagged: the same folder or the same archives. COPIES must not be that
folder, nor lie in it or around it. Only JPEG carries EXIF GPS that every program reads;
other formats are counted and left out. A copy has the time and the permissions of its original.

write_exif.json in COPIES says of every photo what became of it, why, and where its copy
is. A file in COPIES that this command did not write, or that was changed since, is never
replaced.
"""


def parser() -> Parser:
    """Returns the parser of the command."""
    usage = "PHOTOS ... --predictions DIR --output DIR [flags]"
    failed = "no geotag was written, a shard is damaged, or a file stood in the way"
    old = {"--photos": "--input"}
    required = ["input", "predictions", "output"]
    made = Parser("write-exif", usage, ABOUT, MORE, failed, old, required)
    group = made.add_argument_group("input and output")
    add_input(group, "folders, archives or photos that were geotagged", "PHOTOS")
    group.add_argument(
        "--predictions", type=from_home, metavar="DIR", help="output of `locdiffusion geotag`"
    )
    add_flags(group, "--output", help="folder for the copies")
    add_flags(group, "--exclude", help="the same as for `locdiffusion geotag`; may be repeated")
    add_flags(group, "--follow-links", help="the same as for `locdiffusion geotag`")
    group.add_argument("--dry-run", action="store_true", help="count, and write nothing")
    add = made.add_argument_group("which geotags are written; give at least one limit").add_argument
    add("--max-radius-90-km", type=float, metavar="KM", help="those with at most this 90 %% radius")
    add("--min-prob-25km", type=fraction, metavar="P", help="those within 25 km with at least P")
    add("--min-prob-200km", type=fraction, metavar="P", help="those within 200 km with at least P")
    add(
        "--replace-own-position",
        action="store_true",
        help="also where a photo has a position of its own, or GPS tags that cannot be read",
    )
    add(
        "--replace-estimates",
        action="store_true",
        help="also where a photo has a geotag that an earlier run of this command wrote",
    )
    return made


@dataclass
class Copier:
    """Copies the photos of one shard after the other.

    Attributes:
        rules: Which geotags are written.
        copies: Folder of the copies.
        several: Whether photos of several folders are copied: each gets a folder of its name.
        dry: Whether to write nothing.
        outcomes: What became of the photos so far.
    """

    rules: Rules
    copies: Copies
    several: bool = False
    dry: bool = False
    outcomes: Outcomes = field(default_factory=Outcomes)

    def copy_shard(self, shard: Shard, geotags: Mapping[str, Mapping[str, Any]]) -> None:
        """Copies the photos of a shard whose geotags are certain enough.

        Args:
            shard: The shard. Of a folder, only photos whose geotag may be written are read.
            geotags: Rows of the predictions, by key.
        """
        files: dict[str, PhotoFile] = {}
        for photo in shard.photos:
            if not self._decided(shard, photo.key, geotags.get(photo.key)):
                files[photo.key] = photo
        for item in shard.reader(tuple(files.values())):
            if item.key is None:
                self.outcomes.damaged.append(f"{shard.url}: {item.message}")
            elif isinstance(item, ErrorRow):
                self._told(shard, item.key, Fate.UNREADABLE, item.message)
            elif not self._decided(shard, item.key, geotags.get(item.key)):
                self._copy(shard, item, geotags[item.key], files.get(item.key))

    def write_list(self) -> None:
        """Writes the list of what became of the photos so far."""
        told = self.outcomes
        summary: dict[str, Any] = {"photos": len(told.photos), **told.counts()}
        if told.damaged:
            summary["not read whole"] = told.damaged
        if not self.dry:
            self.copies.write_list(summary, map(Outcome.to_dict, told.photos))

    def _decided(self, shard: Shard, key: str, geotag: Mapping[str, Any] | None) -> bool:
        """Whether a photo's geotag alone decides its fate, which is told then."""
        fate = self.rules.fate_of(geotag)
        if fate is not None:
            self._told(shard, key, fate, (geotag or {}).get(PROBLEM, ""))
        return fate is not None

    def _copy(
        self, shard: Shard, sample: Sample, geotag: Mapping[str, Any], file: PhotoFile | None
    ) -> None:
        fate, why, copy = self.rules.with_geotag(sample, geotag)
        if copy is None:
            self._told(shard, sample.key, fate, why)
            return
        original = _original(shard.url, sample, file)
        place = self.copies.place(self._name(shard, sample), original)
        try:
            digest = self.copies.write(place, copy, original, self.dry)
        except PlaceTakenError as error:
            self._told(shard, sample.key, Fate.PLACE_TAKEN, str(error))
        else:
            self._told(shard, sample.key, fate, replaced=why, copy=place, sha256=digest)

    def _name(self, shard: Shard, sample: Sample) -> str:
        if sample.member:
            return f"{shard.id}/{sample.member.name}"
        folder = os.path.basename(shard.folder or "")
        return f"{folder}/{sample.key}" if self.several else sample.key

    def _told(self, shard: Shard, key: str, fate: Fate, reason: str = "", **more: str) -> None:
        self.outcomes.photos.append(Outcome(shard.folder or shard.url, key, fate, reason, **more))


def write_copies(options: argparse.Namespace) -> Outcomes:
    """Copies the photos whose geotags are certain enough.

    What was done is listed in the folder of the copies even if this is stopped.

    Raises:
        UsageError: No threshold is given, or the copies would lie among the originals.
        DataError: No photo or no prediction is found.
        RunFailed: The folder of the copies cannot be written.
    """
    rules = Rules(**{one.name: getattr(options, one.name) for one in fields(Rules)})
    if rules.unlimited:
        raise UsageError(
            "how certain must a geotag be? Give --max-radius-90-km KM, --min-prob-25km P or "
            "--min-prob-200km P (all that are given must hold)"
        )
    shards = list_shards(options.input, tell, options.exclude, follow_links=options.follow_links)
    _refuse_in_place(shards, options.output)
    predictions = Output(options.predictions)
    if predictions.read_json(RUN) is None:
        raise DataError(
            f"--predictions {options.predictions} holds no run.json; give the --output of "
            "`locdiffusion geotag`"
        )
    several = len({shard.folder for shard in shards if shard.folder}) > 1
    copier = Copier(rules, Copies(options.output), several, options.dry_run)
    reader, files = GeotagReader(), predictions.manifest_files()
    try:
        try:
            for shard in shards:
                try:
                    geotags = _geotags(predictions, shard, reader, files)
                except PredictionsError as error:
                    copier.outcomes.damaged.append(str(error))
                    geotags = {}
                copier.copy_shard(shard, geotags)
        finally:
            copier.write_list()
    except OSError as error:
        raise RunFailed(
            f"{error}; check that --output {options.output} may be written, then type the same "
            "command again"
        ) from error
    return copier.outcomes


def _geotags(
    predictions: Output, shard: Shard, reader: GeotagReader, files: Mapping[str, ManifestName]
) -> Mapping[str, Mapping[str, Any]]:
    if shard.problem:
        return {}
    if not predictions.exists(PREDICTIONS, f"part-{shard.id}.parquet"):
        tell(
            f"{shard.folder or shard.url} has no rows in {predictions.root}; name the folder or "
            "archives that were geotagged there, or run `locdiffusion geotag` first"
        )
        return {}
    file = files.get(shard.id)
    manifest = (file and predictions.manifest(shard.id, file)) or {}
    if manifest.get("version") not in (None, shard.version):
        again = "type the command of `locdiffusion geotag` again for its new state"
        tell(f"{shard.url} was changed since it was geotagged; {again}")
    return reader.read(predictions.part(PREDICTIONS, shard.id))


def _original(shard: str, sample: Sample, file: PhotoFile | None) -> Original:
    if file is None or "://" in file.url:
        changed_s = sample.member.changed_s if sample.member else None
        return Original(shard, sample.key, None if changed_s is None else round(changed_s * 1e9))
    try:
        status = os.stat(file.url)
    except (OSError, ValueError):  # gone meanwhile, or no name of a file
        return Original(shard, sample.key)
    return Original(shard, sample.key, status.st_mtime_ns, status.st_mode & 0o777)


def _refuse_in_place(shards: Sequence[Shard], output: str) -> None:
    target = Path(output).resolve()
    for folder in {shard.folder for shard in shards if shard.folder and "://" not in shard.folder}:
        original = Path(folder).resolve()
        if target == original or original in target.parents or target in original.parents:
            raise UsageError(
                f"--output {output} and the originals in {original} lie in one another; copies go "
                "to a folder of their own"
            )


def _run(options: argparse.Namespace) -> int:
    outcomes = write_copies(options)
    counts = outcomes.counts()
    for fate, count in counts.items():
        print(f"{count:>10,}  {_fate_of(count, fate)}")
    for reason in outcomes.damaged:
        tell(f"not read whole: {reason}")
    print(printable(_told(outcomes, options)))
    whole = not outcomes.damaged and Fate.PLACE_TAKEN.value not in counts
    return DONE if whole and (options.dry_run or Fate.WRITTEN.value in counts) else FAILED


def _told(outcomes: Outcomes, options: argparse.Namespace) -> str:
    """Returns the last line: how many photos have a copy with a geotag, and how many have none."""
    counts = outcomes.counts()
    written = counts.pop(Fate.WRITTEN.value, 0)
    have = "has" if written == 1 else "have"
    verb = "would get a geotag" if options.dry_run else f"{have} a geotag in {options.output}"
    text = f"{number(len(outcomes.photos), 'photo')}: {written:,} {verb}"
    if outcomes.replaced:
        text += f" ({outcomes.replaced:,} in place of another position)"
    if counts:
        kinds = ", ".join(f"{count:,} {_fate_of(count, fate)}" for fate, count in counts.items())
        others = sum(counts.values())
        none = "would not" if options.dry_run else "has none" if others == 1 else "have none"
        text += f"; {others:,} {none}: {kinds}"
    if outcomes.damaged:
        text += f"; not read whole: {len(outcomes.damaged):,} (see above)"
    return text


def _fate_of(count: int, fate: str) -> str:
    """Says what became of one photo, or of several."""
    verb, space, rest = fate.partition(" ")
    many = {"has": "have", "is": "are"}.get(verb, verb) + space + rest
    return many.replace(" its own", " their own") if count > 1 else fate


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return parser().run(arguments, _run, DataError)
