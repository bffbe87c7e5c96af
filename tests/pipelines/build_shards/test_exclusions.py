"""No photo of a guarded benchmark, and none by its photographers, reaches a plan."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import apache_beam as beam
import pandas
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from locdiffusion.photos.storage import DataError
from pipelines.build_shards.command import build
from pipelines.build_shards.exclusions import read_exclusions, read_list
from pipelines.build_shards.options import parse
from pipelines.build_shards.transforms import PlanShards
from pipelines.sources.record import Record
from schemas.training import DropReason
from support.flickr import Photo, make_photos, places365_line, write_lines, write_places365


def record(key: str, author: str = "1@N00") -> Record:
    return Record(key, author, 1.0, 2.0, "mp16")


def plan(metadata: Path, output: Path, exclude: Sequence[Path]) -> tuple[pandas.DataFrame, ...]:
    """What a build plans and what it drops before any image is looked at."""
    arguments = ["--source=mp16", "--metadata", str(metadata), "--images", str(output / "none")]
    arguments += ["--output", str(output), "--exclude", *map(str, exclude)]
    job = build(parse(arguments))
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        pieces = pipeline | beam.Create(job.records)
        _ = pieces | PlanShards(job.settings, job.output, job.links)
    parts = sorted((output / "dropped").glob("*.parquet"))
    dropped = pandas.concat([pandas.read_parquet(part) for part in parts])
    return pandas.read_parquet(output / "_work/plan"), dropped


def test_ids_are_guarded_in_every_spelling(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "list.csv",
        ["IMG_ID,AUTHOR", "45/77/3228511372.jpg,9@N00", "100_e60e9cdfb4_1125_7@N00.jpg,8@N00"],
    )
    guard = read_exclusions([str(path)])
    for key in ("45/77/3228511372.jpg", "3228511372", "3228511372_e60e9cdfb4_2_7@N00.jpg", "100"):
        drop = guard.check(record(key))
        assert drop is not None and drop.reason is DropReason.EXCLUDED_ID and drop.key == key
        assert "list.csv" in drop.detail
    assert guard.check(record("228511372")) is None


def test_photographers_are_guarded_in_every_spelling(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "list.csv", ["IMG_ID,AUTHOR", "1.jpg, 43008843%40N00 "])
    guard = read_exclusions([str(path)])
    for author in ("43008843@N00", "43008843%40N00"):
        drop = guard.check(record("2", author))
        assert drop is not None and drop.reason is DropReason.EXCLUDED_AUTHOR
        assert "43008843@N00" in drop.detail
    assert guard.check(record("2", "43008843@N01")) is None


def test_an_unknown_photographer_is_nobodys(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "list.csv", ["IMG_ID,AUTHOR", "1.jpg,", "2.jpg,5@N00"])
    guard = read_exclusions([str(path)])
    assert guard.check(record("3", "")) is None
    assert [len(one.authors) for one in guard.lists] == [1]


@pytest.mark.parametrize(
    ("lines", "ids", "authors"),
    [
        (["path,lat,lon", "a/b_1.jpg,1,2", "c.jpg,3,4"], {"a/b_1.jpg", "c.jpg"}, set()),
        (["3228511372", "", "3228511373"], {"3228511372", "3228511373"}, set()),
        (["\ufeffphoto_id,owner", "7,8@N00"], {"7"}, {"8@N00"}),
        (["image,file,key,path", "thumbnail,x,y,12/7.jpg"], {"7"}, set()),
        (["img_file,filename,key", "x,y,8.jpg"], {"8"}, set()),
        (["IMG_ID,AUTHOR", '"1.jpg","5@N00, the second"'], {"1"}, {"5@N00, the second"}),
    ],
    ids=["GWS15k", "ids alone", "byte order mark", "path first", "then key", "quotes"],
)
def test_lists_of_other_forms(
    tmp_path: Path, lines: list[str], ids: set[str], authors: set[str]
) -> None:
    one = read_list(str(write_lines(tmp_path / "list.csv", lines)))
    assert (one.ids, one.authors) == (ids, authors)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"IMG_ID,AUTHOR\n", "names no photo"),
        (b"name,place\na,b\n", "photo's id; rename it to one of img_id"),
        (b"IMG_ID,AUTHOR\n1.jpg,5@N00\n2.jpg\n", "line 3: '2.jpg', wanted 2 columns"),
        (b"IMG_ID,AUTHOR\n ,5@N00\n", "line 2: no id"),
        (b"IMG_ID,AUTHOR\n1\xff.jpg,5@N00\n", "cannot be read"),
    ],
)
def test_a_list_with_holes_is_refused(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "list.csv").write_bytes(data)
    with pytest.raises(DataError, match=said):
        read_exclusions([str(tmp_path / "list.csv")])


def test_a_missing_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_exclusions([str(tmp_path / "none.csv")])


def test_another_list_is_another_build(tmp_path: Path) -> None:
    one = read_list(str(write_places365(tmp_path / "a.csv", make_photos(3))))
    two = read_list(str(write_places365(tmp_path / "a.csv", make_photos(4))))
    assert one.name == two.name and one.sha256 != two.sha256


def test_a_training_list_loses_photographers_and_photos_of_a_benchmark(tmp_path: Path) -> None:
    """As Im2GPS3k and YFCC25600 share photographers; the drops say whom, and whose list it was."""
    training = make_photos(60, authors=12)
    benchmark = make_photos(10, authors=10, seed=9)
    shared = {training[0].author, training[5].author}
    benchmark[3] = _by(benchmark[3], training[0].author)
    benchmark[7] = _by(benchmark[7], training[5].author)
    benchmark[8] = _by(training[1], "nobody@N00")  # the photo itself, under another name
    ours = write_places365(tmp_path / "train.csv", training)
    theirs = write_places365(
        tmp_path / "benchmark.csv",
        [_by(p, f"x{p.author}") if p.author not in shared else p for p in benchmark],
    )
    planned, dropped = plan(ours, tmp_path / "out", [theirs])
    wanted = {photo.img_id for photo in training if photo.author in shared}
    assert len(wanted) == 10
    assert set(dropped[dropped.reason == "excluded_author"].key) == wanted
    assert set(dropped[dropped.reason == "excluded_id"].key) == {training[1].img_id}
    assert dropped.detail.str.contains("benchmark.csv").all()
    assert not set(planned.author) & shared
    assert set(planned.key) | set(dropped.key) == {photo.img_id for photo in training}
    assert len(planned) + len(dropped) == 60


def _by(photo: Photo, author: str) -> Photo:
    return replace(photo, author=author)


# Where the benchmarks' own lists are

LISTS = os.environ.get("LOCDIFFUSION_LISTS", "")
IM2GPS3K, YFCC25600 = "im2gps3k_places365.csv", "yfcc25600_places365.csv"


@pytest.mark.skipif(not LISTS, reason="LOCDIFFUSION_LISTS names no folder with the two lists")
@pytest.mark.parametrize(
    ("training", "benchmark", "lost", "read"),
    [(YFCC25600, IM2GPS3K, 125, 25_600), (IM2GPS3K, YFCC25600, 864, 2_997)],
)
def test_im2gps3k_and_yfcc25600_share_34_photographers(
    tmp_path: Path, training: str, benchmark: str, lost: int, read: int
) -> None:
    ours, theirs = (pandas.read_csv(Path(LISTS) / name) for name in (training, benchmark))
    shared = set(ours.AUTHOR) & set(theirs.AUTHOR)
    assert len(shared) == 34
    lists = [Path(LISTS) / benchmark]
    planned, dropped = plan(Path(LISTS) / training, tmp_path / "out", lists)
    assert Counter(dropped.reason) == {"excluded_author": lost}
    assert set(dropped.key) == set(ours[ours.AUTHOR.isin(shared)].IMG_ID)
    assert dropped.detail.str.contains(benchmark).all()
    assert not set(planned.author) & set(theirs.AUTHOR)
    assert len(planned) + len(dropped) == read


def test_the_line_of_a_benchmark_is_the_line_of_the_field() -> None:
    """What the synthetic lists above stand for."""
    assert places365_line(make_photos(1)[0]).count(",") == 9
