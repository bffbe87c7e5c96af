"""Finds what an earlier run made of a shard whose photos in errors are done again. Knows no Beam.

`--retry-failed` sets the manifests of such shards aside, in `_retries`. Who reads the shard next
takes its rows of before along, runs the other photos, and removes the note with the new manifest.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from locdiffusion.files import file_system
from locdiffusion.photos.listing import Shard
from pipelines.geotag.kept_rows import KeptRows
from pipelines.geotag.manifests import as_manifest
from pipelines.geotag.output import RETRIES, Output, RunConfiguration
from pipelines.geotag.tables import (
    AREAS,
    EMBEDDINGS,
    FAILED,
    PREDICTIONS,
    REGIONS,
    THUMBNAILS,
    UNREADABLE,
)
from schemas.geotags import PREDICTION_SCHEMA, with_kept
from schemas.layers import (
    AREA_SCHEMA,
    EMBEDDING,
    REGION_SCHEMA,
    THUMBNAIL_SCHEMA,
    Thumbnail,
    embedding_schema,
)

_SCHEMAS = {PREDICTIONS: PREDICTION_SCHEMA, REGIONS: REGION_SCHEMA, AREAS: AREA_SCHEMA}
_SCHEMAS[THUMBNAILS] = THUMBNAIL_SCHEMA


class Retries:
    """The shards of a run of which rows of before are kept; one listing finds them.

    Args:
        output: Output directory of the run.
        configuration: What decides the rows.
    """

    def __init__(self, output: Output, configuration: RunConfiguration) -> None:
        self.output = output
        self.configuration = configuration
        self._noted = frozenset(output.names(RETRIES, output.FOLDERS[RETRIES]))

    def take(self, shard: Shard, version: str) -> KeptRows | None:
        """Reads the rows of a shard that stay; None if all of its photos are to be done.

        Where the shard or the configuration has changed, or a stopped run has replaced the files
        half, nothing stays.
        """
        name = f"{shard.id}.json"
        if name not in self._noted:
            return None
        note = as_manifest(self.output.read_json(RETRIES, name), shard.id) or {}
        if (note.get("config_hash"), note.get("version")) == (self.configuration.hash, version):
            try:
                return self._read(shard.id, note["layers"], note)
            except UNREADABLE:
                pass  # the whole shard is done again
        self.output.remove(RETRIES, name)
        return None

    def _read(self, shard: str, rows: dict[str, int], note: dict[str, object]) -> KeptRows:
        tables, keep = {}, self.configuration.settings.get("keep", ())
        for layer in (*_SCHEMAS, EMBEDDINGS):
            if layer not in rows:
                continue
            filesystem, path = file_system(self.output.part(layer, shard))
            table = pq.read_table(pa.BufferReader(filesystem.cat_file(path)))
            if table.num_rows != rows[layer]:
                raise ValueError(f"{table.num_rows} rows, wanted {rows[layer]}")
            table = table.replace_schema_metadata(None)
            if (schema := _SCHEMAS.get(layer)) is None:
                schema = embedding_schema(table.schema.field(EMBEDDING).type.list_size, keep)
            elif layer == PREDICTIONS:
                schema = with_kept(schema, keep)
            tables[layer] = table.cast(schema)
        embeddings = tables.get(EMBEDDINGS)
        if embeddings is not None:
            keys = tables[PREDICTIONS]["key"].combine_chunks()
            embeddings = embeddings.filter(pc.is_in(embeddings["key"], keys))
        pictures = tables[THUMBNAILS].to_pylist() if THUMBNAILS in tables else []
        return KeptRows(
            tables[PREDICTIONS],
            tables.get(REGIONS),
            tuple(Thumbnail(row["key"], row["jpeg"]) for row in pictures),
            {name: note[name] for name in FAILED if name in note},  # type: ignore[misc]
            embeddings,
            tables.get(AREAS),
        )
