"""Makes text safe for a terminal: what file names and documents say is shown, never obeyed.

Names of files, texts of documents and messages about them come from strangers. A terminal obeys
what it finds in them: colours, titles, a cursor that overwrites the line, text from right to left.
`run_command` puts `safe_streams` around every command, so that no call of `print` can forget it.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
import unicodedata
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any


def printable(text: str, keep: str = "") -> str:
    r"""Returns a text in one line in which nothing is invisible and nothing is obeyed.

    Control and formatting characters, line breaks, lone surrogates and unassigned characters become
    what Python would write for them: ``\x1b``, ``\n``, ``\u202e``.

    Args:
        text: Any text.
        keep: Characters that stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        letter
        if letter.isprintable() or letter in keep or unicodedata.category(letter) == "Zs"
        else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def tell(note: str) -> None:
    """Prints a note as one line on stderr, whatever the names in it hold."""
    print(printable(note), file=sys.stderr)


class SafeStream:
    """A text stream on which only line breaks are obeyed; everything else it is comes from another.

    Args:
        stream: Stream to write to.
        bar: Whether a bar of progress writes here, which begins its line anew with each text.
    """

    def __init__(self, stream: Any, bar: bool = False) -> None:
        self._stream, self._bar = stream, bar

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes a text as `printable` makes it, in letters that the stream's encoding has."""
        start = "\r" if self._bar and text.startswith("\r") else ""
        safe = start + printable(text[len(start) :], keep="\n")
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._stream.write(safe.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Writes texts one after the other."""
        for line in lines:
            self.write(line)


@contextlib.contextmanager
def safe_streams() -> Iterator[None]:
    """Makes stdout, stderr and what the interpreter tells of an error safe within the block."""
    before = sys.stdout, sys.stderr
    if isinstance(sys.stderr, SafeStream):
        yield
        return
    sys.stdout, sys.stderr = map(SafeStream, before)
    sys.excepthook = _tell_crash  # runs behind the block
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def progress_bar(*items: Any, **settings: Any) -> Any:
    """Returns a bar of tqdm on stderr, whose labels may come from file names.

    Args:
        items: What the bar counts while it is looped over, if it is.
        settings: Settings of `tqdm`, `desc` among them.
    """
    from tqdm import tqdm

    stream: Any = getattr(sys.stderr, "_stream", sys.stderr)
    settings |= {"desc": printable(settings["desc"]), "file": SafeStream(stream, bar=True)}
    bar: Any = tqdm
    return bar(*items, **settings)


def _tell_crash(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    tell: Callable[[str], object] = SafeStream(sys.stderr).write
    tell("".join(traceback.format_exception(kind, error, trace)))
