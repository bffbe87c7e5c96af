"""Exports of Google Takeout are read as they come: tgz and zip, whole or in parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from locdiffusion.photos.archive import Sample, ShardReader
from locdiffusion.photos.blocks import TarStatus
from locdiffusion.photos.listing import export_parts, list_shards
from schemas.samples import Truth
from support.archives import photo, tar_bytes, zip_bytes


def takeout(name: str, latitude: float, kind: str = "") -> tuple[str, bytes]:
    place = {"latitude": latitude, "longitude": 13.0, "altitude": 0.0}
    text = {"title": name, "photoTakenTime": {"timestamp": "1546300800"}, "geoData": place}
    return f"Takeout/Google Photos/Photos from 2019/{name}{kind}.json", json.dumps(text).encode()


def of_export(name: str, index: int) -> tuple[str, bytes]:
    return f"Takeout/Google Photos/Photos from 2019/{name}", photo(index)


ALBUM = ("Takeout/Google Photos/Photos from 2019/metadata.json", b'{"title": "2019"}')


@pytest.mark.parametrize("ending", ["tgz", "zip"])
def test_an_export_has_its_positions_in_whichever_part_they_lie(
    tmp_path: Path, ending: str
) -> None:
    first = [of_export("A.jpg", 1), of_export("B.jpg", 2), of_export("C-edited.jpg", 3)]
    first += [takeout("A.jpg", 1.0), ALBUM]
    second = [takeout("B.jpg", 2.0, ".supplemental-metadata"), takeout("C.jpg", 3.0)]
    second += [of_export("D.jpg", 4), takeout("D.mov", 4.0)]
    for number, members in ((1, first), (2, second)):
        path = tmp_path / f"takeout-20200101T000000Z-{number:03d}.{ending}"
        path.write_bytes(zip_bytes(members) if ending == "zip" else tar_bytes(members, "w:gz"))
    shards = list_shards([str(tmp_path / "*")])
    found = {}
    for shard in shards:
        reader = ShardReader(shard.url, siblings=shard.siblings)
        items = list(reader)
        assert reader.problems == [] and reader.status is TarStatus.COMPLETE
        for item in items:
            assert isinstance(item, Sample)
            sidecar = reader.late.get(item.key, item.sidecar)
            found[item.key.rpartition("/")[2]] = sidecar and sidecar.position
    assert found == {
        "A": Truth(1.0, 13.0),
        "B": Truth(2.0, 13.0),
        "C-edited": Truth(3.0, 13.0),
        "D": None,
    }


def test_parts_of_one_export_know_each_other_and_no_others() -> None:
    urls = ["a/takeout-20200101T000000Z-001.zip", "a/Takeout-20200101T000000Z-002.zip"]
    parts = [f"gs://b/takeout-20240101T000000Z-1-{number:03d}.tgz" for number in (1, 2, 3, 4)]
    others = ["a/takeout-20200101T000000Z-001.tgz", "takeout-20200101T000000Z-002.zip", "a/1.tar"]
    found = export_parts([*urls, *parts, *others])
    assert found[parts[1]] == (parts[0], parts[2], parts[3])
    assert found[parts[3]] == (parts[2], parts[1], parts[0])
    assert not any(found.get(url) for url in others)
    short = ["a/takeout-1.zip", "a/takeout-2 (1).zip"]
    assert export_parts(short) == {short[0]: (short[1],), short[1]: (short[0],)}
