"""Downloads are polite and bounded: against a server on this machine, with a clock that is told."""

from __future__ import annotations

import pickle
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest

from pipelines.sources import download
from pipelines.sources.download import Downloader, FetchError, FetchSettings, shared
from schemas.training import DropReason
from support.flickr import make_photos
from support.photo_server import Answer, PhotoServer, photo_server

PHOTOS = make_photos(3)
IMAGE = PHOTOS[0].image


class FakeTime:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self._lock = threading.Lock()

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.slept.append(seconds)
            self.now += seconds

    def clock(self) -> float:
        return self.now


@pytest.fixture
def server() -> PhotoServer:
    with photo_server(PHOTOS) as running:
        yield running


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


def downloader(time: FakeTime, **settings: object) -> Downloader:
    return Downloader(
        FetchSettings(allow_private=True, **settings), sleep=time.sleep, clock=time.clock
    )


def failure(time: FakeTime, url: str, **settings: object) -> FetchError:
    with pytest.raises(FetchError) as caught:
        downloader(time, **settings).get(url)
    assert url in str(caught.value)
    return caught.value


def test_photos_come_as_they_are_and_hosts_learn_who_asks(
    server: PhotoServer, time: FakeTime
) -> None:
    get = downloader(time, user_agent="me").get
    assert [get(server.url + photo.url_path) for photo in PHOTOS] == [p.image for p in PHOTOS]
    assert server.agents == {"me"} and time.slept == []
    assert "locdiffusion" in FetchSettings().user_agent


@pytest.mark.parametrize("status", [404, 410])
def test_what_is_gone_is_asked_for_once(server: PhotoServer, time: FakeTime, status: int) -> None:
    url = server.serve("/gone.jpg", Answer(status=status))
    error = failure(time, url)
    assert error.reason is DropReason.NO_IMAGE and str(status) in str(error)
    assert server.hits["/gone.jpg"] == 1 and time.slept == []


@pytest.mark.parametrize("status", [400, 401, 403, 451, 204])
def test_refusals_are_not_pressed(server: PhotoServer, time: FakeTime, status: int) -> None:
    url = server.serve("/no.jpg", Answer(status=status))
    assert failure(time, url).reason is DropReason.FETCH_FAILED
    assert server.hits["/no.jpg"] == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(server: PhotoServer, time: FakeTime, status: int) -> None:
    url = server.serve("/x.jpg", *[Answer(status=status)] * 3, Answer(IMAGE))
    assert downloader(time, attempts=4).get(url) == IMAGE
    assert server.hits["/x.jpg"] == 4
    assert len(time.slept) == 3
    other = server.serve("/y.jpg", Answer(status=status))
    error = failure(time, other, attempts=3)
    assert error.reason is DropReason.FETCH_FAILED and "3 attempts" in str(error)
    assert str(status) in str(error) and server.hits["/y.jpg"] == 3


def test_waits_double_with_jitter_that_the_seed_settles(server: PhotoServer) -> None:
    url = server.serve("/x.jpg", Answer(status=503))

    def waits(seed: int, attempts: int = 6) -> list[float]:
        time = FakeTime()
        failure(time, url, attempts=attempts, backoff_s=2.0, max_wait_s=20.0, seed=seed)
        return time.slept

    found = waits(1)
    for wait, most in zip(found, [2.0, 4.0, 8.0, 16.0, 20.0], strict=True):
        assert most / 2 <= wait <= most
    state = random.getstate()
    assert waits(1) == found and waits(2) != found
    assert random.getstate() == state, "nobody else's random numbers are touched"


def test_a_host_that_names_a_wait_gets_it(server: PhotoServer, time: FakeTime) -> None:
    busy = Answer(status=429, headers={"Retry-After": "50"})
    url = server.serve("/x.jpg", busy, Answer(IMAGE))
    get = downloader(time, backoff_s=0.5).get
    start = time.now
    assert get(url) == IMAGE
    assert time.now - start == pytest.approx(50)


def test_the_wait_holds_for_the_whole_host_and_for_no_other(
    server: PhotoServer, time: FakeTime
) -> None:
    get = downloader(time, attempts=1).get
    url = server.serve("/x.jpg", Answer(status=503, headers={"Retry-After": "50"}))
    with pytest.raises(FetchError):
        get(url)
    with photo_server(PHOTOS) as other:
        get(other.url + PHOTOS[0].url_path)
        assert time.slept == []
    get(server.url + PHOTOS[1].url_path)
    assert sum(time.slept) == pytest.approx(50)


