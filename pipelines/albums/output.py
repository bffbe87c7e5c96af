"""The folder `albums` of an output: parts of rows, and whose they are.

    albums/_run.json                 written first: the settings of the job
    albums/part-<n>-of-<N>.parquet   the rows of whole albums
    albums/_manifest/<part>.json     written behind its part: what it was made of, and its counts
    albums/_summary.json             written last
    albums.html, albums_report.html  what one looks at, written by the command when all is done

What begins with `_` is no table to those who read the folder as one. Knows no Beam.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.albums.photos import digest, gathered
from pipelines.albums.rows import BucketRows, Contradiction, Placer, bucket_rows
from pipelines.writing.directory import OutputDirectory, at_once, to_json
from schemas.albums import ALBUMS, Standing
from schemas.geotags import SCHEMA_VERSION

MANIFESTS = f"{ALBUMS}/_manifest"
RUN, SUMMARY = f"{ALBUMS}/_run.json", f"{ALBUMS}/_summary.json"
ALBUMS_HTML, ALBUMS_REPORT_HTML = "albums.html", "albums_report.html"
PAGES = (ALBUMS_HTML, ALBUMS_REPORT_HTML)
ROW_GROUP_ROWS = 5_000
NAMED = {field.name for field in fields(Contradiction)}
MOST_NAMED = 1_000
"""Most contradictions that a manifest or a summary names."""


@dataclass(frozen=True)
class AlbumsOutput(OutputDirectory):
    """The output directory of an albums job, of which `albums` and its pages are its own."""

    FOLDERS: ClassVar[Mapping[str, str]] = {MANIFESTS: "part-*.json", ALBUMS: "part-*.parquet"}
    FILES: ClassVar[tuple[str, ...]] = (SUMMARY, *PAGES)
    KIND: ClassVar[str] = "albums job"
    OWNER: ClassVar[str] = RUN

    def manifest(self, name: str) -> dict[str, Any] | None:
        """The manifest of a part; None if there is none, or the file is not one."""
        found = self.read_json(MANIFESTS, f"{name}.json")
        return found if found is not None and _is_manifest(found) else None

    def summary(self) -> dict[str, Any] | None:
        """The summary of the job that has ended here; None if there is none."""
        return self.read_json(SUMMARY)

    def write_bucket(
        self, number: int, parts: Iterable[bytes], job: AlbumsJob, placer: Placer
    ) -> str:
        """Writes the rows of a bucket, unless that was done before; returns the name of the part.

        Args:
            number: Number of the bucket.
            parts: Its photos, as of `photos.spread`.
            job: What is common to all buckets.
            placer: Places the photos of an album.
        """
        name = f"part-{number:05d}-of-{job.buckets:05d}"
        photos = gathered(parts)
        made_of = digest(photos, job.identity)
        done = self.manifest(name)
        if (
            done is not None
            and done.get("digest") == made_of
            and self.exists(ALBUMS, f"{name}.parquet")
        ):
            return name
        rows = bucket_rows(photos, placer)
        self.write(ALBUMS, f"{name}.parquet", data=_parquet(rows.table, job))
        self.write(MANIFESTS, f"{name}.json", data=to_json(_manifest(made_of, rows)))
        return name

    def finish(self, names: Iterable[str], job: AlbumsJob) -> dict[str, Any]:
        """Removes what is of no bucket any more, and writes the summary.

        Args:
            names: Names of all parts of the job.
            job: What is common to all buckets.
        """
        ours = sorted(names)
        for folder, pattern in self.FOLDERS.items():
            for file in self.names(folder, pattern):
                if file.partition(".")[0] not in ours:
                    self.remove(folder, file)
        manifests = [found for found in at_once(self.manifest, ours) if found is not None]
        summary = summarised(manifests, job)
        self.write(SUMMARY, data=to_json(summary))
        return summary


@dataclass(frozen=True)
class AlbumsJob:
    """What is common to all buckets of a job.

    Attributes:
        settings: All that decides the rows but the photos, JSON-able.
        buckets: Number of buckets.
    """

    settings: Mapping[str, Any]
    buckets: int

    @property
    def identity(self) -> str:
        """The settings as one text."""
        return json.dumps(self.settings, sort_keys=True)


def _parquet(table: pa.Table, job: AlbumsJob) -> bytes:
    metadata = {b"schema_version": SCHEMA_VERSION.encode(), b"config": job.identity.encode()}
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata})
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, row_group_size=ROW_GROUP_ROWS, compression="zstd")
    return bytes(buffer.getvalue())


def _manifest(made_of: str, rows: BucketRows) -> dict[str, Any]:
    return {
        "digest": made_of,
        "photos": rows.table.num_rows,
        "albums": rows.albums,
        "standings": {one.value: rows.standings[one.value] for one in Standing},
        "contradictions": [asdict(one) for one in rows.contradictions[:MOST_NAMED]],
    }


def _is_manifest(document: Mapping[str, Any]) -> bool:
    """Whether an object has what is read of a manifest."""
    standings, named = document.get("standings"), document.get("contradictions")
    counts = [document.get("photos"), document.get("albums")]
    counts += [standings.get(one.value) for one in Standing] if isinstance(standings, dict) else []
    return (
        len(counts) > 2
        and all(type(count) is int for count in counts)
        and isinstance(named, list)
        and all(isinstance(one, dict) and set(one) == NAMED for one in named)
    )


def summarised(manifests: Iterable[Mapping[str, Any]], job: AlbumsJob) -> dict[str, Any]:
    """Adds up the manifests of all parts."""
    found = list(manifests)
    standings = {
        one.value: sum(manifest["standings"][one.value] for manifest in found) for one in Standing
    }
    named = sorted(
        (one for manifest in found for one in manifest["contradictions"]),
        key=lambda one: (one["album"], one["key"]),
    )
    return {
        "photos": sum(manifest["photos"] for manifest in found),
        "albums": sum(manifest["albums"] for manifest in found),
        "standings": standings,
        "contradictions": named[:MOST_NAMED],
        "unlisted": standings[Standing.CONTRADICTS.value] - len(named[:MOST_NAMED]),
        "configuration": dict(job.settings),
    }
