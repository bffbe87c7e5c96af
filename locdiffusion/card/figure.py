"""Draws the picture of a card."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from locdiffusion.card.answer import AnsweredPhoto
from locdiffusion.card.views import (
    DASHED,
    HORIZON_KM,
    SOLID,
    View,
    draw_base,
    draw_codes,
    draw_radius,
    half_width_km,
    paint_density,
)
from locdiffusion.decoding.geotag import place_text
from locdiffusion.drawing.canvas import new_figure, png
from locdiffusion.drawing.palette import ANSWER, DENSITY, FAINT, FRAME, GRID, INK, SERIES, TRUTH
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, unit_vectors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 15.0, 8.0
LEFT, COLUMN = 0.3, 4.3
FOOT, LONGEST = 0.9, 52
"""Lowest line of the table in inches, and the longest value in letters."""
BEARINGS = 480
NARROW_KM = 2500.0
"""90 % radius below which a card has a closer map, and else the other side of the Earth."""
MIN_HALF_KM = 250.0
MIN_ALBUM_KM = 1.0
"""Half the side of the smallest map about an album's place."""

BROWN, ALBUM = DENSITY[-1][:7], SERIES[2]


def card_png(answer: AnsweredPhoto, dpi: int = 110) -> bytes:
    """Draws a card as a PNG; the same answer gives the same bytes."""
    return png(draw_card(answer), dpi)


def draw_card(answer: AnsweredPhoto) -> Figure:
    """Draws photo and table, the globe, and a closer map or the other side of the Earth."""
    figure = new_figure(WIDTH, HEIGHT)
    _draw_title(figure, answer)
    _draw_table(figure, answer, _draw_photo(figure, answer))
    _draw_maps(figure, answer)
    _draw_legend(figure, answer)
    _draw_footer(figure, answer)
    return figure


# ---------------------------------------------------------------------------------------- maps


def _draw_maps(figure: Figure, answer: AnsweredPhoto) -> None:
    globe = View(*answer.centre, globe=True)
    globe_deg = np.arange(0.125, 90.0, 0.25)
    globe_density = answer.log_density(answer.centre, globe_deg, BEARINGS)
    error = None if answer.known is None else answer.known.error_km
    half = half_width_km(answer.geotag.radius_90_km, error, MIN_HALF_KM, 1.35 * NARROW_KM)
    closer_deg = np.degrees((np.arange(200) + 0.5) / 200.0 * 1.42 * half / EARTH_RADIUS_KM)
    closer_density = answer.log_density(answer.centre, closer_deg, BEARINGS)
    peak = float(np.exp(max(globe_density.max(), closer_density.max())))
    axes = _axes(figure, 4.85, 1.35, 5.3)
    _draw_map(axes, answer, globe, EARTH_RADIUS_KM, (globe_deg, globe_density), peak)
    if answer.album is not None and answer.album.place is not None:
        _draw_album(figure, answer, answer.album.place)
    elif answer.geotag.radius_90_km < NARROW_KM:
        _draw_window(axes, globe, half)
        closer = View(*answer.centre, globe=False)
        axes = _axes(figure, 10.5, 1.9, 4.2)
        _draw_map(axes, answer, closer, half, (closer_deg, closer_density), peak)
        draw_codes(axes, closer, half)
        _draw_scale(axes, half)
    else:
        far_side = globe.opposite
        far_density = answer.log_density(
            (far_side.latitude, far_side.longitude), globe_deg, BEARINGS
        )
        axes = _axes(figure, 10.65, 2.05, 3.9)
        _draw_map(axes, answer, far_side, EARTH_RADIUS_KM, (globe_deg, far_density), peak)
        axes.set_title("the other side of the Earth", fontsize=10.5, color=FAINT, pad=10)


def _draw_album(figure: Figure, answer: AnsweredPhoto, place: tuple[float, float]) -> None:
    """Draws a map about the place that the album gives, with its radii and its anchors."""
    assert answer.album is not None
    view = View(*place, globe=False)
    half = float(np.clip(1.35 * answer.album.reach_km(), MIN_ALBUM_KM, 1.35 * NARROW_KM))
    axes = _axes(figure, 10.5, 1.9, 4.2)
    draw_base(axes, view, half)
    _draw_places(axes, answer, view, half)
    for radius, style in ((answer.album.radius_50_km, SOLID), (answer.album.radius_90_km, DASHED)):
        draw_radius(axes, view, radius, style, ALBUM)
    for anchor in filter(None, answer.album.anchors):
        for x, y in _visible(view, half, *anchor):
            axes.plot(x, y, "D", color=INK, mec="white", ms=8, zorder=7)
    _draw_scale(axes, half)
    axes.set_title("with its album", fontsize=10.5, color=FAINT, pad=10)


