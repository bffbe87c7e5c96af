"""Reads borders from files of strangers, in a child process with limits on memory and CPU time.

A file of some kilobytes may hold polygons whose mending takes hours or all memory, or at which the
library of geometry crashes. Then the child ends, and the file is refused with a reason.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from locdiffusion.files import file_system
from locdiffusion.geography.polygon_files import read_rows
from locdiffusion.geography.polygon_rows import MOST_BYTES, WANTED
from locdiffusion.geography.polygons import PolygonError, PolygonIndex, polygon_share
from locdiffusion.geography.units import Units
from locdiffusion.isolation import IsolatedError, IsolatedFunction, Limits, OverrunError

FREE_BYTES, BYTES_PER_BYTE = 2**30, 32
"""A file of n bytes may take FREE_BYTES + BYTES_PER_BYTE n bytes of memory. GeoJSON of 28,000
districts with 5 million corners, 108 MB, takes 0.8 GB; as zipped shapefile, of 25 MB, 0.7 GB."""
CPU_S, BYTES_PER_S = 60.0, 200_000
"""Seconds of CPU time for any file, and bytes of it that a second more suffices for. The districts
take 7 seconds as GeoJSON, and 20 seconds as a prior."""

WEIGHT = "weight"
"""Column of a prior that says how many photos come from each polygon."""

_REFUSAL = "PolygonError: "


def read_units(path: str, column: str | None = None, code_column: str | None = None) -> Units:
    """Reads the polygons of a file with their names and codes.

    Args:
        path: Path or URL of GeoJSON, GeoParquet, GeoPackage or a zipped shapefile.
        column: Column with the names; by default `name`, or the only column of text.
        code_column: Column with the codes; by default one of `polygon_rows.CODE_COLUMNS`, if there
            is one.

    Raises:
        PolygonError: The file, or a column, cannot be used.
    """
    index, codes = _read_parts(path, column, code_column, codes=True)
    return Units(index, codes)


def read_borders(path: str, column: str | None = None) -> PolygonIndex:
    """Reads the polygons of a file, named by one of its columns.

    Args:
        path: Path or URL of GeoJSON, GeoParquet, GeoPackage or a zipped shapefile.
        column: Column with the names; by default `name`, or the only column of text.

    Raises:
        PolygonError: The file, or the column, cannot be used.
    """
    return _read_parts(path, column, None, codes=False)[0]


def _read_parts(
    path: str, column: str | None, code_column: str | None, codes: bool
) -> tuple[PolygonIndex, list[str | None] | None]:
    """Reads polygons with their names and, if wanted and there are any, the code of each part."""
    parts_of = functools.partial(named_parts, column=column, code_column=code_column, codes=codes)
    answer = _isolated(parts_of, path)
    with np.load(io.BytesIO(answer), allow_pickle=False) as arrays:
        offsets = (arrays["rings"], arrays["polygons"])
        parts = shapely.from_ragged_array(
            shapely.GeometryType.POLYGON, arrays["places"], offsets=offsets
        )
        names, of_row = json.loads(arrays["names"].tobytes())
        owner = arrays["owner"].tolist()
        index = PolygonIndex([names[row] for row in owner], parts)
        return index, of_row and [of_row[row] for row in owner]


def named_parts(
    data: bytes, column: str | None, code_column: str | None = None, codes: bool = False
) -> bytes:
    """Reads the polygons of a file into plain arrays, one polygon per part of a multipolygon."""
    rows = read_rows(data).mended()
    parts, owner = shapely.get_parts(rows.shapes, return_index=True)
    _, places, (rings, polygons) = shapely.to_ragged_array(parts)
    texts = rows.names(column), rows.codes(code_column) if codes else None
    names = np.frombuffer(json.dumps(texts).encode(), np.uint8)
    answer = io.BytesIO()
    np.savez(answer, places=places, rings=rings, polygons=polygons, owner=owner, names=names)
    return answer.getvalue()


def read_share(path: str, rows: int, columns: int) -> tuple[NDArray[np.float64], bool]:
    """Reads the polygons of a file as `polygon_share` rasters them, with its column `weight`.

    Args:
        path: Path or URL of GeoJSON, GeoParquet, GeoPackage or a zipped shapefile.
        rows: Number of rows of the raster.
        columns: Number of columns of the raster.

    Returns:
        The raster, ``(rows, columns)``, and whether the polygons have weights.

    Raises:
        PolygonError: The file, or a weight, cannot be used.
    """
    answer = _isolated(functools.partial(share_of_file, rows=rows, columns=columns), path)
    numbers = np.frombuffer(answer)
    return numbers[1:].reshape(rows, columns), bool(numbers[0])


def share_of_file(data: bytes, rows: int, columns: int) -> bytes:
    """Reads the polygons of a file into the bytes of a raster, behind 1 if they have weights."""
    table = read_rows(data).mended()
    weights: list[Any] | None = None
    if any(WEIGHT in row for row in table.values):
        weights = [row.get(WEIGHT) for row in table.values]
    try:
        share = polygon_share(table.shapes, weights, rows, columns)
        return np.append(float(weights is not None), share).tobytes()
    except (TypeError, ValueError) as error:
        raise PolygonError(f"it is no prior: {str(error)[:300]}") from error


def _isolated(function: Callable[[bytes], bytes], path: str) -> bytes:
    data = _read(path)
    memory, cpu_s = FREE_BYTES + BYTES_PER_BYTE * len(data), CPU_S + len(data) / BYTES_PER_S
    isolated = IsolatedFunction(function, Limits(memory, cpu_s, wall_s=20 * cpu_s))
    try:
        return isolated(data)
    except IsolatedError as error:
        kind, _, reason = str(error).partition(": ")
        if f"{kind}: " != _REFUSAL:
            reason = f"it is damaged ({str(error)[:200]}); {WANTED}"
        raise PolygonError(f"{path} cannot be used: {reason}") from None
    except OverrunError as error:
        raise PolygonError(
            f"{path} cannot be used: reading it ended because {error}. `ogr2ogr -makevalid "
            "-simplify 0.001 borders.geojson FILE` makes polygons that are easier to work with."
        ) from error
    finally:
        isolated.close()


def _read(path: str) -> bytes:
    try:
        filesystem, place = file_system(path)
        with filesystem.open(place, "rb") as file:
            content: bytes = file.read(MOST_BYTES + 1)
    except (ImportError, OSError, ValueError) as error:
        raise PolygonError(f"{path} cannot be read: {error}") from error
    if len(content) > MOST_BYTES:
        raise PolygonError(f"{path} has more than {MOST_BYTES >> 20:,} MiB; want borders in less.")
    return content
