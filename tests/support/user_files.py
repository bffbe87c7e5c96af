"""Collections of files as people have them, and the same collection packed in every way.

A `File` knows by its making, not by the rule under test, whether it is a photo, a document, or
neither. A photo's colour says which one it is, so that rows can be traced back to files.
"""

from __future__ import annotations

import functools
import io
import json
import os
import random
import stat
import tarfile
import unicodedata
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

from hypothesis import strategies as st
from PIL import Image

from schemas.samples import IMAGE_EXTENSIONS
from support.archives import encode

BLOCK = 512
COLOURS = 31
"""Shades of a channel that can be told apart, eight levels from one to the next."""


class Form(str, Enum):
    """What lies under a name."""

    FILE = "file"
    HARD_LINK = "hard link"
    LINK = "symbolic link"
    OUTSIDE = "link to a photo outside"
    BROKEN = "link to nothing"
    LOOP = "link to itself"
    SPARSE = "sparse file"
    FOLDER = "folder"
    FIFO = "fifo"
    DEVICE = "device"


LINKS = (Form.LINK, Form.OUTSIDE, Form.BROKEN, Form.LOOP)


class Kind(str, Enum):
    """What a file is."""

    PHOTO = "photo"
    DOCUMENT = "document"
    OTHER = "other"


@dataclass(frozen=True)
class File:
    """One file of a collection.

    Attributes:
        path: Path within the collection.
        kind: What it is.
        form: What lies under the name.
        data: Content, if it has some.
        target: Path in the collection, or outside, that a link names.
    """

    path: str
    kind: Kind
    form: Form = Form.FILE
    data: bytes = field(default=b"", repr=False)
    target: str = ""


@functools.cache
def photo_number(number: int) -> bytes:
    """A tiny JPEG whose colour is its number, 0 to 960."""
    red, green = number % COLOURS, number // COLOURS
    colour = (8 * red, 8 * green, 128)
    return encode(Image.new("RGB", (8, 8), colour), quality=100, subsampling=0)


def number_of(latitude: float, longitude: float) -> int:
    """The number of the photo for which `FakeGeotagger` gives this answer, whatever the key."""
    red, green = (latitude + 90) / 180, (longitude + 180) / 360
    red, green = (round((1.02 * part - 0.005) * 255 / 8) for part in (red, green))
    return COLOURS * green + red


# Packing


def write_folder(root: Path, files: Iterable[File]) -> Path:
    """Writes files as they are; a device becomes a fifo, which needs no rights."""
    links = []
    for file in files:
        path = root / file.path
        (path if file.form is Form.FOLDER else path.parent).mkdir(parents=True, exist_ok=True)
        if file.form in (Form.FIFO, Form.DEVICE):
            os.mkfifo(path)
        elif file.form in (Form.HARD_LINK, *LINKS):
            links.append((path, file))
        elif file.form is not Form.FOLDER:
            path.write_bytes(file.data)
            if file.form is Form.SPARSE:
                os.truncate(path, len(file.data) + 2**16)
    for path, file in links:
        if file.form is Form.HARD_LINK:
            os.link(root / file.target, path)
        else:
            os.symlink(os.path.relpath(root / file.target, path.parent), path)
    return root


TYPES = {
    Form.FILE: tarfile.REGTYPE,
    Form.HARD_LINK: tarfile.LNKTYPE,
    Form.SPARSE: tarfile.GNUTYPE_SPARSE,
    Form.FOLDER: tarfile.DIRTYPE,
    Form.FIFO: tarfile.FIFOTYPE,
    Form.DEVICE: tarfile.CHRTYPE,
    **dict.fromkeys(LINKS, tarfile.SYMTYPE),
}


