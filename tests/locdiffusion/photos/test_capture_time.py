"""Capture times: what cameras and programs write, and clocks that are wrong."""

from __future__ import annotations

import io
import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from locdiffusion.photos.capture_time import (
    UNKNOWN,
    Camera,
    Capture,
    CaptureTime,
    TimeSource,
    from_timestamp,
    likeliest,
    parse_offset,
    parse_time,
    read_clock,
    zone_of,
)
from locdiffusion.photos.positions import PhotoPositions, own_capture
from locdiffusion.photos.sidecar import Sidecar, read_sidecar
from locdiffusion.photos.tiff import EXIF_IFD
from locdiffusion.photos.xmp import read_xmp_capture
from support.archives import photo
from support.tiff_blocks import exif_texts as exif
from support.tiff_blocks import gps_block, jpeg, rationals, text

NOON = datetime(2024, 5, 17, 12, 30, 5)
ORIGINAL, DIGITIZED, MODIFIED = 0x9003, 0x9004, 0x0132
WHEN = b"2024:05:17 12:30:05\0"
OTHER = b"2023:01:02 03:04:05\0"
XMP = (
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
    'xmlns:exif="http://ns.adobe.com/exif/1.0/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
    'xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:aux="http://ns.adobe.com/exif/1.0/aux/" '
    'xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/"><rdf:Description {}/></rdf:RDF>'
)


def told(text: str, **beside: str) -> str:
    """The time that a text tells, as text; empty for none."""
    found = parse_time(text, TimeSource.EXIF_ORIGINAL, **beside)
    return "" if found is None else str(found)


def gps(date: bytes, *clock: tuple[int, int]) -> bytes:
    return gps_block((29, *text(date)), (7, *rationals(*clock)))


def told_by(*blocks: bytes) -> str:
    """The time that a JPEG with these blocks has, and where it was read."""
    time = own_capture(jpeg(*blocks)).time
    return "" if time is None else f"{time} {time.source.value}"


