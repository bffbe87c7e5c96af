"""GPX files: points with times, of both versions, and what must not be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from locdiffusion.photos.gpx import Tracks, read_tracks
from locdiffusion.photos.storage import DataError

NAMESPACE = 'xmlns="http://www.topografix.com/GPX/1/1"'
HOURS_2015 = (16436 * 24) + 8.0
"""Hours from 1970 to 2015-01-01 08:00."""


def point(kind: str, latitude: str, longitude: str, time: str) -> str:
    return f'<{kind} lat="{latitude}" lon="{longitude}"><ele>5</ele><time>{time}</time></{kind}>'


def gpx(path: Path, content: str, head: str = f'<gpx version="1.1" {NAMESPACE}>') -> str:
    path.write_text(f'<?xml version="1.0"?>{head}{content}</gpx>', encoding="utf-8")
    return str(path)


def track(*points: str) -> str:
    return f"<metadata><time>2001-02-03T00:00:00Z</time></metadata><trk><trkseg>{''.join(points)}"


def test_points_of_both_versions(tmp_path: Path) -> None:
    first = gpx(
        tmp_path / "a.gpx",
        track(
            point("trkpt", "48.5", "11.25", "2015-01-01T09:00:00Z"),
            point("trkpt", "48.6", "11.25", "2015-01-01T09:00:05Z"),
            point("trkpt", "48.7", "11.25", "2015-01-01T12:00:00+02:00"),
            "<trkpt lat='48' lon='11'/>",
        )
        + "</trkseg></trk>",
    )
    old = '<gpx version="1.0" xmlns="http://www.topografix.com/GPX/1/0">'
    second = gpx(tmp_path / "b.gpx", point("wpt", "-33", "-70.5", "2015-01-01T08:00:00.5"), old)
    found = read_tracks([first, second])
    assert_allclose(found.hours - HOURS_2015, [0.5 / 3600, 1.0, 2.0], atol=1e-6)
    assert_allclose(found.latitude, [-33.0, 48.5, 48.7])
    assert_allclose(found.longitude, [-70.5, 11.25, 11.25])
    assert found == read_tracks([second, first]) and hash(found) == hash(
        read_tracks([second, first])
    )
    assert found != read_tracks([first])


def test_prefixes_and_extensions(tmp_path: Path) -> None:
    head = '<g:gpx version="1.1" xmlns:g="http://www.topografix.com/GPX/1/1">'
    inner = "<g:extensions><g:time>1999-01-01T00:00:00Z</g:time></g:extensions>"
    place = f'<g:trkpt lat="1" lon="2">{inner}<g:time>2015-01-01T08:00:00Z</g:time></g:trkpt>'
    path = tmp_path / "a.gpx"
    path.write_text(f"{head}<g:trk><g:trkseg>{place}</g:trkseg></g:trk></g:gpx>")
    assert_allclose(read_tracks([str(path)]).hours, [HOURS_2015])


def test_points_that_are_none_are_left_out(tmp_path: Path) -> None:
    points = [
        point("trkpt", "91", "0", "2015-01-01T08:00:00Z"),
        point("trkpt", "nan", "5", "2015-01-01T08:01:00Z"),
        point("trkpt", "0", "0", "2015-01-01T08:02:00Z"),
        point("trkpt", "1", "1", "yesterday" * 100),
        point("rtept", "1", "1", "2015-01-01T08:03:00Z"),
        point("trkpt", "1", "1", "2015-01-01T08:04:00Z"),
    ]
    found = read_tracks([gpx(tmp_path / "a.gpx", track(*points) + "</trkseg></trk>")])
    assert_allclose(found.hours, [HOURS_2015 + 4.0 / 60.0])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cannot be read as GPX"),
        (b"key,latitude\n", "cannot be read as GPX"),
        (b"<kml/>", "wanted 'gpx'"),
        (b"<gpx></gpx>", "no track point"),
        (b"<gpx><trk><trkseg><trkpt lat='1' lon='2'><time>2015-01-01T08:0", "no element found"),
        (b"<!DOCTYPE gpx [<!ENTITY a 'x'>]><gpx>&a;</gpx>", "document type"),
        (b"<gpx>" + b"<a>" * 200, "lie in one another"),
    ],
)
def test_files_that_are_none(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.gpx").write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_tracks([str(tmp_path / "a.gpx")])
    with pytest.raises(DataError, match=r"none\.gpx cannot be read"):
        read_tracks([str(tmp_path / "none.gpx")])


def test_a_bomb_of_entities_does_not_grow(tmp_path: Path) -> None:
    names = [f"<!ENTITY e{i} '{f'&e{i - 1};' * 10}'>" for i in range(1, 12)]
    bomb = f"<!DOCTYPE gpx [<!ENTITY e0 'x'>{''.join(names)}]><gpx>&e11;</gpx>"
    (tmp_path / "a.gpx").write_text(bomb)
    with pytest.raises(DataError, match="document type"):
        read_tracks([str(tmp_path / "a.gpx")])


def test_a_long_time_is_not_kept(tmp_path: Path) -> None:
    content = track(point("trkpt", "1", "1", " " * 2**22 + "2015"))
    with pytest.raises(DataError, match="no track point"):
        read_tracks([gpx(tmp_path / "a.gpx", content + "</trkseg></trk>")])


def test_a_dense_track_gives_what_photos_need() -> None:
    hours = np.arange(100_000) / 3600.0
    tracks = Tracks.of(hours, np.linspace(48.0, 49.0, 100_000), np.full(100_000, 11.0))
    assert len(tracks) < 7_000
    beside = tracks.beside(np.array([np.nan, 1.0, 1.0, 1.0001, 500.0, -5.0]))
    assert len(beside) <= 6 and np.all(np.diff(beside) > 0)
    assert {0, len(tracks) - 1} <= set(beside.tolist())
