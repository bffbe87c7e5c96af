r"""The law of motion: where a camera is some hours after a photo, from metres to the antipode.

    K(x | a, t) = (1 - ρ)(1 - ε) [π S + (1 - π)((1 - τ) LOC + τ TRV)] + ρ (1 - ε) PLACES(x) + ε / 4π

All parts but PLACES are mixtures over one **ladder** of von Mises-Fisher kernels around a, with
σ_k = 12 m · 2.5^k and at last the whole sphere, so a law is a row of weights that depends on t:

* S, the camera stayed: 30 m; its share π falls with t.
* LOC, it moved about: log σ is normal around log(v t / (1 + t / 3.2 h)), so people go nearly
  straight for three hours and hardly farther the whole day. A small part is much wider.
* TRV, it travelled: log σ is normal around log R; its share is τ = t / (t + T).
* PLACES, it came back to a place of before (`locdiffusion.albums.visits`), share ρ t / (t + 8 h).
* A jump to anywhere is always possible, share ε t / (t + 8 h).

Speed v, range R, time T, π and ρ are the **scales** of an album (`locdiffusion.albums.scales`): a
cyclist and a motorcyclist differ by a factor of 100. The shape of the law is common to all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM

Float = NDArray[np.float64]

LADDER_KM = 0.012 * 2.5 ** np.arange(15)
"""Standard deviations of the kernels in km; the whole sphere stands behind them."""

LADDER_KAPPA = np.append((EARTH_RADIUS_KM / LADDER_KM) ** 2, 0.0)
"""Concentrations of the kernels, the whole sphere last."""

STAY = 1
"""Number of the kernel of S."""

TABLE_HOURS = np.geomspace(0.003, 3e6, 112)
"""Times at which weights are tabulated, in hours: 11 seconds to 340 years."""

SCALES = ("log_speed", "log_range", "log_travel_time", "logit_stay", "logit_return")
"""Names of the scales of an album: log v in km/h, log R in km, log T in h, logit π, logit ρ."""


@dataclass(frozen=True)
class LawOfMotion:
    """What is common to all albums.

    Attributes:
        scale_mean: Mean of the scales over albums, in the order of SCALES.
        scale_deviation: Standard deviation of the scales over albums.
        day_hours: Time in hours after which LOC stops growing.
        local_spread: Standard deviation of log σ in LOC.
        wide_share: Share of the wide part of LOC.
        wide_spread: Standard deviation of log σ in the wide part.
        travel_spread: Standard deviation of log σ in TRV.
        settling_hours: Time in hours that halves π, and at which half of ρ and ε is reached.
        jump: Share ε of jumps after a long time.
        clock_seconds: Time in seconds that is added to every step.
        place_km: Standard deviations around a visit in km.
        place_share: Shares of these widths.
    """

    scale_mean: tuple[float, ...] = (1.10, 4.30, 4.83, -3.18, -1.66)
    scale_deviation: tuple[float, ...] = (1.5, 0.8, 0.8, 0.8, 0.8)
    day_hours: float = 3.2
    local_spread: float = 0.43
    wide_share: float = 0.09
    wide_spread: float = 2.0
    travel_spread: float = 0.84
    settling_hours: float = 8.0
    jump: float = 0.012
    clock_seconds: float = 12.0
    place_km: tuple[float, ...] = (0.05, 0.5, 5.0)
    place_share: tuple[float, ...] = (0.4, 0.35, 0.25)

    def __post_init__(self) -> None:
        """Checks the numbers."""
        for name in ("scale_mean", "scale_deviation"):
            if len(getattr(self, name)) != len(SCALES):
                raise ValueError(f"{name} has {len(getattr(self, name))} entries; want {SCALES}.")
        if len(self.place_km) != len(self.place_share) or abs(sum(self.place_share) - 1.0) > 1e-6:
            raise ValueError(f"place_share is {self.place_share}; want a share for each width.")
        shares = {"wide_share": self.wide_share, "jump": self.jump}
        for name, share in shares.items():
            if not 0.0 < share < 1.0:
                raise ValueError(f"{name} is {share}; want a share between 0 and 1.")
        positive = (*self.scale_deviation, *self.place_km, self.day_hours, self.local_spread)
        positive += (self.wide_spread, self.travel_spread, self.settling_hours, self.clock_seconds)
        if min(positive) <= 0.0:
            raise ValueError(f"A width or a time of the law is {min(positive)}; want more than 0.")

    @cached_property
    def place_kappa(self) -> Float:
        """Concentrations of the widths around a visit, ``(widths,)``."""
        return (EARTH_RADIUS_KM / np.asarray(self.place_km)) ** 2

    def weights(self, scales: ArrayLike, hours: ArrayLike) -> tuple[Float, Float]:
        """Computes the weights of the ladder and the share of PLACES.

        Args:
            scales: Scales ``(D, 5)`` in the order of SCALES.
            hours: Times t of steps, ``(T,)``, more than 0.

        Returns:
            Weights of the kernels ``(D, T, 16)`` and the share ρ ``(D, T)`` of PLACES. Together
            they sum to 1.
        """
        scales = np.atleast_2d(np.asarray(scales, np.float64))[:, :, None]
        log_speed, log_range, log_time, logit_stay, logit_return = np.moveaxis(scales, 1, 0)
        t = np.asarray(hours, np.float64)
        settled = t / (t + self.settling_hours)
        jump = self.jump * settled
        back = settled / (1.0 + np.exp(-logit_return))
        stay = (1.0 - settled) / (1.0 + np.exp(-logit_stay))
        travel = t / (t + np.exp(log_time))
        middle = log_speed + np.log(t / (1.0 + t / self.day_hours))
        local = (1.0 - self.wide_share) * _rungs(middle, self.local_spread)
        local += self.wide_share * _rungs(middle, self.wide_spread)
        far = _rungs(log_range + np.zeros_like(t), self.travel_spread)
        moved = (1.0 - travel)[..., None] * local + travel[..., None] * far
        kernels = (1.0 - stay)[..., None] * moved
        kernels[..., STAY] += stay
        kernels *= ((1.0 - back) * (1.0 - jump))[..., None]
        jumps = np.broadcast_to(jump, back.shape)[..., None]
        return np.concatenate([kernels, jumps], -1), back * (1.0 - jump)


def _rungs(mean: Float, spread: float) -> Float:
    """Shares ``(..., 15)`` of the kernels for log σ that is normal around means ``(...)``."""
    edges = np.log(LADDER_KM[:-1]) + 0.5 * np.log(2.5)
    below = ndtr((edges - mean[..., None]) / spread)
    ends = np.ones_like(below[..., :1])
    return np.diff(below, axis=-1, prepend=0.0 * ends, append=ends)


class MotionTable:
    """Weights of a law for some scales, interpolated in log t.

    Attributes:
        kernels: Weights of the ladder, ``(D, times, 16)``.
        back: Shares of PLACES, ``(D, times)``.
    """

    def __init__(self, law: LawOfMotion, scales: ArrayLike) -> None:
        """Tabulates the law for scales ``(D, 5)``."""
        self.kernels, self.back = law.weights(scales, TABLE_HOURS)

    def __call__(self, hours: Float) -> tuple[Float, Float]:
        """Looks up weights ``(N, D, 16)`` and shares of PLACES ``(N, D)`` for times ``(N,)``."""
        low, share = table_position(hours)
        kernels, back = np.moveaxis(self.kernels, 1, 0), self.back.T
        return (
            kernels[low] * (1.0 - share)[:, None, None] + kernels[low + 1] * share[:, None, None],
            back[low] * (1.0 - share)[:, None] + back[low + 1] * share[:, None],
        )


def table_position(hours: Float) -> tuple[NDArray[np.int64], Float]:
    """Finds times in TABLE_HOURS: the number of the entry before, and the share of the next."""
    step = np.log(TABLE_HOURS[1] / TABLE_HOURS[0])
    place = np.log(np.clip(hours, TABLE_HOURS[0], TABLE_HOURS[-1]) / TABLE_HOURS[0]) / step
    low = np.clip(place.astype(np.int64), 0, len(TABLE_HOURS) - 2)
    return low, place - low
