"""A checkpoint: a directory with `model.safetensors` and `config.json`. Never a pickle.

`config.json` holds every configuration needed to use the weights, the image encoder with its
preprocessing, and a record of how the weights came to be (data, seed, metrics).
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from locdiffusion.config import ConfigError, from_dict, to_dict
from locdiffusion.decoding.decoder import DecodeConfig, Decoder
from locdiffusion.density.base_measure import BaseMeasure, uniform_measure
from locdiffusion.diffusion.schedules import NoiseConfig
from locdiffusion.files import write_json
from locdiffusion.model.cs_unet import CSUNet, CSUNetConfig
from locdiffusion.model.preprocessing import EncoderSpec
from locdiffusion.model.weights import may_move, split_name
from locdiffusion.temperature import (
    STORED_IN_HALF,
    CalibratedDenoiser,
    TemperatureConfig,
    TemperatureModel,
)

FORMAT = 2
WEIGHTS, CONFIG = "model.safetensors", "config.json"
BASE, TEMPERATURES = "base.log_weight", "temperatures."
SHIPPED = Path(__file__).parent / "checkpoints"
DEFAULT = "overhead"


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class CheckpointConfig:
    """What `config.json` says.

    Attributes:
        name: Short name, part of the model id.
        model: The network.
        noise: The diffusion.
        decode: ρ and what else the decoder needs, fitted on validation data.
        temperature: Size of the temperature model.
        encoder: The image encoder whose embeddings the network was trained on.
        record: Data, recipe, seed and metrics; for people.
        format: Version of this file.
    """

    name: str
    model: CSUNetConfig
    noise: NoiseConfig
    decode: DecodeConfig
    encoder: EncoderSpec
    temperature: TemperatureConfig = field(default_factory=TemperatureConfig)
    record: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    def __post_init__(self) -> None:
        """Checks that the parts fit each other."""
        _check_format(self.format)
        if self.model.embedding_dim != self.encoder.embedding_dim:
            raise CheckpointError(
                f"The network takes {self.model.embedding_dim}-d embeddings but the encoder "
                f"{self.encoder.name} gives {self.encoder.embedding_dim}."
            )


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        config: What `config.json` says.
        denoiser: Network and temperatures, in evaluation mode, on the CPU.
        base_measure: Base measure q₀ of the answers.
        sha256: Of both files together.
    """

    config: CheckpointConfig
    denoiser: CalibratedDenoiser
    base_measure: BaseMeasure
    sha256: str

    @property
    def network(self) -> CSUNet:
        """The network alone, at temperature 1."""
        return self.denoiser.network

    @property
    def model_id(self) -> str:
        """Name and the first 12 digits of the hash."""
        return f"{self.config.name}-{self.sha256[:12]}"

    def decoder(self, device: str | torch.device = "cpu") -> Decoder:
        """Builds the decoder of the answers on a device; its tables take a second."""
        config = self.config
        return Decoder(config.model.max_degree, config.decode, self.base_measure).to(device)


def resolve(path: str | None) -> Path:
    """The directory of a checkpoint: None is the shipped default, a bare name a shipped one.

    Raises:
        CheckpointError: Nothing is there.
    """
    name = path or DEFAULT
    directory = Path(name)
    # A folder that merely has the name of a shipped checkpoint must not hide it.
    holds_one = any((directory / f).is_file() for f in (WEIGHTS, CONFIG))
    if path is None or (not holds_one and os.sep not in name and (SHIPPED / name).is_dir()):
        directory = SHIPPED / name
    missing = [f for f in (WEIGHTS, CONFIG) if not (directory / f).is_file()]
    if missing:
        shipped = sorted(p.name for p in SHIPPED.glob("*") if (p / CONFIG).is_file())
        raise CheckpointError(
            f"No checkpoint at '{name}': {' and '.join(missing)} not found there. Want a directory "
            f"with {WEIGHTS} and {CONFIG}, or one of the shipped ones: {shipped or 'none'}."
        )
    return directory


def read_config(path: str | None) -> CheckpointConfig:
    """Reads `config.json` alone, without the weights.

    Raises:
        CheckpointError: Missing or not a checkpoint's configuration.
    """
    file = resolve(path) / CONFIG
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(values, dict):
            _check_format(values.get("format", FORMAT))  # first: a newer one has unknown settings
        return from_dict(CheckpointConfig, values)
    except (json.JSONDecodeError, UnicodeDecodeError, ConfigError) as error:
        raise CheckpointError(f"{file} is not a checkpoint's configuration: {error}") from error


