"""Opens connections for downloads: to public addresses only, and never beyond a deadline.

An address is checked where the socket is made, and the socket goes to the very address that was
checked: a name that resolves to another address a moment later, a redirect, or a host that is
spelled as one number changes nothing.
"""

from __future__ import annotations

import contextvars
import io
import ipaddress
import socket
import time
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any

import requests.certs
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from pipelines.sources.record import DropError
from schemas.training import DropReason

MAX_ADDRESSES = 4
"""Addresses of one host that are tried, so that a name with a thousand takes no hours."""

ALLOWANCE_BYTES = 128 * 2**10
"""Bytes of an answer beyond twice its body: for its head, of which real ones have 16 KiB."""

PORTS_OF_THE_WEB = (80, 443)
FIRST_FREE_PORT = 1024
"""Below this, ports other than the web's are those of mail, files and shells."""

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
"""IPv6 addresses by which some networks reach IPv4."""

_UNICAST = ipaddress.ip_network("2000::/3")

# Python's own table of what is not global differs between its versions.
_SPECIAL = [
    ipaddress.ip_network(one)
    for one in (
        *("100.64.0.0/10", "192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15", "224.0.0.0/3"),
        "168.63.129.16/32",  # by which machines of Azure reach their host
        *("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),
    )
]


class FetchError(DropError):
    """An image cannot be fetched: NO_IMAGE, TOO_LARGE, or FETCH_FAILED, which may pass."""


class Slow(Exception):
    """An attempt takes longer than it may; another may be faster."""


def is_public(address: str) -> bool:
    """Returns whether an address is one of the Internet, and not of a machine or a network alone.

    Args:
        address: IPv4 or IPv6 address as the system spells it.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        low = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else ip.ipv4_mapped
        if low is not None:
            return is_public(str(low))
        if ip not in _UNICAST:
            return False
    return ip.is_global and not any(ip in network for network in _SPECIAL)


@dataclass
class Attempt:
    """Limits of what one thread is fetching.

    Attributes:
        timeout_s: Seconds for all of it.
        connect_timeout_s: Seconds to connect to one address, and to agree on encryption.
        read_timeout_s: Seconds until the next bytes.
        allow_private: Whether addresses that are not public are allowed.
        clock: Function that tells the time.
        left: Bytes that may still come.
    """

    timeout_s: float
    connect_timeout_s: float
    read_timeout_s: float
    allow_private: bool
    clock: Callable[[], float] = time.monotonic
    left: int = ALLOWANCE_BYTES

    def __post_init__(self) -> None:
        self.deadline = self.clock() + self.timeout_s

    def seconds(self, most: float) -> float:
        """Returns the seconds that a step may take, at most these.

        Raises:
            Slow: None are left.
        """
        left = self.deadline - self.clock()
        if left <= 0:
            raise Slow(f"slower than {self.timeout_s:g} s")
        return min(most, left)

    def take(self, size: int) -> None:
        """Counts bytes that came.

        Raises:
            FetchError: An answer consists of headers, comments and the like.
        """
        self.left -= size
        if self.left < 0:
            why = f"the answer has {ALLOWANCE_BYTES:,} bytes more than twice its picture"
            raise FetchError(DropReason.FETCH_FAILED, why)


ATTEMPT: contextvars.ContextVar[Attempt] = contextvars.ContextVar("ATTEMPT")


class _Wire(io.RawIOBase):
    """The bytes of a socket, as long as the attempt may wait for them."""

    def __init__(self, sock: socket.socket, attempt: Attempt) -> None:
        self._sock, self._attempt = sock, attempt
        self._raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._attempt.seconds(self._attempt.read_timeout_s))
        try:
            size = self._raw.readinto(buffer)
        except TimeoutError:
            self._attempt.seconds(0.0)  # says so if it is the deadline that ends the attempt
            raise
        self._attempt.take(size or 0)
        return size

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **settings: Any) -> None:
        super().__init__(sock, *args, **settings)
        self.fp.close()
        self.fp = io.BufferedReader(_Wire(sock, ATTEMPT.get()))


def _addresses(host: str, port: int, seconds: float) -> list[Any]:
    """Asks the system for the addresses of a host, which no system lets one give up."""
    pool = futures.ThreadPoolExecutor(1)
    try:
        asked = pool.submit(socket.getaddrinfo, host.strip("[]"), port, 0, socket.SOCK_STREAM)
        return asked.result(seconds)[:MAX_ADDRESSES]
    except futures.TimeoutError:
        raise Slow(f"the name of the host is not resolved in {seconds:g} s") from None
    finally:
        pool.shutdown(wait=False)


def _connect(host: str, port: int) -> socket.socket:
    attempt = ATTEMPT.get()
    if port not in PORTS_OF_THE_WEB and port < FIRST_FREE_PORT:
        why = f"port {port} of {host} is not the web's, wanted 80, 443 or {FIRST_FREE_PORT} and up"
        raise FetchError(DropReason.FETCH_FAILED, why)
    host.encode("idna")  # raises for names that cannot exist
    trouble = OSError(f"{host} has no address")
    for family, kind, protocol, _, place in _addresses(
        host, port, attempt.seconds(attempt.connect_timeout_s)
    ):
        if not (attempt.allow_private or is_public(place[0])):
            why = (
                f"{host} is an address of this machine or of a private network, wanted a public "
                "one; if you trust the list, add --allow-private-addresses"
            )
            raise FetchError(DropReason.FETCH_FAILED, why)
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(attempt.seconds(attempt.connect_timeout_s))
            sock.connect(place)
            # A handshake of TLS has this long as a whole.
            sock.settimeout(attempt.seconds(attempt.connect_timeout_s))
            return sock
        except OSError as error:
            sock.close()
            trouble = error
        except BaseException:
            sock.close()
            raise
    raise trouble


class _Plain(HTTPConnection):
    response_class = _Response

    def _new_conn(self) -> socket.socket:
        return _connect(self._dns_host, self.port)


class _Encrypted(HTTPSConnection):
    response_class = _Response

    def _new_conn(self) -> socket.socket:
        return _connect(self._dns_host, self.port)


class _PlainPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Plain


class _EncryptedPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _Encrypted


def connection_pool(size: int) -> urllib3.PoolManager:
    """Makes a pool whose connections obey the ATTEMPT of the thread that uses them.

    It knows no proxy, no cookies and no passwords of the machine: a proxy would resolve the names
    itself, so that no address could be checked.

    Args:
        size: Number of hosts, and of connections to each, that are kept open.
    """
    pool = urllib3.PoolManager(size, maxsize=size, ca_certs=requests.certs.where())
    pool.pool_classes_by_scheme = {"http": _PlainPool, "https": _EncryptedPool}
    return pool
