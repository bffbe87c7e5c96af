"""A checkpoint gives back the same network, and anything else says what is wrong with it."""

from __future__ import annotations

import ast
import json
import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import locdiffusion
from locdiffusion import checkpoint, model_card
from locdiffusion.checkpoint import CONFIG, WEIGHTS, CheckpointConfig, CheckpointError
from locdiffusion.config import to_dict
from locdiffusion.diffusion.schedules import NoiseConfig
from locdiffusion.model.cs_unet import CSUNetConfig
from support import SEED
from support.tiny import (
    MODEL,
    TinyEncoder,
    appearance_model,
    checkpoint_config,
    random_denoiser,
    random_network,
)

SPEC = TinyEncoder().spec


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint") / "sound"
    checkpoint.save(directory, checkpoint_config(SPEC), random_denoiser())
    return directory


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "copy"))


def edit_config(directory: Path, **changes: Any) -> None:
    values = json.loads((directory / CONFIG).read_text())
    (directory / CONFIG).write_text(json.dumps(values | changes))


def test_same_configuration_and_same_outputs(sound: Path) -> None:
    loaded = checkpoint.load(str(sound))
    assert loaded.config == checkpoint_config(SPEC) == checkpoint.read_config(str(sound))
    denoiser = random_denoiser()
    drawn = torch.Generator().manual_seed(SEED)
    x, condition = (
        torch.randn(3, size, generator=drawn) for size in (MODEL.dimension, MODEL.embedding_dim)
    )
    sigma = torch.tensor([2.0, 9.0, torch.inf])
    assert torch.equal(loaded.denoiser(x, sigma, condition), denoiser(x, sigma, condition))
    assert torch.equal(loaded.denoiser.temperature(condition), denoiser.temperature(condition))
    assert len(set(denoiser.temperature(condition).tolist())) == 3


def test_half_precision_is_all_that_storing_costs() -> None:
    network = random_network().eval()
    stored = checkpoint.as_stored(network)
    for (name, one), other in zip(
        network.state_dict().items(), stored.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=2**-11, atol=1e-7, msg=name)
    again = checkpoint.as_stored(stored).state_dict().values()
    for one, other in zip(stored.state_dict().values(), again, strict=True):
        assert torch.equal(one, other)


def test_a_loaded_network_is_frozen(sound: Path) -> None:
    network = checkpoint.load(str(sound)).network
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_what_training_measured_on_the_embeddings_is_stored(tmp_path: Path) -> None:
    denoiser = random_denoiser()
    network = denoiser.network
    network.standardise(torch.randn(50, MODEL.embedding_dim) * 7 + 3)
    checkpoint.save(tmp_path, checkpoint_config(SPEC), denoiser)
    loaded = checkpoint.load(str(tmp_path)).network
    assert torch.equal(loaded.embedding_mean, network.embedding_mean.half().float())
    assert torch.equal(loaded.embedding_std, network.embedding_std.half().float())


