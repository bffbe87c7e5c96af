"""A line on stderr every few seconds while the job runs. Knows no Beam."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO


class Tally:
    """Photos that this process has finished; for progress only, never for results."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.photos = 0

    def add(self, photos: int) -> None:
        """Counts more photos."""
        with self._lock:
            self.photos += photos


TALLY = Tally()


def progress_line(done: int, shards: int, photos: int, seconds: float) -> str:
    """One line of progress.

    Args:
        done: shards written, also by an earlier run.
        shards: in the input.
        photos: finished by this run as far as this process can see; 0 if others do the work.
        seconds: since the start.
    """
    rate = f", {photos:,} photos, {photos / seconds:.1f}/s" if photos and seconds > 0 else ""
    return f"{seconds:6.0f} s  {done:,}/{shards:,} shards{rate}"


class Progress:
    """Prints while the `with` block runs.

    Args:
        shards: number in the input.
        count_done: asks the output directory how many are written.
        every: seconds between two lines.
        stream: where to; stderr by default.
    """

    def __init__(
        self,
        shards: int,
        count_done: Callable[[], int],
        every: float = 5.0,
        stream: TextIO | None = None,
    ) -> None:
        self.shards = shards
        self.count_done = count_done
        self.every = every
        self.stream = stream
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> Progress:
        self._start = time.monotonic()
        self._before = TALLY.photos
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self.every):
            seconds = time.monotonic() - self._start
            try:
                done = self.count_done()
            except OSError:
                continue  # a network that hiccups must not end the job that it only watches
            line = progress_line(done, self.shards, TALLY.photos - self._before, seconds)
            print(line, file=self.stream or sys.stderr, flush=True)
