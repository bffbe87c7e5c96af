"""Blanks a position in the XMP of a JPEG, so that it does not contradict the EXIF."""

from __future__ import annotations

import re

from pipelines.write_exif.jpeg import XMP, Header

_TAGS = (
    rb"GPS(?:Latitude|Longitude|Position|Status|MeasureMode|DOP|Differential|Satellites|MapDatum"
    rb"|ProcessingMethod|AreaInformation|HPositioningError)|Gps(?:Lat|Longt?)itude"
)
_PREFIX = rb"[\w.-]+:"
_ATTRIBUTE = re.compile(
    rb"(?<=\s)" + _PREFIX + rb"(?:" + _TAGS + rb")\s*=\s*(?:\"[^\"]*\"|'[^']*')"
)
_ELEMENT = re.compile(
    rb"<(" + _PREFIX + rb"(?:" + _TAGS + rb"))(?:\s[^<>]*)?(?:/>|>[^<>]*</\1\s*>)"
)


def without_position(jpeg: bytes, header: Header) -> bytes:
    """Returns a JPEG of the same length whose XMP has no position.

    The position of a place that is shown in the picture (`LocationShown`) is another matter: such
    XMP stays as it is.
    """
    parts, done = [], 0
    for segment in header.app(1, XMP):
        if b"LocationShown" in segment.data:
            continue
        blank = segment.data
        for pattern in (_ELEMENT, _ATTRIBUTE):
            blank = pattern.sub(lambda found: b" " * len(found[0]), blank)
        parts += [jpeg[done : segment.stop - len(blank)], blank]
        done = segment.stop
    return b"".join([*parts, jpeg[done:]])
