"""The pages of an albums job hold each row, are bounded, and trust none of the names in them."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from locdiffusion.evaluate.reliability import wilson
from locdiffusion.sphere.geodesy import great_circle_km
from pipelines.albums.output import PAGES
from pipelines.albums.pages import counts, rows, write_album_pages
from pipelines.albums.pages.counts import AlbumCounts, Contradiction, Lengths
from pipelines.albums.pages.parts import parts_of
from pipelines.albums.pages.report import length_text, span_text, why
from pipelines.albums.pages.rows import album_rows, shown_albums
from pipelines.writing.directory import OutputDirectory
from schemas.albums import Standing
from support.album_jobs import run
from support.album_rows import album_columns, trip, write_albums
from support.outputs import HOSTILE_KEY, tree
from support.packed import page_json, unpacked


def parts(root):
    """The rows of a made-up job."""
    return parts_of(OutputDirectory(str(root)))


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Three albums in two parts: one with contradictions, one without anchors, one of one photo."""
    root = tmp_path_factory.mktemp("job")
    alps = album_columns("2015 Alps", *trip(120, 1, wrong=2))
    write_albums(root, alps, part="0")
    nowhere = album_columns("nowhere", *trip(9, 3, anchors=0.0))
    write_albums(root, nowhere, album_columns("one", *trip(1, 4, anchors=1.0)), part="1")
    write_album_pages(str(root))
    return root


def table_of(root):
    """All rows of a made-up job."""
    return pa.concat_tables(pq.read_table(one) for one in sorted((root / "albums").iterdir()))


def test_the_folder_of_rows_can_still_be_read_as_one_table(job):
    assert {*PAGES} == {path.name for path in job.iterdir() if path.is_file()}
    assert len(pq.read_table(job / "albums")) == 130


def test_the_map_holds_every_row_once_in_the_order_of_time(job):
    data = page_json(job / "albums.html")
    table = table_of(job)
    assert sorted(data["key"]) == sorted(table["key"].to_pylist())
    assert data["albums"] == ["2015 Alps", "nowhere", "one"]
    assert data["first"] == [0, 120, 129, 130] and data["photos"] == [120, 9, 1]
    columns = {name: unpacked(column) for name, column in data["columns"].items()}
    by_key = table.take(pc.index_in(pa.array(data["key"]), value_set=table["key"].combine_chunks()))
    for name in ("latitude", "radius_90_km", "hours_before", "alone_radius_50_km"):
        wanted = np.asarray(by_key[name], np.float32)
        np.testing.assert_allclose(columns[name], np.where(np.isinf(wanted), np.nan, wanted))
    assert [data["standings"][i] for i in columns["standing"]] == by_key["standing"].to_pylist()
    for start, end in zip(data["first"], data["first"][1:], strict=False):
        assert (np.diff(columns["utc"][start:end]) >= 0).all()
    np.testing.assert_allclose(columns["utc"] + 3600.0, columns["captured_at"])
    wrong = columns["standing"] == data["standings"].index("contradicts")
    np.testing.assert_allclose(columns["known_longitude"][wrong], [151.2] * 2, rtol=1e-6)
    assert data["anchors"] == [int(n) for n in (sum(columns["standing"][:120] == 0), 0, 1)]
    assert data["title"] == "130 photos of 3 albums" and data["subtitle"] == ""


def test_equal_rows_give_equal_pages_in_however_many_parts(job, tmp_path):
    table = table_of(job)
    (tmp_path / "albums").mkdir()
    for start in range(0, 130, 47):
        pq.write_table(table.slice(start, 47), tmp_path / f"albums/part-{start:03}.parquet")
    write_album_pages(str(tmp_path))
    ours = {name: data for name, data in tree(tmp_path).items() if name in PAGES}
    assert ours == {name: (job / name).read_bytes() for name in PAGES}


def test_counts_are_those_of_a_plain_loop(job):
    found, table = AlbumCounts.of(parts(job)), table_of(job).to_pylist()
    for standing in Standing:
        assert found.total(standing) == sum(row["standing"] == standing.value for row in table)
    placed = [row for row in table if row["standing"] == "placed"]
    errors = [
        great_circle_km(*(row[f"{a}{b}"] for a in ("", "truth_") for b in counts.AXES))
        for row in placed
    ]
    pairs = list(zip(placed, errors, strict=True))
    assert found.inside["n"] == len(placed)
    assert found.inside["radius_50_km"] == sum(e <= row["radius_50_km"] for row, e in pairs)
    assert found.inside["alone_n"] == sum(row["alone_latitude"] is not None for row in placed)
    median = np.median([row["radius_90_km"] for row in placed])
    assert found.radius_90.quantile(0.5) == pytest.approx(median, rel=0.06)
    assert [one.key for one in found.contradictions] == [
        row["key"] for row in table if row["standing"] == "contradicts"
    ]


