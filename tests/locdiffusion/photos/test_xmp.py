"""XMP packets: positions of the photo itself, and nothing that could grow."""

from __future__ import annotations

from dataclasses import astuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from locdiffusion.photos.coordinates import NOTHING, Source
from locdiffusion.photos.xmp import read_xmp
from schemas.samples import Truth
from support import gps_photos
from support.tiff_blocks import xmp_packet

HEAD = (
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
    'xmlns:exif="http://ns.adobe.com/exif/1.0/" xmlns:d="http://www.dji.com/drone-dji/1.0/" '
    'xmlns:i="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">'
)
DESCRIPTION = "<rdf:Description>{}</rdf:Description>"
LATITUDE, LONGITUDE = "exif:GPSLatitude", "exif:GPSLongitude"


def packet(inside: str) -> bytes:
    return (HEAD + inside + "</rdf:RDF>").encode()


def element(name: str, value: str) -> str:
    return f"<{name}>{value}</{name}>"


@pytest.mark.parametrize(
    ("latitude", "longitude"),
    [("52,30.0N", "13,15.0E"), ("52,30,0N", "13,15,0E"), ("52.5N", "13.25E"), ("52.5", "13.25")],
)
def test_attributes_and_elements(latitude: str, longitude: str) -> None:
    elements = element(LATITUDE, latitude) + element(LONGITUDE, f"\n {longitude} ")
    for data in (xmp_packet(latitude, longitude), packet(DESCRIPTION.format(elements))):
        for padded in (data, b"\n" + data + b" " * 99 + b"\0"):
            found = read_xmp(padded)
            assert found.position == Truth(52.5, 13.25) and found.source is Source.XMP


def test_other_encodings() -> None:
    text = xmp_packet("52,30.0N", "13,15.0W").decode()
    for encoding in ("utf-8-sig", "utf-16"):
        assert read_xmp(text.encode(encoding)).position == Truth(52.5, -13.25)


@pytest.mark.parametrize(
    "form",
    [
        '<{0} rdf:value="{1}"/>',
        "<{0}><rdf:value>{1}</rdf:value></{0}>",
        '<{0}><rdf:Alt><rdf:li xml:lang="x-default">{1}</rdf:li></rdf:Alt></{0}>',
    ],
)
def test_values_within_elements(form: str) -> None:
    inside = form.format(LATITUDE, "52,30.0N") + form.format(LONGITUDE, "13,15.0W")
    assert read_xmp(packet(DESCRIPTION.format(inside))).position == Truth(52.5, -13.25)


@pytest.mark.parametrize(
    "form",
    [
        "<d:Thing {}/>",
        DESCRIPTION.format('<d:Place rdf:parseType="Resource"><d:At {}/></d:Place>'),
        DESCRIPTION.format("<d:Place><rdf:Description {}/></d:Place>"),
    ],
)
def test_a_position_of_something_unknown_is_told(form: str) -> None:
    strange = form.format(f'{LATITUDE}="52,30.0N" {LONGITUDE}="13,15.0W"')
    assert "wanted a property of the photo" in read_xmp(packet(strange)).problem
    own = f'<rdf:Description {LATITUDE}="1,0N" {LONGITUDE}="2,0E"/>'
    assert read_xmp(packet(strange + own)).position == Truth(1, 2)
    assert read_xmp(packet(form.format(f'{LATITUDE}="" {LONGITUDE}=""'))) == NOTHING


def test_drones_spell_it_their_way() -> None:
    drone = '<rdf:Description d:GpsLatitude="+52.5" d:GpsLongtitude="-13.25"/>'
    assert read_xmp(packet(drone)).position == Truth(52.5, -13.25)
    both = drone[:-2] + f' {LATITUDE}="1,0N" {LONGITUDE}="2,0E"/>'
    assert read_xmp(packet(both)).position == Truth(1, 2)


def test_positions_of_the_pictures_in_a_collage_are_not_its_own() -> None:
    inside = f"<rdf:Description {LATITUDE}='1,0N' {LONGITUDE}='2,0E'/>"
    pantry = f"<m:Pantry xmlns:m='http://ns.adobe.com/xap/1.0/mm/'><rdf:Bag><rdf:li>{inside}"
    collage = DESCRIPTION.format(f"{pantry}</rdf:li></rdf:Bag></m:Pantry>")
    assert read_xmp(packet(collage)) == NOTHING


def test_the_place_where_it_was_taken_but_not_one_that_it_shows() -> None:
    place = f'<rdf:Bag><rdf:li {LATITUDE}="52.5N" {LONGITUDE}="13.25E"/></rdf:Bag>'
    for name, wanted in (("i:LocationCreated", Truth(52.5, 13.25)), ("i:LocationShown", None)):
        found = read_xmp(packet(DESCRIPTION.format(element(name, place))))
        assert (found.position, found.problem) == (wanted, "")


@pytest.mark.parametrize(
    ("form", "position"),
    [
        ("attribute", (52.5, 13.408333)),
        ("drone", (52.5, 13.4)),
        ("drone-new", (52.5, 13.4)),
        ("created", (52.5, 13.408333)),
        ("created-elements", (52.5, 13.408333)),
        ("drone-zero", None),
        ("shown", None),
        ("altitude", None),
    ],
)
def test_forms_that_writing_knows(form: str, position: tuple[float, float] | None) -> None:
    found = read_xmp(gps_photos.packet(gps_photos.Form(xmp=form)))
    wanted = NOTHING if position is None else found
    assert found == wanted
    if found.position is not None:
        assert astuple(found.position) == pytest.approx(position)


@pytest.mark.parametrize("data", [b"", xmp_packet("", ""), xmp_packet("0", "0"), packet("")])
def test_no_position(data: bytes) -> None:
    assert read_xmp(data) == NOTHING


@pytest.mark.parametrize(
    "data",
    [
        xmp_packet("52,30", "13,15"),
        xmp_packet("unknown", "13,15E"),
        xmp_packet("52,30N", ""),
        xmp_packet("52,30E", "13,15N"),
        xmp_packet("52.5", "13.5", 'exif:GPSLatitudeRef="S"'),
        packet(DESCRIPTION.format(element(LATITUDE, "1N") + element(LATITUDE, "2N"))),
        xmp_packet("52,30N", "13,15E")[:-60],
        b"GPSLatitude",
    ],
)
def test_what_cannot_be_read_is_told(data: bytes) -> None:
    assert "cannot be read" in read_xmp(data).problem


def test_entities_and_depth_are_refused() -> None:
    plain = xmp_packet("&a;", "13,15E")
    bomb = b'<!DOCTYPE x [<!ENTITY a "52,30N"><!ENTITY b "&a;&a;&a;">]>' + plain
    assert "document type" in read_xmp(bomb).problem
    external = b'<!DOCTYPE x SYSTEM "file:///etc/passwd">' + plain
    assert "document type" in read_xmp(external).problem
    assert "lie in one another" in read_xmp(packet("<a>" * 9_999 + LATITUDE)).problem


def test_what_this_project_wrote_is_an_estimate() -> None:
    method = 'exif:GPSProcessingMethod="LocDiffusion geoclip"'
    assert read_xmp(xmp_packet("52,30N", "13,15E", method)).source is Source.ESTIMATE


@settings(max_examples=200, deadline=None, derandomize=True)
@given(at=st.integers(0, 400), noise=st.binary(max_size=12))
def test_damaged_packets_never_raise(at: int, noise: bytes) -> None:
    data = xmp_packet("52,30.0N", "13,15.0E")
    read_xmp(data[:at] + noise + data[at + len(noise) :])
