"""`python -m locdiffusion.calibrate`: radii that fit an archive, from those of its photos."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from locdiffusion import checkpoint, geotagger
from locdiffusion.calibrate import command as calibrate
from locdiffusion.evaluate.metrics import coverage
from locdiffusion.inference import predict
from locdiffusion.model.image_encoder import load_image_encoder
from locdiffusion.overhead.command import main as cut
from locdiffusion.photos.embedding_cache import load_photos
from locdiffusion.photos.labelled_samples import read_images
from locdiffusion.photos.listing import list_shards
from locdiffusion.sphere.geodesy import great_circle_km, latitude_longitude
from support.archives import encode, write_tar
from support.tiny import (
    SIDE,
    TinyEncoder,
    random_points,
    replace_encoders,
    write_checkpoint,
    write_coloured_shard,
)


def test_too_few_photos_and_other_mistakes_are_told(tmp_path, capsys):
    shard = write_coloured_shard(tmp_path / "few.tar", 3, seed=0)
    output = ["--output", str(tmp_path / "new")]
    assert calibrate.main(["--input", str(shard), *output]) == 2
    assert "3 of these photos have a known position; want at least 50" in capsys.readouterr().err
    nothing = ["--predictions", str(tmp_path)]
    assert calibrate.main(["--input", str(shard), *nothing, *output]) == 2
    assert "give the output of `locdiffusion geotag`" in capsys.readouterr().err
    assert calibrate.main(["--input", str(tmp_path / "no.tar"), *output]) == 2


def test_positions_of_predictions_prefer_the_truth(tmp_path, capsys):
    """Shards may share keys, and what an earlier run wrote is no position."""
    (tmp_path / "predictions").mkdir()
    table = {
        "key": ["a", "b", "c", "a", "d"],
        "shard": ["one", "one", "one", "two", "two"],
        "truth_latitude": [1.0, None, None, 5.0, None],
        "truth_longitude": [2.0, None, None, 6.0, None],
        "exif_latitude": [9.0, 3.0, None, None, None],
        "exif_longitude": [9.0, 4.0, None, None, None],
    }
    pq.write_table(pa.table(table), tmp_path / "predictions" / "part-old.parquet")
    table["shard"] = ["three"] * 5
    table["exif_source"] = ["exif", "exif", "estimate", None, "estimate"]
    pq.write_table(pa.table(table), tmp_path / "predictions" / "part-x.parquet")
    one, two = {"a": (1.0, 2.0), "b": (3.0, 4.0)}, {"a": (5.0, 6.0)}
    assert calibrate._positions(tmp_path) == {"one": one, "two": two, "three": one | two}
    assert "2 photos have only a position that an earlier run wrote" in capsys.readouterr().err


def known_here(shards, predictions, offset=0.0):
    """Predictions of shards with an EXIF position for each photo, no two alike."""
    (predictions / "predictions").mkdir(parents=True)
    for number, shard in enumerate(list_shards(map(str, shards))):
        keys = [key for key, _ in read_images(shard.url, shard.photos)]
        table = {
            "key": keys,
            "shard": [shard.id] * len(keys),
            "truth_latitude": pa.nulls(len(keys), pa.float64()),
            "truth_longitude": pa.nulls(len(keys), pa.float64()),
            "exif_latitude": [offset + number + i / 100 for i in range(len(keys))],
            "exif_longitude": [float(number)] * len(keys),
        }
        pq.write_table(pa.table(table), predictions / "predictions" / f"part-{shard.id}.parquet")


def test_equal_keys_of_several_shards_keep_their_positions(tmp_path):
    shards = []
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        shards.append(write_coloured_shard(tmp_path / name / "00000.tar", 30, seed=1))
    known_here(shards, tmp_path / "out")
    command = [*map(str, shards), "--predictions", str(tmp_path / "out"), "--output", "x"]
    photos = calibrate._photos(calibrate.parser().parse_args(command), TinyEncoder())
    assert len(photos) == 60 and len(set(photos.keys)) == 30
    assert sorted(photos.longitude.tolist()) == [0.0] * 30 + [1.0] * 30
    at = np.round(photos.latitude - photos.longitude, 6).tolist()
    assert at == [i / 100 for i in range(30)] * 2


def test_photos_in_a_folder_are_found_by_shard_and_key(tmp_path):
    for i in range(55):
        path = tmp_path / "album" / f"{i % 3}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (4 * i, 0, 0)).save(path)
    known_here([tmp_path / "album"], tmp_path / "out")
    command = [str(tmp_path / "album"), "--predictions", str(tmp_path / "out"), "--output", "x"]
    assert len(calibrate._photos(calibrate.parser().parse_args(command), TinyEncoder())) == 55


def test_predictions_of_other_photos_are_told(tmp_path):
    here = write_coloured_shard(tmp_path / "here.tar", 5, seed=0)
    known_here([write_coloured_shard(tmp_path / "there.tar", 5, seed=0)], tmp_path / "out")
    command = [str(here), "--predictions", str(tmp_path / "out"), "--output", "x"]
    with pytest.raises(ValueError, match=r"0 of these.*'there.*'here.*the same paths"):
        calibrate._photos(calibrate.parser().parse_args(command), TinyEncoder())


def shard_with_truths(path, tagger, truths, seed):
    """A shard of 120 coloured photos whose truths a function makes of the model's answers."""
    colours = np.random.default_rng(seed).integers(0, 256, (120, 3))
    images = [Image.new("RGB", (SIDE, SIDE), tuple(map(int, colour))) for colour in colours]
    answers = tagger.geotag(images)
    members = []
    for i, (image, (latitude, longitude)) in enumerate(zip(images, truths(answers), strict=True)):
        members.append((f"{i:03d}.png", encode(image, "PNG")))
        place = {"latitude": latitude, "longitude": longitude}
        members.append((f"{i:03d}.json", json.dumps(place).encode()))
    return str(write_tar(path, members))


