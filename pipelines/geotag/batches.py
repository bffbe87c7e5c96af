"""The steps of the geotag pipeline as ordinary functions, and what flows between them. No Beam.

A batch holds columns of equal length. Errors travel with the batch in which they happened, and the
last batch of a shard says how the shard ended, so that counts can be checked where it is written.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from locdiffusion.decoding.answers import Columns, GeotagColumns
from locdiffusion.photos.archive import Sample
from locdiffusion.photos.blocks import TarStatus
from locdiffusion.photos.left_out import LeftOut
from locdiffusion.photos.listing import Shard
from locdiffusion.photos.patience import PatientReader
from locdiffusion.photos.photo import PhotoRecord, decode_photo
from locdiffusion.photos.positions import PhotoPositions
from locdiffusion.photos.sidecar import Sidecar
from locdiffusion.photos.thumbnails import Chosen
from pipelines.geotag.decoding_ahead import DecodingAhead
from pipelines.geotag.hints import HintsOf
from pipelines.geotag.kept_rows import EmbeddedPhotos, KeptRows
from pipelines.geotag.late_results import (
    DRAWN_TOGETHER,
    Failure,
    LateThreads,
    attempted,
    regions_of,
    settled,
)
from pipelines.geotag.model_cache import GeotaggerLike
from pipelines.geotag.own_priors import inference_error, under_each_prior
from schemas.geotags import ErrorRow, Stage
from schemas.layers import Region, Thumbnail

if TYPE_CHECKING:
    from locdiffusion.decoding.area_masses import Partitions
    from pipelines.geotag.hints import HintsOf

PhotoDecoder = Callable[[Sample, Callable[[Any], np.ndarray], bool], PhotoRecord | ErrorRow]
_QUOTED = re.compile(r"""\bb(['"])(?:\\.|(?!\1).)*(?:\1|$)""", re.DOTALL)
"""Bytes in a message, as Python writes them."""
STAGES = (Stage.EMBED, Stage.SAMPLE, Stage.DECODE)


@dataclass(frozen=True)
class Pixels(Columns):
    """What `embed` takes: preprocessed photos, uint8 ``(N, S, S, 3)``."""

    pixels: np.ndarray


@dataclass(frozen=True)
class Embeddings(Columns):
    """What `sample` takes: image embeddings, float32 ``(N, E)``."""

    embeddings: np.ndarray


@dataclass(frozen=True)
class Posteriors(Columns):
    """What `decode` takes: embeddings ``(N, E)`` and natural parameters ``(N, K, d)``, float32."""

    embeddings: np.ndarray
    natural: np.ndarray


@dataclass(frozen=True)
class Decoded(Columns):
    """What is written of N photos.

    Attributes:
        answers: Answers of the photos.
        regions: Credible regions of each photo, or why it has none; None if not asked for. These
            may be `Late` until `PhotoBatch.settled`.
    """

    answers: GeotagColumns
    regions: list[tuple[Region, ...] | Failure] | None = None


@dataclass(frozen=True)
class ShardEnding:
    """How a shard ended; travels with its last batch.

    Attributes:
        batches: Number of batches of the shard.
        photos: Number of photos that the reader met, refused ones too; each must become a row.
        tar_status: Whether the reader found the shard complete.
        tar_message: What is wrong with the shard; empty when complete.
        version: Digest that changes when the shard is written again, taken before it was read.
        left_out: Members that are no photos and belong to none.
        problems: What is wrong with each document about a photo that is not understood.
        read_failed: Whether a part could not be read, so that another run should try again.
        thumbnails: Thumbnails of the photos that were chosen to have one.
        late: Documents that the reader met apart from their photos, by key.
        kept: Rows of an earlier run, of photos that are in no batch; None without such.
    """

    batches: int
    photos: int
    tar_status: TarStatus
    tar_message: str
    version: str
    left_out: LeftOut = field(default_factory=LeftOut)
    problems: tuple[str, ...] = ()
    read_failed: bool = False
    thumbnails: tuple[Thumbnail, ...] = ()
    late: Mapping[str, Sidecar] = field(default_factory=dict)
    kept: KeptRows | None = field(default=None, repr=False)


@dataclass(frozen=True)
class PhotoBatch:
    """N photos of one shard at one step.

    Attributes:
        shard: Shard from which the photos come.
        index: Position of the batch in its shard, from 0.
        keys: Keys of the N photos.
        known: What is known of the places where the N photos were taken.
        payload: What the next step takes, N rows; None without photos.
        errors: Photos, and perhaps the shard, that were lost on the way.
        ending: How the shard ended; on its last batch only.
        priors: Where each of the N photos may come from, None where the run says it; empty if no
            photo has a prior of its own.
        embedded: All photos that were embedded, if embeddings are kept.
    """

    shard: Shard
    index: int
    keys: tuple[str, ...]
    known: tuple[PhotoPositions, ...]
    payload: Pixels | Embeddings | Posteriors | Decoded | None
    errors: tuple[ErrorRow, ...] = ()
    ending: ShardEnding | None = None
    priors: tuple[str | None, ...] = ()
    embedded: EmbeddedPhotos | None = None

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def rows(self) -> int:
        """Number of photos with their fate: those still here, and those that were lost."""
        return len(self) + sum(error.key is not None for error in self.errors)

    def halved(self) -> PhotoBatch:
        """Keeps the embeddings in half precision, and goes on from these."""
        if not isinstance(self.payload, Embeddings):
            return self
        values = self.payload.embeddings.astype(np.float16)
        priors = list(self.priors) or [None] * len(self)
        embedded = EmbeddedPhotos(list(self.keys), list(self.known), priors, values)
        return replace(self, payload=Embeddings(values.astype(np.float32)), embedded=embedded)

    def without_quotes(self) -> PhotoBatch:
        """Leaves out the bytes that messages quote: a document may be called like a photo."""
        errors = (e._replace(message=_QUOTED.sub("…", e.message)) for e in self.errors)
        ending = self.ending
        if ending is not None:
            ending = replace(ending, tar_message=_QUOTED.sub("…", ending.tar_message))
        return replace(self, errors=tuple(errors), ending=ending)

    def settled(self) -> PhotoBatch:
        """Waits for regions that are late."""
        done = self.payload
        if not isinstance(done, Decoded):
            return self
        decoded = Decoded(done.answers, settled(done.regions))
        return replace(self, payload=decoded)


def read_batches(
    shard: Shard,
    preprocess: Callable[[Any], np.ndarray],
    batch_size: int,
    decode: PhotoDecoder = decode_photo,
    thumbnails: int = 0,
    ahead: DecodingAhead | None = None,
    version: str | None = None,
    kept: KeptRows | None = None,
    sleep: Callable[[float], None] = time.sleep,
    keep: tuple[str, ...] = (),
) -> Generator[PhotoBatch, None, None]:
    """Reads a shard, decodes its photos, and yields batches of at most `batch_size` photos.

    The last batch, and only it, has an `ending`; it may be empty.

    Args:
        shard: Shard to read.
        preprocess: Preprocessing of the encoder.
        batch_size: Most photos of a batch, and most errors.
        decode: Decoder of photos.
        thumbnails: Most photos that get a thumbnail.
        ahead: Threads that decode the next photos; the batches are the same without.
        version: Version of the shard, if it is known already.
        kept: Rows of photos that are not done again.
        sleep: Waits so many seconds before another try to read what could not be read.
        keep: Names of fields of documents that are taken along.
    """
    # Before a byte is read: what changes meanwhile is done again.
    version = version or shard.version
    done = kept.keys if kept else frozenset()
    reader = PatientReader(lambda: shard.reader(None, done, sleep, keep), sleep, done)
    photos: list[PhotoRecord] = []
    errors: list[ErrorRow] = []
    chosen = Chosen(thumbnails)
    for thumbnail in kept.thumbnails if kept else ():
        chosen.add(thumbnail)
    index, seen = 0, len(done)

    def work(sample: Sample) -> Callable[[], PhotoRecord | ErrorRow]:
        return functools.partial(decode, sample, preprocess, chosen.wants(sample.key))

    here = (work(item)() if isinstance(item, Sample) else item for item in reader)
    for result in here if ahead is None else ahead(reader, work):
        if max(len(photos), len(errors)) >= batch_size:
            yield _batch(shard, index, photos, errors)
            index, photos, errors = index + 1, [], []
        seen += result.key is not None
        if isinstance(result, PhotoRecord):
            if result.thumbnail is not None:
                chosen.add(Thumbnail(result.key, result.thumbnail))
            photos.append(result)
        else:
            errors.append(result)
    last = reader.last
    ending = ShardEnding(
        batches=index + 1,
        photos=seen,
        tar_status=last.status,
        tar_message=last.message,
        version=version,
        left_out=last.left_out,
        problems=tuple(last.problems),
        read_failed=last.read_failed,
        thumbnails=chosen.thumbnails(),
        late=last.late,
        kept=kept,
    )
    yield replace(_batch(shard, index, photos, errors), ending=ending)


def _batch(
    shard: Shard, index: int, photos: Sequence[PhotoRecord], errors: Sequence[ErrorRow]
) -> PhotoBatch:
    return PhotoBatch(
        shard=shard,
        index=index,
        keys=tuple(photo.key for photo in photos),
        known=tuple(photo.known for photo in photos),
        payload=Pixels(np.stack([photo.pixels for photo in photos])) if photos else None,
        errors=tuple(errors),
        priors=tuple(photo.prior for photo in photos) if any(p.prior for p in photos) else (),
    )


def run_stage(
    batch: PhotoBatch,
    stage: Stage,
    geotagger: GeotaggerLike,
    regions: bool = False,
    late: LateThreads | None = None,
    areas: Partitions | None = None,
    hints: HintsOf | None = None,
) -> PhotoBatch:
    """Takes a batch one step further: embed, sample or decode.

    A batch that fails is halved until the photo that fails stands alone (so does a batch that is
    too large for the memory), and that photo becomes an error row. A photo whose result is not
    finite becomes one too. If regions fail, the photo keeps the rest of its answer; with `late`,
    threads compute them, and `shard_rows` waits for them. Photos with priors of their own are
    sampled and decoded in groups of one prior each.
    """
    if batch.priors and stage is not Stage.EMBED:
        wanted = regions, late, areas, hints
        return under_each_prior(
            batch, stage, geotagger, lambda photos, own: run_stage(photos, stage, own, *wanted)
        )
    payload: Any = batch.payload
    if payload is None or (stage is Stage.EMBED and isinstance(payload, Embeddings)):
        return batch

    def step(some: slice) -> Columns:
        part = payload.take(some)
        if stage is Stage.EMBED:
            return Embeddings(geotagger.embed(part.pixels))
        if stage is Stage.SAMPLE:
            return Posteriors(part.embeddings, geotagger.sample(part.embeddings, batch.keys[some]))
        told = hints and hints(batch.shard.id, batch.keys[some], batch.known[some])
        return _decoded(geotagger, part, regions, late, areas, told)

    rows = np.empty(0, np.int64)
    parts: list[Any] = []  # all of one kind
    failed: dict[int, str] = {}
    for numbers, result in _bisected(step, 0, len(batch)):
        if isinstance(result, Failure):
            failed.update(dict.fromkeys(numbers.tolist(), result.reason))
        else:
            rows = np.append(rows, numbers)
            parts.append(result)
    errors = [
        inference_error(batch.keys[row], batch.known[row], stage, why)
        for row, why in sorted(failed.items())
    ]
    return replace(
        batch,
        keys=tuple(batch.keys[row] for row in rows),
        known=tuple(batch.known[row] for row in rows),
        payload=type(parts[0]).joined(parts) if parts else None,
        errors=batch.errors + tuple(errors),
        priors=tuple(batch.priors[row] for row in rows) if batch.priors else (),
    )


def _bisected(
    step: Callable[[slice], Columns], start: int, stop: int
) -> Iterator[tuple[np.ndarray, Columns | Failure]]:
    """Runs rows start..stop, halving on failure; yields row numbers and results, in row order."""
    numbers = np.arange(start, stop)

    def checked() -> tuple[Columns, np.ndarray]:
        result = step(slice(start, stop))
        if len(result) != len(numbers):
            raise ValueError(f"the model gave {len(result)} rows for {len(numbers)} photos")
        return result, result.finite_rows()

    attempt = attempted(checked)
    if not isinstance(attempt, Failure):
        result, finite = attempt
        if not finite.all():
            yield numbers[~finite], Failure("the result holds numbers that are not finite")
        if finite.any():
            yield numbers[finite], result.take(finite)
    elif len(numbers) == 1:
        yield numbers, attempt
    else:
        middle = (start + stop) // 2
        yield from _bisected(step, start, middle)
        yield from _bisected(step, middle, stop)


def _decoded(
    geotagger: GeotaggerLike,
    posteriors: Posteriors,
    regions: bool,
    late: LateThreads | None,
    areas: Partitions | None,
    hints: Any,
) -> Decoded:
    """Answers for all photos at once; regions for a few together."""
    answers = geotagger.decode(posteriors.natural, posteriors.embeddings, areas, hints)
    if not regions:
        return Decoded(answers)
    drawn: list[Any] = []
    for start in range(0, len(answers), DRAWN_TOGETHER):
        some = posteriors.take(slice(start, start + DRAWN_TOGETHER))
        photos = geotagger, some.natural, some.embeddings
        drawn += late.submit(len(some), regions_of, *photos) if late else regions_of(*photos)
    return Decoded(answers, drawn)


@dataclass(frozen=True)
class ShardRows(Columns):
    """All decoded photos of a shard: keys, known positions, and what is written."""

    keys: list[str]
    known: list[PhotoPositions]
    decoded: Decoded


def shard_rows(batches: Sequence[PhotoBatch]) -> ShardRows:
    """Joins the decoded batches of a shard in their order, however they come.

    Documents that were met apart from their photos are now put to them.
    """
    late = next((batch.ending.late for batch in batches if batch.ending), {})
    parts = [
        ShardRows(
            list(batch.keys),
            [
                known.with_late(late.get(key))
                for key, known in zip(batch.keys, batch.known, strict=True)
            ],
            batch.payload,
        )
        for batch in map(PhotoBatch.settled, sorted(batches, key=lambda batch: batch.index))
        if isinstance(batch.payload, Decoded)
    ]
    nobody = ShardRows([], [], Decoded(GeotagColumns.empty()))
    return ShardRows.joined(parts) if parts else nobody
