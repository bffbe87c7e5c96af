"""The build of training shards in a process that tells each step, so that a test can kill it."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

# Imported here so that a server that forks has it ready: kills hit work, not imports.
import apache_beam  # noqa: F401
from apache_beam.runners.portability import fn_api_runner  # noqa: F401

import pipelines.beam.jobs
import pipelines.build_shards.transforms  # noqa: F401
from pipelines.build_shards import candidates
from pipelines.build_shards import command as build_shards
from support.quick_beam import remembering

PHOTO_SECONDS = 0.002
WRITE_SECONDS = 0.01


def attempt(flags: Sequence[str], events: Connection) -> None:
    """Runs the command, telling of every photo, and of every file before and after its renaming."""
    lock = threading.Lock()
    rename, encode = os.replace, candidates.encode_isolated

    def tell(event: str) -> None:
        with lock:
            events.send(event)

    def slow_rename(source: Any, target: Any) -> None:
        place = "/".join(str(target).split("/")[-2:])
        tell(f"write {place}")
        time.sleep(WRITE_SECONDS)
        rename(source, target)
        tell(f"wrote {place}")
        time.sleep(WRITE_SECONDS)

    def slow_encode(*arguments: Any) -> Any:
        tell("photo")
        time.sleep(PHOTO_SECONDS)
        return encode(*arguments)

    os.replace, candidates.encode_isolated = slow_rename, slow_encode
    build_shards.draw_density = lambda counts, title: b"map"
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    with remembering():
        sys.exit(build_shards.main(flags))
