"""Tables of photos, as exiftool and others write them, and the command that reads them."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from locdiffusion.albums.command import main
from locdiffusion.albums.parameters import AlbumParameters
from locdiffusion.albums.table import hours_of, read_albums
from locdiffusion.photos.storage import DataError
from support import SEED
from support.albums import walk

EXIFTOOL = """\
SourceFile,DateTimeOriginal,OffsetTimeOriginal,SerialNumber,GPSLatitude,GPSLongitude,Directory
a/1.jpg,2016:03:11 16:59:24,+02:00,77,48.1,11.5,a
a/2.jpg,2016:03:11 17:59:24,,78,,,a
b/3.jpg,0000:00:00 00:00:00,,77,-33.9,151.2,b
"""


def written(folder, text):
    """A table in a folder."""
    path = folder / "photos.csv"
    path.write_text(text, "utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("text", "offset", "hour", "known"),
    [
        ("1970:01:01 12:00:00", "", 12.0, False),
        ("1970:01:01 12:00:00.50", "+02:00", 10.0 + 0.5 / 3600.0, True),
        ("1970-01-01T12:00:00-0330", "", 15.5, True),
        ("1970-01-01T12:00:00Z", "", 12.0, True),
        ("1970:13:41 12:00:00", "", np.nan, False),
        ("yesterday", "", np.nan, False),
    ],
)
def test_times_are_read_as_they_are_written(text, offset, hour, known):
    assert_allclose(hours_of(text, offset)[0], hour)
    assert hours_of(text, offset)[1] is known


def test_what_exiftool_writes_is_understood(tmp_path):
    albums = read_albums(written(tmp_path, EXIFTOOL))
    assert list(albums) == ["a", "b"]
    album, keys = albums["a"]
    assert keys == ["a/1.jpg", "a/2.jpg"]
    assert_allclose(album.hours[1] - album.hours[0], 3.0)
    assert np.array_equal(album.anchored, [True, False])
    assert album.camera[0] != album.camera[1]
    assert_allclose(album.clock_hours, [0.0, 3.0])
    assert not albums["b"][0].timed.any()


def test_a_position_that_is_none_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"line 2: '48 deg' is no latitude.*flag -n"):
        read_albums(written(tmp_path, EXIFTOOL.replace("48.1", "48 deg")))


def test_check_and_fit_run_on_a_table(tmp_path, capsys):
    album = walk(40, np.random.default_rng(SEED))
    times = np.datetime64("1970-01-01") + (album.hours * 3600.0).astype("timedelta64[s]")
    rows = zip(times, album.latitude, album.longitude, strict=True)
    lines = [f"{i},{t},{a:.6f},{b:.6f}" for i, (t, a, b) in enumerate(rows)]
    table = written(tmp_path, "\n".join(["key,captured_at,latitude,longitude", *lines, ""]))
    assert main(["check", table, "--seed", "1"]) == 0
    assert "nearest anchor" in capsys.readouterr().out
    assert main(["fit", table, "--output", str(tmp_path / "mine.json")]) == 0
    assert AlbumParameters.load(tmp_path / "mine.json").card.photos == 40
    assert main(["fit", table]) == 2
    assert "--output" in capsys.readouterr().err