class TestTexts:
    @pytest.mark.parametrize(
        ("words", "wanted"),
        [
            ("2024:05:17 12:30:05", "2024-05-17T12:30:05"),
            ("2024-05-17T12:30:05", "2024-05-17T12:30:05"),
            ("2024/05/17 12:30:05\0\0\0", "2024-05-17T12:30:05"),
            ("2024: 5:17  9: 3: 7", "2024-05-17T09:03:07"),
            ("2024-05-17T12:30", "2024-05-17T12:30:00"),
            ("2024:05:17 12:30:05.25", "2024-05-17T12:30:05.250000"),
            ("2024:05:17 12:30:05.123456789", "2024-05-17T12:30:05.123456"),
            ("2024-05-17T12:30:05+02:00", "2024-05-17T12:30:05+02:00"),
            ("2024-05-17T12:30:05.5Z", "2024-05-17T12:30:05.500000+00:00"),
            ("2024:05:17 12:30:05-0330", "2024-05-17T12:30:05-03:30"),
            ("2024:06:30 23:59:60", "2024-07-01T00:00:00"),
            ("1890-07-02 12:00", "1890-07-02T12:00:00"),
        ],
    )
    def test_are_read_as_programs_write_them(self, words: str, wanted: str) -> None:
        assert told(words) == wanted

    @pytest.mark.parametrize(
        "words",
        [
            *("", "    :  :     :  :  ", "0000:00:00 00:00:00", "2024:13:01 12:00:00", "\0" * 20),
            *("2024:02:30 12:00:00", "2024:05:17 24:00:00", "2024:05:17 12:60:00", "yesterday"),
            *("24:05:17 12:30:05", "2024:05:17", "2024:05:17 12:30:61", "17.05.2024 12:30:05"),
            *("٢٠٢٤:٠٥:١٧ ١٢:٣٠:٠٥", "2024:05:17 12:30:05 PM", "2024:05-17 12:30:05"),
            *("2024:05:17 12:30:05+15:00", "2024:05:17 12:30:05+02:60", " " * 70 + "2024"),
            *("1825:12:31 12:00:00", "2100:01:01 12:00:00", "2024:05:17 12:30:05" + "0" * 60),
        ],
    )
    def test_that_are_no_time_give_none(self, words: str) -> None:
        assert told(words) == ""

    @pytest.mark.parametrize(
        "words",
        [
            *("1904:01:01 00:00:00", "1970:01:01 03:00:00", "1969:12:31 16:00:00"),
            *("1980:01:01 00:00:23", "2000:01:01 12:00:00", "2001:01:01 00:01:00"),
            *("2016:01:01 00:00:00", "1975-01-01T00:00:00"),
        ],
    )
    def test_of_clocks_that_nobody_has_set_give_none(self, words: str) -> None:
        assert told(words) == "" and read_clock(words) is not None

    def test_near_those_are_times(self) -> None:
        for words in ("1980:01:02 00:00:00", "2016:01:01 00:00:01", "1999:12:31 23:59:59"):
            assert told(words)

    @pytest.mark.parametrize(
        ("words", "minutes"),
        [
            *[("Z", 0), ("+00:00", 0), ("-00:00", 0), ("+14:00", 840), ("-09:30", -570)],
            *[("+0530", 330), ("+02", 120), ("+2:00", 120), (" +02:00\0", 120)],
            *[("", None), (" ", None), ("+14:30", None), ("02:00", None), ("+02:75", None)],
            *[("CEST", None), ("+٠٢:٠٠", None)],
        ],
    )
    def test_of_offsets(self, words: str, minutes: int | None) -> None:
        assert parse_offset(words) == minutes

    def test_offset_and_fraction_may_stand_beside_the_time(self) -> None:
        assert told("2024:05:17 12:30:05", offset="+02:00", subseconds="07 ") == (
            "2024-05-17T12:30:05.070000+02:00"
        )
        for beside in ({"offset": "+99:00"}, {"offset": " "}, {"subseconds": "0.5"}):
            assert told("2024:05:17 12:30:05", **beside) == "2024-05-17T12:30:05"

    @given(st.text(max_size=40), st.text(max_size=8), st.text(max_size=8))
    def test_of_any_letters_never_raise(self, words: str, offset: str, fraction: str) -> None:
        found = parse_time(words, TimeSource.XMP, offset, fraction)
        assert found is None or found.local.year >= 1826

    @given(
        st.datetimes(datetime(1826, 1, 2), datetime(2099, 12, 31)),
        st.none() | st.integers(-840, 840),
    )
    def test_of_a_time_give_it_back(self, local: datetime, offset: int | None) -> None:
        time = CaptureTime(local, TimeSource.JSON, offset)
        found = parse_time(str(time), TimeSource.JSON)
        assert found == time or read_clock(str(time)) == (local, offset)
        if found is not None and offset is not None:
            zone = timezone(timedelta(minutes=offset))
            there = local.replace(tzinfo=zone).astimezone(timezone.utc)
            assert found.utc == there.replace(tzinfo=None)


def test_seconds_since_1970() -> None:
    found = from_timestamp(1551123684, TimeSource.TAKEOUT)
    assert str(found) == "2019-02-25T19:41:24+00:00"
    for seconds in (0, -1, 9e18, float("nan"), float("inf")):
        assert from_timestamp(seconds, TimeSource.TAKEOUT) is None


@pytest.mark.parametrize("change", [{"local": NOON.replace(year=1800)}, {"offset_min": 841}])
def test_a_time_of_no_photo_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="wanted"):
        CaptureTime(**{"local": NOON, "source": TimeSource.GPS, **change})
    with pytest.raises(ValueError, match="no zone beside it"):
        CaptureTime(NOON.replace(tzinfo=timezone.utc), TimeSource.GPS)


