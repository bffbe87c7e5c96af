"""A build from a bucket into a bucket writes what a build on disk writes, and can be resumed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from pipelines.build_shards import command as build_shards
from pipelines.build_shards import finishing
from support.collection import FATES, FLAGS, LISTED, STORED, build, stop_at
from support.outputs import tree
from support.servers import Bucket, storage

pytestmark = pytest.mark.usefixtures("no_maps")


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    with storage(tmp_path_factory.mktemp("storage")) as running:
        yield running


def written(bucket: Bucket) -> dict[str, bytes]:
    files = fsspec.filesystem("gs")
    files.invalidate_cache()
    root = bucket.url.removeprefix("gs://") + "/out/"
    return {name.removeprefix(root): files.cat_file(name) for name in files.find(root)}


def test_from_a_bucket_into_a_bucket(bucket: Bucket, tmp_path: Path) -> None:
    from support.flickr import write_image_folder, write_places365

    listed = write_places365(tmp_path / "mp16.csv", LISTED)
    images = write_image_folder(tmp_path / "images", STORED)
    here = ["--source=mp16", "--metadata", str(listed), "--images", str(images), *FLAGS]
    assert build(here, tmp_path / "out") == 0
    files = fsspec.filesystem("gs")
    for path in [listed, *images.rglob("*.jpg")]:
        files.pipe_file(f"{bucket.url}/in/{path.relative_to(tmp_path)}", path.read_bytes())
    there = ["--source=mp16", "--metadata", f"{bucket.url}/in/*.csv"]
    there += ["--images", f"{bucket.url}/in/images", *FLAGS, "--output", f"{bucket.url}/out"]
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, finishing, "copy_without", 2)
        assert build_shards.main(there) == 1
    assert build_shards.main(there) == 0
    ours, theirs = tree(tmp_path / "out"), written(bucket)
    # A drop without an image names the place where it was looked for.
    places = {name for name in ours if ours[name] != theirs.get(name)}
    assert ours.keys() == theirs.keys()
    assert all(name.startswith("dropped/part-") for name in places) and len(places) <= 2
    assert any(fate.fate == "no_image" for fate in FATES)
