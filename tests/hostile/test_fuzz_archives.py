"""Archives and documents changed at random: nothing escapes, and every photo is one row."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from locdiffusion.isolation import IsolatedFunction, Limits
from locdiffusion.photos.archive import Sample, ShardReader
from locdiffusion.photos.names import MAX_NAME_LENGTH
from locdiffusion.photos.sidecar import read_sidecar
from support.archives import photo, tar_bytes, truth, zip_bytes
from support.hostile import archives as makers

pytestmark = pytest.mark.slow

MEMBERS = [
    ("d/a.jpg", photo(1)),
    ("d/a.json", truth()),
    (f"d/{'n' * 200}.jpg", photo(2)),
    ("d/b.txt", b"text"),
    ("d/a.jpg", photo(3)),
    ("d/c.png", photo(4, kind="PNG")),
    ("d/c.png.supplemental-metadata.json", truth(1)),
]
SEEDS = {
    "gnu": tar_bytes(MEMBERS, format=1),
    "pax": tar_bytes(MEMBERS, format=2),
    "pax headers": makers.pax_numbers(),
    "links": makers.framed(
        makers.header("l.jpg", kind=b"1", linkname="ordinary/1.jpg")
        + makers.header("s.jpg", kind=b"2", linkname="l.jpg")
        + makers.header("h.jpg", 600, b"S")
        + bytes(1024)
    ),
    "gz": makers.gz(tar_bytes(MEMBERS)),
    "xz": makers.xz_window(),
    "zip": zip_bytes(MEMBERS),
    "stored": zip_bytes(MEMBERS, 0),
    "far zip": makers.far_offsets(),
    "quoted zip": makers.quoted_headers(5),
}
NUMBERS = [
    b"\0" * 4,
    b"\xff" * 4,
    b"\xff" * 8,
    b"99999999",
    b"\x80" + b"\xff" * 11,
    b"777777777777",
]


def read_everything(data: bytes) -> bytes:
    """Reads an archive in a child process, and returns the keys of its items as JSON."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        reader = ShardReader(file.name)
        keys = [item.key for item in reader if isinstance(item, Sample) or not item.status.of_shard]
        return json.dumps([keys, str(reader.left_out), reader.problems]).encode()


def read_document(data: bytes) -> bytes:
    """Reads a document of either kind in a child process."""
    found = [read_sidecar(name, data) for name in ("a.json", "a.xmp")]
    return json.dumps([one.problem for one in found]).encode()


@pytest.fixture(scope="module")
def reader() -> Iterator[IsolatedFunction]:
    function = IsolatedFunction(read_everything, Limits(memory_bytes=512 * 2**20, cpu_s=20))
    yield function
    function.close()


@pytest.fixture(scope="module")
def document_reader() -> Iterator[IsolatedFunction]:
    function = IsolatedFunction(read_document, Limits(memory_bytes=256 * 2**20, cpu_s=10))
    yield function
    function.close()


changes = st.lists(
    st.tuples(
        st.sampled_from(["set", "insert", "delete", "repeat", "move"]),
        st.integers(0, 2**20),
        st.one_of(st.binary(min_size=1, max_size=16), st.sampled_from(NUMBERS)),
        st.integers(1, 2000),
    ),
    max_size=8,
)


def changed(data: bytes, steps: list[tuple[str, int, bytes, int]]) -> bytes:
    """Changes bytes; at every second place a whole block of a tar."""
    for kind, place, value, length in steps:
        at = place % (len(data) + 1)
        if length % 2:
            at, length = at // 512 * 512, max(1, length // 512) * 512
        if kind == "set":
            data = data[:at] + value + data[at + len(value) :]
        elif kind == "insert":
            data = data[:at] + value + data[at:]
        elif kind == "delete":
            data = data[:at] + data[at + length :]
        elif kind == "repeat":
            data = data[:at] + data[at : at + length] * 3 + data[at + length :]
        else:
            data = data[at:] + data[:at]
    return data


def with_sums(data: bytes) -> bytes:
    """Mends the checksums of the headers of a tar, so that what was changed in them is read."""
    blocks = [bytearray(data[at : at + 512]) for at in range(0, len(data), 512)]
    for block in blocks:
        if block[257:262] == b"ustar" and len(block) == 512:
            block[148:156] = b" " * 8
            block[148:156] = b"%06o\0 " % sum(block)
    return b"".join(blocks)


@settings(
    max_examples=3_000,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(name=st.sampled_from(sorted(SEEDS)), steps=changes, sums=st.booleans())
def test_changed_archives(
    reader: IsolatedFunction, name: str, steps: list[tuple[str, int, bytes, int]], sums: bool
) -> None:
    data = changed(SEEDS[name], steps)
    keys, _, _ = json.loads(reader(with_sums(data) if sums else data))
    assert len(set(keys)) == len(keys) and all(0 < len(key) <= MAX_NAME_LENGTH for key in keys)


@settings(
    max_examples=2_000,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    name=st.sampled_from(
        sorted(name for name, data in makers.DOCUMENTS.items() if len(data) < 9e3)
    ),
    steps=changes,
)
def test_changed_documents(
    document_reader: IsolatedFunction, name: str, steps: list[tuple[str, int, bytes, int]]
) -> None:
    document_reader(changed(makers.DOCUMENTS[name], steps))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["latitude", "Longitude", "geoData", "exif", "GPS:coordinates", "type"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=2_000, deadline=None)
@given(document=json_values)
def test_any_json_is_a_sidecar_or_a_problem(document: object) -> None:
    read_sidecar("a.json", json.dumps(document).encode())
