"""The opening that all commands share: their parser, its types, and the end of `main`."""

from __future__ import annotations

import argparse
import difflib
import errno
import os
import re
import select
import shutil
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from locdiffusion.cli.commands import missing_package, prog
from locdiffusion.cli.terminal import printable, safe_streams

DONE, FAILED, USAGE, STOPPED, PIPE_CLOSED = 0, 1, 2, 130, 141
STATUSES = """
exit status:
  0    done{}
  2    a mistake in the command, told in one line
  130  stopped with Ctrl-C (141: the reader of the output went away)
"""
TRACEBACK = "LOCDIFFUSION_TRACEBACK"
"""Variable of the environment that shows the traceback of an error beside its one line."""
PATHS = "paths"
"""Destination of the inputs that are given without a flag."""


class UsageError(ValueError):
    """A mistake in the command; the message names the remedy."""


class RunFailed(Exception):
    """The command ran, but its result is not as it should be; the message says why."""


class HelpFormatter(argparse.HelpFormatter):
    """Fits the terminal, up to 100 columns; fills paragraphs that have no indented line."""

    def __init__(self, prog: str, **settings: Any) -> None:
        width = min(shutil.get_terminal_size().columns, 100) - 1
        super().__init__(prog, **{"max_help_position": 24, "width": width, **settings})

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(
            part if "\n  " in part else textwrap.fill(" ".join(part.split()), width)
            for part in text.split("\n\n")
        )

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if action.type is boolean:  # `--wait=false` is for launchers, not for people
            return ", ".join(action.option_strings)
        return super()._format_action_invocation(action)


class Parser(argparse.ArgumentParser):
    """The parser of one command.

    Flags are kebab-case. The same flag with underscores is understood too, and so are the flags'
    earlier names. A flag that does not exist is refused, with the nearest one that does.

    Args:
        name: Name of the sub-command.
        usage: What is typed behind the name; one line for each form.
        about: What the command does, and examples. ``locdiffusion NAME`` becomes the words that
            started the command.
        more: What is worth knowing besides the flags: files, formats, further reading.
        failed: When the exit status is 1.
        old: New names of flags that were once called otherwise.
        required: Names of settings that must be given.
    """

    def __init__(
        self,
        name: str,
        usage: str,
        about: str,
        more: str = "",
        failed: str = "",
        old: Mapping[str, str] | None = None,
        required: Sequence[str] = (),
    ) -> None:
        self.old, self.required = dict(old or {}), required
        typed = prog(name)
        about, more = (text.replace(f"locdiffusion {name}", typed) for text in (about, more))
        super().__init__(
            prog=typed,
            usage="\n       ".join(f"{typed} {line}" for line in usage.split("\n")),
            description=about,
            epilog=more + STATUSES.format(f"\n  1    {failed}" if failed else ""),
            formatter_class=HelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Raises UsageError, where argparse would end the process."""
        raise UsageError(f"{message}; see `{self.prog} --help`")

    def words(self, arguments: Sequence[str] | None) -> list[str]:
        """Returns the words of a command line, or of `sys.argv`, in today's spelling."""
        given = list(sys.argv[1:] if arguments is None else arguments)
        end = given.index("--") if "--" in given else len(given)
        words = [self._today(word) for word in given[:end]]
        for i, word in enumerate(words):
            action = self._option_string_actions.get(word)
            after = "".join(words[i + 1 : i + 2]).lower()
            # argparse takes a southern latitude for a flag.
            if action and action.nargs is None and re.match(r"-\.?\d", after):
                words[i : i + 2] = [f"{word}={words[i + 1]}"]
            # A switch takes no path that stands behind it for its value.
            if action and action.type is boolean and after not in SAID:
                words[i] = f"{word}=true"
        return words + given[end:]

    def _today(self, word: str) -> str:
        flag, equals, value = word.partition("=")
        if not flag.startswith("--") or flag in self._option_string_actions:
            return word
        kebab = "--" + flag[2:].replace("_", "-")
        kebab = self.old.get(kebab, kebab)
        return kebab + equals + value if kebab in self._option_string_actions else word

    def is_unknown(self, word: str) -> bool:
        """Whether a word is a flag, but none of this parser's."""
        flag = word.partition("=")[0]
        known = flag in self._option_string_actions or flag == "--" or " " in flag
        return flag.startswith("--") and not known

    def refuse(self, word: str, others: Iterable[str] = (), whose: str = "") -> NoReturn:
        """Raises UsageError for an unknown flag, with the nearest of our flags and of others."""
        known = [*self._option_string_actions, *others]
        near = difflib.get_close_matches(word.partition("=")[0], known, 1, cutoff=0.6)
        hint = f"did you mean {near[0]}?" if near else f"see `{self.prog} --help`"
        raise UsageError(f"{word!r} is no flag of this command{whose}; {hint}")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses a command line; paths without a flag come before those of `--input`.

        Raises:
            UsageError: A flag is unknown, or a value is wrong or missing.
        """
        words = self.words(args)
        end = words.index("--") if "--" in words else len(words)
        for word in filter(self.is_unknown, words[:end]):
            self.refuse(word)
        options = self.parse_intermixed_args(words[:end], namespace)
        if hasattr(options, PATHS):
            options.input = [*getattr(options, PATHS), *options.input, *words[end + 1 :]]
            delattr(options, PATHS)
        elif words[end + 1 :]:
            self.error(f"{words[end + 1]!r} stands behind --, and this command takes no paths")
        self.require(options, *self.required)
        return options

    def require(self, options: argparse.Namespace, *names: str) -> None:
        """Raises UsageError if one of these settings is not given."""
        missing = [name for name in names if not getattr(options, name)]
        if missing:
            flags = [one.option_strings[0] for one in self._actions if one.dest in missing]
            self.error(f"the following arguments are required: {', '.join(flags)}")

    def run(
        self,
        arguments: Sequence[str] | None,
        body: Callable[[argparse.Namespace], int],
        *mistakes: type[Exception],
        stopped: str = "stopped",
    ) -> int:
        """Parses a command line and runs a command, as `run_command` does."""
        return run_command(lambda: body(self.parse_args(arguments)), *mistakes, stopped=stopped)


def boolean(text: str) -> bool:
    """Converts the value of a SWITCH."""
    known = {"true": True, "false": False}
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f"{text!r}, wanted true or false, or nothing at all")
    return known[text.lower()]


SWITCH: dict[str, Any] = {
    "nargs": "?",
    "const": True,
    "default": False,
    "type": boolean,
    "metavar": "true|false",
}
"""A flag that is on where it stands alone. Launchers of templates can only say `=true`."""
SAID = ("true", "false")


def positive(text: str) -> int:
    """Converts a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}, wanted a whole number of at least 1")
    return value


