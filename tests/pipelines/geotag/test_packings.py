"""The same files give the same photos however they are packed, and no file vanishes."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from locdiffusion.photos.names import match_documents
from support.plain_run import Outcome, Row, geotagged
from support.user_files import (
    File,
    Form,
    Kind,
    collections,
    number_of,
    photo_number,
    takeouts,
    write_folder,
    write_tar_of,
    write_zip,
)

FOLLOWED = (Form.HARD_LINK, Form.LINK)
"""Links to photos of the same folder or archive."""

READ = {
    "folder": (Form.FILE, Form.SPARSE, *FOLLOWED),
    "zip": (Form.FILE, Form.SPARSE),
    "tar": (Form.FILE,),
}
"""Forms of photos that are read. Photos of every other form are rows of errors."""

MISSING = {"folder": (), "zip": (Form.HARD_LINK, Form.FIFO, Form.DEVICE), "tar": ()}
"""Forms that cannot be packed so."""

QUICK = settings(
    deadline=None,
    suppress_health_check=HealthCheck,
    phases=(Phase.explicit, Phase.generate),  # to shrink a failure would take minutes
)

OUTSIDE = 850
CONTENT = {photo_number(number): number for number in range(961)}
MODES = ("w", "w:gz", "w:bz2", "w:xz")
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


def number_in(file: File, files: Mapping[str, File]) -> int:
    """The number of the photo that one sees who opens a file."""
    return CONTENT[files[file.target].data if file.form in FOLLOWED else file.data]


def keys_of(path: str) -> tuple[str, str]:
    return path, path.rpartition(".")[0]


def traced(outcome: Outcome, files: Sequence[File], packing: str) -> dict[str, Row]:
    """Finds the one row of each photo by key and content; fails if they are not one to one."""
    photos = [one for one in files if one.kind is Kind.PHOTO and one.form not in MISSING[packing]]
    by_path = {file.path: file for file in files}
    rows = [row for row in (*outcome.predictions, *outcome.errors) if row["key"] is not None]

    def fits(row: Row, file: File) -> bool:
        if row["key"].removeprefix("./") not in keys_of(file.path):
            return False
        if "status" in row:
            return file.form not in READ[packing] and row["status"] == "missing_image"
        readable = file.form in (*READ[packing], *FOLLOWED)
        seen = number_of(row["latitude"], row["longitude"])
        return readable and seen == number_in(file, by_path)

    graph = csr_array([[fits(row, file) for file in photos] for row in rows], dtype=np.int8)
    found = maximum_bipartite_matching(graph, perm_type="column")
    lost = [file for number, file in enumerate(photos) if number not in found]
    false = [
        {name: row.get(name) for name in ("key", "status", "message", "latitude")}
        for row, number in zip(rows, found, strict=True)
        if number < 0
    ]
    assert not lost and not false, f"{packing}: without a row {lost}; rows of no photo {false}"
    return {photos[number].path: row for row, number in zip(rows, found, strict=True)}


def check_counts(outcome: Outcome, files: Iterable[File], packing: str) -> None:
    """Files in = photos + documents used + left out; folders are no files."""
    here = [
        one for one in files if one.form not in MISSING[packing] and one.form is not Form.FOLDER
    ]
    photos = [file.path for file in here if file.kind is Kind.PHOTO]
    documents = [file.path for file in here if file.kind is Kind.DOCUMENT]
    used = {name for names in match_documents(photos, documents).values() for name in names}
    assert outcome.summary["photos"] == len(photos)
    assert len(outcome.keys) == outcome.summary["predictions"] + outcome.summary["photo_errors"]
    assert outcome.summary["left_out"]["total"] == len(here) - len(photos) - len(used)


def positions(rows: Mapping[str, Row]) -> dict[str, float | None]:
    """Known latitude of each photo that was read."""
    return {path: row["truth_latitude"] for path, row in rows.items() if "status" not in row}


def check_packings(files: Sequence[File], mode: str, form: int, at: str) -> None:
    """Packs a collection in every way and compares what becomes of it."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "outside.jpg").write_bytes(photo_number(OUTSIDE))
        sources = {
            "folder": write_folder(root / "photos", files),
            "tar": write_tar_of(root / "photos.tar", files, mode, form, at),
            "zip": write_zip(root / "photos.zip", files),
        }
        known = {}
        for packing, source in sources.items():
            outcome = geotagged(root / f"out-{packing}", source)
            assert outcome.status == 0, outcome.console
            rows = traced(outcome, files, packing)
            check_counts(outcome, files, packing)
            known[packing] = positions(rows)
        for packing, found in known.items():
            common = {path: known["folder"][path] for path in found}
            assert found == common, packing


packings = {
    "files": collections(),
    "mode": st.sampled_from(MODES),
    "form": st.sampled_from(FORMATS),
    "at": st.sampled_from(["", "", "./"]),
}


@settings(QUICK, max_examples=200, derandomize=True)
@given(**packings)
def test_the_same_photos_however_packed(
    files: tuple[File, ...], mode: str, form: int, at: str
) -> None:
    check_packings(files, mode, form, at)


@pytest.mark.slow
@settings(QUICK, max_examples=2000)
@given(**packings)
def test_the_same_photos_however_packed_in_two_thousand_examples(
    files: tuple[File, ...], mode: str, form: int, at: str
) -> None:
    check_packings(files, mode, form, at)


def check_takeout(files: Sequence[File], cut: int) -> None:
    """Packs a Takeout as people get it: in one zip, in two, as tgz, unpacked."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        stems = sorted({file.path for file in files})
        first = set(stems[: cut % (len(stems) + 1)])
        halves = (
            [file for file in files if file.path in first],
            [file for file in files if file.path not in first],
        )
        parts = [
            write_zip(root / f"takeout-20200101T000000Z-{number:03d}.zip", half)
            for number, half in enumerate(halves, 1)
            if half
        ]
        sources = {
            "folder": [write_folder(root / "takeout", files)],
            "tar": [write_tar_of(root / "takeout.tgz", files, "w:gz")],
            "zip": [write_zip(root / "takeout.zip", files)],
            "parts": parts,
        }
        known = {}
        for packing, source in sources.items():
            outcome = geotagged(root / f"out-{packing}", *source)
            assert outcome.status == 0, outcome.console
            known[packing] = positions(traced(outcome, files, "folder"))
        whole = known.pop("folder")
        assert all(known[packing] == whole for packing in known), known


@settings(QUICK, max_examples=50, derandomize=True)
@given(files=takeouts(), cut=st.integers(0, 20))
def test_a_takeout_gives_the_same_positions_however_packed(
    files: tuple[File, ...], cut: int
) -> None:
    check_takeout(files, cut)
