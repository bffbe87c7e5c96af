"""The leak guard: no photo of a benchmark in the training data, and no other photo by its authors.

Photographers are guarded as well as photos because their other pictures show the same places on the
same day: Im2GPS3k and YFCC26k share 34 of them, and with them 864 of Im2GPS3k's 2,997 photos.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import unquote

from locdiffusion.photos.storage import DataError, open_stream
from pipelines.sources.record import Drop, Record, photo_id
from schemas.training import DropReason

ID_COLUMNS = ("img_id", "image_id", "photo_id", "id", "path", "key")
AUTHOR_COLUMNS = ("author", "user_nsid", "user_id", "owner", "nsid")


@dataclass(frozen=True)
class GuardList:
    """What one list tells.

    Attributes:
        name: Of the file.
        sha256: Of its bytes, so that a resumed build notices another list.
        ids: Normalised.
        authors: Normalised; empty where the list has none.
    """

    name: str
    sha256: str
    ids: frozenset[str]
    authors: frozenset[str]


def author_id(author: str) -> str:
    """A photographer's id in the one spelling in which they are compared."""
    return unquote(author).strip()


@dataclass(frozen=True)
class Guard:
    """Ids and authors of all lists together.

    Attributes:
        lists: In the order given.
    """

    lists: tuple[GuardList, ...] = ()
    _ids: frozenset[str] = field(init=False, repr=False, compare=False)
    _authors: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        union: frozenset[str] = frozenset()
        object.__setattr__(self, "_ids", union.union(*(one.ids for one in self.lists)))
        object.__setattr__(self, "_authors", union.union(*(one.authors for one in self.lists)))

    def check(self, record: Record) -> Drop | None:
        """Why a record would leak; None if it would not."""
        if (photo := photo_id(record.key)) in self._ids:
            why = f"photo {photo} is in {self._named('ids', photo)}"
            return Drop(record.key, DropReason.EXCLUDED_ID, why)
        if self._authors and (author := author_id(record.author)) in self._authors:
            why = f"photographer {author} is in {self._named('authors', author)}"
            return Drop(record.key, DropReason.EXCLUDED_AUTHOR, why)
        return None

    def _named(self, what: str, value: str) -> str:
        return ", ".join(one.name for one in self.lists if value in getattr(one, what))


def read_guard(urls: Iterable[str]) -> Guard:
    """Reads lists: benchmarks' CSVs with a header, or text with one id per line.

    Args:
        urls: Of the lists, anywhere fsspec reads.

    Raises:
        DataError: If one is missing, or is not such a list in every line: a guard with holes is
            worse than none.
    """
    return Guard(tuple(read_list(url) for url in urls))


def read_list(url: str) -> GuardList:
    """Reads one list; see `read_guard`."""
    try:
        with open_stream(url) as file:
            data = file.read()
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"--exclude {url} cannot be read ({type(error).__name__}: {error}); check the path"
        ) from error
    rows = [row for row in csv.reader(io.StringIO(text)) if any(cell.strip() for cell in row)]
    id_column, author_column, first = _columns(url, rows)
    ids, authors = set(), set()
    for number, row in enumerate(rows[first:], start=first + 1):
        if len(row) != len(rows[0]) or not row[id_column].strip():
            raise DataError(
                f"--exclude {url}: row {number} is {','.join(row)[:80]!r}, wanted "
                f"{len(rows[0])} columns and an id; repair the list"
            )
        ids.add(photo_id(row[id_column].strip()))
        if author_column is not None and (author := author_id(row[author_column])):
            authors.add(author)
    if not ids:
        raise DataError(f"--exclude {url} names no photo; check that it is the right file")
    name = url.rstrip("/").rpartition("/")[2]
    return GuardList(name, hashlib.sha256(data).hexdigest(), frozenset(ids), frozenset(authors))


def _columns(url: str, rows: list[list[str]]) -> tuple[int, int | None, int]:
    """Where the ids are, where the authors are, and which row is the first that is no header."""
    if not rows:
        raise DataError(f"--exclude {url} is empty; check that it is the right file")
    header = [cell.strip().lower() for cell in rows[0]]
    found = next((header.index(name) for name in ID_COLUMNS if name in header), None)
    if found is not None:
        author = next((header.index(name) for name in AUTHOR_COLUMNS if name in header), None)
        return found, author, 1
    if len(header) > 1:
        raise DataError(
            f"--exclude {url} has the columns {', '.join(rows[0])[:120]}, wanted one of "
            f"{', '.join(ID_COLUMNS)} and, to guard photographers too, one of "
            f"{', '.join(AUTHOR_COLUMNS)}; add a header"
        )
    return 0, None, 0
