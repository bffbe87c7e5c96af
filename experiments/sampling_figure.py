"""Draws the accuracy of sampling mode against the number of network calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from locdiffusion.drawing.palette import SERIES


def draw(results: dict[str, Any], path: Path) -> None:
    """Draws accuracy within 200 km and median error against the network calls of one sample.

    Solid: mixture of all samples. Dotted: one sample alone. Grey line: density mode.

    Args:
        results: Results of `run_study`.
        path: PNG file to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    entries = results["settings"].values()
    samplers, placings = (
        sorted({entry[name] for entry in entries}) for name in ("sampler", "placing")
    )
    panels = (("within 200 km, %", _within_200), ("median error, km", _median))
    for axes, (label, value) in zip(figure.subplots(1, 2), panels, strict=True):
        axes.axhline(value(results["density"]), color="0.55", lw=1.2, label="density mode (1 call)")
        for sampler, colour in zip(samplers, SERIES, strict=False):
            for placing, marker in zip(placings, ("o", "^", "s"), strict=False):
                curve = _curve(results, sampler, placing)
                if not curve:
                    continue
                steps = [entry["steps"] for entry in curve]
                hollow = {"markerfacecolor": "white"} if placing == "standard" else {}
                style = {"color": colour, "marker": marker, "markersize": 5, **hollow}
                name = f"{sampler.replace('_', '-')}, {placing}"
                axes.plot(steps, [value(e) for e in curve], label=name, **style)
                alone = [value(entry["single"]) for entry in curve]
                axes.plot(steps, alone, lw=0.9, ls=":", **{**style, "markersize": 2.5})
        axes.set_xscale("log", base=2)
        ticks = sorted({entry["steps"] for entry in results["settings"].values()})
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("steps of the sampler (network calls of one sample)")
        axes.set_ylabel(label)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, fontsize=8, loc="best")
    count, samples = results["study"]["photos"], results["study"]["samples"]
    figure.suptitle(
        f"{count} photos; solid: mixture of {samples} samples, dotted: one sample alone",
        fontsize=10,
    )
    figure.savefig(path, dpi=130, metadata={"Software": None})


def _curve(results: dict[str, Any], sampler: str, placing: str) -> list[dict[str, Any]]:
    entries = [
        entry
        for entry in results["settings"].values()
        if (entry["sampler"], entry["placing"]) == (sampler, placing)
        and entry.get("guidance", 1.0) == 1.0
    ]
    return sorted(entries, key=lambda entry: int(entry["steps"]))


def _within_200(entry: dict[str, Any]) -> float:
    return 100.0 * float(entry["within"]["200"])


def _median(entry: dict[str, Any]) -> float:
    return float(entry["median_km"])
