"""Benchmark of the build of training shards: Beam against a plain loop over the same functions."""
