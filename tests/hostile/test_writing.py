"""Geotags written for strangers: any name, any prediction, any file in the place of a copy."""

import csv
import json
import os
import resource
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.geotag import command as geotag
from pipelines.write_exif import command as write_exif
from pipelines.write_exif.copies import LIST, MAX_COPY_BYTES, Copies, Original, PlaceTakenError
from pipelines.write_exif.exif import Position, with_position
from pipelines.write_exif.geotags import PROBLEM, GeotagReader, PredictionsError
from pipelines.write_exif.jpeg import UnsafeError
from schemas.geotags import ErrorRow, Stage, Status, error_table
from support.archives import photo
from support.fake_geotagger import FakeLoader
from support.hostile import writing
from support.pages import read_page

pytestmark = pytest.mark.usefixtures("no_pages", "plain_loop")

HERE = Position(-33.8568, 151.2153, 12.5, "LocDiffusion test-1, estimated", "within 12 km")
ANY = ["--max-radius-90-km", "20000"]


def files_below(folder: Path) -> set[str]:
    found = os.walk(folder)
    return {
        os.path.relpath(os.path.join(at, name), folder) for at, _, names in found for name in names
    }


def fates(copies: Path) -> list[dict[str, str]]:
    listed: list[dict[str, str]] = json.loads((copies / LIST).read_bytes())["fates"]
    return listed


def test_every_photo_has_a_fate_whatever_it_is_called(tmp_path, capsys):
    inside = tmp_path / "deep/in/here"
    inside.mkdir(parents=True)
    tar, out, copies = inside / "keys.tar", inside / "out", inside / "copies"
    tar.write_bytes(writing.archive_of_keys())
    geotag.main([str(tar), "--output", str(out)], FakeLoader())
    rows = json.loads((out / "summary.json").read_bytes())
    assert rows["photos"] >= len(writing.KEYS) - 3  # some names are refused when they are read
    before = files_below(tmp_path)
    assert (
        write_exif.main([str(tar), "--predictions", str(out), "--output", str(copies), *ANY]) == 1
    )
    told = fates(copies)
    assert len(told) == rows["photos"]
    written = [line["copy"] for line in told if line["fate"] == "written"]
    assert len({Copies(str(copies))._full(place).casefold() for place in written}) == len(written)
    taken = [line for line in told if line["fate"].startswith("another file")]
    assert len(taken) == 1 and len(written) == len(told) - 1
    assert files_below(tmp_path) - before == {
        f"deep/in/here/copies/{place}" for place in (*written, LIST)
    }
    # The same command again finds its copies where they are.
    capsys.readouterr()
    assert (
        write_exif.main([str(tar), "--predictions", str(out), "--output", str(copies), *ANY]) == 1
    )
    assert fates(copies) == told


def test_names_that_a_file_system_takes_for_one_are_told_apart(tmp_path):
    copies = Copies(str(tmp_path))
    names = ["Caf\u00e9.jpg", "cafe\u0301.jpg", "CAFE\u0301.JPG", "stra\u00dfe.jpg", "STRASSE.jpg"]
    names += ["\ud800.jpg", "\udbff/\udfff.jpg", "WRITE_exif.json", "\0", "x" * 2000]
    names += ["/".join(["y" * 200] * 9)]
    places = []
    for name in names:
        original = Original("s.tar", name)
        places.append(copies.place(name, original))
        copies.write(places[-1], name.encode("utf-8", "surrogatepass"), original)
    assert len({place.casefold() for place in places}) == len(names)
    assert files_below(tmp_path) == set(places)
    assert max(len(os.fsencode(place)) for place in places) <= 1000


def test_a_place_that_was_aimed_at_is_not_written_twice(tmp_path):
    first = Copies(str(tmp_path))
    first.write("a.jpg", b"one", Original("s", "a"))
    first.write_list({"photos": 1}, [{"copy": p, "sha256": s} for p, s in first.written.items()])
    again = Copies(str(tmp_path))
    again.write("a.jpg", b"one", Original("s", "a"))
    with pytest.raises(PlaceTakenError, match="copy of another photo"):
        again.write("A.jpg", b"two", Original("s", "b"))
    assert (tmp_path / "a.jpg").read_bytes() == b"one"


