"""Reads the embeddings that an earlier run kept, in place of its photos. Knows no Beam.

The layer `embeddings` of an output, its errors and its manifests say all that another run needs:
another checkpoint of the same encoder, another prior, regions, a gallery. No photo is read and no
encoder is loaded. Files may be those of strangers, and are read within bounds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from locdiffusion.files import file_system
from locdiffusion.isolation.parquet import read_parquet
from locdiffusion.model.fingerprint import LEAST_COSINE, cosine
from locdiffusion.model.weights import GEOCLIP, architecture, may_be_same, split_name
from locdiffusion.photos.blocks import TarStatus
from locdiffusion.photos.capture_time import UNKNOWN, Capture, CaptureTime, TimeSource
from locdiffusion.photos.coordinates import Source
from locdiffusion.photos.identity import PhotoIdentity
from locdiffusion.photos.left_out import LeftOut, number
from locdiffusion.photos.listing import Shard
from locdiffusion.photos.positions import PhotoPositions
from locdiffusion.photos.storage import DataError
from locdiffusion.photos.storage import version as file_version
from locdiffusion.photos.table_reader import own_prior
from pipelines.geotag.batches import Embeddings, PhotoBatch, ShardEnding
from pipelines.geotag.kept_fields import checked_fields
from pipelines.geotag.kept_rows import KeptRows
from pipelines.geotag.manifests import ManifestName
from pipelines.geotag.output import DIGEST, Output
from pipelines.geotag.tables import EMBEDDINGS, ERRORS
from pipelines.writing.directory import RUN
from schemas.geotags import CAPTURE_COLUMNS, ErrorRow, Stage, Status
from schemas.layers import EMBEDDING, embedding_schema
from schemas.samples import Truth

BEFORE = (Stage.READ, Stage.PHOTO, Stage.EMBED)
"""Steps in which photos fail that have no embedding."""
IDENTITIES_SINCE = "6"
"""First schema version whose embeddings have the identities of their photos."""
_ERROR_COLUMNS = ["key", "stage", "status", "message", "photo_id", "path"]
_NOT_UNDERSTOOD = "a document that the first run did not understand"


@dataclass(frozen=True)
class EmbeddedShard(Shard):
    """A shard whose embeddings an earlier run kept; id and place are those of the archive.

    Attributes:
        root: Output directory of the earlier run.
        manifest: Name of the shard's manifest there.
        encoder: Encoder of the embeddings, as of `encoder_of`.
    """

    root: str = ""
    manifest: ManifestName | None = None
    encoder: str = ""

    @property
    def version(self) -> str:
        """Digest that changes when the earlier run does the shard again."""
        output = Output(self.root)
        files = [file_version(output.part(layer, self.id))[1:] for layer in (EMBEDDINGS, ERRORS)]
        return hashlib.sha256(repr(files).encode()).hexdigest()[:32]


def encoder_of(configuration: Mapping[str, Any]) -> str:
    """Returns what decides the embeddings of a photo, of all that a run recorded, as JSON."""
    names = ("encoder", "bf16", "salvage")
    return json.dumps({name: configuration.get(name) for name in names}, sort_keys=True)


def fields_of(configuration: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the fields of documents that a run took along, of all that it recorded.

    Raises:
        ValueError: They are none that a run of ours takes.
    """
    return checked_fields(configuration.get("keep", ()))


def refuse_embeddings(places: Iterable[str]) -> None:
    """Refuses outputs with embeddings as an input of photos.

    Raises:
        DataError: One of the places is such an output.
    """
    for place in places:
        if "://" not in place and (Output(place).read_json(RUN) or {}).get(EMBEDDINGS):
            raise DataError(
                f"{place} is an output, wanted photos; to geotag the embeddings that it holds, "
                "add --from-embeddings"
            )


def kept_embeddings(root: str, tell: Callable[[str], None]) -> list[EmbeddedShard]:
    """Lists the shards of an output that have embeddings.

    Args:
        root: Output directory of the run that kept them.
        tell: Receives a line if that run has not ended.

    Raises:
        DataError: The directory holds none.
    """
    output, run = Output(root), _run(root)
    files, encoder = output.manifest_files(), encoder_of(run)
    shards = [
        EmbeddedShard(
            manifest["shard"],
            manifest["source"],
            root=root,
            manifest=files[manifest["shard"]],
            encoder=encoder,
        )
        for manifest in output.manifests(list(files.values()))
    ]
    if not shards:
        raise DataError(f"{root} holds no finished shard; let its run end first")
    if not output.exists(DIGEST):  # which a run removes that has something to do
        tell(
            f"the run in {root} has not ended, and {number(len(shards), 'shard')} of it can be "
            "geotagged; type its command again, then this one"
        )
    return shards


