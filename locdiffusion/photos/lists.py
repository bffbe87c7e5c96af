"""Lists of photos or places: CSV, tab-separated text or Parquet, with columns by their names.

A column is known by any of several names, in capitals or not; the first name that is there counts.
Benchmarks, galleries and lists of photos that must not be learnt are all read here.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import itertools
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from locdiffusion.isolation.parquet import ParquetError, read_parquet
from locdiffusion.photos.storage import DataError, open_stream

_AROUND_NAMES = "\ufeff \t\r\n\"'"
PARQUET_ENDINGS = (".parquet", ".geoparquet", ".pq")
MAX_LIST_BYTES = 2**31
"""Lists are held in memory; that of MP-16 has 0.4 GB."""
MAX_ROW_LENGTH, MAX_COLUMNS = 2**20, 10_000
"""Most characters and cells of a row; a row of YFCC100M's list has 100,000 at most."""
CELLS_AT_ONCE = 2**15


@dataclass(frozen=True)
class Column:
    """One kind of column.

    Attributes:
        what: Its content, for messages.
        names: Names that such a column may have, in lower case.
    """

    what: str
    names: tuple[str, ...]

    def index(self, header: Sequence[str]) -> int | None:
        """Finds the column in a header: of its names the first that is there; None if none is."""
        found = [name.strip(_AROUND_NAMES).lower() for name in header]
        return next((found.index(name) for name in self.names if name in found), None)


PHOTO_ID = Column(
    "photo's id",
    (
        *("img_id", "image_id", "photo_id", "id", "img_file", "image", "filename", "file"),
        *("key", "path"),
    ),
)
PHOTOGRAPHER = Column("photographer", ("author", "user_nsid", "user_id", "owner", "nsid"))
LATITUDE = Column("latitude", ("latitude", "lat", "truth_latitude", "gt_lat"))
LONGITUDE = Column("longitude", ("longitude", "lon", "lng", "long", "truth_longitude", "gt_lon"))


@dataclass(frozen=True)
class NamedColumns:
    """The rows of a list.

    Attributes:
        url: Path or URL of the list.
        sha256: SHA-256 of the bytes of the file.
        table: Columns as they are stored; those of a text file are strings.
        lines: Numbers of the N rows in the file, for messages.
    """

    url: str
    sha256: str
    table: pa.Table
    lines: Sequence[int]

    def __len__(self) -> int:
        """Number of rows N."""
        return len(self.lines)

    def place(self, row: int) -> str:
        """Returns a name for a row, for messages."""
        return f"{self.url}, line {self.lines[row]}"

    def has(self, column: Column) -> bool:
        """Returns whether the list has a column of this kind."""
        return column.index(self.table.column_names) is not None

    def text(self, column: Column) -> list[str]:
        """Returns the N values of a column as stripped text, empty where there is none.

        Raises:
            DataError: The list has no such column.
        """
        values = self._values(column).to_pylist()
        return ["" if value is None else str(value).strip() for value in values]

    def ids(self, column: Column = PHOTO_ID) -> list[str]:
        """Returns the ids of the N photos.

        Args:
            column: Names of the column of ids, in the order in which the caller believes them.

        Raises:
            DataError: The list has no ids, or a row has none.
        """
        ids = self.text(column)
        if "" in ids:
            raise DataError(f"{self.place(ids.index(''))}: no id; want a line per photo.")
        return ids

    def degrees(self, column: Column, least: float, most: float) -> NDArray[np.float64]:
        """Returns the N angles of a column in degrees.

        Args:
            column: LATITUDE or LONGITUDE.
            least: Smallest angle that is possible.
            most: Largest angle that is possible.

        Raises:
            DataError: The list has no such column, or a row has no such angle.
        """
        values = self._values(column)
        if pa.types.is_floating(values.type) or pa.types.is_integer(values.type):
            angles = values.cast(pa.float64()).to_numpy()
        else:
            angles = np.fromiter(map(_number, values.to_pylist()), np.float64, len(values))
        wrong = np.flatnonzero(~((angles >= least) & (angles <= most)))  # NaN is wrong as well
        if len(wrong):
            found = repr(values[wrong[0]].as_py())[:80]
            raise DataError(
                f"{self.place(wrong[0])}: {found} is no {column.what} from {least:g}° to {most:g}° "
                f"({len(wrong):,} such rows of {len(self):,}); mend or drop it. Are the columns "
                "swapped, or projected?"
            )
        return angles

    def _values(self, column: Column) -> pa.ChunkedArray:
        index = column.index(self.table.column_names)
        if index is None:
            found = [name[:40] for name in self.table.column_names[:12]]
            raise DataError(
                f"{self.url} has the columns {found}, none of which is known as the {column.what}; "
                f"rename it to one of {', '.join(column.names)}."
            )
        return self.table.column(index)


