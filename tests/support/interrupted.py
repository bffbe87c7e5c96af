"""The geotag command with a model that says when it works, and then waits to be stopped."""

from __future__ import annotations

import errno
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.geotag.command import main
from support.fake_geotagger import FakeGeotagger


class WaitingGeotagger(FakeGeotagger):
    """Leaves a mark at its first batch, and waits for ever at its second."""

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        if self.batch_sizes:
            Path(os.environ["MARK"]).touch()
            while True:
                time.sleep(0.01)
        return super().embed(pixels)


class FullDiskGeotagger(FakeGeotagger):
    """Fills the disk while its first batch is embedded."""

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        def full(source: object, target: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device", str(source))

        os.replace = full  # type: ignore[assignment]
        return super().embed(pixels)


@dataclass(frozen=True)
class Load:
    kind: str

    def __call__(self) -> FakeGeotagger:
        return {"wait": WaitingGeotagger, "full": FullDiskGeotagger}[self.kind]()


if __name__ == "__main__":
    from support.interrupted import Load as Importable  # by workers, which have another __main__

    if sys.argv[2] == "plain":
        sys.modules["apache_beam"] = None  # type: ignore[assignment]
    sys.exit(main(sys.argv[3:], load=Importable(sys.argv[1])))
