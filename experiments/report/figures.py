"""Draws all figures of the report except the maps, from the JSON files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.report.naming import title
from experiments.report.record import OURS, MainTable
from experiments.sampling_figure import draw as draw_sampling
from locdiffusion.drawing.palette import GRID, INK, SERIES
from locdiffusion.evaluate.plots import plot_accuracy_by_distance, plot_coverage, plot_reliability

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
BEST_RIVALS = 2


def draw_all(
    folder: Path,
    table: MainTable | None,
    ablations: Mapping[str, dict[str, Any]],
    sampling: dict[str, Any] | None,
) -> list[Path]:
    """Draws every figure for which there are numbers; returns the files.

    Args:
        folder: Folder of the PNG files.
        table: Main table.
        ablations: Records of `experiments.ablations` by name.
        sampling: Results of `experiments.sampling_steps`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    if table is not None:
        drawn += _of_table(folder, table)
    radii = {name: r["radii"] for name, r in ablations.items() if "radii" in r}
    if radii:
        drawn.append(folder / "radius.png")
        plot_radii(drawn[-1], next(iter(radii.values())))
    sweeps = {name: r for name, r in ablations.items() if "sweep" in r}
    if sweeps:
        drawn.append(folder / "noise.png")
        plot_sweeps(drawn[-1], sweeps)
    if sampling is not None:
        drawn.append(folder / "steps.png")
        draw_sampling(sampling, drawn[-1])
    return drawn


def _of_table(folder: Path, table: MainTable) -> list[Path]:
    drawn = [folder / "coverage.png"]
    plot_coverage(drawn[0], {s.split: s.scores for s in table.ours.splits})
    for part in table.ours.splits:
        if part.scores.reliability:
            drawn.append(folder / f"reliability-{part.split}.png")
            plot_reliability(drawn[-1], part.scores.reliability, part.split)
    shown = (OURS, *best_rivals(table))
    for pool in dict.fromkeys(row.pool for row in table.strata):
        strata = {
            title(row.method): row.strata
            for name in shown
            for row in table.strata
            if (row.pool, row.method) == (pool, name)
        }
        drawn.append(folder / f"distance-{pool.replace(' ', '-')}.png")
        plot_accuracy_by_distance(drawn[-1], strata, title=f"within 200 km, {pool}")
    return drawn


def best_rivals(table: MainTable, count: int = BEST_RIVALS) -> list[str]:
    """Selects the rivals with the best mean GeoScore over the splits, best first."""
    mean = {
        row.name: sum(s.scores.geoscore.value for s in row.splits) / len(row.splits)
        for row in table.rivals
    }
    return sorted(mean, key=lambda name: -mean[name])[:count]


def plot_radii(path: Path, by_split: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Draws accuracy at each threshold against ρ of the decoder, one panel per split.

    Args:
        path: PNG file to write.
        by_split: `ablations.answers.accuracy_by_radius` by split.
    """
    figure, panels = _panels(len(by_split))
    for axes, (split, rows) in zip(panels, by_split.items(), strict=True):
        x = [row["radius_km"] for row in rows]
        for i, km in enumerate(rows[0]["within"]):
            y = [100 * row["within"][km] for row in rows]
            _line(axes, i, x, y, f"within {int(km):,} km")
            best = max(range(len(y)), key=lambda j: y[j])
            axes.plot(x[best], y[best], "o", ms=11, mfc="none", color=SERIES[i])
        axes.set_xscale("log")
        ticks = [r for r in (25, 50, 100, 200, 500, 1000, 2000) if x[0] <= r <= x[-1]]
        axes.set_xticks(ticks, [f"{t:,}" for t in ticks])
        axes.minorticks_off()
        axes.set(ylim=(0, 100), xlabel="ρ of the decoder (km)", ylabel="photos (%)")
        axes.set_title(
            f"{split} (n = {rows[0]['n']:,}); rings: the best ρ", loc="left", fontsize=11
        )
    panels[-1].legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=130, metadata={"Software": None})


def plot_sweeps(path: Path, records: Mapping[str, Mapping[str, Any]]) -> None:
    """Draws accuracy of voted samples against steps, by training noise and by schedule.

    Args:
        path: PNG file to write.
        records: Ablation records with ``sweep``.
    """
    splits = list(next(iter(records.values()))["sweep"])
    figure, panels = _panels(len(splits))
    for axes, split in zip(panels, splits, strict=True):
        ticks: list[int] = []
        for i, record in enumerate(records.values()):
            noise = record["settings"]["noise"]
            for schedule, dashes in (("re-centred", "-"), ("standard", (0, (4, 2)))):
                rows = [r for r in record["sweep"][split] if r["schedule"] == schedule]
                ticks = [row["steps"] for row in rows]
                share = [100 * row["within"]["200"] for row in rows]
                label = f"trained {noise}, sampled {schedule}"
                _line(axes, i, ticks, share, label, dashes)
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(t) for t in ticks])
        axes.minorticks_off()
        axes.set(ylim=(0, 100), xlabel="steps of the sampler", ylabel="within 200 km (%)")
        photos = next(iter(records.values()))["sweep"][split][0]["n"]
        axes.set_title(f"{split} (n = {photos:,})", loc="left", fontsize=11, color=INK)
    panels[0].legend(frameon=False, fontsize=9, loc="lower right")
    figure.savefig(path, dpi=130, metadata={"Software": None})


def _line(
    axes: Axes, i: int, x: Sequence[float], y: Sequence[float], label: str, dashes: Any = "-"
) -> None:
    style: dict[str, Any] = {"color": SERIES[i % len(SERIES)], "marker": MARKERS[i % len(MARKERS)]}
    axes.plot(x, y, label=label, linestyle=dashes, linewidth=1.7, markersize=5, **style)


def _panels(count: int) -> tuple[Any, list[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6 * count, 4.3), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(1, count, squeeze=False)[0])
    for axes in panels:
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelcolor=INK, labelsize=9)
    return figure, panels


def read_records(folder: Path | None) -> dict[str, dict[str, Any]]:
    """Reads the records of a folder of ablations by file; none without a folder."""
    if folder is None or not folder.is_dir():
        return {}
    files = sorted(folder.glob("*.json"))
    return {file.stem: json.loads(file.read_text("utf-8")) for file in files}
