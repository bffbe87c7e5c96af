"""Now and then a line on stderr while the job runs: what is done, how fast, how long it takes yet.

A job inside this process is watched photo by photo, by `TALLY`. Where other processes or machines
do the work, nothing is seen of a shard before it has been written; then its manifest says how many
photos it held. Knows no Beam.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from types import TracebackType
from typing import TextIO

from pipelines.geotag.output import Output

FIRST_SECONDS = 5.0
LONGEST_SECONDS, LONGEST_SECONDS_TERMINAL = 60.0, 10.0
MOST_READ = 200
"""Manifests read for one line; with more new ones than that, their mean stands for the rest."""


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


@dataclass(frozen=True)
class Moment:
    """How far the job is.

    Attributes:
        seconds: Since it began.
        shards: In the input.
        done: Of these, also by an earlier run.
        photos: Finished by this run, as far as can be seen.
        rate: Photos per second; None while it is not known.
        seconds_left: None while nothing can be said.
    """

    seconds: float
    shards: int
    done: int
    photos: int = 0
    rate: float | None = None
    seconds_left: float | None = None


def progress_line(moment: Moment) -> str:
    """One line of progress."""
    parts = [f"{moment.done:,}/{moment.shards:,} shards"]
    if moment.photos:
        parts.append(f"{moment.photos:,} photos")
    if moment.rate is not None:
        parts.append(f"{moment.rate:,.1f} images/s")
    if moment.seconds_left is not None:
        parts.append(f"about {duration(moment.seconds_left)} left")
    return f"{duration(moment.seconds):>7}  {', '.join(parts)}"


def duration(seconds: float) -> str:
    """Seconds in the unit in which one would say them."""
    for most, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < most:
            return f"{seconds / unit:.{0 if unit < 3600 else 1}f} {name}"
    return f"{seconds / 86_400:.1f} days"


class Watch:
    """Puts together what the tally and the output directory know.

    Args:
        output: Of the job.
        shards: Ids of its input.
    """

    def __init__(self, output: Output, shards: Collection[str]) -> None:
        self.output = output
        self.shards = frozenset(shards)
        self._before = self._finished()
        self._tally_before = TALLY.photos
        self._photos: dict[str, int] = {}  # of shards that this run has written
        self._first: tuple[float, int] | None = None  # seconds and photos when some were first seen

    def _finished(self) -> frozenset[str]:
        return self.shards.intersection(self.output.finished_shards())

    def look(self, seconds: float) -> Moment:
        """The state at this many seconds after the start; raises what the file system raises."""
        done = self._before | self._finished()
        new = sorted(done - self._before)
        for shard in [shard for shard in new if shard not in self._photos][:MOST_READ]:
            manifest = self.output.manifest(shard)
            if manifest is not None:
                self._photos[shard] = manifest["photos"]
        per_shard = sum(self._photos.values()) / len(self._photos) if self._photos else None
        written = round(per_shard * len(new)) if per_shard is not None else 0
        photos = max(TALLY.photos - self._tally_before, written)
        rate = self._rate(seconds, photos)
        left = None
        if rate and per_shard is not None:
            left = max(per_shard * (len(self.shards) - len(self._before)) - photos, 0) / rate
        return Moment(seconds, len(self.shards), len(done), photos, rate, left)

    def _rate(self, seconds: float, photos: int) -> float | None:
        """Since photos were first seen, so that starting workers counts as little as possible."""
        if not photos:
            return None
        if self._first is None:
            self._first = seconds, photos
        first_seconds, first_photos = self._first
        if photos > first_photos and seconds > first_seconds:
            return (photos - first_photos) / (seconds - first_seconds)
        return photos / seconds if seconds > 0 else None


class Ticker:
    """Prints while the `with` block runs: soon at first, then every minute.

    Args:
        line: From the seconds since the start to what is printed; may raise, then nothing is.
        first: Seconds until the first line; then twice as long, up to a minute, or to ten seconds
            on a terminal.
        stream: Where to; stderr by default.
    """

    def __init__(
        self,
        line: Callable[[float], str],
        first: float = FIRST_SECONDS,
        stream: TextIO | None = None,
    ) -> None:
        self.line = line
        self.first = first
        self.stream = stream or sys.stderr
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> Ticker:
        self._start = time.monotonic()
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
        wait = self.first
        longest = LONGEST_SECONDS_TERMINAL if self.stream.isatty() else LONGEST_SECONDS
        while not self._stop.wait(wait):
            wait = min(2 * wait, max(longest, self.first))
            try:
                line = self.line(time.monotonic() - self._start)
            except Exception:  # whatever a network raises must not disturb the job that it watches
                continue
            if not self._stop.is_set():
                # In one piece, so that it cannot mix with what others write.
                self.stream.write(line + "\n")
                self.stream.flush()


class Progress(Ticker):
    """Prints how far a job of shards is; see `Watch`.

    Args:
        output: Of the job.
        shards: Ids of its input.
        first, stream: As for Ticker.
    """

    def __init__(
        self,
        output: Output,
        shards: Collection[str],
        first: float = FIRST_SECONDS,
        stream: TextIO | None = None,
    ) -> None:
        self.watch = Watch(output, shards)
        super().__init__(lambda seconds: progress_line(self.watch.look(seconds)), first, stream)
