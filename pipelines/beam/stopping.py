"""How a job ends before its time: Ctrl-C, a request to terminate, an error in one of its steps."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import threading
from collections.abc import Iterator

from locdiffusion.cli.parser import TRACEBACK, RunFailed, UsageError, causes

AGAIN = "stopped; type the same command again to go on from here"


@contextlib.contextmanager
def told_in_one_line(quiet: bool) -> Iterator[None]:
    """Turns whatever ends the job of a `with` block too early into one exception with one line.

    Beam wraps an interrupt into errors of its steps, and logs each with its traceback.

    Args:
        quiet: Whether Beam logs nothing. A job on this machine needs no log.

    Raises:
        KeyboardInterrupt: The job was stopped.
        RunFailed: A step of the job failed; the message begins with the first cause.
    """
    logger = logging.getLogger("apache_beam")
    before, threads = logger.level, threading.excepthook
    if quiet and not os.environ.get(TRACEBACK):
        logger.setLevel(logging.CRITICAL + 1)
        threading.excepthook = lambda raised: None  # those that wait for worker processes
    try:
        yield
    except (UsageError, RunFailed):
        raise
    except Exception as error:
        if any(isinstance(cause, KeyboardInterrupt) for cause in causes(error)):
            raise KeyboardInterrupt from None
        raise RunFailed(
            f"{_first_cause(error)}; what is finished is kept; {TRACEBACK}=1 before the command "
            "shows where it came from"
        ) from error
    finally:
        logger.setLevel(before)
        threading.excepthook = threads


def _first_cause(error: BaseException) -> str:
    """Returns what was raised first; workers in other processes send it as the end of a text."""
    *_, first = causes(error)
    if isinstance(first, queue.Empty):
        return "a worker process was killed, perhaps for lack of memory"
    lines = str(first).strip().splitlines()
    return lines[-1] if len(lines) > 1 else f"{type(first).__name__}: {first}"


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Lets SIGTERM stop the `with` block as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
