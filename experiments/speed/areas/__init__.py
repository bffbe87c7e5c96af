"""Benchmark of aggregates: adding up a layer of areas, against DuckDB on the same files."""
