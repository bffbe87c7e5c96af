"""One encoder has many names: a checkpoint decides the activation, or refuses the weights."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from locdiffusion import checkpoint
from locdiffusion.geotagger import Geotagger
from locdiffusion.model.activation import activation_of_file
from locdiffusion.model.fingerprint import LEAST_COSINE, cosine, fingerprint, picture
from locdiffusion.model.image_encoder import encoder_spec, load_image_encoder
from locdiffusion.model.preprocessing import Activation
from locdiffusion.model.weights import EncoderWeightsError, architecture
from support.tiny import EMBEDDING_DIM, TinyEncoder, checkpoint_config, random_denoiser

MODEL = "LocDiffusion-Identity"
CONFIG = {
    "embed_dim": EMBEDDING_DIM,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1},
}
QUICK, PLAIN = Activation.QUICK_GELU, Activation.GELU


def clip(seed: int = 0, quick: bool = False) -> Any:
    """The tiny model, with activations as far from zero as those of trained ones."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = open_clip.create_model(MODEL, force_quick_gelu=quick).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "c_fc.weight" in name:
                    parameter.mul_(3.0)
    return model


@pytest.fixture(scope="module", autouse=True)
def models(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("configs")
    for name, more in ((MODEL, {}), (f"{MODEL}-quickgelu", {"quick_gelu": True})):
        (folder / f"{name}.json").write_text(json.dumps({**CONFIG, **more}))
        open_clip.add_model_config(folder / f"{name}.json")


@pytest.fixture(autouse=True)
def tags(monkeypatch: pytest.MonkeyPatch) -> None:
    """As ViT-L-14's: one tag is OpenAI's, the tags disagree about activation and preprocessing."""
    made = {"openai": {"quick_gelu": True, "resize_mode": "squash"}, "laion": {"mean": (0.5,) * 3}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, MODEL, made)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_file(clip().state_dict(), tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def written(folder: Path, name: str, file: Path, activation: Activation, **changes: Any) -> str:
    """A checkpoint that was trained on the file's weights with an activation."""
    spec = replace(encoder_spec(name), activation=activation)
    encoder = load_image_encoder(f"open_clip:{MODEL}/{file}", wanted=spec)
    assert encoder.activation is activation
    config = replace(checkpoint_config(spec), fingerprint=encoder.fingerprint)
    checkpoint.save(folder, replace(config, **changes), random_denoiser())
    return str(folder)


def rewritten(folder: str, **encoder: Any) -> None:
    path = Path(folder, checkpoint.CONFIG)
    values = json.loads(path.read_text())
    values["encoder"] |= encoder
    path.write_text(json.dumps(values))


class TestNames:
    @pytest.mark.parametrize("suffix", ["", "-quickgelu"])
    def test_a_checkpoint_of_openais_tag_runs_quickgelu_from_a_file(
        self, suffix: str, file: Path, tmp_path: Path
    ) -> None:
        """Against open_clip's own model; the MP-16 recipe names the tag, its workers a file."""
        made = written(tmp_path / "c", f"open_clip:{MODEL}/openai", file, QUICK)
        name = f"open_clip:{MODEL}{suffix}/{file}"
        tagger = Geotagger.load(made, encoder=name)
        assert tagger.encoder.activation is QUICK
        assert tagger.encoder.spec == replace(tagger.encoder_spec, name=name)
        assert tagger.encoder.spec.framing.value == "squash"
        pixels = picture(32)[None]
        spec = tagger.encoder_spec
        images = (torch.from_numpy(pixels) / 255.0 - torch.tensor(spec.mean)) / torch.tensor(
            spec.std
        )
        with torch.inference_mode():
            theirs = [
                clip(quick=quick).encode_image(images.permute(0, 3, 1, 2), normalize=True).numpy()
                for quick in (True, False)
            ]
        np.testing.assert_allclose(tagger.embed(pixels), theirs[0], atol=1e-5)
        assert np.abs(tagger.embed(pixels) - theirs[1]).max() > 1e-3, "GELU is another encoder"

    @pytest.mark.parametrize("suffix", ["", "-quickgelu"])
    def test_a_checkpoint_of_plain_gelu_runs_it_whatever_the_name(
        self, suffix: str, file: Path, tmp_path: Path
    ) -> None:
        made = written(tmp_path / "c", f"open_clip:{MODEL}/laion", file, PLAIN)
        tagger = Geotagger.load(made, encoder=f"open_clip:{MODEL}{suffix}/{file}")
        assert tagger.encoder.activation is PLAIN
        assert tagger.encoder.spec.mean == (0.5, 0.5, 0.5)

    @pytest.mark.parametrize(
        ("own", "activation"),
        [("/openai", QUICK), ("/laion", PLAIN), ("/FILE", PLAIN), ("-quickgelu/FILE", QUICK)],
    )
    def test_a_checkpoint_of_version_0_4_runs_what_it_ran(
        self, own: str, activation: Activation, file: Path, tmp_path: Path
    ) -> None:
        """It tells no activation and has no fingerprint; a file's was that of the model."""
        name = f"open_clip:{MODEL}{own.replace('FILE', str(file))}"
        made = written(tmp_path / "c", name, file, activation, fingerprint="")
        path = Path(made, checkpoint.CONFIG)
        values = json.loads(path.read_text())
        del values["encoder"]["activation"], values["fingerprint"]
        path.write_text(json.dumps(values))
        moved = tmp_path / "elsewhere.safetensors"
        moved.write_bytes(file.read_bytes())
        for suffix in ("", "-quickgelu"):
            tagger = Geotagger.load(made, encoder=f"open_clip:{MODEL}{suffix}/{moved}")
            assert tagger.encoder.activation is activation

    def test_of_another_architecture_is_refused(self, file: Path, tmp_path: Path) -> None:
        made = written(tmp_path / "c", f"open_clip:{MODEL}/openai", file, QUICK)
        with pytest.raises(checkpoint.CheckpointError, match="was trained on embeddings of"):
            Geotagger.load(made, encoder=f"open_clip:ViT-B-32/{file}")
        assert architecture("open_clip:ViT-L-14-quickgelu/w.pt") == "open_clip:ViT-L-14"


class TestFingerprint:
    @pytest.mark.parametrize("activation", [QUICK, PLAIN])
    def test_refuses_the_other_activation_and_names_the_right_one(
        self, activation: Activation, file: Path, tmp_path: Path
    ) -> None:
        made = written(tmp_path / "c", f"open_clip:{MODEL}/openai", file, activation)
        other = PLAIN if activation is QUICK else QUICK
        rewritten(made, activation=other.value)
        with pytest.raises(EncoderWeightsError) as caught:
            Geotagger.load(made, encoder=f"open_clip:{MODEL}/{file}")
        said = str(caught.value)
        assert str(file) in said and f'restore "activation": "{activation.value}"' in said
        assert f"1.000000 with the activation {activation.value} in place of {other.value}" in said

    def test_refuses_other_weights(self, file: Path, tmp_path: Path) -> None:
        made = written(tmp_path / "c", f"open_clip:{MODEL}/openai", file, QUICK)
        others = tmp_path / "others.safetensors"
        save_file(clip(seed=1).state_dict(), others)
        with pytest.raises(EncoderWeightsError, match=r"others\.safetensors .*other weights"):
            Geotagger.load(made, encoder=f"open_clip:{MODEL}/{others}")

    def test_refuses_a_slightly_trained_copy(self, file: Path, tmp_path: Path) -> None:
        made = written(tmp_path / "c", f"open_clip:{MODEL}/openai", file, QUICK)
        tuned = clip()
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(2)
            for parameter in tuned.parameters():
                parameter.add_(0.3 * parameter.std(correction=0) * torch.randn_like(parameter))
        save_file(tuned.state_dict(), tmp_path / "tuned.safetensors")
        with pytest.raises(EncoderWeightsError, match="fine-tuned copy"):
            Geotagger.load(made, encoder=f"open_clip:{MODEL}/{tmp_path / 'tuned.safetensors'}")

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_passes_weights_of_half_precision(
        self, dtype: torch.dtype, file: Path, tmp_path: Path
    ) -> None:
        made = written(tmp_path / "c", f"open_clip:{MODEL}/openai", file, QUICK)
        half = {name: tensor.to(dtype) for name, tensor in clip().state_dict().items()}
        save_file(half, tmp_path / "half.safetensors")
        Geotagger.load(made, encoder=f"open_clip:{MODEL}/{tmp_path / 'half.safetensors'}")

    def test_separates_what_is_equal_from_what_is_not(self, file: Path) -> None:
        """The activation is found by comparison, since bfloat16 may differ as much as it does."""
        encoder = load_image_encoder(f"open_clip:{MODEL}/{file}")
        assert cosine(encoder.fingerprint, encoder.fingerprint) == pytest.approx(1.0, abs=1e-12)
        exact = encoder.fingerprint
        with torch.autocast("cpu", torch.bfloat16):
            assert LEAST_COSINE < cosine(fingerprint(encoder), exact) < 1.0
        encoder.set_activation(QUICK)
        assert cosine(fingerprint(encoder), exact) < 1.0 - 1e-5
        encoder.set_activation(PLAIN)
        assert fingerprint(encoder) == exact

    def test_picture_is_the_same_everywhere(self) -> None:
        pixels = picture(224)
        assert pixels.dtype == np.uint8 and pixels.shape == (224, 224, 3)
        assert pixels[0, 0].tolist() == [0, 0, 0] and pixels[-1, -1].tolist() == [254, 254, 0]
        assert pixels[100, 30].tolist() == [34, 114, 0] and pixels[28, 0].tolist() == [0, 32, 255]
        assert picture(1).tolist() == [[[0, 0, 0]]]

    @pytest.mark.parametrize("text", ["AAAA", "no base64!", "AAB8" * 8])
    def test_a_damaged_one_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="the fingerprint"):
            replace(checkpoint_config(TinyEncoder().spec), fingerprint=text)


class TestToldByTheFile:
    """Without a checkpoint, in training."""

    def test_openais_sizes(self, tmp_path: Path) -> None:
        sizes = dict.fromkeys(("input_resolution", "context_length", "vocab_size"))
        tensors = clip().state_dict() | {name: torch.tensor([32]) for name in sizes}
        save_file(tensors, tmp_path / "openai.safetensors")
        name = f"open_clip:{MODEL}/{tmp_path / 'openai.safetensors'}"
        assert encoder_spec(name).activation is QUICK
        encoder = load_image_encoder(name)
        assert encoder.spec == encoder_spec(name) and encoder.activation is QUICK

    @pytest.mark.parametrize(
        ("config", "told"),
        [
            ({"model_cfg": {"quick_gelu": True}}, QUICK),
            ({"model_cfg": {}}, PLAIN),
            ({"model_cfg": 3}, None),
            ([], None),
            (None, None),
        ],
    )
    def test_open_clips_configuration_beside_it(
        self, config: Any, told: Activation | None, file: Path
    ) -> None:
        if config is not None:
            file.with_name("open_clip_config.json").write_text(json.dumps(config))
        assert activation_of_file(file) is told
        assert encoder_spec(f"open_clip:{MODEL}/{file}").activation is (told or PLAIN)

    @pytest.mark.parametrize(
        ("config", "told"),
        [
            ({"vision_config": {"hidden_act": "quick_gelu"}}, QUICK),
            ({"vision_config": {}}, QUICK),
            ({"vision_config": {"hidden_act": "gelu"}}, PLAIN),
            ({"vision_config": {"hidden_act": ["gelu"]}}, None),
            ({"encoder": {}}, None),
        ],
    )
    def test_transformers_configuration_beside_it(
        self, config: Any, told: Activation | None, tmp_path: Path
    ) -> None:
        save_file({"vision_model.pre_layrnorm.bias": torch.zeros(2)}, tmp_path / "w.safetensors")
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert activation_of_file(tmp_path / "w.safetensors") is told

    def test_a_contradiction_is_refused(self, file: Path) -> None:
        file.with_name("open_clip_config.json").write_text('{"model_cfg": {}}')
        with pytest.raises(ValueError, match=r"says quick_gelu and the file says gelu; name .*-Id"):
            encoder_spec(f"open_clip:{MODEL}-quickgelu/{file}")

    def test_nothing_is_told_by_a_damaged_file(self, tmp_path: Path) -> None:
        (tmp_path / "w.safetensors").write_bytes(b"no weights")
        assert activation_of_file(tmp_path / "w.safetensors") is None
        assert activation_of_file(tmp_path / "none.pt") is None


def test_models_that_timm_builds_keep_their_activation(file: Path) -> None:
    """`quick_gelu` of such a model is that of its text tower."""
    tower = copy.deepcopy(open_clip.get_model_config("ViT-B-16-SigLIP2"))
    assert "timm_model_name" in tower["vision_cfg"]
    assert encoder_spec("open_clip:MobileCLIP2-S0/dfndr2b").activation is PLAIN
    assert encoder_spec("open_clip:ViT-L-14/openai").activation is QUICK
    assert encoder_spec("open_clip:ViT-L-14/laion2b_s32b_b82k").activation is PLAIN
    assert encoder_spec("open_clip:ViT-H-14/dfn5b").activation is QUICK
    assert encoder_spec("open_clip:RN50/openai").activation is None
