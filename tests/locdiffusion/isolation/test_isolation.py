"""A function in a child process answers, or ends at its limit, and the next call is answered."""

import os
import pickle
import pwd
import stat
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from locdiffusion.isolation import IsolatedError, IsolatedFunction, Limits, Overrun, OverrunError
from support import isolated

LIMITS = Limits(memory_bytes=100 * 2**20, cpu_s=0.3, wall_s=60)


def test_answers_call_after_call_from_one_child() -> None:
    function = IsolatedFunction(isolated.child_id)
    assert function(b"") == function(b"") != str(os.getpid()).encode()
    function.close()


def test_answers_threads_side_by_side() -> None:
    function = IsolatedFunction(isolated.echo)
    found: dict[int, bytes] = {}

    def call(number: int) -> None:
        found[number] = function(b"%d" % number)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: b"%d" % number for number in range(8)}


@pytest.mark.parametrize(
    ("request_bytes", "overrun", "told"),
    [
        (b"burn", Overrun.TIME, "more than 0.3 s of CPU time"),
        (b"eat", Overrun.MEMORY, "more than 100 MiB of memory"),
        (b"abort", Overrun.CRASH, "signal 6"),
        (b"leave", Overrun.CRASH, "status 3"),
    ],
)
def test_a_limit_costs_one_call(request_bytes: bytes, overrun: Overrun, told: str) -> None:
    function = IsolatedFunction(isolated.misbehave, LIMITS)
    for _ in range(2):
        with pytest.raises(OverrunError, match=told) as raised:
            function(request_bytes)
        assert raised.value.overrun is overrun
        assert function(b"behave") == b"behave"


def test_a_call_that_waits_ends_too() -> None:
    function = IsolatedFunction(isolated.misbehave, Limits(wall_s=0.5))
    with pytest.raises(OverrunError, match=r"no answer within 0\.5 s"):
        function(b"wait")


def test_tells_what_the_function_raised() -> None:
    function = IsolatedFunction(isolated.misbehave)
    with pytest.raises(IsolatedError, match="ValueError: no use for it"):
        function(b"raise")
    assert function(b"behave") == b"behave"


def test_is_sent_to_a_worker_without_its_children() -> None:
    function = IsolatedFunction(partial(isolated.echo, more=b"!"), LIMITS)
    assert function(b"a") == b"a!"
    sent = pickle.loads(pickle.dumps(function))
    assert sent.limits == LIMITS
    assert sent(b"b") == b"b!"


def test_imports_nothing_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pickle.py").write_text("open('imported', 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    assert IsolatedFunction(isolated.echo)(b"a") == b"a"
    assert not (tmp_path / "imported").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_child_for_bytes_of_our_own_stays_who_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCDIFFUSION_CHILD_USER", "nobody")
    function = pickle.loads(pickle.dumps(IsolatedFunction(isolated.user, own=True)))
    assert function(b"").startswith(b"0 ")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_child_of_root_runs_as_the_user_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert IsolatedFunction(isolated.user)(b"").startswith(b"0 ")
    place = Path(isolated.__file__)
    for folder in (*place.parents, *Path(sys.base_prefix, "lib").parents):
        if not folder.stat().st_mode & stat.S_IXOTH:
            pytest.skip(f"nobody may not read this Python or these tests, which lie in {folder}")
    monkeypatch.setenv("LOCDIFFUSION_CHILD_USER", "nobody")
    user, _, may_write = IsolatedFunction(isolated.user)(b"").partition(b" ")
    assert int(user) == pwd.getpwnam("nobody").pw_uid
    assert may_write == b"False"