class TestExif:
    @pytest.mark.parametrize("order", ["original", "digitized", "modified"])
    def test_times_in_their_order(self, order: str) -> None:
        other = b"2023:01:02 03:04:05\0"
        tags = {
            "original": ([(ORIGINAL, WHEN), (DIGITIZED, other)], [(MODIFIED, other)]),
            "digitized": (
                [(ORIGINAL, b"0000:00:00 00:00:00\0"), (DIGITIZED, WHEN)],
                [(MODIFIED, other)],
            ),
            "modified": ([], [(MODIFIED, WHEN)]),
        }
        inside, above = tags[order]
        assert told_by(exif(*inside, first=tuple(above))) == f"2024-05-17T12:30:05 exif_{order}"

    def test_offset_and_sub_seconds_are_those_of_the_time(self) -> None:
        tags = [(ORIGINAL, WHEN), (0x9011, b"+02:00\0"), (0x9291, b"125\0")]
        assert told_by(exif(*tags)) == "2024-05-17T12:30:05.125000+02:00 exif_original"
        assert told_by(exif((ORIGINAL, WHEN), (0x9012, b"+02:00\0"))).startswith(
            f"{NOON.isoformat()} "
        )

    def test_an_offset_of_the_same_clock_counts(self) -> None:
        tags = [(ORIGINAL, WHEN), (DIGITIZED, WHEN), (0x9012, b"+02:00\0")]
        assert told_by(exif(*tags)) == "2024-05-17T12:30:05+02:00 exif_original"

    @pytest.mark.parametrize(
        ("date", "clock", "wanted"),
        [
            (b"2024:05:17\0", (10, 30), "+02:00"),
            (b"2024:05:17\0", (10, 34), "+02:00"),
            (b"2024:05:17\0", (6, 45), "+05:45"),
            (b"2024:05:17\0", (22, 30), "-10:00"),
            (b"2024:05:16\0", (23, 30), "+13:00"),
            (b"2024:05:17\0", (11, 10), ""),  # an earlier fix
            (b"2004:10:01\0", (10, 30), ""),  # weeks of GPS counted anew
        ],
    )
    def test_gps_tells_the_zone(self, date: bytes, clock: tuple[int, int], wanted: str) -> None:
        hours, minutes = clock
        position = gps(date, (hours, 1), (minutes, 1), (500, 100))
        assert (
            told_by(exif((ORIGINAL, WHEN)), position)
            == f"2024-05-17T12:30:05{wanted} exif_original"
        )

    @pytest.mark.parametrize(
        ("clock", "wanted"),
        [
            ([(10, 1), (30, 1), (525, 100)], "2024-05-17T10:30:05.250000+00:00 gps"),
            ([(10, 1), (305, 10), (0, 1)], "2024-05-17T10:30:30+00:00 gps"),
            ([(10, 1), (30, 1), (5, 0)], ""),
            ([(0, 0), (0, 0), (0, 0)], ""),
            ([(10, 1), (30, 1)], ""),
            ([(24, 1), (0, 1), (0, 1)], ""),
            ([(2**32 - 1, 1), (0, 1), (0, 1)], ""),
        ],
    )
    def test_gps_alone_is_utc(self, clock: list[tuple[int, int]], wanted: str) -> None:
        assert told_by(gps(b"2024:05:17\0", *clock)) == wanted

    def test_a_damaged_block_costs_what_cannot_be_read_of_it(self) -> None:
        whole = exif((ORIGINAL, WHEN), first=((MODIFIED, b"2023:01:02 03:04:05\0"),))
        assert told_by(whole[:90]) == "2023-01-02T03:04:05 exif_modified"
        for cut in range(len(whole)):
            own_capture(jpeg(whole[:cut]))

    def test_a_tag_that_stands_twice_and_says_two_things_says_nothing(self) -> None:
        twice = exif((ORIGINAL, WHEN), (ORIGINAL, b"2023:01:02 03:04:05\0"))
        assert told_by(twice) == ""

    @given(st.lists(st.tuples(st.sampled_from([ORIGINAL, 0x9011, 0x9291]), st.binary(max_size=40))))
    def test_any_bytes_never_raise(self, tags: list[tuple[int, bytes]]) -> None:
        own_capture(jpeg(exif(*tags)))

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
    def test_reads_what_pillow_writes(self, kind: str) -> None:
        tags = Image.Exif()
        tags[MODIFIED], tags[0x010F], tags[0x0110] = "2024:05:18 01:02:03", "Maker", "One"
        tags.get_ifd(EXIF_IFD).update({ORIGINAL: "2024:05:17 12:30:05", 0x9011: "+02:00"})
        file = io.BytesIO()
        Image.new("RGB", (8, 8)).save(file, kind, exif=tags)
        found = own_capture(file.getvalue())
        wanted = CaptureTime(NOON, TimeSource.EXIF_ORIGINAL, 120)
        assert found == Capture(wanted, Camera("Maker", "One").id)


