"""`python -m locdiffusion.evaluate --input DIR --truth CSV`: the lists of the field."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from locdiffusion import geotagger
from locdiffusion.evaluate import command as evaluate
from locdiffusion.evaluate.lists import embed_list, find_photos, read_truth
from locdiffusion.evaluate.record import Evaluation
from locdiffusion.photos.storage import DataError
from support.tiny import TinyEncoder, coloured_photo, replace_encoders, write_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

PLACES = [(47.0, 8.0), (-33.9, 151.2), (0.0, 20.0), (64.1, -21.9), (35.7, 139.7)]
# Im2GPS3k and YFCC26k; OSV-5M; and a table of one's own
PLACES365 = "IMG_ID,AUTHOR,LAT,LON,S3_Label\n{0}.jpg,me,{1},{2},0\n"
OSV_5M = "id,latitude,longitude,country\n{0},{1},{2},CH\n"
OWN = "lng\tlat\tfile\n{2}\t{1}\t{0}.png\n"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five, in folders as OSV-5M has them."""
    for i, (latitude, longitude) in enumerate(PLACES):
        folder = tmp_path / "photos" / f"0{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        coloured_photo(latitude, longitude).save(folder / f"{900 + i}.jpg")
    (tmp_path / "photos" / "notes.txt").write_text("none")
    return tmp_path / "photos"


@pytest.fixture
def encoders(monkeypatch: pytest.MonkeyPatch) -> list[TinyEncoder]:
    return replace_encoders(monkeypatch, geotagger)


def write_list(path: Path, template: str, count: int = 5) -> Path:
    head, line = template.splitlines(keepends=True)
    lines = [line.format(900 + i, *PLACES[i % 5]) for i in range(count)]
    path.write_text(head + "".join(lines))
    return path


@pytest.mark.parametrize("template", [PLACES365, OSV_5M, OWN], ids=["places365", "osv5m", "own"])
def test_every_form_of_a_list(template: str, photos: Path, tmp_path: Path) -> None:
    truth = read_truth(write_list(tmp_path / "list.csv", template))
    np.testing.assert_array_equal(truth.latitude, [place[0] for place in PLACES])
    np.testing.assert_array_equal(truth.longitude, [place[1] for place in PLACES])
    files = find_photos(truth.ids, photos)
    assert [files[key].stem for key in truth.ids] == ["900", "901", "902", "903", "904"]


def test_scores_those_that_are_there(
    photos: Path, tmp_path: Path, encoders: list[TinyEncoder], capsys: pytest.CaptureFixture[str]
) -> None:
    """Two photos are not there and one is none; the rest is scored, and nobody embeds it twice."""
    write_checkpoint(tmp_path / "model", TinyEncoder().spec)
    (photos / "00" / "904.jpg").write_bytes(b"no picture")
    listed = write_list(tmp_path / "im2gps3k test.csv", PLACES365, 7)
    output = tmp_path / "scores"
    command = [
        *("--input", str(photos), "--truth", str(listed)),
        *("--checkpoint", str(tmp_path / "model"), "--output", str(output), "--resamples", "20"),
    ]
    assert evaluate.main(command) == 0
    (split,) = Evaluation.read(output / "scores.json").splits
    assert (split.name, split.scores.n, split.missing) == ("im2gps3k-test", 4, 3)
    assert split.source == (str(photos), str(listed)) and len(split.scores.within) == 5
    missing = (output / "missing-im2gps3k-test.txt").read_text().split()
    assert missing == ["904.jpg", "905.jpg", "906.jpg"]
    said = capsys.readouterr()
    assert "5 of 7 photos found" in said.err and "904.jpg cannot be decoded" in said.err
    assert "missing or unreadable, not scored: 3 of 7." in said.out
    scores = (output / "scores.json").read_bytes()
    assert evaluate.main(command) == 0
    assert (output / "scores.json").read_bytes() == scores
    assert [encoder.embedded for encoder in encoders] == [4, 0]


