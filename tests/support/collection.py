"""A collection of photos with every trouble that a source of training shards can have."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from PIL import Image

from pipelines.build_shards.command import main
from pipelines.build_shards.stable_hash import stable_hashes
from support.archives import encode as as_bytes
from support.flickr import Photo, make_photos, picture

GONE = "nobody@N00"


@dataclass(frozen=True)
class Fate:
    """A photo and what must become of it: `kept`, a reason, or one of several."""

    photo: Photo
    fate: str
    image: bytes | None = None  # what lies at its place; None: nothing


def again(data: bytes) -> bytes:
    """The same picture, encoded with more loss."""
    return as_bytes(Image.open(io.BytesIO(data)), "JPEG", quality=70)


def collection(seed: int = 0) -> list[Fate]:
    """Thirty photos that are fine, and one with each trouble that a source can have."""
    photos = make_photos(40, authors=10)
    fates = [Fate(photo, "kept", photo.image) for photo in photos[:30]]
    guarded = replace(photos[30], author=GONE)
    fates.append(Fate(guarded, "excluded_author", guarded.image))
    fates.append(Fate(replace(photos[31], latitude=0.0, longitude=0.0), "zero_coordinates"))
    fates.append(Fate(replace(photos[32], latitude=91.0), "bad_coordinates"))
    fates.append(Fate(photos[33], "no_image"))
    fates.append(Fate(photos[34], "broken_image", photos[34].image[:400]))
    fates.append(Fate(photos[35], "too_small", picture(35, (64, 20))))
    # Of two that are the same, the one of larger rank goes.
    for first, second, copy, fate in (
        (36, 37, lambda data: data, "exact_duplicate"),
        (38, 39, again, "near_duplicate"),
    ):
        rank = stable_hashes([str(photos[first].id), str(photos[second].id)], seed)
        pair = [photos[first], photos[second]]
        earlier, later = pair if rank[0] < rank[1] else pair[::-1]
        data = picture(first, (160, 120))
        fates += [Fate(earlier, "kept", data), Fate(later, fate, copy(data))]
    return fates


FATES = collection()
LISTED = [fate.photo for fate in FATES]
STORED = [replace(fate.photo, image=fate.image) for fate in FATES if fate.image is not None]
KEPT = {str(fate.photo.id): fate for fate in FATES if fate.fate == "kept"}
FLAGS = ("--val-fraction=0.2", "--shard-size=10", "--min-size=32", "--image-size=40")


def build(flags: Sequence[str], output: Path, *more: str) -> int:
    return main([*flags, "--output", str(output), *more])


class Stop(RuntimeError):
    """Stands for the end of a process."""


def stop_at(patch: pytest.MonkeyPatch, where: object, name: str, call: int = 0) -> list[str]:
    """Ends the process at the n-th call of a function; tells what each was called with."""
    calls: list[str] = []
    original = getattr(where, name)

    def stopping(*arguments: object, **more: object) -> object:
        calls.append(str(arguments[0]))
        if len(calls) == call:
            raise Stop
        return original(*arguments, **more)

    patch.setattr(where, name, stopping)
    return calls
