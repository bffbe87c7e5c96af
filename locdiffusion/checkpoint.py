"""Reads and writes checkpoints: directories with `model.safetensors` and `config.json`, no pickle.

`config.json` holds every configuration that the weights need, the image encoder with its
preprocessing, and a record of the training run (data, seed, metrics).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from locdiffusion.appearance.model import AppearanceModel
from locdiffusion.config import from_dict, to_dict
from locdiffusion.decoding.decoder import DecodeConfig, Decoder
from locdiffusion.density.base_measure import COLUMNS, ROWS, BaseMeasure, uniform_measure
from locdiffusion.diffusion.schedules import NoiseConfig
from locdiffusion.files import atomic_path, write_atomically
from locdiffusion.gallery.place_mixture import MixtureConfig
from locdiffusion.model.cs_unet import CSUNet, CSUNetConfig
from locdiffusion.model.fingerprint import check_fingerprint
from locdiffusion.model.preprocessing import EncoderSpec
from locdiffusion.model.tensor_files import read_safetensors
from locdiffusion.model.weights import may_be_same
from locdiffusion.temperature import (
    STORED_IN_HALF,
    CalibratedDenoiser,
    TemperatureConfig,
    TemperatureModel,
)

FORMAT, FORMAT_WITH_MAP = 2, 3
"""Versions of the files. One that does not know the appearance map must refuse it."""

WEIGHTS, CONFIG = "model.safetensors", "config.json"
BASE, TEMPERATURES = "base.log_weight", "temperatures."
FAMILIARITY = "familiarity.quantiles"
APPEARANCE = "appearance."
STORED_NAMES = {"negative_log_density": "rarity"}
"""Tensors of the temperature model that are stored under another name."""
MAX_CONFIG_BYTES = 16 * 2**20
"""The record of a run takes some kilobytes."""
MAX_NAME, MAX_TEXT = 100, 300
SHIPPED = Path(__file__).parent / "checkpoints"
DEFAULT = "overhead"


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class CheckpointConfig:
    """Content of `config.json`.

    Attributes:
        name: Short name, the first part of the model id.
        model: Size of the network.
        noise: Noise levels of the diffusion.
        decode: Configuration of the decoder; ρ is fitted on validation data.
        encoder: Image encoder whose embeddings the network was trained on.
        temperature: Sizes of the temperature model.
        record: Data, recipe, seed and metrics of the training run, for people.
        format: Version of the file; 3 if it has an appearance map.
        fingerprint: Fingerprint of the encoder, see `locdiffusion.model.fingerprint`; empty if the
            version that wrote the file had none, or the encoder's weights were not at hand.
        purpose: Photos that the checkpoint is for, in a few words; empty if it does not say.
        unlike: What to do with other photos, in a few words.
        gallery: How the places of a gallery are mixed with the densities; None if no gallery suits.
    """

    name: str
    model: CSUNetConfig
    noise: NoiseConfig
    decode: DecodeConfig
    encoder: EncoderSpec
    temperature: TemperatureConfig = field(default_factory=TemperatureConfig)
    record: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT
    fingerprint: str = ""
    purpose: str = ""
    unlike: str = ""
    gallery: MixtureConfig | None = None

    def __post_init__(self) -> None:
        """Checks that the parts fit together."""
        _check_format(self.format)
        check_fingerprint(self.fingerprint, self.encoder.embedding_dim)
        texts = {"name": MAX_NAME, "purpose": MAX_TEXT, "unlike": MAX_TEXT}
        for name, most in texts.items():
            text = getattr(self, name)
            if len(text) > most or not text.isprintable():
                raise CheckpointError(
                    f"The {name} of the checkpoint is {text[:80]!a}; want at most {most} "
                    "characters, all of them visible: every run shows it."
                )
        if self.model.embedding_dim != self.encoder.embedding_dim:
            raise CheckpointError(
                f"The network takes {self.model.embedding_dim}-d embeddings but the encoder "
                f"{self.encoder.name} gives {self.encoder.embedding_dim}."
            )


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        config: Content of `config.json`.
        denoiser: Network and temperature model, in evaluation mode, on the CPU.
        base_measure: Base measure q₀ of the answers.
        sha256: SHA-256 of both files together.
        appearance: What photos look like by place, on the CPU; None if nothing is known of it.
    """

    config: CheckpointConfig
    denoiser: CalibratedDenoiser
    base_measure: BaseMeasure
    sha256: str
    appearance: AppearanceModel | None = None

    @property
    def network(self) -> CSUNet:
        """The network alone, at temperature 1."""
        return self.denoiser.network

    @property
    def told(self) -> dict[str, Any]:
        """What a run records of the photos that the checkpoint is for; empty if it does not say."""
        config = self.config
        known = self.denoiser.temperatures.familiarity.known
        unfamiliar = config.temperature.unfamiliar if known else None
        told = {"purpose": config.purpose, "unlike": config.unlike, "unfamiliar": unfamiliar}
        return {name: value for name, value in told.items() if value}

    @property
    def model_id(self) -> str:
        """Name and first 12 digits of the hash."""
        return f"{self.config.name}-{self.sha256[:12]}"

    def decoder(self, device: str | torch.device = "cpu") -> Decoder:
        """Builds the decoder of the densities alone on a device."""
        config = self.config
        return Decoder(config.model.max_degree, config.decode, self.base_measure).to(device)


