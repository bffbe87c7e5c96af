r"""Compares a distilled checkpoint with GeoCLIP, and writes tables, a figure and a page.

    python -m experiments.distillation.report --checkpoint geoclip-distilled --output REPORT \
        --truth im2gps3k=im2gps3k_places365.csv

gives GeoCLIP and the checkpoint the same simulated queries, at the positions of the lists and on
land far from GeoCLIP's gallery, and times both heads in turns. Only positions are read from a list.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from experiments.distillation.fidelity import (
    ARGMAX,
    CLOSED_FORM,
    DECODED,
    DENSITY,
    PLACE,
    RULE,
    SAMPLING,
    TOGETHER,
    Fidelity,
    Split,
)
from experiments.distillation.heads import HeadCost
from locdiffusion.config import to_dict
from locdiffusion.evaluate.scores import Scores
from locdiffusion.evaluate.tables import markdown, number, percent
from schemas.geotags import THRESHOLDS_KM

METHODS = (ARGMAX, DECODED, RULE, CLOSED_FORM, DENSITY, PLACE, SAMPLING, TOGETHER)
PAGE, FIGURE, RESULTS = "GEOCLIP.md", "geoclip_fidelity.png", "fidelity.json"


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.distillation.report",
        description="Compare a distilled checkpoint with GeoCLIP on simulated queries.",
    )
    add = parser.add_argument
    add("--checkpoint", default="geoclip-distilled", help="directory or name (%(default)s)")
    add("--output", type=Path, required=True, help="directory of page, figure and numbers")
    add(
        "--truth",
        nargs="*",
        default=[],
        metavar="NAME=CSV",
        help="lists of real positions with columns LAT and LON; default: the gallery, moved",
    )
    add("--count", type=int, default=2000, help="test queries per split (%(default)s)")
    add(
        "--sampled",
        type=int,
        default=500,
        help="test queries per split in sampling mode (%(default)s)",
    )
    add(
        "--val-queries",
        type=int,
        default=1000,
        help="validation queries, which choose settings (%(default)s)",
    )
    add(
        "--batch",
        type=int,
        nargs="+",
        default=[1, 64],
        metavar="N",
        help="batch sizes at which heads are timed (1 64)",
    )
    add("--teacher", type=Path, metavar="FILE", help="file that caches the location embeddings")
    add("--seed", type=int, default=0, help="seed of the queries (%(default)s)")
    return parser.parse_args(argv)


def run(options: argparse.Namespace) -> Path:
    """Measures and writes; returns the path of the page."""
    from experiments.distillation import fidelity, heads
    from experiments.distillation.teacher import Teacher, TeacherConfig
    from locdiffusion import checkpoint

    loaded = checkpoint.load(options.checkpoint)
    teacher = Teacher.of_geoclip(TeacherConfig(seed=options.seed), options.teacher)
    student = fidelity.Student(loaded, teacher)
    lists = {}
    for pair in options.truth:
        name, _, file = pair.partition("=")
        lists[name] = fidelity.read_places(Path(file))
    tests = fidelity.splits(teacher, lists, options.count, options.seed)
    val = fidelity.validation(teacher, options.val_queries, options.seed)
    found = fidelity.measure(student, teacher, tests, val, options.sampled, _say)
    _say("timing both heads")
    costs = [heads.measure(student, teacher, tests[0].photos, batch) for batch in options.batch]
    options.output.mkdir(parents=True, exist_ok=True)
    results = {"model": loaded.model_id, "costs": costs, "fidelity": found}
    text = json.dumps(to_dict(results), indent=1)
    (options.output / RESULTS).write_text(text + "\n", "utf-8")
    draw(found, options.output / FIGURE)
    page = options.output / PAGE
    page.write_text(render(loaded.model_id, tests, found, costs), "utf-8")
    return page


def _say(text: str) -> None:
    print(text, flush=True)


def render(
    model_id: str, tests: Sequence[Split], found: Fidelity, costs: Sequence[HeadCost]
) -> str:
    """Renders the page as Markdown."""
    about, findings = (
        Path(__file__).with_name(name).read_text("utf-8").rstrip()
        for name in ("about.md", "findings.md")
    )
    lines = [f"# `{model_id}` beside GeoCLIP", "", about, ""]
    if model_id in findings:  # they are about one checkpoint
        lines += ["## What we found", "", findings, ""]
    lines += ["## Accuracy", "", f"![accuracy by distance]({FIGURE})", ""]
    for split in tests:
        scores = found.scores[split.name]
        lines += [f"### {split.name}", "", f"{split.about}; {len(split.photos):,} queries.", ""]
        lines += [_table(scores), "", _differences(scores), ""]
    lines += ["## Divergence from the teacher", "", _divergences(found), ""]
    lines += ["## Time and memory of the heads", "", _costs(costs), ""]
    lines += ["## Settings chosen on validation queries", ""]
    for name, chosen in found.chosen.items():
        values = ", ".join(f"{key} {value:g}" for key, value in chosen.items())
        lines.append(f"- {name}: {values}")
    return "\n".join(lines) + "\n"


def _table(scores: Mapping[str, Scores]) -> str:
    heads = ["method", "n", "median km", *(f"% within {t:,} km" for t in THRESHOLDS_KM)]
    heads += ["% in 50 % radius", "% in 90 % radius"]
    rows = []
    for method in METHODS:
        s = scores[method]
        within = [percent(share) for share in s.within]
        cover = [percent(s.coverage_50), percent(s.coverage_90)]
        rows.append([method, f"{s.n:,}", number(s.median_km), *within, *cover])
    return markdown(heads, rows)


def _differences(scores: Mapping[str, Scores]) -> str:
    """Formats the points ahead of GeoCLIP's argmax, one line for each of our methods."""
    lines = []
    for method in (RULE, DENSITY, PLACE, TOGETHER):
        points = [
            f"{100 * (ours.value - theirs.value):+.1f}"
            for ours, theirs in zip(scores[method].within, scores[ARGMAX].within, strict=True)
        ]
        lines.append(f"- {method}, points ahead of GeoCLIP's argmax: {' / '.join(points)}")
    return "\n".join(lines)


