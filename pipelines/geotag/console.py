"""Formats the summary of a run for a terminal: counts that add up, and one line that says all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from locdiffusion.cli.terminal import printable, tell
from locdiffusion.photos.left_out import LeftOut, number
from pipelines.geotag.digest import CREDIBLE
from pipelines.geotag.tables import REGIONS_FAILED
from schemas.geotags import THRESHOLDS_KM, Status

FAILURES = {REGIONS_FAILED: "without"}
MOST_SHOWN = 10
MOST_KINDS = 3

IN_WORDS = {
    Status.MISSING_IMAGE: "missing",
    Status.DUPLICATE_KEY: "with a name that is used twice",
    Status.NAME_TOO_LONG: "with too long a name",
    Status.TRUNCATED: "cut off where an archive breaks off",
    Status.TOO_MANY_BYTES: "with too many bytes",
    Status.TOO_MANY_PIXELS: "with too many pixels",
    Status.NOT_AN_IMAGE: "without a picture in the file",
    Status.BROKEN_IMAGE: "broken",
    Status.INCOMPLETE_IMAGE: "without the end of the picture",
    Status.EMPTY_FILE: "empty",
    Status.NO_READER: "in a format without a reader here",
    Status.TOO_SLOW: "that took too long to decode",
    Status.TOO_LARGE: "that took too much memory to decode",
    Status.BAD_METADATA: "with a bad document",
    Status.BAD_PRIOR: "with a prior that is none",
    Status.INFERENCE_FAILED: "that the model failed on",
}
"""What is wrong with a photo, in words that stand behind a number."""


def whole(summary: Mapping[str, Any], name: str) -> int:
    """Returns the length of a list of the summary, which may be cut short."""
    return len(summary[name]) + int(summary.get("unlisted", {}).get(name, 0))


def shown(items: Iterable[str], total: int | None = None, most: int = MOST_SHOWN) -> list[str]:
    """Returns the first items, and how many more there are, of `total` or all."""
    listed = list(items)
    more = (len(listed) if total is None else total) - most
    return [*listed[:most], *([f"and {more:,} more"] if more > 0 else [])]


def unlike(count: int, told: Mapping[str, Any]) -> str:
    """Says of how many photos nothing is known, and what to do with them.

    Args:
        count: Number of photos that are unlike those that the checkpoint is for.
        told: `purpose` and `unlike` of the checkpoint, if it says them.
    """
    kind = f" ({told['purpose']})" if told.get("purpose") else ""
    remedy = f"; {told['unlike']}" if told.get("unlike") else ""
    return printable(
        f"{number(count, 'photo')} unlike those that the checkpoint is for{kind}: their answers "
        f"say nearly nothing{remedy}"
    )


def _most_unlike(summary: Mapping[str, Any]) -> bool:
    """Whether most answers say nearly nothing; the last line then says what to do instead."""
    return 2 * summary.get("unfamiliar", 0) > summary["predictions"]


def last_line(summary: Mapping[str, Any]) -> str:
    """Returns how many photos were geotagged, how many not and why, and what was left out.

    Photos unlike those that the checkpoint is for do not count as geotagged. A run of which they
    are most ends with a line of its own.
    """
    statuses = photo_errors(summary)
    why = [f"{count:,} {IN_WORDS[Status(name)]}" for name, count in statuses.items()]
    strange = summary.get("unfamiliar", 0)
    known = summary["predictions"] - strange
    text = f"{number(summary['photos'], 'photo')}: {known:,} geotagged"
    if strange:
        text += f", {strange:,} with an answer that says nearly nothing"
    if why:
        text += f", {summary['photo_errors']:,} not ({', '.join(why)})"
    left_out = LeftOut.from_dict(summary["left_out"])
    if left_out.total:
        first = left_out.kinds()[:MOST_KINDS]
        kinds = [f"{count:,} {kind}" for kind, count in first]
        if others := left_out.total - sum(count for _, count in first):
            kinds.append(f"{others:,} of other kinds")
        text += f"; {number(left_out.total, 'file')} left out ({', '.join(kinds)})"
    if _most_unlike(summary):
        text += f"\nWRONG CHECKPOINT: {unlike(strange, summary.get('configuration', {}))}"
    return text


def photo_errors(summary: Mapping[str, Any]) -> dict[str, int]:
    """Returns the statuses of photos without a prediction, the most frequent first."""
    statuses = summary["errors_by_status"].items()
    of_photos = [(name, count) for name, count in statuses if not Status(name).of_shard]
    return dict(sorted(of_photos, key=lambda one: (-one[1], one[0])))


def summary_table(summary: Mapping[str, Any]) -> str:
    """Formats the summary for a terminal."""
    lines = [
        f"photos       {summary['photos']:>10,}",
        f"predictions  {summary['predictions']:>10,}",
        f"errors       {summary['photo_errors']:>10,}",
    ]
    lines += [f"  {name:<18} {count:>7,}" for name, count in photo_errors(summary).items()]
    lines += [f"{name:<12} {rows:>10,}" for name, rows in summary.get("layers", {}).items()]
    for name, how in FAILURES.items():
        reasons = summary.get(name, {}).items()
        lines += [f"  {number(count, 'photo')} {how}: {reason}" for reason, count in reasons]
    shards = ", ".join(f"{count:,} {status}" for status, count in summary["shards"].items())
    lines.append(f"shards       {shards or 'none':>10}")
    lines += _told("damaged", summary) + _told("notes", summary)
    lines += _surprises(summary)
    if "seconds" in summary:
        rate = summary["images_per_second"]
        lines.append(f"seconds      {summary['seconds']:>10,.1f}   {rate:,.1f} images/s")
    if summary.get("stage_seconds"):
        lines.append("  in the steps, over all workers:")
        stages = summary["stage_seconds"].items()
        lines += [f"  {name:<14} {value:>6,.1f}" for name, value in stages]
    for key, title in (("accuracy", "truth"), ("accuracy_exif", "EXIF position")):
        if summary[key]:
            lines += ["", *_accuracy_lines(summary[key], title)]
    if told := revealed(summary):
        lines.append(told)
    lines += [f"COUNT MISMATCH: {sentence}" for sentence in summary["mismatches"]]
    return "\n".join(map(printable, lines))


def revealed(summary: Mapping[str, Any]) -> str:
    """Says what a shared map tells of the photos; empty where it has no known positions."""
    shown = summary.get("reveals", {})
    counts = {
        "true position": shown.get("truth_positions", 0),
        "EXIF position": shown.get("exif_positions", 0),
    }
    if not any(counts.values()):
        return ""
    counts |= {"thumbnail": shown["thumbnails"], "photo name": shown["names"]}
    parts = [number(count, kind) for kind, count in counts.items() if count]
    return (
        f"the map shows {', '.join(parts)}; to share one without known positions, geotag into "
        "another --output with --no-positions"
    )


def _told(title: str, summary: Mapping[str, Any]) -> list[str]:
    """Lines with the name of each of the first shards, and what is to be said of it."""
    told = (f"{one['source']}: {one['message']}" for one in summary[title])
    lines = shown(told, whole(summary, title))
    return [title, *(f"  {line}" for line in lines)] if lines else []


def _surprises(summary: Mapping[str, Any]) -> list[str]:
    """Lines about files that were not used as a person may expect."""
    lines = []
    left_out = LeftOut.from_dict(summary["left_out"])
    if left_out.total:
        lines.append(f"left out     {left_out.total:>10,}   {left_out}")
    if count := summary["not_understood"]:
        lines.append(
            f"documents    {count:>10,}   not understood, so no position is known from there"
        )
        told = shown(f"{one['message']} (in {one['source']})" for one in summary["documents"])
        lines += [f"  {line}" for line in told]
    if count := summary.get("unfamiliar"):
        told = {} if _most_unlike(summary) else summary.get("configuration", {})
        lines.append(f"unfamiliar   {count:>10,}   {unlike(count, told)}")
    if count := summary["estimates"]:
        text = "with a position that LocDiffusion wrote, which is no truth"
        lines.append(f"estimates    {count:>10,}   {text}")
    return lines


def _accuracy_lines(groups: Mapping[str, Mapping[str, Any]], title: str) -> list[str]:
    width = max(len(title), *(len(name) for name in groups))
    heads = "".join(f"{f'<{km} km':>9}" for km in THRESHOLDS_KM)
    lines = [f"{title:<{width}} {'n':>8} {'median km':>10}{heads} {'in r50':>8} {'in r90':>8}"]
    for name, row in groups.items():
        within = "".join(f"{100 * row['within'][str(km)]:>7.1f} %" for km in THRESHOLDS_KM)
        coverage = "".join(f"{100 * row[key]:>7.1f} %" for key in CREDIBLE.values())
        lines.append(f"{name:<{width}} {row['n']:>8,} {row['median_km']:>10,.1f}{within}{coverage}")
    return lines


def tell_others(others: Sequence[Mapping[str, Any]], fate: str) -> None:
    """Tells of finished shards that are not in the input."""
    photos = number(sum(manifest["photos"] for manifest in others), "photo")
    sources = shown(manifest["source"] for manifest in others)
    if others:
        tell(
            f"{number(len(others), 'shard')} with {photos} in --output, not in --input: "
            f"{', '.join(sources)}; {fate}"
        )
