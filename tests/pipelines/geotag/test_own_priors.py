"""Photos with priors of their own: answered in groups, each as in a run with that prior."""

from dataclasses import replace

import numpy as np
import pytest

from locdiffusion.photos.listing import Shard
from locdiffusion.photos.positions import PhotoPositions
from pipelines.geotag.batches import STAGES, Embeddings, PhotoBatch, Pixels, run_stage
from schemas.geotags import ErrorRow, Stage, Status
from support.fake_geotagger import FakeGeotagger
from support.fake_pixels import SIZE

PRIORS = (None, "country:NO", "1,2,3km", None, "country:NO", "land", "1,2,3km", None)


def batch_of(priors: tuple[str | None, ...]) -> PhotoBatch:
    count = len(PRIORS)
    pixels = np.random.default_rng(0).integers(1, 250, (count, SIZE, SIZE, 3), dtype=np.uint8)
    keys = tuple(f"photo-{number}" for number in range(count))
    known = (PhotoPositions(),) * count
    return PhotoBatch(Shard("s", "s"), 0, keys, known, Pixels(pixels), priors=priors)


def through(batch: PhotoBatch, geotagger: FakeGeotagger, **extras: bool) -> PhotoBatch:
    for stage in STAGES:
        batch = run_stage(batch, stage, geotagger, **extras)
    return batch


def rows_of(batch: PhotoBatch) -> dict[str, tuple]:
    answers = batch.payload.answers
    numbers = zip(answers.latitude, answers.longitude, answers.radius_90_km, strict=True)
    return dict(zip(batch.keys, numbers, strict=True))


@pytest.mark.parametrize("extras", [{}, {"regions": True}])
def test_each_photo_is_answered_as_in_a_run_with_its_prior(extras):
    done = through(batch_of(PRIORS), FakeGeotagger(prior="uniform"), **extras)
    assert sorted(done.keys) == sorted(batch_of(()).keys) and not done.errors
    of_photo = dict(zip(batch_of(()).keys, PRIORS, strict=True))
    assert dict(zip(done.keys, done.priors, strict=True)) == of_photo
    found = rows_of(done)
    for prior in set(PRIORS):
        whole = rows_of(through(batch_of(()), FakeGeotagger(prior=prior or "uniform"), **extras))
        for key in (key for key, own in of_photo.items() if own == prior):
            assert found[key] == whole[key]


def test_a_batch_without_priors_is_one_call_of_the_model():
    done = through(batch_of(()), FakeGeotagger())
    assert done.keys == batch_of(()).keys and done.priors == ()


def test_a_prior_that_cannot_be_built_costs_its_photos_and_no_others():
    priors = tuple("broken" if number in (1, 4) else prior for number, prior in enumerate(PRIORS))
    lost = ErrorRow("photo-0", Stage.READ, Status.MISSING_IMAGE, "lost before")
    done = through(replace(batch_of(priors), errors=(lost,)), FakeGeotagger())
    assert done.errors[0] == lost
    assert [(row.key, row.stage, row.status) for row in done.errors[1:]] == [
        (f"photo-{number}", Stage.SAMPLE, Status.INFERENCE_FAILED) for number in (1, 4)
    ]
    assert "no room for its tables" in done.errors[1].message
    assert set(done.keys) == set(batch_of(()).keys) - {"photo-1", "photo-4"}
    assert done.rows == 9


def test_a_batch_of_which_nothing_is_left():
    done = through(batch_of(("broken",) * len(PRIORS)), FakeGeotagger())
    assert done.payload is None and len(done) == 0 and len(done.errors) == len(PRIORS)


def test_embedding_knows_no_prior():
    geotagger = FakeGeotagger()
    embedded = run_stage(batch_of(PRIORS), Stage.EMBED, geotagger)
    assert geotagger.batch_sizes == [len(PRIORS)] and embedded.priors == PRIORS
    assert isinstance(embedded.payload, Embeddings)
