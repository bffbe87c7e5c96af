"""Output directories: their bytes, and made-up runs."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from locdiffusion.photos.listing import Shard
from locdiffusion.sphere.geodesy import destination
from pipelines.geotag.batches import PhotoBatch, read_batches, run_stage
from pipelines.geotag.digest import RunDigest
from pipelines.geotag.manifests import ManifestName
from pipelines.geotag.output import Output
from pipelines.geotag.pages import write_map_html, write_map_png
from pipelines.geotag.pages.rows import MapRows, map_rows
from pipelines.geotag.sample import with_thumbnails
from pipelines.geotag.shard_files import ShardFiles, add_shards, open_part, read_predictions
from schemas.geotags import THRESHOLDS_KM, ErrorRow, Stage, Status, error_table, prediction_table
from schemas.layers import Thumbnail, thumbnail_table
from support.fake_geotagger import FakeGeotagger


def decoded(path: Path, batch_size: int = 4, shard_id: str = "s-0") -> list[PhotoBatch]:
    """Geotags a shard with the fake model; returns its batches."""
    geotagger = FakeGeotagger()
    batches = list(read_batches(Shard(shard_id, str(path)), geotagger.preprocess, batch_size))
    for stage in (Stage.EMBED, Stage.SAMPLE, Stage.DECODE):
        batches = [run_stage(batch, stage, geotagger) for batch in batches]
    return batches


def tree(root: Path) -> dict[str, bytes]:
    """Returns the bytes of every file below a directory, by relative path.

    Left out is what tells of the time and the machine of a run.
    """
    files = (path for path in root.rglob("*") if path.is_file() and path.name != "provenance.json")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def part(root: Path, name: str) -> Path:
    """Path of a shard's file that is named without the hash of its id, as `_manifest/a.json`."""
    folder, _, base = name.rpartition("/")
    (found,) = (path for path in (root / folder).iterdir() if plain(path.name) == base)
    return found


def plain(text: str) -> str:
    """Takes the hashes out of shard ids, and the marks out of names of manifests."""
    text = re.sub(r"\.[0-9a-f]{16}(-\w+)?(?=\.json)", "", text)
    return re.sub(r"-[0-9a-f]{10}(?![0-9a-f])", "", text)


def manifest_of(root: Path, shard: str) -> Path:
    """Path of the manifest of a shard, by its whole id."""
    return Path(root, "_manifest", Output(str(root)).manifest_files()[shard].file)


def files_of(root: Path, shard: str) -> ShardFiles:
    """Reads the parts of a shard of a made-up run without manifests."""
    output = Output(str(root))
    rows = read_predictions(open_part(output.part("predictions", shard))[0])
    thumbnails = output.part("thumbnails", shard)
    if Path(thumbnails).exists():
        rows = with_thumbnails(rows, open_part(thumbnails)[0].read())
    return ShardFiles(shard, rows=rows)


def digest_of(root: Path) -> RunDigest:
    """Digests the parts of a made-up run, which has no manifests."""
    whole = RunDigest()
    for path in sorted((root / "predictions").glob("part-*.parquet")):
        add_shards(whole, [files_of(root, path.stem.removeprefix("part-"))])
    return whole


def rows_of(
    root: Path, limit: int = 1000, known_only: bool = False, told: dict[str, Any] | None = None
) -> MapRows:
    """The rows that a page of a made-up run shows."""
    return map_rows(digest_of(root).sample, limit, told, known_only=known_only)


def write_maps(root: Path) -> None:
    """Writes the maps of a made-up run into its directory."""
    sample = digest_of(root).sample
    write_map_png(sample, str(root / "map.png"))
    write_map_html(sample, str(root / "map.html"))


HOSTILE_KEY = "</script><script>alert(1)</script><!--\u2028'\"&amp;"


