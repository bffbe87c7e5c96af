"""The map is made of files one at a time, and once."""

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from locdiffusion.appearance import training_photos
from locdiffusion.appearance.appearance_map import AppearanceMap
from locdiffusion.appearance.gaussian_process import Kriging, KrigingConfig
from locdiffusion.appearance.places import PlaceSums
from locdiffusion.appearance.training_photos import (
    AppearanceConfig,
    Projection,
    TrainingFile,
    fitted_map,
    is_augmented,
    observe,
)
from locdiffusion.photos.embedding_cache import write_embedded
from support import tiny

KRIGING = KrigingConfig(length_km=3000.0, neighbours=40, tile_km=2000.0, average_km=50.0)
CONFIG = AppearanceConfig(1000.0, KRIGING)
PROJECT = Projection(
    np.full(tiny.EMBEDDING_DIM, 0.1, np.float32), np.eye(tiny.EMBEDDING_DIM, 3, dtype=np.float32)
)


@pytest.fixture
def files(tmp_path):
    made = []
    for i, augmented in enumerate((False, True, False)):
        path = tmp_path / f"shard-{i}.parquet"
        write_embedded(path, tiny.learnable_photos(40 + i, seed=i))
        made.append(TrainingFile(path, augmented))
    return made


def test_the_map_is_that_of_all_photos_at_once(files):
    sums = PlaceSums(3, 50.0)
    for i, noise in enumerate((0.1, 0.3, 0.1)):
        photos = tiny.learnable_photos(40 + i, seed=i)
        stored = photos.embeddings.astype(np.float16).astype(np.float32)
        sums.add((stored - 0.1)[:, :3], photos.vectors, noise)
    wanted = AppearanceMap.fit(Kriging(sums.observations(), KRIGING), 1000.0)
    assert observe(files, PROJECT, KRIGING).photos == 40 + 41 + 42
    found = fitted_map(files, PROJECT, CONFIG)
    assert_array_equal(found.held, wanted.held)
    assert_allclose(found.appearance, wanted.appearance, atol=1e-5)


def test_a_map_is_made_once_for_the_same_photos_settings_and_discriminants(files, monkeypatch):
    first = fitted_map(files, PROJECT, CONFIG)
    monkeypatch.setattr(training_photos, "observe", lambda *_: pytest.fail("made again"))
    again = fitted_map(files, PROJECT, CONFIG)
    for name in ("held", "values", "scale", "log_variance"):
        assert_array_equal(getattr(again, name), getattr(first, name))
    others = (
        ([replace(files[0], augmented=True), *files[1:]], PROJECT, CONFIG),
        (files[1:], PROJECT, CONFIG),
        (files, Projection(PROJECT.mean * 2, PROJECT.axes), CONFIG),
        (files, PROJECT, AppearanceConfig(900.0, KRIGING)),
    )
    for other in others:
        with pytest.raises(pytest.fail.Exception, match="made again"):
            fitted_map(*other)


def test_photos_with_varied_colours_count_as_noisier(files):
    plain = [replace(file, augmented=False) for file in files]
    one, other = (observe(some, PROJECT, KRIGING).noise for some in (plain, files))
    assert sorted(set(one.round(6))) == [0.1] and sorted(set(other.round(6))) == [0.1, 0.3]


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ({"augmentation": {"strength": 1.0}}, True),
        ({"augmentation": None}, False),
        ({"photos": 3}, False),
        ([], False),
        (None, False),
    ],
)
def test_the_data_set_says_whether_colours_were_varied(tmp_path, content, wanted):
    if content is not None:
        (tmp_path / "dataset.json").write_text(json.dumps(content))
    assert is_augmented(str(tmp_path / "train-000000.tar")) is wanted
    assert not is_augmented("gs://bucket/train-000000.tar")


def test_a_grid_that_does_not_exist_is_refused_with_the_settings():
    with pytest.raises(ValueError, match="cell_km is 0"):
        AppearanceConfig(0.0)
