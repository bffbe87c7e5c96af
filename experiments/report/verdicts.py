"""Compares our model with the rivals: sentences that are derived from paired intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from experiments.report.comparison import Comparison, Verdict, verdict
from experiments.report.record import MainTable
from locdiffusion.evaluate.bootstrap import Estimate
from locdiffusion.evaluate.scores import Scores

MEDIAN, NATS, GEOSCORE = "median km", "nats/km²", "GeoScore"


@dataclass(frozen=True)
class Measure:
    """One column of the main table.

    Attributes:
        name: Name for readers.
        higher_is_better: Whether a higher number is better.
        of: Function that gives the number in a method's scores; None where it states none.
        difference: Function that gives the difference in a comparison.
        factor, digits, unit: Scale, decimals and unit of a difference in text.
    """

    name: str
    higher_is_better: bool
    of: Callable[[Scores], Estimate | None]
    difference: Callable[[Comparison], Estimate | None]
    factor: float = 1.0
    digits: int = 0
    unit: str = ""


@dataclass(frozen=True)
class Outcome:
    """Our model against the best rival in one measure on one split.

    Attributes:
        split, measure: Split and measure that are compared.
        rival: Name of the rival with the best score there.
        difference: Ours minus the rival's, with its paired interval.
        verdict: Conclusion that the interval allows about ours.
    """

    split: str
    measure: Measure
    rival: str
    difference: Estimate
    verdict: Verdict

    @property
    def level_or_better(self) -> bool:
        """Whether our model is level or better."""
        return self.verdict is not Verdict.WORSE

    @property
    def text(self) -> str:
        """Formats the outcome in words."""
        if self.verdict is not Verdict.WORSE:
            return f"{self.verdict.value} ({self._amount(self.difference, '+')})"
        sign = -1.0 if self.measure.higher_is_better else 1.0
        ends = sorted((sign * self.difference.low, sign * self.difference.high))
        return f"behind by {self._amount(Estimate(sign * self.difference.value, *ends))}"

    def _amount(self, estimate: Estimate, sign: str = "") -> str:
        digits = self.measure.digits
        value, low, high = (
            # Rounded first, so that adding 0.0 turns -0.0 into 0.0.
            f"{round(self.measure.factor * v, digits) + 0.0:{sign},.{digits}f}".replace("-", "−")
            for v in (estimate.value, estimate.low, estimate.high)
        )
        return f"{value}{self.measure.unit}, {low} to {high}"


def measures(table: MainTable) -> tuple[Measure, ...]:
    """Lists the measures: accuracy at each threshold, median, GeoScore, likelihood."""

    def within(i: int, km: float) -> Measure:
        return Measure(
            f"{km:g} km",
            True,
            lambda scores: scores.within[i],
            lambda comparison: comparison.within[i],
            100.0,
            1,
            " points",
        )

    return (
        *(within(i, km) for i, km in enumerate(table.thresholds_km)),
        Measure(MEDIAN, False, lambda s: s.median_km, lambda c: c.median_km, unit=" km"),
        Measure(GEOSCORE, True, lambda s: s.geoscore, lambda c: c.geoscore),
        Measure(NATS, False, lambda s: s.nats_per_km2, lambda c: c.nats_per_km2, digits=2),
    )


def outcomes(table: MainTable) -> list[Outcome]:
    """Compares our model with the best rival of each split and measure.

    The best rival is chosen anew for each split and measure. A measure that no rival states is left
    out.
    """
    found = []
    for split in table.splits:
        for measure in measures(table):
            best = _best_rival(table, split, measure)
            if best is None:
                continue
            comparison = next(
                d.comparison for d in table.duels if (d.split, d.rival) == (split, best)
            )
            difference = measure.difference(comparison)
            if difference is None:
                continue
            said = verdict(difference, higher_is_better=measure.higher_is_better)
            found.append(Outcome(split, measure, best, difference, said))
    return found


def _best_rival(table: MainTable, split: str, measure: Measure) -> str | None:
    values = {}
    for row in table.rivals:
        estimate = measure.of(row.on(split))
        if estimate is not None:
            values[row.name] = estimate.value
    if not values:
        return None
    return (max if measure.higher_is_better else min)(values, key=lambda name: values[name])
