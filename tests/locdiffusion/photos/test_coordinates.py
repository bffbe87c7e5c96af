"""Angles are read as programs and people write them, and refused where they are unclear."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from locdiffusion.photos.coordinates import (
    NOTHING,
    Angle,
    CoordinateError,
    Reading,
    Source,
    parse_angle,
    place,
)
from schemas.samples import Truth

VOID = math.nan


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("52,30.0N", 52.5),
        ("52,30,15N", 52.504167),
        ("52.5N", 52.5),
        ("52.5", 52.5),
        ("-52.5", -52.5),
        ("+52.5", 52.5),
        (" 52,30.5 s ", -52.508333),
        ("52 deg 31' 8.40\" N", 52.519),
        ("52° 31′ 8.4″ South", -52.519),
        ("N 52.5", 52.5),
        ("52º31'8.4''N", 52.519),
        ("-7.034806128758397e-05", -7.0348e-05),
        ("7.03E-5 S", -7.03e-05),
    ],
)
def test_texts(text: str, wanted: float) -> None:
    assert parse_angle(text).degrees("NS") == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(
    "text", ["", "N", "north", "1e5", "nan", "5_2", "52d", "N52S", "52,5,1,1N", "٥٢,5", "x" * 999]
)
def test_texts_that_are_no_angle(text: str) -> None:
    with pytest.raises(CoordinateError):
        parse_angle(text).degrees("NS")


@pytest.mark.parametrize(
    ("parts", "wanted"),
    [
        ((52.0, 31.0, 8.4), 52.519),
        ((52.0, 31.0, VOID), 52.516667),
        ((52.0, 31.14, VOID), 52.519),
        ((52.0, 31.14, 0.0), 52.519),
        ((52.0, 31.14), 52.519),
        ((52.519, 0.0, 0.0), 52.519),
        ((52.519, VOID, VOID), 52.519),
        ((52.519,), 52.519),
        ((0.0, VOID, VOID), 0.0),
        ((52.0, 60.0, 0.0), 53.0),
        ((VOID, VOID, VOID), None),
        ((VOID, 0.0, 0.0), None),
        ((), None),
    ],
)
def test_degrees_minutes_and_seconds(parts: tuple[float, ...], wanted: float | None) -> None:
    assert Angle(parts, "N").degrees("NS") == (
        None if wanted is None else pytest.approx(wanted, abs=1e-6)
    )


@pytest.mark.parametrize(
    "angle",
    [
        Angle((52.0, VOID, VOID), "N"),  # to a degree only
        Angle((52.0, VOID, 8.0), "N"),
        Angle((VOID, 31.0, 8.0), "N"),
        Angle((52.0, 61.0, 0.0), "N"),
        Angle((52.0, 31.0, 75.0), "N"),
        Angle((52.5, 31.0, 0.0), "N"),
        Angle((52.0, 31.5, 8.0), "N"),
        Angle((-52.0, 31.0, 0.0), signed=True),
        Angle((-0.0, 31.0, 0.0), signed=True),
        Angle((math.inf, 31.0, 0.0), "N"),
        Angle((52.0, 31.0, 8.0, 0.0), "N"),
        Angle((52.0, 31.0, 8.0)),
        Angle((52.0,), "E"),
        Angle((52.0,), "Unknown"),
        Angle((-52.0,), "N", signed=True),
    ],
)
def test_what_could_mean_two_things_is_refused(angle: Angle) -> None:
    with pytest.raises(CoordinateError):
        angle.degrees("NS")


@pytest.mark.parametrize("letter", ["S", "s", "South", "SOUTH ", "s\0\0", " south\0"])
def test_spellings_of_a_hemisphere(letter: str) -> None:
    assert Angle((33.0, 30.0), letter).degrees("NS") == -33.5
    assert Angle((-33.5,), letter, signed=True).degrees("NS") == -33.5  # exiftool -n gives both


def angles(*degrees: float) -> list[Angle]:
    return [Angle((one,), signed=True) for one in degrees]


def test_places() -> None:
    assert place(angles(-33.5, 151), Source.XMP) == Reading(Truth(-33.5, 151), Source.XMP)
    assert place(angles(51.5, 0), Source.EXIF).position == Truth(51.5, 0)
    for none in (angles(0, 0), angles(VOID, VOID), angles(0, VOID), [None, None]):
        assert place(none, Source.EXIF) == NOTHING
    for bad in (angles(91, 0), angles(0, 181), [*angles(52), None], angles(VOID, 13)):
        with pytest.raises(CoordinateError):
            place(bad, Source.EXIF)


def test_what_this_project_wrote_is_an_estimate() -> None:
    found = place(angles(1, 2), Source.EXIF, "LocDiffusion tiny, estimated from the picture")
    assert found.source is Source.ESTIMATE and found.position == Truth(1, 2)
    assert found.known is None


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text("0123456789 .,-+°'\"NSEWnorthdeg", max_size=30), st.sampled_from(["NS", "EW"]))
def test_any_text_is_an_angle_or_refused(text: str, hemispheres: str) -> None:
    try:
        degrees = parse_angle(text).degrees(hemispheres)
    except CoordinateError:
        return
    assert degrees is None or math.isfinite(degrees)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.floats(0, 90), st.sampled_from("NS"))
def test_every_way_of_writing_says_the_same(degrees: float, letter: str) -> None:
    wanted = degrees if letter == "N" else -degrees
    minutes = degrees % 1 * 60
    whole = int(degrees)
    for text in (f"{degrees:.8f}{letter}", f"{whole},{minutes:.7f}{letter}"):
        assert parse_angle(text).degrees("NS") == pytest.approx(wanted, abs=1e-7)
