"""The command, from files of the embedding cache to the page, in a world of 12 numbers a photo."""

import json

import numpy as np
import pytest

from experiments.appearance_map.__main__ import MAP, PAGE, RECORD, main, parse
from experiments.appearance_map.trial import MapSize, sizes_of
from locdiffusion.appearance.appearance_map import AppearanceMap
from locdiffusion.photos.embedding_cache import write_embedded
from support import tiny

# The trial is over; what came of it is tested in locdiffusion/appearance.
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Directory of a trial with two validation sets and two kinds of training photos."""
    directory = tmp_path_factory.mktemp("trial")
    saved = tiny.write_checkpoint(directory / "checkpoint", tiny.TinyEncoder().spec)
    for seed, (name, count) in enumerate(
        {"plain": 400, "varied": 300, "val": 80, "val_regions": 80}.items()
    ):
        write_embedded(directory / f"{name}.parquet", tiny.learnable_photos(count, seed))

    def files(patterns, *_):
        return [directory / f"{pattern}.parquet" for pattern in patterns]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("locdiffusion.photos.embedding_cache.embed_shards", files)
        patch.setattr("locdiffusion.photos.patterns.expand_patterns", lambda patterns: patterns)
        patch.setattr("locdiffusion.model.deferred_encoder.DeferredEncoder", lambda *_: None)
        flags = ["--train", "plain", "--train-augmented", "varied"]
        flags += ["--val", "val=val", "val_regions=val_regions", "--embeddings", "unused"]
        flags += ["--cells", "400", "600", "--components", "4", "2", "--counts", "200"]
        flags += ["--checkpoint", str(saved), "--output", str(directory), "--photos-per-set", "40"]
        flags += ["--log-z-photos", "1"]
        assert main(flags) == 0
    return directory


def test_the_command_writes_map_record_and_page(written):
    record = json.loads((written / RECORD).read_text())
    assert record["maps"][0]["photos"] == 700
    assert 120 < record["maps"][1]["photos"] < 280  # a share of them is drawn
    assert [one["size"]["cell_km"] for one in record["maps"]] == [400.0, 400.0, 600.0, 400.0]
    assert record["scored"] == {"val": 40, "val_regions": 40}
    made = AppearanceMap.load(written / MAP)
    assert made.grid.cell_km == 400.0 and made.values.shape[1] == 4
    assert (written / MAP).stat().st_size == record["maps"][0]["bytes"]


def test_numbers_on_the_page_are_those_of_the_record(written):
    record, page = json.loads((written / RECORD).read_text()), (written / PAGE).read_text()
    scores = record["maps"][0]["scores"]["ball"]["val"]
    share = 100 * scores["within"][1]["value"]
    row = next(line for line in page.splitlines() if "val " in line and "fused, ball" in line)
    assert f"{share:.1f} (" in row
    for rival, by_set in record["differences"].items():
        assert rival in page
        assert f"{by_set['val']['nats']['value']:+.2f} (" in page
    assert f"{record['maps'][0]['bytes']:,} bytes" in page


def test_paired_differences_are_those_of_the_means(written):
    record = json.loads((written / RECORD).read_text())
    ours = record["maps"][0]["scores"]["ball"]
    for rival, by_set in record["differences"].items():
        for name, found in by_set.items():
            theirs = record["rivals"][rival][name]
            gain = theirs["nats_per_km2"]["value"] - ours[name]["nats_per_km2"]["value"]
            assert found["nats"]["value"] == pytest.approx(gain, abs=1e-9)


def test_one_value_is_changed_at_a_time():
    sizes = sizes_of(1000, [100, 5000], [40.0, 28.0], [64, 32])
    assert sizes == [
        MapSize(1.0, 40.0, 64),
        MapSize(0.1, 40.0, 64),
        MapSize(1.0, 28.0, 64),
        MapSize(1.0, 40.0, 32),
    ]


def test_more_discriminants_than_there_are_is_an_error_with_the_number(written):
    from experiments.appearance_map.photos import Projection, first_axes

    project = Projection(np.zeros(5, np.float32), np.zeros((5, 4), np.float32))
    with pytest.raises(ValueError, match="has 4 discriminants"):
        first_axes(project, 9)


def test_help_fits_a_terminal(capsys):
    with pytest.raises(SystemExit):
        parse(["--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
