"""Runs the geotag job where Beam is not installed; the job on Beam writes the same bytes."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence

from locdiffusion.photos.listing import Shard
from locdiffusion.photos.photo import decode_photo
from locdiffusion.photos.photo_process import isolated
from pipelines.geotag.attempts import attempt, beside
from pipelines.geotag.batches import STAGES, read_batches, run_stage
from pipelines.geotag.decoding_ahead import BATCHES_AHEAD, DecodingAhead
from pipelines.geotag.embeddings import EmbeddedShard, read_embedded
from pipelines.geotag.late_results import LATE_THREADS
from pipelines.geotag.model_cache import Loader, loaded
from pipelines.geotag.options import GeotagOptions
from pipelines.geotag.output import Output, RunConfiguration, write_shard
from pipelines.geotag.progress import TALLY
from pipelines.geotag.retries import Retries
from schemas.geotags import Stage


def run_plain_loop(
    options: GeotagOptions,
    load: Loader,
    configuration: RunConfiguration,
    output: Output,
    shards: Sequence[Shard],
) -> int:
    """Geotags the shards that are not finished, in this process; returns how many photos."""
    photos_before = TALLY.photos
    geotagger, extras = loaded(load).geotagger, options.extras
    wanted = extras.regions, LATE_THREADS, *extras.decoding()
    retries = Retries(output, configuration)
    decode = functools.partial(
        decode_photo, salvage=extras.salvage, decode=isolated, sha256=extras.sha256
    )
    for shard in shards:
        version = shard.version
        if output.kept(shard, configuration, version) is not None:
            continue
        with attempt(output, shard, version) as deadly:
            kept = retries.take(shard, version)
            batches = [] if deadly is None else [beside(deadly, kept)]
            ahead = DecodingAhead(BATCHES_AHEAD * options.batch_size)
            if isinstance(shard, EmbeddedShard):
                photos = read_embedded(shard, options.batch_size, version, kept)
            else:
                photos = read_batches(
                    shard,
                    geotagger.preprocess,
                    options.batch_size,
                    decode,
                    extras.thumbnails,
                    ahead,
                    version,
                    kept,
                    keep=extras.keep,
                )
            with contextlib.closing(photos):
                for batch in photos if deadly is None else ():
                    LATE_THREADS.wait_for_room()
                    for stage in STAGES:
                        batch = run_stage(batch, stage, geotagger, *wanted)
                        if stage is Stage.EMBED and extras.embeddings:
                            batch = batch.halved()
                    TALLY.add(batch.rows)
                    batches.append(batch)
            write_shard(output, configuration, batches, extras)
    return TALLY.photos - photos_before
