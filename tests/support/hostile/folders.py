"""Folders that somebody else made: links, pipes and names that lead out of them."""

from __future__ import annotations

import os
from pathlib import Path

from support.user_files import photo_number

SECRET = b"root:x:0:0:the first line of a file that is nobody's business\n"
"""Content of files outside of the folder, of which no byte may be told."""

OUTSIDE, SOUND = 850, 800
"""Numbers of the pictures that lie outside, and of the ordinary photo inside."""

LINKED = ("file.jpg", "picture.jpg", "chain.jpg", "absolute.jpg", "into.jpg", "up.jpg")
"""Photos of `fill_with_links` that lead out of the folder."""


def fill_outside(place: Path) -> Path:
    """Makes the folder that is nobody's business: a secret, a picture and an archive of none."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "secret").write_bytes(SECRET)
    (place / "secret.json").write_bytes(b'{"latitude": 12.5, "longitude": 34.5}')
    (place / "picture.jpg").write_bytes(photo_number(OUTSIDE))
    return place


def fill_with_links(folder: Path, outside: Path) -> Path:
    """Fills a folder with an ordinary photo, links within the folder, and links out of it."""
    (folder / "sub").mkdir(parents=True, exist_ok=True)
    (folder / "sound.jpg").write_bytes(photo_number(SOUND))
    (folder / "sub" / "other.jpg").write_bytes(photo_number(SOUND))
    links = {
        "file.jpg": os.path.relpath(outside / "secret", folder),
        "picture.jpg": os.path.relpath(outside / "picture.jpg", folder),
        "chain.jpg": "sub/next.jpg",
        "sub/next.jpg": str(outside / "picture.jpg"),
        "absolute.jpg": str(outside / "secret"),
        "into.jpg": "door/picture.jpg",
        "up.jpg": f"sub/../../{outside.name}/picture.jpg",
        "sound.json": str(outside / "secret.json"),
        "door": str(outside),
        "shards.tar": str(outside / "secret"),
        "inside.jpg": "sub/other.jpg",
        "around.jpg": f"../{folder.name}/sound.jpg",
        "again": ".",
        "above": "..",
    }
    for name, target in links.items():
        (folder / name).symlink_to(target)
    return folder


def fill_with_pipes(folder: Path) -> Path:
    """Fills a folder with pipes and devices, on which whoever opens them may wait for ever."""
    (folder / "sub").mkdir(parents=True, exist_ok=True)
    (folder / "sound.jpg").write_bytes(photo_number(SOUND))
    for name in ("pipe.jpg", "sub/pipe.png", "sound.json", "notes.xmp", "films.tar.mov"):
        os.mkfifo(folder / name)
    for name, device in (("zero.jpg", "zero"), ("tty.jpg", "tty"), ("stdin.jpg", "stdin")):
        (folder / name).symlink_to(f"/dev/{device}")
    return folder


NAMES = (
    *("a.jpg::b.jpg", "memory:::x.jpg", "zip::a.jpg", "http:a.jpg", "{0..999999999}.jpg", "*.jpg"),
    *("a\nb.jpg", "\x1b[2J.jpg", "\u202egpj.a.jpg", "..a.jpg", "%2e%2e%2fa.jpg", "a?b#c.jpg"),
    *("-rf.jpg", "con.jpg", " .jpg", "n" * 251 + ".jpg", "\udcff\udcfe.jpg", "$(id).jpg"),
)
"""Names that mean something else to a shell, a URL, a terminal or another system."""


def fill_with_names(folder: Path) -> Path:
    """Fills a folder with photos whose names mean something else elsewhere; each is another one."""
    (folder / "http:").mkdir(parents=True, exist_ok=True)
    for number, name in enumerate((*NAMES, "a.jpg", "http:/evil.jpg")):
        (folder / name).write_bytes(photo_number(number))
    return folder
