"""Cells of equal area, and labels smoothed over them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from experiments.baselines.cells import EqualAreaCells, GridSoftmax, smoothed_labels
from experiments.baselines.network import Budget
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, angle_between, unit_vectors
from locdiffusion.sphere.grids import fibonacci_grid
from support import tiny


@pytest.mark.parametrize("bands", [2, 9, 120])
def test_all_cells_have_the_same_area(bands):
    grid = EqualAreaCells(bands)
    area = -np.diff(grid.edges) * 2.0 * np.pi / grid.columns
    assert_allclose(area, 4.0 * np.pi / len(grid), rtol=1e-9)
    assert_allclose(grid.edges[[0, -1]], [1.0, -1.0], atol=1e-15)


def test_even_points_fall_evenly_into_the_cells():
    """Would catch an index that disagrees with the edges."""
    grid = EqualAreaCells(12)
    index = grid.index(fibonacci_grid(200 * len(grid)))
    count = np.bincount(index, minlength=len(grid))
    assert len(count) == len(grid)
    assert_allclose(count, 200, rtol=0.12)


def test_cells_are_about_as_wide_as_high():
    grid = EqualAreaCells(120)
    colatitude = np.arccos(grid.edges)
    middle = np.arccos((grid.edges[1:] + grid.edges[:-1]) / 2.0)
    ratio = 2.0 * np.pi / grid.columns * np.sin(middle) / np.diff(colatitude)
    assert np.all(np.abs(np.log(ratio[3:-3])) < 0.3)


def test_poles_and_the_date_line_lie_in_cells():
    grid = EqualAreaCells(20)
    index = grid.index(
        unit_vectors([90.0, -90.0, 0.0, 0.0, 0.0], [0.0, 0.0, 180.0, -180.0, -1e-14])
    )
    assert np.all((index >= 0) & (index < len(grid)))
    assert index[2] == index[3]


def test_smoothed_labels_fall_off_with_distance():
    centres, truth = tiny.random_points(30, 0), tiny.random_points(4, 1)
    found = smoothed_labels(torch.from_numpy(truth), torch.from_numpy(centres), 900.0).numpy()
    weight = np.exp(-EARTH_RADIUS_KM * angle_between(truth[:, None], centres) / 900.0)
    assert_allclose(found, weight / weight.sum(1, keepdims=True), rtol=1e-9)


def test_only_cells_with_training_photos_answer_and_with_their_mean_position(one_thread):
    train = tiny.learnable_photos(60, 0)
    rival = GridSoftmax(bands=8, keep=1000)
    rival.fit(train, tiny.learnable_photos(40, 1), Budget(steps=5, batch_size=32, parameters=2000))
    cell = rival.grid.index(train.vectors)
    assert rival.choices["cells"] == len(np.unique(cell)) == len(rival.centres)
    expected = train.vectors[cell == np.unique(cell)[3]].mean(0)
    assert_allclose(rival.centres[3], expected / np.linalg.norm(expected), rtol=1e-12)
    evidence = rival.evidence(train)
    assert_allclose(np.exp(evidence.logits).sum(1), 1.0, rtol=1e-5)
    assert set(rival.choices["nats_of_smoothing_km"]) == {"0", "75"}
