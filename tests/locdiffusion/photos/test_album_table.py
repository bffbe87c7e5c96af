"""Tables of albums: what exiftool, a spreadsheet and our own outputs write."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from locdiffusion.photos.album_table import AlbumTable, read_album_table
from locdiffusion.photos.capture_time import Camera
from locdiffusion.photos.storage import DataError

NOON = datetime(2024, 5, 17, 12, 30, 5)
HOUR = NOON.replace(tzinfo=timezone.utc).timestamp() / 3600
NAN = float("nan")


def read(path: Path, text: str) -> AlbumTable:
    path.write_text(text, encoding="utf-8")
    return read_album_table(str(path))


def test_a_table_of_our_own_columns(tmp_path: Path) -> None:
    found = read(
        tmp_path / "t.csv",
        "key,album,camera,captured_at,offset,latitude,longitude\n"
        "a,x,c,2024-05-17T12:30:05,+02:00,52.5,-13.25\n"
        "b,x,,2024-05-17T12:30:05,,,\n"
        "c,y,d,1980-01-01T00:00:00,,0,0\n"
        "d,y,d,soon,Z,99,1\n",
    )
    assert len(found) == 4 and found.key == list("abcd") and found.album == list("xxyy")
    assert found.camera == ["c", "", "d", "d"] and found.unread == ["99 1"]
    assert found.unread_times == ["soon"], "and a clock never set can be read"
    np.testing.assert_allclose(found.hours, [HOUR - 2, HOUR, NAN, NAN], atol=1e-9)
    assert found.zoned.tolist() == [True, False, False, False]
    np.testing.assert_array_equal(found.latitude, [52.5, NAN, NAN, NAN])
    np.testing.assert_array_equal(found.longitude, [-13.25, NAN, NAN, NAN])


@pytest.mark.parametrize(
    ("latitude", "longitude", "wanted"),
    [
        ("59 deg 54' 12.00\" N", "10 deg 45' 0.00\" W", (59.9033333, -10.75)),
        ("59.5", "10.75", (59.5, 10.75)),
        ("-33.5", "151.25", (-33.5, 151.25)),
        ("", "", (NAN, NAN)),
    ],
)
def test_what_exiftool_writes(
    latitude: str, longitude: str, wanted: tuple[float, float], tmp_path: Path
) -> None:
    quoted = ('"' + text.replace('"', '""') + '"' for text in (latitude, longitude))
    found = read(
        tmp_path / "t.csv",
        "SourceFile,Make,Model,SerialNumber,DateTimeOriginal,OffsetTimeOriginal,GPSLatitude,"
        "GPSLongitude\n"
        f"trip/a.jpg,NIKON,D750,12,2024:05:17 12:30:05,+02:00,{','.join(quoted)}\n",
    )
    assert found.key == ["trip/a.jpg"] and found.album == ["trip"]
    assert found.camera == [Camera("NIKON", "D750", "12").id]
    assert str(found.time[0]) == "2024-05-17T12:30:05+02:00"
    np.testing.assert_allclose([found.latitude[0], found.longitude[0]], wanted, atol=1e-6)


def test_hemispheres_beside_the_numbers(tmp_path: Path) -> None:
    found = read(
        tmp_path / "t.csv",
        "SourceFile,DateTimeOriginal,GPSLatitude,GPSLatitudeRef,GPSLongitude,GPSLongitudeRef\n"
        "a.jpg,2024:05:17 12:30:05,33.5,South,70.25,W\n"
        "b.jpg,2024:05:17 12:30:05,-33.5,North,70.25,W\n",
    )
    assert (found.latitude[0], found.longitude[0]) == (-33.5, -70.25)
    assert np.isnan(found.latitude[1]) and found.unread == ["-33.5 70.25 North W"]


def test_a_parquet_with_times_of_any_type(tmp_path: Path) -> None:
    table = pa.table(
        {
            "key": ["a", "b"],
            "captured_at": pa.array([NOON, None], pa.timestamp("us")),
            "captured_utc_offset_min": pa.array([-210, None], pa.int16()),
            "latitude": pa.array([1.5, None]),
            "longitude": pa.array([2.5, None]),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    found = read_album_table(str(tmp_path / "t.parquet"))
    assert [str(time) for time in found.time] == ["2024-05-17T12:30:05-03:30", "None"]
    np.testing.assert_array_equal(found.latitude, [1.5, NAN])


def test_tables_that_cannot_be_albums(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="positions are answers, wanted known ones"):
        read(tmp_path / "a.csv", "key,captured_at,latitude,longitude,radius_90_km\na,,1,2,3\n")
    with pytest.raises(DataError, match="none of which is known as the capture time"):
        read(tmp_path / "b.csv", "key,latitude,longitude\na,1,2\n")
    empty = read(tmp_path / "c.csv", "key,captured_at\n")
    assert len(empty) == 0 and empty.latitude.shape == empty.hours.shape == (0,)


def test_each_row_has_the_first_column_that_is_filled(tmp_path: Path) -> None:
    """A phone writes sub-seconds and its zone, and the camera beside it neither."""
    found = read(
        tmp_path / "t.csv",
        "SourceFile,Model,SerialNumber,BodySerialNumber,CreateDate,DateTimeOriginal,"
        "SubSecDateTimeOriginal,OffsetTime,OffsetTimeOriginal\n"
        "a.jpg,phone,,,2024:05:17 12:00:00,2024:05:17 12:30:05,2024:05:17 12:30:05.25+02:00,,\n"
        "b.jpg,D750,,12,2024:05:17 12:00:00,2024:05:17 12:30:05,,+03:00,\n"
        "c.jpg,D750,12,,2024:05:17 12:00:00,,,+03:00,+01:00\n",
    )
    assert [str(time) for time in found.time] == [
        "2024-05-17T12:30:05.250000+02:00",
        "2024-05-17T12:30:05+03:00",
        "2024-05-17T12:00:00+01:00",
    ]
    assert found.camera[1] == found.camera[2] == Camera("", "D750", "12").id


def test_what_a_german_spreadsheet_writes(tmp_path: Path) -> None:
    header = "\ufeffkey;captured_at;latitude;longitude\r\n"
    found = read(
        tmp_path / "t.csv",
        f"{header}a;17.05.2024 12:30;48,1374;-11,5\r\nb;17.05.2024, 12:30:05;-48,5;-11,575\r\n",
    )
    assert [str(time) for time in found.time] == ["2024-05-17T12:30:00", "2024-05-17T12:30:05"]
    np.testing.assert_array_equal(found.latitude, [48.1374, -48.5])
    np.testing.assert_array_equal(found.longitude, [-11.5, -11.575])
    # Minutes or decimals? Nobody knows.
    found = read(tmp_path / "t.csv", f"{header}a;17/05/2024 12:30;48,13;-11,50\r\n")
    assert found.unread == ["48,13 -11,50"] and found.unread_times == ["17/05/2024 12:30"]


def test_another_encoding_is_told_with_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("key,captured_at\nMünchen,2024-05-17 12:30\n".encode("cp1252"))
    with pytest.raises(DataError, match="cannot be read as UTF-8: byte 17"):
        read_album_table(str(tmp_path / "t.csv"))
