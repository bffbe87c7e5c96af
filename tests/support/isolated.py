"""Functions of bytes that misbehave, for tests of child processes."""

import os
import signal
import threading
import time


def echo(data: bytes, more: bytes = b"") -> bytes:
    return data + more


def child_id(data: bytes) -> bytes:
    return str(os.getpid()).encode()


def user(data: bytes) -> bytes:
    return f"{os.getuid()} {os.access(os.path.dirname(os.__file__), os.W_OK)}".encode()


def misbehave(data: bytes) -> bytes:
    """Does what the bytes say."""
    if data == b"burn":
        while True:
            pass
    if data == b"eat":
        held = []
        while True:
            held.append(bytearray(2**22))
    if data == b"abort":
        os.abort()
    if data == b"leave":
        os._exit(3)
    if data == b"wait":
        time.sleep(3600)
    if data == b"fall silent":
        os.closerange(3, 100)
        time.sleep(3600)
    if data == b"fall deaf":
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGSTOP)).start()
    if data == b"raise":
        raise ValueError("no use for it")
    return data
