"""The lines of this benchmark, each with its budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from experiments.speed.pipeline.accelerator import measure_accelerator
from experiments.speed.pipeline.isolation import measure_isolation, photos_of
from experiments.speed.pipeline.job import (
    BEAM,
    LOOP,
    SHIPPED,
    TRIVIAL,
    JobFailed,
    Spent,
    Task,
    run_fresh,
)
from experiments.speed.pipeline.listing import measure_listing
from experiments.speed.pipeline.trivial import write_archive
from locdiffusion.cpu import usable_cores

MARGINAL_TRIVIAL, MARGINAL_ENCODER = 1.25, 1.05
FIXED_CPU_SECONDS = 1.0
LISTING = 1.5
ISOLATION = 1.05
FLAT_BYTES_PER_PHOTO = 256
SMALL_PHOTO, PHOTO = (64, 48), (512, 384)
PATCH, LARGE_PHOTO = (256, 256), (4000, 3000)
MEGAPIXELS = {0.5: (816, 612), 2: (1632, 1224), 8: (3264, 2448)}
BUSY, WITH_REGIONS = 0.9, 0.8


@dataclass(frozen=True)
class Sizes:
    """Sizes of the measurements; the default takes some minutes on two cores.

    Attributes:
        turns: Number of turns of each comparison of CPU times.
        trivial, encoder, memory, scaling: Small and large number of photos; multiples of the next
            two.
        per_shard: Photos per shard, except in `encoder`.
        encoder_per_shard: Photos per shard in `encoder`.
        seed: Seed of the generated photos.
        folders: Folders of 100 files that are listed.
        isolation: Numbers of small and of large photos.
        accelerator: Numbers of photos of each of `MEGAPIXELS`; even.
    """

    turns: int = 3
    trivial: tuple[int, int] = (2_000, 12_000)
    encoder: tuple[int, int] = (16, 112)
    memory: tuple[int, int] = (1_000, 20_000)
    scaling: tuple[int, int] = (2_000, 20_000)
    per_shard: int = 1_000
    encoder_per_shard: int = 16
    seed: int = 0
    folders: int = 1_000
    isolation: tuple[int, int] = (160, 16)
    accelerator: tuple[int, ...] = (768, 256, 96)


QUICK = Sizes(
    1,
    (20, 40),
    (2, 4),
    (20, 60),
    (20, 40),
    20,
    2,
    folders=3,
    isolation=(2, 1),
    accelerator=(2, 2, 2),
)


@dataclass(frozen=True)
class Line:
    """One line of the benchmark.

    Attributes:
        name: Name of the number.
        measured: Number in words.
        budget: Budget in words.
        met: Whether the budget is met; None where there is none.
        numbers: Numbers from which the words are made.
    """

    name: str
    measured: str
    budget: str
    met: bool | None
    numbers: dict[str, Any]


@dataclass(frozen=True)
class Cost:
    """A straight line through the times at two sizes, in seconds.

    Attributes:
        per_photo: Slope of the line, the marginal cost of a photo.
        fixed: Value of the line at no photos.
    """

    per_photo: float
    fixed: float

    @classmethod
    def between(cls, photos: tuple[int, int], seconds: Sequence[float]) -> Cost:
        """Fits the line through (photos[0], seconds[0]) and (photos[1], seconds[1])."""
        per_photo = (seconds[1] - seconds[0]) / (photos[1] - photos[0])
        return cls(per_photo, seconds[0] - per_photo * photos[0])


@dataclass(frozen=True)
class Turns:
    """Measurements of loop and job at two sizes, in several turns.

    Attributes:
        photos: Small and large number of photos.
        spent: Results by kind for each turn: with few photos, with many.
    """

    photos: tuple[int, int]
    spent: dict[str, list[tuple[Spent, Spent]]]

    def cost(self, kind: str) -> Cost:
        """Computes the cost from medians of the CPU times over the turns."""
        seconds = [median(turn[size].cpu_seconds for turn in self.spent[kind]) for size in range(2)]
        return Cost.between(self.photos, seconds)

    def ratios(self) -> list[float]:
        """Computes the job's marginal CPU time divided by that of the loop, turn by turn."""
        costs = [
            [Cost.between(self.photos, [size.cpu_seconds for size in turn]) for turn in turns]
            for turns in (self.spent[LOOP], self.spent[BEAM])
        ]
        return [job.per_photo / loop.per_photo for loop, job in zip(*costs, strict=True)]

    def import_seconds(self, kind: str) -> float:
        """Computes the median CPU time of importing and loading."""
        return median(size.import_cpu_seconds for turn in self.spent[kind] for size in turn)


