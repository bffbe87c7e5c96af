"""Lines of metadata become records, or drops that say why; nothing in their bytes is an error."""

from __future__ import annotations

import bz2
import gzip
import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from locdiffusion.photos.archive import Sample, ShardReader
from locdiffusion.photos.names import stem
from locdiffusion.photos.storage import DataError, ReadError
from pipelines.sources import images, lines, mp16, webdataset, yfcc100m
from pipelines.sources.lines import read_lines
from pipelines.sources.record import Drop, ImageRef, Record, photo_id, shown
from schemas.training import DropReason
from support.archives import photo, tar_bytes, truth, write_tar
from support.damaged import KINDS, random_damage
from support.flickr import (
    BY,
    BY_NC,
    PLACES365_HEADER,
    Photo,
    make_photos,
    places365_line,
    write_hashes,
    write_lines,
    write_mp16_urls,
    write_places365,
    write_yfcc100m,
    yfcc100m_line,
)
from support.tiff_blocks import berlin, jpeg

PHOTOS = make_photos(7)
ONE = PHOTOS[0]
MP16_LINE = places365_line(ONE).encode()
YFCC_LINES = {columns: yfcc100m_line(ONE, columns).encode() for columns in (23, 25)}
PARSERS = {
    "mp16": (mp16.parse, MP16_LINE),
    "yfcc100m-23": (yfcc100m.parse, YFCC_LINES[23]),
    "yfcc100m-25": (yfcc100m.parse, YFCC_LINES[25]),
}


def dropped(result: object) -> tuple[DropReason, str | None]:
    assert isinstance(result, Drop), result
    assert result.detail and "\n" not in result.detail
    return result.reason, result.key


# Sound rows


def test_mp16_rows_as_they_are() -> None:
    """The second row of the benchmark list YFCC25600 and the first of Im2GPS3k."""
    line = (
        b"2e/b5/4325164013.jpg,22489773@N02,40.445378999999996,116.66398999999998,2,14,201,"
        b"0.01687361607984883,0.36669432727785534,0.6164320360592797"
    )
    assert mp16.parse(line) == Record(
        "2e/b5/4325164013.jpg", "22489773@N02", 40.445378999999996, 116.66398999999998, "mp16"
    )
    name = "1000269685_e60e9cdfb4_1125_78841376@N00.jpg"
    record = mp16.parse(f"{name},78841376@N00,32.325436,-64.764404,2,12,353,0.2,0.0,0.6".encode())
    assert isinstance(record, Record)
    assert (record.key, record.longitude, photo_id(record.key)) == (name, -64.764404, "1000269685")


def test_mp16_files(tmp_path: Path) -> None:
    path = write_places365(tmp_path / "mp16_places365.csv", PHOTOS)
    header, *rows = read_lines(str(path))
    assert mp16.columns_of(header).has_header
    assert all(mp16.columns_of(row) == mp16.BY_DEFINITION for row in rows)
    records = [mp16.parse(row) for row in rows]
    assert records == [Record(p.img_id, p.author, p.latitude, p.longitude, "mp16") for p in PHOTOS]
    path = write_mp16_urls(tmp_path / "mp16_urls.csv", PHOTOS, "http://localhost:1")
    wanted = [(p.img_id, "http://localhost:1" + p.url_path) for p in PHOTOS]
    assert [mp16.parse_url(row) for row in read_lines(str(path))] == wanted


