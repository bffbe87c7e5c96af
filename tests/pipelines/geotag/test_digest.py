"""A run's digest is the same whoever combined it, and says what the rows themselves say."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to

from locdiffusion.evaluate.metrics import coverage, error_summary
from locdiffusion.sphere.geodesy import great_circle_km
from pipelines.geotag import digest as digests
from pipelines.geotag import sample as samples
from pipelines.geotag import summary as summaries
from pipelines.geotag.combining import Combined, DigestRun
from pipelines.geotag.digest import RunDigest, accuracy_row, error_counts
from pipelines.geotag.output import DIGEST, Output
from pipelines.geotag.sample import ranks
from pipelines.geotag.shard_files import add_shards, digest_shards
from pipelines.geotag.summary import read_digest, run_digest, summarise
from pipelines.writing.directory import OutputError
from support import ROOT
from support.outputs import files_of, manifest_of, write_predictions, write_run, write_thumbnails

NAMES = [f"{group}-{number:03d}" for group in ("a", "b", "c") for number in range(4)]


@pytest.fixture
def output(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> Output:
    """A run with more rows, groups, kinds and entries than a digest keeps."""
    monkeypatch.setattr(samples, "ROWS", 40)
    monkeypatch.setattr(samples, "KNOWN_ROWS", 25)
    monkeypatch.setattr(samples, "THUMBNAIL_BYTES", 300)
    monkeypatch.setattr(digests, "MOST_GROUPS", 2)
    monkeypatch.setattr(digests, "MOST_KINDS", 5)
    monkeypatch.setattr(digests, "MOST_TOLD_OF_OTHERS", 2)
    monkeypatch.setitem(digests.MOST_TOLD, "problems", 3)
    return write_run(tmp_path, rng, NAMES)


def test_every_order_of_merging_gives_the_same_bytes(
    output: Output, rng: np.random.Generator
) -> None:
    wanted = digest_shards(output, list(output.manifest_files().values())).to_bytes()
    combined, names = Combined(), output.manifest_files()
    for _ in range(8):
        order = rng.permutation(NAMES).tolist()
        cuts = sorted(rng.integers(0, len(order), 3).tolist())
        parts = [order[a:b] for a, b in zip([0, *cuts], [*cuts, len(order)], strict=True)]
        digested = []
        for part in parts:
            accumulator = combined.create_accumulator()
            for shard in part:
                accumulator = combined.add_input(accumulator, digest_shards(output, [names[shard]]))
            digested.append(pickle.loads(pickle.dumps(accumulator)))
        first = combined.merge_accumulators(digested[:2])
        whole = combined.extract_output(combined.merge_accumulators([*digested[2:], first]))
        assert whole.to_bytes() == wanted
        assert RunDigest.from_bytes(wanted).to_bytes() == wanted


def test_the_graph_the_files_and_the_rows_say_the_same(
    output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = NAMES[::2]
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        manifests = pipeline | beam.Create([output.manifest(shard) for shard in new])
        assert_that(manifests | DigestRun(output), equal_to([None]))
    combined = read_digest(output)
    assert combined is not None and combined.covers(output.sizes_of_shards())
    by_graph = Path(output.path(DIGEST)).read_bytes()
    output.remove(DIGEST)
    from_files = summarise(output)
    assert Path(output.path(DIGEST)).read_bytes() == by_graph
    monkeypatch.setattr(summaries, "_digests", None)
    assert summarise(output) == from_files, "the second is read from the digest"

    rows = pa.concat_tables(
        pq.read_table(path) for path in sorted(Path(output.root).glob("predictions/*"))
    )
    manifests = [output.manifest(shard) for shard in NAMES]
    assert from_files["predictions"] == len(rows) == combined.sample.rows
    assert combined.sample.known == len(rows) - rows["truth_latitude"].null_count
    for name in ("photos", "photo_errors", "shard_errors", "not_understood"):
        assert from_files[name] == sum(one[name] for one in manifests)
    assert from_files["shards"] == Counter(one["tar_status"] for one in manifests)
    assert from_files["left_out"]["total"] == 3 * len(NAMES)
    assert [one["shard"] for one in from_files["damaged"]] == ["a-001", "b-002"]
    assert from_files["unlisted"] == {"damaged": 1} and from_files["read_again"] == ["a-003"]
    groups = np.array([name[0] for name in rows["shard"].to_pylist()])
    columns = ("latitude", "longitude", "truth_latitude", "truth_longitude")
    distance = great_circle_km(*(np.asarray(rows[name]) for name in columns))
    masks = {"a": groups == "a", "b": groups == "b", "all others": groups == "c"}
    for group, mask in {**masks, "all": groups != ""}.items():
        known = mask & np.isfinite(distance)
        found, wanted = from_files["accuracy"][group], error_summary(distance[known])
        assert (found["n"], found["within"]) == (wanted["n"], wanted["within"])
        assert found["median_km"] == pytest.approx(wanted["median_km"], rel=0.005)
        for level in ("50", "90"):
            radius = np.asarray(rows[f"radius_{level}_km"])[known]
            assert found[f"coverage_{level}"] == coverage(distance[known], radius)


def test_which_thumbnails_fit_does_not_depend_on_the_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setattr(samples, "THUMBNAIL_BYTES", 10)
    parts = []
    by_rank = sorted("abc", key=lambda shard: ranks({shard: 1})[0])
    for shard, size in zip(by_rank, (6, 5, 1), strict=True):
        digest = RunDigest()
        write_predictions(tmp_path, shard, 1, rng)
        write_thumbnails(tmp_path, shard, {f"{shard}-0": bytes(size)})
        add_shards(digest, [files_of(tmp_path, shard)])
        parts.append(pickle.dumps(digest))
    found = set()
    for first, *others in permutations(parts):
        whole = pickle.loads(first)
        for other in others:
            whole.update(pickle.loads(other))
            whole = pickle.loads(pickle.dumps(whole))  # which cuts
        found.add(whole.to_bytes())
    assert len(found) == 1


def test_the_sample_is_the_lowest_ranks_of_all_rows(output: Output) -> None:
    sample = run_digest(output).sample
    every = []
    for shard in NAMES:
        table = pq.read_table(output.part("predictions", shard))
        shown = set(pq.read_table(output.part("thumbnails", shard))["key"].to_pylist())
        rank = ranks({shard: len(table)})[0].tolist()
        truth = table["truth_latitude"].is_valid().to_pylist()
        keys = table["key"].to_pylist()
        every += [(r, k, t, k in shown) for r, k, t in zip(rank, keys, truth, strict=True)]
    every.sort()
    known = [key for _, key, truth, _ in every if truth][:25]
    first = [key for _, key, _, _ in every[:40]]
    assert set(sample.table["key"].to_pylist()) == {*first, *known}
    shown = [key for _, key, _, shown in every if shown]
    table = sample.table.filter(sample.table["thumbnail"].is_valid())
    assert table["key"].to_pylist() == shown[: len(table)] and len(table) > 3
    sizes = [len(jpeg) for jpeg in table["thumbnail"].to_pylist()]
    assert 300 <= sum(sizes) < 300 + 60


def test_ranks_are_uniform_and_differ_by_shard() -> None:
    shares = np.split(ranks({"a": 20_000, "b": 20_000})[0] / 2.0**64, 2)
    for share in shares:
        counts = np.histogram(share, 20, (0, 1))[0]
        assert np.sum((counts - 1000) ** 2 / 1000) < 50  # χ² of 19 degrees: p < 2e-4
    assert abs(np.corrcoef(*shares)[0, 1]) < 0.03


def test_the_median_is_within_half_a_per_cent(rng: np.random.Generator) -> None:
    for n in (1, 2, 3, 10, 1001, 20_000):
        km = np.exp(rng.normal(5, 2, n)).clip(0, 20_015)
        rows = np.stack([km, km, km], axis=1)
        parts = [error_counts(part) for part in np.array_split(rows, 3) if len(part)]
        for order in permutations(parts):
            whole: Counter[str] = Counter()
            for part in order:
                whole.update(part)
            assert whole == error_counts(rows)
        assert accuracy_row(whole)["median_km"] == pytest.approx(np.median(km), rel=0.005)
    zero = error_counts(np.zeros((2, 3)))
    assert accuracy_row(zero)["median_km"] == 0 and accuracy_row(zero)["coverage_50"] == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "errors/part-a-001.parquet").unlink(),
        lambda root: manifest_of(root, "a-001").unlink(),
        lambda root: (root / "predictions/part-z.parquet").write_bytes(b""),
        lambda root: (root / DIGEST).write_bytes(b"no digest"),
        lambda root: (root / DIGEST).write_bytes((root / DIGEST).read_bytes()[:-9]),
        lambda root: pq.write_table(pa.table({"key": ["a"]}), root / DIGEST),
        lambda root: retype(root / DIGEST),
    ],
)
def test_a_digest_that_is_not_of_these_files_is_not_believed(
    output: Output, change: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    summarise(output)
    change(Path(output.root))
    read = []
    monkeypatch.setattr(
        summaries, "digest_shards", lambda _, names: read.extend(names) or RunDigest()
    )
    summarise(output)
    assert len(read) >= len(NAMES) - 1


def retype(path: Path) -> None:
    """Puts structures where latitudes were."""
    table = pq.read_table(path)
    at = table.schema.get_field_index("latitude")
    pq.write_table(table.set_column(at, "latitude", pa.array([{"x": 1}] * len(table))), path)


def test_a_part_whose_columns_are_of_other_types_is_named(output: Output) -> None:
    path = Path(output.part("predictions", "a-001"))
    retype(path)
    (told,) = run_digest(output).told["mismatches"]
    assert f"{path} cannot be read" in told[2][0]


def test_processes_digest_many_shards(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = run_digest(output).to_bytes()
    output.remove(DIGEST)
    monkeypatch.setattr(summaries, "CHUNK", 3)
    monkeypatch.setattr(summaries, "usable_cores", lambda: 2)
    assert run_digest(output).to_bytes() == wanted


def test_a_process_that_fails_is_told(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summaries, "CHUNK", 3)
    monkeypatch.setattr(summaries, "usable_cores", lambda: 2)
    monkeypatch.setattr(summaries, "digest_in_child", json.loads)  # which takes no such arguments
    with pytest.raises(OutputError, match=r"has no summary .*TypeError.*; try again"):
        run_digest(output)


def test_processes_run_no_script_of_the_user_again(output: Output, tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(
        "from pipelines.geotag import summary\n"
        "from pipelines.geotag.output import Output\n"
        "summary.CHUNK, summary.usable_cores = 3, lambda: 2\n"
        f"digest = summary.run_digest(Output({output.root!r}))\n"
        "print(digest.sample.rows)\n"
    )
    wanted = run_digest(output).sample.rows
    output.remove(DIGEST)
    ran = subprocess.run([sys.executable, script], cwd=ROOT, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, f"{wanted}\n"), ran.stderr


def test_a_process_that_digests_shards_loads_no_torch() -> None:
    code = "import sys, pipelines.geotag.summary; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