def right(answers):
    return [(answer.latitude, answer.longitude) for answer in answers]


def by_chance(answers):
    latitude, longitude = latitude_longitude(random_points(len(answers), seed=5))
    return zip(latitude.tolist(), longitude.tolist(), strict=True)


def test_familiarity_is_fitted_where_the_model_knows_something(tmp_path, monkeypatch, capsys):
    replace_encoders(monkeypatch, geotagger)
    old = str(write_checkpoint(tmp_path / "old", TinyEncoder().spec))
    tagger = geotagger.Geotagger.load(old)

    def made(name, shard, *flags, before=old):
        command = [shard, "--checkpoint", before, "--output", str(tmp_path / name), *flags]
        status = calibrate.main(command)
        return status, capsys.readouterr()

    lucky = shard_with_truths(tmp_path / "lucky.tar", tagger, by_chance, seed=1)
    status, told = made("blind", lucky, "--keep-radii")
    assert status == 0 and "none, as the checkpoint is no better than chance" in told.out
    assert checkpoint.load(str(tmp_path / "blind")).told == {}

    texts = ["--purpose", "bright colours", "--unlike", "use another"]
    sound = shard_with_truths(tmp_path / "sound.tar", tagger, right, seed=2)
    status, told = made("new", sound, "--keep-radii", *texts)
    assert status == 0 and "familiarity: fitted on these photos" in told.out
    new = checkpoint.load(str(tmp_path / "new"))
    wanted = {"purpose": "bright colours", "unlike": "use another", "unfamiliar": 0.02}
    assert new.told == wanted and new.config.fingerprint
    assert torch.equal(new.denoiser.temperatures.out.bias, tagger._denoiser.temperatures.out.bias)

    # A checkpoint that was made of simulated photos, which asked for no familiarity.
    temperatures = tagger._denoiser.temperatures
    temperatures.config = replace(temperatures.config, unfamiliar=0.0)
    own = tagger.checkpoint
    checkpoint.save(tmp_path / "simulated", own.config, own.denoiser, own.base_measure)
    status, told = made("real", sound, "--keep-radii", before=str(tmp_path / "simulated"))
    assert status == 0 and "familiarity: fitted on these photos" in told.out
    assert checkpoint.load(str(tmp_path / "real")).told == {"unfamiliar": 0.02}

    # All quantiles as if photos had been far more alike: the same photos are now strange.
    new.denoiser.temperatures.familiarity.quantiles -= 9.0
    checkpoint.save(tmp_path / "narrow", new.config, new.denoiser, new.base_measure)
    narrow = str(tmp_path / "narrow")
    status, told = made("refused", lucky, before=narrow)
    assert status == 2 and "120 of 120 photos are unlike those" in told.err
    assert "(bright colours); use another; want at least 50" in told.err
    status, told = made("wider", sound, before=narrow)
    assert status == 0 and "familiarity: fitted on these photos" in told.out


@pytest.mark.ci
@pytest.mark.slow
def test_shifted_archive_gets_honest_radii(tmp_path, capsys):
    """Another map maker's Earth: it is unlike the satellite's, so that nothing is said of it.

    200 scored photos take it in, and the 90 % radius of the others is right.
    """
    made = ["--split", "seen", "--count", "600", "--shard-size", "200", "--mosaic", "relief"]
    assert cut([*made, "--output", str(tmp_path / "relief")]) == 0
    first, *others = sorted((tmp_path / "relief").glob("*.tar"))
    output = tmp_path / "refitted"
    assert calibrate.main(["--input", str(first), "--output", str(output)]) == 0
    told = capsys.readouterr().out
    assert "fitted on one half" in told and "familiarity: fitted on these photos" in told
    encoder = load_image_encoder(checkpoint.read_config(None).encoder.name)
    photos = load_photos([str(path) for path in others], encoder, tmp_path / "cache")

    def found(name: str | None) -> tuple[float, float, float]:
        """Share of unfamiliar photos, coverage, mean log density at the truth."""
        loaded = checkpoint.load(name)
        familiarity = loaded.denoiser.familiarity(torch.from_numpy(photos.embeddings))
        rows = predict(loaded, photos)
        truth = photos.latitude, photos.longitude
        distance = great_circle_km(rows.latitude, rows.longitude, *truth)
        strange = float((familiarity < 0.02).float().mean())
        return strange, coverage(distance, rows.radius_90_km), rows.log_density_km2.mean()

    before, after = found(None), found(str(output))
    assert before[0] > 0.5 and after[0] < 0.1
    assert abs(after[1] - 0.9) <= 0.05 and after[2] > before[2] + 0.3
    record = json.loads((output / "config.json").read_text())["record"]["refitted"]
    assert record["photos"] == 200 and record["factor"] > 1
    assert np.isclose(record["other_half"]["coverage_90"], 0.9, atol=0.1)
