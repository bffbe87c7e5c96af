"""Tables of photos, as exiftool and others write them, and the command that reads them."""

import numpy as np
from numpy.testing import assert_allclose

from locdiffusion.albums.command import main
from locdiffusion.albums.parameters import AlbumParameters
from locdiffusion.albums.table import read_albums
from locdiffusion.photos.capture_time import Camera
from support import SEED
from support.albums import walk

EXIFTOOL = """\
SourceFile,DateTimeOriginal,OffsetTimeOriginal,Model,SerialNumber,GPSLatitude,GPSLongitude,Directory
a/1.jpg,2016:03:11 16:59:24,+02:00,X,77,48.1,11.5,a
a/2.jpg,2016:03:11 17:59:24,,X,78,,,a
b/3.jpg,0000:00:00 00:00:00,,X,77,-33.9,151.2,b
"""


def written(folder, text):
    """A table in a folder."""
    path = folder / "photos.csv"
    path.write_text(text, "utf-8")
    return str(path)


def test_what_exiftool_writes_is_understood(tmp_path):
    mine, other = (Camera("", "X", serial).id for serial in ("77", "78"))
    albums = read_albums(written(tmp_path, EXIFTOOL))
    assert list(albums) == [f"a ({mine})", f"a ({other})", f"b ({mine})"], "as in the job"
    albums = read_albums(written(tmp_path, EXIFTOOL.replace("Directory", "album")))
    assert list(albums) == ["a", "b"]
    album, keys = albums["a"]
    assert keys == ["a/1.jpg", "a/2.jpg"]
    assert_allclose(album.hours[1] - album.hours[0], 3.0)
    assert np.array_equal(album.anchored, [True, False])
    assert album.camera[0] != album.camera[1]
    assert_allclose(album.clock_hours, [0.0, 3.0])
    assert not albums["b"][0].timed.any()


def test_check_tells_what_cannot_be_read(tmp_path, capsys):
    table = written(tmp_path, "captured_at;latitude;longitude\n17/05/2024 12:30;48,1;11,5\n")
    assert main(["check", table]) == 2
    told = capsys.readouterr().err
    assert "1 position cannot be read, such as '48,1 11,5'" in told
    assert "'17/05/2024 12:30'" in told and "No position of 1 album " in told


def walked(folder, count):
    """A table of a walk, all photos of which have a position."""
    album = walk(count, np.random.default_rng(SEED))
    times = np.datetime64("1970-01-01") + (album.hours * 3600.0).astype("timedelta64[s]")
    rows = zip(times, album.latitude, album.longitude, strict=True)
    lines = [f"{i},{t},{a:.6f},{b:.6f}" for i, (t, a, b) in enumerate(rows)]
    return written(folder, "\n".join(["key,captured_at,latitude,longitude", *lines, ""]))


def test_check_and_fit_run_on_a_table(tmp_path, capsys):
    table = walked(tmp_path, 40)
    assert main(["check", table, "--seed", "1"]) == 0
    told = capsys.readouterr().out
    assert "nearest anchor" in told and " hidden photos of 1 album\n" in told
    assert main(["fit", table, "--output", str(tmp_path / "mine.json")]) == 0
    assert AlbumParameters.load(tmp_path / "mine.json").card.photos == 40
    assert main(["fit", table]) == 2
    assert "--output" in capsys.readouterr().err
