r"""Gives each photo a temperature: how much the network's density is trusted.

The posterior is p(y) ∝ q₀(y) exp(F(y)/τ), where F is what the network makes of the image. One τ for
all photos (Guo et al. 2017, arXiv 1706.04599, §4.2) cannot tell that a photo shows a region or a
season that training never saw, where the network is as certain as ever, and wrong. So (our choice)
a small network gives log τ from neighbour-consistency features: they compare the density with the
positions of the training photos that look most similar, the nearest in the `discriminants` of the
embeddings. The checkpoint carries a sample of these photos. Trust is low where the similar photos
lie far from the network's own answer or from each other, where they are less similar than usual,
and where training photos are few. `locdiffusion.calibrate.fitting` fits the network on validation
photos by likelihood.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor, nn

from locdiffusion.cpu import in_cache
from locdiffusion.decoding.peaks import climb
from locdiffusion.density.base_measure import COLUMNS, ROWS, BaseMeasure, positions_measure
from locdiffusion.density.log_partition import FLOOR
from locdiffusion.density.raster import looked_up
from locdiffusion.density.transforms import PoleRotation, ProductTransform
from locdiffusion.model.similarity import discriminants, largest
from locdiffusion.photos.embedding_cache import EmbeddingRows
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM
from locdiffusion.sphere.grids import gauss_legendre_grid
from locdiffusion.temperature.familiarity import Familiarity
from schemas.geotags import UNFAMILIAR

_RANKS = (1, 2, 5, 20)
FEATURES = (
    "similar_nearest_km",
    "similar_median_km",
    "similar_first_km",
    "similar_mean_km",
    "similar_spread_km",
    "dissimilarity",
    "dissimilarity_growth",
    "unusualness",
    *(f"training_{rank}_km" for rank in _RANKS),
    "negative_log_density_here",
    "negative_log_density_mean",
    "information",
    "sharpness",
)
"""Names of the features, all logarithms. "Similar" photos are the most similar training photos.

