"""Files that appear whole or not at all."""

import fsspec
import pytest

from locdiffusion.files import LEFT_OVER, atomic_path, write_atomically, write_json


def test_a_file_appears_only_when_its_block_has_ended(tmp_path):
    target = tmp_path / "made" / "scores.json"
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"new")
        assert not target.exists() and temporary.match(LEFT_OVER)
    assert target.read_bytes() == b"new"
    assert list(target.parent.iterdir()) == [target]


def test_a_block_that_fails_leaves_the_file_before_and_nothing_else(tmp_path):
    target = tmp_path / "scores.json"
    write_atomically(target, "old")
    with pytest.raises(ValueError), atomic_path(target) as temporary:
        temporary.write_bytes(b"half")
        raise ValueError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_the_longest_name_of_the_file_system_can_be_written(tmp_path):
    target = tmp_path / ("n" * 255)
    write_atomically(str(target), b"whole")
    assert target.read_bytes() == b"whole"


def test_a_file_has_the_rights_of_any_new_file(tmp_path):
    (tmp_path / "any").write_bytes(b"")
    write_atomically(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "any").stat().st_mode


def test_urls_are_written_too():
    memory = fsspec.filesystem("memory")
    write_atomically("memory://atomic/one.txt", "ä")
    with atomic_path("memory://atomic/two.txt") as temporary:
        temporary.write_bytes(b"two")
    assert memory.cat("/atomic/one.txt") == "ä".encode()
    assert memory.cat("/atomic/two.txt") == b"two"
    assert not temporary.exists()


def test_json_refuses_what_json_does_not_know(tmp_path):
    write_json(tmp_path / "good.json", {"b": 1, "a": 2}, sort_keys=True)
    assert (tmp_path / "good.json").read_text() == '{\n "a": 2,\n "b": 1\n}\n'
    with pytest.raises(ValueError):
        write_json(tmp_path / "bad.json", float("nan"))
    assert not (tmp_path / "bad.json").exists()