def _run(root: str) -> dict[str, Any]:
    run = Output(root).read_json(RUN) or {}
    if not run.get(EMBEDDINGS):
        found = "is an output without embeddings" if run else "is no output of this command"
        raise DataError(
            f"{root} {found}, wanted one of `locdiffusion geotag --embeddings`; geotag the photos "
            "with --embeddings first, or leave --from-embeddings out"
        )
    if str(version := run.get("schema_version")) < IDENTITIES_SINCE:
        raise DataError(
            f"{root} holds embeddings of schema version {version}, which do not tell which photos "
            "they are of; geotag the photos with --embeddings once more"
        )
    return run


def _same_encoder(found: Any, wanted: Any, one: str, other: str) -> bool:
    """Whether two specifications, with the fingerprints if there are any, are of one encoder.

    Fingerprints decide between files, whose names say nothing. An older checkpoint names no
    activation.
    """
    if not (isinstance(found, dict) and isinstance(wanted, dict)):
        return bool(found == wanted)
    known = bool(found.get("activation") and wanted.get("activation"))
    besides = {"name"} if known else {"name", "activation"}
    specs = [{k: v for k, v in one.items() if k not in besides} for one in (found, wanted)]
    if specs[0] != specs[1]:
        return False
    names = str(found.get("name")), str(wanted.get("name"))
    if one and other:
        try:
            alike = cosine(one, other) >= LEAST_COSINE
        except ValueError:  # a stranger's
            return False
        return alike and (may_be_same(*names) or may_be_same(*names[::-1]))
    models, weights = zip(*map(split_name, names), strict=True)
    same = architecture(names[0]) == architecture(names[1])
    return same and (weights[0] == weights[1] or set(models) == {GEOCLIP})


def recorded_embeddings(
    root: str, settings: Mapping[str, Any], fingerprint: str = ""
) -> dict[str, Any]:
    """What a run with these settings records of the embeddings in a directory.

    Args:
        root: Output directory of the earlier run.
        settings: Settings of the run, with the specification of the checkpoint's encoder.
        fingerprint: Fingerprint of that encoder, if the checkpoint has one.

    Raises:
        DataError: They are of another encoder than that of the settings.
    """
    run = _run(root)
    found, wanted = run.get("encoder"), json.loads(json.dumps(settings.get("encoder")))
    if not _same_encoder(found, wanted, str(run.get("fingerprint", "")), fingerprint):
        raise DataError(
            f"{root} holds embeddings of the encoder {found}, and the checkpoint wants {wanted}; "
            "give a checkpoint of that encoder, or geotag the photos"
        )
    made: dict[str, Any] = {name: run[name] for name in ("bf16", "salvage") if name in run}
    return made | {"from_embeddings": True}


def kept_fields(root: str) -> tuple[str, ...]:
    """Returns the fields of documents that an output with embeddings took along.

    Raises:
        DataError: The directory holds none, or its fields cannot be columns.
    """
    run = _run(root)
    try:
        return fields_of(run)
    except ValueError as error:
        raise DataError(f"{root} cannot be used: {error}") from error


def read_embedded(
    shard: EmbeddedShard, batch_size: int, version: str, kept: KeptRows | None = None
) -> Generator[PhotoBatch, None, None]:
    """Yields the embeddings of a shard in batches, as `batches.read_batches` does photos.

    Photos that have no embedding are the rows of errors that they were. Embeddings that cannot be
    read are an unreadable shard.
    """
    try:
        rows, errors, ending = _read(shard, version)
        keep = rows.column_names[len(embedding_schema(1)) :]
        known = [_positions(row, keep) for row in rows.drop_columns([EMBEDDING]).to_pylist()]
        # Checked: a stranger's file must not name another one to read.
        priors = [own_prior(prior or "") for prior in rows["prior"].to_pylist()]
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        why = f"the embeddings cannot be read ({error}); do the first run again"
        row = ErrorRow(None, Stage.READ, Status.SHARD_UNREADABLE, why)
        unread = ShardEnding(1, 0, TarStatus.UNREADABLE, why, version, read_failed=True)
        yield PhotoBatch(shard, 0, (), (), None, (row,), unread)
        return
    done = kept.keys if kept else frozenset()
    keys = rows["key"].to_pylist()
    chosen = [row for row, key in enumerate(keys) if key not in done]
    values = rows[EMBEDDING].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    values = values.reshape(len(keys), -1) if keys else np.zeros((0, 1), np.float16)
    starts = range(0, max(1, len(chosen)), batch_size)
    for index, start in enumerate(starts):
        part = chosen[start : start + batch_size]
        last = index == len(starts) - 1
        numbers = values[part].astype(np.float32)
        yield PhotoBatch(
            shard=shard,
            index=index,
            keys=tuple(keys[row] for row in part),
            known=tuple(known[row] for row in part),
            payload=Embeddings(numbers) if part else None,
            priors=tuple(priors[row] for row in part) if any(priors) else (),
            errors=errors if last else (),
            ending=_ended(ending, len(starts), kept) if last else None,
        )