@pytest.mark.parametrize("columns", [23, 25])
@pytest.mark.parametrize("name", ["yfcc100m_dataset", "yfcc100m_dataset-0.bz2"])
def test_yfcc100m_files(tmp_path: Path, columns: int, name: str) -> None:
    photos = [*PHOTOS, Photo(9, "1@N01", 1.5, 2.5, b"", is_photo=False)]
    path = write_yfcc100m(tmp_path / name, photos, columns, "https://live.example.org")
    found = [yfcc100m.parse(row) for row in read_lines(str(path))]
    assert found == [
        Record(
            str(p.id),
            p.author,
            p.latitude,
            p.longitude,
            "yfcc100m",
            accuracy=p.accuracy,
            licence=p.licence[1],
            is_photo=p.is_photo,
            url="https://live.example.org" + p.url_path,
            hash=p.hash if columns == 25 else None,
        )
        for p in photos
    ]
    hashes = write_hashes(tmp_path / "yfcc100m_hash.bz2", photos)
    joined = [yfcc100m.parse_hash(row) for row in read_lines(str(hashes))]
    assert joined == [(str(p.id), p.hash) for p in photos]


def changed(columns: int, **fields: str) -> bytes:
    """A row of YFCC100M with other fields, by their names with underscores."""
    values = yfcc100m_line(ONE, 23).split("\t")
    for name, value in fields.items():
        values[yfcc100m.COLUMNS.index(name.replace("_", " "))] = value
    if columns == 25:
        values = ["17", values[0], ONE.hash, *values[1:]]
    return "\t".join(values).encode()


@pytest.mark.parametrize("columns", [23, 25])
def test_yfcc100m_fields(columns: int) -> None:
    def parsed(**fields: str) -> Record:
        record = yfcc100m.parse(changed(columns, **fields))
        assert isinstance(record, Record), record
        return record

    assert parsed(user_NSID="43008843%40N00").author == "43008843@N00"
    assert parsed(accuracy="").accuracy is None
    assert parsed(licence_URL="").licence == BY[0]
    assert (
        parsed(licence_URL="", licence_name="Attribution-NonCommercial+License").licence
        == (BY_NC[0])
    )
    assert parsed(licence_URL="", licence_name="").licence is None
    assert parsed(download_URL="").url is None
    assert parsed(download_URL="file:///etc/passwd").url is None
    # The only two that are easily swapped.
    swapped = parsed(longitude="13.5", latitude="52.25")
    assert (swapped.longitude, swapped.latitude) == (13.5, 52.25)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("kind", PARSERS)
def test_ends_of_lines_and_a_byte_order_mark_are_no_part_of_a_row(
    kind: str, start: bytes, end: bytes
) -> None:
    parse, line = PARSERS[kind]
    assert parse(start + line + end) == parse(line)
    assert isinstance(parse(line), Record)
    header = start + PLACES365_HEADER.encode() + end
    columns = mp16.columns_of(header)
    assert columns == replace(mp16.BY_DEFINITION, has_header=True)
    assert mp16.parse(MP16_LINE, columns) == mp16.parse(MP16_LINE)
    assert dropped(mp16.parse(header))[0] is DropReason.MALFORMED_ROW


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("AUTHOR,LON,LAT,IMG_ID", "a@N00,2,1,45/77/1.jpg"),
        ("img_id,author,lon,lat,city", '45/77/1.jpg,a@N00,2,1,"Paris, Texas"'),
        ('"IMG_ID" , "AUTHOR", "Lat","LON"', '"45/77/1.jpg", "a@N00", "1","2"'),
        ("\ufeffIMG_ID,user_id,latitude,longitude\r", "45/77/1.jpg,a@N00,1,2\r"),
        ("\ufeff'lng','lat','owner','photo_id'", "2,1,a@N00,45/77/1.jpg"),
        (f"{PLACES365_HEADER},{','.join('abcdefgh')}", "45/77/1.jpg,a@N00,1,2" + ",0" * 14),
    ],
)
def test_columns_of_mp16_have_any_order_and_any_others_between(header: str, row: str) -> None:
    columns = mp16.columns_of(header.encode())
    found = mp16.parse(row.encode(), columns)
    assert columns.has_header
    assert found == Record("45/77/1.jpg", "a@N00", 1.0, 2.0, "mp16")
    reason, _ = dropped(mp16.parse(row.encode() + b",1", columns))
    assert reason is DropReason.MALFORMED_ROW


