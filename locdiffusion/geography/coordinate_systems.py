"""Turns coordinates of a known system into degrees. Of a stranger's system only its name is used.

A definition can say that places are moved as a grid file says, anywhere on the machine or beyond.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from locdiffusion.geography.polygons import PolygonError

DEGREES = "OGC:CRS84"
REMEDY = "`ogr2ogr -t_srs OGC:CRS84 borders.geojson FILE` turns it into degrees."
MOST_CHARACTERS = 2**16
"""Most characters of a definition, which has about 1,000."""

_AUTHORITIES = ("EPSG", "ESRI", "IGNF", "OGC")


def named_system(authority: object, code: object) -> str:
    """Returns the name of a coordinate system, such as `EPSG:3857`.

    Raises:
        PolygonError: It is no such name.
    """
    name = f"{authority}:{code}".upper()
    if not re.fullmatch(rf"({'|'.join(_AUTHORITIES)}):\w{{1,20}}", name, re.ASCII):
        raise PolygonError(f"its coordinate system is {name[:60]!r}. {REMEDY}")
    return name


def defined_system(definition: str, named: Any = None) -> str:
    """Finds the name of a coordinate system.

    Args:
        definition: Definition as WKT or PROJJSON.
        named: Name that the file gives it, as the `id` of PROJJSON.

    Raises:
        PolygonError: It has no name, or pyproj is not installed.
    """
    if isinstance(named, dict) and str(named.get("authority")).upper() in _AUTHORITIES:
        return named_system(named["authority"], named.get("code"))
    if len(definition) > MOST_CHARACTERS:
        raise PolygonError(f"its coordinate system takes {len(definition):,} characters. {REMEDY}")
    pyproj = _pyproj()
    try:
        read = pyproj.CRS.from_json if definition.lstrip()[:1] == "{" else pyproj.CRS.from_wkt
        found = read(definition).to_authority()
    except (pyproj.exceptions.ProjError, ValueError) as error:
        raise PolygonError(f"its coordinate system is not understood. {REMEDY}") from error
    if found is None:
        raise PolygonError(f"its coordinate system {definition[:60]!r} has no code. {REMEDY}")
    return named_system(*found)


def in_degrees(shapes: NDArray[np.object_], system: str | None) -> NDArray[np.object_]:
    """Turns the coordinates of shapes into longitude and latitude in degrees.

    Args:
        shapes: Shapes, ``(N,)``.
        system: Name of the coordinate system; None means degrees.

    Raises:
        PolygonError: The system is not known, or pyproj is not installed.
    """
    if system in (None, DEGREES, "EPSG:4326"):
        return shapes
    pyproj = _pyproj()
    try:
        transform = pyproj.Transformer.from_crs(system, DEGREES, always_xy=True).transform
    except pyproj.exceptions.ProjError as error:
        raise PolygonError(f"its coordinate system {system} is not known. {REMEDY}") from error
    turned: NDArray[np.object_] = shapely.transform(
        shapes, lambda xy: np.column_stack(transform(*xy.T))
    )
    return turned


def _pyproj() -> Any:
    try:
        import pyproj
        import pyproj.network
    except ImportError as error:
        raise PolygonError(
            "its coordinates are not said to be GeoJSON's degrees, which takes pyproj to read: "
            "pip install 'locdiffusion[polygons]'"
        ) from error
    pyproj.network.set_network_enabled(False)
    return pyproj
