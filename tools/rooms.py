"""Reads the rooms of the code and the imports between them, and draws docs/rooms.png.

    python tools/rooms.py

A room is a folder of modules, or a module beside the folders. Imports are read from the text of the
modules, so nothing is imported. A room's floor is one above the highest room that it imports from.
The picture stands in docs/ARCHITECTURE.md; a test fails while it shows another house than the code.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import io
import itertools
import sys
from collections.abc import Iterable, Mapping
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "rooms.png"
PACKAGES = ("schemas", "locdiffusion", "pipelines")
STAMP = "rooms"
"""Name of the text in the picture's file that says which house the picture shows."""

CLAUSES = {
    "schemas": "what is on disk",
    "sphere": "coordinates, harmonics",
    "config": "dataclasses and JSON",
    "cli": "the command, its flags",
    "cpu": "threads, batch sizes",
    "isolation": "limits of work",
    "files": "whole files or none",
    "recipes": "training settings",
    "geography": "polygons, countries",
    "model": "network, image encoders",
    "overhead": "satellite patches",
    "drawing": "colours, world map",
    "density": "SHDD, base measure, log Z",
    "photos": "tars, formats, embeddings",
    "decoding": "point, radii, regions",
    "gallery": "known places",
    "diffusion": "noise levels, samplers",
    "appearance": "map of what photos look like",
    "albums": "photos of one camera",
    "temperature": "how far to trust F",
    "checkpoint": "weights and settings",
    "inference": "many photos at once",
    "model_card": "what a model is for",
    "settings": "how to answer",
    "geotagger": "photos in, answers out",
    "card": "one answer as a picture",
    "evaluate": "scores with intervals",
    "calibrate": "temperatures, radius",
    "train": "from shards to a model",
    "beam": "flags and runners",
    "writing": "output directories",
    "sources": "MP-16, YFCC100M, URLs",
    "pipelines.geotag": "the job: tables, map",
    "build_shards": "the job: training data",
    "write_exif": "positions into copies",
    "pipelines.albums": "the job: albums",
    "aggregate": "photos by area",
    "compare": "two outputs",
    "join": "answers into catalogues",
    "dataflow": "jobs on Google Cloud",
}
"""What is in each room, in a few words."""

WAY = (
    "pipelines.geotag",
    "locdiffusion.photos",
    "locdiffusion.model",
    "locdiffusion.diffusion",
    "locdiffusion.temperature",
    "locdiffusion.decoding",
    "schemas",
    "pipelines.geotag",
)
"""The way of one photo, which docs/ARCHITECTURE.md tells under the same numbers."""

Rooms = dict[str, set[str]]


def modules() -> dict[str, Path]:
    """Finds the modules of the product, by dotted name."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def room_of(module: str) -> str:
    """Names the folder, or the module beside the folders, that a module is in."""
    parts = module.removesuffix(".__main__").split(".")
    return parts[0] if parts[0] == "schemas" else ".".join(parts[:2])


def imports(module: str, path: Path, known: Iterable[str]) -> set[str]:
    """Reads which of the known modules a module's text imports, inside functions too."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names = {alias.name: f"{source}.{alias.name}" for alias in node.names}
            found.update(name if name in known else source for name in names.values())
    return found & set(known)


def read_rooms() -> Rooms:
    """Reads every room with the rooms that it imports from.

    The front doors `locdiffusion` and `pipelines` hand out names of any room, and are left out.
    """
    known = modules()
    rooms: Rooms = {room_of(module): set() for module in known}
    for module, path in known.items():
        rooms[room_of(module)] |= {room_of(name) for name in imports(module, path, known)}
    doors = {"locdiffusion", "pipelines"}
    return {room: others - doors - {room} for room, others in rooms.items() if room not in doors}


def inside(rooms: Rooms, package: str) -> Rooms:
    """Keeps the rooms of one package and the imports between them."""
    own = {room for room in rooms if room.split(".")[0] == package}
    return {room: rooms[room] & own for room in own}


def direct(rooms: Rooms) -> Rooms:
    """Selects the imports that are drawn.

    Left out are imports that follow from others (of a room below that is imported too), and those
    of a room without imports from more than two floors above: any room may use the ground floor.
    """
    floor = floors(rooms)
    below: dict[str, set[str]] = {}
    for room in TopologicalSorter(rooms).static_order():
        below[room] = rooms[room].union(*(below[other] for other in rooms[room]))
    return {
        room: {
            other
            for other in others
            if not any(other in below[o] for o in others)
            and (rooms[other] or floor[room] - floor[other] <= 2)
        }
        for room, others in rooms.items()
    }


def floors(rooms: Rooms) -> dict[str, int]:
    """Gives each room of a package its floor: as low as its imports inside the package allow.

    A room without imports is then raised to the floor below its first user, where a reader looks
    for it; only `sphere` stays at the bottom.
    """
    floor: dict[str, int] = {}
    for room in TopologicalSorter(rooms).static_order():
        floor[room] = 1 + max((floor[other] for other in rooms[room]), default=-1)
    for room in sorted(room for room in rooms if not rooms[room]):
        users = [floor[user] for user in rooms if room in rooms[user]]
        if users and room != "locdiffusion.sphere":
            floor[room] = min(users) - 1
    return floor


