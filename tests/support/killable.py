"""The geotag command in a process that asks before each step whether it may live on."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

# Imported here so that a server that forks has them ready: a process then starts in no time.
import apache_beam  # noqa: F401
from apache_beam.runners.portability import fn_api_runner  # noqa: F401
from matplotlib.backends import backend_agg  # noqa: F401

from pipelines.geotag import reading
from pipelines.geotag.command import main
from support.fake_geotagger import FakeLoader
from support.quick_beam import remembering


def attempt(arguments: Sequence[str], parent: Connection) -> None:
    """Runs the command; asks at every photo, and at every file before and after its renaming."""
    lock = threading.Lock()

    def ask(event: str) -> None:
        with lock:
            parent.send(event)
            parent.recv()

    rename = os.replace

    def asking_rename(source: Any, target: Any) -> None:
        ask(f"write {os.path.basename(target)}")
        rename(source, target)
        ask(f"wrote {os.path.basename(target)}")

    decode = reading.decode_photo

    def asking_decode(*arguments: Any) -> Any:
        ask("photo")
        return decode(*arguments)

    reading.decode_photo, os.replace = asking_decode, asking_rename  # type: ignore[assignment]
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    with remembering():
        sys.exit(main(arguments, load=FakeLoader()))
