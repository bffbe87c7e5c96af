"""Downloads images politely: few requests at a time, fewer per host, and long waits when asked.

Limits hold for a process: a job with W workers makes W times as many requests. Addresses come from
strangers: `connections` says where they may lead, and no message tells what they keep secret.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from urllib.parse import unquote, urljoin, urlsplit

import urllib3

from locdiffusion import __version__
from pipelines.sources.connections import (
    ALLOWANCE_BYTES,
    ATTEMPT,
    Attempt,
    FetchError,
    Slow,
    connection_pool,
)
from pipelines.sources.record import redacted, web_address
from schemas.samples import MAX_IMAGE_BYTES
from schemas.training import DropReason

CHUNK = 64 * 2**10
MAX_REDIRECTS = 5
MAX_HOSTS = 20_000
"""Hosts that are remembered; of more, those that were met first are forgotten."""

MOVED = (301, 302, 303, 307, 308)
GONE = (404, 410)
TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
PLACEHOLDER = "photo_unavailable"
"""Flickr leads from a photo that was deleted to a picture of this name, with status 200."""


@dataclass(frozen=True)
class FetchSettings:
    """Limits of downloads, and of what is read.

    Attributes:
        connections: Most requests at a time.
        per_host: Most requests to one host at a time.
        attempts: Number of attempts per address.
        backoff_s: Seconds before the second attempt; each further attempt waits twice as long, with
            jitter.
        max_wait_s: Longest wait in seconds; if a host asks for a longer one, the image is given up.
        connect_timeout_s: Seconds to connect.
        read_timeout_s: Seconds until the next bytes.
        timeout_s: Seconds for one attempt as a whole.
        max_bytes: Largest size of one image in bytes, by whichever route.
        seed: Seed of the jitter.
        user_agent: Name that is told to hosts; add an address at which you can be reached.
        allow_private: Whether addresses of this machine and of private networks are fetched from.
        within: Folder of this machine that no link may lead out of; empty: links lead anywhere.

    Raises:
        ValueError: A limit is not positive.
    """

    connections: int = 16
    per_host: int = 4
    attempts: int = 4
    backoff_s: float = 1.0
    max_wait_s: float = 120.0
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 30.0
    timeout_s: float = 120.0
    max_bytes: int = MAX_IMAGE_BYTES
    seed: int = 0
    user_agent: str = (
        f"locdiffusion-build-shards/{__version__} (research; one pass over a public photo list)"
    )
    allow_private: bool = False
    within: str = ""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name not in ("seed", "user_agent", "allow_private", "within") and not value > 0:
                raise ValueError(f"{name} is {value}, wanted a positive number")


class _Again(Exception):
    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class _Host:
    """Requests to one host, and the time before which it wants no further one."""

    def __init__(self, per_host: int) -> None:
        self.slots = threading.BoundedSemaphore(per_host)
        self.resume_at = 0.0

    def pause(self, until: float) -> None:
        self.resume_at = max(self.resume_at, until)


class Downloader:
    """Fetches images; any number of threads may share one.

    Args:
        settings: Limits of downloads.
        sleep: Function that waits; tests replace it.
        clock: Function that tells the time; tests replace it.
    """

    def __init__(
        self,
        settings: FetchSettings,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self._sleep, self._clock = sleep, clock
        self._slots = threading.BoundedSemaphore(settings.connections)
        self._hosts: dict[str, _Host] = {}
        self._lock = threading.Lock()
        self._pool = connection_pool(settings.connections)

    def get(self, url: str) -> bytes:
        """Downloads the body of an http(s) address.

        Raises:
            FetchError: There is no body, it is too large, or no attempt succeeded.
        """
        if web_address(url) is None:
            why = f"{redacted(url)!r} is no http or https address"
            raise FetchError(DropReason.NO_IMAGE, why)
        host = self._host(url)
        why = ""
        for attempt in range(self.settings.attempts):
            if attempt:
                self._sleep(self._backoff(url, attempt))
            with host.slots:
                self._respect(host, url)
                with self._slots:
                    try:
                        return self._once(url)
                    except _Again as again:
                        why = str(again)
                        host.pause(self._clock() + again.wait_s)
        tries = self.settings.attempts
        raise _failed(url, f"{why}; gave up after {tries} attempts")

    def _host(self, url: str) -> _Host:
        name = urlsplit(url).netloc.rpartition("@")[2].lower()
        with self._lock:
            if len(self._hosts) >= MAX_HOSTS:
                self._hosts = dict(list(self._hosts.items())[MAX_HOSTS // 2 :])
            return self._hosts.setdefault(name, _Host(self.settings.per_host))

    def _backoff(self, url: str, attempt: int) -> float:
        """Returns the seconds before an attempt, equal in every run."""
        most = min(self.settings.backoff_s * 2.0 ** (attempt - 1), self.settings.max_wait_s)
        return most * random.Random(f"{self.settings.seed} {attempt} {url}").uniform(0.5, 1.0)

    def _respect(self, host: _Host, url: str) -> None:
        while (wait := host.resume_at - self._clock()) > 0:
            if wait > self.settings.max_wait_s:
                limit = f"limit {self.settings.max_wait_s:g} s; build again later"
                raise _failed(url, f"the host asks to be left alone for {wait:.0f} s, {limit}")
            self._sleep(wait)

    def _once(self, url: str) -> bytes:
        limits = self.settings
        attempt = Attempt(
            limits.timeout_s,
            limits.connect_timeout_s,
            limits.read_timeout_s,
            limits.allow_private,
            self._clock,
        )
        before = ATTEMPT.set(attempt)
        try:
            return self._follow(url, attempt)
        except FetchError as error:
            raise FetchError(error.reason, f"{redacted(url)}: {redacted(str(error))}") from None
        except _Again:
            raise
        except Slow as slow:
            raise _Again(str(slow)) from None
        except Exception as error:  # what parsers raise on answers of strangers
            why = redacted(f"{type(error).__name__}: {error}")[:300]
            passing = (urllib3.exceptions.HTTPError, HTTPException, OSError)
            # A host name that cannot exist stays so; its error is a ValueError as well.
            if isinstance(error, passing) and not isinstance(error, ValueError):
                raise _Again(why) from None
            raise _failed(url, why) from None
        finally:
            ATTEMPT.reset(before)

    def _follow(self, url: str, attempt: Attempt) -> bytes:
        """Fetches an address, or the one that it leads to; only the first is told a password."""
        headers = {
            "User-Agent": self.settings.user_agent,
            "Accept": "image/*",
            # No compression: a small body must not become a large one.
            "Accept-Encoding": "identity",
        }
        place = url
        for _ in range(MAX_REDIRECTS + 1):
            attempt.left = ALLOWANCE_BYTES
            secret = _password(url) if place == url else {}
            response = self._pool.urlopen(
                "GET",
                place,
                headers=headers | secret,
                redirect=False,
                retries=False,
                preload_content=False,
                timeout=self.settings.read_timeout_s,
            )
            try:
                location = response.headers.get("Location")
                if response.status not in MOVED or not location:
                    self._check(response, place)
                    return self._body(response, attempt)
            finally:
                # What has come whole leaves its connection open; of all else nothing is read.
                if not response.closed:
                    response.close()
                response.release_conn()
            place = urljoin(place, location.encode("latin-1").decode("utf-8", "replace"))
            if web_address(place) is None:
                raise _failed("", f"leads to {redacted(place)}, which is no http or https address")
        raise _failed("", f"leads to other addresses more than {MAX_REDIRECTS} times")

    def _check(self, response: urllib3.BaseHTTPResponse, place: str) -> None:
        """Raises for anything but an image that may be read."""
        status = response.status
        if status in GONE:
            raise FetchError(DropReason.NO_IMAGE, f"HTTP status {status}")
        if status in TRY_AGAIN:
            raise _Again(f"HTTP status {status}", _retry_after(response.headers))
        if status != 200:
            raise FetchError(DropReason.FETCH_FAILED, f"HTTP status {status}, wanted 200")
        if PLACEHOLDER in urlsplit(place).path:
            raise FetchError(DropReason.NO_IMAGE, f"was deleted, leads to {redacted(place)}")
        encoding = response.headers.get("Content-Encoding", "identity").lower()
        if encoding != "identity":
            why = f"the body is packed with {encoding[:40]!r} although that was not asked for"
            raise FetchError(DropReason.FETCH_FAILED, why)

    def _body(self, response: urllib3.BaseHTTPResponse, attempt: Attempt) -> bytes:
        limit = self.settings.max_bytes
        told = response.headers.get("Content-Length", "")
        announced = int(told) if told.isascii() and told.isdigit() and len(told) < 20 else None
        size, parts = 0, []
        if announced is not None and announced > limit:
            raise _too_large(announced, limit)
        # read1 returns what has come. urllib3 raises for fewer bytes than were announced.
        while part := response.read1(CHUNK, decode_content=False):
            parts.append(part)
            size += len(part)
            attempt.left += 2 * len(part)
            if size > limit:
                raise _too_large(size, limit)
        return b"".join(parts)


def _password(url: str) -> dict[str, str]:
    """Returns the header for the name and password that an address holds."""
    parts = urlsplit(url)
    if parts.username is None:
        return {}
    both = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return urllib3.make_headers(basic_auth=both)


def _too_large(size: int, limit: int) -> FetchError:
    return FetchError(DropReason.TOO_LARGE, f"{size:,} bytes or more, limit {limit:,}")


def _failed(url: str, why: str) -> FetchError:
    return FetchError(DropReason.FETCH_FAILED, redacted(f"{url}: {why}" if url else why))


def _retry_after(headers: Mapping[str, str]) -> float:
    """Parses the seconds that a host asks to wait, a number or a date; 0 if it asks for none."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        when = parsedate_to_datetime(text)
        when = when if when.tzinfo else when.replace(tzinfo=timezone.utc)
        return max(0.0, (when - datetime.now(timezone.utc)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return 0.0


_shared: dict[FetchSettings, Downloader] = {}
_shared_lock = threading.Lock()


def shared(settings: FetchSettings) -> Downloader:
    """Returns the downloader of this process for these settings; its threads share the limits."""
    with _shared_lock:
        if settings not in _shared:
            _shared[settings] = Downloader(settings)
        return _shared[settings]
