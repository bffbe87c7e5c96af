"""Reads a shapefile in a zip: its polygons, the table beside them, and their coordinate system."""

from __future__ import annotations

import contextlib
import io
import itertools
import struct
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import shapely

from locdiffusion.geography.coordinate_systems import defined_system
from locdiffusion.geography.polygon_rows import MOST_BYTES, WANTED, PolygonRows
from locdiffusion.geography.polygons import PolygonError


def read_shapefile(data: bytes) -> PolygonRows:
    """Reads the one shapefile in a zip. Nothing is unpacked to disk; other members do not count."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            names = [name for name in file.namelist() if name.lower().endswith(".shp")]
            names = [name for name in names if not name.startswith("__MACOSX/")]
            if len(names) != 1:
                raise PolygonError(f"it is a zip with {len(names)} files .shp; {WANTED}")
            members = {
                ending: _member(file, names[0][:-3] + ending)
                for ending in ("shp", "dbf", "prj", "cpg")
            }
    except PolygonError:
        raise
    except Exception as error:  # of zipfile, and of each way to pack
        raise PolygonError(f"it is a zip that cannot be read: {error}") from error
    shapes = list(_shapes(members["shp"]))
    values: list[Mapping[str, Any]] = [{} for _ in shapes]
    if members["dbf"]:
        values = list(_table(members["dbf"], members["cpg"].decode("ascii", "replace")))
    if len(values) != len(shapes):
        raise PolygonError(f"it has {len(shapes):,} shapes and {len(values):,} rows in .dbf.")
    definition = members["prj"].decode("utf-8", "replace").strip()
    system = defined_system(definition) if definition else None
    kept = [row for row, value in enumerate(values) if value is not _DELETED]
    geometries = np.empty(len(shapes), object)
    geometries[:] = shapes
    return PolygonRows(geometries[kept], [values[row] for row in kept], system)


_DELETED: Mapping[str, Any] = {}
"""What stands for a row that is crossed out and still there."""


def _member(file: zipfile.ZipFile, name: str) -> bytes:
    found = {known.lower(): known for known in file.namelist()}.get(name.lower())
    if found is None:
        return b""
    with file.open(found) as member:
        content = member.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise PolygonError(f"its {name[-3:]} has more than {MOST_BYTES >> 20:,} MiB unpacked.")
    return content


def _shapes(data: bytes) -> Iterator[shapely.Geometry | None]:
    """Reads the polygons of a .shp; None for other shapes (ESRI's description of 1998)."""
    if data[:4] != struct.pack(">i", 9994):
        raise PolygonError("its .shp is no shapefile.")
    at = 100
    try:
        while at + 12 <= len(data):
            (words,) = struct.unpack_from(">i", data, at + 4)
            at, end = at + 8, at + 8 + 2 * words
            if not at + 4 <= end <= len(data):
                raise PolygonError("its .shp ends too early.")
            (kind,) = struct.unpack_from("<i", data, at)
            yield _rings(data[at:end]) if kind in (5, 15, 25) else None
            at = end
    except PolygonError:
        raise
    except (struct.error, ValueError, shapely.GEOSException) as error:
        raise PolygonError(f"its .shp is damaged: {str(error)[:200]}") from error


def _rings(record: bytes) -> shapely.Geometry:
    """Reads the rings of a shape. A place is inside if an odd number of them goes around it.

    Shells and holes lie side by side. A multipolygon of all rings is not valid if one is a hole,
    and making it valid keeps what is inside.
    """
    parts, points = struct.unpack_from("<ii", record, 36)
    starts = np.frombuffer(record, "<i4", parts, 44)
    if np.any(np.diff(starts, prepend=-1, append=points) <= 0):
        raise PolygonError("its .shp has rings that overlap in the file.")
    xy = np.frombuffer(record, "<f8", 2 * points, 44 + 4 * parts).reshape(-1, 2)
    rings = [shapely.Polygon(ring) for ring in np.split(xy, starts[1:]) if len(ring)]
    return shapely.MultiPolygon(rings)


def _table(data: bytes, page: str) -> Iterator[Mapping[str, Any]]:
    """Reads the rows of a .dbf; _DELETED for those crossed out."""
    try:
        count, header, size = struct.unpack_from("<IHH", data, 4)
        fields = [data[at : at + 32] for at in range(32, header - 1, 32) if data[at] != 0x0D]
        lengths = [field[16] for field in fields]
        if size < 1 + sum(lengths) or header + count * size > len(data):
            raise PolygonError(f"its .dbf of {len(data):,} bytes says {count:,} rows of {size}.")
    except (struct.error, IndexError) as error:
        raise PolygonError("its .dbf is damaged.") from error
    names = [_text(field[:11].split(b"\0")[0], page) for field in fields]
    ends = np.cumsum([1, *lengths]).tolist()
    for at in range(header, header + count * size, size):
        cells = (data[at + a : at + b] for a, b in itertools.pairwise(ends))
        texts = [_text(cell, page).strip("\0 ") for cell in cells]
        row = dict(zip(names, map(_value, texts, fields), strict=True))
        yield _DELETED if data[at : at + 1] == b"*" else row


def _text(cell: bytes, page: str) -> str:
    """Decodes a cell as the .cpg says; if there is none that is known, as UTF-8 or Latin-1."""
    page = page.strip()
    for encoding in (f"cp{page}" if page.isdigit() else page, "utf-8"):
        with contextlib.suppress(LookupError, ValueError):
            return cell.decode(encoding)
    return cell.decode("latin-1")


def _value(text: str, field: bytes) -> str | int | float | None:
    if field[11:12] not in b"NF":
        return text or None
    try:
        return int(text) if text.lstrip("-").isdigit() else float(text)
    except ValueError:
        return None