Distances from the peak of the density to the similar photos: smallest, median, that of the most
similar one, geometric mean, spread. Dissimilarity of the most similar photo, its growth up to the
last neighbour, and the photo's distance from the mean photo. Distances from the peak to the nearest
training photos of any appearance. The negative log density of training photos at the peak, and its
mean under the density. Information and norm of the density."""

_SOFTENING = 4.0  # so wide that the coarse grid resolves nearly every density
COLDEST, HOTTEST = 0.02, 20.0
"""Bounds of τ. It is far below 1 after training on smoothed positions, whose densities are wider
than their errors."""

PHOTOS = 64
"""Photos that a CPU compares with the gallery together."""


@dataclass(frozen=True)
class TemperatureConfig:
    """Sizes of the temperature model.

    Attributes:
        gallery: Number of training photos that the checkpoint carries.
        components: Number of discriminants that are kept of each embedding.
        neighbours: Number of most similar photos that the features use.
        hidden: Width of the network.
        unfamiliar: Familiarity below which a photo counts as unlike those of training, and its
            density falls back to the base measure, see `temperature.familiarity`. 0 fits no
            familiarity: simulated validation photos do not tell what real ones are like.
    """

    gallery: int = 40_000
    components: int = 64
    neighbours: int = 10
    hidden: int = 32
    unfamiliar: float = UNFAMILIAR

    def __post_init__(self) -> None:
        """Checks the sizes."""
        if not 1 <= self.neighbours <= self.gallery or min(self.components, self.hidden) < 1:
            raise ValueError(
                f"gallery = {self.gallery}, neighbours = {self.neighbours}, components = "
                f"{self.components}, hidden = {self.hidden}; want 1 ≤ neighbours ≤ gallery and the "
                "others at least 1."
            )
        if not 0.0 <= self.unfamiliar < 1.0:
            raise ValueError(f"unfamiliar = {self.unfamiliar}; want a share from 0 to below 1.")


class TemperatureModel(nn.Module):
    """Computes the temperature of photos; before a fit, it is 1 for all.

    Attributes:
        config: Sizes of the model.
        mean: Mean of the training embeddings, ``(E,)``.
        projection: Discriminants of the embeddings, ``(E, C)``.
        gallery: Projected embeddings of G training photos, ``(G, C)``.
        places: Unit vectors of their positions, ``(G, 3)``.
        negative_log_density: Negative log density of all training photos on a raster.
        feature_mean, feature_spread: Standardisation of the features, ``(F,)``.
        familiarity: Computes the familiarity of photos from their dissimilarity.
    """

    mean: Tensor
    projection: Tensor
    gallery: Tensor
    places: Tensor
    negative_log_density: Tensor
    feature_mean: Tensor
    feature_spread: Tensor
    log_q0: Tensor
    sums: Tensor
    comparison: Tensor
    directions: Tensor

    def __init__(
        self,
        config: TemperatureConfig,
        max_degree: int,
        embedding_dim: int,
        base_measure: BaseMeasure,
    ) -> None:
        """Allocates the tables.

        Args:
            config: Sizes of the model.
            max_degree: Maximum degree L of the densities.
            embedding_dim: Size E of an embedding.
            base_measure: Base measure q₀ of the answers.
        """
        super().__init__()
        self.config = config
        shapes = {
            "mean": (embedding_dim,),
            "projection": (embedding_dim, config.components),
            "gallery": (config.gallery, config.components),
            "places": (config.gallery, 3),
            "negative_log_density": (ROWS, COLUMNS),
            "feature_mean": (len(FEATURES),),
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape))
        self.register_buffer("feature_spread", torch.ones(len(FEATURES)))
        self.familiarity = Familiarity()
        self.hidden = nn.Linear(len(FEATURES), config.hidden)
        self.out = nn.Linear(config.hidden, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        rows = 2 * (max_degree + 1)
        grid = gauss_legendre_grid(rows, 2 * rows)
        self.grid = ProductTransform(grid, max_degree)
        self.rotation = PoleRotation(max_degree)
        area = torch.from_numpy(grid.weights / (4.0 * math.pi)).float()
        self.register_buffer("log_q0", base_measure.on_grid(grid).cpu(), persistent=False)
        self.register_buffer("sums", area[:, None].repeat(1, 2), persistent=False)
        comparison = torch.zeros(config.components + 1, config.gallery)
        self.register_buffer("comparison", comparison, persistent=False)
        self.register_buffer("directions", torch.zeros(config.gallery, 3), persistent=False)
        self._tree = cKDTree(np.zeros((1, 3)))
        self.register_load_state_dict_post_hook(TemperatureModel._derive)

    @classmethod
    def of_training(
        cls,
        embeddings: EmbeddingRows,
        vectors: NDArray[np.float64],
        max_degree: int,
        base_measure: BaseMeasure,
        config: TemperatureConfig | None = None,
        seed: int = 0,
    ) -> TemperatureModel:
        """Draws the gallery from training photos and leaves the network to be fitted.

        Args:
            embeddings: Embeddings of the training photos, ``(N, E)``. Only those of the gallery are
                read.
            vectors: Unit vectors of their positions, ``(N, 3)``.
            max_degree: Maximum degree L of the densities.
            base_measure: Base measure q₀ of the answers.
            config: Wanted sizes; a smaller training set gives smaller ones.
            seed: Seed of the gallery and of the initial weights.
        """
        config = config or TemperatureConfig()
        count = min(config.gallery, len(embeddings))
        components = min(config.components, embeddings.shape[1])
        neighbours = min(config.neighbours, count)
        small = replace(config, gallery=count, components=components, neighbours=neighbours)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = cls(small, max_degree, embeddings.shape[1], base_measure)
        chosen = np.sort(np.random.default_rng(seed).permutation(len(embeddings))[:count])
        some = embeddings[chosen]
        mean, spread = some.mean(0), some.std(0) + 1e-3 * some.std()
        axes = discriminants((some - mean) / spread, vectors[chosen], components)
        projection = (axes / spread[:, None]).astype(np.float32)
        model.mean.copy_(torch.from_numpy(mean))
        model.projection.copy_(torch.from_numpy(projection))
        model.gallery.copy_(torch.from_numpy((some - mean) @ projection))
        model.places.copy_(torch.from_numpy(vectors[chosen]))
        model.negative_log_density.copy_(-positions_measure(vectors).log_weight)
        for name in STORED_IN_HALF:
            tensor = getattr(model, name)
            tensor.copy_(tensor.half().float())
        model._derive()
        return model.requires_grad_(False)

    @torch.no_grad()
    def _derive(self, *_: object) -> None:
        """Computes the tables that follow from the stored tensors."""
        # ⟨p, g⟩ - |g|²/2 orders by distance |p - g|: one product, no transposed matrix.
        self.comparison[:-1] = self.gallery.T
        self.comparison[-1] = -0.5 * self.gallery.square().sum(1)
        self.sums[:, 1] = self.sums[:, 0] * looked_up(self.negative_log_density, self.grid.nodes)
        self.directions.copy_(nn.functional.normalize(self.places, dim=1))
        self._tree = cKDTree(self.directions.cpu().numpy())

    def discriminants(self, condition: Tensor) -> Tensor:
        """Projects embeddings ``(B, E)`` to what tells places apart, ``(B, C)``."""
        return (condition - self.mean) @ self.projection

    @torch.inference_mode()
    def dissimilarity(self, condition: Tensor) -> Tensor:
        """Computes the feature of this name ``(B,)`` alone, of embeddings ``(B, E)``."""
        projected = self.discriminants(condition)
        alike = [self._similarity(some).amax(1) for (some,) in in_cache(PHOTOS, projected)]
        return _unlike(projected.square().sum(1), torch.cat(alike))

    @torch.inference_mode()
    def features(self, condition: Tensor, natural: Tensor) -> Tensor:
        """Computes the neighbour-consistency features.

        Args:
            condition: Embeddings, ``(B, E)``.
            natural: Natural parameters of the densities at τ = 1, ``(B, d)``.

        Returns:
            Features ``(B, F)`` in the order of `FEATURES`.
        """
        parts = [self._large_sums(*part) for part in in_cache(PHOTOS, natural)]
        node, height, sparse, information = map(torch.cat, zip(*parts, strict=True))
        # ŷ, the peak of the density near its highest node
        by_degree, reach = self.rotation.by_degree(natural), 2.0 * math.pi / self.grid.rows
        peaks = climb(by_degree, node[:, None], height, self.rotation, reach)
        sharpness = 0.5 * natural.square().sum(1).clamp(min=1e-6).log()
        compared = self.compared(condition, peaks.vectors[:, 0])
        return torch.cat([compared, torch.stack([sparse, information, sharpness], 1)], 1)

    @torch.inference_mode()
    def compared(self, condition: Tensor, answer: Tensor) -> Tensor:
        """Computes the features that need no more of a density than its answer.

        Args:
            condition: Embeddings, ``(B, E)``.
            answer: Highest places of the densities as unit vectors, ``(B, 3)``.

        Returns:
            All features but the last three of `FEATURES`, ``(B, F - 3)``.
        """
        projected = self.discriminants(condition)
        parts = [
            largest(self._similarity(some), self.config.neighbours)
            for (some,) in in_cache(PHOTOS, projected)
        ]
        alike, index = map(torch.cat, zip(*parts, strict=True))
        norm = projected.square().sum(1, keepdim=True)
        unlike = _unlike(norm, alike)
        # d(ŷ, y_g) of the similar photos, and of the nearest ones
        km = _km(torch.einsum("bkj,bj->bk", self.directions[index], answer))
        similar = (km + 20.0).log()
        deepest = min(max(_RANKS), len(self.places))
        nearest = self._nearest_km(answer, deepest)
        ranks = [min(rank, deepest) - 1 for rank in _RANKS]
        columns = [
            similar.amin(1),
            similar.median(1).values,
            similar[:, 0],
            similar.mean(1),
            (km.std(1, correction=0) + 20.0).log(),
            unlike[:, 0],
            unlike[:, -1] - unlike[:, 0],
            0.5 * norm.clamp(min=1e-6).log()[:, 0],
            *(nearest[:, ranks] + 10.0).log().unbind(1),
            looked_up(self.negative_log_density, answer),
        ]
        return torch.stack(columns, 1)

    def _nearest_km(self, answer: Tensor, count: int) -> Tensor:
        """Distances ``(B, count)`` from answers ``(B, 3)`` to the nearest training photos."""
        if answer.device.type != "cpu":
            return _km(largest(answer @ self.directions.T, count)[0])
        chord = self._tree.query(answer.numpy(), k=np.arange(1, count + 1))[0]
        km = 2.0 * EARTH_RADIUS_KM * np.arcsin(np.minimum(chord / 2.0, 1.0))
        return torch.from_numpy(km).to(answer)

    def _similarity(self, projected: Tensor) -> Tensor:
        """Computes ⟨p, g⟩ - |g|²/2 of photos ``(B, C)`` and the whole gallery, ``(B, G)``."""
        return nn.functional.pad(projected, (0, 1), value=1.0) @ self.comparison

    def _large_sums(self, natural: Tensor) -> tuple[Tensor, ...]:
        """Computes what needs the whole sphere, with densities softened.

        Returns:
            The highest node of the densities ``(B, 3)``, F there ``(B, 1)``, the mean negative log
            density of training photos and the information ``(B,)``.
        """
        # log q₀ + F/4 on the grid
        field = self.grid.synthesis(natural / _SOFTENING)
        flat = field.flatten(1).add_(self.log_q0)
        # The highest node of the highest row: four times faster than that of all nodes.
        highest, row = field.amax(2).max(1, keepdim=True)
        column = field.take_along_dim(row[..., None], 1).argmax(2)
        node = self.grid.nodes[(row * self.grid.columns + column)[:, 0]]
        # w = exp(log p - max), Σ w · area, Σ w · area · (-log density), Σ w log w
        weight = flat.sub_(highest).clamp(min=FLOOR).exp_()
        total, sparse = (weight @ self.sums).unbind(1)
        information = (flat.mul_(weight) @ self.sums[:, 0]) / total - total.log()
        return node, highest, sparse / total, information

    @torch.inference_mode()
    def forward(self, condition: Tensor, natural: Tensor) -> Tensor:
        """Computes the temperatures of photos.

        Args:
            condition: Embeddings, ``(B, E)``.
            natural: Natural parameters of the densities at τ = 1, ``(B, d)``.

        Returns:
            Temperatures τ, ``(B,)``; those of unfamiliar photos are divided by their weight w.
        """
        unlike = None
        if self.out.weight.any():
            features = self.features(condition, natural)
            log_temperature = self.log_temperature(features)
            unlike = features[:, FEATURES.index("dissimilarity")]
        else:  # all photos have one temperature: the features need not be computed
            log_temperature = self.out.bias.expand(len(natural))
        bounded = log_temperature.clamp(math.log(COLDEST), math.log(HOTTEST))
        if self.familiarity.known:  # τ/w, beyond the bound
            unlike = self.dissimilarity(condition) if unlike is None else unlike
            bounded = bounded - self.familiarity.log_weight(unlike, self.config.unfamiliar)
        # Rounded, so that the last bit of a sum over the batch does not start another sample.
        return (bounded * 256.0).round().div(256.0).exp()

    def log_temperature(self, features: Tensor) -> Tensor:
        """Computes log τ ``(B,)`` of features ``(B, F)``, without bounds."""
        standard = (features - self.feature_mean) / self.feature_spread
        log_temperature: Tensor = self.out(torch.tanh(self.hidden(standard)))
        return log_temperature.squeeze(1)


STORED_IN_HALF = ("mean", "projection", "gallery", "places", "negative_log_density")
"""Tensors that a checkpoint keeps in half precision."""


def _unlike(norm: Tensor, alike: Tensor) -> Tensor:
    """Computes log |p - g| = log √(|p|² - 2 (⟨p, g⟩ - |g|²/2)) from |p|² and the parenthesis."""
    return (norm - 2.0 * alike).clamp(min=1e-6).sqrt().log()


def _km(cosine: Tensor) -> Tensor:
    return EARTH_RADIUS_KM * torch.acos(cosine.clamp(-1.0, 1.0))
