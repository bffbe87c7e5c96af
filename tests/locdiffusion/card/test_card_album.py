"""The row of a photo is found in the output of an albums job, or it is said why not."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from locdiffusion.albums.album import Album
from locdiffusion.card.album import AlbumAnswer, album_answer
from schemas.albums import Standing
from support.album_rows import album_columns, trip, write_albums

KEYS = ["a/IMG_1.jpg", "b/IMG_1.jpg", "b/IMG_2", "deep/er/IMG_3.jpg"]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two albums in two parts: a walk whose photos 1, 2 and 3 are asked, and one without times."""
    root = tmp_path_factory.mktemp("out")
    truth, known = trip(6, 1, anchors=2.0)
    known.latitude[1:4] = known.longitude[1:4] = np.nan
    keys = ["x.jpg", *KEYS[:3], "y.jpg", "z.jpg"]
    write_albums(root, album_columns("walk", truth, known, keys=keys), part="0")
    other = trip(1, 2, anchors=0.0)[1]
    late = Album.of(np.full(1, np.nan), other.latitude, other.longitude)
    write_albums(root, album_columns("late", late, late, keys=KEYS[3:]), part="1")
    (root / "albums/_summary.json").write_text("{}")
    return root


@pytest.mark.parametrize(
    ("photo", "row"),
    [("a/IMG_1.jpg", 1), ("somewhere/b/IMG_1.jpg", 2), ("b/IMG_2.png", 3), ("x.jpg", 0)],
)
def test_a_photo_is_found_by_the_end_of_its_path(output: Path, photo: str, row: int) -> None:
    truth, _ = trip(6, 1, anchors=2.0)
    found = album_answer(str(output), Path("/pictures", photo))
    assert found.album == "walk"
    assert found.standing is (Standing.PLACED if 1 <= row <= 3 else Standing.ANCHOR)
    if found.standing is Standing.PLACED:
        assert found.anchors == (
            pytest.approx((truth.latitude[0], truth.longitude[0])),
            pytest.approx((truth.latitude[4], truth.longitude[4])),
        )
        hours = (truth.hours[row] - truth.hours[0], truth.hours[4] - truth.hours[row])
        assert found.hours == pytest.approx(hours)
        assert found.place is not None and 0 < found.radius_50_km < found.radius_90_km
        assert [name for name, _ in found.rows()][-1] == "its anchors"
        assert found.properties()["album_radius_90_km"] == found.radius_90_km


def test_a_photo_is_found_by_its_name_if_there_is_one(output: Path) -> None:
    found = album_answer(f"{output}/", Path("copies/IMG_3.jpg"))
    assert (found.album, found.standing, found.place) == ("late", Standing.NO_TIME, None)
    assert found.rows() == [("album", "late: it has no time, so the others say nothing")]
    assert found.properties()["album_latitude"] is None


@pytest.mark.parametrize(
    ("photo", "told"),
    [
        ("IMG_1.jpg", "2 rows of .* are called a/IMG_1.jpg; want one"),
        ("IMG_9.jpg", "no row of .* is called IMG_9.jpg; want a photo of the archive"),
    ],
)
def test_a_photo_without_one_row_is_refused(output: Path, photo: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        album_answer(str(output), Path("/", photo))


def test_an_output_without_albums_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder albums; want the --output of"):
        album_answer(str(tmp_path), Path("a.jpg"))


def test_a_map_reaches_to_anchors_that_are_near() -> None:
    def reach(*anchors: tuple[float, float] | None) -> float:
        first, second = anchors
        hours = (1.0, 2.0)
        return AlbumAnswer(
            "a", Standing.PLACED, (0.0, 0.0), 5.0, 100.0, hours, (first, second)
        ).reach_km()

    assert reach((0.0, 0.0), None) == 100.0
    assert reach((2.0, 0.0), (0.0, 20.0)) == pytest.approx(2.0 * 111.195, rel=1e-3)
    assert math.isfinite(reach(None, None))
