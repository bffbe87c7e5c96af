"""Lines of progress on stderr while a job runs: soon at first, then about every minute."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
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


class Ticker:
    """Prints lines of progress while the `with` block runs.

    Args:
        line: Makes a line from the seconds since the start. If it raises, nothing is printed.
        first: Seconds until the first line. Each next wait is twice as long, up to a minute, or
            up to ten seconds on a terminal.
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
