"""The picture of a check shows what the check found, whatever there is of it."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image

from locdiffusion.albums.check import HiddenPhotos, check
from locdiffusion.albums.command import main
from locdiffusion.albums.figure import FEWEST, by_gap, check_png
from locdiffusion.albums.parameters import AlbumParameters
from support import SEED
from support.albums import walk

TABLE = "key,captured_at,latitude,longitude\n" + "".join(
    f"{i},2016-05-01T{i // 6:02}:{i % 6}0:00,{48 + 0.01 * i},{11 + 0.003 * i * i}\n"
    for i in range(60)
)


@pytest.fixture(scope="module")
def rows():
    """What a check of one walk finds."""
    album = walk(300, np.random.default_rng(SEED))
    return check([album], AlbumParameters.load(), "photos", 0.5, 1)


def test_a_truth_has_a_level_below_that_of_each_radius_it_lies_in(rows):
    """The levels are those of the answers: at a radius they are its own."""
    for nominal, radius_km in ((0.5, rows.radius_50_km), (0.9, rows.radius_90_km)):
        off = np.abs(rows.error_km - radius_km) > 1e-6 * radius_km
        inside = rows.error_km <= radius_km
        assert np.array_equal(inside[off], (rows.level < nominal)[off])
    assert 0.4 < rows.level.mean() < 0.6, "of honest radii the mean level is a half"


def test_classes_of_gaps_hold_each_photo_once_unless_they_are_too_few(rows):
    classes = dict(by_gap(rows))
    assert all(len(part) >= FEWEST for part in classes.values())
    shown = np.sort(np.concatenate([part.error_km for part in classes.values()]))
    assert set(shown) <= set(rows.error_km)
    assert len(rows) - len(shown) < FEWEST * 5


def test_the_picture_is_the_same_twice_and_needs_few_photos(rows):
    one, other = check_png(rows), check_png(rows)
    assert one == other and one.startswith(b"\x89PNG")
    few = rows.take(slice(0, 3))
    assert isinstance(few, HiddenPhotos) and check_png(few).startswith(b"\x89PNG")


def test_the_command_writes_the_picture_where_it_was_told(tmp_path, capsys):
    table, picture = tmp_path / "photos.csv", tmp_path / "new" / "check.PNG"
    table.write_text(TABLE, "utf-8")
    assert main(["check", str(table), "--plot", str(picture)]) == 0
    assert f"written: {picture}" in capsys.readouterr().out
    with Image.open(picture) as image:
        assert_allclose(image.width / image.height, 1.75, atol=0.25)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["check", "photos.csv", "--plot", "photos.csv"], "want FILE.png"),
        (["fit", "photos.csv", "--output", "o.json", "--plot", "a.png"], "fit draws nothing"),
    ],
)
def test_a_picture_that_cannot_be_meant_is_refused_before_anything_is_read(words, told, capsys):
    assert main(words) == 2
    assert told in capsys.readouterr().err