def test_a_wait_that_is_too_long_is_not_waited_and_not_ignored(
    server: PhotoServer, time: FakeTime
) -> None:
    busy = Answer(status=429, headers={"Retry-After": "3600"})
    url = server.serve("/x.jpg", busy, Answer(IMAGE))
    running = downloader(time, max_wait_s=120.0)
    for address in (url, server.url + PHOTOS[0].url_path):
        with pytest.raises(FetchError, match="left alone") as caught:
            running.get(address)
        assert caught.value.reason is DropReason.FETCH_FAILED
    assert sum(server.hits.values()) == 1, "the host was asked again"
    time.now += 3600
    assert running.get(url) == IMAGE


def waited(server: PhotoServer, time: FakeTime, retry_after: str) -> float:
    """Returns how many seconds pass when a busy host answers with a Retry-After."""
    busy = Answer(status=429, headers={"Retry-After": retry_after})
    url = server.serve("/x.jpg", busy, Answer(IMAGE))
    start = time.now
    assert downloader(time, backoff_s=0.001, max_wait_s=1e5).get(url) == IMAGE
    return time.now - start


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7", 7), ("0", 0), ("-5", 0), ("soon", 0), ("", 0), ("1" * 5000, 0), ("\u00b2", 0)],
)
def test_retry_after_as_a_number(
    server: PhotoServer, time: FakeTime, text: str, seconds: float
) -> None:
    assert waited(server, time, text) == pytest.approx(seconds, abs=0.002)


def test_retry_after_as_a_date(server: PhotoServer, time: FakeTime) -> None:
    now = datetime.now(timezone.utc)
    later = format_datetime(now + timedelta(hours=1), usegmt=True)
    assert 3500 < waited(server, time, later) <= 3600
    earlier = format_datetime(now - timedelta(hours=1), usegmt=True)
    assert waited(server, time, earlier) < 1
    assert 3500 < waited(server, time, later.replace("GMT", "-0000")) <= 3600


def test_a_body_that_breaks_off_is_fetched_again(server: PhotoServer, time: FakeTime) -> None:
    url = server.serve("/x.jpg", Answer(IMAGE, send=len(IMAGE) // 2), Answer(IMAGE))
    assert downloader(time).get(url) == IMAGE
    url = server.serve("/y.jpg", Answer(IMAGE, send=0))
    assert failure(time, url, attempts=2).reason is DropReason.FETCH_FAILED
    assert server.hits["/y.jpg"] == 2


def test_too_large_is_noticed_before_and_while_reading(server: PhotoServer, time: FakeTime) -> None:
    body = bytes(100_000)
    url = server.serve("/told.jpg", Answer(body, send=10))
    error = failure(time, url, max_bytes=99_999)
    assert error.reason is DropReason.TOO_LARGE and "100,000" in str(error)
    # A chunked body tells no length.
    chunks = b"".join(b"%x\r\n%s\r\n" % (4000, bytes(4000)) for _ in range(25)) + b"0\r\n\r\n"
    headers = {"Transfer-Encoding": "chunked"}
    url = server.serve("/untold.jpg", Answer(chunks, headers=headers, length=False))
    assert failure(time, url, max_bytes=99_999).reason is DropReason.TOO_LARGE
    assert downloader(time, max_bytes=100_000).get(url) == body
    assert server.hits["/told.jpg"] == 1


def test_a_host_that_answers_too_slowly_is_left(server: PhotoServer) -> None:
    """The clock runs on with every look at it, so that nothing depends on the machine's speed."""
    time = FakeTime()

    def clock() -> float:
        time.now += 19
        return time.now

    url = server.serve("/drip.jpg", Answer(bytes(4000), pieces=4, pause_s=0.01))
    settings = FetchSettings(attempts=2, timeout_s=60, allow_private=True)
    running = Downloader(settings, sleep=time.sleep, clock=clock)
    with pytest.raises(FetchError, match="slower than 60 s") as caught:
        running.get(url)
    assert caught.value.reason is DropReason.FETCH_FAILED and "2 attempts" in str(caught.value)


def test_a_host_that_says_nothing_is_left(server: PhotoServer, time: FakeTime) -> None:
    url = server.serve("/x.jpg", Answer(IMAGE, pause_s=1.0), Answer(IMAGE))
    assert downloader(time, read_timeout_s=0.2).get(url) == IMAGE
    assert server.hits["/x.jpg"] == 2


def test_nobody_listens(time: FakeTime) -> None:
    with photo_server() as stopped:
        url = stopped.url + "/x.jpg"
    assert failure(time, url, attempts=2).reason is DropReason.FETCH_FAILED
    assert len(time.slept) == 1


def test_redirects_are_followed_but_not_for_ever(server: PhotoServer, time: FakeTime) -> None:
    to = {"Location": PHOTOS[0].url_path}
    url = server.serve("/old.jpg", Answer(status=302, headers=to))
    assert downloader(time).get(url) == IMAGE
    url = server.serve("/ring.jpg", Answer(status=302, headers={"Location": "/ring.jpg"}))
    assert failure(time, url).reason is DropReason.FETCH_FAILED
    assert server.hits["/ring.jpg"] == download.MAX_REDIRECTS + 1
    url = server.serve("/file.jpg", Answer(status=302, headers={"Location": "file:///etc/passwd"}))
    assert failure(time, url).reason is DropReason.FETCH_FAILED


def test_flickrs_picture_for_deleted_photos_is_no_photo(
    server: PhotoServer, time: FakeTime
) -> None:
    placeholder = "/images/en-us/photo_unavailable.png"
    server.serve(placeholder, Answer(IMAGE))
    url = server.serve("/1_a.jpg", Answer(status=302, headers={"Location": placeholder}))
    assert failure(time, url).reason is DropReason.NO_IMAGE


def test_a_packed_body_is_refused(server: PhotoServer, time: FakeTime) -> None:
    url = server.serve("/x.jpg", Answer(IMAGE, headers={"Content-Encoding": "gzip"}))
    assert failure(time, url).reason is DropReason.FETCH_FAILED


def test_cookies_are_not_kept(server: PhotoServer, time: FakeTime) -> None:
    running = downloader(time)
    url = server.serve("/x.jpg", Answer(IMAGE, headers={"Set-Cookie": "a=b"}))
    running.get(url)
    running.get(url)
    assert server.cookies == set()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x.jpg",
        "/etc/passwd",
        "file:///etc/passwd",
        "ftp://h/a",
        "http://",
        "http://h:x/",
        "http://h/\n",
    ],
)
def test_what_is_no_web_address_is_not_asked_for(time: FakeTime, url: str) -> None:
    with pytest.raises(FetchError) as caught:
        downloader(time).get(url)
    assert caught.value.reason is DropReason.NO_IMAGE


