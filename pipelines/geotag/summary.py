"""Reads an output directory back, checks that its counts add up, and summarises it.

A run leaves a digest of itself. It is believed if it covers exactly the files that are there, by
name and size; else a digest is made of the files, each of which is checked. Knows no Beam.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from locdiffusion.cli.terminal import tell
from locdiffusion.cpu import usable_cores
from locdiffusion.evaluate.known_positions import KINDS
from locdiffusion.isolation import UNLIMITED, IsolatedFunction
from locdiffusion.photos.left_out import MOST_NAMED, LeftOut
from pipelines.geotag.console import summary_table
from pipelines.geotag.digest import LEFT_OUT, MOST_TOLD_OF_OTHERS, RunDigest, accuracy_row
from pipelines.geotag.manifests import COUNTS, SURPRISES, ManifestName
from pipelines.geotag.output import DIGEST, Output
from pipelines.geotag.shard_files import MISMATCHES, TABLES, digest_shards
from pipelines.geotag.tables import THUMBNAILS, UNREADABLE
from pipelines.writing.directory import MANIFESTS, SUMMARY, OutputError
from pipelines.writing.progress import Ticker, duration

OVERALL = "all"
TOLD_OF_TARS = ("shard", "source", "status", "message")
TIMES = ("seconds", "images_per_second", "stage_seconds")
CHUNK = 500
"""Shards that a process digests at a time."""


def run_digest(output: Output) -> RunDigest:
    """Reads the digest of a run if it covers the files that are there; else makes and writes it.

    Mismatches are among what it tells.
    """
    sizes = output.sizes_of_shards()
    digest = read_digest(output)
    if digest is None or not digest.covers(sizes):
        names = sorted(map(ManifestName.parse, sizes[MANIFESTS]))
        digest = RunDigest()
        done = 0

        def line(seconds: float) -> str:
            return f"{duration(seconds):>7}  {done:,}/{len(names):,} shards checked"

        with Ticker(line):
            for part, count in _digests(output, names):
                digest.update(part)
                done += count
        if digest.covers(sizes) and not digest.told[MISMATCHES]:
            output.write(DIGEST, data=digest.to_bytes())
    done_parts = {f"part-{ManifestName.parse(name).shard}.parquet" for name in sizes[MANIFESTS]}
    lost = [
        (layer, name)
        for layer, parts in sizes.items()
        for name in (sorted(set(parts) - done_parts) if layer != MANIFESTS else ())
    ]
    for layer, name in lost[:MOST_TOLD_OF_OTHERS]:
        digest.tell(MISMATCHES, name, f"{output.path(layer, name)} has no manifest")
    digest.counts["told"][MISMATCHES] += len(lost[MOST_TOLD_OF_OTHERS:])
    return digest


def read_digest(output: Output) -> RunDigest | None:
    """Reads the digest that a run has left; None if there is none, or it is something else."""
    if (content := output.read_bytes(DIGEST)) is None:
        return None
    try:
        digest = RunDigest.from_bytes(content)
        summary_table(summarise(output, digest=digest))  # or what it counts is not a run's
        return digest
    except UNREADABLE as error:
        where = output.path(DIGEST)
        tell(f"{where} holds something else than a digest ({error}); all files are read instead")
        return None


def with_earlier(output: Output, summary: dict[str, Any], left_out: bool = False) -> dict[str, Any]:
    """Adds what stays of the earlier summary: times of as many photos, and perhaps `left_out`."""
    earlier = output.read_json(SUMMARY) or {}
    names = [*(TIMES if earlier.get("photos") == summary["photos"] else ())]
    names += ["left_out"] * left_out
    found = summary | {name: earlier[name] for name in names if name in earlier}
    try:
        summary_table(found)  # or it is not of ours
    except UNREADABLE:
        return summary
    return found


def _digests(output: Output, names: Sequence[ManifestName]) -> Iterator[tuple[RunDigest, int]]:
    """Yields digests of some shards each, and how many; many shards in several processes."""
    chunks = [names[start : start + CHUNK] for start in range(0, len(names), CHUNK)]
    workers = min(len(chunks) // 2, usable_cores())
    if workers < 2:
        yield from ((digest_shards(output, chunk), len(chunk)) for chunk in chunks)
        return
    # Children of their own: those of multiprocessing would run the user's script again.
    child = IsolatedFunction(functools.partial(digest_in_child, output), UNLIMITED, own=True)
    pool = ThreadPoolExecutor(workers)
    try:
        for start in range(0, len(chunks), 4 * workers):  # so that few digests wait
            some = chunks[start : start + 4 * workers]
            digests = pool.map(child, [json.dumps(chunk).encode() for chunk in some])
            yield from zip(map(RunDigest.from_bytes, digests), map(len, some), strict=True)
    except RuntimeError as error:  # what a child raised, or its end
        why = f"a process that read it failed: {error}"
        raise OutputError(f"{output.root} has no summary ({why}); try again") from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        child.close()


def digest_in_child(output: Output, names: bytes) -> bytes:
    """Digests shards for another process; takes names of manifests as JSON."""
    shards = [ManifestName(*name) for name in json.loads(names)]
    return digest_shards(output, shards).to_bytes()


def summarise(
    output: Output, left_out: LeftOut | None = None, digest: RunDigest | None = None
) -> dict[str, Any]:
    """Summarises a run.

    Args:
        output: Directory of the run.
        left_out: Files that were left out when folders were listed.
        digest: Digest of the run; None takes `run_digest`.

    Returns:
        JSON-able: `photos`, `predictions`, `photo_errors`, `shard_errors`, `errors_by_status`,
        `layers` (rows of the further layers), `regions_failed` (photos whose
        regions failed, by reason), `shards` (by tar status), `damaged` and `notes`
        (shards that are not complete, and those whose end is unusual: `shard`, `source`, `status`,
        `message`), `read_again` (shards that could not be read completely, which another run will
        try again), `left_out` (files, as of `LeftOut.to_dict`), `not_understood` (documents),
        `documents` (what is wrong with the first of these), `estimates` (photos with a position
        that this project wrote), `unfamiliar` (photos unlike those that the checkpoint is for),
        `mismatches` (sentences, empty when every count adds up), `unlisted` (number of entries that
        are left out of these lists, by list), `reveals` (what the pages show: number of `names`,
        `thumbnails`, `truth_positions` and `exif_positions`),
        `accuracy` against the truth and `accuracy_exif` against EXIF positions (`accuracy_row` for
        each group of shards and for all).
    """
    digest = run_digest(output) if digest is None else digest
    totals, told = digest.counts["totals"], digest.told
    others = LeftOut.joined([left_out] if left_out else [])
    named = [name for _, _, (name,) in told[LEFT_OUT]]
    others.update(LeftOut(digest.counts[LEFT_OUT], named))
    tables = {name: dict(sorted(digest.counts[name].items())) for name in (*TABLES, "shards")}
    tars = {
        name: [
            dict(zip(TOLD_OF_TARS, (shard, *texts), strict=True)) for shard, _, texts in told[name]
        ]
        for name in ("damaged", "notes")
    }
    problems = [{"source": source, "message": why} for _, _, (source, why) in told["problems"]]
    again = [shard for shard, _, _ in told["read_again"]]
    mismatches = [text for _, _, (text,) in told[MISMATCHES]]
    cut = {
        name: digest.counts["told"][name] - len(told[name])
        for name in (*tars, "read_again", MISMATCHES)
    }
    return {
        **{name: totals[name] for name in COUNTS},
        **{name: tables[name] for name in (*TABLES, "shards")},
        **tars,
        "read_again": again,
        "left_out": others.to_dict(),
        **{name: totals[name] for name in SURPRISES},
        "documents": problems[:MOST_NAMED],
        "mismatches": mismatches,
        "unlisted": {name: count for name, count in cut.items() if count},
        "reveals": {
            "names": totals["predictions"],
            "thumbnails": tables["layers"].get(THUMBNAILS, 0),
            **{f"{kind}_positions": _known(digest.accuracy.get(kind, {})) for kind in KINDS},
        },
        "accuracy": _accuracy(digest.accuracy.get("truth", {})),
        "accuracy_exif": _accuracy(digest.accuracy.get("exif", {})),
    }


def _known(groups: Mapping[str, Mapping[str, int]]) -> int:
    return sum(counts["n"] for counts in groups.values())


def _accuracy(groups: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, Any]]:
    """`accuracy_row` of each group, then of all together."""
    overall: Counter[str] = Counter()
    for counts in groups.values():
        overall.update(counts)
    joined = {**dict(sorted(groups.items())), **({OVERALL: overall} if groups else {})}
    return {name: accuracy_row(counts) for name, counts in joined.items()}