def test_answers_are_those_of_the_same_photos_in_shards(
    photos: Path, tmp_path: Path, encoders: list[TinyEncoder]
) -> None:
    """The list's way to the scores is another, its numbers are not."""
    from support.archives import write_tar

    write_checkpoint(tmp_path / "model", TinyEncoder().spec)
    members = []
    for i, (latitude, longitude) in enumerate(PLACES):
        position = f'{{"latitude": {latitude}, "longitude": {longitude}}}'
        members.append((f"{i}.jpg", (photos / f"0{i % 2}" / f"{900 + i}.jpg").read_bytes()))
        members.append((f"{i}.json", position.encode()))
    write_tar(tmp_path / "shards" / "a.tar", members)
    listed = write_list(tmp_path / "list.csv", OSV_5M)
    scores = []
    for i, way in enumerate(
        [
            ("--input", str(photos), "--truth", str(listed)),
            ("--test", f"list={tmp_path / 'shards' / '*.tar'}"),
        ]
    ):
        output = tmp_path / f"scores{i}"
        more = ("--checkpoint", str(tmp_path / "model"), "--output", str(output))
        assert evaluate.main([*way, *more, "--resamples", "20"]) == 0
        scores.append(Evaluation.read(output / "scores.json").splits[0].scores)
    assert scores[0] == scores[1]


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("a/1.jpg", "a/1.jpg"),
        ("b/1.jpg", "b/1.jpg"),
        ("x/b/1.jpeg", None),
        ("b/1", "b/1.jpg"),
        ("2.v1", "a/2.v1.png"),
        ("deep/2.v1.jpg", "a/2.v1.png"),
        ("3", None),
    ],
)
def test_a_photo_by_its_id(key: str, found: str | None, tmp_path: Path) -> None:
    for name in ("a/1.jpg", "b/1.jpg", "a/2.v1.png", "b/3.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    if key.startswith("x/"):
        with pytest.raises(DataError, match=r"'a/1\.jpg' and 'b/1\.jpg' may both be"):
            find_photos([key], tmp_path)
        return
    assert find_photos([key], tmp_path) == ({key: tmp_path / found} if found else {})


def test_a_list_of_photos_that_are_elsewhere(photos: Path, tmp_path: Path) -> None:
    truth = read_truth(write_list(tmp_path / "list.csv", OSV_5M))
    with pytest.raises(DataError, match=r"None of the 5 photos.* below --input"):
        embed_list(truth, {}, TinyEncoder(), tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,lat,lon\n1,2,3\n", r"columns \['name', 'lat', 'lon'\].*photo's id; rename it"),
        ("id,y,lon\n1,2,3\n", "the latitude; rename it to one of"),
        ("id,lat,lon\n", "lists no photo"),
        ("id,lat,lon\n1,91,3\n", "line 2: '91' is no latitude from -90° to 90°"),
        ("id,lat,lon\n1,2,3\n2,,\n", "line 3: '' is no latitude"),
        ("id,lat,lon\n1,2\n", "line 2: '1,2', wanted 3 columns"),
        ("id,lat,lon\n1,2,3\n1,2,4\n", "line 3: a second position of '1'"),
        ("id,lat,lon\n,2,3\n", "line 2: no id"),
    ],
)
def test_a_list_that_is_none(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_truth(tmp_path / "list.csv")


def test_flags_that_do_not_go_together(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = write_list(tmp_path / "list.csv", OSV_5M)
    for flags, message in (
        (("--input", str(photos)), "--truth CSV go together"),
        (("--truth", str(listed)), "--input DIR and"),
        (("--input", str(photos), "--truth", str(listed), "--test", "a=b"), "want one of"),
        (
            ("--input", str(tmp_path / "no"), "--truth", str(listed)),
            f"--input {tmp_path / 'no'} holds no photo",
        ),
        (
            ("--input", str(photos), "--truth", str(tmp_path / "no.csv")),
            "cannot be read (FileNotFound",
        ),
    ):
        assert evaluate.main([*flags, "--output", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
