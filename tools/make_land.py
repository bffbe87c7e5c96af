"""Makes locdiffusion/assets/land.png from locdiffusion/assets/countries.parquet (Natural Earth).

    python tools/make_land.py

Each pixel is the share of land of one cell of the equal-area raster of
`locdiffusion.density.base_measure`.
"""

from pathlib import Path

import geopandas
import numpy as np
from PIL import Image

from locdiffusion.geography.polygons import raster_share

ROOT = Path(__file__).parents[1]
ROWS, COLUMNS = 960, 1920

countries = geopandas.read_parquet(ROOT / "locdiffusion/assets/countries.parquet").geometry.values
share = raster_share(countries, ROWS, COLUMNS, lines=16).clip(0.0, 1.0)
Image.fromarray(np.round(255 * share).astype(np.uint8)).save(
    ROOT / "locdiffusion/assets/land.png", optimize=True
)
print(f"{100 * share.mean():.1f} % land")
