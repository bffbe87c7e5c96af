"""Makes locdiffusion/data/land.png from pipelines/data/world.geojson (Natural Earth).

    python deploy/make_land.py

Each pixel is the share of land of one cell of the equal-area raster of `locdiffusion.prior`, from
4 × 4 points in it.
"""

from pathlib import Path

import geopandas
import numpy as np
import shapely
from PIL import Image

ROOT = Path(__file__).parents[1]
ROWS, COLUMNS, PARTS = 240, 480, 4

countries = geopandas.read_file(ROOT / "pipelines/data/world.geojson").geometry.values
z = 1.0 - 2.0 * (np.arange(ROWS * PARTS) + 0.5) / (ROWS * PARTS)
longitude = -180.0 + 360.0 * (np.arange(COLUMNS * PARTS) + 0.5) / (COLUMNS * PARTS)
x, y = np.meshgrid(longitude, np.degrees(np.arcsin(z)))
points = shapely.points(x.ravel(), y.ravel())
inside = np.zeros(len(points), bool)
inside[shapely.STRtree(points).query(countries, predicate="contains")[1]] = True
share = inside.reshape(ROWS, PARTS, COLUMNS, PARTS).mean((1, 3))
Image.fromarray(np.round(255 * share).astype(np.uint8)).save(
    ROOT / "locdiffusion/data/land.png", optimize=True
)
print(f"{100 * share.mean():.1f} % land")
