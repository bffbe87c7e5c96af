"""Figures without a window or a state of pyplot, saved so that equal figures give equal bytes."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float, **settings: Any) -> Figure:
    """An empty white figure, in inches; settings are those of `matplotlib.figure.Figure`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white", **settings)
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure, dpi: int = 140, **settings: Any) -> bytes:
    """The figure as a PNG without time and version; settings are those of `Figure.savefig`."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None}, **settings)
    return buffer.getvalue()
