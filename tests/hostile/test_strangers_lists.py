"""Lists of strangers: a kilobyte takes no gigabyte, and a damaged file is an error that says so."""

from __future__ import annotations

import re
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from locdiffusion.calibrate.command import _positions
from locdiffusion.evaluate.sources import stored
from locdiffusion.gallery.places import read_gallery
from locdiffusion.isolation import IsolatedFunction
from locdiffusion.isolation.parquet import FREE_BYTES
from locdiffusion.photos.lists import LATITUDE, PHOTO_ID, read_list
from locdiffusion.photos.storage import DataError
from pipelines.sources import mp16
from support.hostile.lists import LISTS, many_rows
from support.hostile.parquet_files import PARQUETS, peak_of_reading

ITSELF = 256 * 2**20
"""Memory of a child process that has read nothing yet, and of the one that starts it."""


@pytest.mark.parametrize("name", sorted(PARQUETS))
def test_a_parquet_file_costs_by_its_size(name: str) -> None:
    """Each took gigabytes, or ended the process."""
    measured = IsolatedFunction(peak_of_reading)
    peak, size = map(int, measured(name.encode()).split())
    measured.close()
    assert peak < 2 * FREE_BYTES + 64 * size + ITSELF


@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_odd_rows_is_refused_in_a_few_times_its_bytes(name, tmp_path):
    """A cell takes 57 bytes, so a line of commas took thirty times its length."""
    file = tmp_path / name
    file.write_bytes(LISTS[name]())
    tracemalloc.start()
    with pytest.raises(DataError, match=rf"{re.escape(name)}.*(cannot be read|is empty)"):
        read_list(str(file))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64e6


def test_a_list_of_short_rows_takes_little_more_than_its_bytes(tmp_path):
    """Python took 400 bytes for a row; Arrow takes what is written, and 20 more."""
    file = tmp_path / "list.csv"
    file.write_bytes(many_rows(10))
    read_list(str(file))  # which imports what it needs
    file.write_bytes(many_rows(50_000))
    tracemalloc.start()
    found = read_list(str(file))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 13e6  # of which 8 are a block of the file
    assert len(found) == 50_000 and found.lines[-1] == 50_001
    assert found.text(PHOTO_ID)[-1] == "49999"


def test_messages_about_a_list_are_short(tmp_path):
    file = tmp_path / "list.csv"
    for content in ("a" * 100_000 + ",b\n1,2\n", "id,latitude\n1," + "9" * 100_000 + "\n"):
        file.write_text(content)
        with pytest.raises(DataError) as caught:
            read_list(str(file)).degrees(LATITUDE, -90, 90)
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["many_rows.parquet", "long_values.parquet", "aborting.parquet"])
def test_a_hostile_parquet_is_a_list_that_cannot_be_read(name, tmp_path):
    file = tmp_path / name
    file.write_bytes(PARQUETS[name]())
    with pytest.raises(DataError, match=rf"{name} cannot be read \(ParquetError"):
        read_list(str(file))


def test_a_header_of_half_a_million_columns_is_refused_in_one_pass():
    """Each name was counted among all others."""
    with pytest.raises(DataError, match="several columns 'a'") as caught:
        mp16.columns_of(b"IMG_ID,AUTHOR,LAT,LON" + b",a" * 400_000)
    assert len(str(caught.value)) < 1000
    drop = mp16.parse(b"," * 2**20, mp16.Columns(("a",) * 100_000, (0, 2, 3), 1, True))
    assert len(drop.detail) < 1000


@pytest.mark.parametrize("name", sorted(PARQUETS))
def test_predictions_of_strangers_cost_by_their_size(name, tmp_path):
    """They were read in the process itself: 2.5 MB of equal rows took 14 GB."""
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions/part-x.parquet").write_bytes(PARQUETS[name]())
    with pytest.raises(DataError, match=r"part-x\.parquet"):
        stored([str(tmp_path)])
    with pytest.raises(DataError, match=r"part-x\.parquet"):
        _positions(tmp_path)


def test_a_gallery_that_repeats_a_place_is_refused_before_it_is_embedded(tmp_path):
    """Two million places in kilobytes: their embeddings take 4 GB, and twenty minutes."""
    place = pa.array([1.0] * 2_000_000)
    pq.write_table(pa.table({"lat": place, "lon": place}), tmp_path / "gallery.parquet")
    assert (tmp_path / "gallery.parquet").stat().st_size < 50_000
    with pytest.raises(DataError, match="2,000,000 places; want at most"):
        read_gallery(str(tmp_path / "gallery.parquet"))
