"""Digests the shards of a Beam job where they are written, and combines the digests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam

from pipelines.geotag.digest import RunDigest
from pipelines.geotag.manifests import ManifestName
from pipelines.geotag.output import DIGEST, Output
from pipelines.geotag.shard_files import MISMATCHES, digest_shards
from pipelines.geotag.summary import read_digest

FANOUT = 16
"""Workers that combine digests before the last one does."""


class DigestRun(beam.PTransform):
    """Turns manifests that are written into the run's digest, and writes it."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self.output = output

    def expand(self, manifests: beam.PCollection[Mapping[str, Any]]) -> beam.PCollection[None]:
        """Digests the new shards at once, and those kept from before when all are written."""
        names = manifests | "Name" >> beam.Map(ManifestName.of)
        kept = (
            manifests.pipeline
            | "Start" >> beam.Impulse()
            | "ListKept" >> beam.FlatMap(_kept, self.output, beam.pvalue.AsIter(names))
            | "Spread" >> beam.Reshuffle()
        )
        digests = [
            shards | f"Digest{which}" >> beam.Map(_digested, self.output)
            for which, shards in (("New", names), ("Kept", kept))
        ]
        return (
            digests
            | "Digests" >> beam.Flatten()
            | "Combine" >> beam.CombineGlobally(Combined()).with_fanout(FANOUT)
            | "WriteDigest" >> beam.Map(_write, self.output)
        )


def _kept(_: bytes, output: Output, new: Iterable[ManifestName]) -> Iterator[ManifestName]:
    """Yields the shards that this run has not written; none if a digest covers them as they are."""
    done = {name.shard for name in new}
    if not done:
        digest = read_digest(output)
        if digest is not None and digest.covers(output.sizes_of_shards()):
            return
    yield from (name for shard, name in output.manifest_files().items() if shard not in done)


def _digested(name: ManifestName, output: Output) -> RunDigest:
    return digest_shards(output, [name])


def _write(digest: RunDigest, output: Output) -> None:
    """Writes a digest, unless it is of nothing or tells of something that is to be looked at."""
    if digest.files and not digest.told[MISMATCHES]:
        output.write(DIGEST, data=digest.to_bytes())


class Combined(beam.CombineFn):
    """Adds up digests."""

    def create_accumulator(self) -> RunDigest:
        """The digest of no shard."""
        return RunDigest()

    def add_input(self, whole: RunDigest, digest: RunDigest) -> RunDigest:
        """Adds a digest."""
        whole.update(digest)
        return whole

    def merge_accumulators(self, digests: Iterable[RunDigest]) -> RunDigest:
        """Adds up digests of parts."""
        whole = RunDigest()
        for digest in digests:
            whole.update(digest)
        return whole

    def extract_output(self, whole: RunDigest) -> RunDigest:
        """The digest of the whole."""
        return whole
