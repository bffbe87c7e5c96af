"""Tables of photos: a row for each, with its place and perhaps key, position, time and prior.

A table is CSV, tab-separated text or Parquet, with columns by their names: a URI, and if there are
such columns `key`, `latitude` and `longitude` (the known position), `captured_at` and `prior`. A
table may come from anybody. What it lists is a name: a path below the folder of the table, or a
place in a bucket; a path that leads out of the folder is read only where links out of folders are
followed, and no web address is.

Rows are cut into groups where the hash of a URI says so, as photos in folders are: a row that is
added or changed changes its group and no other. A job knows a group by its range of rows and their
digest. Whoever needs a table reads it in parts, once per process, into a file of Arrow in the
temporary folder, which is mapped and deleted: of a table of millions of rows hardly any memory is
taken, and a group is a slice. Knows no Beam.
"""

from __future__ import annotations

import functools
import hashlib
import os
import posixpath
import tempfile
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from locdiffusion.isolation.parquet import ParquetError, row_groups
from locdiffusion.photos.folder import PhotoFile
from locdiffusion.photos.lists import (
    LATITUDE,
    LONGITUDE,
    MAX_LIST_BYTES,
    PARQUET_ENDINGS,
    Column,
    list_errors,
    text_batches,
)
from locdiffusion.photos.names import MAX_NAME_LENGTH
from locdiffusion.photos.storage import DataError, open_stream, version

ENDINGS = (".csv", ".tsv", *PARQUET_ENDINGS)
GROUP_MEAN, GROUP_MOST = 512, 1024
BUCKETS = ("gs", "s3")
"""Protocols of places that a table may list."""
ROWS_AT_ONCE = 2**16
BLOCK_BYTES = 2**20

URI = Column(
    "place of the photo",
    (
        *("uri", "url", "image_uri", "image_url", "path", "image_path", "file_path", "filepath"),
        *("image", "photo", "filename", "file_name", "file", "img_file", "key"),
    ),
)
COLUMNS = {
    "uri": URI,
    "key": Column("key", ("key",)),
    "prior": Column("prior", ("prior",)),
    "latitude": LATITUDE,
    "longitude": LONGITUDE,
    "captured_at": Column("capture time", ("captured_at",)),
}
_SCHEMA = pa.schema([(name, pa.string()) for name in COLUMNS])


class TableRow(NamedTuple):
    """A row of a table; what it does not tell is empty.

    Attributes:
        uri: Place of the photo as it stands in the table.
        key: Key of the photo: its own, or else its place; ends in `#2` where it comes again.
        prior: Where the photo may come from.
        latitude: Latitude where it was taken, as text.
        longitude: Longitude where it was taken.
        captured_at: Time at which it was taken.
        repeats: Number of rows before this one with the same key.
    """

    uri: str
    key: str
    prior: str
    latitude: str
    longitude: str
    captured_at: str
    repeats: int


@dataclass(frozen=True)
class TableGroup:
    """Rows of a table that are done together; small, whatever the rows hold.

    Attributes:
        url: Path or URL of the table.
        first: Number of the first row, from 0.
        count: Number of rows.
        digest: Digest of all that the rows say.
        files: Digest of what changes when a photo on this machine is written again.
        follow_links: Whether what lies outside of the folder of the table is read.
        apart: Parts of the table's path that tell it from its `twins`; 0 if it has none.
    """

    url: str
    first: int
    count: int
    digest: str
    files: str
    follow_links: bool = False
    apart: int = 0

    @property
    def version(self) -> str:
        """What changes when a row does, or a photo on this machine; others are not looked at."""
        return self.digest + self.files + (f"+{self.apart}" if self.apart else "")

    def rows(self) -> list[TableRow]:
        """Reads the rows.

        Raises:
            DataError: The table cannot be read, or it has changed since it was listed.
        """
        found = open_table(self.url).rows(self.first, self.count)
        if _digest(found) != self.digest:
            raise DataError(
                f"{self.url} has changed since it was listed; type the same command again"
            )
        return found


class Place(NamedTuple):
    """Where the photo of a row lies, or why it is not looked for."""

    photo: PhotoFile | None
    problem: str = ""


def is_table(url: str) -> bool:
    """Returns whether a file that was named is a table, by its ending."""
    return url.lower().endswith(ENDINGS)