def test_lengths_have_the_quantiles_of_their_numbers():
    rng = np.random.default_rng(0)
    gap, km = np.exp(rng.normal(0.0, 3.0, 4000)), np.exp(rng.normal(3.0, 2.0, 4000))
    gap[:100] = np.nan
    whole, first, second = Lengths(), Lengths(), Lengths()
    whole.add(gap, km)
    first.add(gap[:7], km[:7])
    second.add(gap[7:], km[7:])
    np.testing.assert_array_equal(whole.table, first.table + second.table)
    for share in (0.1, 0.5, 0.9):
        assert whole.quantile(share) == pytest.approx(np.quantile(km, share), rel=0.04)
    last = km[(gap > counts.GAP_ENDS[-1]) | np.isnan(gap)]
    assert whole.by_gap(0.5)[-1] == pytest.approx(np.median(last), rel=0.1)
    assert np.isnan(Lengths().quantile(0.5))


def test_the_report_says_what_the_rows_say(job):
    text = (job / "albums_report.html").read_text("utf-8")
    assert "2 photos that contradict the rest" in text and "33.90° S, 151.20° E" in text
    found = AlbumCounts.of(parts(job))
    share = wilson(found.inside["radius_90_km"], found.inside["n"], 0.95).value
    assert f"90 % radius: {100 * share:.1f} %" in text
    assert text.count("<svg") == 2
    for name in ("2015 Alps", "nowhere", "one"):
        assert f">{name}</th>" in text
    assert 'href="albums.html"' in text and 'href="albums_report.html"' in (
        job / "albums.html"
    ).read_text("utf-8")


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ((0.0, 0.0, 5000.0, 1.0), "software writes for no position"),
        ((np.nan, np.nan, np.nan, 1.0), "is not in the table"),
        ((10.0, 20.0, np.nan, np.nan), "the album does not place it"),
        ((10.0, 20.0, 5000.0, 2.0), "2.0 hours from the nearest anchor: 2,500 km/h"),
        ((10.0, 20.0, 0.25, 0.0), "250 m from where the album places it"),
    ],
)
def test_each_contradiction_has_its_reason(values, wanted):
    told = why(Contradiction("a", "k", None, *values))
    assert wanted.replace("2.0 hours", span_text(2.0)) in told


@pytest.mark.parametrize(
    ("km", "text"), [(0.0213, "21 m"), (7.734, "7.73 km"), (99.96, "100 km"), (16512, "16,500 km")]
)
def test_lengths_in_words(km, text):
    assert length_text(km) == text


@pytest.mark.parametrize(
    ("hours", "text"),
    [(0.001, "1 minute"), (0.8, "48 minutes"), (3.25, "3.25 hours"), (72, "3 days")],
)
def test_times_in_words(hours, text):
    assert span_text(hours) == text


def test_hostile_names_cannot_leave_their_place(tmp_path):
    columns = album_columns(HOSTILE_KEY, *trip(30, 1, wrong=1), keys=[HOSTILE_KEY] * 30)
    columns["country_code"] = ["</script><b>"] * 30
    write_albums(tmp_path, columns)
    write_album_pages(str(tmp_path))
    for name in PAGES:
        text = (tmp_path / name).read_text("utf-8")
        assert "alert(1)</script>" not in text and "\u2028" not in text
        assert (
            text.count("<script") == text.count("</script>") == (2 if name == "albums.html" else 1)
        )
    data = page_json(tmp_path / "albums.html")
    assert data["albums"] == [HOSTILE_KEY] and set(data["key"]) == {HOSTILE_KEY}
    policies = re.findall(
        r'Policy" content="([^"]+)"', (tmp_path / "albums.html").read_text("utf-8")
    )
    assert len(policies) == 1 and "default-src 'none'" in policies[0]


