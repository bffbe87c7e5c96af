"""Servers on loopback for the tests: Beam's job service, its worker pool, and a cloud storage."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import fsspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from gcp_storage_emulator.server import RequestHandler, Server, create_server

from support import python_path

START_SECONDS = 120
TOKEN_PATH = "/token"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


@contextmanager
def running(module: str, *flags: str, folder: Path, ready: Callable[[], bool]) -> Iterator[None]:
    """A Python module as a process in a folder of its own, ended with all that it has started."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *flags],
            cwd=folder,
            env=python_path(),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{module} did not start: {(folder / 'log.txt').read_text()[-2000:]}")
            time.sleep(0.1)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def job_service(folder: Path) -> Iterator[str]:
    """Beam's local job service, which takes jobs of the PortableRunner; yields its endpoint."""
    port = folder / "port"
    flags = ("--port_file", str(port), "--staging_dir", str(folder / "staging"))
    module = "apache_beam.runners.portability.local_job_service_main"
    with running(module, *flags, folder=folder, ready=port.exists):
        yield f"localhost:{port.read_text()}"


@contextmanager
def worker_pool(folder: Path) -> Iterator[str]:
    """Starts workers, each a process, when a runner asks for them; yields its address."""
    port = free_port()

    def ready() -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    module = "apache_beam.runners.worker.worker_pool_main"
    with running(module, f"--service_port={port}", folder=folder, ready=ready):
        yield f"localhost:{port}"


@dataclass
class Request:
    """What a client asked the storage for, and how much it got."""

    method: str
    path: str
    range: str | None


@dataclass
class Bucket:
    """A bucket of the emulated storage, and what has happened to it.

    Attributes:
        url: `gs://` and its name.
        server: the storage.
        requests: all so far, in order.
        fail: called with each request before it is answered; a number it returns is the HTTP status
            that is answered instead.
    """

    url: str
    server: Server
    requests: list[Request] = field(default_factory=list)
    fail: Callable[[Request], int | None] = lambda request: None

    def fill(self, objects: Mapping[str, bytes]) -> None:
        """Uploads objects by name, with one request for each, where gcsfs makes several."""
        host = os.environ["STORAGE_EMULATOR_HOST"].removeprefix("http://")
        for name, data in objects.items():
            query = urlencode({"uploadType": "media", "name": name})
            bucket = self.url.removeprefix("gs://")
            with closing(HTTPConnection(host)) as connection:
                connection.request("POST", f"/upload/storage/v1/b/{bucket}/o?{query}", data)
                assert connection.getresponse().status == 200
        fsspec.filesystem("gs").invalidate_cache()

    def empty(self) -> None:
        """Removes every object."""
        self.server.wipe(keep_buckets=True)
        fsspec.filesystem("gs").invalidate_cache()

    def reads(self, name: str) -> list[tuple[int, int]]:
        """First and last byte of each read of an object's content."""
        return [
            tuple(map(int, re.findall(r"\d+", request.range)))  # type: ignore[misc]
            for request in self.requests
            if request.range and name in request.path
        ]


def _watched(bucket: Bucket) -> Callable[[Callable], Callable]:
    def watch(answer: Callable) -> Callable:
        def watched(handler: RequestHandler) -> None:
            if handler.path == TOKEN_PATH:
                _answer_token(handler)
                return
            request = Request(handler.command, handler.path, handler.headers.get("Range"))
            bucket.requests.append(request)
            status = bucket.fail(request)
            if status is None:
                # gcsfs asks in two ways at once and hangs up on the slower one.
                with suppress(BrokenPipeError, ConnectionResetError):
                    answer(handler)
            else:
                handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
                handler.send_error(status)

        return watched

    return watch


def _answer_token(handler: RequestHandler) -> None:
    handler.rfile.read(int(handler.headers["Content-Length"]))
    body = json.dumps({"access_token": "none", "expires_in": 3600, "token_type": "Bearer"}).encode()
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


@contextmanager
def storage(folder: Path, name: str = "photos-bucket") -> Iterator[Bucket]:
    """gcp-storage-emulator in a thread, and an environment in which gcsfs speaks to it only.

    Why that package and not a server of ours: it has been kept for years, needs nothing that is not
    there already, and knows the listing, upload and range rules that ours would have to repeat.
    """
    port = free_port()
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket=name)
    bucket = Bucket(f"gs://{name}", server)
    with pytest.MonkeyPatch.context() as patch:
        for key, value in storage_environment(folder, port).items():
            patch.setenv(key, value)
        from gcsfs.core import GCSFileSystem

        # Another test may have imported gcsfs in another environment.
        fsspec.register_implementation("gs", GCSFileSystem, clobber=True)
        GCSFileSystem.clear_instance_cache()
        watch = _watched(bucket)
        for method in ("do_GET", "do_POST", "do_PUT", "do_DELETE"):
            patch.setattr(RequestHandler, method, watch(getattr(RequestHandler, method)))
        with server:
            yield bucket
        GCSFileSystem.clear_instance_cache()


def storage_environment(folder: Path, port: int) -> dict[str, str]:
    """What a process must see to use the storage at a port and to look for Google nowhere."""
    return {
        "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}",
        # Other kinds of buckets are asked for by gRPC, which no emulator answers: a minute each.
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        "GOOGLE_APPLICATION_CREDENTIALS": str(throwaway_credentials(folder, port)),
        "GOOGLE_CLOUD_PROJECT": "test-project",
    }


def throwaway_credentials(folder: Path, port: int) -> Path:
    """A service account that nobody has, with a key made now, whose tokens the storage hands out.

    Without one, Google's libraries spend half a minute looking for another.
    """
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account: dict[str, Any] = {
        "type": "service_account",
        "project_id": "test-project",
        "private_key_id": "0",
        "private_key": key.decode(),
        "client_email": "nobody@test-project.iam.gserviceaccount.com",
        "client_id": "0",
        "token_uri": f"http://127.0.0.1:{port}{TOKEN_PATH}",
    }
    path = folder / "credentials.json"
    path.write_text(json.dumps(account))
    return path
