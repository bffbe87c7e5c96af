r"""How far a photo's density is to be believed: one temperature per photo.

The posterior is p(y) ∝ q₀(y) exp(F(y)/τ), where F is what the network makes of the image. One τ for
all photos (Guo et al. 2017, arXiv 1706.04599, §4.2) cannot know that a photo shows a region or a
season that training never saw; there the network is as sure as ever, and wrong. So (our choice) a
small network gives log τ from features that compare the density with a second witness: the training
photos that look most alike (nearest in the `discriminants` of the embeddings), a sample of which
the checkpoint carries. `FEATURES` names them. Where these photos lie far from the network's
own answer or from each other, look less alike than usual, or where few training photos are, trust
is low. It is fitted on validation photos by likelihood (`locdiffusion.calibrate.fitting`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.spatial import cKDTree
from torch import Tensor, nn

from locdiffusion.cpu import in_cache
from locdiffusion.decoding.peaks import climb
from locdiffusion.density.base_measure import COLUMNS, ROWS, BaseMeasure, positions_measure
from locdiffusion.density.log_partition import FLOOR
from locdiffusion.density.raster import looked_up
from locdiffusion.density.transforms import PoleRotation, ProductTransform
from locdiffusion.model.cs_unet import CSUNet
from locdiffusion.photos.embedding_cache import EmbeddingRows
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM
from locdiffusion.sphere.grids import gauss_legendre_grid

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
    "rarity_here",
    "rarity_mean",
    "information",
    "sharpness",
)
"""Logarithms of: distances between the highest place and the most similar training photos (least,
median, the most similar one's, geometric mean, spread); how unlike the most similar one is, how
fast that grows, how far the photo is from the mean photo; distances from that place to the nearest
training photos of any look; how rare training photos are there and under the density; and the
information and the norm of the density."""

_SAME_PLACE, _RIDGE = 3, 0.05
"""Neighbours that count as of one place; the least spread within places, as a part of the mean."""

_SOFTENING = 4.0  # so wide that the coarse grid resolves nearly every density
COLDEST, HOTTEST = 0.02, 20.0
"""Bounds of τ. Far below 1 where smoothed places were learned: they are wider than they err."""


PHOTOS = 64
"""Compared with the gallery together on a CPU."""


@dataclass(frozen=True)
class TemperatureConfig:
    """Size of the witness and of the network.

    Attributes:
        gallery: How many training photos are carried.
        components: Discriminants kept of each embedding.
        neighbours: How many of the most similar photos are asked.
        hidden: Width of the network.
    """

    gallery: int = 40_000
    components: int = 64
    neighbours: int = 10
    hidden: int = 32

    def __post_init__(self) -> None:
        """Checks the sizes."""
        if not 1 <= self.neighbours <= self.gallery or min(self.components, self.hidden) < 1:
            raise ValueError(
                f"gallery = {self.gallery}, neighbours = {self.neighbours}, components = "
                f"{self.components}, hidden = {self.hidden}; want 1 ≤ neighbours ≤ gallery and the "
                "others at least 1."
            )


class TemperatureModel(nn.Module):
    """Temperatures of photos; without a fit, 1 for all."""

    mean: Tensor
    projection: Tensor
    gallery: Tensor
    places: Tensor
    rarity: Tensor
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
        """Makes room for the witness.

        Args:
            config: Its size.
            max_degree: L of the densities.
            embedding_dim: E.
            base_measure: Base measure q₀ of the answers.
        """
        super().__init__()
        self.config = config
        shapes = {
            "mean": (embedding_dim,),
            "projection": (embedding_dim, config.components),
            "gallery": (config.gallery, config.components),
            "places": (config.gallery, 3),
            "rarity": (ROWS, COLUMNS),
            "feature_mean": (len(FEATURES),),
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape))
        self.register_buffer("feature_spread", torch.ones(len(FEATURES)))
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
        """The witness drawn from training photos; the network is still to be fitted.

        Args:
            embeddings: ``(N, E)``, of which only some rows are read.
            vectors: ``(N, 3)`` unit vectors of their positions.
            max_degree: L.
            base_measure: Base measure q₀ of the answers.
            config: Wanted size; a smaller training set gives a smaller one.
            seed: Of the draw and of the first weights.
        """
        config = config or TemperatureConfig()
        count = min(config.gallery, len(embeddings))
        components = min(config.components, embeddings.shape[1])
        small = TemperatureConfig(count, components, min(config.neighbours, count), config.hidden)
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
        model.rarity.copy_(-positions_measure(vectors).log_weight)
        for name in STORED_IN_HALF:
            tensor = getattr(model, name)
            tensor.copy_(tensor.half().float())
        model._derive()
        return model.requires_grad_(False)

    @torch.no_grad()
    def _derive(self, *_: object) -> None:
        """What follows from the stored tensors, once instead of with each photo."""
        # Half the squares in the same product, and no transposed matrix: twice as fast.
        self.comparison[:-1] = self.gallery.T
        self.comparison[-1] = -0.5 * self.gallery.square().sum(1)
        self.sums[:, 1] = self.sums[:, 0] * self._rarity(self.grid.nodes)
        self.directions.copy_(nn.functional.normalize(self.places, dim=1))
        self._tree = cKDTree(self.directions.cpu().numpy())

    @torch.inference_mode()
    def features(self, condition: Tensor, natural: Tensor) -> Tensor:
        """The features ``(B, F)`` in the order of `FEATURES`.

        Args:
            condition: ``(B, E)`` embeddings.
            natural: ``(B, d)`` densities at τ = 1.
        """
        projected = (condition - self.mean) @ self.projection
        parts = [self._large_sums(*part) for part in in_cache(PHOTOS, projected, natural)]
        alike, index, node, height, rarity, information = map(torch.cat, zip(*parts, strict=True))
        norm = projected.square().sum(1, keepdim=True)
        unlike = (norm - 2.0 * alike).clamp(min=1e-6).sqrt().log()
        by_degree, reach = self.rotation.by_degree(natural), 2.0 * math.pi / self.grid.rows
        peaks = climb(by_degree, node[:, None], height, self.rotation, reach)
        answer = peaks.vectors[:, 0]
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
            self._rarity(answer),
            rarity,
            information,
            0.5 * natural.square().sum(1).clamp(min=1e-6).log(),
        ]
        return torch.stack(columns, 1)

    def _rarity(self, vectors: Tensor) -> Tensor:
        return looked_up(self.rarity, vectors)

    def _nearest_km(self, answer: Tensor, count: int) -> Tensor:
        """Distances ``(B, count)`` from answers ``(B, 3)`` to the nearest training photos."""
        if answer.device.type != "cpu":
            return _km(largest(answer @ self.directions.T, count)[0])
        chord = self._tree.query(answer.numpy(), k=np.arange(1, count + 1))[0]
        km = 2.0 * EARTH_RADIUS_KM * np.arcsin(np.minimum(chord / 2.0, 1.0))
        return torch.from_numpy(km).to(answer)

    def _large_sums(self, projected: Tensor, natural: Tensor) -> tuple[Tensor, ...]:
        """Over the gallery and over the sphere.

        Returns:
            Likeness and index of the photos most alike ``(B, neighbours)``; of the densities the
            highest node ``(B, 3)``, the field there ``(B, 1)``, rarity and information ``(B,)``,
            all of them softened.
        """
        likeness = nn.functional.pad(projected, (0, 1), value=1.0) @ self.comparison
        alike, index = largest(likeness, self.config.neighbours)
        field = self.grid.synthesis(natural / _SOFTENING)
        flat = field.flatten(1).add_(self.log_q0)
        # The highest node of the highest row: four times faster than that of all nodes.
        highest, row = field.amax(2).max(1, keepdim=True)
        column = field.take_along_dim(row[..., None], 1).argmax(2)
        node = self.grid.nodes[(row * self.grid.columns + column)[:, 0]]
        weight = flat.sub_(highest).clamp(min=FLOOR).exp_()
        total, rarity = (weight @ self.sums).unbind(1)
        information = (flat.mul_(weight) @ self.sums[:, 0]) / total - total.log()
        return alike, index, node, highest, rarity / total, information

    @torch.inference_mode()
    def forward(self, condition: Tensor, natural: Tensor) -> Tensor:
        """Temperatures ``(B,)``; arguments as in `features`."""
        if self.out.weight.any():
            log_temperature = self.log_temperature(self.features(condition, natural))
        else:  # features were found to tell nothing: they need not be computed
            log_temperature = self.out.bias.expand(len(natural))
        bounded = log_temperature.clamp(math.log(COLDEST), math.log(HOTTEST))
        # Rounded, so that the last bit of a sum over the batch does not start another sample.
        return (bounded * 256.0).round().div(256.0).exp()

    def log_temperature(self, features: Tensor) -> Tensor:
        """Log τ ``(B,)`` of features ``(B, F)``, without bounds."""
        standard = (features - self.feature_mean) / self.feature_spread
        log_temperature: Tensor = self.out(torch.tanh(self.hidden(standard)))
        return log_temperature.squeeze(1)


def discriminants(
    standard: NDArray[np.float32], vectors: NDArray[np.float64], components: int
) -> NDArray[np.float64]:
    """Axes along which places differ, measured by how much photos of one place do.

    Linear discriminant analysis with neighbours for classes: what differs between photos that were
    taken next to each other is season, light and camera. Principal components have most of just
    that, and call a known place new in a new month.

    Args:
        standard: ``(N, E)`` standardised embeddings.
        vectors: ``(N, 3)`` unit vectors of their places.
        components: C, how many axes.

    Returns:
        ``(E, C)``, those with most difference between places first.
    """
    dim = standard.shape[1]
    within = np.zeros((dim, dim))
    neighbours = min(_SAME_PLACE, len(standard) - 1)
    nearest = cKDTree(vectors).query(vectors, k=neighbours + 1)[1].reshape(len(vectors), -1)
    for k in range(1, neighbours + 1):
        apart = (standard - standard[nearest[:, k]]).astype(np.float64)
        within += apart.T @ apart / (2.0 * neighbours * len(apart))
    within += max(_RIDGE * np.trace(within) / dim, 1e-6) * np.eye(dim)
    _, axes = eigh(np.cov(standard.T, bias=True).reshape(dim, dim), within)
    found: NDArray[np.float64] = axes[:, ::-1][:, :components]
    return found


def largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`topk` along the last axis of ``(B, P)``, three times faster for P in the ten thousands.

    The largest values lie in the groups whose largest values are largest.
    """
    groups = values.shape[1] // _GROUP
    if groups <= count:
        best = values.topk(count, dim=1)
        return best.values, best.indices
    # Group g is g, g + groups, g + 2·groups …: maxima of whole rows, not within them.
    whole = values[:, : groups * _GROUP].unflatten(1, (_GROUP, groups))
    of_group = whole.amax(1).topk(count, dim=1).indices
    steps = groups * torch.arange(_GROUP, device=values.device)
    rest = torch.arange(groups * _GROUP, values.shape[1], device=values.device)
    among = (of_group[..., None] + steps).flatten(1)
    among = torch.cat([among, rest.expand(len(values), -1)], 1)
    best = values.gather(1, among).topk(count, dim=1)
    return best.values, among.gather(1, best.indices)


_GROUP = 32

STORED_IN_HALF = ("mean", "projection", "gallery", "places", "rarity")
"""Tensors that a checkpoint keeps in half precision."""


def _km(cosine: Tensor) -> Tensor:
    return EARTH_RADIUS_KM * torch.acos(cosine.clamp(-1.0, 1.0))


class CalibratedDenoiser(nn.Module):
    """A network and its temperatures: the denoiser that density and sampling mode both use."""

    def __init__(self, network: CSUNet, temperatures: TemperatureModel) -> None:
        super().__init__()
        self.network = network
        self.temperatures = temperatures

    @torch.inference_mode()
    def temperature(self, condition: Tensor) -> Tensor:
        """``(B,)`` temperatures of photos with embeddings ``(B, E)``."""
        found: Tensor = self.temperatures(condition, self.network.from_image(condition))
        return found

    def forward(
        self, x: Tensor, sigma: Tensor, condition: Tensor, temperature: Tensor | None = None
    ) -> Tensor:
        """Natural parameters ``(B, d)``, as `CSUNet.forward`.

        Args:
            x: ``(B, d)`` noisy codes.
            sigma: ``(B,)`` noise levels or ``inf``.
            condition: ``(B, E)`` image embeddings.
            temperature: ``(B,)`` of the photos, where the caller has them already.
        """
        if temperature is None:
            temperature = self.temperature(condition)
        natural: Tensor = self.network(x, sigma, condition, temperature)
        return natural

    def from_image(self, condition: Tensor) -> Tensor:
        """Density mode ``(B, d)`` of embeddings ``(B, E)``."""
        natural = self.network.from_image(condition)
        temperature: Tensor = self.temperatures(condition, natural)
        return natural / temperature[:, None]
