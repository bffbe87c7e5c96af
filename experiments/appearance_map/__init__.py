"""Appearance map: what a photo taken at a place would look like, and a density that uses it."""
