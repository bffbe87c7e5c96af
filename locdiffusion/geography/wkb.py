"""Reads polygons from well-known binary (WKB) that a stranger wrote.

GEOS reads nested collections by recursion, without a limit, and dies of them. So the nesting and
the counts are checked first, by a walk over the headers that takes time in proportion to the bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

import numpy as np
import shapely
from numpy.typing import NDArray

from locdiffusion.geography.polygons import PolygonError

POINT, LINE, POLYGON, MULTIPOLYGON, COLLECTION = 1, 2, 3, 6, 7
_PLAIN = range(POINT, COLLECTION + 1)
_HAS_Z, _HAS_M, _HAS_SRID = 0x80000000, 0x40000000, 0x20000000
"""Flags of extended WKB (PostGIS). ISO WKB adds 1000, 2000 or 3000 to the kind instead."""


def polygons_from_wkb(blobs: Iterable[bytes | None]) -> NDArray[np.object_]:
    """Reads the polygons, multipolygons and collections among geometries; None for all others.

    Args:
        blobs: One geometry each, as WKB; None where there is none.

    Raises:
        PolygonError: A geometry is damaged, too deeply nested, or has curves.
    """
    areas = [blob if isinstance(blob, bytes) and _is_area(blob) else None for blob in blobs]
    try:
        shapes: NDArray[np.object_] = shapely.from_wkb(np.array([*areas, None], object))[:-1]
    except shapely.GEOSException as error:
        raise PolygonError(f"it holds a damaged polygon: {str(error)[:200]}") from error
    return shapes


def _is_area(blob: bytes) -> bool:
    """Whether a geometry may hold polygons; its headers have been checked then."""
    try:
        kind = _header(blob, 0)[1]
        if kind in _PLAIN and kind not in (POLYGON, MULTIPOLYGON, COLLECTION):
            return False
        if _end(blob, 0, (POLYGON, MULTIPOLYGON, COLLECTION)) > len(blob):
            raise PolygonError("it holds a polygon that ends too early.")
    except (struct.error, IndexError) as error:
        raise PolygonError("it holds a polygon that ends too early.") from error
    return True


def _header(blob: bytes, at: int) -> tuple[str, int, int, int]:
    """Returns byte order, kind, bytes of a position, and where the header ends."""
    order = ">" if blob[at] == 0 else "<"
    (code,) = struct.unpack_from(f"{order}I", blob, at + 1)
    thousands, kind = divmod(code & 0x0FFFFFFF, 1000)
    has_z = bool(code & _HAS_Z) or thousands in (1, 3)
    has_m = bool(code & _HAS_M) or thousands in (2, 3)
    return order, kind, 8 * (2 + has_z + has_m), at + (9 if code & _HAS_SRID else 5)


def _end(blob: bytes, at: int, wanted: Iterable[int]) -> int:
    """Returns where the geometry at a place ends; of another kind than `wanted` it is refused."""
    order, kind, width, at = _header(blob, at)
    if kind not in wanted:
        raise PolygonError(
            f"it holds a geometry of kind {kind}, or too deeply nested; want polygons and "
            "multipolygons. `ogr2ogr -explodecollections -nlt CONVERT_TO_LINEAR` makes them."
        )
    if kind == POINT:
        return at + width
    counts = struct.Struct(f"{order}I")
    (count,) = counts.unpack_from(blob, at)
    at += 4
    if kind == LINE:
        return at + int(count) * width
    for _ in range(count):  # each takes at least four bytes, so that this ends with the blob
        if kind == POLYGON:
            at += 4 + counts.unpack_from(blob, at)[0] * width
        else:
            at = _end(blob, at, _MEMBERS[kind])
    return at


_MEMBERS = {4: (POINT,), 5: (LINE,), MULTIPOLYGON: (POLYGON,), COLLECTION: range(1, COLLECTION)}
"""Kinds of the members of a geometry: a collection within a collection is not among them."""
