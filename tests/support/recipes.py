"""Pages of recipes, run: photos with truth, a catalogue of them, areas, and what blocks leave."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import geopandas
import pandas
import shapely

from locdiffusion.overhead.command import main as cut_patches
from locdiffusion.photos.labelled_samples import read_samples
from locdiffusion.photos.listing import list_shards
from support.archives import truth, write_tar
from support.pages import commands, run_command

PHOTOS = 56
PHOTO = ["shard", "key"]
BOX = (-20, -35, 52, 38)


class Recipes(NamedTuple):
    """What is left when all blocks have run."""

    root: Path
    names: dict[str, Any]
    answers: dict[str, pandas.DataFrame]
    google: list[list[str]]
    failures: dict[int, BaseException]


def lay_out(root: Path) -> None:
    """Photos with truth, a catalogue of them, an area, districts, one photo alone.

    Every shard begins with the key 000000, as many archives do.
    """
    arguments = ["--split", "sample", "--count", str(PHOTOS), "--shard-size", "40"]
    assert cut_patches([*arguments, "--output", str(root / "photos")]) == 0
    rows = []
    for shard in list_shards([str(root / "photos" / "*.tar")]):
        samples = list(read_samples(shard.url))
        names = [f"{i:06d}" for i in range(len(samples))]
        rows += [(shard.id, name) for name in names]
        members = []
        for name, (sample, place) in zip(names, samples, strict=True):
            position = truth(place.latitude, place.longitude)
            members += [(f"{name}.jpg", sample.image), (f"{name}.json", position)]
        write_tar(Path(shard.url), members)
    (root / "patch.jpg").write_bytes(members[0][1])
    catalogue = pandas.DataFrame([*rows[5:], ("no-such-shard", "000000")], columns=PHOTO)
    catalogue["title"] = [f"photo {i}" for i in range(len(catalogue))]
    catalogue.to_csv(root / "catalogue.csv", index=False)
    area = geopandas.GeoDataFrame(geometry=[shapely.box(*BOX)], crs="OGC:CRS84")
    area.to_file(root / "area.geojson")
    halves = [shapely.box(-180, 0, 180, 90), shapely.box(-180, -90, 180, 0)]
    table = {"district": ["north", "south"], "number": ["1", "2"]}
    districts = geopandas.GeoDataFrame(table, geometry=halves, crs="OGC:CRS84")
    districts.to_file(root / "districts.geojson")


def run_python(code: str, ran: Recipes) -> None:
    exec(compile(code, "RECIPES.md", "exec"), ran.names)


def run_sql(code: str, ran: Recipes) -> None:
    for statement in duckdb.extract_statements(code):
        found = duckdb.sql(statement.query)
        if found is not None:
            ran.answers[code] = found.df()


def run_bash(code: str, ran: Recipes) -> None:
    for words in commands(code):
        if words[0] == "bq":
            ran.google.append(words)
            continue
        command, target = words, None
        if ">" in words:
            *command, _, target = words
        if words[1] == "write-exif":  # the photos of the tests have a position beside them
            command = [*command, "--replace-own-position"]
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            assert run_command(command) == 0, words
        if target:
            Path(target).write_text(printed.getvalue())


RUNNERS = {"python": run_python, "sql": run_sql, "bash": run_bash}
