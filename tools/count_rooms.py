"""Counts what keeps the code easy to find one's way in, and fails when a limit is exceeded.

    python tools/count_rooms.py        # `make lint` runs it

A room is a folder of modules, or a module beside the folders. Imports between rooms are read from
the text of the modules (`tools/rooms.py`, which also draws them).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter

from rooms import PACKAGES, ROOT, Rooms, inside, modules, read_rooms

ORDER = (
    "schemas",
    "locdiffusion.config",
    "locdiffusion.cpu",
    "locdiffusion.isolation",
    # The command line names the commands, and imports none.
    "locdiffusion.cli",
    "locdiffusion.files",
    "locdiffusion.recipes",
    "locdiffusion.sphere",
    "locdiffusion.overhead",
    "locdiffusion.geography",
    "locdiffusion.model",
    "locdiffusion.drawing",
    "locdiffusion.density",
    "locdiffusion.photos",
    "locdiffusion.appearance",
    "locdiffusion.decoding",
    "locdiffusion.albums",
    "locdiffusion.diffusion",
    "locdiffusion.gallery",
    "locdiffusion.temperature",
    "locdiffusion.checkpoint",
    "locdiffusion.model_card",
    "locdiffusion.inference",
    "locdiffusion.settings",
    "locdiffusion.geotagger",
    "locdiffusion.evaluate",
    "locdiffusion.card",
    "locdiffusion.calibrate",
    "locdiffusion.train",
    # The front door: it hands out names of any room of its house.
    "locdiffusion",
    "pipelines",
    "pipelines.sources",
    "pipelines.beam",
    "pipelines.writing",
    "pipelines.geotag",
    "pipelines.build_shards",
    "pipelines.write_exif",
    "pipelines.albums",
    "pipelines.aggregate",
    "pipelines.compare",
    "pipelines.join",
    "pipelines.dataflow",
    # Evidence stands on the product; nothing in the product imports it.
    "experiments",
)
"""The rooms from the ground up. Each imports only from rooms before it.

Three reach up by `importlib`, which this order does not see. `geotag_archive` of `locdiffusion` and
the commands of `locdiffusion.cli` call `pipelines`, so that `import locdiffusion` needs no Beam.
`geotag --albums` calls `pipelines.albums` when it is done.
"""

COLUMN = "land_probability"
"""A column of the results whose name is spelled in few files."""


def circles(rooms: Rooms) -> int:
    """Counts the circles of rooms that would have to be cut until no room imports itself.

    Args:
        rooms: Rooms with the rooms that they import from.
    """
    left = {room: set(others) for room, others in rooms.items()}
    cut = 0
    while True:
        try:
            TopologicalSorter(left).prepare()
            return cut
        except CycleError as error:
            later, sooner = error.args[1][:2]
            left[sooner].discard(later)
            cut += 1


def upward(rooms: Rooms, order: Iterable[str] = ORDER) -> list[str]:
    """Lists the imports of a room that comes later in the order, as `room -> room`."""
    floor = {room: number for number, room in enumerate(order)}
    return [
        f"{room} -> {other}"
        for room in sorted(rooms)
        for other in sorted(rooms[room])
        if floor.get(room, -1) < floor.get(other, -1)
    ]


def containing(pattern: str, texts: Mapping[str, str]) -> int:
    """Counts the files that contain a regular expression."""
    return sum(re.search(pattern, text) is not None for text in texts.values())


def measured() -> list[tuple[str, int, int]]:
    """Measures the product.

    Returns:
        What is counted, the number, and the limit.
    """
    rooms = read_rooms()
    texts = {name: path.read_text("utf-8") for name, path in modules().items()}
    ours, archive = inside(rooms, "locdiffusion"), inside(rooms, "pipelines")
    return [
        (
            "modules at the top of locdiffusion",
            # Without __init__ and __main__, which are no rooms.
            len(list(ROOT.glob("locdiffusion/[!_]*.py"))),
            12,
        ),
        ("rooms in locdiffusion", len(ours), 28),
        ("imports between rooms of locdiffusion", sum(map(len, ours.values())), 144),
        ("rooms in pipelines", len(archive), 12),
        ("imports between rooms of pipelines", sum(map(len, archive.values())), 30),
        ("circles of rooms", circles(rooms), 0),
        ("imports of a room from a room above it", len(upward(rooms)), 0),
        (
            f"lines of {', '.join(PACKAGES)}",
            sum(len(text.splitlines()) for text in texts.values()),
            63_000,
        ),
        (f"files that spell the column {COLUMN}", containing(COLUMN, texts), 4),
        ("files that call os.replace", containing(r"\bos\.replace\(", texts), 1),
        (
            "places that build the tables of the decoder",
            sum(len(re.findall(r"(?<!class )\bDecoderTables\(", text)) for text in texts.values()),
            1,
        ),
    ]


def main() -> int:
    """Prints the table.

    Returns:
        Exit status: 0, or 1 if a limit is exceeded.
    """
    rows = measured()
    width = max(len(what) for what, _, _ in rows)
    print(f"{'':{width}}  number   limit")
    for what, number, limit in rows:
        print(f"{what:{width}}  {number:>6,}  {limit:>6,}{'  EXCEEDED' * (number > limit)}")
    for line in upward(read_rooms()):
        print(f"imports from above: {line}")
    return int(any(number > limit for _, number, limit in rows))


if __name__ == "__main__":
    sys.exit(main())
