"""`python -m locdiffusion.calibrate`: radii that fit an archive, from those of its photos."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from locdiffusion import checkpoint
from locdiffusion.calibrate import command as calibrate
from locdiffusion.evaluate.metrics import coverage
from locdiffusion.inference import predict
from locdiffusion.model.image_encoder import load_image_encoder
from locdiffusion.overhead.command import main as cut
from locdiffusion.photos.embedding_cache import load_photos
from locdiffusion.sphere.geodesy import great_circle_km
from support.tiny import write_coloured_shard


def test_too_few_photos_and_other_mistakes_are_told(tmp_path, capsys):
    shard = write_coloured_shard(tmp_path / "few.tar", 3, seed=0)
    output = ["--output", str(tmp_path / "new")]
    assert calibrate.main(["--input", str(shard), *output]) == 2
    assert "3 of these photos have a known position; want at least 50" in capsys.readouterr().err
    nothing = ["--predictions", str(tmp_path)]
    assert calibrate.main(["--input", str(shard), *nothing, *output]) == 2
    assert "give the output of `locdiffusion geotag`" in capsys.readouterr().err
    assert calibrate.main(["--input", str(tmp_path / "no.tar"), *output]) == 2


def test_positions_of_predictions_prefer_the_truth(tmp_path):
    (tmp_path / "predictions").mkdir()
    table = {
        "key": ["a", "b", "c"],
        "truth_latitude": [1.0, None, None],
        "truth_longitude": [2.0, None, None],
        "exif_latitude": [9.0, 3.0, None],
        "exif_longitude": [9.0, 4.0, None],
    }
    pq.write_table(pa.table(table), tmp_path / "predictions" / "part-x.parquet")
    assert calibrate._positions(tmp_path) == {"a": (1.0, 2.0), "b": (3.0, 4.0)}


@pytest.mark.ci
@pytest.mark.slow
def test_shifted_archive_gets_honest_radii(tmp_path, capsys):
    """Another map maker's Earth: 200 scored photos put the 90 % radius of the others right."""
    made = ["--split", "seen", "--count", "600", "--shard-size", "200", "--mosaic", "relief"]
    assert cut([*made, "--output", str(tmp_path / "relief")]) == 0
    first, *others = sorted((tmp_path / "relief").glob("*.tar"))
    output = tmp_path / "refitted"
    assert calibrate.main(["--input", str(first), "--output", str(output)]) == 0
    assert "fitted on one half" in capsys.readouterr().out
    encoder = load_image_encoder(checkpoint.read_config(None).encoder.name)
    photos = load_photos([str(path) for path in others], encoder, tmp_path / "cache")

    def covered(name: str | None) -> float:
        found = predict(checkpoint.load(name), photos)
        truth = photos.latitude, photos.longitude
        distance = great_circle_km(found.latitude, found.longitude, *truth)
        return coverage(distance, found.radius_90_km)

    before, after = covered(None), covered(str(output))
    assert abs(after - 0.9) <= 0.05 < abs(before - 0.9)
    record = json.loads((output / "config.json").read_text())["record"]["refitted"]
    assert record["photos"] == 200 and record["factor"] > 1
    assert np.isclose(record["other_half"]["coverage_90"], 0.9, atol=0.1)