def test_same_content_same_bytes_and_same_id(sound: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    checkpoint.save(again, checkpoint_config(SPEC), random_denoiser())
    for name in (WEIGHTS, CONFIG):
        assert (again / name).read_bytes() == (sound / name).read_bytes()
    loaded = checkpoint.load(str(again))
    assert loaded.sha256 == checkpoint.load(str(sound)).sha256
    assert loaded.model_id == f"tiny-{loaded.sha256[:12]}"


def test_hash_changes_with_any_weight_and_any_setting(sound: Path, copy: Path) -> None:
    seen = {checkpoint.load(str(sound)).sha256}
    weights = load_file(copy / WEIGHTS)
    weights["bottom.linear.bias"][0] += 1e-2
    save_file(weights, copy / WEIGHTS)
    seen.add(checkpoint.load(str(copy)).sha256)
    edit_config(copy, record={"seed": 1})
    seen.add(checkpoint.load(str(copy)).sha256)
    (copy / CONFIG).write_bytes((copy / CONFIG).read_bytes() + b"\n")
    seen.add(checkpoint.load(str(copy)).sha256)
    assert len(seen) == 4


class TestWhereItIs:
    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"No checkpoint at .*nowhere.*shipped ones"):
            checkpoint.load(str(tmp_path / "nowhere"))

    @pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
    def test_a_file_is_missing(self, copy: Path, name: str) -> None:
        (copy / name).unlink()
        with pytest.raises(CheckpointError, match=rf": {name} not found there. Want a directory"):
            checkpoint.load(str(copy))

    def test_shipped_ones_by_name(
        self, sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A folder that happens to be called like a shipped checkpoint does not hide it."""
        shutil.copytree(sound, tmp_path / "shipped" / "overhead")
        shutil.copytree(sound, tmp_path / "shipped" / "other")
        monkeypatch.setattr(checkpoint, "SHIPPED", tmp_path / "shipped")
        monkeypatch.chdir(tmp_path)
        (tmp_path / "overhead").mkdir()
        assert checkpoint.resolve(None) == tmp_path / "shipped" / "overhead"
        assert checkpoint.resolve("overhead") == tmp_path / "shipped" / "overhead"
        with pytest.raises(CheckpointError, match=r"shipped ones: \['other', 'overhead'\]"):
            checkpoint.resolve("another")
        shutil.copytree(sound, tmp_path / "other")
        assert checkpoint.resolve("other") == Path("other")  # a checkpoint of one's own does

    def test_half_of_one_is_not_taken_for_a_shipped_one(
        self, sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.copytree(sound, tmp_path / "shipped" / "overhead")
        monkeypatch.setattr(checkpoint, "SHIPPED", tmp_path / "shipped")
        monkeypatch.chdir(tmp_path)
        shutil.copytree(sound, tmp_path / "overhead")
        (tmp_path / "overhead" / CONFIG).unlink()
        with pytest.raises(CheckpointError, match=CONFIG):
            checkpoint.resolve("overhead")


class TestDamage:
    @pytest.mark.parametrize("kept", [0, 5, 700, -1])
    def test_truncated_weights(self, copy: Path, kept: int) -> None:
        data = (copy / WEIGHTS).read_bytes()
        (copy / WEIGHTS).write_bytes(data[:kept])
        with pytest.raises(CheckpointError, match=f"{WEIGHTS} does not hold the weights"):
            checkpoint.load(str(copy))

    def test_weights_of_another_size(self, copy: Path) -> None:
        edit_config(copy, model=to_dict(replace(MODEL, max_degree=6)))
        with pytest.raises(CheckpointError, match=r"does not hold.*size mismatch.*copy both file"):
            checkpoint.load(str(copy))

    def test_a_tensor_is_missing(self, copy: Path) -> None:
        weights = load_file(copy / WEIGHTS)
        del weights["bottom.linear.bias"]
        save_file(weights, copy / WEIGHTS)
        with pytest.raises(CheckpointError, match=r"does not hold.*bottom\.linear\.bias"):
            checkpoint.load(str(copy))

    @pytest.mark.parametrize(
        "document", [b"", b"{", b"[1, 2]", b"null", b'{"hello": "world"}', b"\xff\xfe", b"[[[" * 99]
    )
    def test_json_of_something_else(self, copy: Path, document: bytes) -> None:
        (copy / CONFIG).write_bytes(document)
        with pytest.raises(CheckpointError, match="is not a checkpoint's configuration"):
            checkpoint.load(str(copy))

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"model": {"max_degree": "7"}}, "model.max_degree is '7'"),
            ({"decode": {"radius_km": 0}}, "decode: radius_km is 0"),
            ({"encoder": {"name": "x"}}, "encoder.embedding_dim is missing"),
        ],
    )
    def test_settings_that_make_no_sense(
        self, copy: Path, changes: dict[str, Any], said: str
    ) -> None:
        edit_config(copy, **changes)
        with pytest.raises(CheckpointError, match=said):
            checkpoint.read_config(str(copy))

    def test_a_newer_format_says_so_though_it_has_unknown_settings(self, copy: Path) -> None:
        edit_config(copy, format=4, novelty=True)
        with pytest.raises(CheckpointError, match=r"format 4; this version reads 2 to 3\. Use the"):
            checkpoint.load(str(copy))

    def test_a_network_for_other_embeddings_than_its_encoder_gives(self) -> None:
        with pytest.raises(CheckpointError, match="takes 5-d embeddings but the encoder tiny giv"):
            replace(checkpoint_config(SPEC), model=CSUNetConfig(7, 5, 8, (8,)))

    def test_a_record_may_hold_what_is_no_number(self, copy: Path) -> None:
        config = replace(checkpoint_config(SPEC), record={"loss": float("nan")})
        checkpoint.save(copy, config, random_denoiser(1))
        assert np.isnan(checkpoint.load(str(copy)).config.record["loss"])

    def test_a_record_that_cannot_be_written_spoils_nothing(self, copy: Path) -> None:
        before = checkpoint.load(str(copy)).sha256
        with pytest.raises(TypeError):
            config = replace(checkpoint_config(SPEC), record={"loss": object()})
            checkpoint.save(copy, config, random_denoiser(1))
        assert checkpoint.load(str(copy)).sha256 == before

    def test_half_written_is_not_readable(
        self, copy: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Stopped between the two files, an old configuration must not meet new weights."""

        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(checkpoint.os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(copy, checkpoint_config(SPEC), random_denoiser(1))
        with pytest.raises(CheckpointError, match=CONFIG):
            checkpoint.load(str(copy))


class TestAppearance:
    """Nothing of a stranger's map is built before its sizes are those that they must be."""

    @pytest.fixture(scope="class")
    def mapped(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        directory, denoiser = tmp_path_factory.mktemp("mapped"), random_denoiser()
        checkpoint.save(
            directory, checkpoint_config(SPEC), denoiser, appearance=appearance_model(denoiser)
        )
        return directory

    @pytest.fixture
    def copy(self, mapped: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(mapped, tmp_path / "copy"))

    def test_the_same_map_and_the_same_likelihood(self, mapped: Path) -> None:
        loaded = checkpoint.load(str(mapped))
        assert loaded.config.format == 3 and loaded.appearance is not None
        wanted = appearance_model(random_denoiser()).tensors()
        found = loaded.appearance.tensors()
        assert found.keys() == wanted.keys()
        for name, tensor in wanted.items():
            assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name

    def test_without_a_map_the_files_are_as_they_were(self, sound: Path) -> None:
        assert checkpoint.read_config(str(sound)).format == 2
        assert checkpoint.load(str(sound)).appearance is None

    def test_an_older_version_refuses_it(self, copy: Path) -> None:
        """It would answer without the map: version 3 alone may hold one."""
        edit_config(copy, format=2)
        with pytest.raises(CheckpointError, match=r"format 2 with .* tensors of an appearance map"):
            checkpoint.load(str(copy))

    @pytest.mark.parametrize(
        ("name", "changed", "said"),
        [
            ("values", lambda t: t[:, :3].contiguous(), "values has shape .*, wanted"),
            ("values", lambda t: t.float(), "values has type float32"),
            ("scale", lambda t: t * torch.nan, "scale must hold finite"),
            ("scale", lambda t: -t, "scale must hold finite numbers above 0"),
            ("scale", lambda t: t[:0], "wanted"),
            ("log_variance", lambda t: t[1:], "log_variance has shape"),
            ("held", lambda t: t[:-1], "held has shape"),
            ("held", lambda t: t & 0, "values has shape"),
            ("cell_km", lambda t: t * 1e-6, "cell_km is"),
            ("cell_km", lambda t: t * torch.nan, "cell_km is"),
            ("likelihood.floor", lambda t: t * torch.inf, "no finite numbers"),
            ("likelihood.gates.weight", lambda t: t[:, :1].contiguous(), "size mismatch"),
            ("likelihood.feature_spread", lambda t: t * 0, "must be positive"),
        ],
    )
    def test_a_strangers_map(self, copy: Path, name: str, changed: Any, said: str) -> None:
        weights = load_file(copy / WEIGHTS)
        weights["appearance." + name] = changed(weights["appearance." + name])
        save_file(weights, copy / WEIGHTS)
        with pytest.raises(CheckpointError, match=f"does not hold the weights.*{said}"):
            checkpoint.load(str(copy))

    @pytest.mark.parametrize("name", ["scale", "likelihood.floor"])
    def test_a_tensor_is_missing(self, copy: Path, name: str) -> None:
        weights = load_file(copy / WEIGHTS)
        del weights["appearance." + name]
        save_file(weights, copy / WEIGHTS)
        with pytest.raises(CheckpointError, match=r"does not hold"):
            checkpoint.load(str(copy))

    def test_a_map_of_other_discriminants(self, copy: Path) -> None:
        weights = load_file(copy / WEIGHTS)
        for name in ("values", "scale"):
            few = weights["appearance." + name][..., :3]
            weights["appearance." + name] = few.contiguous()
        save_file(weights, copy / WEIGHTS)
        with pytest.raises(CheckpointError, match="has 3 discriminants, wanted 4"):
            checkpoint.load(str(copy))


class TestNoPickle:
    def test_a_pickle_is_refused_unopened(self, copy: Path, tmp_path: Path) -> None:
        class Trap:
            def __reduce__(self) -> Any:
                return (Path.touch, (tmp_path / "sprung",))

        (copy / WEIGHTS).write_bytes(pickle.dumps(Trap()))
        with pytest.raises(CheckpointError):
            checkpoint.load(str(copy))
        torch.save({"w": torch.zeros(3)}, copy / WEIGHTS)
        with pytest.raises(CheckpointError):
            checkpoint.load(str(copy))
        assert not (tmp_path / "sprung").exists()

    def test_the_package_unpickles_nothing(self) -> None:
        """`torch.load` only with weights_only, and no pickle, shelve or joblib at all.

        But a child process unpickles the function that its parent, which is trusted, sends.
        """
        package = Path(locdiffusion.__file__).parent
        for file in {*package.rglob("*.py")} - {package / "isolation" / "__init__.py"}:
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
                assert not {"pickle", "shelve", "joblib", "dill", "cloudpickle"} & set(names), file
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                    given = {k.arg: ast.unparse(k.value) for k in node.keywords}
                    assert given.get("weights_only") == "True", file


class TestEncoder:
    def config(self, name: str) -> CheckpointConfig:
        return replace(checkpoint_config(SPEC), encoder=replace(SPEC, name=name))

    def test_its_own_is_the_default(self) -> None:
        assert checkpoint.check_encoder(self.config("efficientnet_lite0"), None) == (
            "efficientnet_lite0"
        )

    @pytest.mark.parametrize(
        ("own", "given"),
        [
            ("efficientnet_lite0", "efficientnet_lite0"),
            ("open_clip:ViT-B-32/old/w.pt", "open_clip:ViT-B-32/new/w.pt"),
            ("open_clip:ViT-B-32/openai", "open_clip:ViT-B-32/w.safetensors"),
            ("geoclip", "geoclip:weights/clip.safetensors"),
            ("geoclip:old/clip.bin", "geoclip"),
        ],
    )
    def test_the_same_in_other_words(self, own: str, given: str) -> None:
        assert checkpoint.check_encoder(self.config(own), given) == given

    @pytest.mark.parametrize(
        ("own", "given"),
        [
            ("efficientnet_lite0", "open_clip:ViT-B-32/openai"),
            ("open_clip:ViT-B-32/openai", "efficientnet_lite0"),
            ("open_clip:ViT-B-32/openai", "open_clip:ViT-L-14/openai"),
            ("open_clip:ViT-B-32/openai", "open_clip:ViT-L-14/w.pt"),
            ("open_clip:ViT-B-32/openai", "open_clip:ViT-B-32/laion2b_s34b_b79k"),
            ("open_clip:ViT-B-32/w.pt", "open_clip:ViT-B-32/openai"),
            ("geoclip", "open_clip:ViT-L-14/w.safetensors"),
            ("open_clip:ViT-L-14/openai", "geoclip:w.safetensors"),
        ],
    )
    def test_another_is_refused_with_the_remedy(self, own: str, given: str) -> None:
        with pytest.raises(CheckpointError) as caught:
            checkpoint.check_encoder(self.config(own), given)
        said = str(caught.value)
        assert own in said and given in said and "Leave --encoder out" in said


def test_noise_travels_too(tmp_path: Path) -> None:
    noise = NoiseConfig(sigma_min=1.0, sigma_max=33.0)
    checkpoint.save(tmp_path, replace(checkpoint_config(SPEC), noise=noise), random_denoiser())
    assert checkpoint.load(str(tmp_path)).config.noise == noise


def test_the_shipped_card_is_what_the_run_recorded() -> None:
    directory = checkpoint.SHIPPED / checkpoint.DEFAULT
    about = (directory / "ABOUT.md").read_text("utf-8")
    rendered = model_card.render(checkpoint.read_config(None), about)
    assert (directory / model_card.CARD).read_text("utf-8") == rendered
    for row in re.findall(r"\| ([0-9. /]+) \| [0-9. /]+ \| -", rendered):
        within = [float(share) for share in row.split(" / ")]
        assert len(within) == 5 and within == sorted(within), "thresholds are in order of distance"
    assert (directory / checkpoint.WEIGHTS).stat().st_size <= 25_000_000


@pytest.mark.parametrize("name", ["geoclip-distilled", "overhead"])
def test_cards_of_shipped_checkpoints_say_what_the_checkpoint_says(name: str) -> None:
    """Nobody edits a card, or forgets it: it is made of ABOUT.md and the configuration."""
    directory = checkpoint.SHIPPED / name
    about = (directory / "ABOUT.md").read_text("utf-8")
    card = (directory / model_card.CARD).read_text("utf-8")
    assert card == model_card.render(checkpoint.read_config(name), about)
