"""How a job is cut into batches, ordered and spread over workers does not show in its rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pipelines.geotag import command as geotag
from pipelines.geotag.model_cache import Loader
from support import python_path
from support.archives import bad_members, sound_members, tar_bytes, write_tar
from support.fake_geotagger import FakeLoader
from support.outputs import tree
from support.rows import assert_same_rows, columns
from support.tiny import TinyEncoder, write_checkpoint, write_coloured_shard
from support.tiny_loader import TinyLoader

THREADS = ("--direct_num_workers=2", "--direct_running_mode=multi_threading")
PROCESSES = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")


@dataclass(frozen=True)
class Way:
    """One way to run the same job.

    Attributes:
        batch_size: photos per call of the model.
        order: in which the shards are handed to Beam, as a permutation seed; None as they come.
        flags: for Beam.
    """

    batch_size: int
    order: int | None = None
    flags: tuple[str, ...] = ()


WAYS = {
    "one by one": Way(1, order=1),
    "two threads": Way(4, order=2, flags=THREADS),
    "another order": Way(64, order=3),
}


@pytest.fixture(scope="module", autouse=True)
def path_for_workers(no_pages: None) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", python_path()["PYTHONPATH"])
        yield


def run(archive: Path, output: Path, way: Way, load: Loader, *flags: str) -> None:
    """Runs the command; both the arguments and the shards that Beam gets are in the way's order."""
    real = geotag.list_shards

    def reordered(sequence: list) -> list:
        if way.order is None:
            return sequence
        permutation = np.random.default_rng(way.order).permutation(len(sequence))
        return [sequence[index] for index in permutation]

    tars = reordered(sorted(str(path) for path in archive.glob("*.tar")))
    arguments = ["--input", *tars, "--output", str(output), f"--batch_size={way.batch_size}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geotag, "list_shards", lambda *args: reordered(real(*args)))
        assert geotag.main([*arguments, "--accept-damaged", *way.flags, *flags], load=load) == 0


# A model without rounding: the same bytes


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sound, bad and damaged shards, more than one batch each."""
    root = tmp_path_factory.mktemp("mixed")
    for index in range(4):
        write_tar(root / f"val-{index:03d}.tar", sound_members(5 + 3 * index, 20 * index))
    write_tar(root / "bad-0.tar", [m for members, _ in bad_members().values() for m in members])
    (root / "cut-0.tar").write_bytes(tar_bytes(sound_members(9, 100))[:7000])
    write_tar(root / "empty-0.tar", [])
    return root


def without_summary(root: Path) -> dict[str, bytes]:
    return {name: data for name, data in tree(root).items() if name != "summary.json"}


@pytest.fixture(scope="module")
def plain_files(mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    output = tmp_path_factory.mktemp("plain") / "out"
    run(mixed, output, Way(32), FakeLoader())
    return without_summary(output)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_files_are_the_same_whichever_way(
    mixed: Path, plain_files: dict[str, bytes], tmp_path: Path, way: Way
) -> None:
    run(mixed, tmp_path / "out", way, FakeLoader())
    assert len(plain_files) == 3 * 7 + 2, "three of each shard, run.json and the digest"
    assert without_summary(tmp_path / "out") == plain_files


# A real network: the same but for rounding


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("coloured")
    for index in range(3):
        write_coloured_shard(root / f"test-{index}.tar", 7 + index, seed=index)
    return root


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("model") / "tiny"
    return str(write_checkpoint(directory, TinyEncoder().spec))


@pytest.fixture(scope="module", params=["density", "sampling"])
def plain(
    request: pytest.FixtureRequest,
    coloured: Path,
    tiny: str,
    one_thread: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, dict[str, list]]]:
    """A mode and the columns of an ordinary run in it."""
    output = tmp_path_factory.mktemp("plain") / "out"
    run(coloured, output, Way(32), TinyLoader(tiny, request.param), *mode_flags(request.param))
    yield request.param, columns(output)


def mode_flags(mode: str) -> tuple[str, ...]:
    return (f"--mode={mode}", "--samples=3", "--steps=2")


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_rows_of_a_real_network_are_the_same_whichever_way(
    coloured: Path, tiny: str, plain: tuple[str, dict[str, list]], tmp_path: Path, way: Way
) -> None:
    mode, wanted = plain
    run(coloured, tmp_path / "out", way, TinyLoader(tiny, mode), *mode_flags(mode))
    found = columns(tmp_path / "out")
    assert len(found["key"]) == 7 + 8 + 9 and len(set(found["latitude"])) > 20
    assert_same_rows(found, wanted)


@pytest.mark.ci
@pytest.mark.slow
def test_rows_of_a_real_network_are_the_same_from_two_processes(
    coloured: Path, tiny: str, plain: tuple[str, dict[str, list]], tmp_path: Path
) -> None:
    mode, wanted = plain
    way = Way(3, order=1, flags=PROCESSES)
    run(coloured, tmp_path / "out", way, TinyLoader(tiny, mode), *mode_flags(mode))
    assert_same_rows(columns(tmp_path / "out"), wanted)