@pytest.mark.parametrize("url", ["http://" + "a" * 70 + "/x", "http://a..b/x", "http://\u2100/x"])
def test_hosts_that_cannot_exist(time: FakeTime, url: str) -> None:
    """Also where requests itself trips over the name; none of them needs a network."""
    with pytest.raises(FetchError):
        downloader(time, attempts=1).get(url)


@pytest.mark.parametrize(("connections", "per_host", "most"), [(8, 2, 2), (3, 8, 3)])
def test_never_more_requests_at_a_time(
    server: PhotoServer, connections: int, per_host: int, most: int
) -> None:
    time = FakeTime()
    running = downloader(time, connections=connections, per_host=per_host)
    urls = [server.serve(f"/{i}.jpg", Answer(IMAGE, pause_s=0.02)) for i in range(16)]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(running.get, urls)) == [IMAGE] * 16
    assert 1 <= server.most <= most


def test_two_hosts_share_the_connections(time: FakeTime) -> None:
    running = downloader(time, connections=2, per_host=2)
    with photo_server() as one, photo_server() as two, ThreadPoolExecutor(8) as pool:
        urls = [
            host.serve(f"/{i}.jpg", Answer(IMAGE, pause_s=0.02))
            for i in range(4)
            for host in (one, two)
        ]
        assert list(pool.map(running.get, urls)) == [IMAGE] * 8
        assert one.most <= 2 and two.most <= 2


def test_a_process_has_one_downloader_for_the_same_settings() -> None:
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: shared(FetchSettings(seed=77)), range(32)))
    assert len(found) == 1
    assert shared(FetchSettings(seed=78)) not in found


@pytest.mark.parametrize("name", ["connections", "per_host", "attempts", "timeout_s", "max_bytes"])
def test_limits_are_positive(name: str) -> None:
    for value in (0, -1):
        with pytest.raises(ValueError, match=name):
            FetchSettings(**{name: value})


def test_errors_and_settings_travel() -> None:
    error = pickle.loads(pickle.dumps(FetchError(DropReason.TOO_LARGE, "why")))
    assert (error.reason, str(error)) == (DropReason.TOO_LARGE, "why")
    assert pickle.loads(pickle.dumps(FetchSettings(seed=3))) == FetchSettings(seed=3)
