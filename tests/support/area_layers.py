"""Made-up outputs with areas: a tree of H3 cells for each photo, countries, and rests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.layers import AREA_SCHEMA
from support.outputs import write_predictions

Mass = dict[tuple[str, str | None, str | None], float]
"""Probabilities of one photo by kind, area and rest."""


def cell_masses(rng: np.random.Generator, finest: int, tails: bool = True) -> Mass:
    """Masses of one photo: some finest cells, their surroundings, and far away coarse cells."""
    latitude, longitude = np.degrees(np.arcsin(rng.uniform(-1, 1))), rng.uniform(-180, 180)
    home = h3.latlng_to_cell(latitude, longitude, finest)
    near = sorted(h3.grid_disk(home, 1))
    weights = {cell: rng.uniform(0.1, 1.0) for cell in near}
    if tails:
        for resolution in range(finest):
            weights[h3.cell_to_parent(home, resolution)] = rng.uniform(0.05, 0.3)
        far = h3.latlng_to_cell(-latitude, rng.uniform(-180, 180), 0)
        weights[far] = weights.get(far, 0.0) + 0.1
    total = sum(weights.values()) * 1.02
    masses: Mass = {("h3", cell, None): weight / total for cell, weight in weights.items()}
    masses["h3", None, "elsewhere"] = 1.0 - sum(masses.values())
    return masses


def country_masses(rng: np.random.Generator) -> Mass:
    """Masses of one photo in some countries, at sea and elsewhere."""
    codes = rng.choice(["NO", "SE", "DK", "DE", "CL", "JP"], 3, replace=False)
    p = rng.dirichlet(np.ones(5))
    masses: Mass = {("country", str(code), None): p[i] for i, code in enumerate(codes)}
    return masses | {("country", None, "sea"): p[3], ("country", None, "elsewhere"): p[4]}


def write_areas(
    root: Path, shard: str, photos: Mapping[str, Mass], seed: int = 0, **columns: Any
) -> None:
    """Writes predictions and areas of a shard.

    Args:
        root: The output.
        shard: Id of the shard.
        photos: Masses of each photo by key.
        seed: Seed of the predictions.
        columns: Columns of the predictions.
    """
    rng = np.random.default_rng(seed)
    write_predictions(root, shard, len(photos), rng, keys=[*photos], **columns)
    rows = [(key, *place, p) for key, masses in photos.items() for place, p in masses.items()]
    keys, kinds, areas, rests, probability = zip(*rows, strict=True)
    folder = root / "areas"
    folder.mkdir(exist_ok=True)
    table = pa.table(
        [keys, [shard] * len(rows), keys, kinds, areas, rests, probability], schema=AREA_SCHEMA
    )
    pq.write_table(table, folder / f"part-{shard}.parquet")
    run = {"model_id": "model", "areas": ["country", "h3:3"], "schema_version": "6"}
    (root / "run.json").write_text(json.dumps(run))


def brute_force(
    groups: Sequence[Sequence[Mass]], kind: str, resolution: int | None = None
) -> dict[tuple[str | None, str | None], tuple[float, float]]:
    """Adds up groups of photos place by place, as the definition says.

    Args:
        groups: Masses of the photos of each group, each of which is one draw.
        kind: Kind of the areas.
        resolution: Resolution of the cells; None for named areas.

    Returns:
        Expected number and standard error by area and rest.
    """
    spread = [[_spread(mass, kind, resolution) for mass in group] for group in groups]
    places = {place for group in spread for mass in group for place in mass}
    found = {}
    for place in places:
        sums = [(sum(mass.get(place, 0.0) for mass in group), len(group)) for group in spread]
        variance = sum(s * (n - s) for s, n in sums)
        found[place] = (sum(s for s, _ in sums), max(variance, 0.0) ** 0.5)
    return found


def _spread(
    masses: Mass, kind: str, resolution: int | None
) -> dict[tuple[str | None, str | None], float]:
    found: dict[tuple[str | None, str | None], float] = {}
    for (own, area, rest), p in masses.items():
        if own != kind:
            continue
        p, areas = p, [area]
        if area is not None and resolution is not None:
            if h3.get_resolution(area) > resolution:
                areas = [h3.cell_to_parent(area, resolution)]
            else:
                areas = [*h3.cell_to_children(area, resolution)]
        for one in areas:
            found[one, rest] = found.get((one, rest), 0.0) + p / len(areas)
    return found
