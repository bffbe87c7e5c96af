"""log Z against integrals in closed form, and quadratures that are wrong on purpose."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from experiments.log_z_check import (
    DENSER,
    decoder_gap,
    dense_log_partition,
    denser_rows,
    main,
    training_gap,
)
from locdiffusion.decoding.decoder import DecodeConfig, Decoder
from locdiffusion.density import shdd
from locdiffusion.density.base_measure import BaseMeasure
from locdiffusion.density.log_partition import LogPartition, PartitionConfig
from locdiffusion.sphere.geodesy import unit_vectors
from support import tiny

pytestmark = pytest.mark.usefixtures("one_thread")

L = 7
D = (L + 1) ** 2


def towards(points, strength):
    """η of F(y) = strength · code(point)·code(y)/d: zonal about each point."""
    return torch.from_numpy((strength * shdd.encode_vectors(points, L) / D).astype(np.float32))


def zonal_log_z(strength):
    """log ½ ∫ exp F dt for the same F, from the addition theorem, by SciPy."""
    degree = np.arange(L + 1)

    def integrand(t):
        legendre = np.polynomial.legendre.legval(t, (2 * degree + 1) * strength / D)
        return np.exp(legendre - strength)

    return strength + np.log(quad(integrand, -1, 1, epsabs=1e-12, limit=200)[0] / 2)


@pytest.mark.parametrize("strength", [0.0, 1.0, 10.0, 40.0])
def test_the_dense_grid_knows_log_z_of_zonal_densities(strength):
    natural = towards(tiny.random_points(5, 0), strength)
    found = dense_log_partition(natural, 150)
    np.testing.assert_allclose(found, zonal_log_z(strength), atol=2e-5)


def test_the_dense_grid_knows_a_von_mises_fisher_density():
    """Degree 1 alone: F = κ cos γ has Z = sinh κ/κ."""
    kappa = np.array([0.5, 3.0, 20.0])
    natural = np.zeros((3, D), np.float32)
    natural[:, 1:4] = kappa[:, None] * shdd.encode_vectors(unit_vectors(20.0, 70.0), 1)[1:] / 3.0
    found = dense_log_partition(torch.from_numpy(natural), 100)
    np.testing.assert_allclose(found, np.log(np.sinh(kappa) / kappa), atol=1e-5)


def test_the_dense_grid_weighs_with_the_base_measure():
    """q₀ of 1.5 north and 0.5 south of the equator, F = κz: two integrals by hand."""
    raster = np.where(np.arange(240)[:, None] < 120, 1.5, 0.5) * np.ones((240, 480))
    natural = np.zeros((1, D), np.float32)
    natural[0, 2] = 2.0 / np.sqrt(3.0)
    wanted = np.log((1.5 * (np.exp(2.0) - 1.0) + 0.5 * (1.0 - np.exp(-2.0))) / 4.0)
    found = dense_log_partition(torch.from_numpy(natural), 200, BaseMeasure(raster))
    # The raster keeps log q₀ in half precision: 3e-4.
    np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_blocks_of_rows_and_of_densities_change_nothing(monkeypatch):
    natural = towards(tiny.random_points(7, 1), 20.0)
    whole = dense_log_partition(natural, 60)
    monkeypatch.setattr("experiments.log_z_check._NODES_AT_ONCE", 500)
    monkeypatch.setattr("experiments.log_z_check._VALUES_AT_ONCE", 1000)
    np.testing.assert_allclose(dense_log_partition(natural, 60), whole, atol=1e-6)


def test_the_decoder_is_right_about_narrow_and_broad_densities():
    natural = torch.cat([towards(tiny.random_points(6, 2), s) for s in (0.5, 8.0, 36.0)])
    decoder = Decoder(L, DecodeConfig(radius_km=500.0))
    gap = decoder_gap(decoder.tables, natural, batch=7)
    assert gap.densities == 18
    assert gap.max_nats < 1e-3
    assert gap.mean_nats <= gap.max_nats
    assert abs(gap.bias_nats) <= gap.mean_nats
    assert gap.times_denser >= DENSER


def test_the_decoder_is_right_over_a_base_measure():
    raster = 1.0 + 0.5 * np.sin(np.linspace(0, 7, 240))[:, None] * np.ones((240, 480))
    decoder = Decoder(L, DecodeConfig(radius_km=500.0), BaseMeasure(raster))
    gap = decoder_gap(decoder.tables, towards(tiny.random_points(8, 3), 15.0))
    assert gap.max_nats < 5e-3


def test_the_loss_is_right_where_the_truth_is_in_the_peak():
    points = tiny.random_points(12, 4)
    gap = training_gap(LogPartition(L), towards(points, 30.0), points, batch=5)
    assert gap.max_nats < 0.01
    assert gap.times_denser >= DENSER


def test_a_quadrature_that_misses_mass_is_found_out():
    """Coarse rows, and rings far from the peak: mass is missed or counted twice by whole nats."""
    coarse = PartitionConfig(rows=4, offsets=2, cap_km=300.0)
    points = tiny.random_points(12, 5)
    gap = training_gap(LogPartition(L, coarse), towards(points, 60.0), -points)
    assert gap.mean_nats > 0.3
    fine = training_gap(
        LogPartition(L, dataclasses.replace(coarse, rows=60)), towards(points, 60.0), -points
    )
    assert fine.mean_nats < gap.mean_nats / 10


def test_the_denser_grid_is_as_dense_as_it_says():
    grid = Decoder(L).tables.grid
    rows = denser_rows(grid)
    assert 2 * rows**2 >= DENSER * grid.rows * grid.columns > 2 * (rows - 1) ** 2


def test_the_command_measures_both_gaps(tmp_path, monkeypatch, capsys):
    photos = tiny.learnable_photos(12, seed=1)
    saved = tiny.write_checkpoint(tmp_path / "checkpoint", tiny.TinyEncoder().spec)
    monkeypatch.setattr("locdiffusion.model.image_encoder.load_image_encoder", lambda name: None)
    monkeypatch.setattr("locdiffusion.photos.embedding_cache.load_photos", lambda *_: photos)
    monkeypatch.setattr("locdiffusion.photos.patterns.expand_patterns", lambda patterns: patterns)
    file = tmp_path / "log_z.json"
    flags = ["--photos", "x", "--train", "y", "--embeddings", "z", "--limit", "8"]
    assert main(["--checkpoint", str(saved), "--output", str(file), *flags]) == 0
    found, said = json.loads(file.read_text()), capsys.readouterr().out
    for name in ("answers", "loss"):
        assert found[name]["densities"] == 8 and found[name]["times_denser"] >= 50
        assert found[name]["mean_nats"] < 0.02
        assert f"log Z of the {name}" in said
