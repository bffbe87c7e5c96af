"""Renders `docs/REPORT.md` from the JSON files of the studies and from figures."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.report import sections
from experiments.report.ablation_tables import ablations, networks
from experiments.report.record import MainTable
from locdiffusion.evaluate.tables import markdown

_HERE = Path(__file__).parent
FINDINGS = _HERE / "findings.md"


@dataclass(frozen=True)
class Inputs:
    """Inputs of the page; the page says which of them are missing.

    Attributes:
        table: Main table.
        ablations: Records by name.
        networks: Records of the comparison of networks over seeds, by file.
        sampling: Results of `experiments.sampling_steps`.
        ambiguous: The same on ambiguous photos.
        log_z: Record of the check of log Z on a finer grid.
        benchmark: Record of `experiments.speed.head`.
        findings: Markdown with the findings, written by hand.
    """

    table: MainTable | None = None
    ablations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    networks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sampling: Mapping[str, Any] | None = None
    ambiguous: Mapping[str, Any] | None = None
    log_z: Any = None
    benchmark: Any = None
    findings: str = ""


def render(inputs: Inputs, figures: Mapping[str, str]) -> str:
    """Renders the page.

    Args:
        inputs: Numbers and findings.
        figures: Relative path of each figure by the stem of its file.
    """
    parts = [*_first_page(inputs)]
    studies = [
        ("Main table", sections.main_tables(inputs.table), ()),
        (
            "Calibration",
            sections.calibration(inputs.table),
            ("coverage", *sorted(name for name in figures if name.startswith("reliability-"))),
        ),
        ("What each part is worth", sections.parts(inputs.table), ()),
        ("How far the photos are from training", sections.nearness(inputs.table), ()),
        (
            "Accuracy by distance to the nearest training photo",
            sections.strata(inputs.table),
            tuple(sorted(name for name in figures if name.startswith("distance-"))),
        ),
        ("Posterior maps", _maps(figures), ("posteriors",)),
        ("Ablations", ablations(inputs.ablations), ("radius", "noise")),
        ("Networks and scattered places, over seeds", networks(inputs.networks), ()),
        ("Sampling on ambiguous photos", sections.sampling(inputs.ambiguous), ()),
        ("Steps of sampling mode", sections.sampling(inputs.sampling), ("steps",)),
        ("log Z on a finer grid", sections.facts(inputs.log_z), ()),
        ("Speed", sections.benchmark(inputs.benchmark), ()),
    ]
    for title, lines, names in studies:
        parts += [f"## {title}", "", *lines, ""]
        for name in names:
            if name in figures:
                parts += [f"![{_CAPTIONS.get(name, name.replace('-', ' '))}]({figures[name]})", ""]
    parts += ["## How to repeat it", "", *_repeat(inputs)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).rstrip() + "\n"


_CAPTIONS = {
    "coverage": "truths inside the stated radii",
    "posteriors": "photos and their posteriors",
    "radius": "accuracy against the radius ρ of the decoder",
    "noise": "accuracy against steps, by noise of training and schedule of sampling",
    "steps": "accuracy against steps of the sampler",
}


def _first_page(inputs: Inputs) -> list[str]:
    model = f" of `{inputs.table.model}`" if inputs.table else ""
    findings = _without_comments(inputs.findings)
    return [
        f"# Report{model}",
        "",
        "`python -m experiments.report render` writes this page; no number in its tables is typed "
        "by hand.",
        "",
        "## What the paper says",
        "",
        (_HERE / "paper.md").read_text("utf-8").strip(),
        "",
        "## What we chose",
        "",
        (_HERE / "choices.md").read_text("utf-8").strip(),
        "",
        *_settings(inputs.table),
        "## What we found",
        "",
        *sections.found(inputs.table),
        "",
        sections.sampling_verdict(inputs.ambiguous),
        "",
        *([findings, ""] if findings else []),
    ]


def _settings(table: MainTable | None) -> list[str]:
    if table is None:
        return []
    model, decode = table.checkpoint["model"], table.checkpoint["decode"]
    recipe = table.checkpoint.get("recipe") or {}
    training = (table.checkpoint.get("data") or {}).get("train") or {}
    photos = f"{training['photos']:,}" if training else "an unknown number of"
    return [
        f"The shipped model: L = {model['max_degree']}, {table.ours.parameters:,} parameters, "
        f"{recipe.get('steps', 'an unknown number of')} steps of {recipe.get('batch_size', '?')} "
        f"from {photos} photos; ρ = {decode['radius_km']:g} km and the temperatures are fitted on "
        "validation photos.",
        "",
    ]


def _without_comments(text: str) -> str:
    return re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL).strip()


def _maps(figures: Mapping[str, str]) -> list[str]:
    if "posteriors" not in figures:
        return [sections.NOT_MEASURED]
    return [
        "The photos are those at even quantiles of the errors of their split. Left the photo, 640 "
        "km wide; middle the density around the answer; right the density over the world. Density "
        "is shown down to a thousandth of its peak, on a logarithmic scale. Where a map is coarse, "
        "narrow peaks are painted wider than they are, to be visible."
    ]


def _repeat(inputs: Inputs) -> list[str]:
    lines = ["`make report` repeats everything.", ""]
    if inputs.table is None:
        return lines
    table = inputs.table
    rows = [
        [
            f"`{part.name}`",
            f"{part.photos:,}",
            f"`{part.sha256[:16]}`",
            "; ".join(_made(made) for made in part.made) or "not recorded",
        ]
        for part in table.data
    ]
    mosaics = {
        (m["name"], m["file"], m["sha256"])
        for part in table.data
        for made in part.made
        for m in made.get("mosaics", [])
    }
    budget = ", ".join(f"{name} {value}" for name, value in table.budget.items())
    return [
        *lines,
        markdown(["photos", "n", "SHA-256 of keys, places, embeddings", "how made"], rows),
        "",
        *(f"- mosaic `{n}`: `{file}`, SHA-256 `{sha}`" for n, file, sha in sorted(mosaics)),
        f"- checkpoint `{table.model}`, SHA-256 `{table.model_sha256}`",
        f"- budget of every rival: {budget}",
        f"- bootstrap: {table.bootstrap.resamples:,} resamples, seed {table.bootstrap.seed}",
        f"- made with: {table.environment}",
        "",
        *sections.methods(table),
    ]


def _made(made: Mapping[str, Any]) -> str:
    mosaics = " + ".join(f"{m['name']} {m['weight']:g}" for m in made.get("mosaics", []))
    augmented = "augmented" if made.get("augmentation") else "plain"
    return (
        f"split {made.get('split')}, seed {made.get('seed')}, {made.get('count', 0):,} of "
        f"{mosaics}, {augmented}"
    )
