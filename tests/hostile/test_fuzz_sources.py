"""Random lists and msgpack shards: every row is a record or a drop, and nothing else is raised."""

from __future__ import annotations

import contextlib
import tracemalloc

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.sources import mp16, msgpack_images, yfcc100m
from pipelines.sources.connections import is_public
from pipelines.sources.download import Downloader, FetchError, FetchSettings
from pipelines.sources.msgpack_images import index_shard
from pipelines.sources.record import MAX_KEY_CHARACTERS, Drop, redacted
from schemas.training import MAX_LINE_CHARACTERS
from support.flickr import make_photos, msgpack_bytes, places365_line, yfcc100m_line
from support.hostile.sources import ENTRIES, ODD_ENTRIES, SECRET, talker

pytestmark = pytest.mark.slow

PHOTOS = make_photos(2)
LINES = (
    places365_line(PHOTOS[0]).encode(),
    yfcc100m_line(PHOTOS[0], 23, "http://h.example").encode(),
    yfcc100m_line(PHOTOS[0], 25, "http://h.example").encode(),
    f"{PHOTOS[0].img_id},http://me:{SECRET}@h.example/x.jpg?t={SECRET}".encode(),
)
PARSERS = (mp16.parse, mp16.parse_url, yfcc100m.parse, yfcc100m.parse_hash)
PIECES = st.one_of(
    st.binary(max_size=20),
    st.sampled_from([b",", b"\t", b'"', b"\0", b"::", b"//", b"@", b"1e999", b"nan", b"\xef\xbb"]),
)


@settings(max_examples=1000, deadline=None)
@given(st.sampled_from(LINES), st.lists(st.tuples(st.floats(0, 1), PIECES), max_size=6))
def test_rows_are_records_or_drops(line: bytes, changes: list[tuple[float, bytes]]) -> None:
    for place, piece in changes:
        at = int(place * len(line))
        line = line[:at] + piece + line[at + len(piece) // 2 :]
    for parse in PARSERS:
        found = parse(line)
        if isinstance(found, Drop):
            found.detail.encode()
            assert len(found.detail) < 2000 and len(found.line) <= MAX_LINE_CHARACTERS
        else:
            key = found[0] if isinstance(found, tuple) else found.key
            assert 0 < len(key) <= MAX_KEY_CHARACTERS
            assert not key.startswith("/") and ".." not in key.split("/")


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=9)
)
VALUES = st.recursive(
    st.one_of(SCALARS, st.binary(max_size=300)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=9), st.dictionaries(st.text(max_size=5), inner, max_size=9)
    ),
    max_leaves=40,
)


@settings(max_examples=400, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["id", "image", "more", "x"]), VALUES),
    st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=6)), max_size=3),
    st.sampled_from([1, 7, 2**20]),
)
def test_shards_are_places_or_drops(
    tmp_path_factory: pytest.TempPathFactory,
    entry: dict[str, object],
    changes: list[tuple[float, bytes]],
    chunk: int,
) -> None:
    before = msgpack_bytes(PHOTOS[:1])
    packed = msgpack.packb(entry, use_bin_type=True)
    for place, piece in changes:
        at = int(place * len(packed))
        packed = packed[:at] + piece + packed[at + len(piece) :]
    path = tmp_path_factory.getbasetemp() / "fuzz.msg"
    data = before + packed + msgpack_bytes(PHOTOS[1:])
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(msgpack_images, "_CHUNK", chunk)
        found = list(index_shard(str(path)))
    assert not isinstance(found[0], Drop) and found[0][0] == PHOTOS[0].img_id
    for item in found:
        if not isinstance(item, Drop):
            assert item[1].offset + (item[1].length or 0) <= len(data)
    if not changes:
        assert len(found) == 3 and found[2][0] == PHOTOS[1].img_id  # type: ignore[index]


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([*ENTRIES.values(), *ODD_ENTRIES.values()]),
    st.integers(0, 2000),
    st.binary(min_size=1, max_size=4),
)
def test_hostile_shards_do_not_grow_when_they_are_changed(
    tmp_path_factory: pytest.TempPathFactory, make: object, at: int, piece: bytes
) -> None:
    data = make()  # type: ignore[operator]
    path = tmp_path_factory.getbasetemp() / "hostile.msg"
    path.write_bytes(data[:at] + piece + data[at + len(piece) :])
    tracemalloc.start()
    try:
        for count, _ in enumerate(index_shard(str(path))):
            if count > 100:
                break
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()


@settings(max_examples=1000, deadline=None)
@given(
    st.text(max_size=30),
    st.sampled_from(["http", "HTTPS", "s3", "ftp", "htp"]),
    st.text(st.characters(exclude_characters='/\\?#@"<> \t\r\n', codec="ascii"), max_size=9),
    st.text(max_size=30),
)
def test_passwords_are_found_in_any_text(before: str, scheme: str, user: str, behind: str) -> None:
    text = f"{before} {scheme}://{user}:{SECRET}@h.example/x.jpg{behind}"
    assert SECRET not in redacted(text)


@settings(max_examples=2000, deadline=None)
@given(st.ip_addresses())
def test_what_python_calls_private_is_never_public(address: object) -> None:
    if not address.is_global or address.is_multicast:  # type: ignore[attr-defined]
        assert not is_public(str(address))


HEADS = (
    b"HTTP/1.1 302 F\r\nLocation: ",
    b"HTTP/1.1 429 x\r\nRetry-After: ",
    b"HTTP/1.1 200 OK\r\n",
)
PARTS = (
    *(b"HTTP/1.1 ", b"200", b"100", b"\r\n", b"\r\n\r\n", b"Content-Length: ", b"5", b"-5"),
    *(b"9" * 26, b"Transfer-Encoding: chunked\r\n", b"Content-Encoding: br\r\n", b"Location: "),
    *(b"http://[", b"http://[::1]:99999/", b"//\xff\xfe/", b"http://\xc3\xa9/", b"/photo.jpg"),
    *(b"http:///x", b"http://a..b/", b"http://" + b"a" * 70, b"http://%zz/", b"?", b"#", b":"),
    *(b"Mon, 01 Jan 2024 00:00:00 +", b"0\r\n\r\n", b"-1\r\n", b"f" * 16 + b"\r\n"),
    *(b"1;x\r\nA\r\n", b"\0", b"\xff", b" ", b"\t", b"http://127.0.0.1:1/", b"https://0:1/"),
)


def test_answers_are_photos_or_one_kind_of_error() -> None:
    said = [b""]
    limits = {"timeout_s": 0.2, "connect_timeout_s": 0.2, "read_timeout_s": 0.05}
    settings_ = FetchSettings(allow_private=True, attempts=2, max_bytes=100_000, **limits)

    with talker(lambda: said) as host:

        @settings(max_examples=100, deadline=None)
        @given(st.sampled_from(HEADS), st.lists(st.sampled_from(PARTS), max_size=12))
        def answered(head: bytes, parts: list[bytes]) -> None:
            said[0] = head + b"".join(parts)
            with contextlib.suppress(FetchError):
                Downloader(settings_, sleep=lambda seconds: None).get(host.url)

        answered()