@pytest.mark.parametrize("kind", ["link", "dangling", "folder link", "fifo", "huge", "folder"])
def test_what_was_planted_in_the_place_of_a_copy_stays(tmp_path, kind):
    root, outside = tmp_path / "copies", tmp_path / "outside"
    root.mkdir(), outside.mkdir()
    (outside / "secret.jpg").write_bytes(b"secret")
    place, name = root / "a.jpg", "a.jpg"
    if kind == "link":
        place.symlink_to(outside / "secret.jpg")
    elif kind == "dangling":
        place.symlink_to(outside / "new.jpg")
    elif kind == "folder link":
        (root / "sub").symlink_to(outside)
        name = "sub/secret.jpg"
    elif kind == "fifo":
        os.mkfifo(place)
    elif kind == "huge":
        place.touch()
        os.truncate(place, MAX_COPY_BYTES + 2**40)
    else:
        place.mkdir()
    copies = Copies(str(root))
    with pytest.raises(PlaceTakenError):
        copies.write(name, b"copy", Original("s", "a"))
    copies.write("b.jpg", b"copy", Original("s", "b"))
    copies.write_list({"photos": 2}, [])
    assert files_below(outside) == {"secret.jpg"}
    assert (outside / "secret.jpg").read_bytes() == b"secret"


@pytest.mark.parametrize("number", [22, 84, 13, 1])  # EINVAL, EILSEQ, EACCES, EPERM
def test_a_name_that_the_file_system_refuses_costs_its_photo_alone(tmp_path, monkeypatch, number):
    from pipelines.write_exif import copies as module

    real = module.atomic_path

    def refuse(path):
        if "bad" in str(path):
            raise OSError(number, os.strerror(number))
        return real(path)

    monkeypatch.setattr(module, "atomic_path", refuse)
    copies = Copies(str(tmp_path))
    with pytest.raises(PlaceTakenError, match="cannot be made"):
        copies.write("bad?.jpg", b"copy", Original("s", "a"))
    copies.write("good.jpg", b"copy", Original("s", "b"))


def test_a_list_of_lists_is_no_list_of_ours(tmp_path):
    (tmp_path / LIST).write_text("[" * 200_000)
    with pytest.raises(write_exif.DataError, match="no list of this command"):
        Copies(str(tmp_path))


def with_predictions(tmp_path: Path, content: bytes) -> tuple[list[str], Path, Path]:
    photos, out, copies = tmp_path / "photos", tmp_path / "out", tmp_path / "copies"
    photos.mkdir()
    for index, name in enumerate([*writing.BAD_ROWS, "good", "twice", "none"]):
        (photos / f"{name}.jpg").write_bytes(photo(index))
    assert geotag.main([str(photos), "--output", str(out)], FakeLoader()) == 0
    (part,) = (out / "predictions").iterdir()
    part.write_bytes(content)
    return [str(photos), "--predictions", str(out), "--output", str(copies), *ANY], part, copies


def test_predictions_that_cannot_be_true_are_not_written(tmp_path, capsys):
    sound = writing.SOUND
    rows = [{**sound, **bad, "key": f"{name}.jpg"} for name, bad in writing.BAD_ROWS.items()]
    rows += [{**sound, "key": key} for key in ("good.jpg", "twice.jpg", "twice.jpg", None, "../x")]
    words, _, copies = with_predictions(tmp_path, writing.predictions(rows))
    before = files_below(tmp_path)
    assert write_exif.main(words) == 0
    told = {line["key"]: line for line in fates(copies)}
    bad = "has a prediction that cannot be used"
    for name in (*writing.BAD_ROWS, "twice"):
        assert told[f"{name}.jpg"]["fate"] == bad and told[f"{name}.jpg"]["reason"]
    assert told["none.jpg"]["fate"] == "has no prediction" and told["good.jpg"]["fate"] == "written"
    assert len(told) == len(writing.BAD_ROWS) + 3
    assert files_below(tmp_path) - before == {"copies/good.jpg", f"copies/{LIST}"}


