"""Tables of photos: what is read of them, how they are cut, and what strangers may write in."""

import csv
import datetime
import io
import os
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from locdiffusion.photos.archive import Sample
from locdiffusion.photos.capture_time import Capture, CaptureTime, TimeSource
from locdiffusion.photos.coordinates import Source
from locdiffusion.photos.listing import list_shards
from locdiffusion.photos.storage import DataError
from locdiffusion.photos.table import (
    GROUP_MOST,
    TableRow,
    is_table,
    list_groups,
    open_table,
    place_of,
)
from locdiffusion.photos.table_reader import TableReader, own_prior
from schemas.geotags import ErrorRow, Status
from schemas.samples import Truth

JPEG = io.BytesIO()
Image.new("RGB", (8, 8), (10, 20, 30)).save(JPEG, "JPEG")


def csv_of(path: Path, rows: list[dict], delimiter: str = ",", encoding: str = "utf-8") -> str:
    with open(path, "w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def parquet_of(path: Path, columns: dict, **settings) -> str:
    pq.write_table(pa.table(columns), path, **settings)
    return str(path)


def photo(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(JPEG.getvalue())
    return path


def items(table: str, follow_links: bool = False) -> list[Sample | ErrorRow]:
    return [
        item
        for _, group in list_groups(table, follow_links)
        for item in TableReader((), group=group)
    ]


def groups(table: str) -> dict[str, str]:
    return {mark: group.version for mark, group in list_groups(table)}


def test_text_and_parquet_say_the_same(tmp_path):
    rows = [
        {
            " Image_Path ": f"é/{n}.jpg",
            "Prior": "country:NO" if n % 2 else "",
            "lat": 0.1 * n - 3,
            "longitude": n,
            "x": "-",
        }
        for n in range(50)
    ]
    columns = {column: [row[column] for row in rows] for column in rows[0]}
    parquet = parquet_of(tmp_path / "t.parquet", columns, row_group_size=20)
    wanted = open_table(parquet).rows(0, 99)
    assert len(wanted) == 50 and wanted[1][:3] == ("é/1.jpg", "é/1.jpg", "country:NO")
    for name, delimiter, encoding in (
        ("a.csv", ",", "utf-8"),
        ("b.CSV", ";", "utf-8-sig"),
        ("c.tsv", "\t", "utf-8"),
        ("d.csv", ",", "utf-8-sig"),
    ):
        found = open_table(csv_of(tmp_path / name, rows, delimiter, encoding)).rows(0, 99)
        for one, other in zip(found, wanted, strict=True):
            assert one[:3] == other[:3]
            assert [float(x) for x in one[3:5]] == [float(x) for x in other[3:5]]


def test_a_parquet_of_any_column_types(tmp_path):
    moment = datetime.datetime(2024, 5, 17, 10, 30, tzinfo=datetime.timezone.utc)
    table = parquet_of(
        tmp_path / "t.parquet",
        {
            "url": pa.array(["a.jpg", None]).dictionary_encode(),
            "key": pa.array([7, 8]),
            "latitude": pa.array([52.5, np.nan], pa.float32()),
            "longitude": pa.array([13.0, np.nan]),
            "captured_at": pa.array([moment, None], pa.timestamp("ns", "America/New_York")),
            "prior": pa.nulls(2),
            "modes": pa.array([[1], []]),
        },
    )
    first, second = open_table(table).rows(0, 9)
    assert first[:5] == ("a.jpg", "7", "", "52.5", "13")
    assert second[:2] == ("", "8")
    photo(tmp_path / "a.jpg")
    sample, error = items(table)
    assert sample.sidecar.position == Truth(52.5, 13.0)
    assert sample.sidecar.source is Source.TABLE
    time = CaptureTime(moment.replace(tzinfo=None), TimeSource.TABLE, 0)
    assert sample.sidecar.capture == Capture(time)
    assert (error.key, error.status) == ("8", Status.MISSING_IMAGE)
    assert "row 2 of t.parquet names no photo" in error.message


def test_an_added_or_changed_row_changes_its_group_and_no_other(tmp_path):
    rows = [{"path": f"{n:05}.jpg", "prior": ""} for n in range(6000)]
    before = groups(csv_of(tmp_path / "t.csv", rows))
    assert len(before) >= 6 and len(set(before)) == len(before)
    rows.insert(3000, {"path": "new.jpg", "prior": ""})
    after = groups(csv_of(tmp_path / "t.csv", rows))
    assert len(before.items() - after.items()) == 1
    rows[10]["prior"] = "country:NO"
    last = groups(csv_of(tmp_path / "t.csv", rows))
    assert set(last) == set(after) and len(last.items() - after.items()) == 1
    counts = [group.count for _, group in list_groups(str(tmp_path / "t.csv"))]
    assert sum(counts) == 6001 and max(counts) <= GROUP_MOST


def test_a_photo_that_is_written_again_changes_its_group(tmp_path):
    photo(tmp_path / "a.jpg")
    table = csv_of(tmp_path / "t.csv", [{"path": "a.jpg"}])
    before = groups(table)
    assert groups(table) == before
    (tmp_path / "a.jpg").write_bytes(b"another")
    assert groups(table).keys() == before.keys() and groups(table) != before


def test_every_row_is_one_item_with_a_key_of_its_own(tmp_path):
    for name in ("a.jpg", "b/c.jpg"):
        photo(tmp_path / name)
    rows = ["a.jpg", "./a.jpg", "b/c.jpg", "b/../a.jpg", "", "", "gone.jpg", "b", "a.jpg/x"]
    found = items(csv_of(tmp_path / "t.csv", [{"path": row, "n": "1"} for row in rows]))
    assert len(found) == len({item.key for item in found}) == len(rows)
    assert [item.key for item in found if isinstance(item, Sample)] == ["a.jpg", "b/c.jpg"]
    statuses = [item.status for item in found if isinstance(item, ErrorRow)]
    assert statuses.count(Status.DUPLICATE_KEY) == 3
    assert statuses.count(Status.MISSING_IMAGE) == 4


def test_the_same_rows_again_are_another_group(tmp_path):
    rows = [{"path": f"{n}.jpg", "key": f"{n}"} for n in range(3 * GROUP_MOST)]
    shards = list_shards([csv_of(tmp_path / "t.csv", rows * 2)], tables=True)
    assert len({shard.id for shard in shards}) == len(shards)
    repeated = [row for shard in shards for row in shard.table.rows() if row.repeats]
    assert len(repeated) == len(rows) and repeated[5].key == "5#2"


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("../../etc/passwd", "lies outside of the folder of its table"),
        ("a/../../secret.jpg", "lies outside of the folder"),
        ("/etc/passwd", "lies outside of the folder"),
        ("..", "lies outside of the folder"),
        ("file:///etc/passwd", "has the protocol 'file', wanted a path, gs:// or s3://"),
        ("local:///etc/passwd", "protocol 'local'"),
        ("memory://a.jpg", "protocol 'memory'"),
        ("simplecache::file:///etc/passwd", "'::' in a place"),
        ("gs://b/a.zip::file:///etc/passwd", "'::' in a place"),
        ("http://169.254.169.254/a.jpg", "on the web, from where nothing is read here"),
        ("HTTPS://example.org/a.jpg", "on the web"),
        ("GS://b/a.jpg", "protocol 'GS'"),
        ("a\0.jpg", "names no place of a file"),
        ("x" * 5000 + ".jpg", "names no place of a file"),
    ],
)
def test_what_a_table_lists_is_a_name_and_leads_nowhere_else(tmp_path, uri, says):
    photo(tmp_path / "secret.jpg")
    folder = tmp_path / "in"
    folder.mkdir()
    table = parquet_of(folder / "t.parquet", {"path": [uri], "key": ["k"]})
    (found,) = items(table)
    assert (found.key, found.status) == ("k", Status.MISSING_IMAGE)
    assert says in found.message and len(found.message) < 500


