"""Tests of the one rule for what a file's name says."""

from __future__ import annotations

import pytest

from locdiffusion.photos.left_out import MOST_NAMED, LeftOut
from locdiffusion.photos.names import (
    NameKind,
    junk,
    kind_of,
    left_out_kind,
    match_documents,
    photo_key,
    stem,
)

WHATSAPP = "WhatsApp Image 2020-01-01 at 12.00.01.jpeg"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (WHATSAPP, NameKind.PHOTO),
        ("2019.07.14.jpg", NameKind.PHOTO),
        ("PXL_x.PORTRAIT.JPG", NameKind.PHOTO),
        ("a/b.c/-x.jfif", NameKind.PHOTO),
        ("./a.jpg", NameKind.PHOTO),
        ("a.jpg.json", NameKind.DOCUMENT),
        ("a.XMP", NameKind.DOCUMENT),
        ("a.jpg.mov", NameKind.OTHER),
        ("jpg", NameKind.OTHER),
        ("photos/._IMG_1.jpg", NameKind.JUNK),
        ("a/@eaDir/b.jpg/SYNOPHOTO_THUMB_XL.jpg", NameKind.JUNK),
        ("x/#recycle/a.jpg", NameKind.JUNK),
        (".thumbnails/a.jpg", NameKind.JUNK),
        ("a/.stversions/b/c.jpg", NameKind.JUNK),
        ("__MACOSX/a.jpg", NameKind.JUNK),
        ("__meta__/info.json", NameKind.JUNK),
        ("Fotos.photoslibrary/resources/derivatives/1.jpeg", NameKind.JUNK),
        ("Fotos.photoslibrary/originals/0/1.jpeg", NameKind.PHOTO),
        ("Alt.photoslibrary/Thumbnails/2015/1.jpg", NameKind.JUNK),
        ("x/Alt.aplibrary/Previews/2015/1.jpg", NameKind.JUNK),
        ("immich/thumbs/4f1e-a-b-c-d/1f/2e/x-preview.jpeg", NameKind.JUNK),
        ("thumbs/1.jpg", NameKind.PHOTO),
        ("appdata_oc1x/preview/1/2/256-256.jpg", NameKind.JUNK),
        ("@tmp/a.jpg", NameKind.JUNK),
        ("__old__/a.jpg", NameKind.PHOTO),
        ("__key__", NameKind.JUNK),
        (".jpg", NameKind.JUNK),
        ("Thumbs.db", NameKind.JUNK),
    ],
)
def test_kind(name: str, kind: NameKind) -> None:
    assert kind_of(name) is kind


def test_kinds_of_files_that_are_left_out() -> None:
    names = {
        "a.MOV": ".mov",
        "a/b": "without ending",
        "backup.tar.gz": ".tar.gz",
        "photos/.DS_Store": ".DS_Store",
        "photos/._a.jpg": "._*",
        "x/@eaDir/y": "@eaDir/",
    }
    assert {name: left_out_kind(name) for name in names} == names
    many = [f"a.jpg.d{number}" for number in range(1_600_000_000, 1_600_000_050)]
    many += [f"scan.{number:03d}" for number in range(50)] + ["Dr. No and all the others"]
    assert {left_out_kind(name) for name in many} == {"other endings"}
    kept = ["a.cr3", "a.3gp", "a.h264", "a.jpg~", "a.m2ts"]
    assert [left_out_kind(name) for name in kept] == [name[1:] for name in kept]
    assert junk("a.jpg") == ""


def test_keys_are_paths_without_ending_where_free() -> None:
    used: set[str] = set()
    keys = []
    for name in ("IMG_1.jpg", "IMG_1.edited.jpg", "IMG_1.heic", "IMG_1.jpg", "x.y/z.png"):
        key = photo_key(name, used.__contains__)
        keys.append(key)
        used.add(str(key))
    assert keys == ["IMG_1", "IMG_1.edited", "IMG_1.heic", "IMG_1.jpg", "x.y/z"]
    assert photo_key("IMG_1.jpg", used.__contains__) is None
    assert stem("a.b/c") == "a.b/c"


@pytest.mark.parametrize(
    ("photo", "document"),
    [
        ("IMG_1.jpg", "IMG_1.json"),
        ("IMG_1.jpg", "IMG_1.jpg.json"),
        ("IMG_1.JPG", "IMG_1.JPG.json"),
        ("IMG_1.jpg", "IMG_1.jpg.supplemental-metadata.json"),
        ("IMG_1.jpg", "IMG_1.jpg.supplemental-metad.json"),
        ("IMG_1.jpg", "IMG_1.jpg.s.json"),
        ("IMG(1).jpg", "IMG.jpg(1).json"),
        ("IMG(1).jpg", "IMG.jpg.supplemental-metadata(1).json"),
        ("IMG(1).jpg", "IMG.jpg.supplemental-metad(1).json"),
        ("IMG-edited.jpg", "IMG.jpg.json"),
        ("IMG-edited(1).jpg", "IMG.jpg(1).json"),
        ("IMG-bearbeitet.jpg", "IMG.jpg.supplemental-metadata.json"),
        ("IMG_1.jpg", "IMG_1.jpg.xmp"),
        ("IMG_1.jpg", "IMG_1.xmp"),
        ("0001.left.jpg", "0001.json"),
        ("caf\u00e9.jpg", "cafe\u0301.jpg.json"),
        ("a" * 47 + ".jpg", "a" * 46 + ".json"),
        (
            "Screenshot_20190101-120000_Some Long App Name.jpg",
            "Screenshot_20190101-120000_Some Long App Name.json",
        ),
    ],
)
def test_documents_of_photos(photo: str, document: str) -> None:
    assert match_documents([f"a/{photo}"], [f"a/{document}"]) == {f"a/{photo}": (f"a/{document}",)}
    assert match_documents([f"a/{photo}"], [f"b/{document}"]) == {}


def test_nearest_document_comes_first() -> None:
    photos = ["IMG.jpg", "IMG(1).jpg", "IMG-edited.jpg", "other.jpg"]
    documents = ["IMG.jpg(1).json", "IMG.jpg.json", "IMG.xmp", "metadata.json"]
    assert match_documents(photos, documents) == {
        "IMG.jpg": ("IMG.jpg.json", "IMG.xmp"),
        "IMG(1).jpg": ("IMG.jpg(1).json",),
        "IMG-edited.jpg": ("IMG.jpg.json", "IMG.xmp"),
    }


def test_what_is_left_out_is_told_whole() -> None:
    found = LeftOut()
    for name in (*("a.mov",) * 3, "a.pdf", "b.CR3", "x/backup.tgz", "c/.DS_Store"):
        found.add(name)
    assert str(found) == "1 .cr3, 1 .tgz, 3 .mov, 1 .DS_Store, 1 .pdf; by name: x/backup.tgz"
    assert found.total == 7
    assert LeftOut.from_dict(found.to_dict()) == found
    many = LeftOut.joined([found, found])
    for number in range(100):
        many.add(f"{number}.zip")
    assert many.total == 114
    assert len(many.named) == MOST_NAMED
