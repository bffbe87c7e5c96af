"""Outputs that somebody prepared: nothing is written or deleted through a link that lies there."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from locdiffusion.files import atomic_path, write_atomically
from pipelines.build_shards.output import WORK, BuildOutput
from pipelines.geotag.manifests import ManifestName
from pipelines.geotag.output import Output
from pipelines.writing.directory import OutputError
from support.plain_run import geotagged
from support.user_files import photo_number

FOLDERS = ("predictions", "errors", "_manifest", "thumbnails")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(photo_number(1))
    return folder


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder of somebody's own, with files called like those of a run."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for name in ("part-a.parquet", "a.json", "run.json", ".a.parquet.x.tmp", ".locdiffusion-x.tmp"):
        (folder / name).write_bytes(b"{}")
    pq.write_table(pa.table({"key": [None]}), folder / "part-a.parquet")
    return folder


@pytest.mark.parametrize("flags", [(), ("--overwrite",), ("--retry-failed",)])
@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_that_leads_elsewhere_is_refused(
    folder: str, flags: tuple[str, ...], photos: Path, elsewhere: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    assert geotagged(output, photos).status == 0
    if (output / folder).exists():
        (output / folder).rename(output / "moved")
    (output / folder).symlink_to(elsewhere)
    before = {path.name: path.read_bytes() for path in elsewhere.iterdir()}
    outcome = geotagged(output, photos, flags=flags)
    assert outcome.status == 2 and "is a link to" in outcome.console
    assert "remove the link" in outcome.console
    assert {path.name: path.read_bytes() for path in elsewhere.iterdir()} == before


def test_a_link_that_comes_during_the_run_is_not_followed(elsewhere: Path, tmp_path: Path) -> None:
    output = Output(str(tmp_path / "out"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "predictions").symlink_to(elsewhere)
    with pytest.raises(OutputError, match="is a link to"):
        output.write("predictions", "part-new.parquet", data=b"x")
    with pytest.raises(OutputError, match="is a link to"):
        output.remove("predictions", "part-a.parquet")
    build = BuildOutput(str(tmp_path / "out"))
    (tmp_path / "out" / WORK).symlink_to(elsewhere)
    with pytest.raises(OutputError, match="is a link to"):
        build.remove_work()
    with pytest.raises(OutputError, match="is a link to"), build.writing(f"{WORK}/plan", "x"):
        pass
    assert len(list(elsewhere.iterdir())) == 5


def test_files_that_are_links_are_replaced_and_not_written_through(
    photos: Path, elsewhere: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    for name in ("summary.json", "map.html", "run.json"):
        (output / name).symlink_to(elsewhere / "a.json")
    outcome = geotagged(output, photos, flags=("--overwrite",))
    assert outcome.status == 0 and (elsewhere / "a.json").read_bytes() == b"{}"
    assert not (output / "summary.json").is_symlink()


def test_the_output_may_be_a_link_itself(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert geotagged(tmp_path / "link", photos).status == 0
    assert geotagged(tmp_path / "link", photos, flags=("--overwrite",)).status == 0
    assert (tmp_path / "real" / "summary.json").is_file()


@pytest.mark.parametrize("kind", ["pipe", "deep", "list", "text"])
def test_a_record_that_is_none_stops_no_run(kind: str, photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert geotagged(output, photos).status == 0
    for path in (*(output / "_manifest").iterdir(), output / "summary.json"):
        path.unlink()
        if kind == "pipe":
            os.mkfifo(path)
        else:
            path.write_bytes({"deep": b"[" * 200_000, "list": b"[]"}.get(kind, b"\xff"))
    outcome = geotagged(output, photos)
    assert outcome.keys == ["a.jpg"]
    if kind != "pipe":  # the name says that it is done, which only the summary doubts
        assert outcome.status == 1 and "is not what was written there" in outcome.console
        for path in (output / "_manifest").iterdir():
            path.unlink()
        outcome = geotagged(output, photos)
    assert outcome.status == 0 and outcome.keys == ["a.jpg"]


def test_a_manifest_sends_no_run_to_another_host(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    assert geotagged(output, photos).status == 0
    (manifest,) = (output / "_manifest").iterdir()
    text = manifest.read_text("utf-8")
    text = text.replace(ManifestName.parse(manifest.name).shard, "x-0123456789")
    for source in ("http://127.0.0.1:9/a.tar", "memory://x/a.tar", "sftp://host/a.tar"):
        told = text.replace(str(photos), source)
        (output / "_manifest" / "x-0123456789.json").write_text(told, "utf-8")
        asked: list[str] = []
        monkeypatch.setattr("pipelines.geotag.places.exists", asked.append)
        geotagged(output, photos)
        assert not [place for place in asked if "://" in place]


# Temporary files


def test_temporary_files_are_new_and_their_names_cannot_be_guessed(
    elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = set()
    for _ in range(3):
        with atomic_path(tmp_path / "x" / "file") as temporary:
            assert temporary.read_bytes() == b""
            names.add(temporary.name)
            temporary.write_bytes(b"new")
    assert len(names) == 3 and len(os.listdir(tmp_path / "x")) == 1
    monkeypatch.setattr("secrets.token_hex", lambda digits: "guessed")
    (tmp_path / "x" / ".locdiffusion-guessed.tmp").symlink_to(elsewhere / "a.json")
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "x" / "file", b"newer")
    assert (elsewhere / "a.json").read_bytes() == b"{}"
    assert (tmp_path / "x" / "file").read_bytes() == b"new"


def test_what_goes_to_a_bucket_waits_in_a_private_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with atomic_path("memory://private/file") as temporary:
        assert stat.S_IMODE(temporary.parent.stat().st_mode) == 0o700
        assert temporary.parent.parent == tmp_path
        temporary.write_bytes(b"content")
    assert fsspec.filesystem("memory").cat("/private/file") == b"content"
    assert not list(tmp_path.iterdir())
