"""Generates lists and photos in the formats of the field, the same for the same seed."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
from PIL import Image

HEADER = "IMG_ID,AUTHOR,LAT,LON,S3_Label,S16_Label,S365_Label,Prob_indoor,Prob_natural,Prob_urban"
PHOTOS_PER_AUTHOR = 40
BLOCK = 50_000
BENCHMARK_EVERY = 97
"""One in this many photographers is in the list of the benchmark."""


def img_id(number: int) -> str:
    """Formats an id as MP-16 does: '45/77/3228511372.jpg'."""
    photo = 3_000_000_000 + number
    digest = hashlib.md5(str(photo).encode()).hexdigest()
    return f"{digest[:2]}/{digest[2:4]}/{photo}.jpg"


def author(number: int) -> str:
    """Formats a Flickr NSID."""
    return f"{10_000_000 + number}@N00"


def write_list(path: Path, rows: int, seed: int = 0) -> Path:
    """Writes `mp16_places365.csv`; of 1,000 rows about two are broken and four come twice.

    Args:
        path: File to write.
        rows: Number of rows without the header.
        seed: Seed of authors and positions.
    """
    rng = np.random.default_rng(seed)
    authors = max(1, rows // PHOTOS_PER_AUTHOR)
    with path.open("w", encoding="utf-8") as file:
        file.write(HEADER + "\n")
        for start in range(0, rows, BLOCK):
            count = min(BLOCK, rows - start)
            # Skewed as in real lists: few photographers have many photos, few places hold many.
            owner = (authors * rng.random(count) ** 3).astype(np.int64)
            place = rng.integers(0, 500, count)
            latitude = (place * 37 % 120 - 55) + rng.normal(0, 0.5, count)
            longitude = (place * 91 % 340 - 170) + rng.normal(0, 0.5, count)
            trouble = rng.integers(0, 1000, count)
            lines = []
            for row in range(count):
                number = start + row - (row % 7 if trouble[row] < 4 else 0)
                text = f"{img_id(number)},{author(int(owner[row]))},"
                text += f"{latitude[row]:.6f},{longitude[row]:.6f},"
                text += "2,12,353,0.2742415107956457,0.04511328121173364,0.6806452318211216"
                lines.append(text if trouble[row] < 998 else text.replace(",", "\t"))
            file.write("\n".join(lines) + "\n")
    return path


def write_yfcc(path: Path, rows: int, seed: int = 0) -> Path:
    """Writes a list of `yfcc100m_dataset`, 23 columns between tabs; one row in 50 is a video.

    Args:
        path: File to write.
        rows: Number of rows.
        seed: Seed of photographers and positions.
    """
    rng = np.random.default_rng(seed)
    authors = max(1, rows // PHOTOS_PER_AUTHOR)
    with path.open("w", encoding="utf-8") as file:
        for start in range(0, rows, BLOCK):
            count = min(BLOCK, rows - start)
            owner = (authors * rng.random(count) ** 3).astype(np.int64)
            latitude = np.round(rng.uniform(-60, 70, count), 6)
            longitude = np.round(rng.uniform(-180, 180, count), 6)
            for row in range(count):
                photo = 3_000_000_000 + start + row
                digest = hashlib.md5(str(photo).encode()).hexdigest()
                fields = [photo, author(int(owner[row])), "somebody", "2012-04-22 10:01:00.0"]
                fields += [1335117660, "Canon+EOS+7D", "A+day+out", "Trees+and+a+lake", "lake", ""]
                fields += [longitude[row], latitude[row], 16]
                fields += [f"http://www.flickr.com/photos/{author(int(owner[row]))}/{photo}/"]
                fields += [f"http://farm8.staticflickr.com/7/{photo}_{digest[:10]}.jpg"]
                fields += ["Attribution License", "http://creativecommons.org/licenses/by/2.0/"]
                fields += [7, 8, digest[:10], digest[10:20], "jpg", int((start + row) % 50 == 0)]
                file.write("\t".join(map(str, fields)) + "\n")
    return path


def write_guard(path: Path, rows: int) -> Path:
    """Writes a benchmark's list that shares one photographer in BENCHMARK_EVERY with `rows`."""
    authors = max(1, rows // PHOTOS_PER_AUTHOR)
    shared = range(min(BENCHMARK_EVERY // 2, authors - 1), authors, BENCHMARK_EVERY)
    lines = [f"{img_id(-1 - one)},{author(one)},1.0,2.0,2,12,353,0.2,0.1,0.7" for one in shared]
    path.write_text("\n".join([HEADER, *lines]) + "\n", encoding="utf-8")
    return path


def write_photos(root: Path, photos: int, size: tuple[int, int], seed: int = 0) -> Path:
    """Writes JPEGs of blurred noise by IMG_ID, and `mp16.csv` beside them, which lists them.

    Args:
        root: Folder to create.
        photos: Number of photos.
        size: Width and height in pixels; usual Flickr photos have 500 on the longer side.
        seed: Seed of the noise.

    Returns:
        Path of the list.
    """
    rng = np.random.default_rng(seed)
    lines = [HEADER]
    for number in range(photos):
        path = root / "images" / img_id(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        path.write_bytes(file.getvalue())
        lines.append(f"{img_id(number)},{author(number % 20)},1.5,2.5,2,12,353,0.2,0.1,0.7")
    (root / "mp16.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root / "mp16.csv"
