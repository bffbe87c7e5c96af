"""Formats the records of the ablations as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.report.sections import NOT_MEASURED
from locdiffusion.evaluate.tables import markdown
from locdiffusion.train.label_smoothing import SmoothingConfig

Record = Mapping[str, Any]
_SHOWN_KM = ("25", "200", "750")


def ablations(records: Mapping[str, Record]) -> list[str]:
    """Formats all tables of the ablations."""
    if not records:
        return [NOT_MEASURED]
    lines = [_preface(records), ""]
    design = [r for r in records.values() if r["group"] == "design"]
    if design:
        lines += ["### Encoding × loss × base measure × network", "", _design(design), ""]
        lines += [
            "Of an L2 network: *mean* decodes its one-call posterior mean, *vote* takes of several "
            "DDIM samples the one with most others near it. A dash: lat/lon has no KL form (no "
            "density on the sphere has degrees as its sufficient statistics); L2 has no density. "
            "xyz with KL is the von Mises-Fisher density. On two or three numbers CS-UNet has no "
            "degrees to split, so every level sees all of them.",
            "",
        ]
    full = [r for r in design if _is_full(r)]
    degrees = [r for r in records.values() if r["group"] == "degree"]
    if degrees:
        ordered = sorted([*full, *degrees], key=lambda r: int(r["settings"]["max_degree"]))
        lines += ["### Degree L", "", _compared(ordered, "L", lambda s: str(s["max_degree"])), ""]
    for group, head, name in (
        ("noise", "Noise of training", lambda s: s["noise"]),
        ("structure", "Structure", _structure),
        ("smoothing", "Smoothing of places", _smoothing),
    ):
        members = [r for r in records.values() if r["group"] == group]
        if members:
            table = _compared([*full, *members], head.lower(), name)
            lines += [f"### {head}", "", table, ""]
    for record in records.values():
        for split, rows in record.get("radii", {}).items():
            lines += [
                f"### Radius ρ on `{split}`, network `{record['name']}`",
                "",
                _radii(rows),
                "",
            ]
    for record in records.values():
        for split, rows in record.get("sweep", {}).items():
            head = f"### Steps on `{split}`, network `{record['name']}`"
            lines += [head, "", _sweep(rows), ""]
    return lines


def networks(records: Mapping[str, Record]) -> list[str]:
    """Formats the comparison of networks over seeds: mean and range of each number."""
    if not records:
        return [NOT_MEASURED]
    by_name: dict[str, list[Record]] = {}
    for record in records.values():
        by_name.setdefault(record["name"], []).append(record)
    first = next(iter(records.values()))
    heads = ["network", "places", "parameters", "seeds"]
    for split in first["results"]:
        heads += [f"{split}: median km", *(f"% {km} km" for km in _SHOWN_KM), "nats/km²"]
    rows = [_over_seeds(found) for found in by_name.values()]
    budget, settings = first["budget"], first["settings"]
    photos = first["data"]["train"]["photos"]
    intro = (
        f"{budget['steps']} steps of {budget['batch_size']} from {photos:,} photos at the sizes of "
        f"the shipped recipe (L = {settings['max_degree']}, widths "
        f"{'/'.join(map(str, budget['widths']))}, image branch {budget['condition_dim']}). "
        f"Measured on {budget['measured']:,} photos of each validation split: one network call, no "
        "map. Mean over the seeds, smallest and largest in brackets. nats/km²: at the best one "
        "temperature."
    )
    return [intro, "", markdown(heads, rows)]


def _over_seeds(records: list[Record]) -> list[str]:
    settings = records[0]["settings"]
    network = settings["network"]
    if blocks := settings.get("trunk_blocks", 0):
        network += f", trunk of {blocks} blocks"
    cells = [network, _smoothing(settings), f"{records[0]['parameters']:,}", f"{len(records)}"]
    for split in records[0]["results"]:
        found = [record["results"][split]["density"] for record in records]
        cells.append(_range([one["median_km"] for one in found], 0))
        for km in _SHOWN_KM:
            cells.append(_range([100.0 * one["within"][km] for one in found], 1))
        cells.append(_range([one["tempered_nll_km2"] for one in found], 2))
    return cells


def _range(values: list[float], digits: int) -> str:
    mean = sum(values) / len(values)
    return f"{mean:,.{digits}f} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"


def _preface(records: Mapping[str, Record]) -> str:
    first = next(iter(records.values()))
    budget, data = first["budget"], first["data"]
    seconds = sum(r["seconds"]["all"] for r in records.values())
    return (
        f"{len(records)} small trainings of {budget['steps']} steps of {budget['batch_size']} from "
        f"the same {data['train']['photos']:,} photos, seed {budget['seed']}; measured on at most "
        f"{budget['measured']:,} photos of each validation split, densities at temperature 1 (as "
        f"trained); {seconds / 60:.0f} minutes in all ({first['environment']}). Small "
        "trainings: differences between rows count, not their level."
    )


def _is_full(record: Record) -> bool:
    s = record["settings"]
    return bool(
        (s["encoding"], s["loss"], s["base"], s["network"]) == ("SHDD", "KL", "mixture", "CS-UNet")
    )


def _design(records: list[Record]) -> str:
    order = {"lat/lon": 0, "xyz": 1, "SHDD": 2}
    records = sorted(
        records,
        key=lambda r: (
            order[r["settings"]["encoding"]],
            r["settings"]["loss"] == "KL",
            r["settings"]["base"] == "mixture",
            r["settings"]["network"] == "CS-UNet",
        ),
    )
    rows = []
    for record in records:
        s = record["settings"]
        what = [s["encoding"], s["loss"], s["base"] or "–", s["network"]]
        rows += _rows(record, what)
        if (s["encoding"], s["network"]) == ("lat/lon", "CS-UNet"):
            dashes = ["–"] * len(_heads(record))
            rows.append(["lat/lon", "KL", "–", "–", "–", *dashes])
    heads = ["encoding", "loss", "base", "network", "parameters", *_heads(records[0])]
    return markdown(heads, rows)


def _compared(records: list[Record], head: str, name: Any) -> str:
    rows = [row for r in records for row in _rows(r, [name(r["settings"])])]
    return markdown([head, "parameters", *_heads(records[0])], rows)


def _heads(record: Record) -> list[str]:
    heads = ["answer"]
    for split in record["results"]:
        heads += [f"{split}: median km", *(f"% {km} km" for km in _SHOWN_KM), "nats/km²"]
    return heads


def _rows(record: Record, what: list[str]) -> list[list[str]]:
    """Makes a row for each answer of a run."""
    results = record["results"]
    rows = []
    for answer in next(iter(results.values())):
        cells = [*what, f"{record['parameters']:,}", answer]
        for by_answer in results.values():
            found = by_answer[answer]
            nats = found.get("nll_km2")
            cells += [f"{found['median_km']:,.0f}", *_shares(found)]
            cells.append("–" if nats is None else f"{nats:.2f}")
        rows.append(cells)
    return rows


def _shares(found: Record) -> list[str]:
    return [f"{100 * found['within'][km]:.1f}" for km in _SHOWN_KM]


def _structure(settings: Record) -> str:
    changed = []
    if not settings["bayes_skip"]:
        changed.append("no Bayes skip (x_σ/σ²)")
    if not settings["image_first"]:
        changed.append("x and σ enter f from the start")
    if blocks := settings.get("trunk_blocks", 0):
        changed.append(f"trunk of {blocks} residual blocks")
    return ", ".join(changed) or "full model"


def _smoothing(settings: Record) -> str:
    """Formats the smoothing of places; older records have none."""
    km, share = settings.get("smoothing_km", 0.0), settings.get("broad_share", 0.0)
    if not km and not share:
        return "none"
    foot = f", {100 * share:.0f} % over {SmoothingConfig().broad_km:g} km" if share else ""
    return f"{km:g} km{foot}"


def _radii(rows: list[Record]) -> str:
    heads = ["ρ km", "median km", *(f"% within {km} km" for km in rows[0]["within"])]
    body = [
        [
            f"{row['radius_km']:g}",
            f"{row['median_km']:,.0f}",
            *(f"{100 * share:.1f}" for share in row["within"].values()),
        ]
        for row in rows
    ]
    return markdown(heads, body)


def _sweep(rows: list[Record]) -> str:
    heads = ["schedule", "steps", "of which computed", "median km"]
    heads += [f"% within {km} km" for km in _SHOWN_KM]
    body = [
        [
            row["schedule"],
            str(row["steps"]),
            str(row["calls"]),
            f"{row['median_km']:,.0f}",
            *_shares(row),
        ]
        for row in rows
    ]
    return markdown(heads, body)
