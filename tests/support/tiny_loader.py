"""A loader of a tiny checkpoint that every worker process can import."""

from __future__ import annotations

from dataclasses import dataclass

from locdiffusion import checkpoint
from locdiffusion.geotagger import Geotagger
from locdiffusion.settings import GeotaggerSettings
from support.tiny import TinyEncoder


@dataclass(frozen=True)
class TinyLoader:
    """A real network of random weights; the same in every process."""

    directory: str
    mode: str

    def __call__(self) -> Geotagger:
        model = checkpoint.load(self.directory)
        return Geotagger(
            model, TinyEncoder(), GeotaggerSettings(mode=self.mode, samples=3, steps=2)
        )
