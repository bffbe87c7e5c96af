"""Writes `datasheet.md`: what one must know before learning from a data set or sharing it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pipelines.build_shards.filters import LICENCES
from pipelines.build_shards.output import DENSITY
from schemas.training import DropReason

_PLAIN = re.compile(r"[\w./ @+=,:{}~()-]+")

_MEANING = {
    DropReason.MALFORMED_ROW: "the line is not in the format",
    DropReason.NO_COORDINATES: "no position",
    DropReason.BAD_COORDINATES: "a position that is not on Earth",
    DropReason.ZERO_COORDINATES: "exactly (0, 0)",
    DropReason.NOT_A_PHOTO: "a video",
    DropReason.LOW_ACCURACY: "the position is less accurate than asked for",
    DropReason.LICENCE: "a licence that was not asked for",
    DropReason.EXCLUDED_ID: "a photo of an excluded benchmark",
    DropReason.EXCLUDED_AUTHOR: "by a photographer of an excluded benchmark",
    DropReason.DUPLICATE_ID: "listed before",
    DropReason.AUTHOR_CAP: "more of one photographer than asked for",
    DropReason.CELL_CAP: "more in one cell than asked for",
    DropReason.NO_IMAGE: "the image is gone, or was never there",
    DropReason.FETCH_FAILED: "the image could not be fetched",
    DropReason.BROKEN_IMAGE: "the image cannot be decoded",
    DropReason.TOO_SMALL: "the image is smaller than asked for",
    DropReason.TOO_LARGE: "the image has too many bytes or pixels",
    DropReason.EXACT_DUPLICATE: "the same file as another photo",
    DropReason.NEAR_DUPLICATE: "looks like another photo (dHash, 3 bits of 64 or less)",
    DropReason.UNUSABLE_SHARD: "in a damaged shard",
}


def datasheet(summary: Mapping[str, Any]) -> str:
    """Renders the page from a summary and a configuration."""
    configuration = summary["configuration"]
    parts = [
        "# Datasheet",
        f"Training shards built from {_files(configuration)}. {summary['read']:,} records were "
        f"read, {summary['kept']:,} are kept and {summary['dropped']:,} dropped; each of them is a "
        "row of `index/` or of `dropped/`.",
        f"![photos per cell]({DENSITY})",
        "## What is in it",
        _splits(summary),
        f"The photos lie in {summary['cells']:,} cells of {configuration['cell_degrees']:g}°, at "
        f"most {summary['most_photos_in_a_cell']:,} in one. Positions are the photographers' or "
        "their cameras' own; nobody has checked them.",
        "## What is not",
        _drops(summary),
        "## Benchmarks that are excluded",
        _exclusions(configuration),
        "All photos of one photographer are in one split; "
        f"{summary['photographers_in_both_splits']:,} photographers are in both.",
        "## How it was made",
        _making(configuration),
        "## Licences",
        _licences(summary),
        "## Privacy and use",
        "`index/` and `dropped/` hold photographers' ids, because exclusions and splits need them; "
        "the shards hold none beside the photos, so that nothing that is learnt from them predicts "
        "one. Keys are Flickr's numbers, or the names that the photos had: a name may hold the id "
        "of a photographer. With `--hash-keys` they are hashes, without a salt: who has a list of "
        "names can compute them. Photos may show "
        "people and homes, and a model that is trained on them can tell where a stranger's photo "
        "was taken. Do not use it to find or follow people. When a photographer withdraws a photo, "
        "find its key in `index/` and take it out. EXIF blocks, with their positions, are not in "
        "the shards.",
    ]
    return "\n\n".join(parts) + "\n"


def _files(configuration: Mapping[str, Any]) -> str:
    names = [_name(name) for name, _ in configuration["metadata"]]
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")
    return f"{shown} (`--source {configuration['source']}`)"


def _splits(summary: Mapping[str, Any]) -> str:
    rows = [
        [name, *(f"{split[column]:,}" for column in _SPLIT_COLUMNS)]
        for name, split in summary["splits"].items()
    ]
    return _table(["split", *_SPLIT_COLUMNS.values()], rows)


_SPLIT_COLUMNS = {
    "photos": "photos",
    "photographers": "photographers",
    "most_photos_of_a_photographer": "most by one of them",
    "shards": "shards",
    "bytes": "bytes",
}


def _drops(summary: Mapping[str, Any]) -> str:
    rows = [
        [f"`{name}`", _MEANING[DropReason(name)], f"{number:,}"]
        for name, number in summary["dropped_by_reason"].items()
    ]
    return _table(["reason", "meaning", "records"], rows) if rows else "Nothing was dropped."


def _exclusions(configuration: Mapping[str, Any]) -> str:
    if not configuration["exclude"]:
        return (
            "**None.** No benchmark's list was given (`--exclude`): photos of a benchmark, or of "
            "its photographers, may be among these. Do not report results on one."
        )
    rows = [
        [_name(one["name"]), f"{one['photos']:,}", f"{one['authors']:,}"]
        for one in configuration["exclude"]
    ]
    return _table(["list", "photos", "photographers"], rows)


def _making(configuration: Mapping[str, Any]) -> str:
    encoding, filters = configuration["encoding"], configuration["filters"]
    facts = [
        f"turned upright, scaled to {encoding['image_size']} pixels on the shorter side (none is "
        f"enlarged), encoded once as JPEG of quality {encoding['quality']}, all metadata left out",
        f"smaller than {encoding['min_size']} pixels: dropped",
        f"accuracy: {filters['min_accuracy'] or 'any'}",
        f"licences: {', '.join(filters['licences']) or 'any'}",
        f"most photos per photographer: {configuration['author_cap'] or 'any number'}",
        f"most photos per cell: {configuration['cell_cap'] or 'any number'}",
        f"for validation: {configuration['val_fraction']:g} of the photographers",
        f"embeddings: {_name(configuration['encoder']) if configuration['encoder'] else 'none'}",
        "keys: "
        + ("hashes of the names" if configuration.get("hash_keys") else "the names of the photos"),
        f"seed: {configuration['seed']}; the same input and seed give the same bytes",
    ]
    return "\n".join(f"- {fact}" for fact in facts)


def _licences(summary: Mapping[str, Any]) -> str:
    rows = [
        [f"`{code}`", LICENCES.get(code, "not told by the source"), f"{number:,}"]
        for code, number in summary["licences"].items()
    ]
    told = "Each photo has its photographer's licence, in the column `licence` of `index/`."
    return f"{told}\n\n{_table(['code', 'licence', 'photos'], rows)}" if rows else "No photo."


def _name(text: str) -> str:
    """Returns a name as code, whatever is in it: no link, no HTML, no end of a cell or a line."""
    shown = "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )
    if _PLAIN.fullmatch(shown):
        return f"`{shown}`"
    plain = (one if one.isalnum() or one == " " else f"&#{ord(one)};" for one in shown)
    return f"<code>{''.join(plain)}</code>"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["--"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