def test_links_and_paths_that_lead_out_are_read_where_that_is_wished_for(tmp_path):
    outside, folder = photo(tmp_path / "out" / "a.jpg"), tmp_path / "in"
    photo(folder / "own.jpg")
    (folder / "link.jpg").symlink_to(outside)
    (folder / "pipe.jpg").unlink(missing_ok=True)
    os.mkfifo(folder / "pipe.jpg")
    rows = [
        "own.jpg",
        str(folder / "own.jpg"),
        "link.jpg",
        str(outside),
        "../out/a.jpg",
        "pipe.jpg",
    ]
    table = csv_of(folder / "t.csv", [{"path": row, "key": f"{n}"} for n, row in enumerate(rows)])
    closed = [isinstance(item, Sample) for item in items(table)]
    assert closed == [True, True, False, False, False, False]
    followed = [isinstance(item, Sample) for item in items(table, follow_links=True)]
    assert followed == [True, True, True, True, True, False]


def test_a_table_in_a_bucket_names_what_lies_beside_it_and_in_buckets():
    def at(uri: str) -> str:
        row = TableRow(uri, "k", "", "", "", "", 0)
        found = place_of(row, "gs://b/lists/t.csv", follow_links=True)
        return found.problem or found.photo.url

    assert at("a/b.jpg") == "gs://b/lists/a/b.jpg"
    assert at("s3://c/d.jpg") == "s3://c/d.jpg"
    for uri in ("../x.jpg", "/etc/passwd", "a/../../../x.jpg"):
        assert "lies outside of the folder of its table, gs://b/lists" in at(uri)


