"""GeoTIFF: a raster of numbers in degrees, as GIS programs and rasterio read it.

Source: OGC 19-008r4, GeoTIFF 1.1; the tags are those of the libtiff and GDAL documentation.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, TiffTags

PIXEL_SCALE, TIEPOINT, GEO_KEYS, DESCRIPTION = 33550, 33922, 34735, 270
_WGS84 = (
    *(1, 1, 1, 3),  # version 1.1.1 of the directory, of three keys
    *(1024, 0, 1, 2),  # GTModelType: geographic
    *(1025, 0, 1, 1),  # GTRasterType: a pixel is an area
    *(2048, 0, 1, 4326),  # GeodeticCRS: WGS84
)


def geotiff(values: NDArray[np.floating], about: str) -> bytes:
    """Encodes a raster of the whole world as float32.

    Args:
        values: Values ``(rows, columns)``, rows from north to south and columns from 180° west.
        about: What the values are, for the tag ImageDescription.
    """
    rows, columns = values.shape
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, kind, numbers in (
        (PIXEL_SCALE, TiffTags.DOUBLE, (360.0 / columns, 180.0 / rows, 0.0)),
        (TIEPOINT, TiffTags.DOUBLE, (0.0, 0.0, 0.0, -180.0, 90.0, 0.0)),
        (GEO_KEYS, TiffTags.SHORT, _WGS84),
        (DESCRIPTION, TiffTags.ASCII, about),
    ):
        tags.tagtype[tag] = kind
        tags[tag] = numbers
    buffer = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(values, np.float32))
    image.save(buffer, "TIFF", tiffinfo=tags, compression="tiff_adobe_deflate")
    return buffer.getvalue()