class TestCamera:
    def test_is_a_hash_of_what_tells_it_from_others(self) -> None:
        camera = Camera("NIKON", "D750", "6023451", "Jane")
        others = [camera._replace(**{name: "other"}) for name in camera._fields]
        assert len({one.id for one in (camera, *others)}) == 5
        assert len(camera.id) == 12 and "6023451" not in camera.id
        assert Camera(" nikon ", "D750\n", "6023451", "jane").id == camera.id

    def test_without_make_and_model_is_none(self) -> None:
        assert Camera(serial="1", owner="Jane").id == "" != Camera(model="X").id

    def test_is_read_from_exif_or_else_xmp(self) -> None:
        inside, above = (
            ((0xA431, b"77\0"), (0xA430, b"Jane\0")),
            ((0x010F, b"M\0"), (0x0110, b"N\0")),
        )
        packet = XMP.format(
            'tiff:Make="M" tiff:Model="N" aux:SerialNumber="77" aux:OwnerName="Jane"'
        ).encode()
        wanted = Camera("M", "N", "77", "Jane").id
        assert own_capture(jpeg(exif(*inside, first=above))).camera == wanted
        assert own_capture(jpeg(packet)).camera == wanted
        assert own_capture(jpeg(exif(first=((0x010F, b"A\0"),)), packet)).camera == Camera("A").id


class TestXmp:
    @pytest.mark.parametrize(
        ("attributes", "wanted"),
        [
            (
                'exif:DateTimeOriginal="2024-05-17T12:30:05.25+02:00"',
                "2024-05-17T12:30:05.250000+02:00",
            ),
            ('photoshop:DateCreated="2024-05-17T12:30:05"', "2024-05-17T12:30:05"),
            (
                'xmp:CreateDate="2023-01-01T01:00:00" photoshop:DateCreated="2024-05-17T12:30:05"',
                "2024-05-17T12:30:05",
            ),
            (
                'exif:DateTimeOriginal="2024-05-17T12:30:05" xmp:CreateDate="2024-05-17T12:30:05Z"',
                "2024-05-17T12:30:05+00:00",
            ),
            ('photoshop:DateCreated="2024-05-17"', "None"),
            ('exif:DateTimeOriginal="2024"', "None"),
        ],
    )
    def test_times_in_their_order(self, attributes: str, wanted: str) -> None:
        packet = XMP.format(attributes).encode()
        assert str(read_xmp_capture(packet).time) == wanted
        assert read_sidecar("a.xmp", packet).capture == read_xmp_capture(packet)

    def test_no_entities(self) -> None:
        packet = b'<!DOCTYPE a [<!ENTITY b "c">]>' + XMP.format('tiff:Make="&b;"').encode()
        assert read_xmp_capture(packet) == UNKNOWN

    @given(st.binary(max_size=200))
    def test_any_bytes_never_raise(self, data: bytes) -> None:
        assert read_xmp_capture(data).time is None

    def test_comes_between_the_original_and_what_was_digitized(self) -> None:
        packet = XMP.format('xmp:CreateDate="2020-02-03T04:05:06+01:00"').encode()
        assert told_by(exif((DIGITIZED, WHEN)), packet) == "2020-02-03T04:05:06+01:00 xmp"
        assert told_by(exif((ORIGINAL, WHEN)), packet) == "2024-05-17T12:30:05 exif_original"
        same = XMP.format('xmp:CreateDate="2024-05-17T12:30:05+01:00"').encode()
        assert told_by(exif((ORIGINAL, WHEN)), same) == "2024-05-17T12:30:05+01:00 exif_original"


