"""The job as a user runs it: the library's rows, every photo accounted for, clear refusals."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import apache_beam as beam
import geopandas
import numpy as np
import pandas
import pytest
import torch
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from PIL import Image

from locdiffusion import geotag_archive
from locdiffusion.cli.parser import RunFailed, UsageError
from locdiffusion.geotagger import Geotagger
from locdiffusion.photos.listing import Shard
from locdiffusion.sphere.geodesy import great_circle_km
from pipelines.geotag import command as geotag
from pipelines.geotag import transforms, writing
from pipelines.geotag.command import draw_pages, main
from pipelines.geotag.counters import STEPS
from pipelines.geotag.options import parse
from pipelines.geotag.output import Output, RunConfiguration
from pipelines.geotag.progress import TALLY
from support import ROOT
from support.archives import (
    bad_members,
    huge_png,
    photo,
    sound_members,
    tar_bytes,
    truth,
    write_tar,
)
from support.fake_geotagger import FakeGeotagger, FakeLoader
from support.outputs import decoded, plain, tree

CONFIGURATION = RunConfiguration("fake-1", "f" * 64, 0, {"mode": "density"})


pytestmark = pytest.mark.usefixtures("no_pages")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("archive")
    for index in range(3):
        write_tar(root / f"val-{index:03d}.tar", sound_members(12, 20 * index))
    bad = [member for members, _ in bad_members().values() for member in members]
    write_tar(root / "bad-0.tar", bad)
    (root / "cut-0.tar").write_bytes(tar_bytes(sound_members(9, 60))[:9000])
    return root


def run(inputs: Path | str, output: Path, *flags: str, load: Callable | None = None) -> int:
    arguments = ["--input", str(inputs), "--output", str(output), "--accept-damaged", *flags]
    return main(arguments, load=load or FakeLoader())


def results(root: Path) -> dict[str, bytes]:
    """What a run wrote, but for the summary, which holds times."""
    return {name: data for name, data in tree(root).items() if name != "summary.json"}


# Rows


def test_same_rows_as_the_library_whatever_the_batch_size(archive: Path, tmp_path: Path) -> None:
    members = [member for start in (0, 20, 40) for member in sound_members(12, start)]
    photos = {name.rpartition(".")[0]: data for name, data in members if name[-4:] != "json"}
    images = [Image.open(io.BytesIO(data)) for data in photos.values()]
    columns = FakeGeotagger().columns(images, list(photos))
    wanted = pandas.DataFrame(
        {
            "latitude": columns.latitude,
            "longitude": columns.longitude,
            "radius_50_km": columns.radius_50_km,
            "radius_90_km": columns.radius_90_km,
            "information_nats": columns.information_nats,
            **{
                f"prob_{km}km": columns.probability[:, index]
                for index, km in enumerate((1, 25, 200, 750, 2500))
            },
            "modes": [[vars(mode) for mode in modes] for modes in columns.modes],
        },
        index=list(photos),
    )
    trees = []
    for batch_size in (1, 7, 64):
        output = tmp_path / str(batch_size)
        assert run(archive / "val-*.tar", output, f"--batch_size={batch_size}") == 0
        frame = geopandas.read_parquet(output / "predictions").set_index("key")
        found = pandas.DataFrame(frame[wanted.columns]).loc[wanted.index]
        found["modes"] = [list(modes) for modes in found["modes"]]
        pandas.testing.assert_frame_equal(found, wanted, check_exact=True, check_names=False)
        trees.append(results(output))
    assert trees[0] == trees[1] == trees[2]


@pytest.mark.parametrize("mode", ["density", "sampling"])
def test_same_rows_as_the_library_with_a_real_network(
    tmp_path: Path, tiny_checkpoint: Path, mode: str
) -> None:
    """Equal but for the rounding of matrix products of another size.

    The network knows next to nothing: of places that are as good to a millionth it may give others.
    """
    members = sound_members(6)
    write_tar(tmp_path / "s-0.tar", members)
    settings = ["--checkpoint", str(tiny_checkpoint), "--mode", mode, "--samples=3", "--steps=2"]
    photos = {name.rpartition(".")[0]: data for name, data in members if name[-4:] != "json"}
    images = [Image.open(io.BytesIO(data)) for data in photos.values()]
    model = Geotagger.load(str(tiny_checkpoint), mode=mode, samples=3, steps=2)
    wanted = model.geotag(images, list(photos), regions=True)
    areas = [wanted[0].region(level).area_km2 for level in (0.5, 0.9)]
    for batch_size in (1, 4):
        output = tmp_path / f"out-{batch_size}"
        flags = ["--output", str(output), "--regions", *settings]
        arguments = ["--input", f"{tmp_path}/*.tar", *flags]
        assert main([*arguments, f"--batch_size={batch_size}"]) == 0
        found = geopandas.read_parquet(output / "predictions").set_index("key").loc[list(photos)]
        place = [[one.latitude for one in wanted], [one.longitude for one in wanted]]
        apart = great_circle_km(found["latitude"], found["longitude"], *map(np.array, place))
        assert np.all(apart < 5e-3 * found["radius_50_km"])
        for name in ("radius_50_km", "radius_90_km", "information_nats"):
            theirs = [getattr(one, name) for one in wanted]
            np.testing.assert_allclose(found[name], theirs, rtol=1e-3, atol=1e-3)
        assert (found.model_id == model.model_id).all()
        drawn = geopandas.read_parquet(output / "regions").set_index("key").loc[next(iter(photos))]
        np.testing.assert_allclose(drawn.sort_values("level")["area_km2"], areas, rtol=2e-3)


def test_in_python_the_same_as_the_command(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_tar(tmp_path / "s-0.tar", sound_members(4))
    flags = {"checkpoint": tiny_checkpoint, "direct_num_workers": 1, "prior": None}
    summary = geotag_archive(tmp_path / "s-0.tar", "python", regions=True, bf16=False, **flags)
    typed = ["s-0.tar", "--checkpoint", str(tiny_checkpoint), "--regions"]
    assert main(typed) == 0, "and the output is named after the tar"
    assert summary == json.loads((tmp_path / "python" / "summary.json").read_text())
    assert summary["predictions"] == 4 and results(tmp_path / "python") == results(
        tmp_path / "s-0-geotags"
    )
    with pytest.raises(ValueError, match="did you mean --regions"):
        geotag_archive("s-0.tar", "python", regionss=True)
    (tmp_path / "s-0.tar").write_bytes(b"no tar")
    with pytest.raises(RunFailed, match="no photo was found"):
        geotag_archive(["s-0.tar"], "other", checkpoint=tiny_checkpoint)


def test_without_beam_a_plain_loop_writes_the_same_bytes(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(archive / "*.tar", tmp_path / "beam") == 0
    monkeypatch.setitem(sys.modules, "apache_beam", None)  # as where it is not installed
    monkeypatch.setitem(sys.modules, "pipelines.geotag.transforms", None)
    assert run(archive / "*.tar", tmp_path / "out") == 0
    found, wanted = tree(tmp_path / "out"), tree(tmp_path / "beam")
    assert found.pop("summary.json") and wanted.pop("summary.json")  # it has the seconds
    assert found == wanted
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.parquet")}
    assert written and run(archive / "*.tar", tmp_path / "out") == 0
    assert all(path.stat().st_mtime_ns == time for path, time in written.items())


def test_photos_in_are_predictions_and_errors_out(archive: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert run(archive / "*.tar", output, "--batch_size=5") == 0
    summary = json.loads((output / "summary.json").read_text())
    predictions = geopandas.read_parquet(output / "predictions")
    errors = pandas.read_parquet(output / "errors")
    assert list(errors[errors.shard.map(plain) == "cut-0"].status) == [
        "shard_truncated",
        "truncated",
    ]
    # 36 sound photos, the bad ones and the good ones beside them, the cut shard's own.
    bad = sum(len(members) for members, _ in bad_members().values())
    cut = (predictions.shard.map(plain) == "cut-0").sum() + 1
    assert summary["photos"] == 36 + bad + cut == len(predictions) + errors.key.notna().sum()
    assert summary["predictions"] == len(predictions) and summary["mismatches"] == []
    assert summary["photo_errors"] == errors.key.notna().sum() and summary["shard_errors"] == 1
    assert summary["errors_by_status"] == errors.status.value_counts().to_dict()
    assert summary["shards"] == {"complete": 4, "truncated": 1}
    for name, (members, status) in bad_members().items():
        key = members[0][0].partition(".")[0]
        rows = errors[
            (errors.key.str.partition(".")[0] == key) & (errors.shard.map(plain) == "bad-0")
        ]
        assert list(rows.status) == [status], name
    assert tuple(summary["stage_seconds"]) == STEPS
    assert summary["accuracy"]["val"]["n"] == predictions.truth_latitude[
        predictions.shard.str.startswith("val")
    ].notna().sum()  # fmt: skip


def test_repeated_bundles_and_another_shard_order_give_the_same(
    archive: Path, tmp_path: Path
) -> None:
    assert run(archive / "*.tar", tmp_path / "a") == 0
    flag = "--direct_runner_bundle_repeat=2"
    assert run(archive / "*.tar", tmp_path / "b", flag, "--batch_size", "3") == 0
    shards = sorted(str(path) for path in archive.glob("*.tar"))[::-1]
    assert (
        main(["--accept-damaged", *shards, "--output", str(tmp_path / "c")], load=FakeLoader()) == 0
    )
    assert results(tmp_path / "a") == results(tmp_path / "b") == results(tmp_path / "c")


def test_a_runner_that_breaks_the_fusion_loses_nothing(archive: Path, tmp_path: Path) -> None:
    """Batches that a shuffle scattered over bundles are regrouped."""
    paths = sorted(archive.glob("*.tar"))
    batches = [batch for path in paths for batch in decoded(path, 2, path.stem)]
    output = Output(str(tmp_path / "scattered"))
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        for half in (0, 1):
            part = pipeline | f"Half{half}" >> beam.Create(batches[half::2])
            both = part if half == 0 else (both, part) | beam.Flatten()  # noqa: F821
        _ = both | beam.Reshuffle() | writing.WriteShards(output, CONFIGURATION)
    direct = Output(str(tmp_path / "direct"))
    for path in paths:
        whole = [batch for batch in batches if plain(batch.shard.id) == path.stem]
        writing.write_shard(direct, CONFIGURATION, whole)
    assert tree(tmp_path / "scattered") == tree(tmp_path / "direct")


def test_what_a_bundle_leaves_incomplete_is_passed_on(archive: Path) -> None:
    batches = decoded(archive / "val-000.tar", 5)
    gather = writing.GatherShard()
    gather.start_bundle()
    assert [list(gather.process(batch)) for batch in batches[:-1]] == [[], []]
    rest = list(gather.finish_bundle())
    assert [one.tag for one in rest] == ["scattered"] * 2
    assert [one.value.value for one in rest] == [("s-0", batch) for batch in batches[:-1]]
    gather.start_bundle()
    assert [whole for batch in batches for whole in gather.process(batch)] == [batches]
    assert list(gather.finish_bundle()) == []


def test_the_graph_reads_like_the_job(tmp_path: Path) -> None:
    pipeline = beam.Pipeline(runner=FnApiRunner())
    job = transforms.Geotag(FakeLoader(), CONFIGURATION, Output(str(tmp_path)), 8)
    _ = pipeline | beam.Create([Shard("s", "s.tar")]) | "Geotag" >> job
    (top,) = [one for one in pipeline._root_transform().parts if one.full_label == "Geotag"]
    steps = [part.full_label.partition("/")[2] for part in top.parts]
    assert steps == [
        "Reshuffle",
        "ReadShards",
        "Embed",
        "Sample",
        "Decode",
        "WriteShards",
        "KeptAndWritten",
    ]


# Resuming


def test_a_stopped_run_goes_on(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    whole, output = tmp_path / "whole", tmp_path / "out"
    assert run(archive / "*.tar", whole) == 0
    real, written = writing.write_shard, []

    def stops(target: Output, *rest: object) -> dict:
        if len(written) == 2:
            raise OSError("pulled the plug")
        written.append(target)
        return real(target, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(writing, "write_shard", stops)
        assert run(archive / "*.tar", output) == 1
    told = capsys.readouterr().err
    assert "error: OSError: pulled the plug; what is finished is kept; LOCDIFFUSION_TR" in told
    assert "Traceback" not in told
    done = {path: path.stat().st_mtime_ns for path in output.rglob("*.parquet")}
    assert len(done) == 4  # two shards are safe although the job failed
    before = TALLY.photos
    assert run(archive / "*.tar", output) == 0
    assert results(output) == results(whole)
    assert all(path.stat().st_mtime_ns == time for path, time in done.items())
    assert 0 < TALLY.photos - before < json.loads((output / "summary.json").read_text())["photos"]
    earlier = json.loads((output / "summary.json").read_text())
    monkeypatch.setitem(sys.modules, "pipelines.geotag.transforms", None)  # without Beam, too
    assert run(archive / "*.tar", output) == 0  # nothing left to do: says the same
    assert json.loads((output / "summary.json").read_text()) == earlier


@pytest.mark.usefixtures("plain_loop")
def test_another_run_in_the_directory_is_refused(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "out"
    shard = archive / "val-000.tar"
    assert run(shard, output) == 0
    first = results(output)
    assert run(shard, output, "--seed=3", load=FakeLoader(3)) == 2
    assert "seed 0 there, 3 now" in capsys.readouterr().err
    assert results(output) == first
    assert run(shard, output, "--seed=3", "--overwrite", load=FakeLoader(3)) == 0
    assert results(output) != first
    assert run(archive / "val-001.tar", output, "--seed=3", load=FakeLoader(3)) == 0  # more photos
    assert len(geopandas.read_parquet(output / "predictions")) == 24


# Refusals


@dataclass(frozen=True)
class MisfitLoader:
    error: type[Exception] = ValueError

    def __call__(self) -> FakeGeotagger:
        raise self.error("checkpoint was trained on 'a', --encoder is 'b'; leave --encoder out")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--input", "{dir}/none-*.tar"], "no file matches"),
        (["--input", "{dir}/{{000..002}}.tar"], "no file matches"),
        (
            ["--batchsize=3"],
            "'--batchsize=3' is no flag of this command, nor of Beam; did you mean",
        ),
        (["--batch_sise", "3"], "did you mean --batch-size?"),
        (["--direct_num_worker=2"], "did you mean --direct_num_workers?"),
        (["--over"], "no flag"),
        (["--direct_num_workers=two"], "direct_num_workers"),
        (["--batch_size=0"], "at least 1"),
        (["--max_error_fraction=2"], "between 0 and 1"),
        (["--mode=fast"], "sampling"),
        (["--runner=DaskRunner"], "drops branches"),
        (["--runner=DataflowRuner"], "did you mean DataflowRunner?"),
    ],
)
def test_mistakes_are_told_in_one_line(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture, flags: list[str], message: str
) -> None:
    flags = [flag.format(dir=archive) for flag in flags]
    before = [] if "--input" in flags else ["--input", f"{archive}/val-000.tar"]
    arguments = [*before, "--output", str(tmp_path / "out"), *flags]
    assert main(arguments, load=FakeLoader()) == 2
    told = capsys.readouterr().err
    assert message.format(dir=archive) in told and told.startswith("error: ")
    assert told.count("\n") == 1 and not (tmp_path / "out").exists()


def test_input_and_output_are_required(capsys: pytest.CaptureFixture) -> None:
    assert main([]) == 2
    assert "name a folder, a tar or a zip of photos" in capsys.readouterr().err
    assert main(["--summarise"]) == 2
    assert "--output" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError, RuntimeError, FileNotFoundError])
def test_a_checkpoint_for_another_encoder_is_refused_before_the_job(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture, error: type[Exception]
) -> None:
    assert run(archive / "*.tar", tmp_path / "out", load=MisfitLoader(error)) == 2
    assert "leave --encoder out" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_real_refusals_of_a_checkpoint(
    archive: Path, tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture
) -> None:
    for flags, message in (
        (["--checkpoint", str(tiny_checkpoint), "--encoder=open_clip:a/b"], "Leave --encoder out"),
        (["--checkpoint", str(tmp_path / "none")], "No checkpoint at"),
    ):
        arguments = ["--input", f"{archive}/*.tar", "--output", str(tmp_path / "out"), *flags]
        assert main(arguments) == 2
        assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_an_output_of_somebody_else_is_refused(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "map.png").touch()
    assert run(archive / "*.tar", tmp_path) == 2
    assert "choose another --output" in capsys.readouterr().err


@pytest.mark.usefixtures("plain_loop")
@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.jpg", b"text")], "all of 1 photo failed"),
        ([("a.png", huge_png(30_000, 30_000)), ("b.jpg", photo(1)[:99])], "all of 2 photos failed"),
        ([], "no photo was found in 1 shard;"),
        (b"<html>404</html>" + bytes(600), "no photo was found in 1 shard;"),
        (b"", "no photo was found in 1 shard;"),
    ],
)
def test_exit_1_where_nothing_came_out(
    tmp_path: Path, capsys: pytest.CaptureFixture, members: list | bytes, message: str
) -> None:
    data = members if isinstance(members, bytes) else tar_bytes(members)
    (tmp_path / "s.tar").write_bytes(data)
    assert run(tmp_path / "s.tar", tmp_path / "out") == 1
    told = capsys.readouterr()
    assert message in told.err and "errors" in told.err
    assert len(geopandas.read_parquet(tmp_path / "out/predictions")) == 0


@pytest.mark.usefixtures("plain_loop")
def test_max_error_fraction(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_tar(tmp_path / "s.tar", [("a.jpg", b"text"), ("b.jpg", photo(1)), ("c.jpg", photo(2))])
    assert run(tmp_path / "s.tar", tmp_path / "out", "--max-error-fraction=0.3") == 1
    assert "1 of 3 photos failed, above --max-error-fraction 0.3" in capsys.readouterr().err
    assert run(tmp_path / "s.tar", tmp_path / "out", "--max-error-fraction=0.4") == 0


@pytest.mark.usefixtures("plain_loop")
def test_counts_that_do_not_add_up_exit_1(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    fields = {"photos": 0, "read_failed": False, "errors_by_status": {}}
    fields |= {"config_hash": "c", "version": "v"}

    def kept(output: Output, shard: Shard, *rest: object) -> dict[str, object] | None:
        return {**fields, "shard": shard.id} if plain(shard.id) == "val-001" else None

    monkeypatch.setattr(Output, "kept", kept)
    assert run(archive / "val-*.tar", tmp_path / "out") == 1
    assert "1 shard without a result: " in plain(capsys.readouterr().err)


# What is printed


def test_the_table_and_the_maps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(geotag, "draw_pages", draw_pages)
    monkeypatch.setitem(sys.modules, "pipelines.geotag.pages", None)
    write_tar(tmp_path / "val-0.tar", [("a.jpg", photo(1)), ("a.json", truth())])
    assert run(tmp_path / "val-0.tar", tmp_path / "out") == 0
    told = capsys.readouterr()
    assert "a map or the report is missing" in told.err and "all results are complete" in told.err
    assert f"{tmp_path / 'out'}\n" in told.out and "map.html" not in told.out
    for word in ("photos", "predictions", "images/s", "decode_photo", "median km", "in r50", "val"):
        assert word in told.out


def test_help_teaches(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    told = capsys.readouterr().out
    for word in ("examples:", "{000..099}", "geopandas.read_parquet", "exit status", "--encoder"):
        assert word in told


def test_help_needs_neither_beam_nor_torch() -> None:
    code = (
        "import sys\nfrom pipelines.geotag.command import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('apache_beam', 'torch', 'matplotlib') if m in sys.modules])"
    )
    made = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert made.stdout.splitlines()[-1] == "[]"


def test_one_model_per_process(archive: Path, tmp_path: Path) -> None:
    from pipelines.geotag.model_cache import loaded

    load = FakeLoader(seed=11)
    assert run(archive / "val-*.tar", tmp_path / "out", "--seed=11", load=load) == 0
    model = loaded(load)
    assert sum(model.geotagger.batch_sizes) == 36 and loaded(FakeLoader(seed=11)) is model
    assert np.all(np.array(model.geotagger.batch_sizes) == 12)


def test_a_run_decides_once_how_the_encoder_computes(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is resumed on another machine stays as it was, or is refused."""

    def settled(output: str, *flags: str) -> geotag.Job:
        words = [str(archive / "val-000.tar"), "--output", str(tmp_path / output), *flags]
        return geotag.build(parse(words), FakeLoader())

    def card(has_it: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has_it)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")

    on_gpu = "--device=cuda"
    card(True)
    for output, flags in (("a", ()), ("b", ("--no-bf16",)), ("c", ("--bf16=false",))):
        job = settled(output, on_gpu, *flags)
        assert job.options.loader.bf16 is not bool(flags)
        assert job.configuration.settings.get("bf16", False) is not bool(flags)
        assert settled(output, on_gpu).configuration == job.configuration, "resumed"
    assert settled("b", on_gpu, "--overwrite").options.loader.bf16, "decided anew"
    card(False)
    assert settled("d", on_gpu).options.loader.bf16 is False
    with pytest.raises(UsageError, match="Tesla T4, which computes without it"):
        settled("a", on_gpu)
    assert "bf16" not in settled("e").configuration.settings
