"""The archive: shards of photos in, GeoParquet out, on Apache Beam. Start at `pipelines.geotag`."""
