"""The geotag command in a process that asks before each step whether it may live on."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

# Imported here so that a server that forks has them ready: a process then starts in no time.
import apache_beam  # noqa: F401
import numpy as np
from apache_beam.runners.portability import fn_api_runner  # noqa: F401
from matplotlib.backends import backend_agg  # noqa: F401
from PIL import Image

import pipelines.geotag.pages
import pipelines.geotag.transforms  # noqa: F401
from pipelines.geotag.command import main
from support.fake_geotagger import FakeGeotagger, FakeLoader

_ask: Callable[[str], None] = lambda event: None  # noqa: E731


class AskingGeotagger(FakeGeotagger):
    def preprocess(self, image: Image.Image) -> np.ndarray:
        _ask("photo")
        return super().preprocess(image)


@dataclass(frozen=True)
class AskingLoader(FakeLoader):
    def __call__(self) -> FakeGeotagger:
        return AskingGeotagger(self.seed)


def attempt(arguments: Sequence[str], parent: Connection) -> None:
    """Runs the command; asks at every photo, and at every file before and after its renaming."""
    global _ask
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

    _ask, os.replace = ask, asking_rename
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    sys.exit(main(arguments, load=AskingLoader()))
