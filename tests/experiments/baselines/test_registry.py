"""Each rival, by the one way to fit and ask it, in a world small enough to learn."""

from __future__ import annotations

import json

import numpy as np
import pytest

from experiments.baselines import RIVALS, Budget
from experiments.baselines.cells import GridSoftmax
from experiments.baselines.evidence import Evidence, fit_settings
from experiments.baselines.flow_matching import FlowMatching
from experiments.baselines.harmonic_regression import HarmonicRegression
from experiments.baselines.neighbours import Neighbours
from experiments.baselines.registry import fit
from locdiffusion.density.log_partition import LOG_SPHERE_AREA_KM2
from locdiffusion.evaluate.metrics import coverage
from locdiffusion.sphere.geodesy import great_circle_km
from support import tiny

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = {
    "grid_softmax": lambda: GridSoftmax(bands=16),
    "harmonic_regression": lambda: HarmonicRegression(9, keep=200),
    "flow_matching": lambda: FlowMatching(count=32, steps=6),
    "neighbours_kde": lambda: Neighbours((3, 10, 30)),
}
BUDGET = Budget(steps=180, batch_size=128, learning_rate=5e-3, parameters=15_000, dropout=0.0)


@pytest.mark.parametrize("name", RIVALS)
def test_each_rival_learns_the_tiny_world(name):
    train, val, test = (tiny.learnable_photos(n, s) for n, s in ((2000, 0), (200, 1), (200, 2)))
    rival = SMALL.get(name, RIVALS[name])()
    fitted = fit(name, train, [val], BUDGET, rival)
    settings, nats = fit_settings(fitted.rival.evidence(val), val.vectors)
    found = fitted.rival.evidence(test).mixture(settings).predictions(test.vectors, 200.0)
    record = fitted.record
    distance = great_circle_km(found.latitude, found.longitude, test.latitude, test.longitude)
    centre = np.tile(train.vectors.mean(0), (len(val), 1, 1))
    _, constant_nats = fit_settings(Evidence.alike(centre), val.vectors)
    # The constant answer is 10,000 km off.
    assert np.median(distance) < 2500.0
    assert found.log_density_km2.mean() > -constant_nats - LOG_SPHERE_AREA_KM2 + 1.0
    assert nats < constant_nats - 1.0
    assert 0.35 < coverage(distance, found.radius_50_km) < 0.75
    assert 0.8 < coverage(distance, found.radius_90_km) < 0.99
    assert np.all(np.diff(found.probability, axis=1) >= 0)
    assert json.loads(json.dumps(record)) == record
    assert record["rival"] == name
    assert (record["parameters"] == 0) == ("neighbour" in name)


def test_an_unknown_rival_is_refused_with_the_known_ones():
    photos = tiny.learnable_photos(5, 0)
    with pytest.raises(KeyError, match="vmf_mixture"):
        fit("random_forest", photos, [photos], BUDGET)
