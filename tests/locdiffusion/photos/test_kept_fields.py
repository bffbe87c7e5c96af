"""Fields of documents become text, whatever they hold; those that tell places are known."""

from __future__ import annotations

import json

import pytest

from locdiffusion.photos.kept_fields import MAX_KEPT_LENGTH, read_fields, reveals, without_places

DOCUMENT = {
    "licence": "CC BY 4.0",
    "Event": 7,
    "ok": True,
    "none": None,
    "empty": "",
    "time": {"timestamp": "17", "more": {"deep": 1.5}},
    "a.b": "whole",
    "tags": ["ä", 1],
    "long": "x" * 10_000,
    "lone": "\ud800",
}


def fields(*names: str, data: bytes | None = None) -> dict[str, str]:
    return dict(read_fields(json.dumps(DOCUMENT).encode() if data is None else data, names))


def test_values_are_text_and_nested_ones_json() -> None:
    assert fields("licence", "Event", "ok", "a.b") == {
        "licence": "CC BY 4.0",
        "Event": "7",
        "ok": "true",
        "a.b": "whole",
    }
    assert fields("time.timestamp", "time.more.deep") == {
        "time.timestamp": "17",
        "time.more.deep": "1.5",
    }
    nested = fields("time", "tags")
    assert json.loads(nested["time"]) == DOCUMENT["time"] and nested["tags"] == '["ä", 1]'
    assert fields("none", "empty", "unknown", "event", "licence.x", "tags.0") == {}
    assert len(fields("long")["long"]) == MAX_KEPT_LENGTH
    assert fields("lone") == {"lone": "?"}


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"[1, 2]", b"7", b"[" * 100_000, b'{"licence"', b'{"licence": null}']
)
def test_what_is_no_document_has_no_fields(data: bytes) -> None:
    assert fields("licence", data=data) == {}


def test_a_list_of_one_is_a_document() -> None:
    assert fields("licence", data=b'[{"licence": "x"}]') == {"licence": "x"}


def test_what_tells_a_place_is_left_out() -> None:
    telling = ("latitude", "EXIF:GPSLongitude", "geoData.x", "lng", "photo.location", "captured_at")
    assert all(map(reveals, telling))
    assert not any(map(reveals, ("licence", "license", "url", "event", "title", "author", "make")))
    pairs = (("url", "u"), ("lat", "1"), ("who", '{"latitude": 1}'), ("tags", "[1.5, 2]"))
    assert without_places(pairs) == {"url": "u"}