def write_predictions(directory, shard, count, rng, truth=True, keys=None, **columns):
    """Writes a shard of synthetic predictions; every second row has a truth if `truth`."""
    given = columns
    latitude, longitude = rng.uniform(-85, 85, count), rng.uniform(-180, 180, count)
    radius_90_km = np.exp(rng.normal(6, 1, count))
    true_latitude, true_longitude = destination(
        latitude, longitude, rng.uniform(0, 360, count), radius_90_km * rng.uniform(0, 1, count)
    )
    hidden = (np.arange(count) % 2 == 1) | (not truth)
    unknown = np.full(count, np.nan)
    keys = keys or [f"{shard}-{i}" for i in range(count)]
    columns = {
        "key": keys,
        **made_up_identities(shard, given.get("key", keys)),
        "latitude": latitude,
        "longitude": longitude,
        "radius_50_km": radius_90_km / 2,
        "radius_90_km": radius_90_km,
        "information_nats": 9 - np.log(radius_90_km),
        "land_probability": np.full(len(radius_90_km), 0.5),
        **{f"prob_{km}km": 1 - np.exp(-km / radius_90_km) for km in THRESHOLDS_KM},
        "modes": [
            [SimpleNamespace(latitude=a, longitude=b, probability=0.75, radius_km=r / 2)]
            for a, b, r in zip(latitude, longitude, radius_90_km, strict=True)
        ],
        "exif_latitude": unknown,
        "exif_longitude": unknown,
        "truth_latitude": np.where(hidden, np.nan, true_latitude),
        "truth_longitude": np.where(hidden, np.nan, true_longitude),
    }
    columns |= given
    predictions = directory / "predictions"
    predictions.mkdir(parents=True, exist_ok=True)
    pq.write_table(prediction_table(shard, "model", columns), predictions / f"part-{shard}.parquet")


def made_up_identities(shard, keys):
    """Identities of photos that were never read, by column."""
    ids = [hashlib.blake2b(f"{shard} {key}".encode(), digest_size=10).hexdigest() for key in keys]
    return {"photo_id": ids, "path": [f"{key}.jpg" for key in keys], "stem": list(keys)}


def write_thumbnails(directory, shard, jpeg_of):
    """Writes a shard's thumbnails."""
    (directory / "thumbnails").mkdir(exist_ok=True)
    ids = dict(zip(jpeg_of, made_up_identities(shard, jpeg_of)["photo_id"], strict=True))
    table = thumbnail_table(shard, [Thumbnail(*item) for item in jpeg_of.items()], ids)
    pq.write_table(table, directory / f"thumbnails/part-{shard}.parquet")


def write_run(root: Path, rng: np.random.Generator, names: list[str]) -> Output:
    """A made-up run, some shards of which are damaged, with its manifests."""
    output = Output(str(root))
    for number, shard in enumerate(names):
        count = int(rng.integers(3, 30))
        write_predictions(root, shard, count, rng)
        shown = {f"{shard}-{row}": bytes(rng.integers(5, 60)) for row in range(0, count, 2)}
        write_thumbnails(root, shard, shown)
        damaged = number % 5 == 1
        rows = [ErrorRow("x", Stage.PHOTO, Status.BROKEN_IMAGE, "broken")]
        rows += [ErrorRow(None, Stage.READ, Status.SHARD_CORRUPT, "corrupt")] * damaged
        (root / "errors").mkdir(exist_ok=True)
        pq.write_table(error_table(shard, rows), root / f"errors/part-{shard}.parquet")
        manifest = {
            "shard": shard,
            "source": f"/archive/{shard}.tar",
            "tar_status": "corrupt" if damaged else "complete",
            "tar_message": "corrupt at byte 512" if damaged else "",
            "read_failed": number == 3,
            "version": "1",
            "config_hash": "2",
            "left_out": {"by_kind": {f".k{number}": 1, ".mov": 2}, "named": [f"{number}.zip"]},
            "problems": ["x.json: no position"] * (number % 3),
            "not_understood": number % 3,
            "photos": count + 1,
            "predictions": count,
            "photo_errors": 1,
            "shard_errors": int(damaged),
            "errors_by_status": Counter(row.status.value for row in rows),
            "layers": {"predictions": count, "errors": len(rows), "thumbnails": len(shown)},
        }
        output.write(
            "_manifest", ManifestName.of(manifest).file, data=json.dumps(manifest).encode()
        )
    return output


def summary_of(photos: int, **configuration: Any) -> dict[str, Any]:
    """What a run without errors says of itself."""
    return {
        "photos": photos,
        "predictions": photos,
        "photo_errors": 0,
        "errors_by_status": {},
        "shards": {"complete": 1},
        **{name: [] for name in ("mismatches", "damaged", "notes")},
        **{"left_out": {}, "not_understood": 0, "documents": [], "estimates": 0},
        "seconds": 12345.678,
        "configuration": configuration,
    }
