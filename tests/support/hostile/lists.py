"""Lists in text of few columns or none, whose rows would take many times their bytes."""

from __future__ import annotations

import gzip
from collections.abc import Callable

HEAD = b"id,latitude,longitude\n"

LISTS: dict[str, Callable[[], bytes]] = {
    "one line.csv": lambda: b"a" * 2**22,
    "one row.csv": lambda: HEAD + b"a" * 2**22 + b",1,2\n",
    "many columns.csv": lambda: b"a," * 2**19,
    "many cells.csv": lambda: HEAD + b"," * 2**22,
    "many cells.tsv": lambda: b"id\tlatitude\tlongitude\n" + b"\t" * 2**22,
    "a row of many lines.csv": lambda: HEAD + b'"a\nb",' * 2**19,
    "a quote without end.csv": lambda: HEAD + b'"' + b"a\n" * 2**20,
    "quotes.csv": lambda: HEAD + b'"' * 2**22,
    "returns.csv": lambda: b"id,latitude,longitude\r" + b"," * 2**22,
    "gzip.csv": lambda: gzip.compress(HEAD + b"1,2,3\n" * 2**20, mtime=0),
    "zeros.csv": lambda: bytes(2**22),
    "no UTF-8.csv": lambda: HEAD + b"\xff\xfe,1,2\n",
    "text.parquet": lambda: HEAD * 9,
}
"""By name: lists that cannot be read."""


def many_rows(rows: int) -> bytes:
    """A list of short rows."""
    return HEAD + b"".join(b"%d,%d,2\n" % (row, row % 90) for row in range(rows))
