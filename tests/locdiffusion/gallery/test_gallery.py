"""Galleries: lists of places from files, the hybrid over mixtures, and `--gallery` to the rows."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from locdiffusion import geotagger
from locdiffusion.decoding.answers import GeotagColumns
from locdiffusion.decoding.decoder import Decoder
from locdiffusion.density.base_measure import land_measure
from locdiffusion.gallery.hybrid import HybridConfig, HybridGallery
from locdiffusion.gallery.places import gallery_identity, read_gallery
from locdiffusion.photos.listing import Shard
from locdiffusion.photos.storage import DataError
from locdiffusion.sphere.geodesy import unit_vectors
from pipelines.geotag import command as geotag
from pipelines.geotag.batches import PhotoBatch, read_batches, run_stage
from pipelines.geotag.console import summary_table
from pipelines.geotag.options import UsageError, parse
from pipelines.geotag.output import Output, RunConfiguration, write_shard
from pipelines.geotag.summary import summarise
from pipelines.geotag.tables import Extras
from schemas.geotags import HYBRID_COLUMNS, Stage
from support.archives import bad_members, sound_members, write_tar
from support.fake_geotagger import BLUELESS_KM, FakeGeotagger, FakeLoader
from support.outputs import tree
from support.tiny import TinyEncoder, replace_encoders, write_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

L = 5
WITH_GALLERY = Extras(hybrid=True)
CONFIGURATION = RunConfiguration("fake-1", "f" * 64, 7, {"gallery": "geoclip"})


# Files of places


@pytest.mark.parametrize("names", [("latitude", "longitude"), ("LAT", "LON"), ("Lat", "Longitude")])
def test_places_of_a_file(tmp_path: Path, names: tuple[str, str]) -> None:
    table = pandas.DataFrame({"name": ["a", "b"], names[1]: [13.4, 190.0], names[0]: [52.5, -10]})
    table.to_csv(tmp_path / "places.csv", index=False)
    table.to_parquet(tmp_path / "places.parquet")
    for file in ("places.csv", "places.parquet"):
        found = read_gallery(str(tmp_path / file))
        assert found.dtype == np.float64 and found.tolist() == [[52.5, 13.4], [-10.0, -170.0]]
    assert gallery_identity(str(tmp_path / "places.csv")).startswith("places.csv sha256:")
    assert gallery_identity("geoclip") == "geoclip"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("latitude,x\n1,2\n", r"has the columns \['latitude', 'x'\], none .* as the longitude"),
        ("latitude,longitude\n", "has no rows"),
        ("lat,lon\n1,2\n90.5,3\n", r"line 3: '90.5' is no latitude .* \(1 such rows of 2\)"),
        ("lat,lon\n1,2\n3,\n", "line 3: '' is no longitude"),
        ("lat,lon\n1,nan\n", "line 2: 'nan' is no longitude"),
        ("lat,lon\n1,north\n", "line 2: 'north' is no longitude"),
        ("lat,lon\n,\n", "has no rows"),
        ("", "is empty"),
        ("lat,lon\n1\n", "line 2: '1', wanted 2 columns"),
    ],
)
def test_files_that_are_no_gallery(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "places.csv"
    file.write_text(text)
    with pytest.raises(DataError, match=message):
        read_gallery(str(file))


def test_a_file_that_is_not_there_or_no_parquet(tmp_path: Path) -> None:
    (tmp_path / "places.parquet").write_text("lat,lon")
    for path in (tmp_path / "places.parquet", tmp_path / "nowhere.csv", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            read_gallery(str(path))
    with pytest.raises(DataError, match=r"nowhere\.csv cannot be read"):
        gallery_identity("nowhere.csv")


# The rule


def gallery_of(places: np.ndarray, embeddings: torch.Tensor, **config: float) -> HybridGallery:
    return HybridGallery(places, embeddings, 3.0, L, HybridConfig(**config))


def test_without_a_place_in_the_circle_nothing_is_found() -> None:
    gallery = gallery_of(np.array([[0.0, 0.0]]), torch.eye(4)[:1], least_km=100.0)
    flat = torch.zeros(2, 1, (L + 1) ** 2)
    answers = np.array([0.5, 40.0]), np.zeros(2), np.full(2, 10.0)
    found = gallery.find(torch.eye(4)[:2], flat, *answers)
    assert np.stack(found, 1)[0].tolist() == [0.0, 0.0] and np.isnan(np.stack(found, 1)[1]).all()


def test_of_several_samples_the_mixture_decides(rng: np.random.Generator) -> None:
    """Against p of the mixture by the decoder's own `log_probability`, the base taken off."""
    places = rng.uniform((-60.0, -180.0), (60.0, 180.0), (40, 2))
    embeddings = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(40, 4))).float())
    queries = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(6, 4))).float())
    natural = torch.from_numpy(2.0 * rng.normal(size=(6, 3, (L + 1) ** 2))).float()
    decoder = Decoder(L, base_measure=land_measure())
    log_z = decoder.tables.log_normaliser(natural)
    gallery = gallery_of(places, embeddings, similarity_weight=2.0, least_km=30_000.0)
    nowhere = np.zeros(6), np.zeros(6), np.ones(6)
    found = np.stack(gallery.find(queries, natural, *nowhere, log_z), 1)
    vectors = unit_vectors(places[:, 0], places[:, 1])
    base = decoder.tables.log_q0_at(torch.from_numpy(vectors).float()).double().numpy()
    firsts = []
    for i in range(6):
        log_p = (
            decoder.tables.log_probability(natural[i : i + 1].expand(40, -1, -1), vectors) - base
        )
        score = log_p + 2.0 * 3.0 * (embeddings @ queries[i]).double().numpy()
        assert found[i].tolist() == places[score.argmax()].tolist()
        firsts.append(gallery.find(queries[i : i + 1], natural[i : i + 1, :1], *nowhere[:2], [1.0]))
    assert (np.array(firsts)[..., 0] != found).any(), "not the first sample alone"
    with pytest.raises(ValueError, match="3 densities per photo without log_z"):
        gallery.find(queries, natural, *nowhere)


