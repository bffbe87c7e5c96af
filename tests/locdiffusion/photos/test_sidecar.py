"""Documents beside photos, as other programs write them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from locdiffusion.photos.capture_time import Capture, TimeSource, from_timestamp
from locdiffusion.photos.coordinates import Source
from locdiffusion.photos.sidecar import Sidecar, read_sidecar
from schemas.samples import MAX_METADATA_BYTES, Truth
from support.tiff_blocks import xmp_packet

BERLIN = Truth(52.5, 13.25)


def read(document: Any) -> Sidecar:
    return read_sidecar("a.json", json.dumps(document).encode())


DEGREES = {"latitude": 52.5, "longitude": 13.25}
DOCUMENTS: dict[str, Any] = {
    "our own": DEGREES,
    "numbers as text": {"latitude": "52.5", "longitude": "13.25"},
    "hemispheres in text": {"latitude": "52.5 N", "longitude": "13° 15' 0\" E"},
    "lat and lon": {"lat": 52.5, "lon": 13.25},
    "lat and lng": {"Lat": 52.5, "Lng": 13.25},
    "location": {"location": {"lat": 52.5, "lng": 13.25}},
    "gps": {"gps": {**DEGREES, "altitude": 34.0}},
    "exiftool -j": [
        {
            "SourceFile": "a.jpg",
            "GPSLatitudeRef": "North",
            "GPSLatitude": "52 deg 30' 0.00\" N",
            "GPSLongitude": "13 deg 15' 0.00\" E",
        }
    ],
    "exiftool -j -n": [{"GPSLatitudeRef": "N", "GPSLatitude": 52.5, "GPSLongitude": 13.25}],
    "exiftool -j -n -G": [
        {
            "EXIF:GPSLatitude": 52.5,
            "EXIF:GPSLongitude": 13.25,
            "Composite:GPSLatitude": 52.5,
            "Composite:GPSLongitude": 13.25,
        }
    ],
    "exiftool -j -n -a -G1:4": [
        {
            "GPS:GPSLatitudeRef": "N",
            "GPS:Copy1:GPSLatitude": 52.5,
            "GPS:GPSLongitudeRef": "E",
            "GPS:Copy1:GPSLongitude": 13.25,
        }
    ],
    "exiftool -j -g": [{"Composite": {"GPSLatitude": 52.5, "GPSLongitude": 13.25}}],
    "exiftool -j -gpsposition": [{"GPSPosition": "52 deg 30' 0.00\" N, 13 deg 15' 0.00\" E"}],
    "exiftool -j -n -g -gpsposition": [{"Composite": {"GPSPosition": "52.5 13.25"}}],
    "GeoJSON": {
        "type": "Feature",
        "geometry": {"type": "Point", "coordinates": [13.25, 52.5, 34.0]},
        "properties": {"name": "x"},
    },
    "GeoJSON collection": {
        "type": "FeatureCollection",
        "features": [{"geometry": {"type": "Point", "coordinates": [13.25, 52.5]}}],
    },
    "Flickr": {"id": "1", "geo": [{"latitude": "52500000", "longitude": "13250000"}]},
    "Flickr, near Greenwich": {"geo": [{"latitude": "52.5", "longitude": "13.25"}]},
    "photo server": {"exifInfo": {**DEGREES, "city": "Berlin"}},
    "Apple": {"{GPS}": {"Latitude": 52.5, "LatitudeRef": "N", "Longitude": 13.25}},
    "rationals": {
        "GPSLatitude": [[52, 1], [30, 1], [0, 1]],
        "GPSLatitudeRef": "N",
        "GPSLongitude": [13, 15, 0],
        "GPSLongitudeRef": "E",
    },
}


def test_numbers_of_exif_alone_may_lie_in_any_hemisphere() -> None:
    alone = {"GPSLatitude": 52.5, "GPSLongitude": 13.25}
    told = [{f"EXIF:{name}": value for name, value in alone.items()}], [{"EXIF": alone}]
    for document in told:
        assert "N/S or a sign" in read(document).problem
    west = {"GPSLatitudeRef": "N", "GPSLongitudeRef": "W"}
    assert read([{"EXIF": {**alone, **west}}]).position == Truth(52.5, -13.25)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_of_many_programs(name: str) -> None:
    found = read(DOCUMENTS[name])
    assert found == Sidecar(BERLIN, Source.JSON)


def test_south_and_west() -> None:
    both = {"GPSLatitudeRef": "S", "GPSLongitudeRef": "West", "GPSLongitude": -13.25}
    for latitude in (-33.5, 33.5, "33.5 S"):
        assert read([{**both, "GPSLatitude": latitude}]).position == Truth(-33.5, -13.25)
    flickr = {"geo": [{"latitude": "51500000", "longitude": "-120000"}]}
    assert read(flickr).position == Truth(51.5, -0.12)


UNKNOWN = {"latitude": 0.0, "longitude": 0.0, "altitude": 0.0, "latitudeSpan": 0.0}
TAKEN = Capture(from_timestamp(1551123684, TimeSource.TAKEOUT))
TIME = {"timestamp": "1551123684", "formatted": "Feb 25, 2019, 7:41:24 PM UTC"}


class TestTakeout:
    @pytest.mark.parametrize(
        ("owner", "camera", "wanted"),
        [
            (DEGREES, UNKNOWN, BERLIN),
            (UNKNOWN, DEGREES, BERLIN),
            (None, DEGREES, BERLIN),
            (DEGREES, {"latitude": 1.0, "longitude": 2.0}, BERLIN),
            ({"latitudeE7": 525000000, "longitudeE7": 132500000}, UNKNOWN, BERLIN),
            (UNKNOWN, UNKNOWN, None),
            (None, None, None),
        ],
    )
    def test_the_owner_comes_first(self, owner: Any, camera: Any, wanted: Truth | None) -> None:
        document = {"title": "a.jpg", "geoData": owner, "geoDataExif": camera}
        found = read({**document, "photoTakenTime": TIME})
        assert found.position == wanted and found.capture == TAKEN and not found.problem
        assert found.source is (Source.TAKEOUT if wanted else None)

    @pytest.mark.parametrize("stamp", [None, "", "soon", True, 1e400, [], "9" * 40])
    def test_times_that_cannot_be_read(self, stamp: Any) -> None:
        assert read({"photoTakenTime": {"timestamp": stamp}}) == Sidecar()
        assert read({"photoTakenTime": stamp}) == Sidecar()


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"latitude": None, "longitude": None},
        {"latitude": "", "longitude": ""},
        {"latitude": 0.0, "longitude": 0},
        {"latitude": float("nan"), "longitude": float("nan")},
        {"title": "x", "location": "Berlin", "gps": None, "geo": []},
        {"type": "Feature", "geometry": None},
        {"location": [52.5, 13.25]},  # which comes first?
    ],
)
def test_no_position_is_no_problem(document: Any) -> None:
    assert read(document) == Sidecar()


def test_a_longitude_of_zero_is_one() -> None:
    assert read({"latitude": 51.5, "longitude": 0}).position == Truth(51.5, 0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe\xfa", "not JSON"),
        (b"latitude: 3", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a":' * 100_000, "not JSON"),
        (b'{"latitude": 1' + b"0" * 9_000 + b', "longitude": 2}', "not JSON"),
        (b"null", "wanted an object"),
        (b"[]", "wanted an object"),
        (b"[1, 2]", "wanted an object"),
        (b'"52.5, 13.25"', "wanted an object"),
        (b'[{"latitude": 1, "longitude": 2}, {}]', "wanted an object"),
        (b'{"latitude": 1}', "only one .* write both latitude and longitude"),
        (b'{"latitude": NaN, "longitude": 2}', "only one"),
        (b'{"latitude": true, "longitude": 2}', "wanted a number of degrees"),
        (b'{"latitude": {}, "longitude": 2}', "wanted a number of degrees"),
        (b'{"latitude": 1e999, "longitude": 2}', "inf"),
        (b'{"latitude": 1' + b"0" * 400 + b', "longitude": 2}', "inf"),
        (b'{"latitude": 91, "longitude": 2}', "swapped"),
        (b'{"latitude": 1, "longitude": 200}', "swapped"),
        (b'{"latitude": "52,5", "longitude": "13,4"}', "hemisphere"),
        (b'{"latitude": "here", "longitude": "there"}', "no angle"),
        (b'{"latitude": 1, "longitude": 2, "latitude": 3}', "stands twice"),
        (b'{"geoData": {"latitude": 123.0, "longitude": 2}}', "swapped"),
        (b" " * (MAX_METADATA_BYTES + 1), "limit"),
    ],
)
def test_what_is_not_understood_is_told(data: bytes, message: str) -> None:
    found = read_sidecar("a.json", data)
    assert found == Sidecar(problem=found.problem)
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(found.problem)
    assert found.problem.startswith("a.json: ")


def test_byte_order_marks() -> None:
    for encoding in ("utf-8-sig", "utf-16"):
        data = json.dumps(DEGREES).encode(encoding)
        assert read_sidecar("a.json", data).position == BERLIN


def test_xmp() -> None:
    found = read_sidecar("a.jpg.XMP", xmp_packet("52,30.0N", "13,15.0E"))
    assert found == Sidecar(BERLIN, Source.XMP)
    assert read_sidecar("a.xmp", b"<x:xmpmeta/>") == Sidecar()
    for data in (b"", b"null", xmp_packet("52,30.0N", ""), b"<GPSLatitude"):
        assert read_sidecar("a.xmp", data).problem.startswith("a.xmp: ")


def test_what_this_project_wrote_is_an_estimate() -> None:
    geotag = DOCUMENTS["GeoJSON"] | {"properties": {"model_id": "m", "radius_90_km": 3.0}}
    written = [{**DOCUMENTS["exiftool -j -n"][0], "GPSProcessingMethod": "LocDiffusion m, x"}]
    for document in (geotag, written, {**DEGREES, "model_id": "m", "radius_90_km": 3.0}):
        assert read(document).source is Source.ESTIMATE


NAMES = [
    *("latitude", "longitude", "lat", "geo", "geoData", "GPSLatitude", "GPSLatitudeRef"),
    *("EXIF:GPSLatitude", "geometry", "type", "coordinates", "photoTakenTime", "exif"),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5)
    ),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(JSON)
def test_no_document_raises(document: Any) -> None:
    found = read(document)
    assert isinstance(found, Sidecar) and (found.position is None or not found.problem)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from(["a.json", "a.xmp", "a"]), st.binary(max_size=60))
def test_no_bytes_raise(name: str, data: bytes) -> None:
    assert isinstance(read_sidecar(name, data), Sidecar)
