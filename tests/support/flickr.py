"""Photos as Flickr's data sets list and pack them: small files in their exact formats."""

from __future__ import annotations

import bz2
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote_plus

import msgpack
import numpy as np
from PIL import Image

from support.archives import encode

PLACES365_HEADER = (
    "IMG_ID,AUTHOR,LAT,LON,S3_Label,S16_Label,S365_Label,Prob_indoor,Prob_natural,Prob_urban"
)
BY = ("Attribution License", "http://creativecommons.org/licenses/by/2.0/")
BY_NC = ("Attribution-NonCommercial License", "http://creativecommons.org/licenses/by-nc/2.0/")


@dataclass(frozen=True)
class Photo:
    """One photo, or video, on Flickr."""

    id: int
    author: str
    latitude: float | None
    longitude: float | None
    image: bytes = field(repr=False)
    accuracy: int = 16
    licence: tuple[str, str] = BY
    is_photo: bool = True

    @property
    def img_id(self) -> str:
        """As MP-16 spells it: '45/77/3228511372.jpg'."""
        digest = hashlib.md5(str(self.id).encode()).hexdigest()
        return f"{digest[:2]}/{digest[2:4]}/{self.id}.jpg"

    @property
    def hash(self) -> str:
        return hashlib.md5(b"%d" % self.id + self.image).hexdigest()

    @property
    def hash_path(self) -> str:
        return f"{self.hash[:3]}/{self.hash[3:6]}/{self.hash}.jpg"

    @property
    def url_path(self) -> str:
        return f"/3193/{self.id}_{self.hash[:10]}.jpg"


def picture(seed: int, size: tuple[int, int] = (64, 48)) -> bytes:
    """A JPEG of large coloured patches; other seeds look quite different."""
    patches = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return encode(Image.fromarray(patches).resize(size, Image.Resampling.BICUBIC), quality=90)


def make_photos(count: int, authors: int = 5, seed: int = 0) -> list[Photo]:
    """Different photos of a few authors, all over the Earth."""
    rng = np.random.default_rng(seed)
    return [
        Photo(
            id=3_228_511_000 + 1000 * seed + index,
            author=f"{43008843 + index % authors}@N00",
            latitude=round(float(rng.uniform(-60, 70)), 6),
            longitude=round(float(rng.uniform(-180, 180)), 6),
            image=picture(1000 * seed + index),
            accuracy=int(rng.integers(10, 17)),
            licence=(BY, BY_NC)[index % 2],
        )
        for index in range(count)
    ]


# Metadata


def places365_line(photo: Photo) -> str:
    return f"{photo.img_id},{photo.author},{photo.latitude},{photo.longitude},0,5,21,0.97,0.01,0.02"


def yfcc100m_line(
    photo: Photo, columns: int = 23, base_url: str = "http://farm4.staticflickr.com"
) -> str:
    """One row; 25 columns begin with a line number and have the hash behind the id."""
    page = f"http://www.flickr.com/photos/{photo.author}/{photo.id}/"
    texts = ["Caf\u00e9 Noir", "2009-01-27 12:00:00.0", "1233054000", "Canon EOS 450D"]
    more = [
        "Gr\u00fc\u00dfe, 100% tab\there",
        "a <b>line</b>\nand another",
        "rom\u00e2nia,cluj",
        "",
    ]
    fields = [
        photo.author,
        *(quote_plus(text) for text in texts[:1]),
        *texts[1:3],
        *(quote_plus(text) for text in [texts[3], *more]),
        "" if photo.longitude is None else str(photo.longitude),
        "" if photo.latitude is None else str(photo.latitude),
        "" if photo.latitude is None else str(photo.accuracy),
        page,
        base_url + photo.url_path,
        *photo.licence,
        "3193",
        "4",
        photo.hash[:10],
        photo.hash[10:20],
        "jpg",
        "0" if photo.is_photo else "1",
    ]
    start = [str(photo.id)] if columns == 23 else [str(photo.id % 1000), str(photo.id), photo.hash]
    assert len(start) + len(fields) == columns
    return "\t".join(start + fields)


def write_lines(path: Path, lines: Iterable[str | bytes]) -> Path:
    """Writes lines; bzip2 if the name ends in .bz2."""
    data = b"".join((ln.encode() if isinstance(ln, str) else ln) + b"\n" for ln in lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bz2.compress(data) if path.suffix == ".bz2" else data)
    return path


def write_places365(path: Path, photos: Iterable[Photo]) -> Path:
    return write_lines(path, [PLACES365_HEADER, *map(places365_line, photos)])


def write_mp16_urls(path: Path, photos: Iterable[Photo], base_url: str) -> Path:
    return write_lines(path, [f"{photo.img_id},{base_url}{photo.url_path}" for photo in photos])


def write_yfcc100m(
    path: Path,
    photos: Iterable[Photo],
    columns: int = 23,
    base_url: str = "http://farm4.staticflickr.com",
) -> Path:
    return write_lines(path, [yfcc100m_line(photo, columns, base_url) for photo in photos])


def write_hashes(path: Path, photos: Iterable[Photo]) -> Path:
    return write_lines(path, [f"{photo.id}\t{photo.hash}" for photo in photos])


# Images


def msgpack_bytes(photos: Iterable[Photo], positions: bool = False, old: bool = False) -> bytes:
    """A stream of maps; `old` is how msgpack packed before it told text from bytes."""
    parts = []
    for photo in photos:
        entry: dict[str, object] = {"id": photo.img_id, "image": photo.image}
        if positions:
            entry |= {"latitude": photo.latitude, "longitude": photo.longitude}
        parts.append(msgpack.packb(entry, use_bin_type=not old))
    return b"".join(parts)


def write_msgpack_shards(folder: Path, photos: Sequence[Photo], per_shard: int = 4) -> list[Path]:
    """shard_0.msg, shard_1.msg, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, start in enumerate(range(0, len(photos), per_shard)):
        paths.append(folder / f"shard_{number}.msg")
        paths[-1].write_bytes(msgpack_bytes(photos[start : start + per_shard]))
    return paths


def write_image_folder(root: Path, photos: Iterable[Photo]) -> Path:
    """By IMG_ID: root/45/77/3228511372.jpg."""
    return _write_images(root, {photo.img_id: photo.image for photo in photos})


def write_hash_folder(root: Path, photos: Iterable[Photo]) -> Path:
    """By hash: root/HHH/HHH/HASH.jpg, as in data/images of the bucket multimedia-commons."""
    return _write_images(root, {photo.hash_path: photo.image for photo in photos})


def _write_images(root: Path, images: dict[str, bytes]) -> Path:
    for name, data in images.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root
