"""Says which photos are an album: those of one folder, of one camera, or of both.

Photos of an album place each other, so an album must be what one person carried. Two cameras of
one folder may be of two people; and two phones of one model, which tell no serial number, seem to
be one camera. Knows no Beam.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import takewhile

ALL_PHOTOS = "all photos"
ROOT = "."
"""Name of the folder of photos that lie in none."""


class Kind(str, Enum):
    """What the photos of an album have in common."""

    FOLDER = "folder"
    TOP_FOLDER = "top-folder"
    CAMERA = "camera"
    NONE = "none"


@dataclass(frozen=True)
class AlbumBy:
    """How photos are grouped.

    Attributes:
        kinds: What the photos of an album have in common.

    Raises:
        ValueError: Nothing is given, two kinds of folder, or something besides `none`.
    """

    kinds: frozenset[Kind]

    def __post_init__(self) -> None:
        """Checks that the kinds can be meant together."""
        both = {Kind.FOLDER, Kind.TOP_FOLDER} <= self.kinds
        if not self.kinds or both or (Kind.NONE in self.kinds and len(self.kinds) > 1):
            raise ValueError(
                f"{self} groups no photos; want folder, top-folder or none, and camera besides a "
                "folder or alone, such as folder,camera"
            )

    @classmethod
    def parse(cls, text: str) -> AlbumBy:
        """Reads kinds with commas between them.

        Raises:
            ValueError: A kind is unknown, or they cannot be meant together.
        """
        words = [word.strip() for word in text.split(",")]
        known = [kind.value for kind in Kind]
        if unknown := [word for word in words if word not in known]:
            raise ValueError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return cls(frozenset(map(Kind, words)))

    def __str__(self) -> str:
        """The kinds with commas between them, as `parse` reads them."""
        return ",".join(kind.value for kind in Kind if kind in self.kinds)

    def names(
        self, folders: Sequence[str], cameras: Sequence[str | None], above: str = ""
    ) -> list[str]:
        """Names the album of each of N photos.

        Args:
            folders: Folder of each photo, with slashes; empty for none.
            cameras: Camera of each photo, None or empty where it is unknown. Photos of unknown
                cameras are albums by folder.
            above: Path above the top folders; empty where these begin the path.
        """
        if Kind.NONE in self.kinds:
            return [ALL_PHOTOS] * len(folders)
        if Kind.TOP_FOLDER in self.kinds:
            folders = [_top(folder, above) for folder in folders]
        if Kind.CAMERA not in self.kinds:
            return [folder or ROOT for folder in folders]
        if self.kinds == {Kind.CAMERA}:
            pairs = zip(folders, cameras, strict=True)
            return [f"camera {camera}" if camera else folder or ROOT for folder, camera in pairs]
        return [
            f"{folder or ROOT} ({camera})" if camera else folder or ROOT
            for folder, camera in zip(folders, cameras, strict=True)
        ]


def _top(folder: str, above: str) -> str:
    """Cuts a folder behind the first one below a path; that path itself stays."""
    if folder == above:
        return folder
    start = len(above) + 1 if folder.startswith(f"{above}/") else 0
    end = folder.find("/", start)
    return folder if end < 0 else folder[:end]


def path_in_common(folders: Iterable[str]) -> str:
    """Path above the first folder in which several paths differ; empty for none."""
    steps = zip(*(folder.split("/") for folder in set(folders)), strict=False)
    return "/".join(step[0] for step in takewhile(lambda step: len(set(step)) == 1, steps))


FOLDER_AND_CAMERA = AlbumBy(frozenset({Kind.FOLDER, Kind.CAMERA}))
FOLDER_ALONE = AlbumBy(frozenset({Kind.FOLDER}))


def labels(roots: Collection[str]) -> dict[str, str]:
    """Names places by their last folder, or by the whole path where several have the same one."""
    last = {root: root.rstrip("/").rpartition("/")[2] for root in roots}
    taken = list(last.values())
    return {root: name if taken.count(name) == 1 else root for root, name in last.items()}
