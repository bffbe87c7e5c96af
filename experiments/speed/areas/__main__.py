"""Times the sums of `aggregate` over H3 cells against DuckDB's sum of the same files.

    python -m experiments.speed.areas

Makes a layer `areas/` of a million rows: 80,000 photos in ten shards, each with seven finest cells,
the cells around them, and one far away. DuckDB adds up `probability` by `area`, once as the rows
are, and once by photo and area before, which standard errors need where cells lie in cells.
`aggregate` gives expectations and standard errors of cells of one resolution. Each is timed in
turns, from files to sums in memory; the median of the ratios is printed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import h3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.aggregate.job import add_shards
from pipelines.aggregate.source import Source
from pipelines.aggregate.targets import Hexagons
from pipelines.geotag.tables import AREAS, PREDICTIONS

SHARDS, PHOTOS, PLACES, FINEST = 10, 8_000, 2_500, 4


def main() -> int:
    """Makes the layer, takes the times and prints them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=7, help="turns (default %(default)s)")
    turns = parser.parse_args().turns
    with tempfile.TemporaryDirectory() as folder:
        rows = write_layer(Path(folder))
        source = Source(folder)
        names = source.shards()
        files = f"'{folder}/{AREAS}/*.parquet'"
        plain = f"SELECT area, sum(probability) FROM {files} WHERE kind = 'h3' GROUP BY area"
        inner = f"SELECT shard, key, area, sum(probability) AS p FROM {files} GROUP BY 1, 2, 3"
        errors = f"SELECT area, sum(p), sum(p * (1 - p)) FROM ({inner}) GROUP BY area"
        work: dict[str, Callable[[], object]] = {
            "DuckDB, sum by area": lambda: duckdb.execute(plain).fetchall(),
            "DuckDB, by photo and area": lambda: duckdb.execute(errors).fetchall(),
            "aggregate, resolution 4": lambda: add_shards(source, names, Hexagons(4)),
            "aggregate, resolution 2": lambda: add_shards(source, names, Hexagons(2)),
        }
        seconds: dict[str, list[float]] = {name: [] for name in work}
        for _ in range(turns + 1):
            for name, function in work.items():
                start = time.perf_counter()
                function()
                seconds[name].append(time.perf_counter() - start)
    print(f"{rows:,} rows, {turns} turns")
    first = seconds["DuckDB, sum by area"][1:]
    for name, took in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(took[1:], first, strict=True))
        print(f"{name:26} {statistics.median(took[1:]):6.3f} s  {ratio:5.2f} times the first")
    return 0


def write_layer(root: Path) -> int:
    """Writes the layer, and predictions that count its photos; returns the number of rows."""
    rng = np.random.default_rng(0)
    places = [_masses(rng) for _ in range(PLACES)]
    total = 0
    for shard in range(SHARDS):
        chosen = rng.integers(PLACES, size=PHOTOS).tolist()
        keys = [f"photo/{shard}/{photo:06d}.jpg" for photo in range(PHOTOS)]
        rows = [(k, a, p) for k, i in zip(keys, chosen, strict=True) for a, p in places[i].items()]
        key, area, probability = zip(*rows, strict=True)
        table = pa.table(
            {
                "key": key,
                "shard": [f"s-{shard}"] * len(rows),
                "kind": ["h3"] * len(rows),
                "area": area,
                "rest": pa.nulls(len(rows), pa.string()),
                "probability": np.array(probability, np.float32),
            }
        )
        for folder, content in ((AREAS, table), (PREDICTIONS, pa.table({"key": keys}))):
            (root / folder).mkdir(exist_ok=True)
            pq.write_table(content, root / folder / f"part-s-{shard}.parquet")
        total += len(rows)
    return total


def _masses(rng: np.random.Generator) -> dict[str, float]:
    """Probabilities of one photo by cell."""
    latitude, longitude = np.degrees(np.arcsin(rng.uniform(-1, 1))), rng.uniform(-180, 180)
    home = h3.latlng_to_cell(latitude, longitude, FINEST)
    cells = [*h3.grid_disk(home, 1), *(h3.cell_to_parent(home, r) for r in range(FINEST))]
    cells = [*dict.fromkeys([*cells, h3.latlng_to_cell(-latitude, longitude, 0)])]
    share = rng.dirichlet(np.ones(len(cells)))
    return dict(zip(cells, share.tolist(), strict=True))


if __name__ == "__main__":
    raise SystemExit(main())
