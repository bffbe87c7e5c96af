"""Tables of hints: columns by their usual names, and what is wrong in them is told by line."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from locdiffusion.photos.identity import PhotoIdentity
from locdiffusion.photos.listing import Shard
from locdiffusion.photos.positions import PhotoPositions
from locdiffusion.photos.storage import DataError
from pipelines.geotag.batches import STAGES, PhotoBatch, Pixels, run_stage
from pipelines.geotag.hints import Hint, HintsOf, read_hints
from support.fake_geotagger import FakeGeotagger
from support.fake_pixels import SIZE


def table(tmp_path, *lines, name="hints.csv"):
    path = tmp_path / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def test_hints_are_discs_countries_or_areas(tmp_path):
    path = table(
        tmp_path,
        "key;latitude;longitude;radius_km;country;hint;weight",
        "b/1.jpg;60.4;5.3;30;;;0.8",
        "a;;;;NO;;",
        'c;;;;;"country:SE;country:DK";0.5',
        "d;60;5;1e3;NO;0,0,5km;",  # the text counts first
        "e;60;5;1e1;;;",
        "f;;;;;;",  # says nothing
        ";60;5;10;;;",
    )
    hints = read_hints(path)
    assert len(hints) == 5
    assert hints.of("b/1.jpg") == Hint("60.4,5.3,30.km", 0.8)
    assert hints.of("a") == Hint("country:NO", None)
    assert hints.of("c") == Hint("country:SE;country:DK", 0.5)
    assert hints.of("d") == Hint("0,0,5km", None)
    assert hints.of("e") == Hint("60,5,10.km", None)
    assert hints.of("f") is hints.of("") is hints.of("zzz") is None


def test_darwin_core_names_and_parquet(tmp_path):
    rows = {
        "path": ["å", "b"],
        "latitude": [60.0, 10.5],
        "longitude": [5.0, -3.25],
        "coordinateUncertaintyInMeters": [1500, 250.0],
    }
    pq.write_table(pa.table(rows), tmp_path / "hints.parquet")
    hints = read_hints(str(tmp_path / "hints.parquet"))
    assert hints.of("å") == Hint("60.0,5.0,1.5km", None)
    assert hints.of("b") == Hint("10.5,-3.25,0.25km", None)


@pytest.mark.parametrize(
    "lines, words",
    [
        (["key,hint", "a,Bergen?"], "line 2: 'Bergen?' is no area"),
        (["key,hint,weight", "a,country:NO,1"], "no probability above 0 and below 1"),
        (["key,hint,weight", "a,country:NO,much"], "'much' is no probability"),
        (["key,hint", "a,country:NO", "a,country:SE"], "line 3: 'a' had a hint before"),
        (["key,latitude,longitude,radius_km", "a,x,5,3"], "is no disc"),
        (["key,latitude,longitude,radius_km", "a,95,5,3"], "not within"),
        (["key,latitude,longitude,radius_km", "a,5,5,far"], "is no disc"),
        (["key,name", "a,b"], "no column of areas"),
        (["hint", "country:NO"], "none of which is known as the photo's key"),
        (["key,hint", "a,"], "no row with a key and an area"),
        (["key,hint", *(f"{i},nowhere" for i in range(25))], "and 15 more"),
    ],
)
def test_what_is_wrong_is_told(tmp_path, lines, words):
    with pytest.raises(DataError, match=re.escape(words)):
        read_hints(table(tmp_path, *lines))


# ------------------------------------------------------------------------ hints in a batch


def batch_of(count):
    known = tuple(
        PhotoPositions(identity=PhotoIdentity(f"id-{number}", f"{number}.jpg", f"{number}"))
        for number in range(count)
    )
    pixels = np.random.default_rng(0).integers(1, 250, (count, SIZE, SIZE, 3), dtype=np.uint8)
    keys = tuple(f"photo-{number}" for number in range(count))
    return PhotoBatch(Shard("shard-1", "s"), 0, keys, known, Pixels(pixels))


def prior_masses(batch, hints, **more):
    for stage in STAGES:
        batch = run_stage(batch, stage, FakeGeotagger(), hints=hints, **more)
    return dict(zip(batch.keys, batch.payload.answers.prior_mass, strict=True))


@pytest.mark.parametrize(
    "lines, expected",
    [
        (["key,hint,weight", "photo-1,country:NO,0.5", "photo-3,country:NO,"], [1, 3]),
        (["photo_id,hint,weight", "id-1,country:NO,0.5", "id-3,country:NO,"], [1, 3]),
        (
            [
                "shard,key,hint,weight",
                "shard-1,photo-1,country:NO,0.5",
                "shard-2,photo-2,country:NO,0.5",
                "shard-1,photo-3,country:NO,",
            ],
            [1, 3],
        ),
    ],
)
def test_photos_get_their_hints_by_any_name(tmp_path, lines, expected):
    hints = HintsOf(read_hints(table(tmp_path, *lines)), 0.8)
    found = prior_masses(batch_of(5), hints)
    assert found == {
        f"photo-{number}": {1: 0.5, 3: 0.8}.get(number) if number in expected else None
        for number in range(5)
    }


def test_photos_with_priors_of_their_own_keep_their_hints(tmp_path):
    path = table(tmp_path, "key,hint,weight", "photo-1,country:NO,0.5", "photo-2,country:SE,0.25")
    hints = HintsOf(read_hints(path), 0.8)
    batch = replace(batch_of(4), priors=("land", None, "land", None))
    found = prior_masses(batch, hints)
    assert found == {"photo-0": None, "photo-1": 0.5, "photo-2": 0.25, "photo-3": None}
