"""The names of manifests: what a listing alone must tell."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from locdiffusion.photos.listing import Shard
from pipelines.geotag import output as output_module
from pipelines.geotag.manifests import UNREAD, ManifestName, first_of_each, formats_digest
from pipelines.geotag.output import Output, RunConfiguration
from support.archives import sound_members, write_tar

CONFIGURATION = RunConfiguration("fake-1", "f" * 64, 7, {"thumbnails": 3})
LAYERS = ("predictions", "errors", "thumbnails")


@pytest.mark.parametrize("shard", ["s-0", "a.b-0123456789", "a.0123456789abcdef-0123456789"])
@pytest.mark.parametrize("state", ["", UNREAD, formats_digest(["JPEG"])])
def test_a_name_is_read_as_it_was_made(shard: str, state: str) -> None:
    name = ManifestName(shard, "0123456789abcdef", state)
    assert ManifestName.parse(name.file) == name


@pytest.mark.parametrize(
    "file", ["s-0.json", "a.b-0123456789.json", "s.0123.json", "metadata.json"]
)
def test_a_name_of_somebody_else_has_no_mark(file: str) -> None:
    assert ManifestName.parse(file) == ManifestName(file.removesuffix(".json"))


def test_of_two_manifests_the_better_one_counts() -> None:
    done, lacking, unread = (
        ManifestName("s", "0" * 16, state) for state in ("", "01234567", UNREAD)
    )
    for names in ([unread, lacking, done], [done, unread, lacking]):
        assert first_of_each(names) == {"s": done}
    assert first_of_each([unread, lacking]) == {"s": lacking}


@pytest.fixture
def output(tmp_path: Path) -> Output:
    output = Output(str(tmp_path / "out"))
    output.prepare(CONFIGURATION, [])
    return output


@pytest.fixture
def shards(tmp_path: Path) -> list[Shard]:
    paths = (write_tar(tmp_path / f"{name}.tar", sound_members(1)) for name in "abc")
    return [Shard(path.stem, str(path)) for path in paths]


def finish(output: Output, shard: Shard, **fields: Any) -> str:
    """Writes what a finished shard has, as far as it is looked at; returns the manifest's name."""
    for layer in LAYERS:
        output.write(layer, f"part-{shard.id}.parquet", data=b"")
    manifest = {
        "shard": shard.id,
        "source": shard.url,
        "version": shard.version,
        "config_hash": CONFIGURATION.hash,
        "tar_status": "complete",
        "read_failed": False,
        "readable_formats": list(output_module.readable_formats()),
        "errors_by_status": {},
        "layers": dict.fromkeys(LAYERS, 0),
        **dict.fromkeys(("photos", "predictions", "photo_errors", "shard_errors"), 0),
        **fields,
    }
    file = ManifestName.of(manifest).file
    output.write("_manifest", file, data=json.dumps(manifest).encode())
    return file


def left_to_do(output: Output, shards: list[Shard], **how: Any) -> list[str]:
    return [shard.id for shard in output.prepare(CONFIGURATION, shards, **how).unfinished]


def test_no_manifest_of_the_input_is_read(
    output: Output, shards: list[Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    for shard in shards:
        finish(output, shard)
    lacking = {"errors_by_status": {"no_reader": 1}}
    finish(output, Shard("other", "/gone.tar"), **lacking)
    read = []
    real = Output.manifest
    monkeypatch.setattr(
        Output, "manifest", lambda self, id, file: read.append(id) or real(self, id, file)
    )
    assert left_to_do(output, shards) == [] and read == ["other"]
    read.clear()
    assert left_to_do(output, shards, retry_failed=True) == [] and read == ["a", "b", "c"]


def test_what_is_left_to_do_has_no_files(output: Output, shards: list[Shard]) -> None:
    finish(output, shards[0], read_failed=True)
    finish(output, shards[1], version="another")
    kept = finish(output, shards[2])
    assert left_to_do(output, shards) == ["a", "b"]
    assert output.names("_manifest", "*") == [kept]
    assert all(output.names(layer, "*") == ["part-c.parquet"] for layer in LAYERS)
    output.remove("thumbnails", "part-c.parquet")
    assert left_to_do(output, shards) == ["a", "b", "c"] and output.names("errors", "*") == []


def test_readers_that_came_are_used_and_readers_that_went_cost_nothing(
    output: Output, shards: list[Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    formats = output_module.readable_formats()
    for shard in shards:
        finish(output, shard, errors_by_status={"no_reader": 1} if shard.id == "b" else {})
    for now, wanted in ((formats, []), (formats[1:], []), ((*formats[1:], "JXL"), ["b"])):
        monkeypatch.setattr(output_module, "readable_formats", lambda now=now: now)
        assert left_to_do(output, shards) == wanted
        assert output.kept(shards[0], CONFIGURATION)


def test_the_better_of_two_manifests_stays(output: Output, shards: list[Shard]) -> None:
    finish(output, shards[0], read_failed=True)
    done = finish(output, shards[0])
    assert len(output.names("_manifest", "*")) == 2 and output.manifest_names() == ["a"]
    assert [manifest["read_failed"] for manifest in output.manifests()] == [False]
    assert left_to_do(output, shards) == ["b", "c"]
    assert output.names("_manifest", "*") == [done]


def test_who_opens_a_shard_asks_for_that_one_alone(
    output: Output, shards: list[Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(output, shards[0])
    finish(output, shards[1], errors_by_status={"no_reader": 1})
    finish(output, shards[2], read_failed=True)
    monkeypatch.setattr(Output, "names", lambda *arguments: pytest.fail("a folder is listed"))
    assert [bool(output.kept(shard, CONFIGURATION)) for shard in shards] == [True, True, False]
    assert not output.kept(shards[0], replace(CONFIGURATION, seed=8))
    assert (output.kept(shards[0], CONFIGURATION) or {})["source"] == shards[0].url
