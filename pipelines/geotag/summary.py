"""Reads an output directory back, checks its counts, and computes accuracy. Knows no Beam."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from locdiffusion.evaluate.known_positions import KINDS, POSITION_COLUMNS
from locdiffusion.evaluate.metrics import coverage, error_summary
from locdiffusion.files import file_system
from locdiffusion.photos.blocks import TarStatus
from locdiffusion.photos.left_out import MOST_NAMED, LeftOut
from locdiffusion.photos.listing import shard_stem
from locdiffusion.sphere.geodesy import great_circle_km
from pipelines.geotag.manifests import COUNTS
from pipelines.geotag.output import Output
from pipelines.geotag.tables import ERRORS, FAILED, PREDICTIONS, THUMBNAILS
from pipelines.writing.directory import MANIFESTS, READERS
from schemas.geotags import Status

OVERALL = "all"
SURPRISES = ("not_understood", "estimates")
"""Fields of a manifest: documents that are not understood, photos with a position of ours."""
CREDIBLE = {"radius_50_km": "coverage_50", "radius_90_km": "coverage_90"}


def shard_group(shard: str) -> str:
    """The group of a shard: its stem without a number at the end, as in `val-003` -> `val`."""
    stem = shard_stem(shard)
    return re.sub(r"[-_.]?\d+\Z", "", stem) or stem


def summarise(output: Output, left_out: LeftOut | None = None) -> dict[str, Any]:
    """Counts what is on disk.

    Args:
        output: Directory of the run.
        left_out: Files that were left out when folders were listed.

    Returns:
        JSON-able: `photos`, `predictions`, `photo_errors`, `shard_errors`, `errors_by_status`,
        `layers` (rows of the further layers), `regions_failed` and `hybrid_failed` (photos whose
        regions or gallery failed, by reason), `shards` (by tar status), `damaged` and `notes`
        (shards that are not complete, and those whose end is unusual: `shard`, `source`, `status`,
        `message`), `read_again` (shards that could not be read completely, which another run will
        try again), `left_out` (files, as of `LeftOut.to_dict`), `not_understood` (documents),
        `documents` (what is wrong with the first of these), `estimates` (photos with a position
        that this project wrote), `mismatches` (sentences, empty when every count adds up),
        `reveals` (what the pages show: number of `names`, `thumbnails`, `truth_positions` and
        `exif_positions`), `accuracy` against the truth and `accuracy_exif` against EXIF positions
        (`accuracy_row` for each group of shards and for all).
    """
    totals: Counter[str] = Counter()
    by_status: Counter[str] = Counter()
    layers: Counter[str] = Counter()
    failed: dict[str, Counter[str]] = {name: Counter() for name in FAILED}
    shards: Counter[str] = Counter()
    mismatches: list[str] = []
    scores: dict[str, dict[str, list[np.ndarray]]] = {kind: defaultdict(list) for kind in KINDS}
    seen, again = set(), []
    damaged: list[dict[str, str]] = []
    notes: list[dict[str, str]] = []
    problems: list[dict[str, str]] = []
    others = LeftOut.joined([left_out] if left_out else [])
    manifests = list(output.manifests())
    with ThreadPoolExecutor(READERS) as pool:
        checked = pool.map(lambda manifest: _checked(output, manifest), manifests)
    for manifest, (different, known) in zip(manifests, checked, strict=True):
        seen.add(manifest["shard"])
        again += [manifest["shard"]] if manifest.get("read_failed") else []
        shards[manifest["tar_status"]] += 1
        by_status.update(manifest["errors_by_status"])
        layers.update(_other_layers(manifest))
        for name, reasons in failed.items():
            reasons.update(manifest.get(name, {}))
        totals.update({name: manifest[name] for name in COUNTS})
        totals.update({name: manifest.get(name, 0) for name in SURPRISES})
        within = LeftOut.from_dict(manifest.get("left_out", {}))
        within.named = [f"{manifest['source']}/{name}" for name in within.named]
        others.update(within)
        problems += [
            {"source": manifest["source"].rpartition("#")[0] or manifest["source"], "message": why}
            for why in manifest.get("problems", ())
        ]
        if manifest.get("tar_message"):
            complete = manifest["tar_status"] == TarStatus.COMPLETE.value
            (notes if complete else damaged).append(_told(manifest))
        mismatches += different
        for kind, rows in known.items():
            scores[kind][shard_group(manifest["shard"])].append(rows)
    finished = output.manifest_files()
    mismatches += [
        f"{output.path(MANIFESTS, name.file)} is not what was written there; delete it"
        for shard, name in finished.items()
        if shard not in seen
    ]
    mismatches += [f"{output.path(*part)} has no manifest" for part in output.orphans(finished)]
    return {
        **{name: totals[name] for name in COUNTS},
        "errors_by_status": dict(sorted(by_status.items())),
        "layers": dict(sorted(layers.items())),
        **{name: dict(sorted(reasons.items())) for name, reasons in failed.items()},
        "shards": dict(sorted(shards.items())),
        "damaged": damaged,
        "notes": notes,
        "read_again": again,
        "left_out": others.to_dict(),
        **{name: totals[name] for name in SURPRISES},
        "documents": problems[:MOST_NAMED],
        "mismatches": mismatches,
        "reveals": {
            "names": totals["predictions"],
            "thumbnails": layers[THUMBNAILS],
            **{f"{kind}_positions": _count(scores[kind]) for kind in KINDS},
        },
        "accuracy": _accuracy(scores["truth"]),
        "accuracy_exif": _accuracy(scores["exif"]),
    }


def _told(manifest: Mapping[str, Any]) -> dict[str, str]:
    """What a manifest says of its shard."""
    names = {"shard": "shard", "source": "source", "status": "tar_status", "message": "tar_message"}
    return {name: str(manifest[field]) for name, field in names.items()}


def _checked(
    output: Output, manifest: Mapping[str, Any]
) -> tuple[list[str], dict[str, np.ndarray]]:
    """Differences found in a shard and, if there are none, errors and radii of known positions."""
    different = check_shard(output, manifest)
    return different, {} if different else _known_positions(output, manifest["shard"])


def check_shard(output: Output, manifest: Mapping[str, Any]) -> list[str]:
    """Compares a manifest with the rows on disk; returns a sentence for each difference."""
    shard, found = manifest["shard"], []
    if manifest["photos"] != manifest["predictions"] + manifest["photo_errors"]:
        found.append(
            f"shard {shard}: {manifest['photos']} photos are not {manifest['predictions']} "
            f"predictions + {manifest['photo_errors']} errors"
        )
    rows = {PREDICTIONS: manifest["predictions"], ERRORS: 0, **_other_layers(manifest)}
    for layer, count in rows.items():
        path = output.part(layer, shard)
        try:
            filesystem, there = file_system(path)
            with filesystem.open(there, "rb") as file:
                pairs = _errors(manifest, file) if layer == ERRORS else _rows(count, file)
        except (OSError, ValueError, KeyError) as error:
            found.append(f"shard {shard}: {path} cannot be read ({error})")
            continue
        found += [
            f"shard {shard}: {path} holds {held}, the manifest says {stated}"
            for held, stated in pairs
            if held != stated
        ]
    return found


def _other_layers(manifest: Mapping[str, Any]) -> dict[str, int]:
    """Number of rows of the layers that only some runs write."""
    layers: Mapping[str, int] = manifest.get("layers", {})
    return {layer: rows for layer, rows in layers.items() if layer not in (PREDICTIONS, ERRORS)}


def _rows(stated: int, file: Any) -> list[tuple[str, str]]:
    """Pairs of what a file holds and what the manifest says, for a layer."""
    rows = pq.ParquetFile(file).metadata.num_rows
    return [(f"{rows} rows", f"{stated} rows")]


def _errors(manifest: Mapping[str, Any], file: Any) -> list[tuple[str, str]]:
    """Pairs of what a file of errors holds and what the manifest says."""
    table = pq.read_table(file, columns=["key", "status"])
    photos = table.num_rows - table["key"].null_count
    held = Counter(table["status"].to_pylist())
    tar = Counter({status: n for status, n in held.items() if Status(status).of_shard})
    complete = manifest["tar_status"] == TarStatus.COMPLETE.value
    stated = Counter() if complete else Counter([f"shard_{manifest['tar_status']}"])
    return [
        (
            f"{table.num_rows} rows, {photos} of photos",
            f"{manifest['photo_errors'] + manifest['shard_errors']} rows, "
            f"{manifest['photo_errors']} of photos",
        ),
        (_counted(held), _counted(manifest["errors_by_status"])),
        (f"of the shard {_counted(tar)}", f"of the shard {_counted(stated)}"),
    ]


def _counted(by_status: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {status}" for status, count in sorted(by_status.items())) or "none"


def _known_positions(output: Output, shard: str) -> dict[str, np.ndarray]:
    """Distance and radii in km, ``(rows, 3)``, for each kind of known position that occurs."""
    filesystem, path = file_system(output.part(PREDICTIONS, shard))
    with filesystem.open(path, "rb") as file:
        table = pq.read_table(file, columns=["latitude", "longitude", *CREDIBLE, *POSITION_COLUMNS])
    columns = {name: table[name].to_numpy() for name in table.column_names}
    found = {}
    for kind in KINDS:
        latitude = columns[f"{kind}_latitude"].astype(np.float64)
        longitude = columns[f"{kind}_longitude"].astype(np.float64)
        distance = great_circle_km(columns["latitude"], columns["longitude"], latitude, longitude)
        rows = np.stack([distance, *(columns[name] for name in CREDIBLE)], axis=1)
        rows = rows[np.isfinite(distance)]
        if len(rows):
            found[kind] = rows
    return found


def _count(groups: Mapping[str, Sequence[np.ndarray]]) -> int:
    return sum(len(rows) for parts in groups.values() for rows in parts)


def _accuracy(groups: Mapping[str, Sequence[np.ndarray]]) -> dict[str, dict[str, Any]]:
    """`accuracy_row` of each group, then of all together."""
    joined = {name: np.concatenate(parts) for name, parts in sorted(groups.items())}
    if joined:
        joined = {**joined, OVERALL: np.concatenate(list(joined.values()))}
    return {name: accuracy_row(rows) for name, rows in joined.items()}


def accuracy_row(rows: np.ndarray) -> dict[str, Any]:
    """Computes errors, accuracy and coverage of photos with a prediction and a known position.

    Args:
        rows: Distance to the truth, 50 % and 90 % radius in km, ``(N, 3)``; N >= 1.

    Returns:
        `n`, `median_km`, `within` (share of photos, by threshold in km), `coverage_50` and
        `coverage_90` (share of photos whose truth lies within the radius).
    """
    coverages = {
        name: coverage(rows[:, 0], rows[:, column])
        for column, name in enumerate(CREDIBLE.values(), start=1)
    }
    return {**error_summary(rows[:, 0]), **coverages}
