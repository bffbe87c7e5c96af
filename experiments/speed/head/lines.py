"""The lines of the benchmark: each has a budget, a measurement, and whether it is met."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.speed.head.albums import by_anchors, by_evidence
from experiments.speed.head.dense import DenseGridDecoder
from experiments.speed.head.fine import fine_answers
from experiments.speed.head.rivals import GALLERY, GeoClipHead, PlonkSampler
from experiments.speed.head.timing import Comparison, compare
from locdiffusion.checkpoint import Checkpoint
from locdiffusion.geotagger import Geotagger
from locdiffusion.model.image_encoder import ImageEncoder
from locdiffusion.settings import GeotaggerSettings, PosteriorMode
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, great_circle_km

PIPELINE_BATCH = 32


@dataclass(frozen=True)
class Sizes:
    """Sizes of the measurements; the defaults are those of the budgets.

    Attributes:
        batches: Batch sizes.
        turns: Counted turns of each comparison.
        spacing_deg: Spacing of the dense grid in degrees.
        stored_codes: Whether the dense grid with stored codes is timed too (4 GB at 0.25°, L = 31).
        dense_photos: Largest batch size of the dense decoders.
        checked: Number of densities whose answers are compared.
        gallery: Number of positions in GeoCLIP's gallery.
        plonk_width, plonk_depth, plonk_steps: Sizes of PLONK's network and sampler.
        album: Photos with evidence of an album.
    """

    batches: tuple[int, ...] = (1, 32, 256)
    turns: int = 7
    spacing_deg: float = 0.25
    stored_codes: bool = True
    dense_photos: int = 32
    checked: int = 64
    gallery: int = GALLERY
    plonk_width: int = 512
    plonk_depth: int = 12
    plonk_steps: int = 16
    album: int = 512


QUICK = Sizes((1, 4), 2, 0.4, False, 4, 4, 500, 32, 2, 2, 8)


@dataclass(frozen=True)
class Line:
    """One line of the benchmark.

    Attributes:
        name: Name of the comparison.
        photos: Batch size.
        budget: Budget in words.
        measured: Measurement in words.
        met: Whether the budget is met; None where there is none.
        timed: Seconds of both sides, where the line is about time.
    """

    name: str
    photos: int
    budget: str
    measured: str
    met: bool | None
    timed: Comparison | None = None

    def to_dict(self) -> dict[str, Any]:
        """Converts the line for JSON."""
        values = asdict(self)
        if self.timed is not None:
            values |= {"ratio": self.timed.ratio, "spread": self.timed.spread}
        return values


class Bench:
    """Measures the lines for one checkpoint, encoder and set of embeddings ``(N, E)``.

    The budget of the head is a share of the time of the default encoder, EfficientNet-Lite0 at 224
    pixels. If the checkpoint has another encoder, the share of that one is shown too.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        encoder: ImageEncoder,
        embeddings: NDArray[np.float32],
        sizes: Sizes | None = None,
        default_encoder: ImageEncoder | None = None,
    ) -> None:
        self.sizes = sizes or Sizes()
        self.default_encoder = default_encoder or encoder
        checkpoint = _with_radius_for(checkpoint, self.sizes.spacing_deg)
        self.checkpoint, self.encoder, self.embeddings = checkpoint, encoder, embeddings
        self.head = Geotagger(checkpoint, encoder)
        self.sampler = Geotagger(
            checkpoint, encoder, GeotaggerSettings(mode=PosteriorMode.SAMPLING, samples=1, steps=8)
        )

    def lines(self) -> dict[str, Callable[[], Iterator[Line]]]:
        """Returns the groups of lines by name."""
        return {
            "decode": self.decode,
            "encoder": self.encode,
            "geoclip": self.geoclip,
            "plonk": self.plonk,
            "albums": self.albums,
        }

    def decode(self) -> Iterator[Line]:
        """Compares coarse to fine with the dense grid: agreement of answers, and speed."""
        yield self._agreement(self._dense(separable=True))
        ways = [(True, "separable transform")]
        if self.sizes.stored_codes:
            ways.append((False, "product with stored codes"))
        for separable, way in ways:
            dense = self._dense(separable)
            for batch in self.sizes.batches:
                few = min(batch, self.sizes.dense_photos)
                natural = self._natural(batch)
                tensor = torch.from_numpy(natural[:few, 0])
                timed = self._compared(
                    partial(self.head.decode, natural), partial(dense, tensor), (batch, few)
                )
                name = f"dense {self.sizes.spacing_deg:g}° grid ({way}) / coarse to fine"
                yield _times(name, batch, "≥ 50 times", timed, timed.ratio >= 50.0)

    def encode(self) -> Iterator[Line]:
        """Measures the head's share of the encoder's time."""
        batch = min(PIPELINE_BATCH, max(self.sizes.batches))
        density, sampling = "head, density mode", "head, sampling mode of 1 sample, 8 steps"
        modes: list[tuple[str, Geotagger, ImageEncoder, str | None]] = [
            (density, self.head, self.default_encoder, "≤ 15 % of the encoder"),
            (sampling, self.sampler, self.encoder, None),
        ]
        if self.default_encoder is not self.encoder:
            modes.insert(1, (density, self.head, self.encoder, None))
        for name, head, encoder, budget in modes:
            size = encoder.spec.image_size
            pixels = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
            timed = self._compared(
                partial(encoder.embed, pixels), partial(self._answered, head, batch), (batch, batch)
            )
            share, (low, high) = 100.0 * timed.ratio, timed.spread
            yield Line(
                name=f"{name} / encoder {encoder.spec.name}",
                photos=batch,
                budget=budget or "shown only",
                measured=f"{share:.1f} % ({100 * low:.1f}-{100 * high:.1f})",
                met=None if budget is None else share <= 15.0,
                timed=timed,
            )

    def geoclip(self) -> Iterator[Line]:
        """Compares with GeoCLIP's head at the same batch size."""
        rival = GeoClipHead(self.sizes.gallery).eval()
        for batch in self.sizes.batches:
            clip = torch.randn(batch, 768)
            timed = self._compared(
                partial(self._answered, self.head, batch), partial(rival, clip), (batch, batch)
            )
            name = f"GeoCLIP's head, {self.sizes.gallery:,} positions / our head"
            yield _times(name, batch, "faster", timed, timed.ratio > 1.0)

    def plonk(self) -> Iterator[Line]:
        """Compares with PLONK's sampler at the same batch size."""
        rival = PlonkSampler(
            self.embeddings.shape[1], self.sizes.plonk_width, self.sizes.plonk_depth
        ).eval()
        for batch in self.sizes.batches:
            image = torch.from_numpy(self._some(batch))
            timed = self._compared(
                partial(self._answered, self.head, batch),
                partial(rival, image, self.sizes.plonk_steps),
                (batch, batch),
            )
            name = (
                f"PLONK's sampler, {rival.parameter_count / 1e6:.1f} M parameters, "
                f"{self.sizes.plonk_steps} steps, no guidance / our head"
            )
            yield _times(name, batch, "≥ 10 times", timed, timed.ratio >= 10.0)

    def albums(self) -> Iterator[Line]:
        """Measures albums against the encoder: a tenth, and one and a half times its time."""
        batch, count = min(PIPELINE_BATCH, max(self.sizes.batches)), self.sizes.album
        encoder, size = self.default_encoder, self.default_encoder.spec.image_size
        pixels = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
        seen = by_evidence(self.head, self._natural(count), self._some(count))
        trials = (
            ("album by anchors alone", by_anchors(count), count, 0.1),
            ("album, each photo with evidence beside an anchor", seen, count, 1.5),
        )
        for name, placed, photos, most in trials:
            timed = self._compared(partial(encoder.embed, pixels), placed, (batch, photos))
            low, high = timed.spread
            yield Line(
                name=f"{name} / encoder {encoder.spec.name}",
                photos=photos,
                budget=f"≤ {100 * most:.0f} % of the encoder",
                measured=f"{100 * timed.ratio:.1f} % ({100 * low:.1f}-{100 * high:.1f})",
                met=timed.ratio <= most,
                timed=timed,
            )

    def _agreement(self, dense: DenseGridDecoder) -> Line:
        natural = self._natural(self.sizes.checked)
        ours = self.head.decode(natural)
        tensor = torch.from_numpy(natural[:, 0])
        near = dense(tensor)
        decode = self.checkpoint.config.decode
        best = fine_answers(
            tensor, near.latitude, near.longitude, decode.radius_km, self.checkpoint.base_measure
        )
        apart = great_circle_km(ours.latitude, ours.longitude, *best)
        return Line(
            name="our answer and the dense fine-grid answer: distance",
            photos=len(apart),
            budget="≤ 1 km",
            measured=f"largest {apart.max():.2f} km, median {np.median(apart):.3f} km, "
            f"{100 * np.mean(apart <= 1.0):.1f} % within 1 km",
            met=bool(apart.max() <= 1.0),
        )

    def _dense(self, separable: bool) -> DenseGridDecoder:
        config = self.checkpoint.config
        return DenseGridDecoder(
            config.model.max_degree,
            config.decode.radius_km,
            self.checkpoint.base_measure,
            self.sizes.spacing_deg,
            separable,
        )

    def _some(self, count: int) -> NDArray[np.float32]:
        return np.resize(self.embeddings, (count, self.embeddings.shape[1]))

    def _natural(self, count: int) -> NDArray[np.float32]:
        return self.head.sample(self._some(count), [str(i) for i in range(count)])

    def _answered(self, head: Geotagger, count: int) -> object:
        return head.decode(head.sample(self._some(count), [str(i) for i in range(count)]))

    def _compared(
        self, first: Callable[[], object], second: Callable[[], object], photos: tuple[int, int]
    ) -> Comparison:
        return compare(first, second, photos, self.sizes.turns)


def _with_radius_for(checkpoint: Checkpoint, spacing_deg: float) -> Checkpoint:
    """Raises ρ of a checkpoint to what the dense grid resolves, if it is smaller."""
    config = checkpoint.config
    least = float(np.ceil(2.0 * np.radians(spacing_deg) * EARTH_RADIUS_KM))
    decode = replace(config.decode, radius_km=max(config.decode.radius_km, least))
    return replace(checkpoint, config=replace(config, decode=decode))


def _times(name: str, batch: int, budget: str, timed: Comparison, met: bool) -> Line:
    low, high = timed.spread
    measured = f"{timed.ratio:.1f} times ({low:.1f}-{high:.1f})"
    return Line(name, batch, budget, measured, met, timed)
