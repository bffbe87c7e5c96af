"""A build as a user runs it: by every route, every record kept or dropped, the same bytes again."""

from __future__ import annotations

import functools
import io
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import geopandas
import numpy as np
import pandas
import pytest
from PIL import Image
from webdataset.tariterators import group_by_keys, tar_file_expander

from locdiffusion.model.image_encoder import load_image_encoder
from locdiffusion.photos.embedding_cache import load_photos
from pipelines.build_shards import candidates, finishing, metadata, settings
from pipelines.build_shards import command as build_shards
from pipelines.build_shards.command import main
from pipelines.build_shards.file_ranges import line_ranges
from pipelines.sources import mp16
from pipelines.sources.record import photo_id
from schemas import geoparquet
from schemas.training import INDEX_SCHEMA
from support import python_path
from support.archives import write_tar
from support.collection import FATES, FLAGS, GONE, KEPT, LISTED, STORED, build, stop_at
from support.flickr import (
    BY_NC,
    make_photos,
    picture,
    places365_line,
    write_hash_folder,
    write_hashes,
    write_image_folder,
    write_lines,
    write_mp16_urls,
    write_msgpack_shards,
    write_places365,
    write_yfcc100m,
    yfcc100m_line,
)
from support.outputs import tree
from support.photo_server import Answer, PhotoServer, photo_server

pytestmark = pytest.mark.usefixtures("no_maps")


# What is built


BENCHMARK = [replace(photo, author=GONE) for photo in make_photos(2, seed=7)]


def mp16_list(root: Path) -> list[str]:
    """With a row that is listed twice, and one that is none."""
    lines = [*map(places365_line, LISTED), places365_line(LISTED[0]), b"45/77/1.jpg,5@N00,\xff,3"]
    head = "IMG_ID,AUTHOR,LAT,LON,S3_Label,S16_Label,S365_Label,Prob_indoor,Prob_natural,Prob_urban"
    return ["--source=mp16", "--input", str(write_lines(root / "mp16.csv", [head, *lines]))]


def yfcc_list(root: Path, columns: int, url: str = "http://127.0.0.1:9") -> list[str]:
    hashed = {photo.id: photo for photo in STORED}
    photos = [hashed.get(photo.id, photo) for photo in LISTED]  # hashes are of what is stored
    photos = [
        replace(one, latitude=two.latitude, longitude=two.longitude)
        for one, two in zip(photos, LISTED, strict=True)
    ]
    lines = [yfcc100m_line(photo, columns, url) for photo in (*photos, photos[0])]
    path = root / f"yfcc100m_dataset{'' if columns == 25 else '.bz2'}"
    return ["--source=yfcc100m", "--input", str(write_lines(path, [*lines, b"1\t2\t\xff"]))]


def by_messages(root: Path, server: PhotoServer) -> list[str]:
    write_msgpack_shards(root / "images", STORED, 7)
    return [*mp16_list(root), "--images", str(root / "images"), "--messages=shard_*.msg"]


def by_folder(root: Path, server: PhotoServer) -> list[str]:
    return [*mp16_list(root), "--images", str(write_image_folder(root / "images", STORED))]


def by_addresses(root: Path, server: PhotoServer) -> list[str]:
    for photo in STORED:
        server.serve(photo.url_path, Answer(photo.image))
    listed = {photo.id: photo for photo in STORED}
    photos = [listed.get(photo.id, photo) for photo in LISTED]
    urls = write_mp16_urls(root / "urls.csv", photos, server.url)
    return [*mp16_list(root), "--urls", str(urls), "--allow-private-addresses"]


def by_hash_list(root: Path, server: PhotoServer) -> list[str]:
    hashes = write_hashes(root / "yfcc100m_hash.bz2", STORED)
    images = write_hash_folder(root / "images", STORED)
    return [*yfcc_list(root, 23), "--hashes", str(hashes), "--images", str(images)]


def by_hash_column(root: Path, server: PhotoServer) -> list[str]:
    return [*yfcc_list(root, 25), "--images", str(write_hash_folder(root / "images", STORED))]