def test_a_list_may_lack_the_photographers() -> None:
    columns = mp16.columns_of(b"IMG_ID,LAT,LON,country")
    found = mp16.parse(b"45/77/1.jpg,1,2,RO", columns)
    assert columns.author is None
    assert found == Record("45/77/1.jpg", "", 1.0, 2.0, "mp16")


@pytest.mark.parametrize(
    "line",
    [
        b"photo,user,y,x,a,b,c,d,e,f",  # ten columns, none of which is known
        b"IMG_ID,AUTHOR,LAT,S3_Label",
        b"45/77/1.jpg,a@N00,1,2",  # a row, but of which list?
        b"45/77/1.jpg,a@N00,1,2,0,0,0,0,0,0,0",
        b'"IMG_ID,AUTHOR',
        b"IMG_ID,AUTHOR,LAT,LON,LAT",
        b"\xff\xfeI\x00M\x00G\x00",
    ],
)
def test_an_unknown_header_of_mp16_is_refused(line: bytes) -> None:
    with pytest.raises(DataError, match=r"list\.csv"):
        mp16.columns_of(line, "list.csv")


def test_a_list_without_header_has_the_columns_of_its_format() -> None:
    for line in (MP16_LINE, b"a.jpg,x,nan,,0,0,0,0,0,0", b""):
        assert mp16.columns_of(line) == mp16.BY_DEFINITION
    for line in (*YFCC_LINES.values(), b"nonsense", b"", b"\xff\t\xff"):
        assert yfcc100m.columns_of(line) == ()


def test_a_header_of_yfcc100m_names_the_columns() -> None:
    names = [*yfcc100m.COLUMNS, "hash"]
    values = [*YFCC_LINES[23].decode().split("\t"), ONE.hash]
    wanted = yfcc100m.parse(YFCC_LINES[25])
    for spelled in (str.upper, lambda name: name.replace(" ", "_"), lambda n: n.replace(" ", "")):
        header = "\t".join(spelled(name) for name in reversed(names)).encode()
        columns = yfcc100m.columns_of(b"\xef\xbb\xbf" + header)
        assert yfcc100m.parse("\t".join(reversed(values)).encode(), columns) == wanted
    assert dropped(yfcc100m.parse(YFCC_LINES[23], columns))[0] is DropReason.MALFORMED_ROW
    with pytest.raises(DataError, match="does not name"):
        yfcc100m.columns_of(b"photo id\tlongitude\tlatitude", "list")


def test_quoted_fields_are_csv() -> None:
    line = b'"45/77/1.jpg","a@N00",1,2,0,0,0,0,0,0'
    assert mp16.parse(line) == Record("45/77/1.jpg", "a@N00", 1.0, 2.0, "mp16")
    assert mp16.parse_url(b'"45/77/1.jpg","http://h/a,b.jpg"') == (
        "45/77/1.jpg",
        "http://h/a,b.jpg",
    )
    assert mp16.parse_url(b"45/77/1.jpg,http://h/a,b.jpg") == ("45/77/1.jpg", "http://h/a,b.jpg")


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ("45/77/3228511372.jpg", "3228511372"),
        ("45_77_3228511372.jpg", "3228511372"),
        ("3228511372.jpg", "3228511372"),
        ("3228511372", "3228511372"),
        ("1000269685_e60e9cdfb4_1125_78841376@N00.jpg", "1000269685"),
        ("some/where/1000269685_e60e9cdfb4_o.jpg", "1000269685"),
        ("1000269685_e60e9cdfb4.jpg", "1000269685"),
        ("images/12_34.jpg", "images/12_34.jpg"),
        ("city_0001", "city_0001"),
        ("\u0663\u0664.jpg", "\u0663\u0664.jpg"),
        (".hidden", ".hidden"),
        ("", ""),
    ],
)
def test_photo_id(key: str, wanted: str) -> None:
    assert photo_id(key) == wanted