def _axes(figure: Figure, left: float, bottom: float, side: float) -> Axes:
    """Adds square axes; all lengths are in inches."""
    return figure.add_axes((left / WIDTH, bottom / HEIGHT, side / WIDTH, side / HEIGHT))


def _draw_map(
    axes: Axes,
    answer: AnsweredPhoto,
    view: View,
    half_km: float,
    circles: tuple[NDArray[np.float64], NDArray[np.float64]],
    peak: float,
) -> None:
    """Draws one map: density, radii about the answer, other places and truth."""
    draw_base(axes, view, half_km)
    paint_density(axes, view, half_km, *circles, peak)
    radii = ((answer.geotag.radius_50_km, SOLID), (answer.geotag.radius_90_km, DASHED))
    for radius, style in radii:
        # Seen from the other side, a circle about the answer is one about the opposite point.
        centred = (view.latitude, view.longitude) == answer.centre
        draw_radius(axes, view, radius if centred else 2.0 * HORIZON_KM - radius, style)
    _draw_places(axes, answer, view, half_km)


def _draw_places(axes: Axes, answer: AnsweredPhoto, view: View, half_km: float) -> None:
    """Draws the answer, other likely places, the place that the album gives, and the truth."""
    for i, mode in reversed(list(enumerate(answer.geotag.modes))):
        for x, y in _visible(view, half_km, mode.latitude, mode.longitude):
            if i == 0:
                axes.plot(x, y, "x", color="white", ms=11, mew=4.0, zorder=8)
                axes.plot(x, y, "x", color=ANSWER, ms=9, mew=2.2, zorder=8)
            else:
                axes.plot(x, y, "o", color="white", mec=ANSWER, ms=13, mew=1.4, zorder=7)
                number: Any = axes.text(x, y, str(i + 1), fontsize=9, weight="bold", zorder=7.5)
                number.set(ha="center", va="center_baseline", color=ANSWER)
    if answer.album is not None and answer.album.place is not None:
        for x, y in _visible(view, half_km, *answer.album.place):
            axes.plot(x, y, "P", color=ALBUM, mec="white", ms=11, zorder=9)
    if answer.known is not None:
        place = answer.known.place
        for x, y in _visible(view, half_km, place.latitude, place.longitude):
            axes.plot(x, y, "o", color="white", mfc="none", ms=11, mew=4.4, zorder=8)
            axes.plot(x, y, "o", color=TRUTH, mfc="none", ms=11, mew=2.2, zorder=8)


def _visible(
    view: View, half_km: float, latitude: float, longitude: float
) -> list[tuple[float, float]]:
    """Where on the map a place is drawn; empty if it is outside."""
    (x,), (y,), (this_side,) = view(unit_vectors(latitude, longitude)[None])
    on_it = this_side and max(abs(x), abs(y)) <= half_km
    return [(float(x), float(y))] if on_it else []


def _draw_window(axes: Axes, globe: View, half_km: float) -> None:
    """Draws the frame of the closer map on the globe."""
    from matplotlib.patches import Rectangle

    half = float(globe.radius(half_km))
    frame = Rectangle((-half, -half), 2 * half, 2 * half, fill=False, ec=INK, lw=0.9, zorder=6)
    axes.add_patch(frame)


def _draw_scale(axes: Axes, half_km: float) -> None:
    """Draws a bar of a round length in the lower left corner."""
    exponent = 10.0 ** np.floor(np.log10(0.6 * half_km))
    length = max(step * exponent for step in (1, 2, 5) if step * exponent <= 0.6 * half_km)
    x, y = -0.94 * half_km, -0.93 * half_km
    axes.plot([x, x + length], [y, y], color="white", lw=5, zorder=8, solid_capstyle="butt")
    axes.plot([x, x + length], [y, y], color=INK, lw=2.5, zorder=8, solid_capstyle="butt")
    text = f"{length:,.0f} km" if length >= 1.0 else f"{1000.0 * length:,.0f} m"
    label = axes.text(x, y + 0.03 * half_km, text, fontsize=9, color=INK, zorder=8)
    label.set_bbox({"facecolor": "white", "alpha": 0.6, "edgecolor": "none", "pad": 1.0})


# ---------------------------------------------------------------------------------- photo and text


