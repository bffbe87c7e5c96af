"""The settings of a Geotagger, stated once for Python, the command line and the workers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any


class PosteriorMode(str, Enum):
    """How the posterior is obtained.

    DENSITY: one network call at σ = ∞ gives the whole posterior of the photo.
    SAMPLING: several reverse diffusions; the posterior is the mixture of the densities they end in.
    """

    DENSITY = "density"
    SAMPLING = "sampling"


@dataclass(frozen=True)
class GeotaggerSettings:
    """Which model answers, where it runs, and how it obtains the posterior.

    Attributes:
        checkpoint: Directory or URL of a checkpoint, the name of a shipped one, or None for the
            default.
        encoder: Image encoder that the checkpoint must have, or None to take the checkpoint's own.
            The name may state where its weights lie now, `open_clip:MODEL/PATH`; a URL is allowed.
        device: Torch device of encoder and network.
        mode: `density` or `sampling`, see `PosteriorMode`.
        samples: Number of reverse diffusions per photo in sampling mode.
        steps: Network calls per reverse diffusion; one more gives the density.
        seed: Seed of the sampling noise, together with each photo's key.
        bf16: Whether the encoder runs in bfloat16, on a GPU only: faster, a little less exact.
            None takes it where the GPU has it; a run decides once, and records what it does.
        prior: Where photos may come from, before one looks: `land`, `uniform`, `checkpoint`
            or None for the checkpoint's own, or countries, discs or a file of polygons (see
            `load_base_measure`) outside which nothing is an answer. The prior replaces the base
            measure of the answers and of the sampler's means. The temperature, which was fitted
            with the checkpoint's own base measure, stays.
        gallery: Places that the answers are made from as well, see `gallery.place_mixture`:
            `geoclip` for GeoCLIP's own 100,000, a list (see `gallery.places.read_gallery`), `none`,
            or None for the checkpoint's own choice. Loading takes about a minute per 100,000
            places. Only for a checkpoint of the encoder `geoclip`.
    """

    checkpoint: str | None = None
    encoder: str | None = None
    device: str = "cpu"
    mode: PosteriorMode = PosteriorMode.DENSITY
    samples: int = 16
    steps: int = 8
    seed: int = 0
    bf16: bool | None = None
    prior: str | None = None
    gallery: str | None = None

    def __post_init__(self) -> None:
        """Checks the values, and takes the mode by its name too."""
        if self.samples < 1 or self.steps < 1:
            raise ValueError(
                f"samples is {self.samples} and steps is {self.steps}; want at least 1 of each."
            )
        known = [mode.value for mode in PosteriorMode]
        if self.mode not in known:
            raise ValueError(f"mode is {self.mode!r}; want one of {known}.")
        object.__setattr__(self, "mode", PosteriorMode(self.mode))

    def recorded(self) -> dict[str, Any]:
        """What a run records of the settings: all that decides its rows and differs from default.

        Checkpoint and encoder are recorded by their contents elsewhere; the device does not count.

        Raises:
            AreaError: The prior is meant as an area, and is none.
            PolygonError: The prior's file cannot be read.
            DataError: The gallery's file cannot be read.
        """
        record: dict[str, Any] = {"mode": self.mode.value}
        if self.bf16:
            record["bf16"] = True
        if self.prior is not None:
            # Imports torch, which `--help` does without.
            from locdiffusion.density.base_measure import base_measure_identity

            record["prior"] = base_measure_identity(self.prior)
        if self.gallery is not None:
            from locdiffusion.gallery.places import gallery_identity

            record["gallery"] = gallery_identity(self.gallery)
        if self.mode is PosteriorMode.SAMPLING:
            record |= {"samples": self.samples, "steps": self.steps}
        return record
