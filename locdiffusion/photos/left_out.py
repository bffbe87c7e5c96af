"""Counts the files of an archive that are not read, by kind, so that a run can tell all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from locdiffusion.photos.names import OTHER_KINDS, is_archive, left_out_kind

PICTURE_KINDS = frozenset(
    f".{ending}"
    for ending in (
        *("cr2", "cr3", "crw", "nef", "nrw", "arw", "sr2", "srf", "dng", "raf", "orf", "rw2"),
        *("pef", "srw", "x3f", "3fr", "iiq", "rwl", "raw", "psd", "psb", "xcf", "ai", "eps"),
        *("svg", "svgz", "jxl", "jxr", "exr", "hdr", "tga", "ico", "insp", "heics", "heifs"),
        *("avifs", "jng", "mng", "pcx", "ppm", "pgm", "pbm", "pnm", "dcm", "fits"),
    )
)
"""Kinds of pictures that are not read: of these a person wants to know first."""

MOST_NAMED = 20

MOST_KINDS = 200
"""Most kinds that are told apart: archives have some dozens."""


def number(count: int, noun: str) -> str:
    """Returns a number with its noun: `1 photo`, `1,204 photos`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


@dataclass
class LeftOut:
    """Files that are not read.

    Attributes:
        counts: Number of files by kind: `.mov`, `._*`, `@eaDir/`, `without ending`, ...
        named: The first `MOST_NAMED` that a person should look at: archives within folders,
            links that are not followed.
    """

    counts: Counter[str] = field(default_factory=Counter)
    named: list[str] = field(default_factory=list)

    def add(self, path: str, kind: str | None = None, named: bool = False) -> None:
        """Counts a file.

        Args:
            path: Path of the file, as a person knows it.
            kind: Kind to count it under, if its name does not tell.
            named: Whether to keep its name; archives always are.
        """
        self._count(kind or left_out_kind(path), 1)
        if (named or (kind is None and is_archive(path))) and len(self.named) < MOST_NAMED:
            self.named.append(path)

    def _count(self, kind: str, files: int) -> None:
        known = kind in self.counts or len(self.counts) < MOST_KINDS
        self.counts[kind if known else OTHER_KINDS] += files

    def update(self, other: LeftOut) -> None:
        """Adds what was left out elsewhere."""
        for kind, files in other.counts.items():
            self._count(kind, files)
        self.named += other.named[: MOST_NAMED - len(self.named)]

    @property
    def total(self) -> int:
        """Number of files."""
        return self.counts.total()

    def kinds(self) -> list[tuple[str, int]]:
        """Returns all kinds with their numbers: pictures, archives, then the most frequent."""
        return sorted(
            self.counts.items(),
            key=lambda one: (
                one[0] not in PICTURE_KINDS,
                not is_archive(f"a{one[0]}"),
                -one[1],
                one[0],
            ),
        )

    def __str__(self) -> str:
        """All kinds in words, and the names that were kept; empty if nothing was left out."""
        text = ", ".join(f"{count:,} {kind}" for kind, count in self.kinds())
        return f"{text}; by name: {', '.join(sorted(self.named))}" if self.named else text

    def to_dict(self) -> dict[str, Any]:
        """Returns the record as JSON has it: `total`, `by_kind`, `named`."""
        return {"total": self.total, "by_kind": dict(self.kinds()), "named": sorted(self.named)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> LeftOut:
        """Reads what `to_dict` returned."""
        return cls(Counter(record.get("by_kind", {})), list(record.get("named", ())))

    @classmethod
    def joined(cls, parts: Iterable[LeftOut]) -> LeftOut:
        """Adds up the records of several places."""
        total = cls()
        for part in parts:
            total.update(part)
        return total
