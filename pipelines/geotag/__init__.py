"""The geotag job: shards or folders of photos in, GeoParquet, maps and a report out."""
