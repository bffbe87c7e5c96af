"""Compares our model with the rivals: sentences that are derived from paired intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from experiments.report.comparison import Comparison, Verdict, verdict
from experiments.report.record import MainTable, Role
from locdiffusion.evaluate.bootstrap import Estimate
from locdiffusion.evaluate.scores import Scores

POINTS = " points"
MEDIAN, NATS, GEOSCORE = "median km", "nats/km²", "GeoScore"

AT_BOUND = 0.005
"""A share below this is 0 % to the per cent, one above 1 minus this is 100 %."""


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
        role: Whether verdicts on this split count.
        at_bound: Whether both are at 0 %, or both at 100 %, to the per cent.
    """

    split: str
    measure: Measure
    rival: str
    difference: Estimate
    verdict: Verdict
    role: Role = Role.TEST
    at_bound: bool = False

    @property
    def counts(self) -> bool:
        """Whether this is a win, a tie or a loss: on a test, where both methods could differ."""
        return self.role is Role.TEST and not self.at_bound

    @property
    def is_share(self) -> bool:
        """Whether the measure is the accuracy at a threshold."""
        return self.measure.unit == POINTS

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
            POINTS,
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
            rival, value = best
            difference = measure.difference(table.duel(split, rival))
            own = measure.of(table.ours.on(split))
            if difference is None or own is None:
                continue
            said = verdict(difference, higher_is_better=measure.higher_is_better)
            at_bound = measure.unit == POINTS and both_at_bound(own.value, value)
            role = table.role(split)
            found.append(Outcome(split, measure, rival, difference, said, role, at_bound))
    return found


def both_at_bound(first: float, second: float) -> bool:
    """Tells whether two shares are both at 0, or both at 1, to the per cent."""
    low, high = min(first, second), max(first, second)
    return high < AT_BOUND or low > 1.0 - AT_BOUND


def _best_rival(table: MainTable, split: str, measure: Measure) -> tuple[str, float] | None:
    values = {}
    for row in table.rivals:
        estimate = measure.of(row.on(split))
        if estimate is not None:
            values[row.name] = estimate.value
    if not values:
        return None
    best = (max if measure.higher_is_better else min)(values, key=lambda name: values[name])
    return best, values[best]


def tally(some: Sequence[Outcome]) -> str:
    """Counts wins, ties and losses in words: "ahead in 9, level in 2 and behind in 1 of 12"."""
    ahead, level, behind = (
        sum(outcome.verdict is said for outcome in some)
        for said in (Verdict.BETTER, Verdict.LEVEL, Verdict.WORSE)
    )
    return f"ahead in {ahead}, level in {level} and behind in {behind} of {len(some)}"
