"""The command `locdiffusion`: its sub-commands, both spellings of flags, and how it ends."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from locdiffusion import __version__
from locdiffusion.cli import main
from locdiffusion.cli.commands import COMMANDS
from locdiffusion.cli.parser import Parser, RunFailed, UsageError, run_command
from pipelines.beam.flags import JobParser
from pipelines.build_shards.options import parse as parse_build
from pipelines.geotag.options import parse as parse_geotag

ROOT = Path(__file__).parents[3]


BEAM = ("--direct_num_workers", "--direct_running_mode", "--project", "--region")
BEAM += ("--temp_location", "--setup_file")


def parser_of(name: str) -> Parser:
    return importlib.import_module(f"{COMMANDS[name][0]}.command").parser()


def started(*words: str, code: str = "", cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """`locdiffusion WORDS` in a process as the console script starts it, after some code."""
    code += "\nimport sys\nfrom locdiffusion.cli import main\nsys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-P", "-c", code] if sys.version_info >= (3, 11) else []
    command = command or [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*command, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


class TestSubCommands:
    def test_help_lists_each(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([]) == main(["--help"]) == main(["help"]) == 0
        told = capsys.readouterr().out
        for name, (_, about) in COMMANDS.items():
            assert f"  {name} " in told and about in told

    def test_help_and_version_load_nothing_heavy(self) -> None:
        heavy = "{'torch', 'apache_beam', 'numpy', 'pyarrow', 'argparse'} & set(sys.modules)"
        for words in (["--help"], ["--version"], ["geotga"]):
            code = f"from locdiffusion.cli import main\nmain({words!r})\nimport sys\nprint({heavy})"
            done = subprocess.run(
                [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
            )
            assert done.stdout.splitlines()[-1] in ("set()", "{'argparse'}")

    @pytest.mark.parametrize("name", COMMANDS)
    def test_each_explains_itself_in_both_ways(
        self, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        told = []
        for words in ([name, "--help"], ["help", name], [name.replace("-", "_"), "--help"]):
            with pytest.raises(SystemExit) as stop:
                main(words)
            assert stop.value.code == 0
            told.append(capsys.readouterr().out)
        assert told[0] == told[1] == told[2]
        assert told[0].startswith(f"usage: locdiffusion {name} ")
        for part in ("example", f"\n  locdiffusion {name} ", "exit status", "130"):
            assert part in told[0]
        assert max(map(len, told[0].splitlines())) <= 80

    @pytest.mark.parametrize("name", COMMANDS)
    def test_examples_have_flags_that_exist(self, name: str) -> None:
        text = parser_of(name).description.replace("\\\n", " ")
        lines = re.findall(r"^  locdiffusion ([a-z-]+)(.*)$", text, re.MULTILINE)
        assert name in dict(lines)
        for other, rest in lines:
            parser = parser_of(other)
            for flag in re.findall(r"(?<!\S)--[\w-]+", rest.partition("#")[0]):
                known = isinstance(parser, JobParser) and flag in BEAM
                assert known or flag in parser._option_string_actions, f"{other} {flag}"

    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--version"]) == 0
        assert capsys.readouterr().out == f"locdiffusion {__version__}\n"

    @pytest.mark.parametrize(
        ("word", "hint"),
        [
            ("geotga", "did you mean `locdiffusion geotag`?"),
            ("build_shard", "did you mean `locdiffusion build-shards`?"),
            ("xyzzy", "`locdiffusion --help` lists the commands"),
            ("photos", "did you mean `locdiffusion geotag photos`?"),
        ],
    )
    def test_a_word_that_is_no_command(
        self,
        word: str,
        hint: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "photos").mkdir()
        assert main([word, "x"]) == 2
        told = capsys.readouterr().err
        assert told.startswith(f"error: {word!r} is no command") and hint in told

    def test_a_missing_package_is_named_with_its_extra(self) -> None:
        block = "import sys\nsys.modules['apache_beam'] = None"
        done = started("geotag", "photos", "--runner", "FlinkRunner", code=block)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert "apache_beam is not installed" in done.stderr
        assert "pip install 'locdiffusion[beam]'" in done.stderr

    def test_an_error_of_our_own_imports_is_not_blamed_on_a_package(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "locdiffusion.card.command", None)
        with pytest.raises(ModuleNotFoundError, match=r"locdiffusion\.card\.command"):
            main(["card", "a.jpg"])

    def test_the_same_code_runs_as_modules(self) -> None:
        for words, usage in (
            (["-m", "locdiffusion", "card", "--help"], "python -m locdiffusion card PHOTO"),
            (["-m", "locdiffusion.card", "--help"], "python -m locdiffusion.card PHOTO"),
            (["-m", "locdiffusion"], "python -m locdiffusion COMMAND"),
        ):
            done = subprocess.run(
                [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=300
            )
            assert done.returncode == 0 and done.stdout.startswith(f"usage: {usage}")

    def test_folders_of_the_user_that_are_named_like_our_packages(self, tmp_path: Path) -> None:
        for name in ("pipelines", "schemas", "locdiffusion"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").write_text("raise SystemExit('imported the user')")
        if sys.version_info < (3, 11):
            pytest.skip("-P, which the console script needs not, came with Python 3.11")
        done = started("geotag", "nothing/*.tar", "--output", "out", cwd=tmp_path)
        assert done.returncode == 2 and "nothing/*.tar" in done.stderr


class TestFlags:
    @pytest.mark.parametrize("name", COMMANDS)
    def test_own_flags_are_kebab_case(self, name: str) -> None:
        parser = parser_of(name)
        assert not [flag for flag in parser._option_string_actions if "_" in flag]

    @pytest.mark.parametrize("name", COMMANDS)
    def test_the_same_thing_has_the_same_flag(self, name: str) -> None:
        parser = parser_of(name)
        flags = set(parser._option_string_actions)
        if name in ("geotag", "card"):
            wanted = {"--input", "--output", "--checkpoint", "--encoder", "--gallery", "--device"}
            assert wanted | {"--prior", "--mode", "--seed"} <= flags
        if name in ("evaluate", "calibrate"):
            assert {"--input", "--output", "--checkpoint", "--encoder", "--device"} <= flags
        if name in ("write-exif", "build-shards"):
            assert {"--input", "--output"} <= flags

    def test_the_old_spelling_is_understood(self) -> None:
        form = ["photos", "--output", "out", "--admin", "gs://b/a.geojson"]
        for words in (
            ["--batch-size=7", "--max-error-fraction", "0.5", "--admin-name=x", "--bf16=true"],
            ["--batch_size=7", "--max_error_fraction", "0.5", "--admin_name=x", "--bf16"],
        ):
            options = parse_geotag([*form, *words])
            assert (options.batch_size, options.max_error_fraction) == (7, 0.5)
            assert options.extras.admin_name == "x" and options.loader.bf16
        webdataset = ["--source=webdataset", "--output=out", "--val_fraction=0.5"]
        for words in (
            ["--metadata", "a.tar", "b.tar"],
            ["--input=a.tar", "b.tar"],
            ["a.tar", "b.tar"],
        ):
            options = parse_build([*webdataset, *words])
            assert set(options.metadata) == {"a.tar", "b.tar"} and options.rules.val_fraction == 0.5

    @pytest.mark.parametrize("said", ["False", "false", "FALSE"])
    def test_a_switch_takes_its_value_in_any_case(self, said: str) -> None:
        options = parse_geotag(["a.tar", "--output", "out", "--regions", said])
        assert not options.extras.regions and options.input == ("a.tar",)
        assert parse_geotag(["--output", "out", "--regions", "a.tar"]).extras.regions

    def test_words_after_two_dashes_are_paths_or_refused(self) -> None:
        assert parse_geotag(["--output", "out", "--", "-a.tar"]).input == ("-a.tar",)
        with pytest.raises(UsageError, match="stands behind --"):
            parser_of("overhead").parse_args(["--split=val", "--output", "x", "--", "y"])

    def test_flags_of_beam_keep_theirs_and_paths_may_stand_anywhere(self) -> None:
        words = ["a.tar", "--direct_num_workers", "2", "--regions", "b", "--output", "out", "c"]
        options = parse_geotag([*words, "--experiments=x", "--streaming", "--input", "d", "e"])
        assert options.input == ("a.tar", "b", "c", "d", "e") and options.extras.regions
        assert options.beam_flags == (
            *("--direct_num_workers", "2"),
            "--experiments=x",
            "--streaming",
        )

    @pytest.mark.parametrize(
        ("flag", "hint"),
        [
            ("--direct-num-workers=2", "did you mean --direct_num_workers?"),
            ("--batchsize=2", "did you mean --batch-size?"),
            ("--zzz", "see `locdiffusion geotag --help`"),
        ],
    )
    def test_a_flag_that_nobody_knows(self, flag: str, hint: str) -> None:
        with pytest.raises(UsageError) as refused:
            parse_geotag(["photos", "--output", "out", flag])
        assert f"{flag!r} is no flag of this command, nor of Beam" in str(refused.value)
        assert hint in str(refused.value)

    def test_earlier_names_are_understood_and_not_shown(self) -> None:
        parser = Parser("card", "", "", old={"--photos": "--input"})
        parser.add_argument("--input", nargs="+")
        assert parser.parse_args(["--photos", "a", "b"]).input == ["a", "b"]
        assert parser.parse_args(["--photos=a"]).input == ["a"]
        assert "--photos" not in parser.format_help()

    def test_words_behind_two_dashes_are_paths(self) -> None:
        assert parse_geotag(["--output", "out", "--", "--odd.tar"]).input == ("--odd.tar",)


class TestOutput:
    def test_is_named_after_the_folder_or_the_tar(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "2019 Rome").mkdir()
        (tmp_path / "val-0.tar.gz").touch()
        assert parse_geotag([f"{tmp_path}/2019 Rome/"]).output == "2019 Rome-geotags"
        assert parse_geotag(["val-0.tar.gz"]).output == "val-0-geotags"
        assert parse_geotag(["not-there"]).output == "not-there-geotags"

    @pytest.mark.parametrize("inputs", [["a.tar", "b.tar"], ["*.tar"], ["gs://b/photos"]])
    def test_must_be_given_where_there_is_no_name(self, inputs: list[str]) -> None:
        with pytest.raises(UsageError, match="give --output DIR"):
            parse_geotag(inputs)

    def test_does_not_lie_among_the_photos(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UsageError, match=f"--output {tmp_path}-geotags"):
            parse_geotag(["."])


class TestEnding:
    def test_statuses(self, capsys: pytest.CaptureFixture[str]) -> None:
        def raises(error: BaseException) -> int:
            raise error

        assert run_command(lambda: 0) == 0
        assert run_command(lambda: raises(UsageError("give more")), OSError) == 2
        assert run_command(lambda: raises(FileNotFoundError("no file")), OSError) == 2
        assert run_command(lambda: raises(RunFailed("not good"))) == 1
        assert run_command(lambda: raises(KeyboardInterrupt()), stopped="later") == 130
        told = "error: give more\nerror: no file\nerror: not good\nlater\n"
        assert capsys.readouterr().err == told
        with pytest.raises(ZeroDivisionError):
            run_command(lambda: raises(ZeroDivisionError()), ValueError)

    def test_a_reader_that_went_away_is_no_error(self) -> None:
        code = "from locdiffusion.cli.parser import run_command\nimport sys\n"
        code += "sys.exit(run_command(lambda: print('x' * 10**6) or 0))"
        made = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert made.stdout and made.stderr
        made.stdout.close()
        assert made.wait(60) == 141 and made.stderr.read() == b""


class TestCompletion:
    def complete(self, script: str, *typed: str) -> list[str]:
        """What bash offers for the last of the words that are typed."""
        words = " ".join(f"'{word}'" for word in typed)
        code = f"COMP_WORDS=({words}); COMP_CWORD={len(typed) - 1}; _locdiffusion; "
        code += 'echo "${COMPREPLY[@]}"'
        done = subprocess.run(["bash", "-c", script + code], capture_output=True, text=True)
        assert done.stderr == ""
        return done.stdout.split()

    def test_commands_flags_and_choices(self) -> None:
        script = started("completion", "bash").stdout
        assert self.complete(script, "locdiffusion", "ge") == ["geotag"]
        assert self.complete(script, "locdiffusion", "help", "ev") == ["evaluate"]
        assert self.complete(script, "locdiffusion", "card", "--che") == ["--checkpoint"]
        assert self.complete(script, "locdiffusion", "geotag", "a", "--mode", "s") == ["sampling"]
        assert self.complete(script, "locdiffusion", "geotag", "photos/") == []

    def test_other_shells(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["completion", "zsh"]) == 0
        assert capsys.readouterr().out.startswith("autoload -U +X bashcompinit")
        assert main(["completion", "fish"]) == main(["completion"]) == 2
        assert "completion is for bash and zsh, not fish" in capsys.readouterr().err
