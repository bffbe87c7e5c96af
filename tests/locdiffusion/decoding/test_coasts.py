"""Narrow densities that a coast cuts: answers must not care how the nodes of a quadrature fall."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from experiments.speed.head.fine import fine_answers
from locdiffusion.decoding.decoder import DecodeConfig, Decoder
from locdiffusion.density import shdd
from locdiffusion.density.base_measure import land_measure
from locdiffusion.sphere.geodesy import great_circle_km

pytestmark = pytest.mark.usefixtures("one_thread")

DEGREE = 31
COASTS = np.array(
    [
        (59.2, -138.6),
        (-13.9, 127.1),
        (61.7, 21.6),
        (44.8, 28.7),
        (35.8, 0.8),
        (60.7, -151.5),
        (10.5, -75.6),
        (-33.9, 18.4),
        (43.3, 5.4),
        (38.7, -9.3),
        (-37.8, 140.7),
        (21.2, 72.7),
    ]
)


@pytest.mark.parametrize("radius_km", [100.0, 500.0])
def test_the_answer_is_where_the_score_is_best(radius_km: float) -> None:
    """Hills of 35 km (a standard deviation): the best point of a plain sum over nodes 2.5 km apart.

    With q₀ in steps, a climb that believed each score ended up to 23 km off.
    """
    latitude, longitude = COASTS.T
    natural = torch.from_numpy(130.0 / (DEGREE + 1) ** 2 * shdd.encode(latitude, longitude, DEGREE))
    natural = natural.float()
    base = land_measure()
    answer = Decoder(DEGREE, DecodeConfig(radius_km=radius_km), base)(natural[:, None])
    best = fine_answers(natural, answer.latitude, answer.longitude, radius_km, base)
    apart = great_circle_km(answer.latitude, answer.longitude, *best)
    assert np.median(apart) < 0.5
    assert apart.max() < 1.0, apart.round(1)