@pytest.mark.parametrize("kind", ["no parquet", "bomb", "column", "device"])
def test_a_file_that_is_no_table_of_predictions_ends_nothing(tmp_path, capsys, kind):
    content = {
        "no parquet": lambda: b"PAR1" + bytes(100) + b"PAR1",
        "bomb": writing.repeated_predictions,
        "column": lambda: writing.predictions([]).replace(b"prob_25km", b"prob_26km"),
        "device": lambda: b"",
    }[kind]()
    words, part, copies = with_predictions(tmp_path, content)
    if kind == "device":
        part.unlink()
        part.symlink_to("/dev/zero")
    assert len(content) < 500_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert write_exif.main(words) == 1
    assert Counter(line["fate"] for line in fates(copies)) == {
        "has no prediction": len(writing.BAD_ROWS) + 3
    }
    assert "not read whole: " in capsys.readouterr().err
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20


def test_reader_takes_the_rows_that_can_be_true(tmp_path):
    path = tmp_path / "part.parquet"
    rows = [{**writing.SOUND, "key": "a"}, {**writing.SOUND, "key": "b", "latitude": 91.0}]
    path.write_bytes(writing.predictions(rows))
    found = GeotagReader().read(str(path))
    assert found["a"] == writing.SOUND
    assert found["b"] == {PROBLEM: "latitude is 91.0, wanted -90 to 90"}
    with pytest.raises(PredictionsError, match="lacks the column"):
        path.write_bytes(writing.predictions(rows).replace(b"prob_25km", b"prob_26km"))
        GeotagReader().read(str(path))


def calls(jpeg: bytes) -> int:
    """How many functions are called while a position is written, those in C among them."""
    count = 0

    def note(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        with_position(jpeg, HERE)
    except UnsafeError:
        pass
    finally:
        sys.setprofile(None)
    return count


def test_pointers_to_one_directory_are_not_followed():
    with pytest.raises(UnsafeError, match="1,000 pointers 0x8769, wanted at most 4"):
        with_position(writing.many_pointers(), HERE)
    assert calls(writing.many_pointers(4000)) <= 2.5 * calls(writing.many_pointers(2000))


@pytest.mark.parametrize(
    "make, count",
    [(writing.many_pictures, 20_000), (writing.many_packets, 500), (writing.many_indices, 5)],
)
def test_work_grows_with_the_file_and_no_faster(make, count):
    assert with_position(make(count), HERE)
    assert calls(make(2 * count)) <= 2.5 * calls(make(count))


@pytest.mark.parametrize("make", writing.PICTURES.values(), ids=writing.PICTURES)
def test_pictures_are_changed_or_left_out(make):
    try:
        assert len(with_position(make(), HERE)) > len(make())
    except UnsafeError as error:
        assert "pointers" in str(error)


def test_recipe_for_spreadsheets_writes_no_formula(tmp_path, monkeypatch):
    (block,) = [code for _, code in read_page("docs/RECIPES.md")[1] if "errors.csv" in code]
    keys = ["=cmd|' /C calc'!A0", "+1", "-2+3", "@SUM(1)", "\t=1", "\r=1", "plain.jpg", "a=b", None]
    rows = [ErrorRow(key, Stage.READ, Status.EMPTY_FILE, f"={key}") for key in keys]
    (tmp_path / "out/errors").mkdir(parents=True)
    pq.write_table(error_table("-shard", rows), tmp_path / "out/errors/part-s.parquet")
    monkeypatch.chdir(tmp_path)
    exec(block, {})
    with open("errors.csv", newline="") as file:
        written = list(csv.DictReader(file))
    assert {row["key"] for row in written} == {
        f"'{key}" if key and key[0] in "=+-@\t\r" else key or "" for key in keys
    }
    cells = [cell for row in written for cell in row.values()]
    assert len(cells) == 4 * len(keys)
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
