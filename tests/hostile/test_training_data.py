"""Training data of strangers: what is wrong is named, and costs no more than its bytes."""

import json
import tracemalloc
from pathlib import Path

import pytest

from locdiffusion.photos import blocks
from locdiffusion.photos.blocks import Allowance
from locdiffusion.photos.embedding_cache import embed_shards, load_photos
from locdiffusion.photos.labelled_samples import check_builds
from locdiffusion.photos.storage import DataError
from locdiffusion.photos.stored_array import ArrayError, read_vector
from support.archives import truth, write_tar
from support.hostile.training_data import ARRAYS, described, many_samples
from support.tiny import EMBEDDING_DIM, TinyEncoder


@pytest.mark.parametrize("name", ARRAYS)
def test_an_odd_array_is_named_and_takes_no_memory(name: str, tmp_path: Path) -> None:
    """NumPy raised SyntaxError, TypeError, RecursionError and MemoryError past the handler."""
    shard = write_tar(tmp_path / "x.tar", [("bad.json", truth()), ("bad.npy", ARRAYS[name])])
    encoder = TinyEncoder()
    tracemalloc.start()
    with pytest.raises(DataError, match=r"'bad' of .*x\.tar"):
        load_photos([str(shard)], encoder, tmp_path / "cache")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40e6  # of which a block of the file is 8 MiB
    with pytest.raises(ArrayError):
        read_vector(ARRAYS[name], EMBEDDING_DIM)


def test_what_other_writers_of_arrays_write_is_read() -> None:
    for header in (
        described(),
        described(descr='"<f2"', shape="( 12 , )"),
        described(descr="'>f8'", numbers=96),
    ):
        assert read_vector(header, EMBEDDING_DIM).tolist() == [0.0] * EMBEDDING_DIM


def test_a_shard_of_kilobytes_does_not_become_gigabytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1.5 MB of equal samples became 3.5 GB of rows; a hundredth of the free share here."""
    monkeypatch.setattr(blocks, "PARSED", Allowance(2**24 // 100, 10))
    data = many_samples(2000)
    assert len(data) < 60_000
    shard = tmp_path / "x.tar.gz"
    shard.write_bytes(data)
    with pytest.raises(DataError, match=r"x\.tar\.gz cannot be read"):
        embed_shards([str(shard)], TinyEncoder(), tmp_path / "cache", workers=1)


def test_as_many_samples_in_a_plain_tar_are_read(tmp_path: Path) -> None:
    import gzip

    shard = tmp_path / "x.tar"
    shard.write_bytes(gzip.decompress(many_samples(500)))
    assert len(load_photos([str(shard)], TinyEncoder(), tmp_path / "cache")) == 500


@pytest.mark.parametrize(
    "record", [b"[" * 10**6, b'{"encoder": {"a": 1}}', b'{"encoder": ' + b"9" * 10**6 + b"}", b"\0"]
)
def test_an_odd_record_of_a_build_is_passed_over(tmp_path: Path, record: bytes) -> None:
    (tmp_path / "run.json").write_bytes(record)
    check_builds([str(tmp_path / "train" / "x.tar")], "tiny")
    (tmp_path / "run.json").write_text(json.dumps({"encoder": "other"}))
    with pytest.raises(DataError):
        check_builds([str(tmp_path / "train" / "x.tar")], "tiny")
