"""Renders the sections of the page, each from the JSON of its study; missing numbers are named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.report.comparison import Verdict
from experiments.report.naming import title
from experiments.report.record import NEARNESS_SHARES, OURS, MainTable, MethodRow, Role
from experiments.report.verdicts import Outcome, outcomes, tally
from locdiffusion.evaluate.tables import (
    calibration_table,
    markdown,
    number,
    percent,
    reliability_table,
    strata_table,
)

NOT_MEASURED = "Not measured in this run."


def found(table: MainTable | None) -> list[str]:
    """Summarises the main table: the best rivals, and wins and losses on tests."""
    if table is None:
        return [NOT_MEASURED]
    all_outcomes = outcomes(table)
    counted = [o for o in all_outcomes if o.counts]
    accuracy = [o for o in counted if o.is_share]
    lines = [_summary(table, all_outcomes), ""]
    lines.append(
        f"**On the tests** our accuracy is {tally(accuracy)} comparisons with the best of "
        f"{len(table.rivals)} rivals. That rival is chosen anew for every split and threshold by "
        "its score on the test itself, which favours the rivals (paired bootstrap over photos, "
        f"{100 * table.bootstrap.level:g} % intervals)."
    )
    lines += [
        f"- `{o.split}`, within {o.measure.name}: {o.text} ({title(o.rival)})"
        for o in accuracy
        if o.verdict is Verdict.WORSE
    ]
    others = [o for o in counted if not o.is_share]
    names = dict.fromkeys(o.measure.name for o in others)
    by_name = [f"{name} {tally([o for o in others if o.measure.name == name])}" for name in names]
    return [*lines, "", f"In the other measures: {'; '.join(by_name)}.", "", _not_counted(table)]


def _not_counted(table: MainTable) -> str:
    """Says which comparisons are not counted."""
    shares = [o for o in outcomes(table) if o.is_share]
    ties = [o for o in shares if o.role is Role.TEST and o.at_bound]
    parts = [
        f"{len(ties)} of {sum(o.role is Role.TEST for o in shares)} on the tests, where both are "
        "at 0 % or both at 100 % to the per cent"
    ]
    for role in (Role.CALIBRATION, Role.PART):
        splits = [f"`{split}`" for split in table.splits if table.role(split) is role]
        if splits:
            parts.append(f"all on {', '.join(splits)} ({role.value})")
    return f"Not counted: {'; '.join(parts)}."


def _summary(table: MainTable, all_outcomes: Sequence[Outcome]) -> str:
    rows = []
    for split in table.splits:
        ours = table.ours.on(split)
        at_200 = table.thresholds_km.index(200.0)
        rival = next(
            o.rival for o in all_outcomes if o.split == split and o.measure.name == "200 km"
        )
        theirs = next(row for row in table.rivals if row.name == rival).on(split)
        rows.append(
            [
                _named(table, split),
                f"{ours.n:,}",
                number(ours.median_km),
                percent(ours.within[at_200]),
                title(rival),
                number(theirs.median_km),
                percent(theirs.within[at_200]),
            ]
        )
    heads = ["split", "photos", "our median km", "our % within 200 km"]
    heads += ["best rival at 200 km", "its median km", "its % within 200 km"]
    return markdown(heads, rows)


def _named(table: MainTable, split: str) -> str:
    """Names a split, with the reason if verdicts on it do not count."""
    role = table.role(split)
    return f"`{split}`" if role is Role.TEST else f"`{split}`, {role.value}"


def main_tables(table: MainTable | None) -> list[str]:
    """Renders every method on every split, and the verdicts."""
    if table is None:
        return [NOT_MEASURED]
    lines = [
        f"All methods see the same frozen embeddings; {_same_photos(table)} Settings come from "
        "validation photos. In brackets: "
        f"{100 * table.bootstrap.level:g} % bootstrap intervals over photos. GeoScore: mean of "
        "5000·exp(−error/1492.7 km). nats/km²: mean negative log density of the truth, lower is "
        "better. Coverage: truths inside the stated 50 % and 90 % radii."
    ]
    all_outcomes = outcomes(table)
    for split in table.splits:
        lines += ["", f"### {_named(table, split)} ({table.ours.on(split).n:,} photos)", ""]
        lines += [_split_table(table, split), "", "Ours against the best rival:", ""]
        lines.append(_verdict_table([o for o in all_outcomes if o.split == split]))
    return lines


def _same_photos(table: MainTable) -> str:
    """Tells whether our model and the rivals had the same photos and number of steps."""
    own = (table.checkpoint.get("data") or {}).get("train") or {}
    theirs = next(part for part in table.data if part.name == "train")
    steps = (table.checkpoint.get("recipe") or {}).get("steps")
    if own.get("sha256") == theirs.sha256:
        photos = "the same training photos"
    elif own.get("made") and own["made"] == theirs.made:
        photos = (
            "the same training photos (cut and embedded again, the embeddings differ in their last "
            "digits)"
        )
    else:
        photos = "**other training photos than ours**"
    same_steps = steps == table.budget.get("steps")
    budget = "as many steps" if same_steps else f"{table.budget.get('steps')} steps (ours {steps})"
    return f"the rivals learn from {photos} in {budget}."


def _split_table(table: MainTable, split: str) -> str:
    shown = [i for i, km in enumerate(table.thresholds_km) if km in (25.0, 200.0, 750.0)]
    heads = ["method", "parameters", "median km"]
    heads += [f"% within {table.thresholds_km[i]:g} km" for i in shown]
    heads += ["GeoScore", "nats/km²", "% in 50 % radius", "% in 90 % radius"]
    return markdown(heads, [_method_cells(row, split, shown) for row in table.methods])


def _method_cells(row: MethodRow, split: str, shown: Sequence[int]) -> list[str]:
    scores = row.on(split)
    name = f"**{title(row.name)}**" if row.name == OURS else title(row.name)
    return [
        name,
        f"{row.parameters:,}",
        number(scores.median_km),
        *(percent(scores.within[i]) for i in shown),
        number(scores.geoscore),
        number(scores.nats_per_km2, 2),
        percent(scores.coverage_50),
        percent(scores.coverage_90),
    ]


def _verdict_table(all_outcomes: Sequence[Outcome]) -> str:
    rows = [
        [
            f"within {o.measure.name}" if o.is_share else o.measure.name,
            title(o.rival),
            o.text + (", not counted" if o.at_bound else ""),
        ]
        for o in all_outcomes
    ]
    return markdown(["measure", "best rival", "ours"], rows)


def methods(table: MainTable) -> list[str]:
    """Renders the time of each method, and its choices on validation photos."""
    lines = []
    for row in table.methods:
        seconds = row.details.get("train_seconds")
        took = "" if seconds is None else f"{seconds:,.0f} s of training; "
        choices = ", ".join(f"{n} {value}" for n, value in _flat(row.details.get("choices", {})))
        lines.append(f"- {title(row.name)}: {took}fixed or chosen on validation photos: {choices}")
    return lines


def calibration(table: MainTable | None) -> list[str]:
    """Renders coverage of the radii and reliability of the probabilities of our model."""
    if table is None:
        return [NOT_MEASURED]
    rows = {f"`{s.split}`": s.scores for s in table.ours.splits}
    return [calibration_table(rows), "", reliability_table(rows)]


def strata(table: MainTable | None) -> list[str]:
    """Renders our scores by distance to the nearest training photo."""
    if table is None or not table.strata:
        return [NOT_MEASURED]
    lines = []
    for row in table.strata:
        if row.method == OURS:
            lines += [f"### {row.pool}", "", strata_table(row.strata), ""]
    return lines


PARTS_KM = (25.0, 200.0)


def parts(table: MainTable | None) -> list[str]:
    """Renders ours against its forms with a part taken away, paired over the photos."""
    if table is None or not table.forms:
        return [NOT_MEASURED]
    shown = [i for i, km in enumerate(table.thresholds_km) if km in PARTS_KM]
    heads = ["split", "without", *(f"% within {table.thresholds_km[i]:g} km" for i in shown)]
    heads += ["nats/km²", *(f"ours more within {table.thresholds_km[i]:g} km" for i in shown)]
    heads += ["ours less nats/km²", "% in 50 % radius", "% in 90 % radius"]
    rows = []
    for split in table.splits:
        for row in (table.ours, *table.forms):
            scores = row.on(split)
            against = None if row is table.ours else table.duel(split, row.name)
            nats = None if against is None else against.nats_per_km2
            rows.append(
                [
                    _named(table, split),
                    "nothing: ours" if against is None else title(row.name),
                    *(percent(scores.within[i]) for i in shown),
                    number(scores.nats_per_km2, 2),
                    *("–" if against is None else percent(against.within[i]) for i in shown),
                    "–" if nats is None else number(nats, 2),
                    percent(scores.coverage_50),
                    percent(scores.coverage_90),
                ]
            )
    intro = (
        "The same photos under our model with a part taken away, or another network under our "
        "loss. Differences are ours minus the form, paired over the photos."
    )
    return [intro, "", markdown(heads, rows)]


def nearness(table: MainTable | None) -> list[str]:
    """Renders how far the photos of each split are from the nearest training photo."""
    if table is None or not table.nearness:
        return [NOT_MEASURED]
    heads = ["split", "photos", *(f"{100 * share:g} %" for share in NEARNESS_SHARES)]
    rows = [
        [
            _named(table, near.split) + (f", over {near.over_km:g} km" if near.over_km else ""),
            f"{near.n:,}",
            *(f"{km:,.0f}" for km in near.quantiles_km),
        ]
        for near in table.nearness
    ]
    intro = "Distance in km to the nearest training photo that this share of the photos is within:"
    return [intro, "", markdown(heads, rows)]


def sampling(results: Mapping[str, Any] | None) -> list[str]:
    """Renders sampling mode against the number of steps."""
    if not results:
        return [NOT_MEASURED]
    study = results["study"]
    entries = [("density mode", results["density"])]
    settings = results["settings"].values()
    order = sorted(
        settings, key=lambda e: (e["placing"], e["sampler"], e.get("guidance", 1.0), e["steps"])
    )
    entries += [(_sampled_name(e), e) for e in order]
    rows = [
        [
            name,
            f"{entry['calls_per_photo']}",
            f"{entry['median_km']:,.0f}",
            *(f"{100 * entry['within'][km]:.1f}" for km in ("25", "200", "750")),
            f"{entry['nats_per_km2']:.2f}",
            f"{1000 * entry['seconds_per_photo']:.1f}",
        ]
        for name, entry in entries
    ]
    heads = ["sampler, placing of levels, steps", "calls per photo", "median km"]
    heads += ["% within 25 km", "200 km", "750 km", "nats/km²", "ms per photo"]
    intro = f"{study['photos']:,} photos, {study['samples']} samples each, `{study['checkpoint']}`."
    return [intro, "", markdown(heads, rows)]


def _sampled_name(entry: Mapping[str, Any]) -> str:
    guidance = entry.get("guidance", 1.0)
    guided = f", guidance {guidance:g}" if guidance != 1.0 else ""
    return f"{entry['sampler']}, {entry['placing']}, {entry['steps']}{guided}"


WORTH_NATS, WORTH_SHARE = 0.2, 0.05
"""Gains over density mode from which sampling would become the default."""


def sampling_verdict(results: Mapping[str, Any] | None) -> str:
    """Says in one sentence what sampling costs and gains on ambiguous photos."""
    if not results or not results["settings"]:
        return f"**Sampling on ambiguous photos.** {NOT_MEASURED}"
    settings = results["settings"]
    best = {
        key: max(settings.values(), key=lambda entry: float(entry["gain"][key]["mean"]))
        for key in ("nats", "within_25")
    }
    nats, share = best["nats"]["gain"]["nats"], best["within_25"]["gain"]["within_25"]
    worth = nats["mean"] >= WORTH_NATS or share["mean"] >= WORTH_SHARE
    calls = [entry["calls_per_photo"] for entry in settings.values()]
    return (
        f"**Sampling on ambiguous photos.** On the {results['study']['photos']:,} validation "
        f"photos of a familiar kind whose density has least information, the best of "
        f"{len(settings)} ways to sample gains {_signed(nats, 2)} nats over one network "
        f"call, the best within 25 km {_signed(share, 1, 100.0)} points (mean and "
        f"standard error, before the map), for {min(calls):,} to {max(calls):,} network "
        "calls per photo: "
        + ("it is worth its cost there." if worth else "it does not earn its cost.")
    )


def _signed(gain: Mapping[str, float], digits: int, factor: float = 1.0) -> str:
    mean, error = factor * gain["mean"], factor * gain["standard_error"]
    return f"{mean:+.{digits}f} ± {error:.{digits}f}".replace("-", "−")


def benchmark(content: Mapping[str, Any] | None) -> list[str]:
    """Renders the lines of `experiments.speed.head`, and the machine."""
    if not content:
        return [NOT_MEASURED]
    said = {True: "met", False: "**not met**", None: "no budget"}
    rows = [
        [line["name"], str(line["photos"]), line["measured"], line["budget"], said[line["met"]]]
        for line in content["lines"]
    ]
    heads = ["what", "photos at once", "measured", "budget", "verdict"]
    about = "; ".join(f"{name} {value}" for name, value in _flat(content["about"]))
    return [markdown(heads, rows), "", f"Measured in turns in one run: {about}."]


def facts(content: Any) -> list[str]:
    """Renders any JSON object as a table of names and values."""
    if not content:
        return [NOT_MEASURED]
    rows = [[name, value] for name, value in _flat(content)]
    return [markdown(["what", "value"], rows)]


def _flat(content: Any, prefix: str = "") -> list[tuple[str, str]]:
    if isinstance(content, Mapping):
        parts = [_flat(value, f"{prefix}{name} · ") for name, value in content.items()]
        return [pair for part in parts for pair in part]
    name = prefix.removesuffix(" · ")
    if isinstance(content, list):
        if all(not isinstance(item, (Mapping, list)) for item in content):
            return [(name, ", ".join(map(_shown, content)))]
        named = [_flat(item, f"{prefix}{_label(item, i)} · ") for i, item in enumerate(content)]
        return [pair for part in named for pair in part]
    return [(name, _shown(content))]


def _label(item: Any, index: int) -> str:
    return str(item["name"]) if isinstance(item, Mapping) and "name" in item else str(index + 1)


def _shown(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
