"""Checks the probabilities of countries, regions and 5° districts against true positions.

python -m experiments.areas val=OUT unseen=OUT2 --findings experiments/areas/findings.md

OUT is an output of `locdiffusion geotag --embeddings` on photos whose positions are known; no photo
is read. Districts are cells of 5° by 5°. An area counts where it holds at least 1 % of a photo.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from locdiffusion.decoding.answers import Shares
from locdiffusion.decoding.area_masses import Partitions, RasterPartition, region_partition
from locdiffusion.geography.area_raster import AreaRaster, Box
from locdiffusion.geography.countries import find_countries
from locdiffusion.geography.regions import (
    FIRST_ID,
    SEA_ID,
    find_regions,
    raster_countries,
    region_codes,
)
from locdiffusion.geotagger import Geotagger
from locdiffusion.photos.patterns import expand_patterns
from locdiffusion.sphere.geodesy import unit_vectors
from schemas.layers import LEAST_AREA

DISTRICT_DEG, BATCH, BINS = 5.0, 64, 10
EXPECTED = 5.0
"""Districts with fewer expected photos have no z."""
RIGHT_FROM, TIMED = 0.9, 10
"""Least probability of the share that is right, and batches that are timed."""

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Kind:
    """Probabilities of one kind of area for N photos.

    Attributes:
        shares: Masses of each photo's areas.
        truth: Number of the true area of each photo, ``(N,)``.
        answer: Number of the area of each answer, ``(N,)``.
    """

    shares: list[Shares]
    truth: NDArray[np.int64]
    answer: NDArray[np.int64]

    def stated(self) -> tuple[Float, NDArray[np.bool_]]:
        """Returns the probabilities of all areas of all photos, and whether they are true."""
        rows = [one.probability >= LEAST_AREA for one in self.shares]
        p = np.concatenate([one.probability[r] for one, r in zip(self.shares, rows, strict=True)])
        both = zip(self.shares, rows, self.truth, strict=True)
        return p, np.concatenate([one.ids[r] == truth for one, r, truth in both])

    def of_answer(self) -> tuple[Float, NDArray[np.bool_]]:
        """Returns the probability of the answer's area, and whether it is the true one."""
        p = [one.of(answer) for one, answer in zip(self.shares, self.answer, strict=True)]
        return np.array(p), self.answer == self.truth

    def on_land(self) -> Kind:
        """Leaves the sea out: the probabilities, given that a photo was taken on land."""
        left = [one.ids != SEA_ID for one in self.shares]
        kept = [
            Shares(one.ids[some], one.probability[some] / max(1.0 - one.of(SEA_ID), 1e-9))
            for one, some in zip(self.shares, left, strict=True)
        ]
        return Kind(kept, self.truth, self.answer)

    def z(self) -> Float:
        """Returns (count - Σp) / sqrt(Σ p (1 - p)) where at least EXPECTED photos are expected."""
        size = 1 + max(int(one.ids.max(initial=0)) for one in self.shares)
        size = max(size, 1 + int(self.truth.max()))
        ids = np.concatenate([one.ids for one in self.shares])
        p = np.concatenate([one.probability for one in self.shares])
        expected, spread = (np.bincount(ids, w, size) for w in (p, p * (1.0 - p)))
        count = np.bincount(self.truth, minlength=size)
        enough = expected >= EXPECTED
        found: Float = (count - expected)[enough] / np.sqrt(spread[enough])
        return found


def districts() -> RasterPartition:
    """Builds cells of DISTRICT_DEG."""
    box = Box.around((-180.0, -90.0, 180.0, 90.0), DISTRICT_DEG)
    ids = torch.arange(box.rows * box.columns).view(box.rows, box.columns).int()
    return RasterPartition(AreaRaster(box, ids, 0), box.rows * box.columns)


def numbers(codes: Sequence[str], found: Sequence[str | None]) -> NDArray[np.int64]:
    """Numbers areas by a list of codes; None is the open sea."""
    place = {code: FIRST_ID + index for index, code in enumerate(codes)}
    return np.array([SEA_ID if code is None else place[code] for code in found])


