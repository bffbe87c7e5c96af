"""Photos in, geotags out: the same photo, key and seed always give the same answer."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from locdiffusion import geotagger
from locdiffusion.checkpoint import Checkpoint, CheckpointError
from locdiffusion.decoding.answers import GeotagColumns
from locdiffusion.decoding.decoder import Decoder
from locdiffusion.decoding.geotag import Geotag, geotags
from locdiffusion.density.base_measure import uniform_measure
from locdiffusion.geography.areas import AreaError
from locdiffusion.geotagger import Geotagger
from locdiffusion.settings import GeotaggerSettings, PosteriorMode
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, great_circle_km
from schemas.geotags import THRESHOLDS_KM
from support.tiny import (
    EMBEDDING_DIM,
    MODEL,
    SIDE,
    TinyEncoder,
    appearance_model,
    checkpoint_config,
    coloured_photo,
    random_denoiser,
    with_orientation,
    write_checkpoint,
)

pytestmark = pytest.mark.usefixtures("one_thread")

SAMPLES, STEPS = 4, 3
KEYS = [f"photo-{i}" for i in range(6)]


def tagger(**settings: Any) -> Geotagger:
    encoder = TinyEncoder()
    base = uniform_measure()
    loaded = Checkpoint(checkpoint_config(encoder.spec), random_denoiser(), base, "0" * 64)
    return Geotagger(loaded, encoder, GeotaggerSettings(**settings))


@pytest.fixture(scope="module")
def density(one_thread: None) -> Geotagger:
    return tagger()


@pytest.fixture(scope="module")
def sampling(one_thread: None) -> Geotagger:
    return tagger(mode="sampling", samples=SAMPLES, steps=STEPS)


def with_map(**settings: Any) -> Geotagger:
    """Knows what photos look like by place."""
    encoder, denoiser, base = TinyEncoder(), random_denoiser(), uniform_measure()
    config, appearance = checkpoint_config(encoder.spec), appearance_model(denoiser)
    loaded = Checkpoint(config, denoiser, base, "0" * 64, appearance)
    return Geotagger(loaded, encoder, GeotaggerSettings(**settings))


@pytest.fixture(scope="module", params=["density", "sampling"])
def mapped(request: pytest.FixtureRequest, one_thread: None) -> Geotagger:
    return with_map(mode=request.param, samples=SAMPLES, steps=STEPS)


@pytest.fixture(scope="module")
def embeddings() -> npt.NDArray[np.float32]:
    return np.random.default_rng(2).normal(size=(6, EMBEDDING_DIM)).astype(np.float32)


def photos(count: int) -> list[Image.Image]:
    generator = np.random.default_rng(5)
    return [
        Image.fromarray(generator.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8))
        for i in range(count)
    ]


def assert_same_rows(one: GeotagColumns, other: GeotagColumns) -> None:
    """Up to the rounding of a matrix product of another size: little of a radius."""
    apart = great_circle_km(one.latitude, one.longitude, other.latitude, other.longitude)
    assert np.max(apart / one.radius_50_km) < 1e-3
    np.testing.assert_allclose(one.radius_90_km, other.radius_90_km, rtol=1e-3)
    np.testing.assert_allclose(one.probability, other.probability, atol=1e-4)


def assert_same_answers(one: Sequence[Geotag], other: Sequence[Geotag]) -> None:
    """The same up to the same rounding."""
    assert [a.key for a in one] == [a.key for a in other]
    for a, b in zip(one, other, strict=True):
        assert great_circle_km(a.latitude, a.longitude, b.latitude, b.longitude) < 0.1
        assert a.radius_90_km == pytest.approx(b.radius_90_km, rel=1e-3)
        assert a.prob_2500km == pytest.approx(b.prob_2500km, abs=1e-4)


class TestAppearanceMap:
    """With embeddings every answer is that of density and map together."""

    def test_decode(self, mapped: Geotagger, embeddings: npt.NDArray[np.float32]) -> None:
        natural = mapped.sample(embeddings, KEYS)
        alone, fused = mapped.decode(natural), mapped.decode(natural, embeddings)
        assert np.all(np.abs(fused.information_nats - alone.information_nats) > 1e-3)
        for row in range(6):
            one = slice(row, row + 1)
            assert_same_rows(mapped.decode(natural[one], embeddings[one]), fused.take(one))

    def test_locate(self, mapped: Geotagger, embeddings: npt.NDArray[np.float32]) -> None:
        natural = mapped.sample(embeddings, KEYS)
        wanted = mapped.decode(natural, embeddings)
        latitude, longitude = mapped.locate(natural, embeddings)
        np.testing.assert_array_equal([latitude, longitude], [wanted.latitude, wanted.longitude])

    def test_density_on_circles(
        self, mapped: Geotagger, embeddings: npt.NDArray[np.float32]
    ) -> None:
        """A fine ring holds what the whole answer says of it."""
        natural = mapped.sample(embeddings, KEYS)
        answer = mapped.decode(natural, embeddings)
        edges = np.linspace(0.0, 180.0, 361)
        middle = (edges[1:] + edges[:-1]) / 2.0
        area = -2.0 * np.pi * EARTH_RADIUS_KM**2 * np.diff(np.cos(np.radians(edges)))
        for row in range(2):
            centre = float(answer.latitude[row]), float(answer.longitude[row])
            log_p = mapped.log_density_around(natural[row], centre, middle, 48, embeddings[row])
            held = (np.exp(log_p).mean(1) * area).cumsum()
            assert held[-1] == pytest.approx(1.0, abs=0.01)
            at = np.interp(answer.radius_50_km[row], np.radians(edges[1:]) * EARTH_RADIUS_KM, held)
            assert at == pytest.approx(0.5, abs=0.02)

    def test_regions(self, mapped: Geotagger, embeddings: npt.NDArray[np.float32]) -> None:
        """They hold what they say of the fused density."""
        natural = mapped.sample(embeddings, KEYS)
        alone, fused = mapped.regions(natural[:1]), mapped.regions(natural[:1], embeddings[:1])
        for one, other in zip(alone[0], fused[0], strict=True):
            assert one.area_km2 != other.area_km2
            assert other.probability == pytest.approx(other.level, abs=0.01)

    def test_a_prior_keeps_the_map(
        self, mapped: Geotagger, embeddings: npt.NDArray[np.float32]
    ) -> None:
        natural, other = mapped.sample(embeddings, KEYS), mapped.with_prior("land")
        alone, fused = other.decode(natural), other.decode(natural, embeddings)
        assert np.all(np.abs(fused.information_nats - alone.information_nats) > 1e-3)
        assert fused.land_probability.min() > 0.6


class TestDensity:
    def test_one_density_each_and_all_columns(
        self, density: Geotagger, embeddings: npt.NDArray[np.float32]
    ) -> None:
        natural = density.sample(embeddings, KEYS)
        assert natural.shape == (6, 1, MODEL.dimension) and natural.dtype == np.float32
        answer = density.decode(natural)
        assert len(answer) == 6 == len(answer.modes)
        for name in ("latitude", "longitude", "radius_50_km", "radius_90_km"):
            column = getattr(answer, name)
            assert column.shape == (6,) and column.dtype == np.float64
        assert answer.probability.shape == (6, len(THRESHOLDS_KM))
        assert np.all(answer.radius_50_km <= answer.radius_90_km)
        assert all(
            modes[0].latitude == lat
            for modes, lat in zip(answer.modes, answer.latitude, strict=True)
        )

    def test_places_alone_are_those_of_the_answers(
        self, density: Geotagger, embeddings: npt.NDArray[np.float32]
    ) -> None:
        natural = density.sample(embeddings, KEYS)
        whole = density.decode(natural)
        latitude, longitude = density.locate(natural)
        assert latitude.shape == longitude.shape == (6,) and latitude.dtype == np.float64
        apart = great_circle_km(latitude, longitude, whole.latitude, whole.longitude)
        assert np.median(apart) < 1.0

    def test_is_one_call_of_the_network_without_noise(
        self, density: Geotagger, embeddings: npt.NDArray[np.float32]
    ) -> None:
        x = torch.randn(6, MODEL.dimension)  # ignored where sigma is infinite
        denoiser = density.checkpoint.denoiser
        expected = denoiser(x, torch.full((6,), torch.inf), torch.from_numpy(embeddings))
        np.testing.assert_allclose(density.sample(embeddings, KEYS)[:, 0], expected, rtol=1e-5)

    def test_knows_no_keys(self, density: Geotagger, embeddings: npt.NDArray[np.float32]) -> None:
        assert np.array_equal(
            density.sample(embeddings, KEYS), density.sample(embeddings, ["a"] * 6)
        )

    def test_decodes_as_the_checkpoint_says(
        self, density: Geotagger, embeddings: npt.NDArray[np.float32]
    ) -> None:
        """Catches a ρ that was fitted, stored and then not used."""
        natural = density.sample(embeddings, KEYS)
        decode = density.checkpoint.config.decode
        expected = Decoder(MODEL.max_degree, decode)(torch.from_numpy(natural))
        assert_same_rows(density.decode(natural), expected)
        plain = Decoder(MODEL.max_degree)(torch.from_numpy(natural))
        assert not np.allclose(density.decode(natural).latitude, plain.latitude, rtol=1e-3)

    def test_is_tempered_as_the_checkpoint_says(
        self, density: Geotagger, embeddings: npt.NDArray[np.float32]
    ) -> None:
        """Catches temperatures that were fitted, stored and then not used."""
        denoiser, condition = density.checkpoint.denoiser, torch.from_numpy(embeddings)
        plain = denoiser.network.from_image(condition)
        temperature = denoiser.temperature(condition)
        assert (temperature - 1).abs().min() > 0.01
        expected = plain / temperature[:, None]
        np.testing.assert_allclose(density.sample(embeddings, KEYS)[:, 0], expected, rtol=1e-5)


class TestSampling:
    def test_k_densities_each(
        self, sampling: Geotagger, embeddings: npt.NDArray[np.float32]
    ) -> None:
        natural = sampling.sample(embeddings, KEYS)
        assert natural.shape == (6, SAMPLES, MODEL.dimension) and natural.dtype == np.float32
        assert np.all(np.isfinite(natural))
        assert len(np.unique(natural[0], axis=0)) == SAMPLES
        assert len(sampling.decode(natural)) == 6

    def test_the_same_again(self, sampling: Geotagger, embeddings: npt.NDArray[np.float32]) -> None:
        fresh = tagger(mode="sampling", samples=SAMPLES, steps=STEPS)
        assert np.array_equal(sampling.sample(embeddings, KEYS), fresh.sample(embeddings, KEYS))

    @pytest.mark.parametrize(
        "batches",
        [[[0], [1], [2], [3], [4], [5]], [[5, 0, 3], [1, 4, 2]], [[2, 2, 2], [0, 1, 3, 4, 5]]],
    )
    def test_whatever_the_batch_and_the_order(
        self,
        batches: Sequence[Sequence[int]],
        sampling: Geotagger,
        embeddings: npt.NDArray[np.float32],
    ) -> None:
        whole = sampling.sample(embeddings, KEYS)
        for rows in batches:
            part = sampling.sample(embeddings[rows], [KEYS[i] for i in rows])
            np.testing.assert_allclose(part, whole[rows], rtol=1e-3, atol=1e-3 * whole.std())
            one = sampling.decode(part)
            other = sampling.decode(whole[rows])
            assert_same_rows(one, other)

    def test_another_key_or_seed_is_another_draw(
        self, sampling: Geotagger, embeddings: npt.NDArray[np.float32]
    ) -> None:
        same = np.repeat(embeddings[:1], 2, axis=0)
        one, other = sampling.sample(same, ["a", "b"])
        assert not np.allclose(one, other, atol=1e-3)
        reseeded = tagger(mode="sampling", samples=SAMPLES, steps=STEPS, seed=1)
        assert not np.allclose(one, reseeded.sample(same, ["a", "b"])[0], atol=1e-3)

    def test_seed_and_key_are_not_run_together(self) -> None:
        """Seed 1 with key "2/a" must differ from seed 12 with key "a", and the like."""
        draws = {
            tagger(mode="sampling", samples=1, seed=seed)._noise(key, 3).tobytes()
            for seed, key in ((1, "2/a"), (12, "a"), (1, "2a"), (12, "/a"), (1, "a"))
        }
        assert len(draws) == 5

    def test_noise_is_standard_normal(self) -> None:
        """Mean and variance of n draws, each within 4 standard errors: 1/√n and √(2/n)."""
        noise = tagger(mode="sampling", samples=50)._noise("a", 400).astype(np.float64)
        count = noise.size
        assert abs(noise.mean()) < 4.0 / np.sqrt(count)
        assert abs(noise.var() - 1.0) < 4.0 * np.sqrt(2.0 / count)

    def test_more_samples_keep_the_first_ones(self, embeddings: npt.NDArray[np.float32]) -> None:
        few = tagger(mode="sampling", samples=2, steps=STEPS).sample(embeddings, KEYS)
        many = tagger(mode="sampling", samples=3, steps=STEPS).sample(embeddings, KEYS)
        np.testing.assert_allclose(many[:, :2], few, rtol=1e-3, atol=1e-3 * few.std())


class TestGeotag:
    @pytest.mark.parametrize("mode", list(PosteriorMode))
    def test_is_the_stages_in_a_row(self, mode: PosteriorMode) -> None:
        whole, images = tagger(mode=mode, samples=2, steps=2), photos(3)
        pixels = np.stack([whole.preprocess(image) for image in images])
        assert pixels.shape == (3, SIDE, SIDE, 3) and pixels.dtype == np.uint8
        embeddings = whole.embed(pixels)
        assert embeddings.shape == (3, EMBEDDING_DIM) and embeddings.dtype == np.float32
        staged = whole.decode(whole.sample(embeddings, ["0", "1", "2"]))
        assert_same_answers(whole.geotag(images), geotags(staged, "012", whole.model_id))

    @pytest.mark.parametrize("orientation", [3, 6, 8])
    def test_applies_the_orientation_of_the_camera(
        self, orientation: int, density: Geotagger
    ) -> None:
        upright = photos(1)[0]
        turns = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}
        turned = upright.transpose(turns.get(orientation, Image.Transpose.ROTATE_270))
        assert_same_answers(
            density.geotag([with_orientation(turned, orientation)]), density.geotag([upright])
        )
        [sideways], [right] = density.geotag([turned]), density.geotag([upright])
        assert abs(sideways.latitude - right.latitude) > 0.1

    @pytest.mark.parametrize("mode", list(PosteriorMode))
    def test_no_photos(self, mode: PosteriorMode) -> None:
        nothing = tagger(mode=mode, samples=2, steps=2)
        natural = nothing.sample(np.zeros((0, EMBEDDING_DIM), np.float32), [])
        assert natural.shape == (0, 1 if mode == "density" else 2, MODEL.dimension)
        answer = nothing.decode(natural)
        assert len(answer) == 0 and answer.modes == []
        assert answer.probability.shape == (0, len(THRESHOLDS_KM))
        assert answer.radius_50_km.shape == answer.information_nats.shape == (0,)
        assert nothing.geotag([]) == nothing.geotag([], regions=True) == []

    def test_arrays_that_may_not_be_written_to(
        self, density: Geotagger, embeddings: npt.NDArray[np.float32]
    ) -> None:
        """They come so out of Arrow and pickles; torch warns, and our warnings are errors."""
        frozen = embeddings.copy()
        frozen.flags.writeable = False
        natural = density.sample(frozen, KEYS)
        natural.flags.writeable = False
        assert len(density.decode(natural)) == 6

    def test_photos_of_any_mode(self, density: Geotagger) -> None:
        image = coloured_photo(10.0, 20.0)
        images = [image.convert(mode) for mode in ("L", "RGBA", "P", "CMYK", "1")]
        answers = density.geotag(images)
        assert len(answers) == 5 and all(np.isfinite(a.radius_90_km) for a in answers)


class TestRefusals:
    def test_keys_must_match(self, density: Geotagger, embeddings: npt.NDArray[np.float32]) -> None:
        with pytest.raises(ValueError, match="2 keys for 6 embeddings; want as many"):
            density.sample(embeddings, ["a", "b"])
        with pytest.raises(ValueError, match="1 keys for 2 embeddings"):
            density.geotag(photos(2), ["a"])

    @pytest.mark.parametrize("mode", ["median", "", "DENSITY"])
    def test_a_mode_that_is_unknown_lists_the_known(self, mode: str) -> None:
        with pytest.raises(ValueError, match=r"want one of \['density', 'sampling'\]") as caught:
            tagger(mode=mode)
        assert repr(mode) in str(caught.value)

    @pytest.mark.parametrize("settings", [{"samples": 0}, {"steps": 0}, {"samples": -1}], ids=str)
    def test_nothing_to_draw(self, settings: dict[str, int]) -> None:
        with pytest.raises(ValueError, match="want at least 1 of each"):
            tagger(mode="sampling", **settings)

    def test_natural_parameters_of_another_network(self, density: Geotagger) -> None:
        with pytest.raises(ValueError, match=r"want \(photos, samples, 64\)"):
            density.decode(np.zeros((2, 1, 9), np.float32))


class TestLoad:
    @pytest.fixture
    def saved(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setattr(geotagger, "load_image_encoder", lambda name, *_: TinyEncoder(name))
        return str(write_checkpoint(tmp_path / "checkpoint", TinyEncoder().spec))

    def test_brings_the_checkpoints_own_encoder(self, saved: str) -> None:
        loaded = Geotagger.load(saved, mode="sampling", samples=3, steps=2, seed=9)
        assert loaded.encoder_spec == TinyEncoder().spec
        assert loaded.settings == GeotaggerSettings(
            saved, mode="sampling", samples=3, steps=2, seed=9
        )
        assert loaded.model_id == f"tiny-{loaded.checkpoint_hash[:12]}"
        assert len(loaded.checkpoint_hash) == 64
        assert_same_answers(Geotagger.load(saved).geotag(photos(2)), with_map().geotag(photos(2)))

    def test_its_arguments_are_the_settings(self) -> None:
        taken = inspect.signature(Geotagger.load).parameters.values()
        wanted = [(field.name, field.default) for field in fields(GeotaggerSettings)]
        wanted.append(("embeds", True))
        assert [(argument.name, argument.default) for argument in taken] == wanted

    def test_naming_it_is_allowed_another_is_refused(self, saved: str) -> None:
        assert Geotagger.load(saved, encoder="tiny").encoder_spec.name == "tiny"
        with pytest.raises(
            CheckpointError, match=r"trained on embeddings of 'tiny', not of 'effic"
        ):
            Geotagger.load(saved, encoder="efficientnet_lite0")

    @pytest.mark.parametrize("change", [{"mean": (0.4, 0.5, 0.5)}, {"framing": "squash"}], ids=str)
    def test_the_same_name_that_preprocesses_differently_is_refused(
        self, change: dict[str, Any], saved: str, tmp_path: Path
    ) -> None:
        other = write_checkpoint(tmp_path / "other", replace(TinyEncoder().spec, **change))
        with pytest.raises(CheckpointError, match="tiny preprocesses differently") as caught:
            Geotagger.load(str(other))
        assert next(iter(change)) in str(caught.value)

    def test_weights_that_moved_to_another_file(self, tmp_path: Path, saved: str) -> None:
        spec = TinyEncoder("open_clip:Tiny/old/w.pt").spec
        moved = str(write_checkpoint(tmp_path / "moved", spec))
        loaded = Geotagger.load(moved, encoder="open_clip:Tiny/new/w.pt")
        assert loaded.encoder.spec.name == "open_clip:Tiny/new/w.pt"
        assert loaded.encoder_spec == spec, "still the checkpoint's encoder: the run is the same"

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="No checkpoint at"):
            Geotagger.load(str(tmp_path / "nothing"))


class TestImport:
    def test_loads_nothing_heavy(self) -> None:
        code = (
            "import sys, locdiffusion; dir(locdiffusion)\n"
            "heavy = {'torch', 'numpy', 'PIL', 'timm', 'open_clip', 'pyarrow'}\n"
            "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)

    def test_public_names_are_all_there(self) -> None:
        import locdiffusion

        for name in locdiffusion.__all__:
            assert getattr(locdiffusion, name).__name__ == name
        assert locdiffusion.Geotagger is Geotagger
        with pytest.raises(AttributeError, match=r"no attribute 'Nothing'; it has \['CSUNet'"):
            _ = locdiffusion.Nothing


class TestAnotherPrior:
    @pytest.fixture
    def saved(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setattr(geotagger, "load_image_encoder", lambda name, *_: TinyEncoder(name))
        return str(write_checkpoint(tmp_path / "checkpoint", TinyEncoder().spec))

    @pytest.mark.parametrize("mode", list(PosteriorMode))
    @pytest.mark.parametrize("prior", ["country:SE;47,9,80km", "land", "-20,130,20km"])
    def test_is_that_of_a_geotagger_loaded_with_it(
        self, saved: str, mode: PosteriorMode, prior: str
    ) -> None:
        settings: dict[str, Any] = {"mode": mode, "samples": SAMPLES, "steps": STEPS}
        whole = Geotagger.load(saved, prior=prior, **settings)
        one = Geotagger.load(saved, **settings).with_prior(prior)
        found, wanted = one.geotag(photos(3), regions=True), whole.geotag(photos(3), regions=True)
        assert found == wanted
        assert one.settings == whole.settings

    def test_is_kept_for_the_next_photo_and_goes_back(
        self, saved: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(geotagger, "PRIORS_HELD", 2)
        swedish = Geotagger.load(saved, prior="country:SE")
        assert swedish.with_prior(None) is swedish
        own = swedish.with_prior("checkpoint")
        assert own.geotag(photos(2)) == Geotagger.load(saved).geotag(photos(2))
        assert swedish.with_prior("checkpoint") is own
        assert own.encoder is swedish.encoder
        for name in ("land", "uniform"):
            swedish.with_prior(name)
        assert swedish.with_prior("checkpoint") is not own

    def test_is_the_same_where_no_encoder_is_loaded(self, saved: str) -> None:
        embeddings = np.random.default_rng(0).normal(size=(3, EMBEDDING_DIM)).astype(np.float32)
        loaded = [Geotagger.load(saved, prior="country:SE", embeds=one) for one in (True, False)]
        for prior in (None, "checkpoint", "land"):
            found = []
            for one in (tagger.with_prior(prior) for tagger in loaded):
                found.append(one.decode(one.sample(embeddings, KEYS[:3])).numbers())
            for name, column in found[0].items():
                np.testing.assert_array_equal(column, found[1][name])

    def test_that_is_none_is_refused(self, saved: str, density: Geotagger) -> None:
        with pytest.raises(AreaError, match="no country"):
            density.with_prior("country:NORWAY")
        with pytest.raises(AreaError, match="no disc"):
            Geotagger.load(saved, prior="1,2,3")