def write_tar_of(
    path: Path, files: Iterable[File], mode: str = "w", form: int = tarfile.GNU_FORMAT, at: str = ""
) -> Path:
    """Writes a tar.

    Args:
        path: Path of the tar.
        files: Members, in their order.
        mode: Mode of `tarfile.open`, for example `w:gz`.
        form: Format of `tarfile`; what it cannot hold is written as GNU.
        at: What stands before each name, for example `./`.
    """
    with tarfile.open(path, mode, format=form) as tar:
        for file in files:
            info = tarfile.TarInfo(at + file.path)
            info.type = TYPES[file.form]
            if file.form is Form.HARD_LINK:
                info.linkname = at + file.target
            elif file.form in LINKS:
                info.linkname = os.path.relpath(file.target, os.path.dirname(file.path))
            elif file.form is Form.SPARSE:
                write_sparse(tar, info, file.data)
                continue
            info.size = len(file.data) if file.form is Form.FILE else 0
            try:
                info.tobuf(form, "utf-8", "surrogateescape")
            except ValueError:  # too long for ustar
                tar.format = tarfile.GNU_FORMAT
            tar.addfile(info, io.BytesIO(file.data))
            tar.format = form
    return path


def write_sparse(tar: tarfile.TarFile, info: tarfile.TarInfo, data: bytes) -> None:
    """Adds a file with a hole behind its data, as `tar --sparse` does.

    In a pax archive as version 1.0 says, else as GNU tar did before.
    """
    real = len(data) + 2**16
    if tar.format == tarfile.PAX_FORMAT:
        table = f"1\n0\n{len(data)}\n".encode().ljust(BLOCK, b"\0")
        info.pax_headers = {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": info.name,
            "GNU.sparse.realsize": str(real),
        }
        info.name, info.type = "GNUSparseFile.0/x", tarfile.REGTYPE
        info.size = len(table) + len(data)
        tar.addfile(info, io.BytesIO(table + data))
        return
    info.size = len(data)
    head = bytearray(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))
    last = len(head) - BLOCK
    table = b"".join(b"%011o\0" % number for number in (0, len(data), real, 0))
    head[last + 386 : last + 386 + len(table)] = table
    head[last + 483 : last + 495] = b"%011o\0" % real
    head[last + 148 : last + 156] = b" " * 8
    head[last + 148 : last + 156] = b"%06o\0 " % sum(head[last:])
    for part in (bytes(head), data + bytes(-len(data) % BLOCK)):
        tar.fileobj.write(part)
        tar.offset += len(part)


