"""Renders the page of a trial; every number in it comes from the record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from experiments.appearance_map.trial import MapRecord, Record
from locdiffusion.density.log_partition import LOG_SPHERE_AREA_KM2
from locdiffusion.evaluate.bootstrap import Estimate
from locdiffusion.evaluate.scores import Scores
from locdiffusion.evaluate.tables import markdown, number, percent
from schemas.geotags import THRESHOLDS_KM

PROSE = Path(__file__).parent / "about.md"
SHOWN_KM = (25, 200, 750)


def render(record: Record) -> str:
    """Renders the page: methods, paired differences, sizes of the map, cost."""
    first = record.maps[0]
    halves = ", ".join(
        f"{name} {fitted:,} / {record.scored[name]:,}" for name, fitted in record.fitted.items()
    )
    parts = [
        PROSE.read_text("utf-8").rstrip(),
        f"Checkpoint `{record.model}`; photos to fit gates with / to score: {halves}. "
        f"{_said(record.machine)}. Intervals are paired bootstraps over photos. No test photo was "
        "read.",
        "## Methods",
        f"The map of the first table is made of {first.photos:,} training photos, averaged at "
        f"{first.places:,} places; {_size(first)}.",
        _methods(record),
        "## Paired differences",
        "Fused density, first rule, minus the rival: points of per cent, and nats of the density "
        "at the truth.",
        _differences(record),
        "## Sizes of the map",
        _sizes(record),
        "## Cost",
        _cost(record),
        "## Fitted constants of the first map",
        markdown(["constant", "value"], [[k, f"{v:.3f}"] for k, v in first.constants.items()]),
        "Shifts of both exponents that fit the radii, constant and by the standardised radius: "
        f"{record.shifts[0]:+.3f} and {record.shifts[1]:+.3f}.",
    ]
    return "\n\n".join(parts) + "\n"


def _said(machine: Mapping[str, object]) -> str:
    return f"{machine['processor']}, {machine['cores']} cores, torch {machine['torch']}"


def _size(one: MapRecord) -> str:
    return (
        f"{one.size.components} discriminants, {one.cells:,} cells of {one.size.cell_km:g} km, "
        f"{one.bytes / 1e6:.1f} MB"
    )


def _methods(record: Record) -> str:
    methods = dict(record.rivals)
    for rule, scores in record.maps[0].scores.items():
        methods[f"fused, {rule}"] = scores
    heads = ["set", "method", "median km", *(f"% < {km} km" for km in SHOWN_KM)]
    heads += ["nats", "% in radius_50 / 90"]
    rows = [
        [
            name,
            method,
            number(scores[name].median_km),
            *(percent(_within(scores[name], km)) for km in SHOWN_KM),
            _nats(scores[name]),
            _coverage(scores[name]),
        ]
        for name in record.scored
        for method, scores in methods.items()
    ]
    return markdown(heads, rows)


def _differences(record: Record) -> str:
    heads = ["set", "rival", *(f"% < {km} km" for km in SHOWN_KM), "nats"]
    rows = [
        [
            name,
            rival,
            *(_signed(one.within[THRESHOLDS_KM.index(km)], 1, 100.0) for km in SHOWN_KM),
            _signed(one.nats, 2),
        ]
        for rival, by_set in record.differences.items()
        for name, one in by_set.items()
    ]
    return markdown(heads, sorted(rows, key=lambda row: list(record.scored).index(row[0])))


def _sizes(record: Record) -> str:
    rule = next(iter(record.maps[0].scores))
    heads = ["photos", "cell km", "discriminants", "MB", "nats of the fitted half"]
    heads += [f"{name} % < {km}" for name in record.scored for km in (25, 200)]
    heads += [f"{name} nats" for name in record.scored]
    rows = [
        [
            f"{one.photos:,}",
            f"{one.size.cell_km:g}",
            str(one.size.components),
            f"{one.bytes / 1e6:.1f}",
            f"{one.fitted_nats:.3f}",
            *(
                f"{100.0 * _within(one.scores[rule][name], km).value:.1f}"
                for name in record.scored
                for km in (25, 200)
            ),
            *(_nats(one.scores[rule][name]) for name in record.scored),
        ]
        for one in record.maps
    ]
    return markdown(heads, rows)


def _cost(record: Record) -> str:
    first, step = record.maps[0], record.step
    per_photo = 1e5 * first.averaging.cpu_seconds / first.photos
    rows = [
        ["file of the map", f"{first.bytes:,} bytes"],
        ["reading, projecting and averaging", f"{per_photo:.1f} s CPU per 100,000 photos"],
        ["Gaussian process of all cells", f"{first.kriging.cpu_seconds:.0f} s CPU"],
        [
            "most memory of arrays, averaging and Gaussian process",
            f"{first.averaging.memory_mib:.0f} and {first.kriging.memory_mib:.0f} MiB",
        ],
        [
            "head and fused step over the head alone, batches of 32, one thread",
            f"{step.ratio:.2f} ({step.low:.2f}-{step.high:.2f})",
        ],
        ["head, fused step", f"{step.head_ms:.2f} and {step.fused_ms:.2f} ms CPU per photo"],
    ]
    for name, one in record.log_z.items():
        rows.append(
            [
                f"log Z against {one.times_denser:.0f} times the nodes, {name}",
                f"{one.mean:.4f} nats on average, {one.worst:.3f} at most ({one.photos} photos)",
            ]
        )
    return markdown(["what", "value"], rows)


def _within(scores: Scores, km: float) -> Estimate:
    return scores.within[THRESHOLDS_KM.index(km)]


def _nats(scores: Scores) -> str:
    if scores.nats_per_km2 is None:
        return "not stated"
    return f"{LOG_SPHERE_AREA_KM2 - scores.nats_per_km2.value:.2f}"


def _coverage(scores: Scores) -> str:
    if scores.coverage_50 is None or scores.coverage_90 is None:
        return "not stated"
    return f"{100.0 * scores.coverage_50.value:.0f} / {100.0 * scores.coverage_90.value:.0f}"


def _signed(estimate: Estimate, digits: int, factor: float = 1.0) -> str:
    values = (estimate.value, estimate.low, estimate.high)
    value, low, high = (f"{factor * v:+.{digits}f}" for v in values)
    return f"{value} ({low} to {high})"