@pytest.mark.parametrize(
    ("latitude", "longitude", "captured_at", "problem"),
    [
        ("91", "0", "", "latitude is 91"),
        ("52.5", "", "", "only one of latitude and longitude"),
        ("52.5", "nan", "", "only one of latitude and longitude"),
        ("inf", "1", "", "no degrees"),
        ("here", "there", "", "here"),
        ("1", "2", "yesterday", "captured_at is 'yesterday', wanted a time"),
        ("1", "2", "9" * 50, "wanted a time"),
        ("1", "2", "0001-01-01T00:00:00+23:59", "wanted a time"),
        ("1", "2", "2024-05-17T10:30:00", ""),
    ],
)
def test_a_position_or_time_that_cannot_be_costs_itself_only(
    tmp_path, latitude, longitude, captured_at, problem
):
    photo(tmp_path / "a.jpg")
    row = {"path": "a.jpg", "lat": latitude, "lon": longitude, "captured_at": captured_at}
    ((_, group),) = list_groups(csv_of(tmp_path / "t.csv", [row]))
    reader = TableReader((), group=group)
    (sample,) = reader
    assert isinstance(sample, Sample)
    assert bool(sample.sidecar.position) is (not problem or "wanted a time" in problem)
    if problem:
        assert problem in reader.problems[0] and "row 1 of t.csv" in reader.problems[0]


@pytest.mark.parametrize(
    ("prior", "wanted"),
    [("", None), (" Land ", "land"), ("country:se;country:NO", "country:NO;country:SE")],
)
def test_a_prior_of_one_photo(tmp_path, prior, wanted):
    photo(tmp_path / "a.jpg")
    (sample,) = items(csv_of(tmp_path / "t.csv", [{"path": "a.jpg", "prior": prior}]))
    assert sample.prior == wanted == own_prior(prior)


@pytest.mark.parametrize(
    "prior",
    ["/etc/passwd", "prior.geojson", "gs://b/p.parquet", "country:XX", "1,2,0km", "x" * 9999],
)
def test_a_prior_that_cannot_be_understood_costs_its_photo(tmp_path, prior):
    photo(tmp_path / "a.jpg")
    photo(tmp_path / "b.jpg")
    rows = [{"path": "a.jpg", "prior": prior}, {"path": "b.jpg", "prior": ""}]
    error, sample = items(csv_of(tmp_path / "t.csv", rows))
    assert (error.key, error.status) == ("a.jpg", Status.BAD_PRIOR)
    assert "the prior in row 1 of t.csv" in error.message and len(error.message) < 700
    assert isinstance(sample, Sample)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "is empty"),
        (b"path\n", "has no rows"),
        (
            b"a,b\n1,2\n",
            "none of which is known as the place of the photo; rename it to one of uri",
        ),
        (b"path,Path\na,b\n", "has two columns 'path'"),
        (b"path,prior,PRIOR\na,b,c\n", "has two columns 'prior'"),
        (b"path,key\na.jpg\n", "line 2: 'a.jpg', wanted 2 columns"),
        (b"path\n" + b"x" * 2**20, "a row has more than"),
        ("path\né.jpg\n".encode("utf-16"), "cannot be read"),
        (b"path\n\xff\n", "cannot be read"),
    ],
)
def test_a_text_that_is_no_table_is_refused_before_the_job(tmp_path, text, says):
    (tmp_path / "t.csv").write_bytes(text)
    with pytest.raises(DataError, match=says):
        list_shards([str(tmp_path / "t.csv")], tables=True)