@given(st.text(max_size=30))
def test_photo_id_takes_anything_and_stays_what_it_is(key: str) -> None:
    assert photo_id(photo_id(key)) == photo_id(key)


# Rows that cannot be used

BAD_MP16 = [
    (b"", "malformed_row", None),
    (b"\n", "malformed_row", None),
    (MP16_LINE.rpartition(b",")[0], "malformed_row", None),
    (MP16_LINE + b",", "malformed_row", None),
    (MP16_LINE.replace(b",", b"\t"), "malformed_row", None),
    (MP16_LINE.replace(b",", b";"), "malformed_row", None),
    (b"a\tb" + MP16_LINE[1:], "malformed_row", None),
    (b"," + MP16_LINE.partition(b",")[2], "malformed_row", None),
    (b" ," + MP16_LINE.partition(b",")[2], "malformed_row", None),
    (b"a.jpg,,1,2,0,0,0,0,0,0", "malformed_row", "a.jpg"),
    (b"a.jpg, ,1,2,0,0,0,0,0,0", "malformed_row", "a.jpg"),
    (b"a.jpg,x\ty,1,2,0,0,0,0,0,0", "malformed_row", "a.jpg"),
    (b'"a.jpg,x,1,2,0,0,0,0,0,0', "malformed_row", None),
    (b'a.jpg,"x"y,1,2,0,0,0,0,0,0', "malformed_row", None),
    (b"\xff.jpg,x,1,2,0,0,0,0,0,0", "malformed_row", None),
    (b"a.jpg,x\xc3,1,2,0,0,0,0,0,0", "malformed_row", None),
    (b"a\0.jpg,x,1,2,0,0,0,0,0,0", "malformed_row", None),
    (b"a.jpg,x,,,0,0,0,0,0,0", "no_coordinates", "a.jpg"),
    (b"a.jpg,x,1,,0,0,0,0,0,0", "malformed_row", "a.jpg"),
    (b"../../etc/passwd,x,1,2,0,0,0,0,0,0", "malformed_row", None),
    (b"/etc/passwd,x,1,2,0,0,0,0,0,0", "malformed_row", None),
    (b"a/../b.jpg,x,1,2,0,0,0,0,0,0", "malformed_row", None),
    (b"..\\b.jpg,x,1,2,0,0,0,0,0,0", "malformed_row", None),
    (b"file://b.jpg,x,1,2,0,0,0,0,0,0", "malformed_row", None),
    (b"zip::b.jpg,x,1,2,0,0,0,0,0,0", "malformed_row", None),
]


@pytest.mark.parametrize(("line", "reason", "key"), BAD_MP16)
def test_bad_rows_of_mp16(line: bytes, reason: str, key: str | None) -> None:
    result = mp16.parse(line)
    assert dropped(result) == (DropReason(reason), key)
    assert isinstance(result, Drop) and result.line == shown(line)


BAD_NUMBERS = {
    "malformed_row": [
        "x",
        "1,5",
        "1_0",
        "0x10",
        "١",
        "--1",
        "1e",
        ".",
        "1" * 400,
        "1 2",
        "1\u00a0",
    ],
    "bad_coordinates": ["nan", "NaN", "inf", "-Infinity", "1e9", "-180.0001", "1e999"],
}


@pytest.mark.parametrize("column", ["latitude", "longitude"])
@pytest.mark.parametrize(("reason", "text"), [(r, t) for r, ts in BAD_NUMBERS.items() for t in ts])
def test_numbers_that_are_no_degrees(column: str, reason: str, text: str) -> None:
    for columns in (23, 25):
        result = yfcc100m.parse(changed(columns, **{column: text}))
        assert dropped(result) == (DropReason(reason), str(ONE.id))
        assert column in result.detail
    if "," not in text:
        pair = [text, "1"] if column == "latitude" else ["1", text]
        row = ",".join(["a.jpg", "x", *pair, *"000000"]).encode()
        assert dropped(mp16.parse(row)) == (DropReason(reason), "a.jpg")