class TestDocuments:
    @pytest.mark.parametrize(
        ("document", "wanted"),
        [
            ({"captured_at": "2024-05-17T12:30:05+02:00"}, "2024-05-17T12:30:05+02:00"),
            ({"captured_at": 1715941805000}, "2024-05-17T10:30:05+00:00"),
            ({"capture_time": 1715941805.5}, "2024-05-17T10:30:05.500000+00:00"),
            ({"date_taken": "2024-05-17 12:30:05"}, "2024-05-17T12:30:05"),
            (
                {"DateTimeOriginal": "2024:05:17 12:30:05", "OffsetTimeOriginal": "+02:00"},
                "2024-05-17T12:30:05+02:00",
            ),
            (
                {"EXIF:DateTimeOriginal": "2024:05:17 12:30:05", "EXIF:SubSecTimeOriginal": 25},
                "2024-05-17T12:30:05.250000",
            ),
            (
                [{"Composite:SubSecDateTimeOriginal": "2024:05:17 12:30:05.25-07:00"}],
                "2024-05-17T12:30:05.250000-07:00",
            ),
            ({"captured_at": None, "datetaken": "2024-05-17 12:30:05"}, "2024-05-17T12:30:05"),
            ({"captured_at": "soon"}, "None"),
            ({"captured_at": True}, "None"),
            ({"captured_at": 10**400}, "None"),
            ({"captured_at": {"a": 1}}, "None"),
        ],
    )
    def test_json(self, document: Any, wanted: str) -> None:
        found = read_sidecar("a.json", json.dumps(document).encode())
        assert str(found.capture.time) == wanted and not found.problem
        assert found.capture.time is None or found.capture.time.source is TimeSource.JSON

    def test_a_position_that_cannot_be_read_does_not_cost_the_time(self) -> None:
        document = {"latitude": 99, "longitude": 1, "captured_at": "2024-05-17T12:30:05"}
        found = read_sidecar("a.json", json.dumps(document).encode())
        assert found.problem and str(found.capture.time) == "2024-05-17T12:30:05"

    @pytest.mark.parametrize("stamp", ["", "now", "9" * 40, None, 1.5, "0"])
    def test_takeout_without_a_time(self, stamp: Any) -> None:
        document = {"title": "a.jpg", "photoTakenTime": {"timestamp": stamp}}
        assert read_sidecar("a.json", json.dumps(document).encode()).capture == UNKNOWN


def capture(source: TimeSource, local: datetime = NOON, offset: int | None = None) -> Capture:
    return Capture(CaptureTime(local, source, offset))


class TestJoining:
    @pytest.mark.parametrize("source", [TimeSource.XMP, TimeSource.JSON, TimeSource.TABLE])
    def test_a_document_counts_before_the_photo(self, source: TimeSource) -> None:
        own = capture(TimeSource.EXIF_ORIGINAL, offset=120)
        later = capture(source, NOON + timedelta(days=1))
        assert own.told_by(later) == later
        assert own.told_by(capture(source)).time == CaptureTime(NOON, source, 120)
        assert own.told_by(UNKNOWN) == own and UNKNOWN.told_by(own) == own

    @pytest.mark.parametrize(("hours", "kept"), [(2, True), (-13, True), (15, False), (900, False)])
    def test_takeout_counts_where_it_is_another_moment(self, hours: int, kept: bool) -> None:
        own = capture(TimeSource.EXIF_ORIGINAL)
        takeout = capture(TimeSource.TAKEOUT, NOON - timedelta(hours=hours), 0)
        assert own.told_by(takeout) == (own if kept else takeout)

    def test_takeout_tells_no_zone(self) -> None:
        """It has the seconds of a guessed zone, which is UTC as a rule."""
        found = capture(TimeSource.EXIF_ORIGINAL).told_by(capture(TimeSource.TAKEOUT, NOON, 0))
        assert found.time is not None and found.time.offset_min is None

    def test_a_later_document_adds_the_time_that_a_nearer_one_lacks(self) -> None:
        timed = Sidecar(capture=capture(TimeSource.TAKEOUT, offset=0))
        known = read_sidecar("a.json", b'{"latitude": 1, "longitude": 2}')
        for first, second in ((timed, known), (known, timed)):
            found = PhotoPositions(sidecar=first).with_late(second)
            assert found.truth == known.position and found.capture == timed.capture

    def test_of_no_times(self) -> None:
        assert likeliest([]) is None is likeliest([None])


def test_zones_are_those_that_exist() -> None:
    offsets = {zone_of(NOON + timedelta(minutes=m), NOON) for m in range(-1440, 1441)} - {None}
    assert min(offsets) == -720 and max(offsets) == 840 and {345, -570, 765} < offsets
    assert 15 not in offsets and zone_of(NOON + timedelta(minutes=15), NOON) is None


def test_a_photo_without_blocks_tells_nothing() -> None:
    assert own_capture(photo(1)) == UNKNOWN == own_capture(b"")