def resolve(path: str | None) -> Path:
    """Finds the directory of a checkpoint.

    Args:
        path: A directory, the name of a shipped checkpoint, or None for the shipped default.

    Raises:
        CheckpointError: There is no checkpoint at this path.
    """
    name = path or DEFAULT
    directory = Path(name)
    # An unrelated folder with the name of a shipped checkpoint must not hide it.
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
    """Reads `config.json` without the weights.

    Args:
        path: A directory, the name of a shipped checkpoint, or None for the shipped default.

    Raises:
        CheckpointError: The file is missing or holds something else.
    """
    file = resolve(path) / CONFIG
    try:
        with file.open("rb") as opened:
            values = json.loads(opened.read(MAX_CONFIG_BYTES).decode("utf-8"))
        if isinstance(values, dict):
            _check_format(values.get("format", FORMAT))  # a newer format has unknown settings
        return from_dict(CheckpointConfig, values)
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:  # also of a whole number of 5,000 digits
        raise CheckpointError(f"{file} is not a checkpoint's configuration: {error}") from error


def _check_format(found: object) -> None:
    if found not in (FORMAT, FORMAT_WITH_MAP):
        raise CheckpointError(
            f"The checkpoint has format {found}; this version reads {FORMAT} to {FORMAT_WITH_MAP}. "
            "Use the version of locdiffusion that wrote it, or a newer one."
        )


def load(path: str | None = None) -> Checkpoint:
    """Loads a checkpoint.

    Args:
        path: A directory, the name of a shipped checkpoint, or None for the shipped default.

    Raises:
        CheckpointError: A file is missing or damaged, or the weights do not fit the configuration.
    """
    directory = resolve(path)
    config = read_config(path)
    try:
        stored = read_safetensors(directory / WEIGHTS)
        appearance = _appearance(config, stored)
        tensors = {n: t.float() for n, t in stored.items()}
        _check_sizes(config, tensors)
        base_measure = BaseMeasure(tensors.pop(BASE).double().exp().numpy())
        denoiser = _denoiser(config, base_measure)
        # A checkpoint of before has no familiarity.
        quantiles = tensors.pop(TEMPERATURES + FAMILIARITY, torch.zeros(0))
        denoiser.temperatures.familiarity.quantiles = quantiles
        named = {
            name: tensors.pop(TEMPERATURES + STORED_NAMES.get(name, name))
            for name in denoiser.temperatures.state_dict()
            if name != FAMILIARITY
        } | {FAMILIARITY: quantiles}
        denoiser.network.load_state_dict(tensors)
        denoiser.temperatures.load_state_dict(named)
    except (RuntimeError, LookupError, ValueError, TypeError, OverflowError) as error:
        reason = " ".join(str(error).split())[:300]  # torch lists every tensor
        raise CheckpointError(
            f"{directory / WEIGHTS} does not hold the weights that {CONFIG} describes ({reason}); "
            "copy both files again from the same checkpoint."
        ) from error
    denoiser.eval().requires_grad_(False)
    return Checkpoint(config, denoiser, base_measure, _sha256(directory), appearance)


def _appearance(
    config: CheckpointConfig, tensors: dict[str, torch.Tensor]
) -> AppearanceModel | None:
    """Takes the appearance map out of the tensors of a checkpoint."""
    names = [name for name in tensors if name.startswith(APPEARANCE)]
    if bool(names) != (config.format == FORMAT_WITH_MAP):
        raise ValueError(f"format {config.format} with {len(names)} tensors of an appearance map")
    if not names:
        return None
    found = {name.removeprefix(APPEARANCE): tensors.pop(name) for name in names}
    model = AppearanceModel.from_tensors(found)
    if model.map.components != config.temperature.components:
        raise ValueError(
            f"size mismatch: the appearance map has {model.map.components} discriminants, wanted "
            f"{config.temperature.components}"
        )
    return model.eval()