def _ended(ending: ShardEnding, batches: int, kept: KeptRows | None) -> ShardEnding:
    return ShardEnding(**{**vars(ending), "batches": batches, "kept": kept})


def _read(shard: EmbeddedShard, version: str) -> tuple[pa.Table, tuple[ErrorRow, ...], ShardEnding]:
    output = Output(shard.root)
    manifest = output.manifest(shard.id, shard.manifest)
    if manifest is None:
        raise ValueError("its manifest is gone")
    width = (json.loads(shard.encoder)["encoder"] or {}).get("embedding_dim")
    rows = _table(output.part(EMBEDDINGS, shard.id))
    configuration = json.loads((rows.schema.metadata or {}).get(b"config", b"{}"))
    keep = fields_of(configuration)
    wanted = embedding_schema(width or 1, keep)
    if (found := encoder_of(configuration)) != shard.encoder:
        raise ValueError(f"they are of {found}, wanted {shard.encoder}")
    if rows.num_rows and width is None:  # the encoder states none
        wanted = embedding_schema(rows.schema.field(EMBEDDING).type.list_size, keep)
    rows = rows.select(wanted.names)
    rows = rows.cast(wanted) if rows.num_rows else wanted.empty_table()
    numbers = rows[EMBEDDING].combine_chunks().flatten()
    never = ("key", "photo_id", "path", EMBEDDING)
    if any(rows[name].null_count for name in never) or numbers.null_count:
        raise ValueError("there are nulls among the keys, the identities or the embeddings")
    table = _table(output.part(ERRORS, shard.id))
    found_errors = [
        ErrorRow(
            row["key"],
            Stage(row["stage"]),
            Status(row["status"]),
            str(row["message"]),
            row["photo_id"],
            row["path"],
        )
        for row in table.select(_ERROR_COLUMNS).to_pylist()
    ]
    errors = tuple(row for row in found_errors if row.stage in BEFORE)
    if any((row.key is None) != row.status.of_shard for row in errors):
        raise ValueError("a photo among its errors has no key")
    keys = [*rows["key"].to_pylist(), *(row.key for row in errors if row.key is not None)]
    if len(set(keys)) != len(keys) or len(keys) != manifest["photos"]:
        raise ValueError(f"{len(set(keys))} photos, and the manifest says {manifest['photos']}")
    problems = [str(one) for one in manifest.get("problems", ())]
    unsaid = [_NOT_UNDERSTOOD] * (manifest.get("not_understood", 0) - len(problems))
    return (
        rows,
        errors,
        ShardEnding(
            batches=0,
            photos=len(keys),
            tar_status=TarStatus(manifest["tar_status"]),
            tar_message=str(manifest.get("tar_message", "")),
            version=version,
            left_out=LeftOut.from_dict(manifest.get("left_out", {})),
            problems=tuple(problems + unsaid),
            read_failed=bool(manifest.get("read_failed")),
        ),
    )


def _table(place: str) -> pa.Table:
    filesystem, path = file_system(place)
    local = path if "://" not in place else filesystem.cat_file(path)
    return read_parquet(local, lists=[EMBEDDING])


@dataclass(frozen=True)
class _Written(PhotoPositions):
    """Known positions and times as the first run wrote them."""

    exif: Truth | None = None
    truth: Truth | None = None
    exif_source: Source | None = None
    truth_source: Source | None = None
    capture: Capture = UNKNOWN
    fields: tuple[tuple[str, str], ...] = ()


def _positions(row: Mapping[str, Any], keep: Sequence[str]) -> PhotoPositions:
    """Reads the columns of positions and times; raises ValueError for one that is none."""

    def place(kind: str) -> Truth | None:
        pair = row[f"{kind}_latitude"], row[f"{kind}_longitude"]
        return None if None in pair else Truth(*pair)

    def source(kind: str) -> Source | None:
        return row[f"{kind}_source"] and Source(row[f"{kind}_source"])

    return _Written(
        exif=place("exif"),
        truth=place("truth"),
        exif_source=source("exif"),
        truth_source=source("truth"),
        capture=_capture(*(row[name] for name in CAPTURE_COLUMNS)),
        identity=PhotoIdentity(row["photo_id"], row["path"], row["sha256"]),
        fields=tuple((name, row[name]) for name in keep if row[name] is not None),
    )


def _capture(
    local: datetime | None, offset_min: int | None, source: str | None, camera: str | None
) -> Capture:
    time = None if local is None else CaptureTime(local, TimeSource(source), offset_min)
    return Capture(time, camera or "")
