"""Calibration on densities whose truth is drawn from them, then made over- or under-confident."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from locdiffusion.calibrate import fitting
from locdiffusion.calibrate.coverage import fit_factor
from locdiffusion.calibrate.parts import CalibrationPart, LikelihoodTable, LocatedDensities
from locdiffusion.decoding.decoder import DecodeConfig, Decoder
from locdiffusion.density.shdd import encode_vectors
from locdiffusion.evaluate.metrics import coverage
from locdiffusion.inference import Answerer, decode_all, log_probability, natural_parameters
from locdiffusion.photos.embedding_cache import EmbeddedPhotos
from locdiffusion.sphere.geodesy import (
    EARTH_RADIUS_KM,
    destination,
    great_circle_km,
    latitude_longitude,
)
from locdiffusion.temperature import FEATURES
from support.tiny import (
    EMBEDDING_DIM,
    MODEL,
    learnable_photos,
    random_denoiser,
    random_network,
    random_points,
)

pytestmark = pytest.mark.usefixtures("one_thread")

DEGREE = 7
COUNT = 400
SIGMAS = 4.0
"""Every statistical test allows this many standard errors: one false alarm in 16,000 seeds."""


@dataclass(frozen=True)
class World:
    """Densities exp⟨η, code⟩ and truths drawn from exactly these.

    Attributes:
      natural: ``(N, d)`` η.
      photos: N photos; their truth is a draw.
      field_variance: Var of F = ⟨η, code⟩ under the density.
    """

    natural: torch.Tensor
    photos: EmbeddedPhotos
    field_variance: float


@pytest.fixture(scope="module")
def world(one_thread: None) -> World:
    """One kernel F(γ) = h Σ (2l+1) P_l(cos γ) / (L+1)² around each of many random centres."""
    peak = 6.0
    centres = random_points(COUNT, seed=7)
    natural = peak / (DEGREE + 1) ** 2 * encode_vectors(centres, DEGREE)
    weights = np.array([2.0 * degree + 1.0 for degree in range(DEGREE + 1)])
    cos = np.linspace(-1.0, 1.0, 20_001)  # uniform in area
    field = peak / (DEGREE + 1) ** 2 * np.polynomial.legendre.legval(cos, weights)
    mass = np.exp(field) / np.exp(field).sum()
    mean = float(mass @ field)
    generator = np.random.default_rng(8)
    drawn = np.interp(generator.random(COUNT), np.cumsum(mass), cos)
    latitude, longitude = destination(
        *latitude_longitude(centres),
        generator.uniform(0.0, 360.0, COUNT),
        np.arccos(drawn) * EARTH_RADIUS_KM,
    )
    photos = EmbeddedPhotos(
        [str(i) for i in range(COUNT)], np.zeros((COUNT, 1), np.float32), latitude, longitude
    )
    variance = float(mass @ (field - mean) ** 2)
    return World(torch.from_numpy(natural).float(), photos, variance)


def first(world: World, count: int) -> World:
    names = ("keys", "embeddings", "latitude", "longitude")
    photos = EmbeddedPhotos(*(getattr(world.photos, name)[:count] for name in names))
    return World(world.natural[:count], photos, world.field_variance)


def share_error(share: float) -> float:
    """Standard error of an observed share of COUNT photos."""
    return math.sqrt(share * (1.0 - share) / COUNT)


def table(natural: torch.Tensor, photos: EmbeddedPhotos) -> LikelihoodTable:
    return LikelihoodTable.measure(LocatedDensities(photos, natural), Answerer(Decoder(DEGREE)))


def part(
    natural: torch.Tensor, photos: EmbeddedPhotos, features: npt.NDArray[np.float64]
) -> CalibrationPart:
    densities = LocatedDensities(photos, natural)
    answerer = Answerer(Decoder(DEGREE))
    return CalibrationPart.measure(densities, torch.from_numpy(features).float(), answerer)


def measured(
    natural: torch.Tensor, photos: EmbeddedPhotos, config: DecodeConfig | None = None
) -> dict[str, Any]:
    return fitting.measure(LocatedDensities(photos, natural), Answerer(Decoder(DEGREE, config)))


class TestTemperature:
    @pytest.mark.parametrize("factor", [0.5, 1.0, 2.5])
    def test_finds_the_factor_by_which_densities_are_too_sharp(
        self, factor: float, world: World
    ) -> None:
        """The likelihood's Fisher information about log τ is N Var(F), so its error 1/√ of it.

        0.01 more is the step of the search.
        """
        found = fitting.fit_temperature(table(factor * world.natural, world.photos))
        error = 1.0 / math.sqrt(COUNT * world.field_variance)
        assert error < 0.05
        assert abs(math.log(found / factor)) < SIGMAS * error + 0.01

    @pytest.mark.parametrize("factor", [0.5, 2.5])
    def test_puts_the_coverage_right(self, factor: float, world: World) -> None:
        """Under-confident radii cover too much, over-confident ones too little, fitted ones fit."""
        natural = factor * world.natural
        before = measured(natural, world.photos)
        found = fitting.fit_temperature(table(natural, world.photos))
        after = measured(natural / found, world.photos)
        for share, name in ((0.5, "coverage_50"), (0.9, "coverage_90")):
            wrong = (before[name] - share) * (1.0 if factor < 1.0 else -1.0)
            assert wrong > SIGMAS * share_error(share) / 2.0, name
            assert abs(after[name] - share) < SIGMAS * share_error(share), name
        assert after["nats"] < before["nats"] - 0.02

    def test_true_densities_need_no_calibration(self, world: World) -> None:
        found = measured(world.natural, world.photos)
        assert abs(found["coverage_50"] - 0.5) < SIGMAS * share_error(0.5)
        assert abs(found["coverage_90"] - 0.9) < SIGMAS * share_error(0.9)

    def test_stays_within_its_bounds(self, world: World) -> None:
        """Truth that the density never means: as flat as allowed, not without end."""
        photos = world.photos
        opposite = EmbeddedPhotos(
            photos.keys, photos.embeddings, -photos.latitude, photos.longitude + 180.0
        )
        found = fitting.fit_temperature(table(world.natural, opposite))
        assert found == pytest.approx(16.0, rel=0.02)


class TestRadius:
    degree = 15

    def kernel(self, centres: npt.NDArray[np.float64], width: float, peak: float) -> torch.Tensor:
        """η of F with the given peak, falling as exp(-γ²/(4 width))."""
        degree = np.arange(self.degree + 1)
        decay = np.exp(-degree * (degree + 1) * width)
        scale = peak / np.sum((2 * degree + 1) * decay)
        rows = np.repeat(decay, 2 * degree + 1)
        return torch.from_numpy(scale * rows * encode_vectors(centres, self.degree)).float()

    @pytest.fixture(scope="class")
    def centres(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        spikes = random_points(12, seed=3)
        return spikes, spikes[:, [1, 2, 0]] * [1.0, -1.0, 1.0]

    @pytest.fixture(scope="class")
    def natural(self, centres: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]) -> object:
        """A spike (σ = 190 km), 1.4 times as dense as a hill (σ = 490 km) with 5 times its mass.

        By the kernel of the decoder the hill wins from ρ of about 300 km.
        """
        spikes, hills = centres
        apart = great_circle_km(*latitude_longitude(spikes), *latitude_longitude(hills))
        assert apart.min() > 3000.0
        return self.kernel(spikes, 1 / 130, 17.0) + self.kernel(hills, 1 / 20, 16.7)

    def fitted(self, natural: torch.Tensor, vectors: npt.NDArray[np.float64]) -> float:
        photos = EmbeddedPhotos(
            ["x"] * len(vectors),
            np.zeros((len(vectors), 1), np.float32),
            *latitude_longitude(vectors),
        )
        return fitting.fit_radius([LocatedDensities(photos, natural)], Decoder(self.degree))

    def test_wide_where_the_broad_hill_is_right(
        self, natural: torch.Tensor, centres: tuple[npt.NDArray[np.float64], ...]
    ) -> None:
        assert 300.0 <= self.fitted(natural, centres[1]) <= 750.0

    def test_narrow_where_the_spike_is_right(
        self, natural: torch.Tensor, centres: tuple[npt.NDArray[np.float64], ...]
    ) -> None:
        assert self.fitted(natural, centres[0]) <= 200.0

    def test_the_smallest_where_nothing_depends_on_it(
        self, centres: tuple[npt.NDArray[np.float64], ...]
    ) -> None:
        """Each answer is half the Earth off, whatever ρ."""
        alone = self.kernel(centres[0], 1 / 130, 17.0)
        assert self.fitted(alone, -centres[0]) == fitting.RADII_KM[0]


class TestMeasure:
    def test_is_what_the_decoder_says(self, world: World) -> None:
        few, photos = first(world, 20).natural, first(world, 20).photos
        config = DecodeConfig(radius_km=200.0)
        answer = Decoder(DEGREE, config)(few[:, None])
        distance = great_circle_km(
            answer.latitude, answer.longitude, photos.latitude, photos.longitude
        )
        found = measured(few, photos, config)
        assert found["n"] == 20
        assert found["median_km"] == pytest.approx(np.median(distance))
        assert found["coverage_50"] == coverage(distance, answer.radius_50_km)
        assert found["coverage_90"] == coverage(distance, answer.radius_90_km)

    def test_the_uniform_answer_is_worth_nothing(self, world: World) -> None:
        flat = torch.zeros_like(world.natural)
        nats = measured(flat, world.photos)["nats"]
        assert nats == pytest.approx(0.0, abs=1e-3)


class TestTemperatures:
    def test_finds_which_photos_are_too_sharp(self, world: World) -> None:
        """Half of the densities are 2.5 times too sharp, and a feature says which, among noise."""
        generator = np.random.default_rng(3)
        sharp = generator.random(COUNT) < 0.5
        factor = torch.from_numpy(np.where(sharp, 2.5, 1.0)).float()[:, None]
        features = generator.normal(size=(COUNT, len(FEATURES)))
        features[:, 4] = sharp
        model = random_denoiser().temperatures
        assert fitting.fit_temperatures(
            model, [part(world.natural * factor, world.photos, features)]
        )
        found = model.log_temperature(torch.from_numpy(features).float()).numpy()
        assert np.exp(found[sharp].mean()) == pytest.approx(2.5, rel=0.15)
        assert np.exp(found[~sharp].mean()) == pytest.approx(1.0, rel=0.15)
        assert not model.out.weight.requires_grad

    def test_features_that_tell_nothing_change_nothing(self, world: World) -> None:
        """Noise fits a few photos well and all others badly: one temperature is left for all."""
        features = np.random.default_rng(4).normal(size=(COUNT, len(FEATURES)))
        model = random_denoiser().temperatures
        sharp = part(2.5 * world.natural, world.photos, features)
        assert fitting.fit_temperatures(model, [sharp]) == 0
        condition, natural = torch.randn(7, EMBEDDING_DIM), torch.randn(7, MODEL.dimension)
        found = model(condition, natural)
        assert torch.equal(found, found[:1].expand(7))
        assert float(found[0]) == pytest.approx(fitting.fit_temperature(sharp.likelihood), rel=0.01)

    def test_few_photos_can_be_fitted_too(self, world: World) -> None:
        """Fewer than there are parts of the Earth to hold out."""
        few = first(world, 3)
        model = random_denoiser().temperatures
        features = np.zeros((3, len(FEATURES)))
        steps = fitting.fit_temperatures(model, [part(few.natural, few.photos, features)])
        assert steps in fitting.FIT_STEPS
        assert torch.isfinite(model.log_temperature(torch.zeros(1, len(FEATURES)))).all()

    def test_the_table_agrees_with_the_decoder_between_its_knots(self, world: World) -> None:
        few = first(world, 20)
        t = torch.from_numpy(np.random.default_rng(5).uniform(-1.0, 2.0, 20)).float()
        tempered = few.natural / t.exp()[:, None]
        direct = -log_probability(Answerer(Decoder(DEGREE)), tempered, few.photos.vectors)
        found = table(few.natural, few.photos).at(t)
        np.testing.assert_allclose(found, direct, atol=0.01, rtol=0.005)

    @pytest.mark.parametrize("wrong", [0.4, pytest.param(0.7, marks=pytest.mark.slow), 1.0, 2.0])
    def test_the_factor_puts_the_coverage_right(self, wrong: float, world: World) -> None:
        """Under- and over-confident densities come back, within the errors of two shares."""
        answerer = Answerer(Decoder(DEGREE))
        densities = LocatedDensities(world.photos, world.natural * wrong)
        factor = fit_factor(fitting.factor_table(densities, answerer)).value
        found = fitting.measure(densities, answerer, factor)
        assert abs(found["coverage_50"] - 0.5) < SIGMAS * share_error(0.5)
        assert abs(found["coverage_90"] - 0.9) < SIGMAS * share_error(0.9)
        assert (factor - 1.0) * (wrong - 1.0) >= 0.0
        if wrong == 2.0:
            assert factor == pytest.approx(2.0, rel=0.2)

    def test_positions_that_are_the_answers_change_nothing(self, world: World) -> None:
        """Re-geotagged copies: whatever the factor, 100 % of the truths lie within the radii."""
        answerer, few = Answerer(Decoder(DEGREE)), first(world, 60)
        said = decode_all(answerer, few.natural)
        keys, embeddings = few.photos.keys, few.photos.embeddings
        copies = EmbeddedPhotos(keys, embeddings, said.latitude, said.longitude)
        found = fit_factor(fitting.factor_table(LocatedDensities(copies, few.natural), answerer))
        assert found.value <= 1.0
        assert found.value == 1.0 and "answers themselves?" in found.why

    def test_fit_sets_temperatures_and_the_radius(self) -> None:
        denoiser = random_denoiser()
        parts = [learnable_photos(40, seed=1), learnable_photos(30, seed=2)]
        before = denoiser.temperatures.out.weight.clone()
        decode = fitting.fit(denoiser, parts, Decoder(denoiser.network.config.max_degree)).config
        assert decode.radius_km in fitting.RADII_KM
        assert not torch.equal(before, denoiser.temperatures.out.weight)
        assert torch.isfinite(natural_parameters(denoiser, parts[0].embeddings)).all()


class TestPosterior:
    """What training, calibration and evaluation share does not depend on how it is batched."""

    def test_natural_parameters(self) -> None:
        network = random_network().eval()
        photos = learnable_photos(11, seed=5)
        whole = natural_parameters(network, photos.embeddings)
        assert whole.shape == (11, MODEL.dimension) and photos.embeddings.shape[1] == EMBEDDING_DIM
        torch.testing.assert_close(natural_parameters(network, photos.embeddings, batch=4), whole)
        x, level = torch.randn(11, MODEL.dimension), torch.full((11,), torch.inf)
        with torch.inference_mode():
            direct = network(x, level, torch.from_numpy(photos.embeddings))
        torch.testing.assert_close(whole, direct)

    def test_decoding_and_likelihood(self, world: World) -> None:
        answerer, natural = Answerer(Decoder(DEGREE)), world.natural[:11]
        vectors = world.photos.vectors[:11]
        whole, parts = (decode_all(answerer, natural, batch=batch) for batch in (128, 4))
        for name, column in whole.numbers().items():
            if column is not None:
                np.testing.assert_allclose(parts.numbers()[name], column, rtol=1e-4, atol=1e-2)
        np.testing.assert_allclose(
            log_probability(answerer, natural, vectors, batch=4),
            log_probability(answerer, natural, vectors),
            atol=1e-4,
        )
