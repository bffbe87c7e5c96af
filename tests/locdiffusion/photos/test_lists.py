"""One reader for every list: CSV, tab-separated text and Parquet, columns by name."""

from pathlib import Path

import pandas
import pytest

from locdiffusion.photos.lists import LATITUDE, LONGITUDE, PHOTOGRAPHER, read_list
from locdiffusion.photos.storage import DataError
from pipelines.build_shards.exclusions import read_exclusions

ROWS = pandas.DataFrame(
    {"Author": ["a@N00", None], "IMG_ID": [11, 12], "LON": [13.5, -170.25], "Lat": [52.5, -3.0]}
)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """The same rows in three formats."""
    ROWS.to_csv(tmp_path / "a.csv", index=False)
    ROWS.to_csv(tmp_path / "b.tsv", index=False, sep="\t")
    ROWS.to_parquet(tmp_path / "c.parquet")
    return [str(tmp_path / name) for name in ("a.csv", "b.tsv", "c.parquet")]


def test_every_format_gives_the_same_values(files: list[str]) -> None:
    for file in files:
        rows = read_list(file)
        assert len(rows) == 2 and rows.ids() == ["11", "12"]
        assert rows.degrees(LATITUDE, -90, 90).tolist() == [52.5, -3.0]
        assert rows.degrees(LONGITUDE, -180, 180).tolist() == [13.5, -170.25]
        assert rows.text(PHOTOGRAPHER) == ["a@N00", ""]
        with pytest.raises(DataError, match=r"no longitude from 0° to 180° \(1 such"):
            rows.degrees(LONGITUDE, 0, 180)


def test_names_of_columns_may_be_quoted_padded_and_behind_a_mark(tmp_path: Path) -> None:
    text = '\ufeff"LON" , LAT,\'Img_ID\',more\r\n2.5,1.5,a.jpg,"x, y"\r\n'
    (tmp_path / "a.csv").write_text(text, newline="")
    rows = read_list(str(tmp_path / "a.csv"))
    assert rows.ids() == ["a.jpg"] and rows.degrees(LATITUDE, -90, 90).tolist() == [1.5]
    assert rows.degrees(LONGITUDE, -180, 180).tolist() == [2.5]
    (tmp_path / "b.csv").write_text("id,y,x\na,1,2\n")
    with pytest.raises(DataError, match=r"columns \['id', 'y', 'x'\].*latitude"):
        read_list(str(tmp_path / "b.csv")).degrees(LATITUDE, -90, 90)


def test_a_benchmark_names_its_photos_before_keys_and_paths(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("path,key,file\n/a/1,b,c.jpg\n")
    assert read_list(str(tmp_path / "a.csv")).ids() == ["c.jpg"]
    (tmp_path / "b.csv").write_text("path,key\n/a/1,b\n")
    assert read_list(str(tmp_path / "b.csv")).ids() == ["b"]


def test_photos_to_exclude_come_from_any_format(files: list[str]) -> None:
    for one in read_exclusions(files).lists:
        assert (one.ids, one.authors) == ({"11", "12"}, {"a@N00"})


def test_a_file_that_is_no_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    for path in (tmp_path / "a.parquet", tmp_path / "nowhere.csv", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            read_list(str(path))