@pytest.mark.parametrize(
    ("latitude", "longitude", "good"),
    [
        ("90", "180", True),
        ("-90.0", "-180", True),
        ("+1.", ".5", True),
        ("1e1", "-1E-3", True),
        (" 5 ", "5", True),
        ("90.001", "0", False),
        ("0", "180.001", False),
    ],
)
def test_the_edge_of_the_earth(latitude: str, longitude: str, good: bool) -> None:
    result = mp16.parse(f"a.jpg,x,{latitude},{longitude},0,0,0,0,0,0".encode())
    assert isinstance(result, Record) is good
    if good:
        assert (result.latitude, result.longitude) == (float(latitude), float(longitude))


def test_zero_coordinates_are_a_matter_of_the_filters() -> None:
    assert isinstance(mp16.parse(b"a.jpg,x,0,0,0,0,0,0,0,0"), Record)


@pytest.mark.parametrize("columns", [23, 25])
@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"longitude": "", "latitude": "", "accuracy": ""}, "no_coordinates"),
        ({"longitude": "null", "latitude": "null"}, "no_coordinates"),
        ({"longitude": ""}, "malformed_row"),
        ({"marker": ""}, "malformed_row"),
        ({"marker": "2"}, "malformed_row"),
        ({"accuracy": "0"}, "malformed_row"),
        ({"accuracy": "17"}, "malformed_row"),
        ({"accuracy": "-1"}, "malformed_row"),
        ({"accuracy": "high"}, "malformed_row"),
        ({"accuracy": "9" * 5000}, "malformed_row"),
        ({"user_NSID": ""}, "malformed_row"),
        ({"user_NSID": "%FF"}, "malformed_row"),
        ({"title": "a\tb"}, "malformed_row"),
        ({"title": "a\tb\tc"}, "malformed_row"),
        ({"title": "a\t\t\tc"}, "malformed_row"),
        ({"title": "a\nb"}, None),  # whoever cuts lines would never hand this over in one
    ],
)
def test_bad_rows_of_yfcc100m(columns: int, fields: dict[str, str], reason: str | None) -> None:
    result = yfcc100m.parse(changed(columns, **fields))
    if reason is None:
        assert isinstance(result, Record)
    else:
        assert dropped(result)[0] is DropReason(reason)


@pytest.mark.parametrize("key", ["", "x", "-1", "1.0", "../1", "1" * 21])
def test_ids_of_yfcc100m_are_digits(key: str) -> None:
    for columns in (23, 25):
        line = changed(columns, photo_id=key)
        assert dropped(yfcc100m.parse(line)) == (DropReason.MALFORMED_ROW, None)
    assert dropped(yfcc100m.parse_hash(f"{key}\t{'0' * 32}".encode()))[1] is None


@pytest.mark.parametrize("digest", ["", "0" * 31, "g" * 32, "../" * 8 + "etc/pass", "0/" * 16])
def test_hashes_are_hexadecimal(digest: str) -> None:
    line = YFCC_LINES[25].replace(ONE.hash.encode(), digest.encode(), 1)
    assert dropped(yfcc100m.parse(line)) == (DropReason.MALFORMED_ROW, str(ONE.id))
    assert dropped(yfcc100m.parse_hash(f"12\t{digest}".encode())) == (
        DropReason.MALFORMED_ROW,
        "12",
    )


def test_the_line_number_is_digits() -> None:
    """A row of 23 columns with two tabs too many has as many as one with a line number."""
    for number in ("", "x", "1.5", "-1"):
        line = YFCC_LINES[25].partition(b"\t")[2]
        result = yfcc100m.parse(number.encode() + b"\t" + line)
        assert dropped(result) == (DropReason.MALFORMED_ROW, None)


