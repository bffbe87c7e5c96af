"""Weights of strangers: nothing runs, and nothing grows beyond the file."""

import io
import itertools
import json
import pickle
import random
import re
import sys
import tracemalloc
import warnings
import zipfile
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from locdiffusion import Geotagger
from locdiffusion.checkpoint import CheckpointError, load
from locdiffusion.model.image_encoder import load_image_encoder
from locdiffusion.model.tensor_files import read_tensors
from locdiffusion.model.torch_pickle import TensorFileError, unpickled
from locdiffusion.model.weights import EncoderWeightsError
from locdiffusion.photos.embedding_cache import embed_shards
from locdiffusion.train.photo_statistics import Statistics
from support import ROOT, SEED
from support.archives import truth, write_tar
from support.hostile.training_data import ARRAYS, described
from support.hostile.weights import (
    CONFIG_FILES,
    CONFIGS,
    WEIGHTS,
    Command,
    archived,
    before_archives,
    scripted,
    text,
)
from support.tiny import TinyEncoder, write_checkpoint

FORMS = ("geoclip:{}", "open_clip:ViT-B-32/{}")


class Scripted(nn.Module):
    """A model with modules, parameters and buffers, as OpenAI's are published."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
        self.projection = nn.Parameter(torch.randn(2, 3).T)
        self.register_buffer("input_resolution", torch.tensor(224))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.visual(x) @ self.projection.T


def test_tensors_of_torchscript_are_those_that_torch_reads(tmp_path: Path) -> None:
    file = tmp_path / "ViT-L-14.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Scripted().half()), file)
        expected = torch.jit.load(file).state_dict()
    found = read_tensors(file)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
    assert read_tensors(file, ("visual.0",)).keys() == {"visual.0.weight", "visual.0.bias"}


@pytest.mark.parametrize("form", FORMS)
def test_torchscript_runs_nothing(tmp_path: Path, form: str) -> None:
    """Its `__setstate__` wrote a file before the error came."""
    planted, file = tmp_path / "planted", tmp_path / "ViT-L-14.pt"
    file.write_bytes(scripted(planted))
    with pytest.raises(EncoderWeightsError):
        load_image_encoder(form.format(file))
    assert not planted.exists()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.load(file)
    assert planted.exists()


def test_pickles_run_nothing(tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    command = Command(f"touch {planted}")
    buffer, old = io.BytesIO(), io.BytesIO()
    torch.save({"visual.x": command}, buffer)
    torch.save({"visual.x": command}, old, _use_new_zipfile_serialization=False)
    contents = [
        *(old.getvalue(), pickle.dumps(command), buffer.getvalue()),
        *(archived(pickle.dumps(command, protocol)) for protocol in range(6)),
        # A class whose state an object takes; an object that is called.
        archived(b"\x80\2cos\nsystem\n" + text(f"touch {planted}") + b"\x85R."),
        archived(b"\x80\2c__torch__\nM\n)\x81cos\nsystem\nb."),
        archived(b"\x80\2cbuiltins\nexec\n)\x81" + text("1") + b"b."),
        archived(b"(" + text(f"touch {planted}") + b"ios\nsystem\n."),
        before_archives(pickle.dumps(command, 2)),
        before_archives(b"", [command]),
    ]
    for suffix in (".pt", ".safetensors"):
        file = tmp_path / f"weights{suffix}"
        for content in contents:
            file.write_bytes(content)
            with pytest.raises(TensorFileError):
                read_tensors(file)
    for form in FORMS:
        with pytest.raises(EncoderWeightsError):
            load_image_encoder(form.format(file))
    assert not planted.exists()


def test_a_folder_or_an_array_is_no_weight_file(tmp_path: Path) -> None:
    """open_clip opens `.npz`, and unpacks what it holds."""
    import numpy as np

    np.savez_compressed(tmp_path / "weights.npz", a=np.zeros(10))
    with pytest.raises(EncoderWeightsError, match=r"no data\.pkl"):
        load_image_encoder(f"open_clip:ViT-B-16-SigLIP/{tmp_path / 'weights.npz'}")
    with pytest.raises((EncoderWeightsError, ValueError)):
        load_image_encoder(f"open_clip:local-dir:{tmp_path}/weights.npz")


@pytest.mark.parametrize("name", WEIGHTS)
def test_no_file_takes_more_memory_than_it_has_bytes(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(WEIGHTS[name]())
    tracemalloc.start()
    with pytest.raises(TensorFileError):
        read_tensors(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6


@pytest.mark.parametrize("piece", [b"}", b"(", b"]", b")", b"c__torch__\nM\n)\x81", b"q\0h\0" * 2])
def test_the_work_of_a_pickle_is_linear(piece: bytes) -> None:
    def instructions(count: int) -> int:
        calls = itertools.count()
        sys.setprofile(lambda *_: next(calls))
        try:
            unpickled(b"\x80\2}" + piece * count + b".")
        finally:
            sys.setprofile(None)
        return next(calls)

    assert instructions(2000) <= 2.5 * instructions(1000)


def test_damaged_weights_are_one_kind_of_error(tmp_path: Path) -> None:
    random.seed(SEED)
    file = tmp_path / "weights.pt"
    torch.save({"visual.x": torch.ones(3), "epoch": 3}, file)
    sound = file.read_bytes()
    start = sound.index(b"\x80\2}")
    for _ in range(500):
        data = bytearray(sound)
        for _ in range(random.randint(1, 3)):
            place = random.choice((start + random.randrange(200), random.randrange(len(data))))
            data[place] = random.randrange(256)
        file.write_bytes(data)
        try:
            read_tensors(file)
        except TensorFileError:
            continue


def test_nothing_else_opens_what_could_run() -> None:
    """Whoever opens weights, arrays or pickles another way has to say here why."""
    allowed = {
        ("locdiffusion/isolation/__init__.py", "pickle.loads"),  # of its parent process
        ("locdiffusion/geography/borders.py", "np.load"),  # arrays only
        ("locdiffusion/model/geoclip.py", "torch.load"),  # of an installed package, weights only
        ("locdiffusion/model/lite0.py", "torch.load"),
        ("locdiffusion/model/tensor_files.py", "torch.load"),  # in a message
        ("locdiffusion/train/photo_statistics.py", "np.load"),  # arrays only
    }
    risky = re.compile(r"\b(?:pickle\.loads?|torch\.load|jit\.load|np\.load|joblib\.load)(?=\()")
    found = {
        (path.relative_to(ROOT).as_posix(), call)
        for room in ("schemas", "locdiffusion", "pipelines")
        for path in (ROOT / room).rglob("*.py")
        for call in risky.findall(path.read_text("utf-8"))
    }
    assert found <= allowed
    for name, call in allowed - {("locdiffusion/isolation/__init__.py", "pickle.loads")}:
        text = (ROOT / name).read_text("utf-8")
        safe = "weights_only=True" if call == "torch.load" else "allow_pickle=False"
        assert text.count(f"{call}(") == text.count(safe)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_checkpoint_gets_no_memory_that_its_weights_do_not_fill(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(tmp_path, TinyEncoder().spec)
    config = json.loads((tmp_path / "config.json").read_text())
    CONFIGS[name](config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    made = []
    monkeypatch.setattr("locdiffusion.checkpoint._denoiser", lambda *_: made.append(1))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load(str(tmp_path))
    assert not made


@pytest.mark.parametrize("name", CONFIG_FILES)
def test_an_odd_configuration_is_named(name: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, TinyEncoder().spec)
    (tmp_path / "config.json").write_bytes(CONFIG_FILES[name])
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load(str(tmp_path))


@pytest.mark.parametrize("name", [name for name in WEIGHTS if name.endswith(".safetensors")])
def test_odd_weights_of_a_checkpoint_are_named(name: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, TinyEncoder().spec)
    (tmp_path / "model.safetensors").write_bytes(WEIGHTS[name]())
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load(str(tmp_path))


def test_a_base_measure_of_another_raster_is_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, TinyEncoder().spec)
    file = tmp_path / "model.safetensors"
    save_file(load_file(file) | {"base.log_weight": torch.zeros(100, 200)}, file)
    with pytest.raises(CheckpointError, match=r"base\.log_weight"):
        load(str(tmp_path))


def test_a_checkpoint_is_no_pickle_whatever_its_file_is(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, TinyEncoder().spec)
    torch.save({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError):
        load(str(tmp_path))


def test_a_checkpoint_names_no_address_to_fetch(tmp_path: Path) -> None:
    """Only what the user typed may be a URL; the encoder that a checkpoint names is a file."""
    spec = replace(TinyEncoder().spec, name="geoclip:http://127.0.0.1:9/model.safetensors")
    write_checkpoint(tmp_path, spec)
    with pytest.raises(EncoderWeightsError, match="no weight file"):
        Geotagger.load(str(tmp_path))


def test_kept_statistics_are_measured_again_if_they_are_odd(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "x.tar", [("a.json", truth()), ("a.npy", described())])
    files = embed_shards([str(shard)], TinyEncoder(), tmp_path)
    sound = Statistics.of(files)
    (kept,) = tmp_path.glob("statistics-*.npz")
    for array in ARRAYS.values():
        for packing in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            with zipfile.ZipFile(kept, "w", packing) as archive:
                for field in fields(Statistics):
                    archive.writestr(f"{field.name}.npy", array)
            assert Statistics.of(files).fingerprint == sound.fingerprint
