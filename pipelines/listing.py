"""From what a user types after `--input` to a list of shards with stable ids. Knows no Beam."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import fsspec

TAR_ENDINGS = (".tar.gz", ".tgz", ".tar")


class InputError(ValueError):
    """No shard can be read from what was given; the message names the remedy."""


@dataclass(frozen=True)
class Shard:
    """One tar.

    Attributes:
        id: name of its output files, unique within a run.
        url: where it lies, absolute if local.
    """

    id: str
    url: str


def list_shards(patterns: Iterable[str]) -> list[Shard]:
    """Expands paths, globs and braces such as `{000..009}`.

    Args:
        patterns: local paths or URLs that fsspec knows; at least one.

    Returns:
        The shards, each once, sorted by URL.

    Raises:
        InputError: if a pattern matches nothing or names a directory.
    """
    from braceexpand import braceexpand

    urls: set[str] = set()
    for pattern in patterns:
        for part in braceexpand(pattern, escape=False):
            urls.update(_expand(part))
    ordered = sorted(urls)
    return [Shard(id, url) for id, url in zip(shard_ids(ordered), ordered, strict=True)]


def _expand(pattern: str) -> list[str]:
    filesystem, path = fsspec.core.url_to_fs(pattern)
    if filesystem.isfile(path):  # a name may hold the very characters of a glob
        return [filesystem.unstrip_protocol(path) if "://" in pattern else path]
    if filesystem.isdir(path):
        raise InputError(
            f"{pattern} is a directory, wanted tar shards; pass '{pattern.rstrip('/')}/*.tar'"
        )
    found = [] if not re.search(r"[*?\[]", path) else filesystem.glob(path)
    files = [name for name in found if not filesystem.isdir(name)]
    if not files:
        raise InputError(
            f"no shard matches {pattern!r}; look with `ls {pattern}`, keep the quotes around globs,"
            " and write a range as {000..009}"
        )
    return [filesystem.unstrip_protocol(name) if "://" in pattern else name for name in files]


def shard_ids(urls: list[str]) -> list[str]:
    """Names from base names; equal ones get their directory's name, then a hash, in addition.

    Args:
        urls: N different locations.

    Returns:
        N different names, free of slashes.
    """
    parts = [url.rstrip("/").split("/") for url in urls]
    names = [_stem(part[-1]) for part in parts]
    wider = [f"{part[-2] or 'root'}-{name}" for part, name in zip(parts, names, strict=True)]
    hashed = [
        f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
        for name, url in zip(wider, urls, strict=True)
    ]
    for better in (wider, hashed):
        counts = Counter(names)
        names = [
            other if counts[name] > 1 else name for name, other in zip(names, better, strict=True)
        ]
    return names


def _stem(name: str) -> str:
    for ending in TAR_ENDINGS:
        if name.lower().endswith(ending) and len(name) > len(ending):
            return name[: -len(ending)]
    return name


def source_bytes(url: str) -> int | None:
    """Size of a shard, by which a resumed run notices another file; None where it has none."""
    filesystem, path = fsspec.core.url_to_fs(url)
    try:
        return int(filesystem.size(path))
    except (OSError, TypeError):
        return None
