"""Completion of commands, flags and their choices in bash and zsh, as a script made once.

The script holds all words, so that completion starts no Python. bash and zsh complete file names
where no word fits.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence

from locdiffusion.cli.commands import COMMANDS
from locdiffusion.cli.parser import DONE, Parser, UsageError

SCRIPT = """\
_locdiffusion() {{
    local words="" here="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}"
    case "${{COMP_WORDS[1]}} $before" in
{choices}
    *) case "$COMP_CWORD ${{COMP_WORDS[1]}}" in
        1\\ *|2\\ help) words="{commands}" ;;
{flags}
        esac ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$here"))
}}
complete -o default -o bashdefault -F _locdiffusion locdiffusion
"""
SHELLS = {"bash": "", "zsh": "autoload -U +X bashcompinit && bashcompinit\n"}
"""What comes before the script in each shell."""


def main(arguments: Sequence[str]) -> int:
    """Prints the script for a shell; raises UsageError for one that has none."""
    shell = " ".join(arguments)
    if shell not in SHELLS:
        raise UsageError(
            f"completion is for {' and '.join(SHELLS)}, not {shell or 'no shell'}; see "
            "`locdiffusion --help` for where to put it"
        )
    print(SHELLS[shell] + script(), end="")
    return DONE


def script() -> str:
    """Returns the script for bash. Commands whose packages are missing have no flags in it."""
    flags, choices = [], []
    for name, (package, _) in COMMANDS.items():
        try:
            parser: Parser = importlib.import_module(f"{package}.command").parser()
        except ModuleNotFoundError:
            continue
        shown = [action for action in parser._actions if action.help != argparse.SUPPRESS]
        known = [action for action in shown if action.option_strings]
        words = " ".join(one for action in known for one in action.option_strings)
        flags.append(f'        *\\ {name}) words="{words}" ;;')
        for action in known:
            if action.choices:
                pattern = "|".join(f"{name}\\ {flag}" for flag in action.option_strings)
                given = " ".join(map(str, action.choices))
                choices.append(f'    {pattern}) words="{given}" ;;')
    return SCRIPT.format(
        choices="\n".join(choices), flags="\n".join(flags), commands=" ".join([*COMMANDS, "help"])
    )
