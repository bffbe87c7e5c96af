"""A world small enough to learn in seconds: photos of one colour, an encoder, a network."""

from __future__ import annotations

import io
import json
import types
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import nn

from locdiffusion import checkpoint
from locdiffusion.appearance.appearance_map import AppearanceMap
from locdiffusion.appearance.gaussian_process import Kriging, KrigingConfig
from locdiffusion.appearance.model import AppearanceModel
from locdiffusion.appearance.places import PlaceSums
from locdiffusion.decoding.decoder import DecodeConfig
from locdiffusion.density.base_measure import uniform_measure
from locdiffusion.density.log_partition import PartitionConfig
from locdiffusion.density.shdd import encode_vectors
from locdiffusion.diffusion.schedules import NoiseConfig
from locdiffusion.model.cs_unet import CSUNet, CSUNetConfig
from locdiffusion.model.fingerprint import picture
from locdiffusion.model.image_encoder import EncoderSpec, ImageEncoder
from locdiffusion.photos.embedding_cache import EmbeddedPhotos
from locdiffusion.sphere.geodesy import latitude_longitude, unit_vectors
from locdiffusion.temperature import CalibratedDenoiser, TemperatureConfig, TemperatureModel
from support.archives import encode, write_tar

SIDE, EMBEDDING_DIM = 16, 12
MODEL = CSUNetConfig(max_degree=7, embedding_dim=EMBEDDING_DIM, condition_dim=32, widths=(32, 16))
TEMPERATURE = TemperatureConfig(gallery=40, components=4, neighbours=3, hidden=6)
PARTITION = PartitionConfig(rows=24, offsets=2, panels=3, nodes_per_panel=2, azimuths=12)