def write_zip(path: Path, files: Iterable[File]) -> Path:
    """Writes a zip, which knows neither hard links nor pipes nor devices."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            info = zipfile.ZipInfo(file.path + "/" * (file.form is Form.FOLDER))
            data, mode = file.data, stat.S_IFREG | 0o644
            if file.form in LINKS:
                target = os.path.relpath(file.target, os.path.dirname(file.path))
                data, mode = target.encode(), stat.S_IFLNK | 0o777
            elif file.form is Form.FOLDER:
                mode = stat.S_IFDIR | 0o755
            elif file.form not in (Form.FILE, Form.SPARSE):
                continue
            info.external_attr = mode << 16
            archive.writestr(info, data)
    return path


# Names

STEMS = (
    "WhatsApp Image 2020-01-01 at 12.00.01",
    "WhatsApp Image 2020-01-01 at 12.00.01 (1)",
    "IMG-20200101-WA0001",
    "PXL_20210101_120000000.PORTRAIT",
    "PXL_20210101_120000000.MP",
    "PXL_20210101_120000000.RAW-01.COVER",
    "20190714_120000(0)",
    "2019.07.14",
    "IMG_1",
    "IMG_1.edited",
    "IMG_1-edited",
    "IMG_1(1)",
    "IMG_E0001",
    "MVIMG_20190101_000000",
    "Screenshot_20190101-120000_Some Long App Name With More",
    "DSC_0001",
    "_MG_0001",
    "_DSC0001",
    "100_0001",
    "0001.left",
    "0001.right.depth",
    "caf\u00e9",
    "cafe\u0301",
    "\u6f22\u5b57",
    "\U0001f30d",
    "-rf",
    "--output",
    "a::b",
    "C:x",
    "a.jpg",
    "b.json",
    "c.tar",
    "jpg",
    "x{0..3}",
    "[a]",
    "100%",
    "#1",
    "why?",
    "*",
    "~",
    "$HOME",
    'it\'s "it"',
    "back\\slash",
    "new\nline",
    "tab\t",
    " ",
    "a ",
    "a .",
    "a..b",
    "caf\u00e9" * 50,
    "n" * 300,
)
LETTERS = "aA1-_ .()é\u0301漢:[]{}%#~+,;=@&!"
FOLDERS = (
    *("", "", "", "a/", "A b/", "x.y/", "2019.07.14/b/", "100CANON/", "-d/", "caf\u00e9/"),
    *("cafe\u0301/", "Takeout/Google Photos/Photos from 2019/", "d::e/", "[f]/", "{g}/", "h.jpg/"),
)
JUNK = (
    *("._IMG_1.jpg", ".DS_Store", "Thumbs.db", "desktop.ini", ".hidden.jpg", ".jpg", "~$a.jpg"),
    *("@eaDir/IMG_1.jpg/SYNOPHOTO_THUMB_M.jpg", "#recycle/a.jpg", ".thumbnails/a.jpg"),
    *("__MACOSX/._a.jpg", "__MACOSX/a.jpg", ".stversions/a.jpg", ".git/a.png"),
)
OTHER_ENDINGS = (
    ".mov",
    ".MP4",
    ".aae",
    ".pdf",
    ".txt",
    ".CR3",
    ".html",
    ".gpx",
    ".tgz",
    ".zip",
    "",
)
MOST_BYTES = 255


def fitted(base: str, ending: str) -> str:
    """A name whose stem is cut so that all of it fits into 255 bytes."""
    room = MOST_BYTES - len(ending.encode())
    return base.encode()[:room].decode("utf-8", "ignore") + ending


def same_name(path: str) -> str:
    """One spelling for names that some file systems cannot keep apart."""
    return unicodedata.normalize("NFC", path).lower()


stems = st.one_of(
    st.sampled_from(STEMS),
    st.sampled_from(STEMS),
    st.text(LETTERS, min_size=1, max_size=12).filter(lambda text: text[0] != "."),
)
endings = st.sampled_from(IMAGE_EXTENSIONS).flatmap(
    lambda name: st.sampled_from([f".{name}", f".{name}", f".{name.upper()}", f".{name.title()}"])
)
folders = st.sampled_from(FOLDERS)
forms = st.sampled_from([Form.FILE] * 12 + [form for form in Form if form is not Form.FILE])


@st.composite
def sidecar_bases(draw: st.DrawFn, base: str, takeout: bool = False) -> str:
    """A name that a document about a photo has in one of the known spellings, or of Takeout's."""
    bare, dot, ending = base.rpartition(".")
    numbered = bare.endswith(")") and "(" in bare
    whole = ".supplemental-metadata"
    cut = whole[: draw(st.integers(1, len(whole)))]
    spellings = [f"{base}.json", f"{base}{whole}.json", f"{base}{cut}.json"]
    if not takeout:
        spellings.append(f"{bare}.json")
    if numbered:
        original, _, number = bare.rpartition("(")
        spellings += [f"{original}{dot}{ending}{middle}({number}.json" for middle in ("", cut)]
    if bare.endswith("-edited"):
        original = bare.removesuffix("-edited")
        if takeout:  # a changed copy has no document of its own
            spellings = []
        spellings.append(f"{original}{dot}{ending}{draw(st.sampled_from(['', cut]))}.json")
    fitting = [name for name in spellings if len(name.encode()) <= MOST_BYTES]
    return draw(st.sampled_from(fitting or [f"{base[:46]}.json"]))  # Takeout cuts longer names


def own_document(number: int) -> bytes:
    """A document in our own form; its position says which one it is."""
    return json.dumps({"latitude": 10 + number / 100, "longitude": 20.5}).encode()


def takeout_document(number: int, title: str = "x.jpg") -> bytes:
    """A document as Google Takeout writes it."""
    there = {"latitude": 10 + number / 100, "longitude": 20.5, "altitude": 0.0}
    nowhere = {"latitude": 0.0, "longitude": 0.0, "altitude": 0.0}
    taken = {"timestamp": str(1563105600 + number), "formatted": "14.07.2019, 12:00:00 UTC"}
    document = {"title": title, "geoData": there, "geoDataExif": nowhere, "photoTakenTime": taken}
    return json.dumps(document).encode()


def document(number: int, title: str) -> bytes:
    """A document in one form or the other."""
    return takeout_document(number, title) if number % 2 else own_document(number)


