"""Lines of progress on stderr while a job runs: soon at first, then about every minute."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TextIO

FIRST_SECONDS = 5.0
LONGEST_SECONDS, LONGEST_SECONDS_TERMINAL = 60.0, 10.0


def duration(seconds: float) -> str:
    """A duration for people, in the unit in which one would say it: 90 s, 12 min, 3.5 h."""
    for most, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < most:
            return f"{seconds / unit:.{0 if unit < 3600 else 1}f} {name}"
    return f"{seconds / 86_400:.1f} days"


def waits(first: float, terminal: bool) -> Iterator[float]:
    """Yields the seconds between lines of progress, without end: each twice the one before.

    Args:
        first: Seconds until the first line.
        terminal: Whether a person watches, who wants a line at least every ten seconds.
    """
    longest = max(LONGEST_SECONDS_TERMINAL if terminal else LONGEST_SECONDS, first)
    while True:
        yield first
        first = min(2 * first, longest)


class Ticker:
    """Prints lines of progress while the `with` block runs.

    Args:
        line: Makes a line from the seconds since the start. If it raises, nothing is printed.
        first: Seconds until the first line; `waits` has the next ones.
        stream: Stream to print to; stderr by default.
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
        for seconds in waits(self.first, self.stream.isatty()):
            if self._stop.wait(seconds):
                return
            try:
                line = self.line(time.monotonic() - self._start)
            except Exception:  # whatever a network raises must not disturb the job that it watches
                continue
            if not self._stop.is_set():
                # In one piece, so that it cannot mix with what others write.
                self.stream.write(line + "\n")
                self.stream.flush()
