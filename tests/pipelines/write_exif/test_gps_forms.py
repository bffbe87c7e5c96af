"""A thousand photos with every form of GPS block: which get a geotag, and what stays as it was.

`gps_forms.txt` has the expected fate of each. After a change that is meant, write it anew:

    PYTHONPATH=.:tests python -m support.gps_photos tests/pipelines/write_exif/gps_forms.txt
"""

import functools
import io
import json
import re
import shutil
import struct
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from PIL import ExifTags, Image

from pipelines.write_exif.fates import Fate, Rules
from support.gps_photos import FORMS, geotagged, gps_photo

TABLE = {
    line[32:]: line[:32].strip()
    for line in Path(__file__).with_name("gps_forms.txt").read_text("utf-8").splitlines()
}
GPS = ExifTags.IFD.GPSInfo
KEPT, GONE = {5, 6, 7, 16, 17, 29}, {8, 9, 10, 11, 30}
OF_POSITION = re.compile(
    "GPS(Latitude|Longt?itude|Position|Version|Status|Measure|DOP|Satel|MapD|Processing|Area|HPos)"
    "|LocationCreated|MPImage(Start|Length)|System:|SourceFile|ExifByteOrder|ExifTool"
)
CAREFUL, EVERY = Rules(), Rules(replace_own_position=True)


@functools.cache
def outcomes():
    return {name: geotagged(gps_photo(form), CAREFUL) for name, form in FORMS.items()}


def segments(jpeg):
    """Marker and content of each segment before the pixels, and all that follows."""
    found, at = [], 2
    while jpeg[at + 1] != 0xDA:
        (length,) = struct.unpack(">H", jpeg[at + 2 : at + 4])
        found.append((jpeg[at + 1], jpeg[at + 4 : at + 2 + length]))
        at += 2 + length
    return found, jpeg[at:]


def kind(segment):
    marker, data = segment
    return "MPF" if data[:4] == b"MPF\0" else "EXIF" if data[:4] == b"Exif" else (marker, data)


def frames(jpeg):
    with Image.open(io.BytesIO(jpeg)) as image:
        found = []
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            found.append(image.tobytes())
        return found


def tags(jpeg):
    """All tags that Pillow reads, by directory; those of GPS apart."""
    exif = Image.open(io.BytesIO(jpeg)).getexif()
    others = [dict(exif), *(dict(exif.get_ifd(one)) for one in (0x8769, ExifTags.IFD.IFD1))]
    return [{k: v for k, v in one.items() if k != GPS} for one in others], dict(exif.get_ifd(GPS))


def test_each_form_has_its_fate():
    assert len(FORMS) >= 1000
    assert {name: fate.value for name, (fate, *_) in outcomes().items()} == TABLE
    counts = Counter(TABLE.values())
    assert min(counts[one] for one in (Fate.WRITTEN, Fate.OWN_POSITION, Fate.UNREADABLE_GPS)) > 100


@pytest.mark.filterwarnings("ignore:Truncated File Read", "ignore:Corrupt EXIF data")
@pytest.mark.parametrize("rules", [CAREFUL, EVERY], ids=["careful", "every"])
def test_nothing_but_the_position_changes(rules):
    written = 0
    for name, form in FORMS.items():
        before = gps_photo(form)
        fate, _, after = outcomes()[name] if rules is CAREFUL else geotagged(before, rules)
        assert (after is None) == (fate is not Fate.WRITTEN), name
        if after is None:
            continue
        written += 1
        (old, old_rest), (new, new_rest) = segments(before), segments(after)
        if form.place != "no-exif":
            assert len(new) == len(old), name
        kinds = [[kind(one) for one in each if kind(one) != "EXIF"] for each in (old, new)]
        if form.xmp in ("", "plain", "shown", "altitude"):
            assert kinds[1] == kinds[0], name
        assert new_rest == old_rest, name
        assert frames(after) == frames(before), name
        (old_tags, old_gps), (new_tags, new_gps) = tags(before), tags(after)
        assert new_tags == old_tags, name
        assert not GONE & set(new_gps), name
        assert {tag: new_gps[tag] for tag in KEPT & set(old_gps)} == {
            tag: old_gps[tag] for tag in KEPT & set(old_gps)
        }, name
    assert written > (100 if rules is CAREFUL else 900)


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.skipif(not shutil.which("exiftool"), reason="needs exiftool (libimage-exiftool-perl)")
def test_exiftool_agrees(tmp_path):
    """Nothing is written over what exiftool reads; of a copy it reads all else as before."""
    rules = {"careful": CAREFUL, "every": EVERY}
    for name, form in FORMS.items():
        photo = gps_photo(form)
        copies = {folder: geotagged(photo, rule)[2] for folder, rule in rules.items()}
        for folder, content in {"before": photo, **copies}.items():
            if content is not None:
                (tmp_path / folder).mkdir(exist_ok=True)
                (tmp_path / folder / name).write_bytes(content)
    read = exiftool(tmp_path)
    assert len(read) > 2 * len(FORMS)
    for (folder, name), after in read.items():
        before = read["before", name]
        if folder != "before":
            assert folder == "every" or not positions(before), f"{name}: {positions(before)}"
            assert positions(after) == {(-33.8568, 151.2153)}, name
            assert others(after) == others(before), name
            assert faults(after) <= faults(before), name


def exiftool(folder):
    """All tags of all files below a folder, by sub-folder and name."""
    command = ["exiftool", "-j", "-n", "-a", "-G1:4", "-b", "-r", str(folder)]
    told = subprocess.run(command, capture_output=True, check=False).stdout
    return {Path(one["SourceFile"]).parts[-2:]: one for one in json.loads(told)}


def positions(read):
    """Positions in any group, where latitude and longitude are numbers and not both zero."""
    found = set()
    for name, latitude in read.items():
        if name.endswith(":GPSLatitude"):
            longitude = read.get(name.replace("Latitude", "Longitude"))
            pair = latitude, longitude
            if all(isinstance(one, int | float) for one in pair) and any(pair):
                # The numbers of EXIF have their signs beside them.
                west, south = (
                    read.get(f"GPS:GPS{axis}Ref") == letter
                    for axis, letter in (("Longitude", "W"), ("Latitude", "S"))
                )
                in_exif = name.startswith("GPS:")
                found.add(
                    (
                        round(-latitude if in_exif and south else latitude, 6),
                        round(-longitude if in_exif and west else longitude, 6),
                    )
                )
    return found


def others(read):
    """Every tag that has nothing to do with the position, or with places in the file."""
    return {
        (name.replace(":Copy1", "").replace(":Copy2", ""), str(value))
        for name, value in read.items()
        if not OF_POSITION.search(name)
    }


def faults(read):
    return {value for name, value in read.items() if name.startswith("ExifTool")}
