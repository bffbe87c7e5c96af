"""Notes which shards are being worked on, so that one that kills its workers is not read for ever.

Before a shard is read, a file says so in the output directory; it is removed when work on the shard
ends, with a result or an error. A note that is found was left by a worker that was killed. So that
no other shard is accused, a shard with a note is worked on alone: no other of this run on this
machine is in work meanwhile. Knows no Beam.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace

from locdiffusion.photos.listing import Shard
from locdiffusion.photos.tar import TarStatus
from pipelines.geotag.batches import PhotoBatch, ShardEnding
from pipelines.geotag.kept_rows import KeptRows
from pipelines.geotag.manifests import is_count
from pipelines.geotag.output import ATTEMPTS, Output
from pipelines.writing.directory import to_json
from schemas.geotags import ErrorRow, Stage, Status

MOST_DEATHS = 2
"""Number of killed workers after which a shard is not read. Dataflow tries a shard four times."""

DEADLY = (
    f"its worker was killed {MOST_DEATHS} times while it worked on this shard, perhaps for lack of "
    "memory, so it is not read; --retry-failed tries it again, with more memory for workers if "
    "need be; or take it out"
)
_LOCK_FILE = "LOCDIFFUSION_ATTEMPTS_LOCK"
_MAKING = threading.Lock()


@contextlib.contextmanager
def attempt(output: Output, shard: Shard, version: str) -> Iterator[PhotoBatch | None]:
    """Notes that a shard is worked on in the `with` block.

    The note is written only if there is none, so that nothing is read where nobody was killed.

    Args:
        output: Output directory of the run.
        shard: Shard that is about to be read.
        version: The shard's version.

    Yields:
        None if the shard may be read; else its only batch, which says why not.
    """
    name = f"{shard.id}.json"
    with contextlib.ExitStack() as held:
        held.enter_context(_in_work(alone=False))
        if not output.create(ATTEMPTS, name, data=_note(shard, version, 1)):
            held.close()
            note = output.read_json(ATTEMPTS, name) or {}
            known = note.get("version") == version and is_count(note.get("deaths"))
            deaths = note["deaths"] if known else 0
            if deaths >= MOST_DEATHS:
                yield _deadly(shard, version)
                output.remove(ATTEMPTS, name)  # the next attempt, if it is wished for, is the first
                return
            held.enter_context(_in_work(alone=deaths > 0))
            output.write(ATTEMPTS, name, data=_note(shard, version, deaths + 1))
        held.callback(output.remove, ATTEMPTS, name)
        yield None


@contextlib.contextmanager
def forgotten_if_stopped(output: Output) -> Iterator[None]:
    """Removes all notes if Ctrl-C ends the block, which kills the workers of this machine."""
    _lock_file()  # worker processes inherit its name
    try:
        yield
    except KeyboardInterrupt:
        for name in output.names(ATTEMPTS, "*.json"):
            output.remove(ATTEMPTS, name)
        raise
    finally:
        with contextlib.suppress(OSError):  # a folder with notes, or none
            os.rmdir(output.path(ATTEMPTS))


def _note(shard: Shard, version: str, deaths: int) -> bytes:
    return to_json({"shard": shard.id, "version": version, "deaths": deaths})


def _deadly(shard: Shard, version: str) -> PhotoBatch:
    row = ErrorRow(None, Stage.READ, Status.SHARD_UNREADABLE, DEADLY)
    ending = ShardEnding(1, 0, TarStatus.UNREADABLE, DEADLY, version)
    return PhotoBatch(shard, 0, (), (), None, errors=(row,), ending=ending)


def beside(deadly: PhotoBatch, kept: KeptRows | None) -> PhotoBatch:
    """Adds the rows that stay to the only batch of a shard that is not read.

    Args:
        deadly: Batch that says why the shard is not read.
        kept: Rows of an earlier run; None if there are none.
    """
    if kept is None or deadly.ending is None:
        return deadly
    photos = kept.predictions.num_rows
    ending = replace(deadly.ending, photos=photos, thumbnails=kept.thumbnails, kept=kept)
    return replace(deadly, ending=ending)


@contextlib.contextmanager
def _in_work(alone: bool) -> Iterator[None]:
    """Waits until a shard may be in work: beside others, or alone."""
    try:
        import fcntl
    except ImportError:  # Windows; there innocent shards may be accused
        yield
        return
    lock = os.open(_lock_file(), os.O_RDWR)
    try:
        # The system gives it back if the process dies.
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
    finally:
        os.close(lock)


def _lock_file() -> str:
    """Returns the file that the processes of a run on one machine lock."""
    with _MAKING:
        if not os.path.exists(os.environ.get(_LOCK_FILE, "")):
            handle, path = tempfile.mkstemp(prefix="locdiffusion-")
            os.close(handle)
            os.environ[_LOCK_FILE] = path
            atexit.register(_remove, path)
        return os.environ[_LOCK_FILE]


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