def test_a_row_that_breaks_off_is_no_row() -> None:
    """At every place, but behind the last comma, where nothing is read any more."""
    for cut in range(len(MP16_LINE.rpartition(b",")[0]) + 1):
        dropped(mp16.parse(MP16_LINE[:cut]))
    for line in YFCC_LINES.values():
        for cut in range(len(line)):
            dropped(yfcc100m.parse(line[:cut]))
    hashes = f"{ONE.id}\t{ONE.hash}".encode()
    for cut in range(len(hashes)):
        dropped(yfcc100m.parse_hash(hashes[:cut]))


def test_bad_rows_of_addresses() -> None:
    for line, key in [
        (b"", None),
        (b"a.jpg", None),
        (b"../a.jpg,http://h/a.jpg", None),
        (b"a.jpg,", "a.jpg"),
        (b"a.jpg,ftp://h/a.jpg", "a.jpg"),
        (b"a.jpg,file:///etc/passwd", "a.jpg"),
        (b"a.jpg,http:///a.jpg", "a.jpg"),
        (b"a.jpg,http://h:port/a.jpg", "a.jpg"),
        (b"a.jpg,http://[::1/a.jpg", "a.jpg"),
        (b"a.jpg,http://h/a b.jpg", "a.jpg"),
        (b"a.jpg,http://h/\xff.jpg", None),
    ]:
        assert dropped(mp16.parse_url(line)) == (DropReason.MALFORMED_ROW, key), line


MUTATIONS = st.lists(
    st.tuples(
        st.sampled_from(["insert", "replace", "delete", "swap"]),
        st.floats(0, 1),
        st.binary(min_size=1, max_size=3)
        | st.sampled_from([b"\t", b",", b'"', b"nan", b"\xef\xbb\xbf", b"\r", b"%", b"e9", b"\0"]),
    ),
    min_size=1,
    max_size=6,
)


def mutated(line: bytes, mutations: list[tuple[str, float, bytes]]) -> bytes:
    for kind, place, data in mutations:
        at = int(place * len(line))
        if kind == "insert":
            line = line[:at] + data + line[at:]
        elif kind == "replace":
            line = line[:at] + data + line[at + len(data) :]
        elif kind == "delete":
            line = line[:at] + line[at + len(data) :]
        else:
            line = line[at:] + line[:at]
    return line


@pytest.mark.parametrize("kind", PARSERS)
@settings(max_examples=300, deadline=None)
@given(mutations=MUTATIONS)
def test_mutated_rows_are_sound_records_or_drops(
    kind: str, mutations: list[tuple[str, float, bytes]]
) -> None:
    parse, line = PARSERS[kind]
    check_item(parse(mutated(line, mutations)))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
@example(b"\xef\xbb\xbf")
@example(b"," * 9)
@example(b"\t" * 22)
@example(b"\t" * 24)
@example(b'"' * 7)
def test_any_bytes_are_sound_records_or_drops(line: bytes) -> None:
    check_item(mp16.parse(line))
    check_item(yfcc100m.parse(line))
    for pair in (mp16.parse_url(line), yfcc100m.parse_hash(line)):
        assert isinstance(pair, (tuple, Drop))


def check_item(item: Record | Drop) -> None:
    """What may be relied upon, whatever the bytes were."""
    if isinstance(item, Drop):
        assert item.detail and len(item.line) <= 200
        item.line.encode()  # the table of drops is UTF-8
        item.detail.encode()
        return
    assert item.key and item.author
    assert -90 <= item.latitude <= 90 and -180 <= item.longitude <= 180
    assert item.accuracy is None or 1 <= item.accuracy <= 16
    assert ".." not in item.key.split("/") and not item.key.startswith("/")
    json.dumps([item.key, item.author, item.licence, item.url], ensure_ascii=False).encode()
    assert pickle.loads(pickle.dumps(item)) == item


def test_lines_in_drops_are_short_and_legible() -> None:
    assert shown(b"a\xffb\r\n") == "a\\xffb"
    assert shown("é".encode() * 500) == "é" * 200
    assert len(shown(b"\xff" * 500)) == 200