class TinyEncoder(ImageEncoder):
    """A real `ImageEncoder` of one convolution; counts the photos that it embeds."""

    def __init__(self, name: str = "tiny", seed: int = 0) -> None:
        spec = EncoderSpec(name, EMBEDDING_DIM, SIDE, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            layers = [nn.Conv2d(3, 8, 8, 8), nn.Tanh(), nn.Flatten(), nn.Linear(32, EMBEDDING_DIM)]
            super().__init__(spec, nn.Sequential(*layers))
        self.embedded = 0

    def embed(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        self.embedded += len(pixels) * (not np.array_equal(pixels, picture(SIDE)[None]))
        return super().embed(pixels)


def random_points(count: int, seed: int) -> npt.NDArray[np.float64]:
    """Unit vectors ``(count, 3)``, uniform on the sphere."""
    vectors = np.random.default_rng(seed).normal(size=(count, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def coloured_photo(latitude: float, longitude: float) -> Image.Image:
    """A photo whose colour is the position: what there is to learn."""
    x, y, z = unit_vectors(latitude, longitude)
    colour = tuple(round(127.5 + 127.5 * float(v)) for v in (x, y, z))
    return Image.new("RGB", (20, SIDE), colour)


def write_coloured_shard(path: Path, count: int, seed: int) -> Path:
    """A shard of coloured photos at random places, with their truth."""
    members = []
    latitude, longitude = latitude_longitude(random_points(count, seed))
    for i, (lat, lon) in enumerate(zip(latitude.tolist(), longitude.tolist(), strict=True)):
        key = f"{path.stem}-{i:03d}"
        members.append((f"{key}.png", encode(coloured_photo(lat, lon), "PNG")))
        truth = {"latitude": lat, "longitude": lon}
        members.append((f"{key}.json", json.dumps(truth).encode()))
    return write_tar(path, members)


def learnable_photos(count: int, seed: int, noise: float = 0.1) -> EmbeddedPhotos:
    """Embeddings that are a fixed random map of the position's degrees 0 to 2, plus noise."""
    vectors = random_points(count, seed)
    mixing = np.random.default_rng(99).normal(size=(9, EMBEDDING_DIM)) / 3.0
    blur = np.random.default_rng(seed + 1).normal(scale=noise, size=(count, EMBEDDING_DIM))
    embeddings = (encode_vectors(vectors, 2) @ mixing + blur).astype(np.float32)
    keys = [f"{seed}-{i}" for i in range(count)]
    return EmbeddedPhotos(keys, embeddings, *latitude_longitude(vectors))


def random_network(seed: int = 0) -> CSUNet:
    """A network whose answers differ from photo to photo and from noise to noise."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = CSUNet(MODEL)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return network


def checkpoint_config(spec: EncoderSpec, name: str = "tiny") -> checkpoint.CheckpointConfig:
    decode = DecodeConfig(radius_km=300.0)
    return checkpoint.CheckpointConfig(
        name, MODEL, NoiseConfig(), decode, spec, TEMPERATURE, {"seed": 0}
    )


def random_denoiser(seed: int = 0) -> CalibratedDenoiser:
    """A random network as a checkpoint keeps it, with temperatures that differ between photos."""
    photos = learnable_photos(TEMPERATURE.gallery, seed=seed + 7)
    temperatures = TemperatureModel.of_training(
        photos.embeddings, photos.vectors, MODEL.max_degree, uniform_measure(), TEMPERATURE
    )
    denoiser = CalibratedDenoiser(checkpoint.as_stored(random_network(seed)), temperatures)
    condition = torch.from_numpy(photos.embeddings)
    features = temperatures.features(condition, denoiser.network.from_image(condition))
    temperatures.feature_mean.copy_(features.mean(0))
    temperatures.feature_spread.copy_(features.std(0).clamp(min=1e-3))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        temperatures.out.weight.copy_(0.3 * torch.randn_like(temperatures.out.weight))
        temperatures.out.bias.fill_(0.2)
    return denoiser.eval().requires_grad_(False)


def appearance_model(denoiser: CalibratedDenoiser) -> AppearanceModel:
    """A map of what learnable photos look like, for the discriminants of a denoiser."""
    photos = learnable_photos(200, seed=70)
    appearance = denoiser.temperatures.discriminants(torch.from_numpy(photos.embeddings))
    return mapped(appearance.numpy(), photos.vectors)


def mapped(
    appearance: npt.NDArray[np.float32], vectors: npt.NDArray[np.float64]
) -> AppearanceModel:
    """A coarse map of appearances ``(N, C)`` at places ``(N, 3)``."""
    sums = PlaceSums(appearance.shape[1], 50.0)
    sums.add(appearance, vectors, 0.1)
    config = KrigingConfig(length_km=3000.0, neighbours=40, tile_km=2000.0)
    return AppearanceModel(AppearanceMap.fit(Kriging(sums.observations(), config), 1000.0)).eval()


def replace_encoders(
    monkeypatch: pytest.MonkeyPatch, *modules: types.ModuleType
) -> list[TinyEncoder]:
    """Has modules load this encoder instead of the real one; every one that is loaded."""
    loaded: list[TinyEncoder] = []

    def load(
        name: str, device: str = "cpu", bf16: bool | None = None, wanted: EncoderSpec | None = None
    ) -> TinyEncoder:
        loaded.append(TinyEncoder(name))
        return loaded[-1]

    for module in modules:
        monkeypatch.setattr(module, "load_image_encoder", load)
    return loaded


def write_checkpoint(directory: Path, spec: EncoderSpec, seed: int = 0) -> Path:
    """A checkpoint of random weights, with an appearance map."""
    denoiser = random_denoiser(seed)
    config, appearance = checkpoint_config(spec), appearance_model(denoiser)
    checkpoint.save(directory, config, denoiser, appearance=appearance)
    return directory


def with_orientation(image: Image.Image, orientation: int) -> Image.Image:
    """The image as a file of a turned camera: its EXIF says how to turn it upright."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    return Image.open(buffer)
