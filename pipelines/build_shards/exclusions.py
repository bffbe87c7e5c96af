"""Keeps the photos of benchmarks, and all photos by their photographers, out of the training data.

Photographers are excluded as well as photos because their other pictures show the same places on
the same day: Im2GPS3k and YFCC26k share 34 photographers, who took 864 of Im2GPS3k's 2,997 photos.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import unquote

from locdiffusion.photos import lists
from locdiffusion.photos.storage import DataError
from pipelines.sources.record import Drop, Record, photo_id
from schemas.training import DropReason

EXCLUDED_ID = lists.Column(
    lists.PHOTO_ID.what,
    tuple(
        dict.fromkeys(
            ("img_id", "image_id", "photo_id", "id", "path", "key", *lists.PHOTO_ID.names)
        )
    ),
)
"""Columns of ids; unlike in a benchmark's list, a path counts before the name of a file."""


@dataclass(frozen=True)
class ExcludedList:
    """Photos and photographers of one list.

    Attributes:
        name: Name of the file.
        sha256: SHA-256 of the file, by which a resumed build notices another list.
        ids: Normalised ids of the photos.
        authors: Normalised ids of the photographers; empty where the list has none.
    """

    name: str
    sha256: str
    ids: frozenset[str]
    authors: frozenset[str]


def author_id(author: str) -> str:
    """Returns a photographer's id in the spelling in which ids are compared."""
    return unquote(author).strip()


@dataclass(frozen=True)
class Exclusions:
    """Photos and photographers of all lists together.

    Attributes:
        lists: Lists in the order in which they were given.
    """

    lists: tuple[ExcludedList, ...] = ()
    _ids: frozenset[str] = field(init=False, repr=False, compare=False)
    _authors: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        union: frozenset[str] = frozenset()
        object.__setattr__(self, "_ids", union.union(*(one.ids for one in self.lists)))
        object.__setattr__(self, "_authors", union.union(*(one.authors for one in self.lists)))

    def check(self, record: Record) -> Drop | None:
        """Returns the drop of a record that is excluded, or None."""
        if (photo := photo_id(record.key)) in self._ids:
            why = f"photo {photo} is in {self._named('ids', photo)}"
            return Drop(record.key, DropReason.EXCLUDED_ID, why)
        if self._authors and (author := author_id(record.author)) in self._authors:
            why = f"photographer {author} is in {self._named('authors', author)}"
            return Drop(record.key, DropReason.EXCLUDED_AUTHOR, why)
        return None

    def _named(self, what: str, value: str) -> str:
        return ", ".join(one.name for one in self.lists if value in getattr(one, what))


def read_exclusions(urls: Iterable[str]) -> Exclusions:
    """Reads lists of what must not be learnt.

    Args:
        urls: Paths or URLs of lists that `locdiffusion.photos.lists` reads, or of text files with
            one id per line.

    Raises:
        DataError: A list is missing, or a line of it has no id: a list with holes is worse than
            none.
    """
    return Exclusions(tuple(read_list(url) for url in urls))


def read_list(url: str) -> ExcludedList:
    """Reads one list; see `read_exclusions`."""
    rows = lists.read_list(url)
    header = rows.table.column_names
    bare = len(header) == 1 and not rows.has(EXCLUDED_ID)  # a file of ids without a header
    ids = [header[0], *rows.table.column(0).to_pylist()] if bare else rows.ids(EXCLUDED_ID)
    authors = rows.text(lists.PHOTOGRAPHER) if rows.has(lists.PHOTOGRAPHER) else []
    if not ids:
        raise DataError(f"{url} names no photo; check that it is the right file.")
    return ExcludedList(
        url.rstrip("/").rpartition("/")[2],
        rows.sha256,
        frozenset(photo_id(key.strip()) for key in ids),
        frozenset(map(author_id, authors)) - {""},
    )
