"""Tracks of GPS receivers are anchors of every album, and no rows."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from locdiffusion.sphere.geodesy import great_circle_km
from support.album_jobs import START, rows_of, run, summary_of, trip, write_table


def write_gpx(path: Path, hours: np.ndarray, latitude: np.ndarray, longitude: np.ndarray) -> Path:
    points = "".join(
        f'<trkpt lat="{lat}" lon="{lon}"><time>{at.isoformat()}Z</time></trkpt>'
        for lat, lon, at in zip(
            latitude,
            longitude,
            (START + timedelta(hours=float(h) - 2.0) for h in hours),
            strict=True,
        )
    )
    path.write_text(f"<gpx><trk><trkseg>{points}</trkseg></trk></gpx>")
    return path


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    rows = [{**row, "latitude": "", "longitude": ""} for row in trip("t", 20)]
    return write_table(tmp_path / "photos.csv", rows)


def test_a_track_places_photos(asked: Path, tmp_path: Path) -> None:
    hours = np.arange(0.0, 30.0, 0.01)
    latitude, longitude = 48.0 + 0.01 * hours, 11.0 + 0.02 * hours
    track = write_gpx(tmp_path / "a.gpx", hours, latitude, longitude)
    words = ("--table", asked, "--gpx", track, "--output", tmp_path / "out")
    assert run(*words) == 0
    found = rows_of(tmp_path / "out").to_pandas()
    assert len(found) == 20 and set(found.standing) == {"placed"}
    at = (found.captured_at - START).dt.total_seconds().to_numpy() / 3600.0
    true = np.interp(at, hours, latitude), np.interp(at, hours, longitude)
    error = great_circle_km(found.latitude.to_numpy(), found.longitude.to_numpy(), *true)
    assert error.max() < 0.1 and found.radius_90_km.max() < 2.0
    assert found.hours_before.max() < 0.011
    assert summary_of(tmp_path / "out")["configuration"]["gpx"]
    assert run(*words) == 0


def test_a_track_of_another_year_says_little(asked: Path, tmp_path: Path) -> None:
    hours = np.arange(0.0, 5.0, 0.1) + 24.0 * 400.0
    track = write_gpx(tmp_path / "a.gpx", hours, 48.0 + hours * 0.0, 11.0 + hours * 0.0)
    words = ("--table", asked, "--gpx", track, "--output", tmp_path / "out")
    assert run(*words) == 0
    found = rows_of(tmp_path / "out").to_pandas()
    assert set(found.standing) == {"placed"} and found.radius_90_km.min() > 20.0


def test_a_track_that_contradicts_a_photo_tells_it(tmp_path: Path) -> None:
    rows = trip("t", 20, every=2)
    for row in rows:
        if row["latitude"]:
            row |= {"latitude": "48.0", "longitude": "11.0"}
    rows[10] |= {"latitude": "-33.9", "longitude": "151.2"}
    hours = np.arange(0.0, 30.0, 0.1)
    track = write_gpx(tmp_path / "a.gpx", hours, 48.0 + 0.0 * hours, 11.0 + 0.0 * hours)
    table = write_table(tmp_path / "photos.csv", rows)
    assert run("--table", table, "--gpx", track, "--output", tmp_path / "out") == 0
    (told,) = summary_of(tmp_path / "out")["contradictions"]
    assert told["key"] == "t/010.jpg"


def test_a_damaged_track_is_a_mistake(
    asked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.gpx").write_text("<gpx><trk>")
    words = ("--table", asked, "--gpx", tmp_path / "a.gpx", "--output", tmp_path / "out")
    assert run(*words) == 2
    assert "cannot be read as GPX" in capsys.readouterr().err
