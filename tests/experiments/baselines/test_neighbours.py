"""Retrieval against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from experiments.baselines.neighbours import FeatureSpace, Neighbours
from experiments.baselines.network import Budget
from support import tiny


def brute_force(train: np.ndarray, queries: np.ndarray, standardised: bool) -> np.ndarray:
    """All cosine similarities in float64, ``(M, N)``."""
    train, queries = train.astype(float), queries.astype(float)
    if standardised:
        mean, deviation = train.mean(0), train.std(0, ddof=1)
        train, queries = (train - mean) / deviation, (queries - mean) / deviation
    lengths = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(train, axis=1)
    return queries @ train.T / lengths


@pytest.mark.parametrize("standardised", [True, False])
@pytest.mark.parametrize("block", [7, 64, 1000])
def test_all_neighbours_are_all_training_photos_sorted(standardised, block):
    train, queries = tiny.learnable_photos(150, 0).embeddings, tiny.learnable_photos(40, 1)
    reference = brute_force(train, queries.embeddings, standardised)
    space = FeatureSpace(train, standardised)
    similarity, index = space.nearest(queries.embeddings, 10_000, block)
    assert index.shape == (40, 150)
    assert_array_equal(np.sort(index, 1), np.tile(np.arange(150), (40, 1)))
    assert_allclose(similarity, -np.sort(-reference, 1), atol=1e-6)
    assert_allclose(np.take_along_axis(reference, index, 1), similarity, atol=1e-6)


def test_few_neighbours_are_the_first_of_all():
    train, queries = tiny.learnable_photos(150, 0).embeddings, tiny.learnable_photos(40, 1)
    reference = np.argsort(-brute_force(train, queries.embeddings, True), 1)[:, :5]
    assert_array_equal(FeatureSpace(train, True).nearest(queries.embeddings, 5, 16)[1], reference)


def test_a_training_photo_is_its_own_nearest_neighbour():
    photos = tiny.learnable_photos(100, 0)
    rival = Neighbours((1,))
    rival.fit(photos, tiny.learnable_photos(50, 1), Budget())
    assert_allclose(rival.evidence(photos).points[:, 0], photos.vectors, atol=1e-12)


def test_validation_photos_choose_the_number_of_neighbours_and_the_record_says_so():
    rival = Neighbours((2, 8, 32))
    rival.fit(tiny.learnable_photos(500, 0), tiny.learnable_photos(100, 1), Budget())
    nats = rival.choices["nats_of_neighbours"]
    assert str(rival.choices["neighbours"]) == min(nats, key=nats.get)
    assert rival.evidence(tiny.learnable_photos(3, 2)).points.shape[1] == rival.count
    accuracy = rival.choices["mean_accuracy_of_similarity"]
    assert rival.choices["similarity"] == max(accuracy, key=accuracy.get)
