"""From a list and photos to geotags: build, train on what was built, geotag with that."""

from __future__ import annotations

from pathlib import Path

import geopandas
import pytest

from locdiffusion.photos import embedding_cache
from locdiffusion.train import command as train
from pipelines.build_shards import command as build_shards
from pipelines.geotag import command as geotag
from support.flickr import make_photos, write_msgpack_shards, write_places365

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def test_what_is_built_can_be_trained_on_and_geotags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = make_photos(70, authors=14)
    write_msgpack_shards(tmp_path / "images", photos, 20)
    listed = write_places365(tmp_path / "mp16.csv", photos)
    shards = tmp_path / "shards"
    flags = ["--source=mp16", "--metadata", str(listed), "--images", str(tmp_path / "images")]
    flags += ["--messages=*.msg", "--output", str(shards), "--val-fraction=0.3", "--shard-size=20"]
    assert build_shards.main([*flags, "--min-size=32", "--embed=efficientnet_lite0"]) == 0

    with monkeypatch.context() as patch:  # the embeddings are there: no pixel is needed
        patch.setattr(
            embedding_cache, "pixels_of", lambda *arguments: pytest.fail("a photo was decoded")
        )
        run = ["--train", f"{shards}/train/*.tar", "--val", f"{shards}/val/*.tar"]
        run += ["--output", str(tmp_path / "run"), "--embeddings", str(tmp_path / "embeddings")]
        run += ["--encoder=efficientnet_lite0", "--max-degree=7", "--batch-size=16"]
        assert train.main([*run, "--steps=4", "--evaluate-every=4"]) == 0

    output = tmp_path / "geotags"
    archive = ["--input", f"{shards}/val/*.tar", "--output", str(output)]
    assert geotag.main([*archive, "--checkpoint", str(tmp_path / "run" / "checkpoint")]) == 0
    rows = geopandas.read_parquet(output / "predictions").set_index("key")
    index = geopandas.read_parquet(shards / "index").set_index("key")
    held_out = index[index.split == "val"]
    assert set(rows.index) == set(held_out.index) and len(rows)
    assert (rows.truth_latitude == held_out.latitude[rows.index]).all()
    assert "author" not in rows.columns
