"""How far a geotag job is: shards and photos done, photos per second, time left.

A job inside this process is watched photo by photo, through `TALLY`. If other processes or machines
do the work, a shard is seen only when its manifest is written, which says how many photos it held.
Knows no Beam.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass
from typing import TextIO

from pipelines.geotag.output import Output
from pipelines.writing.progress import FIRST_SECONDS, Ticker, duration

MOST_READ = 200
"""Most manifests read for one line. If more are new, their mean stands for the rest."""


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
        seconds: Seconds since the job began.
        shards: Number of shards in the input.
        done: Number of shards done, by this or an earlier run.
        photos: Number of photos that this run has finished, as far as can be seen.
        rate: Photos per second; None while it is not known.
        seconds_left: Estimated seconds until the end; None while it is not known.
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


class Watch:
    """Joins what the tally and the output directory know of a job; `shards` are its input's ids."""

    def __init__(self, output: Output, shards: Collection[str]) -> None:
        self.output = output
        self.shards = frozenset(shards)
        self._before = self.shards.intersection(self.output.manifest_files())
        self._tally_before = TALLY.photos
        self._photos: dict[str, int] = {}  # of shards that this run has written
        self._first: tuple[float, int] | None = None  # seconds and photos when some were first seen

    def look(self, seconds: float) -> Moment:
        """Computes the state at a number of seconds after the start."""
        files = self.output.manifest_files()
        done = self._before | self.shards.intersection(files)
        new = sorted(done - self._before)
        for shard in [shard for shard in new if shard not in self._photos][:MOST_READ]:
            manifest = self.output.manifest(shard, files[shard])
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
        """Photos per second since photos were first seen: the start of workers counts little."""
        if not photos:
            return None
        if self._first is None:
            self._first = seconds, photos
        first_seconds, first_photos = self._first
        if photos > first_photos and seconds > first_seconds:
            return (photos - first_photos) / (seconds - first_seconds)
        return photos / seconds if seconds > 0 else None


class Progress(Ticker):
    """Prints how far a geotag job is; see `Ticker`."""

    def __init__(
        self,
        output: Output,
        shards: Collection[str],
        first: float = FIRST_SECONDS,
        stream: TextIO | None = None,
    ) -> None:
        self.watch = Watch(output, shards)
        super().__init__(lambda seconds: progress_line(self.watch.look(seconds)), first, stream)