def by_download(root: Path, server: PhotoServer) -> list[str]:
    for photo in STORED:
        server.serve(photo.url_path, Answer(status=503), Answer(photo.image))
    return [*yfcc_list(root, 23, server.url), "--download", "--allow-private-addresses"]


def by_tars(root: Path, server: PhotoServer) -> list[str]:
    """Shards of somebody else: the photo that has no image has no jpg, and one key comes twice."""
    stored = {photo.id: photo.image for photo in STORED}
    members = []
    for photo in (*LISTED, LISTED[0]):
        place = {"latitude": photo.latitude, "longitude": photo.longitude, "author": photo.author}
        members.append((f"{photo.id}.json", json.dumps(place).encode()))
        if photo.id in stored:
            members.append((f"{photo.id}.jpg", stored[photo.id]))
        elif photo.latitude == 0 or photo.latitude == 91:
            members.append((f"{photo.id}.jpg", photo.image))
    members += [("bad.jpg", picture(99)), ("bad.json", b"{")]
    cut = next(i for i, (name, _) in enumerate(members) if name.startswith(str(LISTED[20].id)))
    write_tar(root / "old-0.tar", members[:cut])
    write_tar(root / "old-1.tar", members[cut:])
    return ["--source=webdataset", "--input", str(root / "old-*.tar")]


def by_plain_tars(root: Path, server: PhotoServer) -> list[str]:
    """MP16-Pro: eight more columns, another order, and pictures named with _ for /."""
    names = [*mp16.HEADER.split(","), *PRO_COLUMNS]
    order = [9, 3, 14, 0, 2, 17, 1, *(i for i in range(18) if i not in (9, 3, 14, 0, 2, 17, 1))]
    rows = [names]
    for photo in (*LISTED, LISTED[0]):
        fields = places365_line(photo).split(",")
        rows.append([*fields, *(f'"{name}, {photo.id}"' for name in PRO_COLUMNS)])
    lines = [",".join(row[i] for i in order) for row in rows]
    path = write_lines(root / "mp16_pro.csv", [*lines, b"45/77/1.jpg,5@N00,\xff,3"])
    members = [(photo.img_id.replace("/", "_"), photo.image) for photo in STORED]
    members.insert(3, ("._" + members[3][0], b"resource fork"))
    members.insert(5, ("notes.txt", b"no picture"))
    write_tar(root / "images" / "mp-16-0.tar", members[:9])
    write_tar(root / "images" / "mp-16-1.tar", [(f"./mp16/{n}", data) for n, data in members[9:]])
    return [
        *("--source=mp16", "--input", str(path)),
        *("--images", str(root / "images"), "--tars=mp-16-*.tar"),
    ]


PRO_COLUMNS = (
    *("city", "county", "state", "country", "country_code", "continent", "neighbourhood"),
    "display_name",
)
ROUTES = (
    *(by_messages, by_folder, by_addresses, by_hash_list, by_hash_column, by_download, by_tars),
    by_plain_tars,
)


@pytest.fixture(scope="module")
def server() -> Iterator[PhotoServer]:
    with photo_server() as running:
        yield running


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The flags of a build from a folder, which most tests here use."""
    root = tmp_path_factory.mktemp("inputs")
    flags = by_folder(root, None)  # type: ignore[arg-type]
    return [*flags, *FLAGS, "--exclude", str(write_places365(root / "benchmark.csv", BENCHMARK))]


@pytest.fixture(scope="module")
def built(inputs: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What those flags build; not to be changed."""
    output = tmp_path_factory.mktemp("built") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_shards, "draw_density", lambda counts, title: b"map")
        assert build(inputs, output) == 0
    return output


def dropped_rows(output: Path) -> pandas.DataFrame:
    return pandas.concat([pandas.read_parquet(p) for p in sorted((output / "dropped").iterdir())])


def read_by_webdataset(output: Path) -> dict[str, dict[str, bytes]]:
    """All samples, as webdataset's own reader gives them."""
    samples = {}
    for tar in sorted(output.glob("*/*.tar")):
        with tar.open("rb") as stream:
            for sample in group_by_keys(tar_file_expander([{"url": tar.name, "stream": stream}])):
                samples[sample["__key__"]] = {**sample, "shard": tar.stem}
    return samples


