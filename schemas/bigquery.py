"""Table schemas for BigQuery, made from the schemas of our Parquet files."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from schemas import geoparquet
from schemas.albums import ALBUM_SCHEMA, ALBUMS
from schemas.geotags import ERROR_SCHEMA, PREDICTION_SCHEMA, with_kept
from schemas.layers import AREA_SCHEMA, REGION_SCHEMA, THUMBNAIL_SCHEMA

TABLES = {
    "predictions": PREDICTION_SCHEMA,
    "regions": REGION_SCHEMA,
    "areas": AREA_SCHEMA,
    "thumbnails": THUMBNAIL_SCHEMA,
    "errors": ERROR_SCHEMA,
    ALBUMS: ALBUM_SCHEMA,
}

EPILOG = """examples:
  python -m schemas.bigquery predictions > predictions.json
  bq mk --table --schema predictions.json DATASET.predictions
  bq load --source_format=PARQUET --parquet_enable_list_inference=true DATASET.predictions \\
      'gs://BUCKET/out/predictions/*.parquet'

a geometry becomes GEOGRAPHY, which BigQuery reads out of GeoParquet; `modes` is a repeated record
(that is what --parquet_enable_list_inference is for); columns that are never null are REQUIRED.
"""

_SCALARS = {
    pa.string(): "STRING",
    pa.float64(): "FLOAT",
    pa.float32(): "FLOAT",
    pa.int64(): "INTEGER",
    pa.int16(): "INTEGER",
    pa.timestamp("us"): "DATETIME",
    pa.bool_(): "BOOLEAN",
    pa.binary(): "BYTES",
}


def bigquery_schema(schema: pa.Schema) -> list[dict[str, Any]]:
    """Converts the schema of a Parquet file to BigQuery's JSON.

    Raises:
        ValueError: A column has a type that is not converted here.
    """
    return [_field(field) for field in schema]


def _field(field: pa.Field) -> dict[str, Any]:
    kind, mode = field.type, "NULLABLE" if field.nullable else "REQUIRED"
    if pa.types.is_list(kind):
        kind, mode = kind.value_type, "REPEATED"
    described: dict[str, Any] = {"name": field.name, "type": "", "mode": mode}
    if field.name == geoparquet.GEOMETRY:
        described["type"] = "GEOGRAPHY"
    elif pa.types.is_struct(kind):
        described |= {"type": "RECORD", "fields": [_field(inner) for inner in kind]}
    elif kind in _SCALARS:
        described["type"] = _SCALARS[kind]
    else:
        raise ValueError(f"column {field.name} is {kind}; want one of {list(map(str, _SCALARS))}")
    return described


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a schema; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m schemas.bigquery",
        description="Print the BigQuery table schema of what geotag and albums write.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("table", choices=list(TABLES), help="which of the folders of the output")
    about = "fields of documents that geotag ran with, of predictions and albums"
    parser.add_argument("--keep", metavar="FIELD,...", default="", help=about)
    options = parser.parse_args(arguments)
    kept = [name.strip() for name in options.keep.split(",") if name.strip()]
    print(json.dumps(bigquery_schema(with_kept(TABLES[options.table], kept)), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
