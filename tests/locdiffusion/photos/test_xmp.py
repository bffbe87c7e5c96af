"""Positions in XMP that stand elsewhere than in the Exif schema."""

import pytest

from locdiffusion.photos.coordinates import Source
from locdiffusion.photos.xmp import read_xmp
from support.gps_photos import Form, packet


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
def test_position_of_the_photo(form, position):
    found = read_xmp(packet(Form(xmp=form)))
    assert not found.problem
    if position is None:
        assert found.position is None
    else:
        assert found.source is Source.XMP
        assert (found.position.latitude, found.position.longitude) == pytest.approx(position)


def test_deep_elements_cost_nothing():
    deep = b"<a>" * 200_000 + b"<GpsLatitude>1</GpsLatitude>" * 2_000 + b"</a>" * 200_000
    assert read_xmp(deep).position is None