# By every route


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.__name__)
def test_every_route(
    route: Callable, server: PhotoServer, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "out"
    guard = write_places365(tmp_path / "benchmark.csv", BENCHMARK)
    flags = [*route(tmp_path, server), *FLAGS, "--exclude", str(guard)]
    assert build(flags, output) == 0
    check_output(output)
    told = capsys.readouterr().out
    assert "COUNT MISMATCH" not in told
    assert f"{len(KEPT)} kept + 10 dropped = {len(KEPT) + 10} read" in told


def check_output(output: Path) -> None:
    """Every photo met its fate, in the index, the drops, the shards and the summary."""
    index = geopandas.read_parquet(output / "index").set_index("key")
    dropped = dropped_rows(output)
    # Fates
    assert set(index.index) == KEPT.keys() and index.index.is_unique
    wanted = Counter(fate.fate for fate in FATES if fate.fate != "kept")
    wanted.update(["malformed_row", "duplicate_id"])
    assert Counter(dropped.reason) == wanted
    for fate in FATES:
        if fate.fate != "kept":
            keys = dropped[dropped.reason == fate.fate].key
            assert [photo_id(key) for key in keys] == [str(fate.photo.id)], fate.fate
    # Samples
    samples = read_by_webdataset(output)
    assert samples.keys() == set(index.index)
    for key, sample in samples.items():
        row, fate = index.loc[key], KEPT[key]
        assert sample["shard"] == row["shard"] and row["shard"].startswith(row["split"])
        place = json.loads(sample["json"])
        assert place == {"latitude": fate.photo.latitude, "longitude": fate.photo.longitude}
        assert (row.geometry.y, row.geometry.x) == (fate.photo.latitude, fate.photo.longitude)
        image = Image.open(io.BytesIO(sample["jpg"]))
        assert image.size == (row.width, row.height) and min(image.size) == 40
        original = Image.open(io.BytesIO(fate.image)).resize(image.size, Image.Resampling.BICUBIC)
        assert np.abs(np.asarray(image, np.int16) - np.asarray(original, np.int16)).mean() < 6
        assert row.author == fate.photo.author and photo_id(row.source_key) == key
    # Splits
    authors = index.groupby("split").author.agg(set)
    assert set(authors.index) == {"train", "val"} and not authors["train"] & authors["val"]
    # Counts
    summary = json.loads((output / "summary.json").read_text())
    assert summary["finished"] and not summary["mismatches"]
    assert summary["read"] == summary["kept"] + summary["dropped"] == len(index) + len(dropped)
    assert summary["dropped_by_reason"] == dict(Counter(dropped.reason))
    assert not (output / "_work").exists()


# The same again


def test_two_builds_give_identical_bytes(inputs: list[str], tmp_path: Path) -> None:
    """Whatever the order of input and bundles and the number of threads."""
    assert build(inputs, tmp_path / "a", "--author-cap=3", "--cell-cap=1") == 0
    lines = Path(inputs[2]).read_bytes().splitlines(keepends=True)
    (tmp_path / "mp16.csv").write_bytes(b"".join([lines[0], *lines[:0:-1]]))
    other = [*inputs[:2], str(tmp_path / "mp16.csv"), *inputs[3:]]
    more = ["--author-cap=3", "--cell-cap=1", "--direct_runner_bundle_repeat=2", "--connections=3"]
    assert build(other, tmp_path / "b", *more) == 0
    ours, theirs = tree(tmp_path / "a"), tree(tmp_path / "b")
    assert ours.keys() == theirs.keys() and len(list((tmp_path / "a").glob("train/*.tar"))) > 1
    assert [name for name in ours if ours[name] != theirs[name]] == []
    index = geopandas.read_parquet(tmp_path / "a" / "index")
    assert index.author.value_counts().max() == 3
    reasons = Counter(dropped_rows(tmp_path / "a").reason)
    assert reasons["author_cap"] > 0


def test_pieces_and_partitions_change_no_photo(
    inputs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists cut into many pieces, rules applied to many parts of the records."""
    monkeypatch.setattr(settings, "PARTITION_BYTES", 500)
    monkeypatch.setattr(metadata, "CHUNK_RECORDS", 2)
    monkeypatch.setattr(
        build_shards, "line_ranges", functools.partial(line_ranges, range_bytes=300)
    )
    assert build(inputs, tmp_path / "out", "--author-cap=100", "--cell-cap=100") == 0
    check_output(tmp_path / "out")
    parts = [path.name for path in (tmp_path / "out" / "dropped").iterdir()]
    assert sum(name.startswith("part-records-") for name in parts) > 2


def test_another_seed_gives_other_shards_of_the_same_photos(
    inputs: list[str], tmp_path: Path
) -> None:
    fine = [fate.photo for fate in FATES[:30]]
    flags = [*inputs[:2], str(write_places365(tmp_path / "fine.csv", fine)), *inputs[3:]]
    index = []
    for seed in (0, 1):
        assert build(flags, tmp_path / str(seed), f"--seed={seed}") == 0
        frame = geopandas.read_parquet(tmp_path / str(seed) / "index").set_index("key")
        index.append(frame.sort_index())
    assert list(index[0].index) == list(index[1].index)
    assert (index[0].shard != index[1].shard).any()
    assert (index[0].sha256 == index[1].sha256).all()


def test_columns_are_known_in_every_range_of_a_list(
    inputs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list whose longitude comes first, cut into many ranges of which one has the header."""
    fine = [fate.photo for fate in FATES[:30]]
    lines = [places365_line(photo).split(",") for photo in fine]
    path = tmp_path / "swapped.csv"
    order = [3, 0, 2, 1, *range(4, 10)]
    head = ['\ufeff"LON"', ' "img_id"', "Lat ", "AUTHOR", *mp16.HEADER.split(",")[4:]]
    write_lines(path, [",".join(head), *(",".join(row[i] for i in order) for row in lines)])
    cut = functools.partial(line_ranges, range_bytes=300)
    monkeypatch.setattr(build_shards, "line_ranges", cut)
    assert build([*inputs[:2], str(path), *inputs[3:]], tmp_path / "out") == 0
    index = geopandas.read_parquet(tmp_path / "out" / "index").set_index("key")
    assert len(cut("records", [str(path)])) > 3 and len(index) == 30
    for photo in fine:
        place = index.loc[str(photo.id)].geometry
        assert (place.y, place.x) == (photo.latitude, photo.longitude)


def test_a_list_without_photographers_is_taken_and_told(
    inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    photos = [fate.photo for fate in FATES[:30]]
    rows = [f"{photo.img_id},{photo.latitude},{photo.longitude}" for photo in photos]
    write_lines(tmp_path / "list.csv", ["IMG_ID,LAT,LON", *rows])
    flags = [*inputs[:2], str(tmp_path / "list.csv"), *inputs[3:], "--val-fraction=0.5"]
    assert build(flags, tmp_path / "out") == 0
    assert "list.csv names no photographers: photos of one person" in capsys.readouterr().err
    index = geopandas.read_parquet(tmp_path / "out" / "index")
    assert len(index) == 30 and set(index.author) == {""}
    assert 5 < (index.split == "val").sum() < 25, "each photo stands for itself"


def test_an_unknown_header_is_refused_before_the_job(
    inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_lines(tmp_path / "list.csv", ["IMG_ID,AUTHOR,y,x", "45/77/1.jpg,5@N00,3,4"])
    flags = [*inputs[:2], str(tmp_path / "list.csv"), *inputs[3:]]
    assert main([*flags, "--output", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert "begins with 'IMG_ID, AUTHOR, y, x'" in told and "the latitude (latitude, lat," in told
    assert not (tmp_path / "out").exists()


@pytest.mark.ci
@pytest.mark.slow
def test_two_processes_give_the_same(inputs: list[str], built: Path, tmp_path: Path) -> None:
    more = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")
    assert build(inputs, tmp_path / "out", *more) == 0
    assert tree(tmp_path / "out") == tree(built)


def test_a_build_that_is_done_is_left_alone(inputs: list[str], built: Path, tmp_path: Path) -> None:
    output = Path(shutil.copytree(built, tmp_path / "out"))
    with pytest.MonkeyPatch.context() as patch:
        launched = stop_at(patch, build_shards, "_launch")
        assert build(inputs, output) == 0
        assert build([], output, "--summarise") == 0
    assert not launched and tree(output) == tree(built)


def test_what_somebody_deleted_is_made_again(
    inputs: list[str], built: Path, tmp_path: Path
) -> None:
    output = Path(shutil.copytree(built, tmp_path / "out"))
    for name in ("_manifest/train-00001.json", "train/train-00001.tar"):
        (output / name).unlink()
    assert build(inputs, output) == 0
    assert tree(output) == tree(built)


# Stopped


@pytest.mark.parametrize(
    ("where", "name", "call"),
    [
        (metadata, "plan_tables", 1),
        (candidates, "encode_isolated", 25),
        (finishing, "copy_without", 2),
    ],
    ids=["planning", "fetching", "finishing"],
)
def test_a_build_that_is_stopped_goes_on(
    inputs: list[str], built: Path, tmp_path: Path, where: object, name: str, call: int
) -> None:
    """What was done stays as it is, and the end is that of a build that was left alone."""
    output = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, where, name, call)
        assert build(inputs, output) == 1
    assert not (output / "summary.json").exists()
    done = {path.stem for path in output.glob("_work/candidates/*.json")}
    with pytest.MonkeyPatch.context() as patch:
        fetched = stop_at(patch, candidates, "_write_candidate")
        read = stop_at(patch, metadata, "read_records")
        assert build(inputs, output) == 0
    shards = {path.stem for path in built.glob("*/*.tar")}
    assert bool(read) == (name == "plan_tables"), "the plan was there"
    assert sorted(fetched) == sorted(shards - done), "a shard is fetched once"
    assert bool(done) == (name != "plan_tables")
    assert tree(output) == tree(built)


def test_too_many_failures_stop_the_job_which_then_goes_on(
    tmp_path: Path, server: PhotoServer, capsys: pytest.CaptureFixture
) -> None:
    photos = make_photos(6, seed=3)
    for photo in photos:
        server.serve(photo.url_path, Answer(status=403))
    urls = write_mp16_urls(tmp_path / "urls.csv", photos, server.url)
    flags = ["--source=mp16", "--input", str(write_places365(tmp_path / "mp16.csv", photos))]
    flags += ["--urls", str(urls), "--min-size=32", "--val-fraction=0"]
    flags.append("--allow-private-addresses")
    assert build(flags, tmp_path / "out") == 1
    told = capsys.readouterr().err
    assert "error: 6 of 6 images of train-00000 could not be fetched" in told
    assert "HTTP status 403" in told and "Traceback" not in told
    assert not list(tmp_path.glob("out/_work/candidates/*"))
    for photo in photos[1:]:
        server.serve(photo.url_path, Answer(photo.image))
    assert build(flags, tmp_path / "out") == 0  # one of six is less than --max-fetch-failures
    assert Counter(dropped_rows(tmp_path / "out").reason) == {"fetch_failed": 1}


# Beside the photos


def test_embeddings_are_those_that_training_would_make(inputs: list[str], tmp_path: Path) -> None:
    """So that it makes no difference whether training sees the pixels."""
    assert build(inputs, tmp_path / "out", "--embed=efficientnet_lite0", "--shard-size=99") == 0
    samples = read_by_webdataset(tmp_path / "out")
    assert samples.keys() == KEPT.keys()
    tars = []
    for split in ("train", "val"):
        members = []
        for key, sample in samples.items():
            if sample["shard"].startswith(split):
                members += [(f"{key}.jpg", sample["jpg"]), (f"{key}.json", sample["json"])]
        tars.append(str(write_tar(tmp_path / f"{split}.tar", members)))
    photos = load_photos(tars, load_image_encoder("efficientnet_lite0"), tmp_path / "cache")
    assert set(photos.keys) == samples.keys()
    for key, embedding in zip(photos.keys, np.asarray(photos.embeddings), strict=True):
        stored = np.load(io.BytesIO(samples[key]["npy"]))
        assert stored.dtype == np.float16 and stored.shape == (1280,)
        np.testing.assert_allclose(stored.astype(np.float32), embedding, rtol=2e-3, atol=2e-3)


def test_the_index_is_geoparquet_with_its_columns(built: Path) -> None:
    import pyarrow.parquet as pq

    for part in (built / "index").iterdir():
        schema = pq.read_schema(part)
        geoparquet.validate(schema)
        assert schema.remove_metadata().equals(INDEX_SCHEMA)
    frame = geopandas.read_parquet(built / "index", bbox=(-180, 0, 180, 90))
    assert len(frame) and (frame.latitude >= 0).all()


def test_the_datasheet_says_what_is_in_it(built: Path) -> None:
    page = (built / "datasheet.md").read_text()
    assert f"{len(KEPT) + 10} records were read, {len(KEPT)} are kept and 10 dropped" in page
    for told in ("`excluded_author`", "benchmark.csv", "`near_duplicate`", "density.png"):
        assert told in page
    assert str(built) not in page and GONE not in page
    assert "**None.**" not in page


def test_a_build_without_a_guard_says_so(
    inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    cut = inputs.index("--exclude")
    assert build(inputs[:cut], tmp_path / "out") == 0
    assert "no benchmark is excluded" in capsys.readouterr().err
    assert "**None.**" in (tmp_path / "out" / "datasheet.md").read_text()


def test_photographers_stay_in_the_index(built: Path) -> None:
    for tar in built.glob("*/*.tar"):
        assert b"@N00" not in tar.read_bytes()
    for name in ("summary.json", "datasheet.md", "run.json"):
        assert "@N00" not in (built / name).read_text()


def test_counts_that_do_not_add_up_are_told(
    inputs: list[str], built: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for damage in ("dropped/part-link-00000.parquet", "index/part-train-00000.parquet", "tar"):
        output = Path(shutil.copytree(built, tmp_path / damage.replace("/", "-")))
        if damage == "tar":
            with (output / "train/train-00000.tar").open("ab") as file:
                file.write(bytes(512))
        else:
            (output / damage).unlink()
        assert build([], output, "--summarise") == 1
        told = capsys.readouterr()
        assert "COUNT MISMATCH" in told.out and "do not add up" in told.err


def test_the_map_of_density(tmp_path: Path) -> None:
    from pipelines.build_shards.density_map import CELLS, draw_density

    cells = CELLS.index([48.9, 48.9, -33.9, 90.0], [2.3, 2.3, 151.2, 0.0])
    counts = {int(cell): 5 for cell in cells}
    picture = draw_density(counts, "Photos")
    assert picture == draw_density(dict(reversed(counts.items())), "Photos")
    image = Image.open(io.BytesIO(picture))
    assert image.width > 1000
    assert draw_density({}, "Photos") != picture


# Mistakes

MISTAKES = {
    "nothing": ([], "required: --source, --input, --output"),
    "source": (["--source=flickr"], "invalid choice: 'flickr'"),
    "misspelt": (["--val-fractoin=0.1"], "did you mean --val-fraction?"),
    "no images": (
        ["--images="],
        "finds its images by --images or --images --messages or --images --tars or --urls",
    ),
    "two ways": (["--urls", "u.csv"], "found --images --urls"),
    "hashes": (["--hashes", "h.txt"], "found --images --hashes"),
    "accuracy": (["--min-accuracy=3"], "the records of mp16 tell no accuracy"),
    "licences": (["--licences", "by"], "the records of mp16 tell no licence"),
    "licence": (["--licences", "gpl"], "invalid choice: 'gpl'"),
    "quality": (["--jpeg-quality=100"], "--jpeg-quality is 100, wanted 1 to 95"),
    "fraction": (["--val-fraction=1.5"], "wanted a number between 0 and 1"),
    "cells": (["--cell-degrees=0"], "--cell-degrees is 0, wanted 0.01 to 90"),
    "list": (["--input", "none.csv"], "no file matches 'none.csv'"),
    "guard": (["--exclude", "none.csv"], "no file matches 'none.csv'"),
    "encoder": (["--embed=resnet"], "image encoder 'resnet' is unknown"),
    "dask": (["--runner=DaskRunner"], "DaskRunner mixes"),
    "waiting": (["--no-wait"], "nothing would run"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_in_one_line(
    mistake: str, inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    flags, said = MISTAKES[mistake]
    given = [*inputs, "--output", str(tmp_path / "out"), *flags] if flags else []
    assert main(given) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1 and told.startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_a_folder_is_no_list(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "tars").mkdir()
    flags = ["--source", "webdataset", "--input", str(tmp_path / "tars")]
    assert main([*flags, "--output", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert "is a folder, wanted files" in told and told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_directory_of_somebody_else_is_refused_and_overwrite_deletes_only_ours(
    inputs: list[str], built: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "out"
    (output / "train").mkdir(parents=True)
    assert build(inputs, output) == 2
    assert "already holds train but no run.json" in capsys.readouterr().err
    (output / "train").rmdir()
    shutil.copytree(built, output, dirs_exist_ok=True)
    (output / "notes.txt").write_text("mine")
    (output / "train" / "mine.txt").write_text("mine")
    assert build(inputs, output, "--seed=1") == 2
    assert "seed 0 there, 1 now" in capsys.readouterr().err
    assert build(inputs, output, "--shard-size=1000", "--overwrite") == 0
    assert [path.name for path in output.glob("*/*.tar")] == ["train-00000.tar", "val-00000.tar"]
    assert (output / "notes.txt").read_text() == (output / "train/mine.txt").read_text() == "mine"


def test_a_changed_list_is_another_build(
    inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    flags = [*inputs[:2], str(write_places365(tmp_path / "mp16.csv", LISTED[:5])), *inputs[3:]]
    assert build(flags, tmp_path / "out") == 0
    write_places365(tmp_path / "mp16.csv", LISTED[:6])
    assert build(flags, tmp_path / "out") == 2
    assert "holds another build: metadata" in capsys.readouterr().err


def test_nothing_kept_is_a_failure(
    inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    gone = [fate.photo for fate in FATES if fate.fate in ("no_image", "excluded_author")]
    flags = [*inputs[:2], str(write_places365(tmp_path / "mp16.csv", gone)), *inputs[3:]]
    assert build(flags, tmp_path / "out") == 1
    assert "none of 2 records is kept" in capsys.readouterr().err
    assert not list(tmp_path.glob("out/*/*.tar"))
    flags[2] = str(write_places365(tmp_path / "empty.csv", []))
    assert build(flags, tmp_path / "empty") == 1
    assert "no record was read" in capsys.readouterr().err


def test_licences_and_accuracy_of_yfcc100m(tmp_path: Path, server: PhotoServer) -> None:
    photos = make_photos(30)
    images = write_hash_folder(tmp_path / "images", photos)
    flags = ["--source=yfcc100m", "--input", str(write_yfcc100m(tmp_path / "list", photos, 25))]
    flags += ["--images", str(images), "--min-size=32", "--min-accuracy=13", "--licences", "by"]
    assert build(flags, tmp_path / "out") == 0
    wanted = {str(p.id) for p in photos if p.accuracy >= 13 and p.licence != BY_NC}
    index = geopandas.read_parquet(tmp_path / "out" / "index")
    assert set(index.key) == wanted and (index.accuracy >= 13).all()
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["licences"] == {"by": len(wanted)}
    assert summary["dropped_by_reason"].keys() == {"licence", "low_accuracy"}


def test_help_teaches() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.build_shards", "--help"],
        capture_output=True,
        text=True,
        env=python_path(),
    )
    assert done.returncode == 0
    for told in ("--exclude", "shard_*.msg", "by-nc-sa", "exit status", "goes on where it was"):
        assert told in done.stdout
