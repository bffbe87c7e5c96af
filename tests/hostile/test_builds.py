"""Builds of training shards from lists of strangers: what is written tells no secrets."""

from __future__ import annotations

import json
from pathlib import Path

import pandas
import pytest

from pipelines.build_shards import command
from pipelines.build_shards.datasheet import datasheet
from pipelines.build_shards.shard_writer import hashed_key, member_key
from support.archives import write_tar
from support.flickr import Photo, make_photos, places365_line, write_lines
from support.hostile.sources import NAMES, SECRET, secret_lines
from support.outputs import tree
from support.photo_server import Answer, photo_server

PHOTOS = make_photos(6)


@pytest.fixture(autouse=True)
def no_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """No map of density is drawn, which would take longer than the build."""
    monkeypatch.setattr(command, "draw_density", lambda counts, title: b"map")


def build(root: Path, *flags: str) -> Path:
    output = root / "out"
    common = ("--output", str(output), "--min-size=32", "--val-fraction=0")
    assert command.main([*flags, *common]) == 0
    return output


def everything(output: Path) -> str:
    """All that is written, as text; tables row by row."""
    texts = []
    for name, data in tree(output).items():
        if name.endswith(".parquet"):
            texts.append(pandas.read_parquet(output / name).to_csv())
        else:
            texts.append(data.decode("latin-1"))
    return "\n".join(texts)


def test_nothing_that_is_written_holds_a_secret(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither passwords and tokens of addresses, nor what lies at an address."""
    with photo_server() as server:
        address = server.url.replace("//", f"//me:{SECRET}@")
        lines = [f"{photo.img_id},{address}{photo.url_path}?t={SECRET}" for photo in PHOTOS]
        for photo in PHOTOS[:4]:
            server.serve(f"{photo.url_path}?t={SECRET}", Answer(photo.image))
        inside = f"user={SECRET}\n".encode() * 9
        server.serve(f"{PHOTOS[4].url_path}?t={SECRET}", Answer(inside))
        server.serve(f"{PHOTOS[5].url_path}?t={SECRET}", Answer(bytes(8) + SECRET.encode()))
        listed = [*map(places365_line, PHOTOS), *secret_lines()]
        flags = ["--source=mp16", "--input", str(write_lines(tmp_path / "a.csv", listed))]
        flags += ["--urls", str(write_lines(tmp_path / "u.csv", [*lines, *secret_lines()]))]
        output = build(tmp_path, *flags, "--allow-private-addresses", "--max-fetch-failures=1")
    summary = json.loads((output / "summary.json").read_text())
    assert summary["kept"] == 4 and summary["dropped_by_reason"]["broken_image"] == 2
    assert SECRET not in everything(output)
    assert SECRET not in "".join(capfd.readouterr())


def test_keys_may_be_hashes(tmp_path: Path) -> None:
    """Names of Flickr's files in shards of somebody else hold ids of photographers."""
    author = "78841376@N00"
    members = []
    for photo in PHOTOS:
        name = f"by {author} {photo.id}"
        place = {"latitude": photo.latitude, "longitude": photo.longitude}
        members += [(f"{name}.jpg", photo.image), (f"{name}.json", json.dumps(place).encode())]
    write_tar(tmp_path / "a.tar", members)
    flags = ["--source=webdataset", "--input", str(tmp_path / "a.tar")]
    output = build(tmp_path, *flags, "--hash-keys")
    index = pandas.read_parquet(output / "index")
    assert [hashed_key(name) for name in index.source_key] == index.key.tolist()
    tars = b"".join(data for name, data in tree(output).items() if name.endswith(".tar"))
    assert author.partition("@")[0].encode() not in tars and index.key[0].encode() in tars
    assert "hashes of the names" in (output / "datasheet.md").read_text()
    before = tree(output)
    assert build(tmp_path, *flags, "--hash-keys") and tree(output) == before


def test_a_name_cannot_take_the_key_of_another() -> None:
    assert member_key(member_key("a b")) != member_key("a b")


@pytest.mark.parametrize("name", NAMES)
def test_a_datasheet_is_not_written_by_names(name: str) -> None:
    """Neither links, nor HTML, nor lines and cells of its own."""
    sheets = []
    for shown in ("plain.csv", name):
        configuration = {
            "metadata": [[shown, 1]],
            "source": "mp16",
            "exclude": [{"name": shown, "photos": 1, "authors": 1}],
            "cell_degrees": 0.25,
            "encoding": {"image_size": 1, "quality": 1, "min_size": 1},
            "filters": {"min_accuracy": 0, "licences": []},
            **{"author_cap": 0, "cell_cap": 0, "val_fraction": 0.0, "seed": 0, "encoder": shown},
        }
        summary = {"read": 1, "kept": 1, "dropped": 0, "cells": 1, "most_photos_in_a_cell": 1}
        summary |= {"splits": {}, "dropped_by_reason": {}, "licences": {}}
        sheets.append(
            datasheet(
                {**summary, "configuration": configuration, "photographers_in_both_splits": 0}
            )
        )
    plain, odd = sheets
    for mark in "<>[]`|\n!*":
        more = odd.count(mark) - plain.count(mark)
        assert more <= {"<": 6, ">": 6}.get(mark, 0), mark  # of <code>
    assert odd.isascii() or all(one.isprintable() or one == "\n" for one in odd)


def test_a_photo_has_one_fate(tmp_path: Path) -> None:
    """Names that are odd in every way, as ids of a list and in its addresses."""
    photos = [Photo(900 + i, "1@N00", 1.0, 2.0, PHOTOS[0].image) for i in range(len(NAMES))]
    lines = [
        places365_line(photo).replace(photo.img_id, f'"{name}"')
        for photo, name in zip(photos, NAMES, strict=True)
    ]
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "fine.jpg").write_bytes(PHOTOS[0].image)
    lines.append("fine.jpg,2@N00,3.0,4.0,0,0,0,0,0,0")
    flags = ["--source=mp16", "--input", str(write_lines(tmp_path / "a.csv", lines))]
    output = build(tmp_path, *flags, "--images", str(tmp_path / "images"))
    summary = json.loads((output / "summary.json").read_text())
    assert summary["kept"] == 1 and summary["read"] == 1 + summary["dropped"]
    assert summary["mismatches"] == []


def test_an_address_of_a_licence_keeps_its_secrets(tmp_path: Path) -> None:
    licence = f"https://me:{SECRET}@h.example/by?token={SECRET}"
    document = json.dumps({"latitude": 1.0, "longitude": 2.0, "licence": licence})
    shard = write_tar(
        tmp_path / "a.tar", [("a.jpg", PHOTOS[0].image), ("a.json", document.encode())]
    )
    output = build(tmp_path, "--source=webdataset", "--input", str(shard))
    assert SECRET not in everything(output) and "https://h.example/by" in everything(output)