def list_groups(url: str, follow_links: bool = False) -> Iterator[tuple[str, TableGroup]]:
    """Cuts a table into groups of about `GROUP_MEAN` rows, `GROUP_MOST` at most.

    Args:
        url: Path or URL of the table.
        follow_links: Whether what lies outside of the folder of the table is read.

    Yields:
        A mark of ten digits that depends on the keys of the rows alone, and the group.

    Raises:
        DataError: The table cannot be read, has no column of places, or no rows.
    """
    table = open_table(url)
    if not len(table):
        raise DataError(f"{url} has no rows; check that it is the right file")
    seen: Counter[str] = Counter()
    rows: list[TableRow] = []
    first = 0
    for start in range(0, len(table), ROWS_AT_ONCE):
        for row in table.rows(start, ROWS_AT_ONCE):
            rows.append(row)
            cut = zlib.crc32(row.uri.encode()) % GROUP_MEAN == 0
            if cut or len(rows) == GROUP_MOST:
                yield _group(url, first, rows, seen, follow_links)
                first, rows = first + len(rows), []
    if rows:
        yield _group(url, first, rows, seen, follow_links)


def _group(
    url: str, first: int, rows: Sequence[TableRow], seen: Counter[str], follow_links: bool
) -> tuple[str, TableGroup]:
    mark = _digest([row.key for row in rows])[:10]
    seen[mark] += 1
    if seen[mark] > 1:  # the same rows stand there again
        mark = _digest([mark, seen[mark]])[:10]
    places = (place_of(row, url, follow_links).photo for row in rows)
    files = _digest([photo.version() for photo in places if photo and "://" not in photo.folder])
    return mark, TableGroup(url, first, len(rows), _digest(rows), files[:8], follow_links)


def place_of(row: TableRow, table: str, follow_links: bool) -> Place:
    """Finds where the photo of a row lies; opens nothing.

    Args:
        row: Row of a table.
        table: Path or URL of the table.
        follow_links: Whether what lies outside of the folder of the table is read.
    """
    uri, folder = row.uri, table.rpartition("/")[0]
    if not uri or "\0" in uri or len(uri) > MAX_NAME_LENGTH:
        what = "names no photo" if not uri else "names no place of a file"
        return Place(None, f"{what} ({len(uri)} characters, limit {MAX_NAME_LENGTH:,})")
    protocol, joined, _ = uri.partition("://")
    if "::" in uri and (joined or "://" in table):
        return Place(None, "has '::' in a place; copy the file, and name it without")
    if joined and protocol.lower() in ("http", "https"):
        return Place(None, "is on the web, from where nothing is read here; download it first")
    if joined and protocol not in BUCKETS:
        return Place(None, f"has the protocol {protocol[:20]!r}, wanted a path, gs:// or s3://")
    if joined:
        above, name = uri.rsplit("/", 1)
        return Place(PhotoFile(above, name, mark=uri))
    inside = posixpath.normpath(uri.removeprefix(f"{folder}/") if "://" not in table else uri)
    if not inside.startswith(("/", "../")) and inside not in ("..", "."):
        return Place(PhotoFile(folder, inside, follow_links=follow_links))
    if "://" in table or not follow_links:
        why = f"lies outside of the folder of its table, {folder or '/'}; move the table"
        return Place(None, why if "://" in table else f"{why}, or trust it with --follow-links")
    above, name = os.path.split(os.path.join(folder or "/", inside))
    return Place(PhotoFile(above.rstrip("/"), name, follow_links=True))


class PhotoTable:
    """A table whose cells are text, mapped from a file.

    Args:
        url: Path or URL of the table.

    Raises:
        DataError: The table cannot be read, or has no column of places.
    """

    def __init__(self, url: str) -> None:
        with tempfile.TemporaryDirectory(prefix="locdiffusion-") as folder:
            path = os.path.join(folder, "rows.arrow")
            with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as file:
                for batch in _batches(url, folder):
                    file.write_batch(batch)
            self._table = pa.ipc.open_file(pa.memory_map(path)).read_all()
        self._repeats = self._repeated()

    def __len__(self) -> int:
        return len(self._table)

    def rows(self, first: int, count: int) -> list[TableRow]:
        """Returns rows by the number of the first, from 0, and how many."""
        part = self._table.slice(first, count)
        repeats = self._repeats[first : first + count].tolist()
        keys = [f"{key}#{n + 1}" if n else key for key, n in zip(_keys(part), repeats, strict=True)]
        cells = {name: part[name].to_pylist() for name in COLUMNS} | {"key": keys}
        return list(map(TableRow._make, zip(*cells.values(), repeats, strict=True)))

    def _repeated(self) -> NDArray[np.int64]:
        """Counts for each row the rows before it that have its key."""
        starts = range(0, len(self), ROWS_AT_ONCE)
        hashes = np.concatenate(
            [
                np.fromiter(map(hash, _keys(self._table.slice(start, ROWS_AT_ONCE))), np.int64)
                for start in starts
            ]
            or [np.zeros(0, np.int64)]
        )
        order = np.argsort(hashes, kind="stable")
        begins = np.append(True, hashes[order][1:] != hashes[order][:-1])[: len(order)]
        run = np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))
        repeats = np.empty(len(order), np.int64)
        repeats[order] = np.arange(len(order)) - run
        return repeats


