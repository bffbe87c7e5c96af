"""Reads an output directory back, checks its arithmetic and says how well the run did. No Beam."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from locdiffusion.metrics import coverage, error_summary
from locdiffusion.sphere.geodesy import great_circle_km
from pipelines.sink import Output
from schemas.geotags import THRESHOLDS_KM

OVERALL = "all"
CREDIBLE = {"radius_50_km": "coverage_50", "radius_90_km": "coverage_90"}


def shard_group(shard: str) -> str:
    """The family of a shard: its name without a number at the end, as in `val-003` -> `val`."""
    return re.sub(r"[-_.]?\d+\Z", "", shard) or shard


def summarise(output: Output) -> dict[str, Any]:
    """Counts what is on disk.

    Args:
        output: a finished directory.

    Returns:
        JSON-able: `photos`, `predictions`, `photo_errors`, `shard_errors`, `errors_by_status`,
        `shards` (by tar status), `mismatches` (sentences, empty when every count adds up),
        `accuracy` against the truth and `accuracy_exif` against EXIF positions: for each group of
        shards and for all, what `accuracy_row` gives.
    """
    totals: Counter[str] = Counter()
    by_status: Counter[str] = Counter()
    shards: Counter[str] = Counter()
    mismatches: list[str] = []
    scores: dict[str, dict[str, list[np.ndarray]]] = {
        name: defaultdict(list) for name in ("truth", "exif")
    }
    seen = set()
    for manifest in output.manifests():
        seen.add(manifest["shard"])
        shards[manifest["tar_status"]] += 1
        by_status.update(manifest["errors_by_status"])
        for name in ("photos", "predictions", "photo_errors", "shard_errors"):
            totals[name] += manifest[name]
        mismatches += check_shard(output, manifest)
        if not mismatches:
            _score_shard(output, manifest["shard"], scores)
    mismatches += [f"{path} has no manifest" for path in output.orphans(seen)]
    return {
        **{name: totals[name] for name in ("photos", "predictions", "photo_errors")},
        "shard_errors": totals["shard_errors"],
        "errors_by_status": dict(sorted(by_status.items())),
        "shards": dict(sorted(shards.items())),
        "mismatches": mismatches,
        "accuracy": _accuracy(scores["truth"]),
        "accuracy_exif": _accuracy(scores["exif"]),
    }


def check_shard(output: Output, manifest: Mapping[str, Any]) -> list[str]:
    """Compares a manifest with itself and with the rows on disk; a sentence for each difference."""
    shard = manifest["shard"]
    wanted = (manifest["predictions"], manifest["photo_errors"] + manifest["shard_errors"])
    found = []
    if manifest["photos"] != manifest["predictions"] + manifest["photo_errors"]:
        found.append(
            f"shard {shard}: {manifest['photos']} photos are not {manifest['predictions']} "
            f"predictions + {manifest['photo_errors']} errors"
        )
    for path, rows in zip(output.parts(shard), wanted, strict=True):
        try:
            with fsspec.open(path, "rb") as file:
                on_disk = pq.ParquetFile(file).metadata.num_rows
        except (OSError, pa.ArrowInvalid) as error:
            found.append(f"shard {shard}: {path} cannot be read ({error})")
            continue
        if on_disk != rows:
            found.append(f"shard {shard}: {path} holds {on_disk} rows, the manifest says {rows}")
    return found


def _score_shard(
    output: Output, shard: str, scores: Mapping[str, dict[str, list[np.ndarray]]]
) -> None:
    """Appends (rows, 3) arrays of distance and radii in km for each kind of known position."""
    known = [f"{kind}_{axis}" for kind in scores for axis in ("latitude", "longitude")]
    with fsspec.open(output.parts(shard)[0], "rb") as file:
        table = pq.read_table(file, columns=["latitude", "longitude", *CREDIBLE, *known])
    columns = {name: table[name].to_numpy() for name in table.column_names}
    for kind, groups in scores.items():
        latitude = columns[f"{kind}_latitude"].astype(np.float64)
        longitude = columns[f"{kind}_longitude"].astype(np.float64)
        distance = great_circle_km(columns["latitude"], columns["longitude"], latitude, longitude)
        rows = np.stack([distance, *(columns[name] for name in CREDIBLE)], axis=1)
        rows = rows[np.isfinite(distance)]
        if len(rows):
            groups[shard_group(shard)].append(rows)


def _accuracy(groups: Mapping[str, Sequence[np.ndarray]]) -> dict[str, dict[str, Any]]:
    """Each group apart, then all together."""
    joined = {name: np.concatenate(parts) for name, parts in sorted(groups.items())}
    if joined:
        joined = {**joined, OVERALL: np.concatenate(list(joined.values()))}
    return {name: accuracy_row(rows) for name, rows in joined.items()}


def accuracy_row(rows: np.ndarray) -> dict[str, Any]:
    """How far off, how often near, how often inside the stated radius.

    Args:
        rows: float (N, 3) km: distance to the truth, radius_50, radius_90; N >= 1.

    Returns:
        `n`, `median_km`, `within` (share of photos, by threshold in km), `coverage_50` and
        `coverage_90` (share of photos whose truth lies within the radius). The denominator is the
        photos with a prediction and a known position.
    """
    coverages = {
        name: coverage(rows[:, 0], rows[:, column])
        for column, name in enumerate(CREDIBLE.values(), start=1)
    }
    return {**error_summary(rows[:, 0]), **coverages}


def summary_table(summary: Mapping[str, Any]) -> str:
    """The summary as text for a terminal."""
    lines = [
        f"photos       {summary['photos']:>10,}",
        f"predictions  {summary['predictions']:>10,}",
        f"errors       {summary['photo_errors']:>10,}",
    ]
    statuses = summary["errors_by_status"].items()
    lines += [f"  {name:<18} {count:>7,}" for name, count in statuses]
    shards = ", ".join(f"{count:,} {status}" for status, count in summary["shards"].items())
    lines.append(f"shards       {shards or 'none':>10}")
    if "seconds" in summary:
        rate = summary["images_per_second"]
        lines.append(f"seconds      {summary['seconds']:>10,.1f}   {rate:,.1f} images/s")
    if summary.get("stage_seconds"):
        stages = summary["stage_seconds"].items()
        lines.append("  of these   " + "  ".join(f"{name} {value:.1f}" for name, value in stages))
    for key, title in (("accuracy", "truth"), ("accuracy_exif", "EXIF position")):
        if summary[key]:
            lines += ["", *_accuracy_lines(summary[key], title)]
    lines += [f"COUNT MISMATCH: {sentence}" for sentence in summary["mismatches"]]
    return "\n".join(lines)


def _accuracy_lines(groups: Mapping[str, Mapping[str, Any]], title: str) -> list[str]:
    width = max(len(title), *(len(name) for name in groups))
    heads = "".join(f"{f'<{km} km':>9}" for km in THRESHOLDS_KM)
    lines = [f"{title:<{width}} {'n':>8} {'median km':>10}{heads} {'in r50':>8} {'in r90':>8}"]
    for name, row in groups.items():
        within = "".join(f"{100 * row['within'][str(km)]:>7.1f} %" for km in THRESHOLDS_KM)
        coverage = "".join(f"{100 * row[key]:>7.1f} %" for key in CREDIBLE.values())
        lines.append(f"{name:<{width}} {row['n']:>8,} {row['median_km']:>10,.1f}{within}{coverage}")
    return lines
