"""Hosts that strangers name get nothing out of the machine that asks, and cannot keep it busy."""

from __future__ import annotations

import socket
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from pipelines.sources import connections, download
from pipelines.sources.connections import is_public
from pipelines.sources.download import MAX_REDIRECTS, Downloader, FetchError, FetchSettings
from pipelines.sources.record import Drop, quoted, redacted, shown
from schemas.training import DropReason
from support.flickr import make_photos
from support.hostile.sources import (
    CHUNKED,
    DRIPPING,
    ENDLESS,
    HEAD,
    PRIVATE_HOSTS,
    SECRET,
    Script,
    certificate_of_loopback,
    packed_redirect,
    talker,
)
from support.photo_server import Answer, PhotoServer, photo_server

PHOTO = make_photos(1)[0]
PUBLIC = "93.184.216.34"


@pytest.fixture
def server() -> Iterator[PhotoServer]:
    with photo_server([PHOTO]) as running:
        yield running


def fetch(url: str, **settings: object) -> bytes:
    return Downloader(FetchSettings(**settings), sleep=lambda seconds: None).get(url)


def failure(url: str, **settings: object) -> FetchError:
    with pytest.raises(FetchError) as caught:
        fetch(url, **settings)
    return caught.value


class Internet:
    """Names of hosts and a public address behind which this machine answers.

    Attributes:
        names: Addresses of each name; of several answers each question takes the next.
        asked: Names that were asked for.
        connected: Addresses to which sockets were connected.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.names: dict[str, list[list[str]]] = {}
        self.asked: list[str] = []
        self.connected: list[str] = []
        resolve, connect = socket.getaddrinfo, socket.socket.connect

        def getaddrinfo(host: str, port: int, *args: object, **kwargs: object) -> list:
            if host not in self.names:
                return resolve(host, port, *args, **kwargs)
            self.asked.append(host)
            answers = self.names[host]
            found = answers.pop(0) if len(answers) > 1 else answers[0]
            return [
                (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))
                for address in found
            ]

        def to_here(sock: socket.socket, place: tuple) -> None:
            self.connected.append(place[0])
            connect(sock, ("127.0.0.1", *place[1:]) if place[0] == PUBLIC else place)

        patch.setattr(socket, "getaddrinfo", getaddrinfo)
        patch.setattr(socket.socket, "connect", to_here)


@pytest.fixture
def internet(monkeypatch: pytest.MonkeyPatch) -> Internet:
    return Internet(monkeypatch)


def elsewhere(url: str, host: str) -> str:
    """The same address at another host."""
    return url.replace("127.0.0.1", host, 1)


# Where a download may lead


@pytest.mark.parametrize("host", PRIVATE_HOSTS)
def test_no_spelling_of_a_private_address_is_connected_to(host: str, internet: Internet) -> None:
    error = failure(f"http://{host}:8080/latest/meta-data/", attempts=1)
    assert internet.connected == []
    assert error.reason is DropReason.FETCH_FAILED


@pytest.mark.parametrize("host", ["127.0.0.1", "0x7f.1", "[::ffff:127.0.0.1]", "localhost"])
def test_a_private_address_is_refused_once_with_a_remedy(server: PhotoServer, host: str) -> None:
    url = elsewhere(server.url + PHOTO.url_path, host)
    assert "--allow-private-addresses" in str(failure(url, attempts=3))
    assert server.hits.total() == 0
    assert fetch(server.url + PHOTO.url_path, allow_private=True) == PHOTO.image


def test_the_internet_is_public() -> None:
    for address in (PUBLIC, "8.8.8.8", "2606:2800:220:1:248:1893:25c8:1946", "64:ff9b::808:808"):
        assert is_public(address)


def test_photos_of_public_hosts_come_as_before(server: PhotoServer, internet: Internet) -> None:
    internet.names = {"photos.example": [[PUBLIC]]}
    assert fetch(elsewhere(server.url, "photos.example") + PHOTO.url_path) == PHOTO.image
    assert internet.connected == [PUBLIC]


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["10.0.0.1", PUBLIC], ["169.254.169.254"]])
def test_a_name_may_not_lead_to_a_private_address(
    server: PhotoServer, internet: Internet, addresses: list[str]
) -> None:
    internet.names = {"photos.example": [addresses]}
    failure(elsewhere(server.url, "photos.example") + PHOTO.url_path)
    assert internet.connected == [] and server.hits.total() == 0


def test_a_name_that_changes_its_address_is_asked_once(
    server: PhotoServer, internet: Internet
) -> None:
    internet.names = {"photos.example": [[PUBLIC], ["127.0.0.1"]]}
    fetch(elsewhere(server.url, "photos.example") + PHOTO.url_path)
    assert internet.connected == [PUBLIC] and internet.asked == ["photos.example"]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "2130706433", "[::ffff:127.0.0.1]", "inside.example"]
)
def test_a_redirect_may_not_lead_to_a_private_address(
    server: PhotoServer, internet: Internet, host: str
) -> None:
    internet.names = {"photos.example": [[PUBLIC]], "inside.example": [["127.0.0.1"]]}
    inside = elsewhere(server.serve("/inside", Answer(PHOTO.image)), host)
    server.serve("/one.jpg", Answer(status=302, headers={"Location": "/two.jpg"}))
    server.serve("/two.jpg", Answer(status=307, headers={"Location": inside}))
    failure(elsewhere(server.url, "photos.example") + "/one.jpg")
    assert server.hits["/inside"] == 0 and server.hits["/two.jpg"] == 1
    assert set(internet.connected) == {PUBLIC}


@pytest.mark.parametrize("port", [21, 22, 25, 110, 445])
def test_ports_of_other_protocols_are_not_spoken_to(port: int, internet: Internet) -> None:
    error = failure(f"http://127.0.0.1:{port}/x.jpg", allow_private=True, attempts=3)
    assert "80, 443 or 1024" in str(error) and internet.connected == []


# What a host may learn


def test_nothing_that_the_machine_knows_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text(f"default login me password {SECRET}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with talker(lambda: [HEAD + b"Set-Cookie: a=b\r\nContent-Length: 1\r\n\r\nx"]) as host:
        assert [fetch(host.url, allow_private=True) for _ in range(2)] == [b"x", b"x"]
    for request in host.requests:
        names = {line.partition(b":")[0].lower() for line in request.split(b"\r\n")[1:-2]}
        assert names == {b"host", b"user-agent", b"accept", b"accept-encoding"}


def test_a_password_of_an_address_goes_to_its_host_alone() -> None:
    with talker(lambda: [HEAD + b"Content-Length: 1\r\n\r\nx"]) as other:
        head = f"HTTP/1.1 302 Found\r\nLocation: {other.url}\r\nContent-Length: 0\r\n\r\n"
        with talker(lambda: [head.encode()]) as host:
            url = host.url.replace("//", f"//me:{SECRET}@") + f"?token={SECRET}"
            assert fetch(url, allow_private=True) == b"x"
    assert b"authorization: Basic" in host.requests[0]
    (request,) = other.requests
    assert not {b"authorization", b"referer"} & {
        line.partition(b":")[0].lower() for line in request.split(b"\r\n")
    }
    assert SECRET.encode() not in request


# How long, and how much


@pytest.mark.parametrize("part", ENDLESS)
def test_no_part_of_an_answer_is_endless(part: str) -> None:
    with talker(ENDLESS[part]) as host:
        tracemalloc.start()
        try:
            failure(host.url, allow_private=True, attempts=1, max_bytes=2**20)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 8 * 2**20
    most = 1 + MAX_REDIRECTS if "elsewhere" in part else 1
    assert len(host.requests) == most
    assert host.bytes < most * 16 * 2**20  # with what the system's buffers hold


@pytest.mark.parametrize("part", DRIPPING)
def test_a_host_that_drips_is_left_in_time(part: str) -> None:
    with talker(DRIPPING[part], pause_s=0.01) as host:
        limits = {"attempts": 1, "timeout_s": 0.4, "read_timeout_s": 5.0}
        assert "slower than 0.4 s" in str(failure(host.url, allow_private=True, **limits))
    assert host.pieces <= 40


def test_a_handshake_that_drips_is_left_in_time() -> None:
    def script() -> Iterator[bytes]:
        yield b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc"  # a handshake of 16 KiB begins
        while True:
            yield b"\0"

    with talker(script, pause_s=0.01) as host:
        limits = {"attempts": 1, "connect_timeout_s": 0.4}
        url = host.url.replace("http", "https", 1)
        assert "timed out" in str(failure(url, allow_private=True, **limits))
    assert host.pieces <= 41


def test_names_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args: ended.wait(60) or [])
    try:
        error = failure("http://slow.example/x.jpg", attempts=1, connect_timeout_s=0.05)
    finally:
        ended.set()
    assert "not resolved in 0.05 s" in str(error)


def test_a_name_with_a_thousand_addresses_is_tried_at_few(internet: Internet) -> None:
    with photo_server() as stopped:
        url = elsewhere(stopped.url, "many.example")
    internet.names = {"many.example": [[PUBLIC] * 1000]}
    failure(url + "/x.jpg", attempts=2)
    assert len(internet.connected) == 2 * connections.MAX_ADDRESSES


def test_the_body_of_a_redirect_is_neither_read_nor_unpacked(server: PhotoServer) -> None:
    with talker(packed_redirect(server.url + PHOTO.url_path)) as host:
        tracemalloc.start()
        try:
            assert fetch(host.url, allow_private=True) == PHOTO.image
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 4 * 2**20


def chunks(size: int) -> Script:
    body = b"".join(b"%x\r\n%s\r\n" % (size, bytes(size)) for _ in range(2**18 // size))
    return lambda: [CHUNKED + body + b"0\r\nX: y\r\n\r\n"]


@pytest.mark.parametrize("size", [16, 512, 2**16])
def test_honest_chunks_are_read(size: int) -> None:
    with talker(chunks(size)) as host:
        assert len(fetch(host.url, allow_private=True)) == 2**18


def test_hosts_are_not_remembered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "MAX_HOSTS", 10)
    running = Downloader(FetchSettings(attempts=1))
    for i in range(100):
        with pytest.raises(FetchError):
            running.get(f"http://127.0.0.{i}/x.jpg")
    assert len(running._hosts) <= 10


@pytest.mark.parametrize("zone", ["+" + "9" * 15, "+" + "9" * 30, "-2359"])
@pytest.mark.parametrize("year", ["0001", "2024", "9999"])
def test_a_wait_until_a_strange_day_costs_one_photo(
    server: PhotoServer, zone: str, year: str
) -> None:
    when = {"Retry-After": f"Fri, 31 Dec {year} 23:59:59 {zone}"}
    url = server.serve("/x.jpg", Answer(status=503, headers=when))
    assert failure(url, allow_private=True, attempts=2).reason is DropReason.FETCH_FAILED


# Encrypted


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A certificate of this machine with its key, which downloads believe."""
    path = certificate_of_loopback(tmp_path)
    monkeypatch.setattr(requests.certs, "where", lambda: str(path))
    return path


