"""What is on disk, and the only place where a column is spelled.

* `schemas.samples`: a photo in a shard, its member names, its limits and its truth.
* `schemas.geotags`: the columns of predictions and errors, and the closed set of fates.
* `schemas.training`: the records of a build of training shards, kept and dropped, and why.
* `schemas.geoparquet`: points as WKB, the `bbox` covering column and the `geo` metadata.
"""