def read_list(url: str) -> NamedColumns:
    """Reads a list with a header.

    Args:
        url: Path of the file, or a URL that fsspec opens.

    Raises:
        DataError: The file cannot be read, is empty, or a line of it has other columns than the
            header: a list with holes is worse than none.
    """
    with list_errors(url):
        with open_stream(url) as file:
            data = file.read(MAX_LIST_BYTES + 1)
        if len(data) > MAX_LIST_BYTES:
            raise csv.Error(f"it has more than {MAX_LIST_BYTES:,} bytes")
        digest = hashlib.sha256(data).hexdigest()
        if url.lower().endswith(PARQUET_ENDINGS):
            table = read_parquet(data)
            return NamedColumns(url, digest, table, range(1, len(table) + 1))
        batches, lines = zip(*text_batches(url, io.BytesIO(data)), strict=True)
        numbers = array("q", itertools.chain.from_iterable(lines))
        return NamedColumns(url, digest, pa.Table.from_batches(batches), numbers)


@contextlib.contextmanager
def list_errors(url: str) -> Iterator[None]:
    """Turns what reading a list raises into a DataError that names it."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise DataError(
            f"{url} cannot be read as UTF-8: byte {error.start} of what was read is none; save it "
            "anew with that encoding (`CSV UTF-8` in a spreadsheet)"
        ) from error
    except (OSError, csv.Error, ParquetError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"{url} cannot be read ({type(error).__name__}: {reason}); want a CSV or Parquet file."
        ) from error


def text_batches(url: str, file: BinaryIO) -> Iterator[tuple[pa.RecordBatch, array[int]]]:
    """Parses separated text in batches, so that its cells are objects of Python for moments.

    Args:
        url: Name of the file, for messages.
        file: The file, which can be read from its beginning twice.

    Yields:
        Rows as columns of text, and the number of the line of each; one batch at least.

    Raises:
        DataError: The file is empty, or a line has other columns than the header.
        csv.Error: A row or the header is too long.
        UnicodeDecodeError: It is not UTF-8.
    """
    parsed = _parsed(file)
    header = next((row for _, row in parsed), None)
    if header is None:
        raise DataError(f"{url} is empty; check that it is the right file.")
    if len(header) > MAX_COLUMNS:
        raise csv.Error(f"it has {len(header):,} columns, wanted at most {MAX_COLUMNS:,}")
    schema = pa.schema([(name, pa.string()) for name in header])
    some = list(_some(parsed))
    if not some:
        yield pa.RecordBatch.from_pylist([], schema), array("q")
    while some:
        lines = array("q")
        for line, row in some:
            if len(row) != len(header):
                raise DataError(
                    f"{url}, line {line}: {','.join(row)[:80]!r}, wanted {len(header)} columns; "
                    "repair the list."
                )
            lines.append(line)
        cells = zip(*(row for _, row in some), strict=True)
        columns = [pa.array(column, pa.string()) for column in cells]
        yield pa.RecordBatch.from_arrays(columns, schema=schema), lines
        some = list(_some(parsed))


def _parsed(data: BinaryIO) -> Iterator[tuple[int, list[str]]]:
    """Yields the rows that hold anything, with the number of their last line."""
    file = io.TextIOWrapper(data, "utf-8-sig", newline="")
    header = file.readline(MAX_ROW_LENGTH)
    delimiter = next((mark for mark in "\t,;" if mark in header), ",")
    file.seek(0)
    length = 0

    def lines() -> Iterator[str]:
        nonlocal length
        while line := file.readline(MAX_ROW_LENGTH):
            length += len(line)  # of the row, which may have several lines
            if length >= MAX_ROW_LENGTH:
                raise csv.Error(f"a row has more than {MAX_ROW_LENGTH:,} characters")
            yield line

    reader = csv.reader(lines(), delimiter=delimiter)
    for row in reader:
        length = 0
        if any(cell.strip() for cell in row):
            yield reader.line_num, row


def _some(rows: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
    cells = 0
    for line, row in rows:
        yield line, row
        cells += len(row)
        if cells >= CELLS_AT_ONCE:
            return


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return np.nan