def _check_format(found: object) -> None:
    if found != FORMAT:
        raise CheckpointError(
            f"The checkpoint has format {found}; this version reads {FORMAT}. "
            "Use the version of locdiffusion that wrote it, or a newer one."
        )


def load(path: str | None = None) -> Checkpoint:
    """Loads a checkpoint.

    Args:
        path: A directory, the name of a shipped checkpoint, or None for the shipped default.

    Raises:
        CheckpointError: Missing, damaged, or weights that do not fit the configuration.
    """
    directory = resolve(path)
    config = read_config(path)
    try:
        tensors = {name: t.float() for name, t in load_file(directory / WEIGHTS).items()}
        base_measure = BaseMeasure(tensors.pop(BASE).double().exp().numpy())
        denoiser = _denoiser(config, base_measure)
        named = {
            name.removeprefix(TEMPERATURES): tensors.pop(name)
            for name in list(tensors)
            if name.startswith(TEMPERATURES)
        }
        denoiser.network.load_state_dict(tensors)
        denoiser.temperatures.load_state_dict(named)
    except (SafetensorError, RuntimeError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]  # torch lists every tensor
        raise CheckpointError(
            f"{directory / WEIGHTS} does not hold the weights that {CONFIG} describes ({reason}); "
            "copy both files again from the same checkpoint."
        ) from error
    denoiser.eval().requires_grad_(False)
    return Checkpoint(config, denoiser, base_measure, _sha256(directory))


def _denoiser(config: CheckpointConfig, base_measure: BaseMeasure) -> CalibratedDenoiser:
    model = config.model
    temperatures = TemperatureModel(
        config.temperature, model.max_degree, model.embedding_dim, base_measure
    )
    return CalibratedDenoiser(CSUNet(model), temperatures)


def as_stored(network: CSUNet) -> CSUNet:
    """A copy with weights as a checkpoint keeps them, in half precision: calibrate this one."""
    copy = CSUNet(network.config).to(network.embedding_mean.device)
    copy.load_state_dict({n: t.half().float() for n, t in network.state_dict().items()})
    return copy.eval().requires_grad_(False)


def save(
    directory: Path,
    config: CheckpointConfig,
    denoiser: CalibratedDenoiser,
    base_measure: BaseMeasure | None = None,
) -> None:
    """Writes a checkpoint; the configuration last, so that a half-written one is not readable.

    Numbers are stored in half precision, the few that were fitted for calibration in full.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CONFIG).unlink(missing_ok=True)
    weights = {name: t.half() for name, t in denoiser.network.state_dict().items()}
    for name, tensor in denoiser.temperatures.state_dict().items():
        weights[TEMPERATURES + name] = tensor.half() if name in STORED_IN_HALF else tensor
    weights[BASE] = (base_measure or uniform_measure()).log_weight.half()
    save_file({n: t.contiguous().clone() for n, t in weights.items()}, directory / WEIGHTS)
    stored = replace(config, temperature=denoiser.temperatures.config)
    write_json(directory / CONFIG, to_dict(stored), sort_keys=True)


def check_encoder(config: CheckpointConfig, encoder: str | None) -> str:
    """The name of the encoder to load; refuses any other than the checkpoint's own.

    The weights of a CLIP may lie in another file now: then `encoder` names that file, and it is for
    the caller to know that they are the same. Another tag is another encoder.

    Raises:
        CheckpointError: Embeddings of another encoder mean nothing to the network.
    """
    own = config.encoder.name
    if encoder is None or encoder == own:
        return own
    if not (may_move(encoder) and split_name(encoder)[0] == split_name(own)[0]):
        raise CheckpointError(
            f"The checkpoint '{config.name}' was trained on embeddings of '{own}', not of "
            f"'{encoder}'. Leave --encoder out, or give a checkpoint trained with '{encoder}' "
            "(python -m locdiffusion.train --encoder ...)."
        )
    return encoder


def _sha256(directory: Path) -> str:
    digest = hashlib.sha256()
    for name in (WEIGHTS, CONFIG):
        digest.update((directory / name).read_bytes())
    return digest.hexdigest()
