"""The parameters of the albums: law of motion and levels of the radii, with their card."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from locdiffusion.albums.levels import Levels
from locdiffusion.albums.motion import LawOfMotion
from locdiffusion.config import from_dict, to_dict
from locdiffusion.files import write_json

SHIPPED = "parameters.json"

ALGORITHM = 2
"""Goes up when the same album gets other answers, so that no job is resumed with the answers of
another version."""


@dataclass(frozen=True)
class Card:
    """What parameters were fitted on.

    Attributes:
        fitted_on: The albums, in words.
        albums: Number of albums.
        photos: Number of photos with a known position.
        pairs: Number of steps between them.
    """

    fitted_on: str = ""
    albums: int = 0
    photos: int = 0
    pairs: int = 0


@dataclass(frozen=True)
class AlbumParameters:
    """What is common to all albums.

    Attributes:
        law: Law of motion.
        levels: Levels of the radii to which those of an album lean.
        card: What the parameters were fitted on.
    """

    law: LawOfMotion = field(default_factory=LawOfMotion)
    levels: Levels = field(default_factory=Levels)
    card: Card = field(default_factory=Card)

    @classmethod
    def load(cls, path: Path | None = None) -> AlbumParameters:
        """Reads parameters.

        Args:
            path: File that `save` wrote; the shipped one if None.
        """
        source = files("locdiffusion.albums").joinpath(SHIPPED) if path is None else path
        return from_dict(cls, json.loads(source.read_text("utf-8")))

    def save(self, path: Path) -> None:
        """Writes the parameters as JSON."""
        write_json(path, to_dict(self))