def stamp(rooms: Rooms) -> str:
    """Writes what a picture of these rooms shows as text: floors, clauses and direct imports."""
    lines = []
    for package in PACKAGES:
        own = inside(rooms, package)
        floor, shown = floors(own), direct(own)
        lines += [
            f"{floor[r]} {r} ({clause(r)}): {' '.join(sorted(shown[r]))}" for r in sorted(own)
        ]
    return "\n".join(lines)


def clause(room: str) -> str:
    """Says what is in a room, in a few words; nothing for a room without an entry."""
    return CLAUSES.get(room) or CLAUSES.get(room.rpartition(".")[2], "")


def shown_by(picture: Path) -> str:
    """Reads from a picture's file which house it shows."""
    with Image.open(picture) as image:
        return str(image.info.get(STAMP, ""))


def main(arguments: list[str] | None = None) -> int:
    """Draws the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--picture", type=Path, default=PICTURE, help="file to write (default docs/rooms.png)"
    )
    draw(read_rooms(), parser.parse_args(arguments).picture)
    return 0


# --------------------------------------------------------------------------------- the picture

COLOURS = {
    "schemas": ("#efe9dc", "#8a6d3b"),
    "locdiffusion": ("#e3eef6", "#2f6690"),
    "pipelines": ("#e6f2e6", "#3f7d4e"),
}
"""Of each package: the colour behind its floors, and that of its boxes' edges."""

TITLES = {
    "schemas": "schemas/   the columns of every file",
    "locdiffusion": "locdiffusion/   what one imports, trains and calibrates",
    "pipelines": "pipelines/   the jobs over an archive (Apache Beam)",
}
WIDTH, BOX_WIDTH, BOX_HEIGHT, GAP, ROW = 10.2, 1.72, 0.5, 0.16, 0.74
"""Inches: the picture, a box, the least distance beside it, and from floor to floor."""

Line = tuple[str, ...]


def lines(rooms: Rooms, floor: Mapping[str, int]) -> list[Line]:
    """Lists each import as the line of points that its drawing runs through.

    Between the two rooms stands one point for each floor that the line crosses, so that it can be
    led around the boxes there. A point is named for its floor and the import: `3 train cpu`.
    """
    return [
        (room, *(f"{n} {room} {other}" for n in range(floor[room] - 1, floor[other], -1)), other)
        for room in sorted(rooms)
        for other in sorted(rooms[room])
    ]


def places(rooms: Rooms) -> dict[str, float]:
    """Places boxes and the points of lines from left to right, near those that they are joined to.

    Args:
        rooms: Rooms of one package with the imports that are drawn.

    Returns:
        The middle of each room's box and of each point, in inches from the left.
    """
    floor = floors(rooms)
    drawn = lines(rooms, floor)
    floor |= {point: int(point.split()[0]) for line in drawn for point in line[1:-1]}
    joined: dict[str, list[str]] = {name: [] for name in floor}
    for line in drawn:
        for upper, lower in itertools.pairwise(line):
            joined[upper].append(lower)
            joined[lower].append(upper)
    levels = range(max(floor.values()) + 1)
    rows = [sorted(name for name in floor if floor[name] == level) for level in levels]
    x = {name: WIDTH * (i + 1) / (len(row) + 1) for row in rows for i, name in enumerate(row)}
    for sweep in range(80):
        for row in rows if sweep % 2 else rows[::-1]:
            near = {name: [x[other] for other in joined[name]] or [x[name]] for name in row}
            x.update(spread({name: sum(found) / len(found) for name, found in near.items()}))
    aside = (WIDTH - min(x[room] for room in rooms) - max(x[room] for room in rooms)) / 2
    return {name: place + aside for name, place in x.items()}


def spread(wishes: Mapping[str, float]) -> dict[str, float]:
    """Moves the boxes and points of one floor apart until none overlaps another or the margin."""
    order = sorted(wishes, key=lambda name: (wishes[name], name))
    widths = [0.05 if " " in name else BOX_WIDTH for name in order]
    steps = [(a + b) / 2 + GAP for a, b in itertools.pairwise(widths)]
    # The least and the greatest place of each, when all others are pushed against the margins.
    low = list(itertools.accumulate(steps, initial=0.3 + widths[0] / 2))
    high = [WIDTH - 0.3 - widths[-1] / 2 - sum(steps[i:]) for i in range(len(order))]
    x = [wishes[name] for name in order]
    for _ in range(200):
        for i, step in enumerate(steps):
            missing = max(step - (x[i + 1] - x[i]), 0.0)
            x[i], x[i + 1] = x[i] - missing / 2, x[i + 1] + missing / 2
        x = [min(max(value, least), most) for value, least, most in zip(x, low, high, strict=True)]
    return dict(zip(order, x, strict=True))


