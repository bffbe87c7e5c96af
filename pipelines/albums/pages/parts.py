"""Reads the parts of an albums job, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from locdiffusion.evaluate.known_positions import POSITION_COLUMNS, SOURCE_COLUMNS
from pipelines.geotag.shard_files import open_part
from pipelines.writing.directory import OutputDirectory
from schemas.albums import ALBUM_SCHEMA, ALBUMS, ALONE_COLUMNS, GAP_COLUMNS, SHARE_COLUMNS, Standing

Float = NDArray[np.float64]

RADIUS_COLUMNS = ("radius_50_km", "radius_90_km")
TIME_COLUMNS = ("captured_at", "captured_utc_offset_min")
NUMBERS = ("latitude", "longitude", *RADIUS_COLUMNS, *GAP_COLUMNS, *SHARE_COLUMNS, *ALONE_COLUMNS)
"""Columns of numbers that the pages use."""

TEXTS = ("key", "album", "standing", "country_code", *SOURCE_COLUMNS)
COLUMNS = (*TEXTS, *TIME_COLUMNS, *NUMBERS, *POSITION_COLUMNS)
SCHEMA = pa.schema([ALBUM_SCHEMA.field(name) for name in COLUMNS])
BATCH_ROWS = 65_536

Parts = Callable[[], Iterator[pa.Table]]
"""Yields the rows of all parts as tables of SCHEMA, each time it is called."""


def parts_of(directory: OutputDirectory) -> Parts:
    """Finds the parts of an albums job in an output directory."""

    def batches() -> Iterator[pa.Table]:
        for name in directory.names(ALBUMS, "part-*.parquet"):
            part, _ = open_part(directory.path(ALBUMS, name))
            missing = [one for one in COLUMNS if one not in part.schema_arrow.names]
            if missing:
                raise ValueError(
                    f"{ALBUMS}/{name} has no column {missing[0]}; want what `schemas.albums` "
                    "says: run the albums job again"
                )
            for batch in part.iter_batches(BATCH_ROWS, columns=list(COLUMNS), use_threads=False):
                yield pa.Table.from_batches([batch]).select(COLUMNS).cast(SCHEMA)

    return batches


def numbers(table: pa.Table, name: str) -> Float:
    """A column of numbers ``(N,)``, NaN where it is null or infinite."""
    values = np.asarray(table[name], np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def standings(table: pa.Table) -> NDArray[np.uint8]:
    """The number in `Standing` of how each photo stands, ``(N,)``.

    Raises:
        ValueError: A row has another standing.
    """
    number = {one.value: i for i, one in enumerate(Standing)}
    encoded = table["standing"].combine_chunks().dictionary_encode()
    names = encoded.dictionary.to_pylist()
    if strange := set(names) - set(number):
        raise ValueError(f"standing is {strange.pop()!r}; want one of {', '.join(number)}")
    numbered = np.array([number[name] for name in names], np.uint8)
    return numbered[np.asarray(encoded.indices)] if len(names) else np.zeros(0, np.uint8)


def gap_hours(table: pa.Table) -> Float:
    """Hours to the anchor that is nearest in time, ``(N,)``; NaN without one."""
    return np.fmin(*(numbers(table, name) for name in GAP_COLUMNS))


def clocks(table: pa.Table) -> tuple[Float, Float]:
    """Wall clock in seconds since 1970 and offset in minutes, ``(N,)`` each, NaN where unknown."""
    microseconds, minutes = (
        np.asarray(table[name].cast(pa.int64()), float) for name in TIME_COLUMNS
    )
    return microseconds / 1e6, minutes
