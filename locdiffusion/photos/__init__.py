"""Photos before the network: formats, EXIF positions, shards of them, cached embeddings."""
