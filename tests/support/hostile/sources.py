"""Hostile hosts, lists and msgpack shards: what a build of training shards may be led to."""

from __future__ import annotations

import contextlib
import gzip
import ipaddress
import itertools
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

import msgpack
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

SECRET = "sekrit7"
"""Stands in addresses where passwords and tokens stand; nothing that is written may hold it."""

PRIVATE_HOSTS = (
    *("127.0.0.1", "localhost", "LOCALHOST", "localhost.", "127.1", "127.127.127.127"),
    *("2130706433", "0x7f000001", "0x7f.1", "017700000001", "0177.0.0.1", "0x7f.0x0.0x0.0x1"),
    *("0.0.0.0", "0", "[::]", "[::1]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]"),
    *("[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]"),
    *("169.254.169.254", "2852039166", "0xa9fea9fe", "[::ffff:169.254.169.254]"),
    *("[fd00:ec2::254]", "[fd20:ce::254]", "168.63.129.16", "100.100.100.200", "192.0.0.192"),
    *("10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "198.18.0.1"),
    *("224.0.0.1", "239.255.255.250", "255.255.255.255", "240.0.0.1", "[ff02::1]", "[fe80::1]"),
    *("[fc00::1]", "[fec0::1]", "[2001:db8::1]", "[2001::1]", "[64:ff9b:1::7f00:1]"),
)
"""Spellings of hosts that are this machine, its network, or a cloud's keeper of passwords."""

Script = Callable[[], Iterable[bytes]]


@dataclass
class Talker:
    """A host that says what a script says, until the other side hangs up.

    Attributes:
        url: Address of a photo there.
        requests: What was asked, as it came.
        pieces: Number of pieces that were sent.
        bytes: Number of bytes that were sent.
    """

    url: str
    requests: list[bytes] = field(default_factory=list)
    pieces: int = 0
    bytes: int = 0


@contextmanager
def talker(
    script: Script, pause_s: float = 0.0, certificate: Path | None = None
) -> Iterator[Talker]:
    """Serves every connection by a script.

    Args:
        script: Function that returns the pieces to send.
        pause_s: Seconds before each piece.
        certificate: Certificate and key of a host that speaks TLS.
    """
    server = socket.create_server(("127.0.0.1", 0))
    secured = None
    if certificate is not None:
        secured = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        secured.load_cert_chain(certificate)
    scheme = "https" if secured else "http"
    running = Talker(f"{scheme}://127.0.0.1:{server.getsockname()[1]}/photo.jpg")
    ended = threading.Event()

    def serve(client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            if secured:
                client = secured.wrap_socket(client, server_side=True)
            with client:
                running.requests.append(client.recv(65536))
                for piece in script():
                    if ended.wait(pause_s):
                        return
                    client.sendall(piece)
                    running.pieces += 1
                    running.bytes += len(piece)

    def accept() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield running
    finally:
        ended.set()
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


def certificate_of_loopback(folder: Path) -> Path:
    """Writes a certificate of 127.0.0.1, which nobody has signed, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
    here = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    now = datetime.now(timezone.utc)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([here]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    encoding = serialization.Encoding.PEM
    secret = key.private_bytes(
        encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(made.public_bytes(encoding) + secret)
    return path


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def _after(*pieces: bytes, forever: bytes) -> Script:
    return lambda: itertools.chain(pieces, itertools.repeat(forever))


ENDLESS: dict[str, Script] = {
    "interim answers": _after(forever=b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "headers of interim answers": _after(b"HTTP/1.1 100 C\r\n", forever=b"A: b\r\n" * 90),
    "a status line": _after(forever=b"H" * 4096),
    "a line of the head": _after(HEAD + b"X: ", forever=b"x" * 4096),
    "lines of the head": _after(HEAD, forever=b"X: y\r\n" * 100),
    "the size of a chunk": _after(CHUNKED, forever=b"0" * 4096),
    "the comment of a chunk": _after(CHUNKED + b"5;", forever=b"x" * 4096),
    "chunks of one byte": _after(CHUNKED, forever=b"1\r\nx\r\n" * 1000),
    "comments of chunks": _after(CHUNKED, forever=b"1;" + b"c" * 999 + b"\r\nx\r\n"),
    "trailers": _after(CHUNKED + b"1\r\nx\r\n0\r\n", forever=b"X: y\r\n" * 100),
    "a body": _after(HEAD + b"\r\n", forever=bytes(65536)),
    "a body that leads elsewhere": _after(
        b"HTTP/1.1 302 Found\r\nLocation: /photo.jpg\r\n\r\n", forever=bytes(65536)
    ),
    "the body of an error": _after(b"HTTP/1.1 403 No\r\n\r\n", forever=bytes(65536)),
}
"""Answers without an end, each in another part of an answer."""


DRIPPING: dict[str, Script] = {
    "the status line": lambda: (bytes([byte]) for byte in b"HTTP/1.1 200 OK" + b"K" * 9999),
    "the head": lambda: itertools.chain([HEAD, b"X: "], itertools.repeat(b"x")),
    "interim answers": _after(forever=b"HTTP/1.1 100 Continue\r\n\r\n"),
    "the size of a chunk": _after(CHUNKED, forever=b"0"),
    "the body": _after(HEAD + b"\r\n", forever=b"x"),
    "trailers": _after(CHUNKED + b"0\r\n", forever=b"X: y\r\n"),
}
"""Answers that come byte by byte, so that something always comes before a time runs out."""


def packed_redirect(to: str) -> Script:
    """An answer that leads elsewhere, with a body of 410 KB that unpacks to 420 MB."""
    body = 100 * gzip.compress(bytes(4 * 2**20), 9, mtime=0)
    head = (
        f"HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Encoding: gzip\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return lambda: [head.encode() + body]


def entry(**values: bytes) -> bytes:
    """An entry of a msgpack shard, of values that are packed already."""
    parts = [msgpack.packb(name) + value for name, value in values.items()]
    return bytes([0x80 + len(parts)]) + b"".join(parts)


def _many(kind: int, value: bytes, count: int = 2**20) -> Callable[[], bytes]:
    """An array (0xdd) or a map (0xdf) of as many values, of which each is as small as can be."""
    return lambda: bytes([kind]) + count.to_bytes(4, "big") + value * count


_IMAGE, _ID = msgpack.packb(b"picture"), msgpack.packb("a.jpg")

VALUES: dict[str, Callable[[], bytes]] = {
    "nils": _many(0xDD, b"\xc0"),
    "small numbers": _many(0xDD, b"\x07"),
    "empty arrays": _many(0xDD, b"\x90"),
    "empty maps": _many(0xDD, b"\x80"),
    "empty strings": _many(0xDD, b"\xa0"),
    "floats": _many(0xDD, b"\xca\0\0\0\0", 2**18),
    "pairs": _many(0xDF, b"\x01\xc0", 2**19),
    "moments": _many(0xDD, b"\xd6\xff\0\0\0\0", 2**18),
    "extensions": _many(0xDD, b"\xc7\0\x05", 2**18),
    "arrays in arrays": lambda: b"\x91" * 2**20 + b"\xc0",
    "wide arrays in arrays": lambda: b"\xdc\xff\xff" * 2**18,
    "maps in maps": lambda: b"\x81\xc0" * 2**19 + b"\xc0",
    "maps as names": lambda: b"\x81" * 2**20 + b"\xc0" * 2**20,
}
"""Values of a megabyte or so, of which a library makes objects of up to 70 times as much."""

ENTRIES: dict[str, Callable[[], bytes]] = {
    f"{name} {where}": make
    for name, value in VALUES.items()
    for where, make in {
        "as a value": lambda value=value: entry(id=_ID, more=value(), image=_IMAGE),
        "as the id": lambda value=value: entry(id=value(), image=_IMAGE),
        "as the image": lambda value=value: entry(id=_ID, image=value()),
        "as a name": lambda value=value: b"\x83" + value() + b"\xc0" + entry(id=_ID)[1:],
        "as an entry": value,
    }.items()
}
"""Entries of a msgpack shard that end it."""

ODD_ENTRIES: dict[str, Callable[[], bytes]] = {
    "an array as the id": lambda: entry(id=b"\x93\1\2\3", image=_IMAGE),
    "a map as the id": lambda: entry(id=b"\x81\1\2", image=_IMAGE),
    "a moment as the id": lambda: entry(id=b"\xd6\xff\0\0\0\0", image=_IMAGE),
    "a float as the id": lambda: entry(id=b"\xca\x7f\xc0\0\0", image=_IMAGE),
    "an id of a megabyte": lambda: entry(id=msgpack.packb("a" * 2**20), image=_IMAGE),
    "an id with a NUL": lambda: entry(id=msgpack.packb("a\0.jpg"), image=_IMAGE),
    "an id that leads out": lambda: entry(id=msgpack.packb("a/../../b"), image=_IMAGE),
    "an id that is a chain": lambda: entry(id=msgpack.packb("a.jpg::b.tar"), image=_IMAGE),
    "an extension as the image": lambda: entry(id=_ID, image=b"\xc7\1\1\1"),
    "an array as the image": lambda: entry(id=_ID, image=b"\x91\1"),
    "a name of a megabyte": lambda: entry(**{"n" * 2**20: _ID}),
    "an array as a name": lambda: b"\x81\x91\1\1",
    "an empty map": lambda: b"\x80",
}
"""Entries of a msgpack shard that cannot be used, between others that can."""


def make_values(planted: Path) -> list[str]:
    """Values of make's variables that make a file where make or a shell runs them."""
    touch = f"touch {planted}"
    return [
        f"$(shell {touch})",
        f"${{shell {touch}}}",
        f"$(eval $(shell {touch}))",
        f"$(file >{planted})",
        f"$$(shell {touch})",
        f"`{touch}`",
        f"$({touch})",
        f"$$({touch})",
        f"'; {touch}; '",
        f"'\"; {touch}; \"'",
        f"\\'; {touch} #",
        f"a\n{touch}",
        f"a\n\t{touch}\n",
        f"a\\\n{touch}",
        f"a'\n{touch}\n'",
        f"; {touch} &",
        f"| {touch}",
        "$(error stopped)",
        "$(PROJECT)",
        "a b  c\td",
        "# no comment",
        "!x %y ~z",
    ]


def secret_lines() -> list[str]:
    """Rows that are no rows of a list, with addresses and their secrets in every column."""
    addresses = (
        f"http://me:{SECRET}@h.example/x.jpg",
        f"http://{SECRET}@h.example/x.jpg",
        f"http://h.example/x.jpg?token={SECRET}",
        f"http://h.example:{SECRET}/x.jpg",
        f"htp://me:{SECRET}@h.example/x.jpg",
        f"//me:{SECRET}@h.example/x.jpg",
    )
    rows = ("{},", "1.jpg,{}", "1.jpg,{},1,2,3", "{},a,1,2,0,0,0,0,0,0", "1.jpg,{},x,2,0,0,0,0,0,0")
    rows += ("1.jpg,a,{},2,0,0,0,0,0,0", "1.jpg,a\t{}", "{}")
    return [row.format(address) for row in rows for address in addresses]


NAMES = (
    "<script>alert(1)</script>.csv",
    "[click](javascript:alert(1)).csv",
    "![x](http://h.example/x.png).csv",
    "a`b`c.csv",
    "a|b|c.csv",
    "=HYPERLINK(1).csv",
    "a\x1b[31m\x07.csv",
    "a\u202egpj.csv",
    "a&lt;b&gt;.csv",
    "**bold**.csv",
    "a\\`b.csv",
)
"""Names of files that are text in the places where they are shown, and nothing else."""
