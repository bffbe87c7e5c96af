"""Google Dataflow's job service, as far as a submission needs it, on loopback."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DONE, FAILED, PENDING = 3, 4, 9
JOBS = re.compile(
    r"/v1b3/projects/([^/]+)/locations/([^/]+)/jobs(?:/([^/?]+)(/messages|/metrics)?)?(?:\?.*)?"
)
REASON = "the NVIDIA driver is too old"


@dataclass
class DataflowService:
    """What was submitted.

    Attributes:
        port: on localhost; the word matters, for any other name Beam speaks gRPC.
        jobs: descriptions of jobs, in order.
        unknown: requests that were not understood.
        work: does what the workers of a job would, and returns the state that the job ends in;
            None leaves all jobs pending.
    """

    port: int = 0
    jobs: list[dict[str, Any]] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    work: Callable[[], int] | None = None

    @property
    def flags(self) -> str:
        """Flags of Beam that lead a job here."""
        return f"--no_auth --dataflow_endpoint=http://localhost:{self.port}"


@contextmanager
def dataflow_service() -> Iterator[DataflowService]:
    """Takes jobs, gives each an id, and says of each that it is pending, or how it ended."""
    service = DataflowService()
    states: dict[str, int] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            match = JOBS.fullmatch(self.path)
            if match is None:
                return self.answer({}, 404)
            service.jobs.append({**body, "project": match[1], "region": match[2]})
            self.answer({**body, "id": f"job-{len(service.jobs)}", "currentState": PENDING})

        def do_GET(self) -> None:
            match = JOBS.fullmatch(self.path)
            if match is None or match[3] is None:
                return self.answer({}, 404)
            if match[4]:
                error = {"id": "1", "time": "2026-01-01T00:00:00Z", "messageText": REASON}
                failed = states.get(match[3]) == FAILED
                told = [{**error, "messageImportance": "JOB_MESSAGE_ERROR"}] if failed else []
                return self.answer({"jobMessages": told} if match[4] == "/messages" else {})
            if match[3] not in states and service.work:
                states[match[3]] = service.work()
            self.answer({"id": match[3], "currentState": states.get(match[3], PENDING)})

        def answer(self, document: dict[str, Any], status: int = 200) -> None:
            if status != 200:
                service.unknown.append(f"{self.command} {self.path}")
            data = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
