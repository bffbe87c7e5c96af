"""The rows of a file of polygons, and the checks that make them polygons to work with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from locdiffusion.geography.coordinate_systems import in_degrees
from locdiffusion.geography.polygons import PolygonError, within_world

WANTED = (
    "want GeoJSON, GeoParquet, GeoPackage or a zipped shapefile; "
    "`ogr2ogr -t_srs OGC:CRS84 borders.geojson FILE` makes one of most others."
)
MOST_BYTES = 2**30
"""Most bytes of a file, and of what one holds packed. The world's 50,000 districts with every bend
of their coasts take 0.2 GB."""
MOST_ROWS = 1_000_000
"""Most rows, and most single polygons of all rows: the United States have 240,000 groups of census
blocks, and the coasts of the world 200,000 islands."""
MOST_POSITIONS = 20_000_000
"""Most corners of all polygons, which take 1 GB when points are looked up."""
MOST_OVERLAP = 1_000
"""Most polygons whose rectangles lie over one place. A point is compared with each of them."""
MOST_NAME = 1_000
"""Most characters of a name, which goes into the row of every photo."""


CODE_COLUMNS = ("code", "iso", "id")
"""Columns that hold codes, if none is named, small or capital letters."""


@dataclass(frozen=True)
class PolygonRows:
    """The rows of a file.

    Attributes:
        shapes: Polygons, multipolygons and collections of such, as the file has them; None in rows
            without, ``(N,)``.
        values: The other values of each row, by the names of their columns.
        system: Coordinate system, such as `EPSG:3857`; None where the file says none.
    """

    shapes: NDArray[np.object_]
    values: list[Mapping[str, Any]]
    system: str | None = None

    def mended(self) -> PolygonRows:
        """Returns the rows with polygons: valid (multi)polygons in degrees, cut at ±180.

        Raises:
            PolygonError: There are none or too many, or they do not lie on the Earth.
        """
        with_area = np.flatnonzero(shapely.get_dimensions(self.shapes) == 2)
        kept = with_area[~shapely.is_empty(self.shapes[with_area])]
        if not len(kept):
            raise PolygonError(f"it holds no polygon among its {len(self.shapes):,} rows.")
        shapes = in_degrees(shapely.force_2d(self.shapes[kept]), self.system)
        _check_places(shapes)
        west, south, east, north = shapely.bounds(shapes).T
        within = (west >= -180.0) & (east <= 180.0) & (south >= -90.0) & (north <= 90.0)
        areas = np.isin(shapely.get_type_id(shapes), (3, 6))
        for row in np.flatnonzero(~(within & areas & shapely.is_valid(shapes))):
            shapes[row] = within_world(shapes[row])
        _check_work(shapes)
        return PolygonRows(shapes, [self.values[row] for row in kept])

    def names(self, column: str | None) -> list[str | None]:
        """Returns the name of each row.

        Args:
            column: Column with the names; by default `name`, or the only column of text.

        Raises:
            PolygonError: There is no such column, several of them, or a name that is too long.
        """
        return self._texts(self._name_column(column), "name")

    def codes(self, column: str | None) -> list[str | None] | None:
        """Returns the code of each row, of a column or one of `CODE_COLUMNS`; None without one.

        Raises:
            PolygonError: There is no such column, or a code that is too long.
        """
        columns = dict.fromkeys(name for row in self.values for name in row)
        if column is not None:
            if column not in columns:
                choices = str(list(columns)[:30])[:1000]
                raise PolygonError(f"it has no column {column!r}. Choose one of {choices}.")
            return self._texts(column, "code")
        for known in CODE_COLUMNS:
            for name in columns:
                if name.lower() == known:
                    return self._texts(name, "code")
        return None

    def _texts(self, column: str, kind: str) -> list[str | None]:
        values = [row.get(column) for row in self.values]
        # Half of a character outside the basic plane is no text that can be written.
        names = [
            None if v is None or v != v else str(v).encode(errors="replace").decode()
            for v in values
        ]
        longest = max((len(name) for name in names if name is not None), default=0)
        if longest > MOST_NAME:
            raise PolygonError(
                f"a {kind} has {longest:,} characters; want at most {MOST_NAME:,}. "
                f"Which column holds the {kind}s?"
            )
        return names

    def _name_column(self, column: str | None) -> str:
        # In the order of the file, each once.
        columns = list(dict.fromkeys(name for row in self.values for name in row))
        choices = f"Choose one of {str(columns[:30])[:1000]}."
        if column is not None:
            if column not in columns:
                raise PolygonError(f"it has no column {column!r}. {choices}")
            return column
        texts = dict.fromkeys(
            name for row in self.values for name, value in row.items() if isinstance(value, str)
        )
        for choice in ([name for name in columns if name.lower() == "name"], list(texts)):
            if len(choice) == 1:
                return choice[0]
        raise PolygonError(f"which of its columns holds the names? {choices}")


def _check_places(shapes: NDArray[np.object_]) -> None:
    places = shapely.get_coordinates(shapes)
    if not np.isfinite(places).all():
        raise PolygonError("it holds places that are no numbers, or beyond where its system ends.")
    (west, south), (east, north) = places.min(0), places.max(0)
    if not (west >= -540 and east <= 540 and south >= -90.001 and north <= 90.001):
        raise PolygonError(
            f"it spans {west:g} to {east:g} in longitude and {south:g} to {north:g} in latitude; "
            "want degrees. Are the coordinates projected, or swapped?"
        )


def _check_work(shapes: NDArray[np.object_]) -> None:
    """Raises PolygonError for polygons with which it would take long to compare a point."""
    parts, positions = shapely.get_parts(shapes), shapely.get_num_coordinates(shapes).sum()
    if len(parts) > MOST_ROWS or positions > MOST_POSITIONS:
        raise PolygonError(
            f"it has {len(parts):,} polygons with {positions:,} corners; want at most "
            f"{MOST_ROWS:,} and {MOST_POSITIONS:,}. `ogr2ogr -simplify 0.001` leaves corners out."
        )
    west, south, east, north = shapely.bounds(parts).T
    tree = shapely.STRtree(shapely.box(west, south, east, north))
    centres = shapely.points((west + east) / 2, (south + north) / 2)
    for at in range(0, len(parts), 100):
        around = np.bincount(tree.query(centres[at : at + 100])[0]).max(initial=0)
        if around > MOST_OVERLAP:
            raise PolygonError(
                f"{around:,} of its polygons overlap at one place; want at most {MOST_OVERLAP:,}. "
                "Units of one level, such as districts, do not overlap."
            )