def test_a_parquet_that_is_none_is_refused_before_the_job(tmp_path):
    table = tmp_path / "t.parquet"
    for content in (b"", b"PAR1" * 10):
        table.write_bytes(content)
        with pytest.raises(DataError, match="cannot be read"):
            list_shards([str(table)], tables=True)
    parquet_of(table, {"image": pa.array([b"\xff\xd8"]), "key": ["a"]})
    with pytest.raises(DataError, match="the column 'image' holds binary, wanted text or numbers"):
        list_shards([str(table)], tables=True)
    parquet_of(table, {"image": pa.array([{"path": "a.jpg"}]), "n": ["a"]})
    with pytest.raises(DataError, match="none of which is known"):
        list_shards([str(table)], tables=True)
    pq.write_table(pa.table([["a"], ["b"]], ["path", "path"]), table)
    with pytest.raises(DataError, match="two columns"):
        list_shards([str(table)], tables=True)
    whole = Path(parquet_of(table, {"path": [f"{n}.jpg" for n in range(5000)]})).read_bytes()
    table.write_bytes(whole[:50] + b"\0" * 400 + whole[450:])
    with pytest.raises(DataError, match="cannot be read"):
        list_shards([str(table)], tables=True)


def test_a_dictionary_of_huge_cells_is_refused_in_bounds(tmp_path):
    """Kilobytes that stand for 20 GB, in one group of rows and in many."""
    value = pa.array(["x" * 2**20])
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000), value)
    for size in (20_000, 200):
        table = parquet_of(tmp_path / "t.parquet", {"path": column}, row_group_size=size)
        assert os.path.getsize(table) < 2**23
        with pytest.raises(DataError, match=r"MiB|memory|limit"):
            list_shards([table], tables=True)


def test_huge_cells_are_cut_and_are_errors(tmp_path):
    rows = {"path": ["a" * 10**6, "b" * 10**6], "key": ["k" * 10**6, "short"]}
    found = items(parquet_of(tmp_path / "t.parquet", rows))
    assert [item.status for item in found] == [Status.NAME_TOO_LONG, Status.MISSING_IMAGE]
    assert all(len(item.key) < 500 and len(item.message) < 500 for item in found)


def test_a_table_that_changes_after_it_was_listed_is_tried_again(tmp_path):
    photo(tmp_path / "a.jpg")
    table = csv_of(tmp_path / "t.csv", [{"path": "a.jpg"}])
    ((_, group),) = list_groups(table)
    csv_of(tmp_path / "t.csv", [{"path": "b.jpg"}, {"path": "a.jpg"}])
    reader = TableReader((), group=group)
    (error,) = reader
    assert error.key is None and error.status is Status.SHARD_UNREADABLE
    assert "has changed since it was listed" in error.message and reader.read_failed
    (tmp_path / "t.csv").unlink()
    (error,) = TableReader((), group=group)
    assert error.status is Status.SHARD_UNREADABLE


def test_only_a_named_file_is_a_table(tmp_path):
    photo(tmp_path / "a.jpg")
    table = csv_of(tmp_path / "photos.csv", [{"path": "a.jpg"}])
    (folder,) = list_shards([str(tmp_path)], tables=True)
    (other,) = list_shards([table])  # as for a command that reads no tables
    assert other.table is None
    assert folder.table is None and [photo.key for photo in folder.photos] == ["a.jpg"]
    (named,) = list_shards([table], tables=True)
    assert named.table is not None and named.folder == table
    assert is_table("gs://b/LIST.Parquet") and not is_table("photos.csv.tar")


def test_of_many_rows_a_job_knows_little(tmp_path):
    count = 30_000
    table = parquet_of(
        tmp_path / "t.parquet",
        {"uri": [f"gs://bucket/photos/{n:012}.jpg" for n in range(count)]},
        row_group_size=10_000,
    )
    shards = list_shards([table], tables=True)
    assert sum(shard.table.count for shard in shards) == count
    assert sum(len(pickle.dumps(shard)) for shard in shards) < 2 * count
