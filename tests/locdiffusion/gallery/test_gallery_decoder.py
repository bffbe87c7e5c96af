"""The density and the gallery together: weights, answers, likelihood and regions of p'."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from locdiffusion.decoding.credible_regions import RegionFinder
from locdiffusion.decoding.decoder import DecodeConfig, Decoder
from locdiffusion.density.base_measure import land_measure, load_base_measure
from locdiffusion.density.shdd import encode_vectors
from locdiffusion.gallery.gallery_decoder import GalleryDecoder
from locdiffusion.gallery.place_mixture import KERNELS_KM, MixtureConfig, PlaceMixture, spacing_km
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, great_circle_km, unit_vectors

pytestmark = pytest.mark.usefixtures("one_thread")

L, WIDTH, PLACES = 5, 8, 60
CONFIG = MixtureConfig(
    scale=12.0,
    scale_power=-0.5,
    density_power=0.2,
    kernel_weights=(0.5, 0.0, -0.5, 1.0),
    kernel_slopes=(-0.5, -0.2, 0.1, 0.3),
    gate_bias=0.2,
    gate_weights=(0.2, 0.1, -0.1),
)
SURE = replace(CONFIG, gate_bias=50.0, gate_weights=(0.0,) * 3)
NEVER = replace(SURE, gate_bias=-50.0)


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder(L, DecodeConfig(radius_km=200.0), land_measure())


def places_and_embeddings(seed: int = 0) -> tuple[np.ndarray, torch.Tensor]:
    rng = np.random.default_rng(seed)
    places = np.stack([rng.uniform(-55, 70, PLACES), rng.uniform(-180, 180, PLACES)], 1)
    places[:20] = rng.normal([48.0, 11.0], 0.3, (20, 2))  # a town
    embeddings = torch.from_numpy(rng.normal(size=(PLACES, WIDTH))).float()
    return places, torch.nn.functional.normalize(embeddings, dim=1)


def photos(count: int, spread: float = 1.0, k: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(1)
    natural = torch.from_numpy(spread * rng.normal(size=(count, k, (L + 1) ** 2))).float()
    queries = torch.from_numpy(rng.normal(size=(count, WIDTH))).float()
    return natural, torch.nn.functional.normalize(queries, dim=1)


def gallery(decoder: Decoder, config: MixtureConfig = CONFIG) -> GalleryDecoder:
    return GalleryDecoder(decoder, PlaceMixture(*places_and_embeddings(), config))


class Plain:
    """p' of one photo by the formulas, in NumPy."""

    def __init__(self, decoder: Decoder, natural: torch.Tensor, query: torch.Tensor) -> None:
        c, tables = CONFIG, decoder.tables
        places, embeddings = places_and_embeddings()
        self.vectors = unit_vectors(places[:, 0], places[:, 1])
        self.natural, self.tables = natural, tables
        self.log_z = float(tables.log_normaliser(natural[None]))
        similar = (embeddings @ query).double().numpy()
        # The decoder looks p up at the nearest node of its grid.
        self.nodes = tables.grid.nodes.double().numpy()
        on_grid = tables.log_density(natural[None]).flatten().double().numpy()
        self.mass = np.exp(on_grid) * tables.area.double().numpy()
        self.mass /= self.mass.sum()
        near = on_grid[(self.vectors @ self.nodes.T).argmax(1)].clip(min=-15.0)
        logit = c.scale * max(similar.max(), 0.05) ** c.scale_power * similar
        logit = logit + c.density_power * near
        self.log_w = logit - logsumexp(logit)
        km = EARTH_RADIUS_KM * np.arccos((self.nodes @ self.vectors.T).clip(-1, 1))
        features = [
            logsumexp(self.log_w + near),
            self.mass @ on_grid,
            self.mass @ np.log(np.sort(km, 1)[:, 4].clip(min=0.3)),
        ]
        gate = c.gate_bias + np.dot(c.gate_weights, features)
        self.share = 1.0 / (1.0 + math.exp(-gate))
        gap = np.sort(great_circle_km(*places.T[:, :, None], *places.T[:, None]), 1)[:, 5]
        slopes = np.log(gap.clip(min=0.3) / 20.0)[:, None] * np.array(c.kernel_slopes)
        logits = np.array(c.kernel_weights) + slopes
        self.log_pi = logits - logsumexp(logits, axis=1, keepdims=True)

    def log_density(self, points: np.ndarray) -> np.ndarray:
        """Log p' at unit vectors ``(P, 3)``."""
        field = encode_vectors(points, L) @ self.natural[0].double().numpy()
        alone = field - self.log_z + self.tables.log_q0_at(torch.from_numpy(points)).numpy()
        chord = np.linalg.norm(points[:, None] - self.vectors, axis=2) * EARTH_RADIUS_KM
        parts = [
            self.log_w
            + self.log_pi[:, i]
            - (chord / sigma) ** 2 / 2
            + math.log(2.0 * EARTH_RADIUS_KM**2 / sigma**2)
            for i, sigma in enumerate(KERNELS_KM)
        ]
        of_places = logsumexp(np.stack(parts), axis=(0, 2))
        return np.logaddexp(math.log(self.share) + of_places, math.log(1.0 - self.share) + alone)

    def draws(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Points ``(count, 3)`` drawn from p', those of p within the cells of the grid."""
        place = rng.choice(PLACES, count, p=np.exp(self.log_w))
        cumulative = np.exp(self.log_pi)[place].cumsum(1)
        kernel = (rng.random((count, 1)) > cumulative).sum(1).clip(max=3)
        sigma = np.array(KERNELS_KM)[kernel][:, None]
        of_place = self.vectors[place] + rng.normal(size=(count, 3)) * sigma / EARTH_RADIUS_KM
        node = self.nodes[rng.choice(len(self.nodes), count, p=self.mass)]
        of_density = node + rng.uniform(-0.5, 0.5, (count, 3)) * self.tables.spacing
        found = np.where(rng.random((count, 1)) < self.share, of_place, of_density)
        return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_the_likelihood_is_its_formula(decoder: Decoder) -> None:
    natural, queries = photos(4)
    places, _ = places_and_embeddings()
    near = unit_vectors(*(places[[0, 3, 30, 40]] + [0.02, 0.0]).T)
    found = gallery(decoder).log_probability(natural, queries, near)
    for i in range(4):
        plain = Plain(decoder, natural[i], queries[i]).log_density(near[i : i + 1])
        assert found[i] == pytest.approx(plain[0], abs=5e-3)


def test_answers_agree_with_draws_from_the_formula(rng: np.random.Generator) -> None:
    """Radii, probabilities and information; 20,000 draws have a standard error of 0.004."""
    decoder, (natural, queries) = Decoder(L), photos(3)
    columns = gallery(decoder)(natural, queries)
    for i in range(3):
        plain = Plain(decoder, natural[i], queries[i])
        drawn = plain.draws(20_000, rng)
        answer = unit_vectors(columns.latitude[i], columns.longitude[i])
        km = EARTH_RADIUS_KM * 2.0 * np.arcsin(np.linalg.norm(drawn - answer, axis=1) / 2.0)
        shares = [np.mean(km < threshold) for threshold in (1.0, 25.0, 200.0, 750.0, 2500.0)]
        assert columns.probability[i] == pytest.approx(shares, abs=0.02)
        assert np.mean(km < columns.radius_50_km[i]) == pytest.approx(0.5, abs=0.04)
        assert np.mean(km < columns.radius_90_km[i]) == pytest.approx(0.9, abs=0.04)
        nats = plain.log_density(drawn[:4000]).mean()
        assert columns.information_nats[i] == pytest.approx(nats, abs=0.2)
        assert columns.modes[i][0].latitude == pytest.approx(columns.latitude[i])


def test_an_answer_does_not_depend_on_its_batch(decoder: Decoder) -> None:
    natural, queries = photos(20)
    mixed = gallery(decoder)
    together = mixed(natural, queries)
    for i in (0, 7, 19):
        alone = mixed(natural[i : i + 1], queries[i : i + 1])
        for name, column in alone.numbers().items():
            assert column[0] == pytest.approx(together.numbers()[name][i], rel=1e-4, abs=1e-5), name
    assert len(mixed(natural[:0], queries[:0])) == 0


def test_without_a_share_the_answer_is_that_of_the_density(decoder: Decoder) -> None:
    natural, queries = photos(6, spread=2.0)
    mixed, alone = gallery(decoder, NEVER)(natural, queries), decoder(natural)
    assert mixed.radius_90_km == pytest.approx(alone.radius_90_km, rel=0.25)
    assert mixed.information_nats == pytest.approx(alone.information_nats, abs=0.25)
    assert mixed.land_probability == pytest.approx(alone.land_probability, abs=0.1)


def test_a_gallery_that_density_has_no_mass_at_is_left_alone(decoder: Decoder) -> None:
    """Where places and density agree less, the share of the gallery is smaller."""
    at = unit_vectors(47.0, 9.0), unit_vectors(-25.0, 133.0)
    natural = torch.from_numpy(np.stack([2.0 * encode_vectors(v[None], L)[0] for v in at]))
    natural = natural.float()[:, None]
    places = np.array([[48.0, 11.0], [48.2, 11.5], [47.5, 10.0], [48.5, 9.5], [47.7, 12.1]])
    embeddings = torch.eye(WIDTH)[:5]
    config = replace(CONFIG, density_power=0.0, gate_weights=(2.0, 0.0, 0.0))
    mixed = GalleryDecoder(decoder, PlaceMixture(places, embeddings, config))
    queries = torch.nn.functional.normalize(torch.ones(2, WIDTH), dim=1)
    near, far = mixed.weighed(natural, queries).log_share.exp().tolist()
    assert near > 0.9 and far < 1e-4
    columns, alone = mixed(natural, queries), decoder(natural)
    km = great_circle_km(columns.latitude, columns.longitude, alone.latitude, alone.longitude)
    spacing_here = decoder.tables.spacing * EARTH_RADIUS_KM
    assert km[1] < spacing_here
    assert columns.radius_50_km[1] == pytest.approx(alone.radius_50_km[1], abs=spacing_here / 2.0)


def test_a_prior_that_excludes_the_places_leaves_none() -> None:
    measure = load_base_measure("country:AU", land_measure())
    decoder = Decoder(L, base_measure=measure)
    mixed = gallery(decoder, SURE)
    natural, queries = photos(3)
    weights = mixed.weighed(natural, queries)
    inside = torch.from_numpy(places_and_embeddings()[0])[weights.index]
    weight = weights.log_weight.exp()
    outside = (inside[..., 0] > -9.0) | (inside[..., 1] < 110.0)
    assert (weight[outside] == 0.0).all()
    columns = mixed(natural, queries)
    assert ((columns.latitude < -9.0) & (columns.longitude > 110.0)).all()
    nowhere = PlaceMixture(np.array([[48.0, 11.0]]), torch.eye(WIDTH)[:1], SURE)
    alone = GalleryDecoder(decoder, nowhere)
    assert (alone.weighed(natural, queries).log_share == -math.inf).all()
    assert (alone(natural, queries).latitude < -9.0).all()


def test_regions_hold_what_they_say(decoder: Decoder) -> None:
    natural, queries = photos(3)
    mixed = gallery(decoder, replace(CONFIG, gate_bias=2.0))
    finder = RegionFinder(L, land_measure())
    drawn, columns = mixed.regions(finder, natural, queries), mixed(natural, queries)
    for i, (half, most) in enumerate(drawn):
        assert half.probability == pytest.approx(0.5, abs=0.02) and half.geometry.is_valid
        assert most.probability == pytest.approx(0.9, abs=0.02) and half.area_km2 < most.area_km2
        disc = math.pi * columns.radius_90_km[i] ** 2
        assert most.area_km2 < 1.1 * disc, "the smallest region is no larger than a disc"


def test_spacings_are_distances_to_a_neighbour() -> None:
    places, _ = places_and_embeddings()
    km = great_circle_km(*places.T[:, :, None], *places.T[:, None])
    vectors = unit_vectors(places[:, 0], places[:, 1])
    assert spacing_km(vectors, vectors, True) == pytest.approx(np.sort(km, 1)[:, 5], rel=1e-6)
    assert spacing_km(vectors, vectors, False) == pytest.approx(np.sort(km, 1)[:, 4], rel=1e-6)
    assert spacing_km(vectors[:1], vectors[:1], True) == pytest.approx(math.pi * EARTH_RADIUS_KM)


def test_settings_and_places_that_do_not_fit() -> None:
    places, embeddings = places_and_embeddings()
    with pytest.raises(ValueError, match="gate_weights has 2 numbers; want 3"):
        replace(CONFIG, gate_weights=(1.0, 2.0))
    with pytest.raises(ValueError, match="finite numbers and a scale above 0"):
        replace(CONFIG, scale=0.0)
    with pytest.raises(ValueError, match="59 places for 60 embeddings"):
        PlaceMixture(places[1:], embeddings, CONFIG)
    with pytest.raises(ValueError, match="0 places for 0 embeddings"):
        PlaceMixture(places[:0], embeddings[:0], CONFIG)
