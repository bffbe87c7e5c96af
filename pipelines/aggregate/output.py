"""The output directory of an aggregate, and the files that are written of one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.aggregate.borders import Borders
from pipelines.aggregate.geotiff import geotiff
from pipelines.aggregate.pages import draw_map, map_page
from pipelines.aggregate.partial_sums import PartialSums
from pipelines.aggregate.result import Aggregate, aggregate_of
from pipelines.writing.directory import OutputDirectory, to_json
from schemas.geotags import SCHEMA_VERSION

OWNER = "aggregate.json"
TABLE, RASTER = "aggregate.parquet", "aggregate.tif"
MAP_PNG, MAP_HTML = "aggregate.png", "aggregate.html"
SUMMARY = "aggregate_summary.json"
ROW_GROUP_ROWS = 20_000
LARGEST = 10
"""Areas that are printed."""
TOLERANCE = 0.002
"""By how much of a photo the probabilities of its areas may miss 1."""


@dataclass(frozen=True)
class AggregateOutput(OutputDirectory):
    """The output directory of an aggregate."""

    FILES: ClassVar[tuple[str, ...]] = (TABLE, RASTER, MAP_PNG, MAP_HTML, SUMMARY)
    KIND: ClassVar[str] = "aggregate"
    OWNER: ClassVar[str] = OWNER

    def finish(
        self,
        sums: PartialSums,
        settings: Mapping[str, Any],
        resolution: int | None,
        borders: Borders,
        pixel_deg: float,
    ) -> dict[str, Any]:
        """Writes the files of an aggregate, and returns its summary.

        Args:
            sums: Sums over all photos, with those of groups in them.
            settings: What was counted, and how, JSON-able.
            resolution: Resolution of the cells; None where areas have names.
            borders: The polygons of names.
            pixel_deg: Size of a pixel of the raster in degrees.
        """
        aggregate = aggregate_of(sums, resolution, borders)
        self.write(TABLE, data=_parquet(aggregate.table(), settings))
        files = [TABLE]
        if any(shape is not None for shape in aggregate.shapes):
            about = "photos expected per km2"
            self.write(RASTER, data=geotiff(aggregate.raster(pixel_deg), about))
            self.write(MAP_PNG, data=draw_map(aggregate, settings))
            self.write(MAP_HTML, data=map_page(aggregate, settings).encode())
            files += [RASTER, MAP_HTML, MAP_PNG]
        else:
            for name in (RASTER, MAP_HTML, MAP_PNG):
                self.remove(name)
        summary = summarised(aggregate) | {"files": files}
        self.write(SUMMARY, data=to_json(summary))
        return summary

    def summary(self) -> dict[str, Any] | None:
        """The summary of an aggregate that is done; None if there is none."""
        return self.read_json(SUMMARY)


def summarised(aggregate: Aggregate) -> dict[str, Any]:
    """Tells what an aggregate holds: photos, rests, and the largest areas."""
    expected, error = aggregate.all_classes()
    order = sorted(range(len(aggregate.areas)), key=lambda i: -expected[i])[:LARGEST]
    rests = aggregate.rows.filter(pa.compute.is_valid(aggregate.rows["rest"]))
    sums = rests.group_by("rest").aggregate([("photos_expected", "sum")]).to_pydict()
    classes = sorted(aggregate.photos.items(), key=lambda item: (-item[1], item[0] or ""))
    return {
        "photos": aggregate.total,
        "areas": len(aggregate.areas),
        "classes": [{"by": by, "photos": photos} for by, photos in classes],
        "rests": dict(zip(sums["rest"], sums["photos_expected_sum"], strict=True)),
        "largest": [
            {"area": aggregate.areas[i], "photos_expected": expected[i], "standard_error": error[i]}
            for i in order
        ],
        "adds_up": aggregate.missing() <= TOLERANCE * max(aggregate.total, 1),
        "without_borders": sum(shape is None for shape in aggregate.shapes),
    }


def _parquet(table: pa.Table, settings: Mapping[str, Any]) -> bytes:
    metadata = {
        b"schema_version": SCHEMA_VERSION.encode(),
        b"config": json.dumps(settings, sort_keys=True).encode(),
    }
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata})
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, row_group_size=ROW_GROUP_ROWS, compression="zstd")
    return bytes(buffer.getvalue())
