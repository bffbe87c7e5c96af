"""Schemas of everything on disk: the only place where a column is spelled.

* `schemas.samples`: a photo in a shard, its member names, its limits and its true position.
* `schemas.geotags`: the columns of predictions and errors, and the closed set of statuses.
* `schemas.layers`: the columns of regions and thumbnails.
* `schemas.albums`: the columns of photos that others of their album have placed.
* `schemas.training`: the records that a build of training shards keeps and drops.
* `schemas.geoparquet`: geometries as WKB, the `bbox` covering column and the `geo` metadata.
* `schemas.bigquery`: the same schemas in the form that BigQuery reads.
"""
