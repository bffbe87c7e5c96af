"""Reads photos: tar shards, folders, lists, picture formats, EXIF; caches their embeddings."""
