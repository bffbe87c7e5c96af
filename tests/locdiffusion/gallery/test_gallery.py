"""Galleries: lists of places from files, and `--gallery`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from locdiffusion import geotagger
from locdiffusion.gallery.places import gallery_identity, read_gallery
from locdiffusion.photos.storage import DataError
from pipelines.geotag import command as geotag
from pipelines.geotag.options import UsageError, parse
from support.archives import sound_members, write_tar
from support.tiny import TinyEncoder, replace_encoders, write_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")


# Files of places


@pytest.mark.parametrize("names", [("latitude", "longitude"), ("LAT", "LON"), ("Lat", "Longitude")])
def test_places_of_a_file(tmp_path: Path, names: tuple[str, str]) -> None:
    table = pandas.DataFrame({"name": ["a", "b"], names[1]: [13.4, 190.0], names[0]: [52.5, -10]})
    table.to_csv(tmp_path / "places.csv", index=False)
    table.to_parquet(tmp_path / "places.parquet")
    for file in ("places.csv", "places.parquet"):
        found = read_gallery(str(tmp_path / file))
        assert found.dtype == np.float64 and found.tolist() == [[52.5, 13.4], [-10.0, -170.0]]
    assert gallery_identity(str(tmp_path / "places.csv")).startswith("places.csv sha256:")
    assert [gallery_identity(word) for word in ("geoclip", "none")] == ["geoclip", "none"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("latitude,x\n1,2\n", r"has the columns \['latitude', 'x'\], none .* as the longitude"),
        ("latitude,longitude\n", "has no rows"),
        ("lat,lon\n1,2\n90.5,3\n", r"line 3: '90.5' is no latitude .* \(1 such rows of 2\)"),
        ("lat,lon\n1,2\n3,\n", "line 3: '' is no longitude"),
        ("lat,lon\n1,nan\n", "line 2: 'nan' is no longitude"),
        ("lat,lon\n1,north\n", "line 2: 'north' is no longitude"),
        ("lat,lon\n,\n", "has no rows"),
        ("", "is empty"),
        ("lat,lon\n1\n", "line 2: '1', wanted 2 columns"),
    ],
)
def test_files_that_are_no_gallery(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "places.csv"
    file.write_text(text)
    with pytest.raises(DataError, match=message):
        read_gallery(str(file))


def test_a_file_that_is_not_there_or_no_parquet(tmp_path: Path) -> None:
    (tmp_path / "places.parquet").write_text("lat,lon")
    for path in (tmp_path / "places.parquet", tmp_path / "nowhere.csv", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            read_gallery(str(path))
    with pytest.raises(DataError, match=r"nowhere\.csv cannot be read"):
        gallery_identity("nowhere.csv")


# Through the pipeline


def test_a_checkpoint_of_another_encoder_has_no_gallery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    replace_encoders(monkeypatch, geotagger)
    checkpoint = write_checkpoint(tmp_path / "checkpoint", TinyEncoder().spec)
    typed = ["--input", str(write_tar(tmp_path / "s.tar", sound_members(2)))]
    typed += ["--output", str(tmp_path / "out")]
    typed += ["--checkpoint", str(checkpoint)]
    assert geotag.main([*typed, "--gallery", "geoclip"]) == 2
    said = capsys.readouterr().err
    assert "needs the image encoder 'geoclip'" in said and "this checkpoint has 'tiny'" in said
    assert "choose the checkpoint geoclip-distilled" in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert geotagger.Geotagger.load(str(checkpoint), gallery="none").gallery is None


def test_a_file_is_found_by_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "places.csv").write_text("lat,lon\n1,2\n")
    monkeypatch.chdir(tmp_path)
    typed = ["--input", "a.tar", "--output", "out", "--gallery"]
    assert parse([*typed, "places.csv"]).loader.gallery == str(tmp_path / "places.csv")
    assert parse([*typed, "geoclip"]).loader.gallery == "geoclip"
    assert parse([*typed, "gs://b/places.csv"]).loader.gallery == "gs://b/places.csv"
    assert parse([*typed, "none"]).loader.gallery == "none"
    with pytest.raises(UsageError, match=r"give --gallery gs://BUCKET/places\.csv"):
        parse([*typed, "places.csv", "--runner=DataflowRunner"])
