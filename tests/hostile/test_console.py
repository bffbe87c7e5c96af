"""Names and messages from strangers on the console: shown, never obeyed."""

import os
import subprocess
import sys
import unicodedata

import pytest

from locdiffusion.cli import main
from locdiffusion.cli.commands import COMMANDS
from locdiffusion.cli.terminal import SafeStream, printable, progress_bar, safe_streams
from pipelines.geotag import command as geotag
from pipelines.write_exif import command as write_exif
from support.fake_geotagger import FakeLoader
from support.hostile.writing import NAMES, hostile_archive, hostile_folder


def obeyed(text: str, allowed: str = "\n") -> set[str]:
    """The characters of a text that a terminal would obey, or that nobody would see."""
    bad = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    return {c for c in text if unicodedata.category(c) in bad and c not in allowed}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_name_is_shown_in_one_line(name):
    text = os.fsdecode(name)
    shown = printable(text)
    assert not obeyed(shown, allowed="") and shown.isascii()
    assert printable(shown) == shown
    assert shown == text or "\\" in shown


def test_names_of_people_stay_as_they_are():
    for name in ("Grüße aus Köln.jpg", "東京　駅.jpg", "Москва (1).jpg", "عمان.png", "a’b–c😀.jpg"):
        assert printable(name) == name


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("word", ["--\x1b[31m\rflag", "\x9b2J\u202e/no\nsuch"])
def test_no_command_obeys_its_words(command, word, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        assert main([command, word]) != 0
    except Exception:  # its traceback is safe, too: see below
        pytest.skip("the command raises for this")
    told = capsys.readouterr()
    assert not obeyed(told.out + told.err) and "forged" not in told.err.split("\n")[1:]
    assert "error: " in told.err


@pytest.mark.usefixtures("plain_loop")
def test_run_over_hostile_names_tells_nothing_that_is_obeyed(tmp_path, capsys):
    photos, out, copies = tmp_path / "photos\x1b[5m", tmp_path / "out", tmp_path / "copies"
    photos.mkdir()
    hostile_folder(photos)
    tar = tmp_path / "names\x07\n.tar"
    tar.write_bytes(hostile_archive())
    words = [str(photos), str(tar), "--output", str(out)]
    assert geotag.main(words, FakeLoader()) in (0, 1)
    limits = ["--predictions", str(out), "--output", str(copies), "--max-radius-90-km", "20000"]
    write_exif.main([str(photos), str(tar), *limits])
    tar.unlink()
    geotag.main(words[:1] + words[2:], FakeLoader())  # tells of what is gone
    told = capsys.readouterr()
    assert not obeyed(told.out) and not obeyed(told.err)
    assert not any(line.startswith("error: forged") for line in (told.out + told.err).split("\n"))
    assert "\\x1b[5m" in told.err
    assert "a map or the report is missing" not in told.err


def test_every_way_to_tell_is_safe(capsys):
    with safe_streams():
        print("out\x1b[1m\r", "\udcff")
        print("err\x07", file=sys.stderr)
        sys.stderr.writelines(["\x9b", "\u202e\n"])
        for _ in progress_bar(range(3), desc="bar\x1b[1m\r\n"):
            pass
        with safe_streams():  # a command within a command
            print("inner\x08")
    told = capsys.readouterr()
    assert not isinstance(sys.stdout, SafeStream)
    assert told.out == "out\\x1b[1m\\r \\udcff\ninner\\x08\n"
    assert not obeyed(told.err, allowed="\n\r") and "bar\\x1b[1m\\r\\n" in told.err
    assert told.err.count("\r") == told.err.count("\rbar")


def test_letters_that_the_terminal_lacks_do_not_end_the_command():
    code = "from locdiffusion.cli.terminal import safe_streams as s\nwith s(): print('K\xf6ln 駅')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"},
    )
    assert done.returncode == 0 and done.stdout == b"K\xf6ln \\u99c5\n"


def test_traceback_of_a_crash_is_safe():
    code = "from locdiffusion.cli.parser import run_command\n"
    code += "import logging, warnings\ndef body():\n"
    code += " logging.warning(chr(27)), warnings.warn('w' + chr(7))\n"
    code += " raise KeyError(chr(27) + '[2J') from OSError('a' + chr(155) + chr(13))\n"
    code += "run_command(body)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "OSError: a\\x9b\\r" in done.stderr
    assert "w\\x07" in done.stderr
    assert not obeyed(done.stderr)