def test_encrypted_photos_come_and_drips_end(certificate: Path) -> None:
    body = HEAD + b"Content-Length: 5\r\n\r\nphoto"
    with talker(lambda: [body], certificate=certificate) as host:
        assert host.url.startswith("https://")
        assert fetch(host.url, allow_private=True, attempts=1) == b"photo"
        assert "--allow-private-addresses" in str(failure(host.url))
    assert len(host.requests) == 1
    with talker(DRIPPING["the body"], pause_s=0.01, certificate=certificate) as host:
        limits = {"attempts": 1, "timeout_s": 0.4, "read_timeout_s": 5.0}
        assert "slower than 0.4 s" in str(failure(host.url, allow_private=True, **limits))
    assert host.pieces <= 40


def test_certificates_of_strangers_are_not_believed(tmp_path: Path) -> None:
    path = certificate_of_loopback(tmp_path)
    with talker(lambda: [HEAD], certificate=path) as host:
        error = failure(host.url, allow_private=True, attempts=1)
    assert "certificate verify failed" in str(error) and host.requests == []


# What is written down

ADDRESSES = (
    f"http://me:{SECRET}@h.example/x.jpg",
    f"https://{SECRET}@h.example/x.jpg",
    f"http://me:a/{SECRET}@h.example/x.jpg",
    f"HTTP://me:{SECRET}@h.example:8080/x.jpg",
    f"//me:{SECRET}@h.example/x.jpg",
    f"http:\\\\me:{SECRET}@h.example\\x.jpg",
    f"http:/me:{SECRET}@h.example/x.jpg",
    f"s3://me:{SECRET}@bucket/x.jpg",
    f"http://h.example/x.jpg?X-Amz-Signature={SECRET}",
    f"http://h.example/x.jpg?{SECRET}",
    f"http://h.example/x.jpg?a=b//{SECRET}",
    f"http://h.example/x.jpg?next=http://me:{SECRET}@h/",
    f"http://h.example/x.jpg;jsessionid={SECRET}",
    f"http://h.example/x.jpg#access_token={SECRET}",
    f"http://a.example/x.jpg,http://me:{SECRET}@h.example/x.jpg",
    f"ftp://me:{SECRET}@h.example/x.jpg",
    f"http://me:{SECRET}@[::1]/x.jpg",
    f'http://h.example/x.jpg?a="{SECRET}"',
    f"http://h.example/x.jpg?a=<{SECRET}>",
    f"http%3a%2f%2Fme%3A{SECRET}%40h.example%2Fx.jpg%3Ft%3D{SECRET}",
)


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("cut", [None, 3])
def test_no_message_tells_the_secrets_of_an_address(address: str, cut: int | None) -> None:
    secret = SECRET if cut is None else SECRET[:cut]
    texts = [
        redacted(f"45/77/1.jpg,{address},a"),
        shown(b"x" * 150 + b" " + address.encode() + b"\tmore"),
        *(quoted(f"{address}", most) for most in range(1, 90)),
        *vars(Drop(None, DropReason.NO_IMAGE, f"{address}: no", address)).values(),
        str(failure(address + "\n")),
    ]
    assert [text for text in texts if text and secret in str(text)] == []


@pytest.mark.parametrize(
    "text",
    [
        "http://h.example:8080/a/b.jpg: HTTP status 403",
        "'http://h.example', wanted",
        "http://www.flickr.com/photos/22616984@N02/2167220320/",
        "gs://bucket/a.tar is a tar; copy it again",
        "a / b: 3 // 4",
    ],
)
def test_addresses_without_secrets_stay_readable(text: str) -> None:
    assert redacted(text) == text


@pytest.mark.parametrize("status", [302, 403, 404, 500, 200])
def test_errors_do_not_tell_the_secrets_of_an_address(server: PhotoServer, status: int) -> None:
    where = {"Location": f"ftp://me:{SECRET}@h/x?{SECRET}", "Content-Encoding": "br"}
    server.serve(f"/x.jpg?{SECRET}", Answer(status=status, headers=where))
    url = server.url.replace("//", f"//me:{SECRET}@") + f"/x.jpg?{SECRET}"
    assert SECRET not in str(failure(url, allow_private=True))
    assert SECRET not in str(failure(url))
    assert server.hits[f"/x.jpg?{SECRET}"] > 0