def whole(text: str) -> int:
    """Converts a whole number of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value}, wanted a whole number of at least 0")
    return value


def fraction(text: str) -> float:
    """Converts a number between 0 and 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{value}, wanted a number between 0 and 1")
    return value


def run_command(
    body: Callable[[], int], *mistakes: type[Exception], stopped: str = "stopped"
) -> int:
    """Runs a command, tells what goes wrong in one line on stderr, and returns the exit status.

    Args:
        body: The command; returns its exit status.
        mistakes: Errors, besides UsageError, whose message names the remedy.
        stopped: Message for Ctrl-C, unless the interrupt brings its own.
    """
    with safe_streams():
        return _ended(body, (UsageError, *mistakes), stopped)


def _ended(body: Callable[[], int], told: tuple[type[Exception], ...], stopped: str) -> int:
    try:
        status = body()
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        if not _reader_is_gone():  # then it was a connection
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except KeyboardInterrupt as stop:
        print(str(stop) or stopped, file=sys.stderr)
        return STOPPED
    except Exception as error:
        if (end := _end(error, told)) is None:
            raise
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        message, status = end
        print(f"error: {printable(message)}", file=sys.stderr)
        return status


def _end(error: Exception, told: tuple[type[Exception], ...]) -> tuple[str, int] | None:
    """Returns the line and the exit status for an error; None if it is no error of the user."""
    if (full := _disk_full(error)) is not None:
        return f"{full}; make room, then type the same command again", FAILED
    if isinstance(error, ModuleNotFoundError):
        message = missing_package(error)
        return None if message is None else (message, USAGE)
    if isinstance(error, RunFailed):
        return str(error), FAILED
    return (str(error), USAGE) if isinstance(error, told) else None


def _disk_full(error: BaseException) -> str | None:
    """Returns what says that a disk is full, also in what other processes sent as text."""
    full = rf"\[Errno (?:{errno.ENOSPC}|{errno.EDQUOT})\] (.*?)(?: \[while running|\n|\Z)"
    found = next(filter(None, (re.search(full, str(cause)) for cause in causes(error))), None)
    return found and f"disk full: {found[1]}"


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yields an error, and then what led to each, the first cause last."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        yield found
        seen.add(id(found))
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)


def _reader_is_gone() -> bool:
    """Whether the process that reads our stdout, such as `head`, has ended."""
    pipe = select.poll()
    pipe.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in pipe.poll(0))