def measured(geotagger: Geotagger, output: str, most: int) -> tuple[dict[str, Kind], list[str]]:
    """Decodes the photos of an output; returns kinds of areas, and lines about sums and time."""
    paths = expand_patterns([f"{output}/embeddings/*.parquet"])
    columns = ["key", "embedding", "truth_latitude", "truth_longitude"]
    tables = [pq.read_table(path, columns=columns) for path in paths]
    values = np.concatenate(
        [np.stack(t["embedding"].to_numpy()).astype(np.float32) for t in tables]
    )
    keys = [key for table in tables for key in table["key"].to_pylist()]
    truth = np.stack([np.concatenate([t[name].to_numpy() for t in tables]) for name in columns[2:]])
    known = np.flatnonzero(np.isfinite(truth).all(0))[:most]
    cells = districts()
    areas = Partitions(region_partition(), cells)
    parts, alone_s, both_s, timed = [], 0.0, 0.0, 0
    for rows in np.array_split(known, max(1, len(known) // BATCH)):
        natural = geotagger.sample(values[rows], [keys[row] for row in rows])
        parts.append(geotagger.decode(natural, values[rows], areas))
        if 1 < len(parts) <= 1 + TIMED:  # the first one builds tables
            start = time.process_time()
            geotagger.decode(natural, values[rows])
            middle = time.process_time()
            geotagger.decode(natural, values[rows], Partitions(region_partition()))
            end = time.process_time()
            alone_s, both_s = alone_s + middle - start, both_s + end - middle
            timed += len(rows)
    found = type(parts[0]).joined(parts)
    assert found.areas is not None and found.areas.admin is not None
    places = [(found.latitude, found.longitude), tuple(truth[:, known])]
    countries = [find_countries(*place).codes for place in places]
    both = zip(places, countries, strict=True)
    regions = [find_regions(place[0], place[1], codes) for place, codes in both]
    country = [numbers(raster_countries(), codes) for codes in countries]
    region = [numbers(region_codes(), codes) for codes in regions]
    cell = [cells.numbers(torch.from_numpy(unit_vectors(*place))).numpy() for place in places]
    kinds = {
        "country": Kind(found.areas.country, country[1], country[0]),
        "region": Kind(found.areas.region, region[1], region[0]),
        "5° district": Kind(found.areas.admin, cell[1], cell[0]),
    }
    left = max(1.0 - float(one.probability.sum()) for one in found.areas.country)
    extra = 1e3 * (both_s - alone_s) / max(1, timed)
    return kinds, [
        f"{len(known):,} photos. Most mass in countries below the least that is kept: {left:.4f}.",
        f"Answers take {1e3 * alone_s / max(1, timed):.1f} ms of a core per photo, and masses of "
        f"countries and regions {extra:.1f} ms more.",
    ]


def bins(p: Float, right: NDArray[np.bool_]) -> Iterator[str]:
    """Yields the rows of a reliability table."""
    number = np.minimum((p * BINS).astype(int), BINS - 1)
    for one in range(BINS):
        some = number == one
        if some.any():
            stated, true = 100.0 * p[some].mean(), 100.0 * right[some].mean()
            label, gap = f"{10 * one} to {10 * one + 10} %", f"{true - stated:+.1f}"
            yield f"| {label} | {some.sum():,} | {stated:.1f} | {true:.1f} | {gap} |"


def lines(name: str, kinds: dict[str, Kind], about: Sequence[str]) -> Iterator[str]:
    """Yields the findings of one output as Markdown."""
    yield f"## {name}\n"
    yield from about
    p, right = kinds["country"].of_answer()
    sure = (p >= RIGHT_FROM) & (kinds["country"].answer != SEA_ID)
    share = f"{100.0 * right[sure].mean():.1f} %" if sure.any() else "none"
    yield f"\n`country_probability` is at least 0.9 for {sure.sum():,} photos: {share} are right."
    land = {f"{kind}, given land": kinds[kind].on_land() for kind in ("country", "region")}
    for kind, one in {**kinds, **land}.items():
        z = one.z()
        yield (
            f"\nz of {len(z)} areas ({kind}) with {EXPECTED:g} photos expected or more: "
            f"mean {z.mean():+.2f}, standard deviation {z.std():.2f}."
            if len(z) > 1
            else f"\nz: too few areas ({kind})."
        )
    for kind, one in kinds.items():
        for title, pair in (("answer's", one.of_answer()), ("all areas", one.stated())):
            yield f"\n{kind}, {title}:\n\n| bin | number | stated % | true % | points |"
            yield "|--|--|--|--|--|"
            yield from bins(*pair)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.areas",
        description="Check the probabilities of areas against true positions.",
    )
    parser.add_argument("outputs", nargs="+", metavar="NAME=OUT", help="outputs with embeddings")
    parser.add_argument("--checkpoint", default="overhead", help="checkpoint (overhead)")
    parser.add_argument("--prior", help="prior of the answers, as of locdiffusion geotag")
    parser.add_argument("--most", type=int, default=10**9, metavar="N", help="photos of each (all)")
    parser.add_argument("--findings", metavar="FILE", help="write the page there, too")
    return parser.parse_args(argv)


def run(options: argparse.Namespace) -> Iterator[str]:
    """Measures each output."""
    torch.set_num_threads(1)
    geotagger = Geotagger.load(options.checkpoint, prior=options.prior, embeds=False)
    yield f"# Probabilities of areas\n\nCheckpoint {geotagger.model_id}.\n"
    for output in options.outputs:
        name, _, path = output.partition("=")
        yield from lines(name, *measured(geotagger, path, options.most))
        yield ""


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the findings."""
    options = parse(argv)
    page = []
    for line in run(options):
        print(line, flush=True)
        page.append(line)
    if options.findings:
        Path(options.findings).write_text("\n".join(page), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