# Through the pipeline


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Sound photos, bad ones, a white one that breaks the model, and one of no blue at all."""
    plain = []
    for name, colour in (("white", (255, 255, 255)), ("yellow", (200, 120, 0))):
        data = io.BytesIO()
        Image.new("RGB", (300, 200), colour).save(data, "PNG")
        plain.append((f"{name}.png", data.getvalue()))
    bad = [member for members, _ in bad_members().values() for member in members]
    sound = sound_members(20)
    (tmp_path / "in").mkdir()
    return write_tar(tmp_path / "in" / "s-0.tar", [*sound[:9], *plain, *sound[9:], *bad])


def decoded(path: Path, batch_size: int) -> list[PhotoBatch]:
    model = FakeGeotagger()
    batches = list(read_batches(Shard("s-0", str(path)), model.preprocess, batch_size))
    for stage in (Stage.EMBED, Stage.SAMPLE, Stage.DECODE):
        batches = [run_stage(batch, stage, model, hybrid=True) for batch in batches]
    return batches


def test_photos_keep_their_own_places_whoever_fails(archive: Path, tmp_path: Path) -> None:
    """The fake's gallery refuses embeddings of other photos, so alignment is checked there too."""
    trees = []
    for name, batch_size in (("a", 1), ("b", 7), ("c", 64)):
        output = Output(str(tmp_path / name))
        batches = decoded(archive, batch_size)[::-1]
        manifest = write_shard(output, CONFIGURATION, batches, WITH_GALLERY)
        trees.append(tree(tmp_path / name))
    assert trees[0] == trees[1] == trees[2]
    reason = "RuntimeError: not blue enough for a gallery"
    assert manifest["hybrid_failed"] == {reason: 1}
    summary = summarise(output)
    assert summary["hybrid_failed"] == {reason: 1} and summary["mismatches"] == []
    assert f"1 photo that the gallery failed for: {reason}" in summary_table(summary)
    table = pq.read_table(tmp_path / "c" / "predictions").to_pandas()
    assert "yellow" in set(table.key) and "white" not in set(table.key)
    known = (table.latitude >= 0) & (table.radius_50_km >= BLUELESS_KM)
    assert 3 < known.sum() < len(table) - 3
    for name in HYBRID_COLUMNS:
        pure = table[name.removeprefix("hybrid_")]
        assert table[name].equals(pure.round().where(known))


def test_the_flag_changes_no_other_column(archive: Path, tmp_path: Path, no_pages: None) -> None:
    typed = ["--input", str(archive), "--batch_size=4", "--output"]
    with_gallery = [*typed, str(tmp_path / "both"), "--gallery", "geoclip"]
    assert geotag.main([*typed, str(tmp_path / "pure")], FakeLoader()) == 0
    assert geotag.main(with_gallery, FakeLoader()) == 0
    pure, both = (pq.read_table(tmp_path / name / "predictions") for name in ("pure", "both"))
    assert pure.schema.names == both.schema.names
    assert pure.drop_columns(list(HYBRID_COLUMNS)).equals(both.drop_columns(list(HYBRID_COLUMNS)))
    assert all(pure[name].null_count == len(pure) for name in HYBRID_COLUMNS)
    assert all(0 < both[name].null_count < len(both) for name in HYBRID_COLUMNS)
    assert "gallery" not in json.loads((tmp_path / "pure" / "run.json").read_text())
    assert json.loads((tmp_path / "both" / "run.json").read_text())["gallery"] == "geoclip"
    assert geotag.main(with_gallery[:-2], FakeLoader()) == 2, "another configuration"


def test_a_checkpoint_of_another_encoder_has_no_gallery(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    replace_encoders(monkeypatch, geotagger)
    checkpoint = write_checkpoint(tmp_path / "checkpoint", TinyEncoder().spec)
    typed = ["--input", str(archive), "--output", str(tmp_path / "out")]
    typed += ["--checkpoint", str(checkpoint)]
    assert geotag.main([*typed, "--gallery", "geoclip"]) == 2
    said = capsys.readouterr().err
    assert "needs the image encoder 'geoclip'" in said and "this checkpoint has 'tiny'" in said
    assert "choose the checkpoint geoclip-distilled" in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="there is no gallery"):
        geotagger.Geotagger.load(str(checkpoint)).hybrid(
            *[np.zeros((1, 1), np.float32)] * 2, GeotagColumns.empty()
        )


def test_a_file_is_found_by_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "places.csv").write_text("lat,lon\n1,2\n")
    monkeypatch.chdir(tmp_path)
    typed = ["--input", "a.tar", "--output", "out", "--gallery"]
    assert parse([*typed, "places.csv"]).loader.gallery == str(tmp_path / "places.csv")
    assert parse([*typed, "geoclip"]).loader.gallery == "geoclip"
    assert parse([*typed, "gs://b/places.csv"]).extras.hybrid
    with pytest.raises(UsageError, match=r"give --gallery gs://BUCKET/places\.csv"):
        parse([*typed, "places.csv", "--runner=DataflowRunner"])