class Bench:
    """Makes archives and measures jobs over them.

    Args:
        sizes: Sizes of the measurements.
        directory: Empty directory for archives and outputs.
    """

    def __init__(self, sizes: Sizes, directory: Path) -> None:
        self.sizes = sizes
        self.directory = directory
        self.about: dict[str, Any] = {}
        self._archives: dict[tuple[int, int, tuple[int, int]], list[Path]] = {}
        self._digests: dict[tuple[str, ...], str] = {}
        self._jobs = 0

    def groups(self) -> dict[str, Callable[[], Iterator[Line]]]:
        """Returns the groups of lines by name."""
        return {
            "trivial": self.trivial,
            "encoder": self.encoder,
            "memory": self.memory,
            "scaling": self.scaling,
            "listing": self.listing,
            "isolation": self.isolation,
            "accelerator": self.accelerator,
        }

    def trivial(self) -> Iterator[Line]:
        """Compares job and loop with a model that costs next to nothing."""
        turns = self._turns(TRIVIAL, self.sizes.trivial, self.sizes.per_shard, SMALL_PHOTO)
        yield _marginal("marginal CPU, trivial model", turns, MARGINAL_TRIVIAL)
        yield _fixed("fixed CPU, trivial model", turns)
        imports = {kind: turns.import_seconds(kind) for kind in (LOOP, BEAM)}
        said = f"{imports[BEAM]:.1f} CPU-s with Beam, {imports[LOOP]:.1f} without"
        yield Line("imports, before the job", said, "shown only", None, imports)

    def encoder(self) -> Iterator[Line]:
        """Compares job and loop with the shipped encoder and checkpoint."""
        turns = self._turns(SHIPPED, self.sizes.encoder, self.sizes.encoder_per_shard, PHOTO)
        yield _marginal("marginal CPU, real encoder", turns, MARGINAL_ENCODER)

    def memory(self) -> Iterator[Line]:
        """Measures a worker's peak memory with more shards, and with a larger shard."""
        few, many = self.sizes.memory
        one = self._beam(few, few)
        shards = self._beam(many, few)
        large = self._beam(many, many)
        growth = (shards.peak_bytes - one.peak_bytes) / (many - few)
        numbers = {
            "peak_bytes_few": one.peak_bytes,
            "peak_bytes_many_shards": shards.peak_bytes,
            "peak_bytes_large_shard": large.peak_bytes,
            "peak_bytes_before": one.peak_bytes_before,
        }
        yield Line(
            f"peak memory, {few:,} photos in 1 shard, {many:,} in {many // few}",
            f"{one.peak_bytes / 1e6:.0f} and {shards.peak_bytes / 1e6:.0f} MB "
            f"(imports {one.peak_bytes_before / 1e6:.0f}); {growth:.0f} bytes per further photo",
            f"flat: <= {FLAT_BYTES_PER_PHOTO} bytes",
            growth <= FLAT_BYTES_PER_PHOTO,
            {**numbers, "bytes_per_photo": growth},
        )
        growth = (large.peak_bytes - one.peak_bytes) / (many - few)
        yield Line(
            f"peak memory, {many:,} photos in 1 shard",
            f"{large.peak_bytes / 1e6:.0f} MB; {growth:,.0f} bytes per further photo",
            "shown only",
            None,
            {**numbers, "bytes_per_photo": growth},
        )

    def scaling(self) -> Iterator[Line]:
        """Measures wall time with one worker process and with two."""
        few, many = self.sizes.scaling
        costs = [
            Cost.between(
                (few, many),
                [self._beam(size, self.sizes.per_shard, n).wall_seconds for size in (few, many)],
            )
            for n in (1, 2)
        ]
        one, two = (cost.per_photo for cost in costs)
        numbers = {"seconds_per_photo": [one, two], "start_seconds": [cost.fixed for cost in costs]}
        said = "the machine was too busy: more photos took less time"
        if min(one, two) > 0:
            said = (
                f"{one / two:.2f} times as many photos per second ({1 / one:,.0f} -> "
                f"{1 / two:,.0f}); start {costs[0].fixed:.1f} -> {costs[1].fixed:.1f} s"
            )
        yield Line("1 -> 2 worker processes, trivial model", said, "shown only", None, numbers)

    def listing(self) -> Iterator[Line]:
        """Measures how long listing a folder takes, against a walk over the same tree."""
        turns = 3 * self.sizes.turns
        found = measure_listing(self.directory / "folders", self.sizes.folders, turns)
        ratio = found["list"] / max(found["walk_and_look"], 1e-9)
        bare = found["list"] / max(found["walk"], 1e-9)
        yield Line(
            f"listing {found['files']:,} files in {self.sizes.folders:,} folders, 20 % junk",
            f"{found['list']:.2f} CPU-s: {ratio:.2f} times os.scandir with a stat of each file, "
            f"{bare:.2f} times os.scandir alone; "
            f"{found['peak_bytes'] / found['files']:.0f} bytes per file",
            f"<= {LISTING} times os.scandir with a stat of each file",
            ratio <= LISTING,
            {**found, "ratio": ratio, "ratio_without_stat": bare},
        )

    def isolation(self) -> Iterator[Line]:
        """Compares decoding in child processes with decoding here, with the shipped encoder."""
        for size, count in zip((PATCH, LARGE_PHOTO), self.sizes.isolation, strict=True):
            photos = photos_of(size, count, self.sizes.seed)
            found = measure_isolation(photos, self.sizes.turns)
            yield Line(
                f"decoding in child processes, {count} photos of {size[0]} x {size[1]} pixels",
                f"{found['cpu_ratio']:.3f} times the CPU time ({found['cpu_here']:.1f} -> "
                f"{found['cpu_apart']:.1f} CPU-ms per photo, encoder included), "
                f"{found['wall_ratio']:.3f} times the seconds",
                f"<= {ISOLATION}",
                found["cpu_ratio"] <= ISOLATION,
                found,
            )

    def accelerator(self) -> Iterator[Line]:
        """Measures how a job drives a simulated accelerator, against decoding alone."""
        for (megapixels, size), count in zip(
            MEGAPIXELS.items(), self.sizes.accelerator, strict=True
        ):
            directory = self.directory / f"accelerator-{megapixels}"
            shards = write_archive(directory, 2, count // 2, size, self.sizes.seed, 0.25, 16)
            for threads in (1, usable_cores()):
                measure = partial(measure_accelerator, shards, count, threads, self.sizes.turns)
                name = f"simulated accelerator, {count} photos of {megapixels} megapixels, "
                name += f"{threads} threads"
                found = measure(directory, regions=False)
                yield _busy(name, found)
            if megapixels == min(MEGAPIXELS):
                yield _with_regions(name, measure(directory, regions=True))

    def _turns(
        self, model: str, photos: tuple[int, int], per_shard: int, size: tuple[int, int]
    ) -> Turns:
        shards = self._archive(photos[1] // per_shard, per_shard, size)
        spent: dict[str, list[tuple[Spent, Spent]]] = {LOOP: [], BEAM: []}
        for _ in range(self.sizes.turns):
            few, many = (
                self._measure(
                    *(
                        self._task(kind, model, shards[: count // per_shard], count)
                        for kind in spent
                    )
                )
                for count in photos
            )
            for kind, first, second in zip(spent, few, many, strict=True):
                spent[kind].append((first, second))
        return Turns(photos, spent)

    def _beam(self, photos: int, per_shard: int, processes: int = 0) -> Spent:
        shards = self._archive(photos // per_shard, per_shard, SMALL_PHOTO)
        return self._measure(self._task(BEAM, TRIVIAL, shards, photos, processes))[0]

    def _archive(self, shards: int, per_shard: int, size: tuple[int, int]) -> list[Path]:
        """Makes an archive once; shards of a smaller archive are the first of a larger one."""
        for (known, *alike), paths in self._archives.items():
            if known >= shards and alike == [per_shard, size]:
                return paths[:shards]
        directory = self.directory / f"archive-{len(self._archives)}"
        paths = write_archive(directory, shards, per_shard, size, self.sizes.seed)
        self._archives[shards, per_shard, size] = paths
        return paths

    def _task(
        self, kind: str, model: str, shards: Sequence[Path], photos: int, processes: int = 0
    ) -> Task:
        self._jobs += 1
        paths = tuple(str(path) for path in shards)
        return Task(
            kind, model, paths, photos, str(self.directory / f"out-{self._jobs}"), processes
        )

    def _measure(self, *tasks: Task) -> list[Spent]:
        measured = run_fresh(*tasks)
        for task, spent in zip(tasks, measured, strict=True):
            if self._digests.setdefault(task.shards, spent.digest) != spent.digest:
                raise JobFailed(f"{task} wrote other predictions than a task before it")
            self.about = self.about or dict(spent.about)
        return measured


def _marginal(name: str, turns: Turns, budget: float) -> Line:
    loop, job = turns.cost(LOOP), turns.cost(BEAM)
    ratio, each = job.per_photo / loop.per_photo, turns.ratios()
    return Line(
        f"{name}, {turns.photos[0]:,} to {turns.photos[1]:,} photos",
        f"{ratio:.3f} times the loop's ({min(each):.3f} to {max(each):.3f}); "
        f"{1e3 * loop.per_photo:.3f} -> {1e3 * job.per_photo:.3f} CPU-ms per photo",
        f"<= {budget}",
        ratio <= budget,
        {
            "ratio": ratio,
            "ratios": each,
            "loop_cpu_seconds_per_photo": loop.per_photo,
            "job_cpu_seconds_per_photo": job.per_photo,
        },
    )


def _busy(name: str, found: dict[str, float]) -> Line:
    return Line(
        name,
        f"{found['photos_per_second']:.0f} photos/s, busy {found['busy']:.0%}; decoding alone "
        f"{found['decoded_per_second']:.0f} photos/s, which allow {found['allowed']:.0%}; "
        f"{found['ratio']:.2f} of that",
        f">= {BUSY}",
        found["ratio"] >= BUSY,
        found,
    )


def _with_regions(name: str, found: dict[str, float]) -> Line:
    return Line(
        f"{name}, with --regions",
        f"{found['photos_per_second']:.0f} photos/s, {found['without_per_second']:.0f} without: "
        f"{found['with_regions']:.2f} of that; busy {found['busy']:.0%}",
        f">= {WITH_REGIONS}",
        found["with_regions"] >= WITH_REGIONS,
        found,
    )


def _fixed(name: str, turns: Turns) -> Line:
    loop, job = turns.cost(LOOP), turns.cost(BEAM)
    more = job.fixed - loop.fixed
    return Line(
        f"{name}, imports apart",
        f"{more:.2f} CPU-s more than the loop's {loop.fixed:.2f}",
        f"<= {FIXED_CPU_SECONDS:g} CPU-s",
        more <= FIXED_CPU_SECONDS,
        {"loop_cpu_seconds": loop.fixed, "job_cpu_seconds": job.fixed},
    )
