"""Reads GeoCLIP's published weights (Cepeda et al., NeurIPS 2023, arXiv 2309.16020).

The package `geoclip` (MIT) holds three small networks and the positions of 100,000 photos of MP-16.
Its files are read where pip put them; neither it nor transformers is imported.

GeoCLIP scores a position y for a photo x by s ⟨q, loc(y)⟩, with unit vectors

    q      = normalise(head(CLIP(x)))                 `image_head`, of CLIP's 768 features
    loc(y) = normalise(Σ_σ MLP_σ(γ_σ(E(y))))          `location_encoder`, before normalising
    γ_σ(v) = (cos 2π B_σ v, sin 2π B_σ v)             B_σ ~ N(0, σ²), fixed: 256 x 2
    E      = Equal Earth map (Šavrič, Patterson and Jenny 2018), in units of about 17,000 km

and s = exp(`logit_scale_weights`).
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from locdiffusion.model.clip_image import image_tower
from locdiffusion.model.preprocessing import EncoderSpec, Framing
from locdiffusion.model.weights import GEOCLIP, EncoderWeightsError

CLIP_DIM = 768
EMBEDDING_DIM = 512
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
SPEC = EncoderSpec(
    *(GEOCLIP, EMBEDDING_DIM, 224, CLIP_MEAN, CLIP_STD), framing=Framing.SHORTEST_FLOOR
)
HIDDEN_DIM = 1024
FREQUENCIES = 256
SCALES = 3  # σ = 1, 16, 256

EQUAL_EARTH = (1.340264, -0.081106, 0.000893, 0.003796)
MAP_SCALE = 66.50336  # over 180: from the map of a unit sphere to GeoCLIP's


class ImageNetwork(nn.Module):
    """Maps photos to q: the image tower of CLIP and GeoCLIP's head.

    Args:
        file: File of CLIP's weights, see `image_tower`.

    Raises:
        EncoderWeightsError: The package is not installed, or CLIP's weights are missing.
    """

    def __init__(self, file: str = "") -> None:
        super().__init__()
        self.head = image_head()
        self.clip = image_tower(file)

    def forward(self, images: Tensor) -> Tensor:
        """Maps normalised images, float32 ``(N, 3, 224, 224)``, to unit vectors ``(N, 512)``."""
        return nn.functional.normalize(self.head(self.clip(images)), dim=1)


class LocationEncoder(nn.Module):
    """Maps positions to embeddings: a sum over scales of MLPs of random Fourier features."""

    def __init__(self) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(torch.zeros(SCALES, FREQUENCIES, 2), requires_grad=False)
        self.mlps = nn.ModuleList(
            nn.Sequential(
                nn.Linear(2 * FREQUENCIES, HIDDEN_DIM),
                nn.ReLU(),
                nn.Linear(HIDDEN_DIM, HIDDEN_DIM),
                nn.ReLU(),
                nn.Linear(HIDDEN_DIM, HIDDEN_DIM),
                nn.ReLU(),
                nn.Linear(HIDDEN_DIM, EMBEDDING_DIM),
            )
            for _ in range(SCALES)
        )

    def forward(self, positions: Tensor) -> Tensor:
        """Maps degrees ``(N, 2)`` (latitude, longitude), float32, to embeddings ``(N, 512)``.

        Their length is not 1; GeoCLIP normalises them before it compares them.
        """
        # Σ_σ MLP_σ(cos 2π B_σ v, sin 2π B_σ v)
        mapped = equal_earth(positions)
        total = torch.zeros(len(positions), EMBEDDING_DIM, device=positions.device)
        for frequencies, mlp in zip(self.frequencies, self.mlps, strict=True):
            phase = 2 * math.pi * mapped @ frequencies.T
            total = total + mlp(torch.cat([phase.cos(), phase.sin()], dim=1))
        return total


def equal_earth(positions: Tensor) -> Tensor:
    """Maps degrees ``(N, 2)`` to x, y of the Equal Earth map in GeoCLIP's scale.

    The order of operations is that of the publication: at σ = 256 a rounding of x changes the
    fourth digit of γ.
    """
    a1, a2, a3, a4 = EQUAL_EARTH
    latitude, longitude = torch.deg2rad(positions).unbind(1)
    root3 = torch.tensor(3.0, device=positions.device).sqrt()
    theta = torch.asin(root3 / 2 * torch.sin(latitude))
    slope = 9 * a4 * theta**8 + 7 * a3 * theta**6 + 3 * a2 * theta**2 + a1
    x = 2 * root3 * longitude * torch.cos(theta) / (3 * slope)
    y = a4 * theta**9 + a3 * theta**7 + a2 * theta**3 + a1 * theta
    return torch.stack((x, y), dim=1) * MAP_SCALE / 180.0


def location_encoder() -> LocationEncoder:
    """Loads GeoCLIP's location encoder, frozen.

    Raises:
        EncoderWeightsError: The package is not installed, or its files are damaged.
    """
    layers = {"capsule.1": 0, "capsule.3": 2, "capsule.5": 4, "head.0": 6}
    encoder = LocationEncoder()
    with _published("weights/location_encoder_weights.pth") as path:
        theirs = torch.load(path, map_location="cpu", weights_only=True)
        ours = {
            f"mlps.{scale}.{layer}.{kind}": theirs[f"LocEnc{scale}.{name}.{kind}"]
            for scale in range(SCALES)
            for name, layer in layers.items()
            for kind in ("weight", "bias")
        }
        b = [theirs[f"LocEnc{scale}.capsule.0.b"] for scale in range(SCALES)]
        encoder.load_state_dict({**ours, "frequencies": torch.stack(b)})
    return encoder.eval().requires_grad_(False)


def image_head() -> nn.Sequential:
    """Loads GeoCLIP's head, frozen: it maps raw CLIP features ``(N, 768)`` to ``(N, 512)``.

    Raises:
        EncoderWeightsError: The package is not installed, or its files are damaged.
    """
    head = nn.Sequential(
        nn.Linear(CLIP_DIM, CLIP_DIM), nn.ReLU(), nn.Linear(CLIP_DIM, EMBEDDING_DIM)
    )
    with _published("weights/image_encoder_mlp_weights.pth") as path:
        head.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return head.eval().requires_grad_(False)


def logit_scale() -> float:
    """Reads the factor s of a similarity in GeoCLIP's softmax, about 39.7.

    Raises:
        EncoderWeightsError: The package is not installed, or its files are damaged.
    """
    with _published("weights/logit_scale_weights.pth") as path:
        return float(torch.load(path, map_location="cpu", weights_only=True).detach().exp())


def load_gallery() -> NDArray[np.float32]:
    """Reads the positions that GeoCLIP chooses from: latitude, longitude in degrees, ``(N, 2)``.

    Raises:
        EncoderWeightsError: The package is not installed, or its files are damaged.
    """
    with _published("gps_gallery/coordinates_100K.csv") as path, path.open() as lines:
        header = lines.readline().strip()
        if header != "LAT,LON":
            raise ValueError(f"columns {header!r}, wanted LAT,LON")
        return np.loadtxt(lines, delimiter=",", ndmin=2).astype(np.float32)


@contextlib.contextmanager
def _published(name: str) -> Iterator[Path]:
    """Yields the path of a file of the package; any error in the block becomes one kind."""
    package = importlib.util.find_spec("geoclip")  # finds, and does not import
    if package is None or not package.submodule_search_locations:
        raise EncoderWeightsError(
            "GeoCLIP's weights come with the package geoclip, which is missing: "
            "pip install 'locdiffusion[geoclip]', or pip install --no-deps geoclip: its files "
            "are all that is needed"
        )
    path = Path(next(iter(package.submodule_search_locations)), "model", name)
    try:
        yield path
    except Exception as error:  # of the unpickler or the network
        raise EncoderWeightsError(
            f"{path} of the package geoclip is not what version 1.2 or 1.3 holds "
            f"({type(error).__name__}: {error}): pip install --force-reinstall --no-deps geoclip"
        ) from error