def _check_sizes(config: CheckpointConfig, tensors: Mapping[str, torch.Tensor]) -> None:
    """Compares shapes before anything is built: a configuration may ask for any memory."""
    wanted = {
        BASE: (ROWS, COLUMNS),
        TEMPERATURES + "gallery": (config.temperature.gallery, config.temperature.components),
        TEMPERATURES + "hidden.bias": (config.temperature.hidden,),
    }
    known = tensors.get(TEMPERATURES + FAMILIARITY)
    if known is not None and not (
        known.ndim == 1 and len(known) > 1 and known.isfinite().all() and (known.diff() >= 0).all()
    ):
        raise ValueError(
            f"{FAMILIARITY} of shape {tuple(known.shape)} has other values than at least two "
            "finite numbers in rising order"
        )
    if config.model.trunk_blocks > len(tensors):
        raise ValueError(f"{config.model.trunk_blocks} blocks in {len(tensors)} tensors")
    with torch.device("meta"):
        wanted |= {n: tuple(t.shape) for n, t in CSUNet(config.model).state_dict().items()}
    for name, shape in wanted.items():
        found = tuple(tensors[name].shape)
        if found != shape:
            raise ValueError(f"size mismatch: {name} has shape {found}, wanted {shape}")


def _denoiser(config: CheckpointConfig, base_measure: BaseMeasure) -> CalibratedDenoiser:
    model = config.model
    temperatures = TemperatureModel(
        config.temperature, model.max_degree, model.embedding_dim, base_measure
    )
    return CalibratedDenoiser(CSUNet(model), temperatures)


def as_stored(network: CSUNet) -> CSUNet:
    """Returns a copy with weights in half precision, as a checkpoint stores them: calibrate it."""
    copy = CSUNet(network.config).to(network.embedding_mean.device)
    copy.load_state_dict({n: t.half().float() for n, t in network.state_dict().items()})
    return copy.eval().requires_grad_(False)


def save(
    directory: Path,
    config: CheckpointConfig,
    denoiser: CalibratedDenoiser,
    base_measure: BaseMeasure | None = None,
    appearance: AppearanceModel | None = None,
) -> None:
    """Writes a checkpoint, the configuration last: a half-written checkpoint is not readable.

    Weights are stored in half precision, the few that calibration fitted in single precision.

    Args:
        directory: Directory of the checkpoint; it is made if it is missing.
        config: Configuration. The sizes of the temperature model are taken from the denoiser, and
            the format follows from what there is.
        denoiser: Network and temperature model.
        base_measure: Base measure q₀ of the answers; None is the uniform measure.
        appearance: What photos look like by place, if it is known.
    """
    version = FORMAT if appearance is None else FORMAT_WITH_MAP
    stored = replace(config, temperature=denoiser.temperatures.config, format=version)
    text = json.dumps(to_dict(stored), indent=1, sort_keys=True) + "\n"  # a record may hold NaN
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CONFIG).unlink(missing_ok=True)
    weights = {name: t.half() for name, t in denoiser.network.state_dict().items()}
    for name, tensor in denoiser.temperatures.state_dict().items():
        if not len(tensor):  # a familiarity that was not fitted
            continue
        key = TEMPERATURES + STORED_NAMES.get(name, name)
        weights[key] = tensor.half() if name in STORED_IN_HALF else tensor
    weights[BASE] = (base_measure or uniform_measure()).log_weight.half()
    if appearance is not None:
        weights |= {APPEARANCE + n: tensor for n, tensor in appearance.tensors().items()}
    with atomic_path(directory / WEIGHTS) as temporary:
        save_file({n: t.contiguous().clone() for n, t in weights.items()}, temporary)
    write_atomically(directory / CONFIG, text)


def check_encoder(config: CheckpointConfig, encoder: str | None) -> str:
    """Checks that an encoder is the one of a checkpoint.

    Args:
        config: Configuration of the checkpoint.
        encoder: Name of an encoder; None is the checkpoint's own. The weights of a CLIP model may
            have moved to another file, which `fingerprint.hold` compares with the first one.

    Returns:
        Name of the encoder to load.

    Raises:
        CheckpointError: It is another encoder, whose embeddings the network cannot use.
    """
    own = config.encoder.name
    if encoder is None:
        return own
    if not may_be_same(own, encoder):
        raise CheckpointError(
            f"The checkpoint '{config.name}' was trained on embeddings of '{own}', not of "
            f"'{encoder}'. Leave --encoder out, or give a checkpoint trained with '{encoder}' "
            "(locdiffusion train --encoder ...)."
        )
    return encoder


def _sha256(directory: Path) -> str:
    digest = hashlib.sha256()
    for name in (WEIGHTS, CONFIG):
        digest.update((directory / name).read_bytes())
    return digest.hexdigest()