# Files of lines


def test_lines_of_any_length_across_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "CHUNK", 7)
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 20)
    data = [b"", b"a", b"b" * 6, b"c" * 7, b"", b"d" * 20, b"e" * 21, b"f" * 90, b"g\r"]
    for name in ("a.txt", "a.bz2"):
        path = write_lines(tmp_path / name, data)
        assert list(read_lines(str(path))) == [line[:20] for line in data]
    (tmp_path / "no newline").write_bytes(b"a\nb")
    assert list(read_lines(str(tmp_path / "no newline"))) == [b"a", b"b"]
    (tmp_path / "empty").write_bytes(b"")
    assert list(read_lines(str(tmp_path / "empty"))) == []
    (tmp_path / "empty.bz2").write_bytes(bz2.compress(b""))
    assert list(read_lines(str(tmp_path / "empty.bz2"))) == []


@pytest.mark.parametrize("chunk", [3, 50, 2**20])
def test_bzip2_of_several_streams_is_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(lines, "CHUNK", chunk)
    path = tmp_path / "parallel.bz2"
    path.write_bytes(b"".join(bz2.compress(b"%d\nx" % i) for i in range(3)) + bz2.compress(b""))
    assert list(read_lines(str(path))) == [b"0", b"x1", b"x2", b"x"]


def test_bzip2_that_is_damaged_is_noticed(tmp_path: Path) -> None:
    data = bz2.compress(b"".join(b"%d\n" % (i * i) for i in range(3000)))
    path = tmp_path / "a.bz2"
    for cut in (4, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(ReadError, match="breaks off"):
            list(read_lines(str(path)))
    for damaged in (
        data[:200] + b"\0" + data[201:],
        data + b"garbage",
        data + data[:200],
        data + data[:50] + b"\0\0\0\0" + data[54:],
    ):
        path.write_bytes(damaged)
        with pytest.raises(ReadError, match="copy it again"):
            list(read_lines(str(path)))


def test_no_file_of_lines(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(read_lines(str(tmp_path / "missing.csv")))


# Shards as a source


def test_samples_of_a_shard_are_records_whose_images_are_ranges_of_it(tmp_path: Path) -> None:
    members = [
        ("d/1.jpg", photo(1)),
        ("d/1.json", truth(1.5, -2.5)),
        ("2.json", json.dumps({"latitude": 0, "longitude": 9, "author": "x@N00"}).encode()),
        ("2.png", photo(2, kind="PNG")),
        (f"{'long/' * 40}3.webp", photo(3, kind="WEBP")),
        (f"{'long/' * 40}3.json", b'{"latitude": 3, "longitude": 4, "license": "CC0"}'),
    ]
    url = str(write_tar(tmp_path / "a.tar", members))
    records = list(webdataset.read_shard(url))
    assert all(isinstance(record, Record) for record in records), records
    stored = [members[index][1] for index in (0, 3, 4)]
    assert [images.read(record.image) for record in records] == stored
    assert all(record.image.kind == "tar" and record.image.url == url for record in records)
    assert [record.key for record in records] == ["d/1", "2", f"{'long/' * 40}3"]
    assert [record.author for record in records] == ["", "x@N00", ""]
    assert [record.licence for record in records] == [None, None, "CC0"]
    assert (records[0].latitude, records[0].longitude) == (1.5, -2.5)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (None, "no_coordinates"),
        (b"{}", "no_coordinates"),
        (b"", "malformed_row"),
        (b"[1, 2]", "malformed_row"),
        (b"\xff", "malformed_row"),
        (b"[" * 100_000, "malformed_row"),
        (b'{"latitude": 1}', "bad_coordinates"),
        (truth(91), "bad_coordinates"),
        (b'{"latitude": NaN, "longitude": 1}', "bad_coordinates"),
        (b'{"latitude": 1, "longitude": 1, "author": 5}', "malformed_row"),
        (b'{"latitude": 1, "longitude": 1, "author": "a\\u0000"}', "malformed_row"),
        (b'{"latitude": 1, "longitude": 1, "author": "\\ud800"}', "malformed_row"),
        (b'{"latitude": 1, "longitude": 1, "licence": {}}', "malformed_row"),
    ],
)
def test_samples_without_a_usable_position(
    tmp_path: Path, document: bytes | None, reason: str
) -> None:
    members = [("a.jpg", photo(1))] + ([] if document is None else [("a.json", document)])
    url = str(write_tar(tmp_path / "a.tar", [*members, ("b.jpg", photo(2)), ("b.json", truth())]))
    bad, good = webdataset.read_shard(url)
    assert dropped(bad) == (DropReason(reason), "a")
    check_item(bad)
    assert isinstance(good, Record)


