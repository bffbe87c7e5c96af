"""Lists of photos or places: CSV, tab-separated text or Parquet, with columns by their names.

A column is known by any of several names, in capitals or not; the first name that is there counts.
Benchmarks, galleries and lists of photos that must not be learnt are all read here.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from locdiffusion.isolation.parquet import ParquetError, read_parquet
from locdiffusion.photos.storage import DataError, open_stream

_AROUND_NAMES = "\ufeff \t\r\n\"'"
PARQUET_ENDINGS = (".parquet", ".geoparquet", ".pq")


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
            raise DataError(
                f"{self.place(wrong[0])}: {values[wrong[0]].as_py()!r} is no {column.what} from "
                f"{least:g}° to {most:g}° ({len(wrong):,} such rows of {len(self):,}); mend or "
                "drop it. Are the columns swapped, or projected?"
            )
        return angles

    def _values(self, column: Column) -> pa.ChunkedArray:
        index = column.index(self.table.column_names)
        if index is None:
            raise DataError(
                f"{self.url} has the columns {self.table.column_names[:12]}, none of which is "
                f"known as the {column.what}; rename it to one of {', '.join(column.names)}."
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
    try:
        with open_stream(url) as file:
            data = file.read()
        digest = hashlib.sha256(data).hexdigest()
        if url.lower().endswith(PARQUET_ENDINGS):
            table = read_parquet(data)
            return NamedColumns(url, digest, table, range(1, len(table) + 1))
        text = data.decode("utf-8-sig")
        delimiter = "\t" if "\t" in text.partition("\n")[0] else ","
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error, ParquetError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"{url} cannot be read ({type(error).__name__}: {reason}); want a CSV or Parquet file."
        ) from error
    if not rows:
        raise DataError(f"{url} is empty; check that it is the right file.")
    header = rows[0][1]
    for line, row in rows:
        if len(row) != len(header):
            raise DataError(
                f"{url}, line {line}: {','.join(row)[:80]!r}, wanted {len(header)} columns; repair "
                "the list."
            )
    columns = [pa.array([row[i] for _, row in rows[1:]], pa.string()) for i in range(len(header))]
    table = pa.Table.from_arrays(columns, header)
    return NamedColumns(url, digest, table, [line for line, _ in rows[1:]])


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return np.nan