def draw(rooms: Rooms, target: Path) -> None:
    """Draws the packages above each other, their rooms by floor, and the way of a photo."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    heights = {p: (1 + max(floors(inside(rooms, p)).values())) * ROW + 0.42 for p in PACKAGES}
    height = sum(heights.values()) + 0.12 * (len(PACKAGES) + 1)
    figure = plt.figure(figsize=(WIDTH, height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0, height))
    axes.axis("off")
    base, boxes = 0.12, dict[str, tuple[float, float]]()
    for package in PACKAGES:
        boxes |= draw_package(axes, package, direct(inside(rooms, package)), base, heights[package])
        base += heights[package] + 0.12
    for number, room in enumerate(WAY, 1):
        x, y = boxes[room]
        again = 0.3 * WAY[: number - 1].count(room)
        draw_number(axes, str(number), x - BOX_WIDTH / 2 + again, y + BOX_HEIGHT / 2)
    draw_number(axes, "1", WIDTH - 2.42, height - 0.33)
    axes.text(WIDTH - 2.2, height - 0.335, "the way of one photo", va="center", fontsize=9)
    pixels = io.BytesIO()
    figure.savefig(pixels, dpi=150)
    plt.close(figure)
    text = PngImagePlugin.PngInfo()
    text.add_text(STAMP, stamp(rooms))
    picture = Image.open(pixels).convert("RGB").quantize(64, dither=Image.Dither.NONE)
    picture.save(target, pnginfo=text, optimize=True)


def draw_package(
    axes: Any, package: str, rooms: Rooms, base: float, height: float
) -> dict[str, tuple[float, float]]:
    """Draws one package: its ground, its lines, its boxes. Returns the middles of the boxes."""
    paper, ink = COLOURS[package]
    draw_box(axes, (0.12, base), (WIDTH - 0.24, height), 0.12, facecolor=paper, edgecolor="none")
    title = {"color": ink, "fontsize": 11, "weight": "bold", "va": "center"}
    axes.text(0.32, base + height - 0.21, TITLES[package], **title)
    x, floor = places(rooms), floors(rooms)
    middle = {n: base + 0.12 + BOX_HEIGHT / 2 + ROW * n for n in range(max(floor.values()) + 1)}
    for line in lines(rooms, floor):
        draw_line(axes, [(x[name], middle[floor[line[0]] - i]) for i, name in enumerate(line)], ink)
    for room, level in floor.items():
        left, bottom = x[room] - BOX_WIDTH / 2, middle[level] - BOX_HEIGHT / 2
        style = {"facecolor": "white", "edgecolor": ink, "lw": 1.1, "zorder": 2}
        draw_box(axes, (left, bottom), (BOX_WIDTH, BOX_HEIGHT), 0.07, **style)
        text = {"ha": "center", "va": "center", "zorder": 3}
        name = room.rpartition(".")[2]
        axes.text(x[room], middle[level] + 0.09, name, fontsize=10.5, weight="bold", **text)
        axes.text(x[room], middle[level] - 0.12, clause(room), fontsize=7.8, color="#444", **text)
    return {room: (x[room], middle[level]) for room, level in floor.items()}


def draw_box(
    axes: Any, corner: tuple[float, float], size: tuple[float, float], rounding: float, **style: Any
) -> None:
    """Draws a box with round corners, `corner` being its lower left one."""
    from matplotlib.patches import FancyBboxPatch

    shape = f"round,pad=0,rounding_size={rounding}"
    axes.add_patch(FancyBboxPatch(corner, *size, boxstyle=shape, **style))


def draw_line(axes: Any, points: list[tuple[float, float]], ink: str) -> None:
    """Draws an import, from the lower edge of one box to the upper edge of another."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Curve

    half = BOX_HEIGHT / 2
    vertices, codes = [(points[0][0], points[0][1] - half)], [Curve.MOVETO]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        bend = (y0 - y1) / 2 - half
        vertices += [(x0, y0 - half - bend), (x1, y1 + half + bend), (x1, y1 + half)]
        vertices.append((x1, y1 - half))
        codes += [Curve.CURVE4] * 3 + [Curve.LINETO]
    patch = PathPatch(Curve(vertices[:-1], codes[:-1]), facecolor="none", edgecolor=ink)
    patch.set(alpha=0.5, linewidth=1.0, zorder=1)
    axes.add_patch(patch)


def draw_number(axes: Any, number: str, x: float, y: float) -> None:
    """Draws a number of a photo's way, white on a disc."""
    axes.plot([x], [y], "o", ms=14, mfc="#d1602f", mec="white", mew=1.2, zorder=4)
    text = {"ha": "center", "va": "center", "zorder": 5, "color": "white"}
    axes.text(x, y - 0.006, number, fontsize=9, weight="bold", **text)


if __name__ == "__main__":
    sys.exit(main())