def _divergences(found: Fidelity) -> str:
    rows = [
        [name, f"{ours:.2f}", f"{nothing:.2f}"] for name, (ours, nothing) in found.kl_nats.items()
    ]
    return markdown(["split", "KL(teacher ‖ ours), nats", "KL(teacher ‖ q₀), nats"], rows)


def _costs(costs: Sequence[HeadCost]) -> str:
    heads = ["batch", "GeoCLIP's head, ms per photo", "ours", "ours up to the place"]
    heads += ["ours up to the density", "speed-up", "up to the place", "up to the density"]
    rows = [
        [
            str(cost.batch),
            *(f"{ms:.2f}" for ms in (cost.theirs_ms, cost.ours_ms, cost.place_ms, cost.density_ms)),
            *(
                f"{times:.2f} ({low:.2f}-{high:.2f})"
                for times, low, high in (cost.speedup, cost.place_speedup, cost.density_speedup)
            ),
        ]
        for cost in costs
    ]
    where = ", ".join(f"{name} {value}" for name, value in costs[0].machine.items())
    theirs, ours = (f"{n / 1e6:,.0f} MB" for n in (costs[0].theirs_bytes, costs[0].ours_bytes))
    return (
        markdown(heads, rows)
        + "\n\nThe queries are those of the first split. Both heads were timed in turns in one "
        "run, with one thread; in brackets the spread over the turns. GeoCLIP's head: image head, "
        "100,000 cached location embeddings, softmax, top 5, no radius. Ours: image head, density, "
        "temperature, decoding with radii, probabilities and modes. *Up to the place*: only the "
        "place is decoded, which is what GeoCLIP's head gives. *Up to the density*: nothing is "
        f"decoded. Memory: theirs {theirs}, ours {ours}.\n\n({where})"
    )


def draw(found: Fidelity, path: Path) -> None:
    """Draws accuracy at the thresholds, one panel per split."""
    names = list(found.scores)
    figure = Figure(figsize=(4.2 * len(names), 3.8), layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        for method, style in zip(
            METHODS, ("s--", "d--", "p--", "x:", "o-", "+:", "v-", "^-"), strict=True
        ):
            shares = [100 * share.value for share in found.scores[name][method].within]
            axes.plot(range(len(shares)), shares, style, label=method, markersize=5)
        axes.set_xticks(range(len(THRESHOLDS_KM)), [f"{t:,}" for t in THRESHOLDS_KM])
        axes.set_xlabel("within km")
        axes.set_title(name, fontsize=10)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("% of queries")
    panels[0].set_ylim(0, 100)
    panels[0].legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = parse(argv)
    from locdiffusion.model.weights import EncoderWeightsError

    try:
        page = run(options)
    except (ValueError, OSError, EncoderWeightsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"page: {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