def _keys(table: pa.Table) -> list[str]:
    pairs = zip(table["key"].to_pylist(), table["uri"].to_pylist(), strict=True)
    return [key or _plain(uri) or "(no place)" for key, uri in pairs]


def _plain(uri: str) -> str:
    """One spelling for `a.jpg` and `./a.jpg`: that of a folder in which the photo lies."""
    return uri if "://" in uri or not uri else posixpath.normpath(uri)


def _digest(values: Sequence[object]) -> str:
    return hashlib.sha256(repr(values).encode("utf-8", "backslashreplace")).hexdigest()[:32]


_LOCK = threading.Lock()


def open_table(url: str) -> PhotoTable:
    """Opens a table; the last two that were opened are kept until their files change.

    Raises:
        DataError: The table cannot be read, or has no column of places.
    """
    with _LOCK:
        return _opened(url, repr(version(url)))


@functools.lru_cache(maxsize=2)
def _opened(url: str, _: str) -> PhotoTable:
    return PhotoTable(url)


def _batches(url: str, folder: str) -> Iterator[pa.RecordBatch]:
    """Reads the columns of a table as text, part by part.

    Args:
        url: Path or URL of the table.
        folder: Folder for a copy of a table that lies elsewhere.
    """
    with list_errors(url):
        path = _local(url, folder)
        chosen: dict[str, str] = {}

        def choose(names: Sequence[str]) -> list[str]:
            chosen.update(_chosen(url, names))
            return list(chosen.values())

        try:
            for part in _parts(path, url, choose):
                texts = [
                    _text(url, part, chosen[name]) if name in chosen else _empty(part)
                    for name in COLUMNS
                ]
                yield from pa.table(texts, schema=_SCHEMA).to_batches(ROWS_AT_ONCE)
        except pa.ArrowInvalid as error:
            raise ParquetError(str(error)) from error


def _parts(path: str, url: str, choose: Callable[[Sequence[str]], list[str]]) -> Iterator[pa.Table]:
    if url.lower().endswith(PARQUET_ENDINGS):
        yield from row_groups(path, choose)
        return
    with open(path, "rb") as file:
        for number, (batch, _) in enumerate(text_batches(url, file)):
            if not number:
                choose(batch.schema.names)
            yield pa.Table.from_batches([batch])


def _local(url: str, folder: str) -> str:
    """Returns the path of a table on this machine, or of a copy of it."""
    with open_stream(url) as source:
        if "://" not in url:
            return url
        path, size = os.path.join(folder, "copy"), 0
        with open(path, "wb") as copy:
            while block := source.read(BLOCK_BYTES):
                size += copy.write(block)
                if size > MAX_LIST_BYTES:
                    raise ParquetError(f"it has more than {MAX_LIST_BYTES:,} bytes; split it")
    return path


def _chosen(url: str, names: Sequence[str]) -> dict[str, str]:
    """Finds the names of the columns that are read, by what they hold."""
    found = {}
    for what, column in COLUMNS.items():
        index = column.index(names)
        if index is None:
            continue
        found[what] = names[index]
        known = next(one for one in column.names if Column("", (one,)).index(names) == index)
        if Column("", (known,)).index(names[index + 1 :]) is not None:
            raise DataError(f"{url} has two columns {known!r}; drop one")
    if "uri" not in found:
        shown = [name[:40] for name in names[:12]]
        raise DataError(
            f"{url} has the columns {shown}, none of which is known as the {URI.what}; rename it "
            f"to one of {', '.join(URI.names)}, or leave the file out if it lists no photos"
        )
    return found


def _text(url: str, part: pa.Table, name: str) -> pa.ChunkedArray:
    """Returns a column as stripped text, empty where there is nothing; long cells are cut."""
    column, types = part[name], pa.types
    kind = column.type
    if types.is_timestamp(kind) and kind.tz:
        column = column.cast(pa.timestamp(kind.unit, "UTC"))
    if not (types.is_string(kind) or types.is_large_string(kind)):
        if not (types.is_primitive(kind) or types.is_decimal(kind) or types.is_null(kind)):
            raise DataError(f"{url}: the column {name[:40]!r} holds {kind}, wanted text or numbers")
        column = column.cast(pa.string())
    cut = pc.utf8_slice_codeunits(column, 0, MAX_NAME_LENGTH + 1)
    text = pc.fill_null(pc.utf8_trim_whitespace(cut), "").cast(pa.string())
    text.validate(full=True)
    return text


def _empty(part: pa.Table) -> pa.Array:
    return pa.array([""] * len(part), pa.string())
