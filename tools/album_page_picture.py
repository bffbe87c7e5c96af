"""Makes docs/albums_page.png: albums.html of a trip that nobody made, in a window of 1280 x 800.

    python tools/album_page_picture.py        # needs Chromium

From Zurich over the Alps and along the coast to Barcelona. A third of the photos has a
position; one day has none, and one photo has that of an airport where it was not.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from pipelines.albums.command import main  # noqa: E402
from support.browser import MISSING, Browser, chromium  # noqa: E402

PICTURE = ROOT / "docs/albums_page.png"
START = datetime(2015, 6, 1)
WAY = (
    # Day and hour, latitude, longitude.
    (0, 9.0, 47.37, 8.54),
    (0, 14.0, 46.96, 8.63),
    (0, 19.0, 46.56, 8.57),
    (1, 9.0, 46.53, 8.60),
    (1, 15.0, 46.01, 8.96),
    (1, 20.0, 45.47, 9.19),
    (2, 10.0, 45.46, 9.18),
    (2, 15.0, 44.41, 8.93),
    (2, 20.0, 44.31, 8.48),
    (3, 9.0, 44.31, 8.47),
    (3, 20.0, 43.70, 7.27),
    (4, 9.0, 43.69, 7.26),
    (4, 19.0, 43.30, 5.37),
    (5, 8.0, 43.29, 5.38),
    (5, 20.0, 41.38, 2.17),
    (6, 9.0, 41.41, 2.15),
    (6, 18.0, 41.38, 2.19),
)
WITHOUT, AIRPORT = 3, (50.03, 8.56)
COLUMNS = ("key", "album", "captured_at", "offset", "latitude", "longitude")


def photos(seed: int = 3) -> list[dict[str, str]]:
    """The rows of a table of about 220 photos."""
    rng = np.random.default_rng(seed)
    hours = np.array([24.0 * day + hour for day, hour, _, _ in WAY])
    rows = []
    for day in range(7):
        ends = [24.0 * d + hour for d, hour, _, _ in WAY if d == day]
        stops = rng.uniform(ends[0], ends[-1], 9)
        for hour in np.sort(np.concatenate([s + rng.exponential(0.05, 4).cumsum() for s in stops])):
            place = [np.interp(hour, hours, column) for column in list(zip(*WAY, strict=True))[2:]]
            place += rng.normal(0.0, 0.004, 2)
            known = day != WITHOUT and rng.random() < 0.35
            rows.append((hour, place if known else None))
    odd = [i for i, (hour, place) in enumerate(rows) if place is not None and hour < 48.0][20]
    rows[odd] = rows[odd][0], AIRPORT
    return [
        {
            "key": f"DSC_{i:04}.jpg",
            "album": "Zurich to Barcelona",
            "captured_at": (START + timedelta(hours=float(hour))).isoformat(" ", "seconds"),
            "offset": "+02:00",
            **dict(zip(COLUMNS[4:], ("", "") if place is None else map(str, place), strict=True)),
        }
        for i, (hour, place) in enumerate(rows)
    ]


def run() -> int:
    """Makes the picture; returns the exit status."""
    program = chromium()
    if program is None:
        print(MISSING)
        return 1
    with tempfile.TemporaryDirectory() as folder, Browser(program) as browser:
        table = Path(folder, "photos.csv")
        with table.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(photos())
        status = main(["--table", str(table), "--output", f"{folder}/out"])
        page = browser.open(Path(folder, "out/albums.html"), 1280, 800)
        page.run("setTimes(timeAt(0.02), timeAt(0.75))")
        page.run("select([...C.standing.keys()].filter((i) => C.standing[i] === PLACED)[100])")
        page.run("view.x += 90 / view.scale; zoomBy(1.15)")
        page.next_frame()
        page.screenshot(PICTURE)
    return status


if __name__ == "__main__":
    sys.exit(run())
