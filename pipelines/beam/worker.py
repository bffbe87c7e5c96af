"""One worker process of a job on this machine, in the place of Beam's own command.

Ctrl-C goes to all processes of a terminal, and only the one that started the job answers it. Errors
go to that process too, which tells them in one line, so that their tracebacks are not shown twice.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

from locdiffusion.cli.parser import TRACEBACK


def main() -> None:
    """Works until the job is over."""
    from apache_beam.runners.worker import sdk_worker_main

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.ExitStack() as stack:
        if not os.environ.get(TRACEBACK):
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        sdk_worker_main.main(sys.argv)
        os._exit(0)  # threads that still compute would abort the end of the interpreter