def _draw_title(figure: Figure, answer: AnsweredPhoto) -> None:
    tag = answer.geotag
    title = f"{place_text(*answer.centre)}   {tag.country_code or 'at sea'}"
    figure.text(LEFT / WIDTH, 7.42 / HEIGHT, title, fontsize=21, weight="bold", color=INK)
    figure.text(LEFT / WIDTH, 7.08 / HEIGHT, answer.certainty(), fontsize=13, color=FAINT)


def _draw_photo(figure: Figure, answer: AnsweredPhoto) -> float:
    """Draws the photo in the upper left; returns the height of its lower edge in inches."""
    image = answer.image.convert("RGB")
    image.thumbnail((900, 900))
    wide, high = image.size
    scale = min(COLUMN / wide, 2.75 / high)
    bottom = 6.85 - scale * high
    box = (LEFT / WIDTH, bottom / HEIGHT, scale * wide / WIDTH, scale * high / HEIGHT)
    axes = figure.add_axes(box)
    axes.imshow(np.asarray(image), aspect="auto", interpolation="lanczos")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color(FRAME)
    return bottom


def _draw_table(figure: Figure, answer: AnsweredPhoto, top: float) -> None:
    """Draws the rows that are not in the title, and the probabilities as bars."""
    y = top - 0.32
    in_title = ("answer", "50 % radius", "90 % radius", "model")
    bars = {f"within {km:,} km": share for km, share in answer.probabilities()}
    rows = [row for row in answer.rows() if row[0] not in in_title]
    step = min(0.235, (y - FOOT) / max(1, len(rows) - 1))
    for name, value in rows:
        figure.text(LEFT / WIDTH, y / HEIGHT, name, fontsize=10, color=FAINT)
        x = LEFT + 1.35
        if name in bars:
            _draw_bar(figure, x, y, bars[name])
            x += 2.2
        value = value if len(value) <= LONGEST else f"{value[: LONGEST - 1]}…"
        figure.text(x / WIDTH, y / HEIGHT, value, fontsize=10, color=INK)
        y -= step


def _draw_bar(figure: Figure, x: float, y: float, share: float) -> None:
    from matplotlib.patches import Rectangle

    for width, colour in ((2.0, GRID), (2.0 * share, ANSWER)):
        corner = (x / WIDTH, (y - 0.005) / HEIGHT)
        bar = Rectangle(
            corner, width / WIDTH, 0.12 / HEIGHT, fc=colour, transform=figure.transFigure
        )
        figure.add_artist(bar)


def _draw_legend(figure: Figure, answer: AnsweredPhoto) -> None:
    from matplotlib.lines import Line2D

    marks = [
        Line2D([], [], color=ANSWER, marker="x", mew=2.2, ms=8, ls="none"),
        Line2D([], [], color=ANSWER, lw=1.5),
        Line2D([], [], color=ANSWER, lw=1.5, ls=DASHED),
        Line2D([], [], color=BROWN, marker="s", ms=8, ls="none"),
    ]
    labels = ["answer", "50 % radius", "90 % radius", "probability density (log scale)"]
    if len(answer.geotag.modes) > 1:
        marks.append(Line2D([], [], marker="o", mfc="white", mec=ANSWER, ms=9, ls="none"))
        labels.append("other likely places")
    if answer.known is not None:
        style: dict[str, Any] = {"mfc": "none", "mew": 2.2, "ms": 9, "ls": "none"}
        marks.append(Line2D([], [], color=TRUTH, marker="o", **style))
        labels.append(f"truth ({answer.known.source})")
    if answer.album is not None and answer.album.place is not None:
        marks.append(Line2D([], [], color=ALBUM, marker="P", ms=9, lw=1.5))
        labels.append("with its album")
        marks.append(Line2D([], [], color=INK, marker="D", ms=7, ls="none"))
        labels.append("anchors")
    place: dict[str, Any] = {"loc": "center", "bbox_to_anchor": (9.75 / WIDTH, 1.02 / HEIGHT)}
    figure.legend(
        marks, labels, ncols=6 if len(marks) <= 6 else 4, frameon=False, fontsize=9.5, **place
    )


def _draw_footer(figure: Figure, answer: AnsweredPhoto) -> None:
    model = f"Model {answer.geotag.model_id}."
    text = f"{model} {answer.about}" if answer.about else model
    lines = textwrap.wrap(text, 225)[:3]
    figure.text(
        LEFT / WIDTH,
        0.66 / HEIGHT,
        "\n".join(lines),
        fontsize=9,
        color=FAINT,
        va="top",
        linespacing=1.4,
    )
