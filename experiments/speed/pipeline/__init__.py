"""Benchmark of the geotag job on Beam against a plain loop over the same functions."""
