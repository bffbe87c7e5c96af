"""Measures how long it takes to list a folder of many small files, and how much memory."""

from __future__ import annotations

import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from statistics import median

from locdiffusion.photos.listing import Shard, list_shards

PHOTOS, PREVIEWS = 80, 18
"""Photos, and previews in `@eaDir`, of each folder; two further files make one junk in five."""


def write_folders(root: Path, folders: int) -> Path:
    """Makes folders of 100 empty files each, 20 of which are junk."""
    for number in range(folders):
        folder = root / f"{number // 40:02d}" / f"{number:04d}"
        (folder / "@eaDir").mkdir(parents=True)
        names = [f"IMG_{index:04d}.jpg" for index in range(PHOTOS)]
        names += [f"@eaDir/IMG_{index:04d}.jpg" for index in range(PREVIEWS)]
        for name in (*names, ".DS_Store", "Thumbs.db"):
            (folder / name).touch()
    return root


def count_files(root: str, look: bool) -> int:
    """Walks a tree by `os.scandir` and counts its files.

    Args:
        root: Folder to walk.
        look: Whether to ask for size and time of each file, too.
    """
    count, folders = 0, [root]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                    continue
                if look:
                    entry.stat()
                count += 1
    return count


def listed(root: str) -> list[Shard]:
    """Lists the photos as geotagging does."""
    return list_shards([root], lambda note: None)


def seconds(work: Callable[[], object], turns: int) -> float:
    """Median CPU time of some calls."""
    taken = []
    for _ in range(turns):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return median(taken)


def measure_listing(root: Path, folders: int, turns: int) -> dict[str, float]:
    """Compares listing with a plain walk over the same tree.

    Returns:
        `files`; CPU seconds `walk` (names only), `walk_and_look` (and one stat per file) and
        `list`; `peak_bytes`, the most memory that listing held.
    """
    place = str(write_folders(root, folders))
    files = count_files(place, look=True)
    assert sum(len(shard.photos) for shard in listed(place)) == PHOTOS * folders
    tracemalloc.start()
    shards = listed(place)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    del shards
    return {
        "files": files,
        "walk": seconds(lambda: count_files(place, look=False), turns),
        "walk_and_look": seconds(lambda: count_files(place, look=True), turns),
        "list": seconds(lambda: listed(place), turns),
        "peak_bytes": peak,
    }
