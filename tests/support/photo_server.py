"""A web server on this machine that serves photos, and fails as it is told to."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from support.flickr import Photo


@dataclass
class Answer:
    """What the server says to one request.

    Attributes:
        body, status, headers: as they go out.
        pause_s: before each of `pieces` parts of the body; 0 sends it at once.
        send: only so many bytes of the body, then the connection is closed.
        length: whether Content-Length is told.
    """

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    pause_s: float = 0.0
    pieces: int = 1
    send: int | None = None
    length: bool = True


@dataclass
class PhotoServer:
    """A running server.

    Attributes:
        url: of its root, without a slash at the end.
        answers: by path; of several, each request takes the next, and the last one stays.
        hits: requests by path.
        agents: User-Agents that were seen.
        cookies: Cookies that were sent.
        most: the most requests that were served at the same time.
    """

    url: str
    answers: dict[str, list[Answer]]
    hits: Counter[str] = field(default_factory=Counter)
    agents: set[str] = field(default_factory=set)
    cookies: set[str] = field(default_factory=set)
    most: int = 0
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def serve(self, path: str, *answers: Answer) -> str:
        """Answers a path, and returns its address."""
        self.answers[path] = list(answers)
        return self.url + path

    def take(self, path: str, agent: str) -> Answer:
        with self._lock:
            self.hits[path] += 1
            self.agents.add(agent)
            self._now += 1
            self.most = max(self.most, self._now)
            answers = self.answers.get(path, [Answer(status=404)])
            return answers.pop(0) if len(answers) > 1 else answers[0]

    def done(self) -> None:
        with self._lock:
            self._now -= 1


@contextmanager
def photo_server(photos: Iterable[Photo] = ()) -> Iterator[PhotoServer]:
    """Serves each photo under its `url_path`, and whatever `serve` adds."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            running.cookies.update(self.headers.get_all("Cookie", []))
            answer = running.take(self.path, self.headers.get("User-Agent", ""))
            try:
                self._send(answer)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
            finally:
                running.done()

        def _send(self, answer: Answer) -> None:
            self.send_response(answer.status)
            length = {"Content-Length": str(len(answer.body))} if answer.length else {}
            for name, value in (length | answer.headers).items():
                self.send_header(name, value)
            self.end_headers()
            body = answer.body[: answer.send]
            step = -(-len(body) // answer.pieces) or 1
            for start in range(0, len(body) or 1, step):
                time.sleep(answer.pause_s)
                self.wfile.write(body[start : start + step])
                self.wfile.flush()
            if answer.send is not None:
                self.close_connection = True

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    answers = {photo.url_path: [Answer(photo.image)] for photo in photos}
    running = PhotoServer(f"http://127.0.0.1:{server.server_address[1]}", answers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield running
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
