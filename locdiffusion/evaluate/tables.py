"""Renders scores as Markdown tables, padded for reading in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from locdiffusion.evaluate.bootstrap import Estimate
from locdiffusion.evaluate.proximity import Stratum
from locdiffusion.evaluate.record import Evaluation, SplitRecord
from locdiffusion.evaluate.scores import Scores
from schemas.geotags import THRESHOLDS_KM

ABSENT = "not stated"


def percent(share: Estimate | None, digits: int = 1) -> str:
    """Formats a share with its interval in per cent, as in "54.2 (52.8-55.6)"."""
    return number(share, digits, 100.0)


def number(estimate: Estimate | None, digits: int = 0, factor: float = 1.0) -> str:
    """Formats a number with its interval, as in "167 (160-174)"."""
    if estimate is None:
        return ABSENT
    value, low, high = (
        f"{factor * v:,.{digits}f}" for v in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} ({low} to {high})" if low.startswith("-") else f"{value} ({low}-{high})"


def accuracy_table(rows: Mapping[str, Scores], head: str = "split") -> str:
    """Renders accuracy, a row for each split or method; `head` is the head of their names."""
    heads = [head, "n", "median km", "mean km", "GeoScore"]
    heads += [f"% within {km:,} km" for km in THRESHOLDS_KM]
    return markdown(
        heads,
        [
            [
                name,
                f"{s.n:,}",
                number(s.median_km),
                number(s.mean_km),
                number(s.geoscore),
                *(percent(share) for share in s.within),
            ]
            for name, s in rows.items()
        ],
    )


def calibration_table(rows: Mapping[str, Scores], head: str = "split") -> str:
    """Renders calibration and sharpness, a row for each split or method."""
    heads = [head, "n", "-log density, nats/km²", "% inside radius_50", "% inside radius_90"]
    heads += ["median radius_50 km", "median radius_90 km"]
    return markdown(
        heads,
        [
            [
                name,
                f"{s.n:,}",
                number(s.nats_per_km2, 2),
                percent(s.coverage_50),
                percent(s.coverage_90),
                number(s.radius_50_km),
                number(s.radius_90_km),
            ]
            for name, s in rows.items()
        ],
    )


def reliability_table(rows: Mapping[str, Scores], head: str = "split") -> str:
    """Renders the calibration error and Brier score of each probability."""
    heads = [head, "probability", "n", "bins", "ECE", "ECE by chance alone", "Brier score"]
    return markdown(
        heads,
        [
            [
                name,
                f"prob_{r.threshold_km:g}km",
                f"{s.n:,}",
                str(len(r.bins)),
                number(r.ece, 3),
                f"{r.ece_if_perfect:.3f}",
                number(r.brier, 3),
            ]
            for name, s in rows.items()
            for r in s.reliability
        ],
    )


def strata_table(strata: Sequence[Stratum]) -> str:
    """Renders accuracy and coverage by distance to the nearest training photo."""
    heads = ["nearest training photo", "n", "median km"]
    heads += [f"% within {km:,} km" for km in THRESHOLDS_KM] + ["% inside radius_90"]
    return markdown(
        heads,
        [
            [
                stratum.label,
                f"{stratum.scores.n:,}",
                number(stratum.scores.median_km),
                *(percent(share) for share in stratum.scores.within),
                percent(stratum.scores.coverage_90),
            ]
            for stratum in strata
        ],
    )


def page(evaluation: Evaluation) -> str:
    """Renders `scores.md`: all tables of an evaluation with their explanations."""
    rows = {name: scores for split in evaluation.splits for name, scores in _rows(split)}
    parts = [f"# Scores of `{evaluation.model}`", _preface(evaluation)]
    parts += ["## Accuracy", accuracy_table(rows), "## Calibration", calibration_table(rows)]
    if any(scores.nats_per_km2 is None for scores in rows.values()):
        parts.append("Stored predictions hold no density at the truth: no likelihood.")
    if any(scores.reliability for scores in rows.values()):
        parts += ["## Reliability of the probabilities", reliability_table(rows), _RELIABILITY]
    for split in evaluation.splits:
        if split.strata:
            title = f"## {split.name}: by distance to the nearest training photo"
            parts += [title, strata_table(split.strata)]
    return "\n\n".join(parts) + "\n"


def _rows(split: SplitRecord) -> Iterator[tuple[str, Scores]]:
    yield split.name, split.scores
    if split.familiar is not None:
        yield f"{split.name}, familiar photos", split.familiar


_RELIABILITY = (
    "ECE: mean gap between stated probability and what came true, over bins of equal mass. Chance "
    "alone would make a perfect method's ECE as large as the column beside it says. Brier score: "
    "mean squared error of the probability. Both: 0 is best."
)


_KINDS = {"truth": "documents beside the photos", "exif": "EXIF"}


def _preface(evaluation: Evaluation) -> str:
    bootstrap = evaluation.bootstrap
    sentences = [
        f"In brackets: {100 * bootstrap.level:g} % bootstrap intervals over photos "
        f"({bootstrap.resamples:,} resamples, seed {bootstrap.seed}).",
        "Distances are great circles.",
    ]
    if evaluation.model_sha256:
        sentences.append(f"Checkpoint SHA-256 `{evaluation.model_sha256}`.")
    if evaluation.training:
        sentences.append(f"Training photos: {evaluation.training.photos:,}.")
    for split in evaluation.splits:
        if split.by_kind:
            kinds = [f"{_KINDS[kind]}: {count:,}" for kind, count in split.by_kind.items()]
            sentences.append(f"Positions of {split.name} from {', '.join(kinds)}.")
        if split.without_truth:
            ours = f", of which {split.estimates:,} have one that an earlier run wrote"
            sentences.append(
                f"Photos of {split.name} without known position, left out: "
                f"{split.without_truth:,}{ours if split.estimates else ''}."
            )
        if split.unfamiliar:
            sentences.append(
                f"Photos of {split.name} that are unlike those that the model is for: "
                f"{split.unfamiliar:,} of {split.scores.n:,}."
            )
        if split.missing:
            sentences.append(
                f"Photos of the list {split.name} that were missing or unreadable, not scored: "
                f"{split.missing:,} of {split.missing + split.scores.n:,}."
            )
    return " ".join(sentences)


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Renders a Markdown table: first column aligned left, the others right."""
    widths = [max(3, *(len(row[i]) for row in (heads, *rows))) for i in range(len(heads))]

    def line(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0])]
        padded += [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2)] + ["-" * (w + 1) + ":" for w in widths[1:]]) + "|"
    return "\n".join([line(heads), rule, *(line(row) for row in rows)])
