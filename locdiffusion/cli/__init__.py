"""The command `locdiffusion`: one word for each thing it does, and everything else behind it.

    locdiffusion geotag FOLDER
    locdiffusion help geotag

`commands` is the table of sub-commands, `parser` and `flags` are what they share. A sub-command is
imported when it is called, so that help comes at once and no command needs another's packages.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from locdiffusion.cli.commands import COMMANDS, prog
from locdiffusion.cli.parser import DONE, STOPPED, USAGE, run_command

HELP = """\
usage: {prog} COMMAND [flags]

Estimates where photos were taken, and says how far off each estimate may be.

commands:
{commands}
  completion    print completion of commands and flags for a shell: bash or zsh

`locdiffusion help COMMAND` explains a command, `locdiffusion --version` tells
the version.

examples:
  locdiffusion geotag ~/Pictures --checkpoint geoclip-distilled
                                    # writes Pictures-geotags: tables and a map
  locdiffusion card patch.jpg       # a satellite view; writes patch-card.png
  locdiffusion completion bash > \\
      ~/.local/share/bash-completion/completions/locdiffusion

The default model (checkpoint) knows satellite views only: photos from the
ground need --checkpoint geoclip-distilled, and `locdiffusion help geotag` says
what that needs. README.md and docs/README.md of the project have the rest.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the sub-command that the first word names; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None and not os.path.samefile(".", Path(__file__).parents[2]):  # a checkout
        # Processes that are started import nothing from an archive in the working directory.
        os.environ["PYTHONSAFEPATH"] = "1"
    status = run_command(lambda: _run(words))
    if status == STOPPED and arguments is None:
        sys.stdout.flush()
        os._exit(status)  # threads that still compute would abort the end of the interpreter
    return status


def _run(words: Sequence[str]) -> int:
    first, *rest = words or ["--help"]
    if first == "help" and rest:
        first, rest = rest[0], ["--help"]
    name = first.replace("_", "-")
    if name in COMMANDS:
        status: int = importlib.import_module(f"{COMMANDS[name][0]}.command").main(rest)
        return status
    if name == "completion":
        from locdiffusion.cli.completion import main as complete

        return complete(rest)
    if name in ("--help", "-h", "help"):
        lines = [f"  {name:<12}  {about}" for name, (_, about) in COMMANDS.items()]
        print(HELP.format(prog=prog(), commands="\n".join(lines)), end="")
    elif name == "--version":
        print(f"locdiffusion {importlib.import_module('locdiffusion').__version__}")
    else:
        return _unknown(first)
    return DONE


def _unknown(word: str) -> int:
    near = difflib.get_close_matches(word.replace("_", "-"), [*COMMANDS, "completion"], 1)
    if os.path.exists(word):
        hint = f"did you mean `locdiffusion geotag {word}`?"
    elif near:
        hint = f"did you mean `locdiffusion {near[0]}`?"
    else:
        hint = "`locdiffusion --help` lists the commands"
    print(f"error: {word!r} is no command; {hint}", file=sys.stderr)
    return USAGE
