"""Runs functions on bytes of strangers in child processes, with limits on memory and CPU time.

A decoder in C may take any time and memory, or crash, whatever was checked before. In a child it
costs its own photo, and no more. Bytes go in and bytes come out: nothing that a child says is
unpickled. A child has the rights of its user all the same: this bounds work, and is no jail.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, BinaryIO

_START = (
    "import os, sys; {become}sys.path[:] = {path!r}; "
    "from locdiffusion.isolation import answer_calls; answer_calls({replies})"
)
_LENGTH = struct.Struct("<Q")
_REPLY = struct.Struct("<B?Q")
_RETURNED, _RAISED, _NO_MEMORY = range(3)
_MOST_TEXT = 2**16
_PIPE_BYTES = 2**20
_LAST_S = 5.0
"""Most seconds until a child has ended that answers no more."""
_SURROUNDINGS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
# glibc keeps the memory of a photo for the next one: to take and clear it anew is a third of the
# time of one of 12 megapixels.
_SURROUNDINGS |= {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(96 * 2**20)}


class Overrun(str, Enum):
    """Limit at which a child process ended."""

    TIME = "time"
    MEMORY = "memory"
    CRASH = "crash"


class OverrunError(RuntimeError):
    """A call in a child process ended at a limit, or with the child."""

    def __init__(self, overrun: Overrun, message: str) -> None:
        super().__init__(message)
        self.overrun = overrun


class IsolatedError(RuntimeError):
    """The function raised in the child process; the message is that of its error."""


@dataclass(frozen=True)
class Limits:
    """Limits of one call.

    Attributes:
        memory_bytes: Most memory that the child may take beyond what it has when it is ready.
        cpu_s: Most seconds of CPU time of one call, whatever else the machine does.
        wall_s: Most seconds until the answer, for calls that wait for something.
        reply_bytes: Most bytes of an answer.
        held_bytes: Most bytes that a child may keep of a call; one that keeps more is replaced.
    """

    memory_bytes: int = 1280 * 2**20
    cpu_s: float = 20.0
    wall_s: float = 600.0
    reply_bytes: int = 2**30
    held_bytes: int = 128 * 2**20


UNLIMITED = Limits(memory_bytes=2**50, cpu_s=1e6, wall_s=1e6, reply_bytes=2**40, held_bytes=2**50)
"""Limits for work on files of our own."""


class IsolatedFunction:
    """A function from bytes to bytes that runs in child processes.

    Calls from several threads run side by side, each in a child of its own; children wait for the
    next call. A child ends when its parent does, however that ends. An object that is pickled, or
    a process that is forked, starts without children.

    Args:
        function: Function that pickle sends to the child: a top-level function, a method of an
            object, or a partial of one. It is called with one `bytes` and returns `bytes`.
        limits: Limits of one call; by default those of `Limits`.
        own: Whether the bytes are our own, and children keep the rights of this process.
    """

    def __init__(
        self, function: Callable[[bytes], bytes], limits: Limits | None = None, own: bool = False
    ) -> None:
        self.function = function
        self.limits = limits or Limits()
        self.own = own
        self._idle: list[_Child] = []
        self._lock = threading.Lock()
        self._owner = os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        return IsolatedFunction, (self.function, self.limits, self.own)

    def __call__(self, request: bytes) -> bytes:
        """Calls the function in a child process.

        Raises:
            OverrunError: The call ended at a limit, or the child died of it.
            IsolatedError: The function raised.
        """
        if self._owner != os.getpid():
            self._forget()
        with self._lock:
            child = self._idle.pop() if self._idle else None
        if child is None:
            return self._call(self._child(), request)
        start = time.monotonic()
        try:
            return self._call(child, request)
        except OverrunError as error:
            soon = time.monotonic() - start < self.limits.cpu_s / 4
            if error.overrun is Overrun.TIME or not soon:
                raise
        # It may have died while it waited, or of what an earlier call left behind.
        return self._call(self._child(), request)

    def _child(self) -> _Child:
        return _Child(self.function, self.limits, "" if self.own else _become_other_user())

    def _call(self, child: _Child, request: bytes) -> bytes:
        try:
            answer = child.call(request)
        except IsolatedError:
            self._keep(child)
            raise
        except BaseException:
            child.kill()
            raise
        self._keep(child)
        return answer

    def close(self) -> None:
        """Ends the children that wait."""
        if self._owner != os.getpid():
            return
        with self._lock:
            idle, self._idle = self._idle, []
        for child in idle:
            child.kill()

    def _keep(self, child: _Child) -> None:
        if child.leaves:
            child.kill()
            return
        with self._lock:
            self._idle.append(child)

    def _forget(self) -> None:
        self._owner, self._idle, self._lock = os.getpid(), [], threading.Lock()

    def __del__(self) -> None:
        self.close()


class _Child:
    """One child process; `leaves` says that it keeps too much memory to be called again."""

    def __init__(self, function: Callable[[bytes], bytes], limits: Limits, become: str) -> None:
        self.leaves = False
        self._limits = limits
        replies, ours = os.pipe()
        # Not the working directory, in which an archive may lie with a module of its own.
        path = [os.path.abspath(place) for place in sys.path if place]
        code = _START.format(become=become, path=path, replies=ours)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(ours,),
                env={**os.environ, **_SURROUNDINGS},
            )
        except BaseException:
            os.close(replies)
            raise
        finally:
            os.close(ours)
        self._replies = replies
        assert self._process.stdin is not None
        self._calls = self._process.stdin.fileno()
        os.set_blocking(self._calls, False)
        with contextlib.suppress(BrokenPipeError):  # the first call says how it ended
            self._send(pickle.dumps((function, limits)), time.monotonic() + limits.wall_s)

    def call(self, request: bytes) -> bytes:
        deadline = time.monotonic() + self._limits.wall_s
        try:
            self._send(request, deadline)
            kind, self.leaves, length = _REPLY.unpack(self._read(_REPLY.size, deadline))
            if length > self._limits.reply_bytes:
                raise OverrunError(Overrun.CRASH, f"the answer has {length:,} bytes")
            answer = self._read(length, deadline)
        except (BrokenPipeError, EOFError):
            raise self._death() from None
        if kind == _RETURNED:
            return answer
        text = answer.decode("utf-8", "replace")
        if kind == _NO_MEMORY:
            raise OverrunError(Overrun.MEMORY, self._too_much_memory())
        raise IsolatedError(text)

    def kill(self) -> None:
        self._process.kill()
        assert self._process.stdin is not None
        self._process.stdin.close()
        os.close(self._replies)
        self._process.wait()

    def _send(self, data: bytes, deadline: float) -> None:
        for part in (_LENGTH.pack(len(data)), data):
            left = memoryview(part)
            while left:
                self._wait(self._calls, select.POLLOUT, deadline)
                left = left[os.write(self._calls, left) :]

    def _read(self, size: int, deadline: float) -> bytes:
        parts = []
        while size:
            self._wait(self._replies, select.POLLIN, deadline)
            part = os.read(self._replies, min(size, _PIPE_BYTES))
            if not part:
                raise EOFError
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _wait(self, file: int, event: int, deadline: float) -> None:
        """Waits until a pipe can be read or written, or has no other end."""
        poll = select.poll()
        poll.register(file, event)
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1e3):
            raise OverrunError(Overrun.TIME, f"no answer within {self._limits.wall_s:g} s")

    def _death(self) -> OverrunError:
        try:
            status = self._process.wait(_LAST_S)
        except subprocess.TimeoutExpired:
            return OverrunError(Overrun.CRASH, "it answers no more")
        if status in (-signal.SIGPROF, -signal.SIGXCPU):
            why = f"it takes more than {self._limits.cpu_s:g} s of CPU time"
            return OverrunError(Overrun.TIME, why)
        if status == -signal.SIGKILL:
            return OverrunError(
                Overrun.MEMORY, "the system ended it, as it does for lack of memory"
            )
        died = f"signal {-status}" if status < 0 else f"status {status}"
        return OverrunError(Overrun.CRASH, f"it ended with {died}")

    def _too_much_memory(self) -> str:
        return f"it takes more than {self._limits.memory_bytes >> 20:,} MiB of memory"


def _become_other_user() -> str:
    """Returns what a child of root does first, where `LOCDIFFUSION_CHILD_USER` names somebody.

    `subprocess` would do it between fork and exec, where threads of gRPC may crash the child.
    """
    name = os.environ.get("LOCDIFFUSION_CHILD_USER")
    if not name or os.geteuid():
        return ""
    import pwd

    user = pwd.getpwnam(name)
    return f"os.setgroups([]); os.setgid({user.pw_gid}); os.setuid({user.pw_uid}); "


def answer_calls(replies: int) -> None:
    """Answers the calls of a parent process until it ends; the main function of a child.

    Args:
        replies: Number of the open file to which answers are written.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, whose end ends this
    calls, answers = sys.stdin.buffer, os.fdopen(replies, "wb")
    function, limits = pickle.loads(_next_call(calls))  # of the parent, which is trusted
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    at_first = held = _data_bytes()
    while True:
        _limit_memory(held + limits.memory_bytes)
        try:
            request = _next_call(calls)
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_PROF, limits.cpu_s)  # whose signal ends the process
        kind, answer = _answer(function, request)
        del request
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        length, held = len(answer), _data_bytes() - len(answer)
        answers.write(_REPLY.pack(kind, held > at_first + limits.held_bytes, length))
        answers.write(answer)
        answers.flush()
        del answer


def _answer(function: Callable[[bytes], bytes], request: bytes) -> tuple[int, bytes]:
    try:
        return _RETURNED, function(request)
    except MemoryError:
        return _NO_MEMORY, b""
    except Exception as error:
        return _RAISED, f"{type(error).__name__}: {error}".encode("utf-8", "replace")[:_MOST_TEXT]


def _next_call(calls: BinaryIO) -> bytes:
    def read(size: int) -> bytes:
        data = calls.read(size)
        if len(data) < size:
            raise EOFError
        return data

    (length,) = _LENGTH.unpack(read(_LENGTH.size))
    return read(length)


def _limit_memory(most: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def _data_bytes() -> int:
    """Returns how much private memory this process has; 0 where Linux does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[5]) * resource.getpagesize()
    except OSError:
        return 0