def paths_that_fit(files: Iterable[File]) -> list[File]:
    """Leaves out what cannot lie beside the rest: the same path twice, a file that is a folder.

    Names that differ only in capitals or in normal form are one name to some file systems, and
    documents that do are one document to us: which of them is taken would be chance.
    """
    kept: dict[str, File] = {}
    above: set[str] = set()
    for file in files:
        name = same_name(file.path)
        parents = {name[:at] for at, letter in enumerate(name) if letter == "/"}
        if name not in kept and name not in above and not parents & kept.keys():
            kept[name] = file
            above |= parents
    return list(kept.values())


@st.composite
def collections(draw: st.DrawFn) -> tuple[File, ...]:
    """Photos, documents, other files and junk, in any order; at least one sound photo."""
    files: list[File] = []
    wanted = draw(st.lists(st.tuples(folders, stems, endings, forms), min_size=1, max_size=8))
    for number, (folder, stem, ending, form) in enumerate(wanted):
        base = fitted(stem, ending)
        data = photo_number(number) if form in (Form.FILE, Form.SPARSE) else b""
        kind = Kind.OTHER if form is Form.FOLDER or base.startswith("~$") else Kind.PHOTO
        files.append(File(folder + base, kind, form, data))
        if draw(st.integers(0, 2)) == 0:
            beside = folder + draw(sidecar_bases(base))
            files.append(File(beside, Kind.DOCUMENT, data=document(number, base)))
    for folder, stem, ending in draw(
        st.lists(st.tuples(folders, stems, st.sampled_from(OTHER_ENDINGS)), max_size=3)
    ):
        base = fitted(stem, ending)
        if ending or "." not in base:
            files.append(File(folder + base, Kind.OTHER, data=b"something else"))
    for folder, name in draw(st.lists(st.tuples(folders, st.sampled_from(JUNK)), max_size=3)):
        files.append(File(folder + name, Kind.OTHER, data=photo_number(900)))
    fixed = File("sound photo.jpg", Kind.PHOTO, data=photo_number(800))
    files = paths_that_fit([fixed, *files])
    draw(st.randoms(use_true_random=False)).shuffle(files)
    return tuple(linked(files))


def linked(files: Sequence[File]) -> list[File]:
    """Gives each link its target."""
    sound = [file for file in files if file.kind is Kind.PHOTO and file.form is Form.FILE]
    target = min(sound, key=lambda file: file.path)
    made = []
    for file in files:
        where = {
            Form.HARD_LINK: target.path,
            Form.LINK: target.path,
            Form.OUTSIDE: "../outside.jpg",
            Form.BROKEN: "nothing here.jpg",
            Form.LOOP: file.path,
        }.get(file.form, "")
        made.append(replace(file, target=where))
    # A hard link stands behind what it names.
    return sorted(made, key=lambda file: file.form is Form.HARD_LINK)


@st.composite
def takeouts(draw: st.DrawFn) -> tuple[File, ...]:
    """Albums as Google Takeout writes them: each photo with its document."""
    files = []
    albums = st.sampled_from(["Photos from 2019", "Été à la mer", "Untitled(1)"])
    wanted = draw(st.lists(st.tuples(albums, stems, endings), min_size=1, max_size=8))
    for number, (album, stem, ending) in enumerate(wanted):
        folder = f"Takeout/Google Photos/{album}/"
        base = fitted(stem, ending)
        files.append(File(folder + base, Kind.PHOTO, data=photo_number(number)))
        name = draw(sidecar_bases(base, takeout=True))
        files.append(File(folder + name, Kind.DOCUMENT, data=takeout_document(number, base)))
        title = json.dumps({"title": album}).encode()
        files.append(File(f"{folder}metadata.json", Kind.DOCUMENT, data=title))
    files.append(File("Takeout/archive_browser.html", Kind.OTHER, data=b"<html>"))
    files.append(File("Takeout/Google Photos/Trip/a.jpg", Kind.PHOTO, data=photo_number(900)))
    files = paths_that_fit(reversed(files))
    random.Random(draw(st.integers(0, 2**16))).shuffle(files)
    return tuple(files)
