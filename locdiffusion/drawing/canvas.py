"""Figures without a window or a state of pyplot, saved so that equal figures give equal bytes."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from locdiffusion.cli.terminal import printable
from locdiffusion.drawing.palette import FAINT, GRID, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def new_figure(width: float, height: float, **settings: Any) -> Figure:
    """An empty white figure, in inches; settings are those of `matplotlib.figure.Figure`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white", **settings)
    FigureCanvasAgg(figure)
    return figure


def new_axes(figure: Figure, place: Any, title: str = "") -> Axes:
    """Adds axes with a grid, in the colours of all charts.

    Args:
        figure: Figure that gets the axes.
        place: Place in the figure, as `Figure.add_subplot` takes it.
        title: Title above the axes.
    """
    axes: Axes = figure.add_subplot(place)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(color=FAINT, labelcolor=INK, labelsize=10)
    axes.xaxis.label.set(size=11, color=INK)
    axes.yaxis.label.set(size=11, color=INK)
    if title:
        axes.set_title(title, loc="left", fontsize=12, color=INK, pad=20)
    return axes


def png(figure: Figure, dpi: int = 140, **settings: Any) -> bytes:
    """The figure as a PNG without time and version; settings are those of `Figure.savefig`.

    Its texts may be names of files: dollars in them begin no formula, and nothing is invisible.
    """
    from matplotlib.axis import Axis
    from matplotlib.text import Text

    axes = figure.findobj(Axis)
    ticks = [tick for axis in axes for tick in (*axis.majorTicks, *axis.minorTicks)]
    numbers = {label for tick in ticks for label in (tick.label1, tick.label2)}
    for text in set(figure.findobj(Text)) - numbers:
        assert isinstance(text, Text)
        text.set_text(printable(text.get_text(), keep="\n"))
        text.set_parse_math(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None}, **settings)
    return buffer.getvalue()