def test_samples_whose_position_is_an_estimate_are_drops(tmp_path: Path) -> None:
    ours = jpeg(berlin(b"LocDiffusion t-1, estimated from the picture"))
    members = [("a.jpg", ours), ("a.json", truth(52.5, 13.25))]
    members += [("b.jpg", ours), ("b.json", truth(48.5, 2.25))]
    estimate, corrected = webdataset.read_shard(str(write_tar(tmp_path / "a.tar", members)))
    assert dropped(estimate) == (DropReason.NO_COORDINATES, "a")
    assert isinstance(estimate, Drop) and "LocDiffusion estimated" in estimate.detail
    assert isinstance(corrected, Record) and corrected.latitude == 48.5


def test_samples_that_the_reader_refuses_are_drops(tmp_path: Path) -> None:
    members = [
        ("a.json", truth()),
        ("b.jpg", photo(1)),
        ("b.json", truth()),
        ("b.png", photo(2)),
        ("b2.jpg", photo(1)),
        ("b.jpg", photo(1)),
    ]
    (tmp_path / "a.tar").write_bytes(tar_bytes(members)[:-1000])
    found = list(webdataset.read_shard(str(tmp_path / "a.tar")))
    drops = [dropped(item) for item in found if isinstance(item, Drop)]
    assert sum(isinstance(item, Record) for item in found) == 1
    assert set(drops) == {
        (DropReason.NO_IMAGE, "a"),
        (DropReason.DUPLICATE_ID, "b.png"),
        (DropReason.DUPLICATE_ID, "b.jpg"),
        (DropReason.NO_COORDINATES, "b2"),
        (DropReason.UNUSABLE_SHARD, None),
    }


def test_a_gzipped_shard_is_refused_sample_by_sample(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(tar_bytes([("a.jpg", photo(1)), ("a.json", truth())])))
    (item,) = webdataset.read_shard(str(path))
    assert dropped(item) == (DropReason.UNUSABLE_SHARD, "a")
    assert "unpack" in item.detail


def test_a_shard_that_cannot_be_had_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match=r"missing\.tar"):
        list(webdataset.read_shard(str(tmp_path / "missing.tar")))


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_shards_lose_nothing_and_ranges_hold(tmp_path: Path, kind: str) -> None:
    """One item for each of the reader's and for each document without a photo; ranges hold."""
    for seed in range(3):
        path = tmp_path / f"{seed}.tar"
        path.write_bytes(random_damage(kind, seed).data)
        reader = ShardReader(str(path))
        items = list(reader)
        found = list(webdataset.read_shard(str(path)))
        alone = [stem(name) for name in reader.documents.alone]
        assert [item.key for item in found] == [*(item.key for item in items), *alone]
        for item, result in zip(items, found, strict=False):
            check_item(result) if isinstance(result, Drop) else None
            if isinstance(result, Record):
                assert isinstance(item, Sample)
                assert images.read(result.image) == item.image


def test_records_travel() -> None:
    record = Record("a", "b", 1.0, 2.0, "mp16", ImageRef("tar", "x.tar", 512, 9))
    assert pickle.loads(pickle.dumps(record)) == record