def test_what_a_page_cannot_hold_is_left_out_and_told(job, tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "MOST_OF_ALBUM", 50)
    monkeypatch.setattr(rows, "MOST_ROWS", 55)
    found = AlbumCounts.of(parts(job))
    few = album_rows(parts(job), found)
    assert few.albums == ("2015 Alps",) and few.photos.tolist() == [120]
    assert len(few) == 40 and few.first.tolist() == [0, 40], "every third row of 120"
    write_albums(
        tmp_path, album_columns("2015 Alps", *trip(120, 1)), album_columns("b", *trip(9, 2))
    )
    write_album_pages(str(tmp_path))
    told = page_json(tmp_path / "albums.html")["subtitle"]
    assert (
        told == "1 album shown, with the most photos placed; of the longest albums every few photos"
    )


def test_albums_with_the_most_to_show_come_first():
    def made(anchors, placed, contradicts):
        found = np.zeros(len(Standing), np.int64)
        found[:3] = anchors, placed, contradicts
        return found

    given = {"a": made(90, 0, 0), "b": made(1, 5, 0), "c": made(1, 2, 4), "d": made(1, 5, 0)}
    assert shown_albums(given) == ("c", "b", "d", "a")


def test_a_thousand_albums(tmp_path):
    one = album_columns("x", *trip(4, 1, anchors=0.5))
    many = [{**one, "album": [f"album {i:04}"] * 4} for i in range(1000)]
    write_albums(tmp_path, *many)
    write_album_pages(str(tmp_path))
    data = page_json(tmp_path / "albums.html")
    assert len(data["albums"]) == 1000 and len(data["key"]) == 4000
    assert "The 50 largest; 950 albums more." in (tmp_path / "albums_report.html").read_text(
        "utf-8"
    )


def test_a_job_without_rows_has_pages(tmp_path):
    write_album_pages(str(tmp_path))
    assert page_json(tmp_path / "albums.html")["title"] == "0 photos of 0 albums"
    assert "There is no row" in (tmp_path / "albums_report.html").read_text("utf-8")


def test_a_part_of_something_else_is_refused_with_its_name(tmp_path):
    (tmp_path / "albums").mkdir()
    pq.write_table(pa.table({"key": ["a"]}), tmp_path / "albums/part-7.parquet")
    with pytest.raises(ValueError, match=r"part-7.parquet has no column album"):
        write_album_pages(str(tmp_path))
    table = table_of_one(standing="lost")
    pq.write_table(table, tmp_path / "albums/part-7.parquet")
    with pytest.raises(ValueError, match="standing is 'lost'; want one of anchor, placed"):
        write_album_pages(str(tmp_path))


def table_of_one(**columns):
    """A table of one row whose standing is changed."""
    from schemas.albums import album_table

    given = {"key": ["k"], "album": ["a"]} | {name: [value] for name, value in columns.items()}
    return album_table(given)


def test_rows_with_nothing_but_what_must_be_there(tmp_path):
    (tmp_path / "albums").mkdir()
    pq.write_table(table_of_one(standing="no_time"), tmp_path / "albums/part-0.parquet")
    write_album_pages(str(tmp_path))
    data = page_json(tmp_path / "albums.html")
    assert data["columns"]["latitude"]["base64"] == "" and json.dumps(data["first"]) == "[0, 1]"


def test_the_command_writes_the_pages_and_a_page_that_fails_loses_no_row(
    tmp_path, capsys, monkeypatch
):
    text = "\n".join(
        f"{i},trip,2016-05-01T{i:02}:00:00,{48 + i if i % 3 else ''},{11 if i % 3 else ''}"
        for i in range(20)
    )
    table = tmp_path / "photos.csv"
    table.write_text(f"key,album,captured_at,latitude,longitude\n{text}\n", "utf-8")
    assert run("--table", table, "--output", tmp_path / "out") == 0
    assert f"{tmp_path}/out/albums.html" in capsys.readouterr().out
    data = page_json(tmp_path / "out/albums.html")
    assert len(data["key"]) == 20 and data["albums"] == ["trip"]
    before = tree(tmp_path / "out")
    assert run("--table", table, "--output", tmp_path / "out", "--summarise") == 0
    assert tree(tmp_path / "out") == before
    monkeypatch.setattr("pipelines.albums.pages.writing.album_rows", lambda *_: 1 / 0)
    capsys.readouterr()
    assert run("--table", table, "--output", tmp_path / "other") == 0
    printed = capsys.readouterr()
    assert "a page is missing (ZeroDivisionError" in printed.err
    assert "albums.html" not in printed.out
