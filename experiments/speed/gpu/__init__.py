"""Times the encoder, the head and the geotag job on a GPU."""
