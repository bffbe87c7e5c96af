"""The output directory of one run: who owns it, which shards are done, and how files get there.

    run.json                written first: the settings of the run that owns the directory
    <folder>/<file>         what the run makes
    _manifest/<shard>.json  written last: a shard without a manifest is not done

A run with the same settings resumes; a run with other settings is refused. Each file appears whole
or not at all. The directory may be a link that a person named; a folder in it that is a link is
refused: nothing is written or deleted elsewhere. Works locally and wherever fsspec can write.
Knows no Beam.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from typing import Any, ClassVar, TypeVar

from fsspec.implementations.local import LocalFileSystem

from locdiffusion.files import LEFT_OVER, create_atomically, file_system, write_atomically
from locdiffusion.photos.storage import explained

T = TypeVar("T")
R = TypeVar("R")

MANIFESTS = "_manifest"
RUN, SUMMARY = "run.json", "summary.json"
MOST_BYTES = 2**28
"""Most bytes of a file that is read as a whole: a hundred times those of the largest runs."""
READERS = 16
"""Threads that read small files: from a cloud storage one after the other would take too long."""


class OutputError(ValueError):
    """The output directory belongs to something else; the message names the remedy."""


@dataclass(frozen=True)
class OutputDirectory:
    """The output directory of one kind of job.

    A kind of job derives a class that states which files are its own; only those are ever deleted.

    Attributes:
        root: Path or URL of the directory.
    """

    FOLDERS: ClassVar[Mapping[str, str]] = {}
    """Folders of the job, each with the pattern of the job's files in it."""
    FILES: ClassVar[tuple[str, ...]] = ()
    """Files of the job beside `run.json`."""
    KIND: ClassVar[str] = "run"
    """What a job of this kind is called in messages."""
    OWNER: ClassVar[str] = RUN
    """File with the settings of the run that owns the directory."""

    root: str

    def path(self, *names: str) -> str:
        """Joins names to the root."""
        return "/".join([self.root.rstrip("/"), *names])

    @contextlib.contextmanager
    def usable(self) -> Iterator[None]:
        """Turns what a file system raises while the directory is claimed into an OutputError."""
        try:
            yield
        except OutputError:
            raise
        except Exception as error:  # each file system has its own
            raise OutputError(
                f"--output {self.root} cannot be used ({explained(error)}); check that the bucket "
                "or disk is there, and that you may list and write it"
            ) from error

    def claim(self, settings: Mapping[str, Any], overwrite: bool = False) -> bool:
        """Makes the directory this run's own, keeping what a run with the same settings wrote.

        Args:
            settings: Everything that decides what the run writes, JSON-able.
            overwrite: Whether to delete first what earlier runs of this command wrote here.

        Returns:
            Whether files of an earlier run with the same settings were kept.

        Raises:
            OutputError: The directory holds another run, or files of somebody else.
        """
        for folder in self.FOLDERS:
            self._refuse_link(folder)
        earlier = self.read_json(self.OWNER)
        if earlier is None:
            self._refuse_foreign()
        elif overwrite:
            self._clear()
        else:
            self._refuse_other(earlier, settings)
        self._remove_temporary()
        self.write(self.OWNER, data=to_json(settings))
        return earlier is not None and not overwrite

    def exists(self, *names: str) -> bool:
        """Whether there is such a file."""
        filesystem, path = file_system(self.path(*names))
        filesystem.invalidate_cache()  # workers write behind the launcher's back
        return bool(filesystem.exists(path))

    def names(self, folder: str, pattern: str) -> list[str]:
        """Sorted names of the files in a folder that match a pattern; hidden ones are left out."""
        return sorted(self.sizes(folder, pattern, look=False))

    def sizes(self, folder: str, pattern: str, look: bool = True) -> dict[str, int]:
        """Sizes in bytes of the files that `names` names; 0 on a disk without a `look` at each."""
        filesystem, path = file_system(self.path(folder))
        try:
            if isinstance(filesystem, LocalFileSystem):
                with os.scandir(path) as entries:
                    files = [entry for entry in entries if entry.is_file()]
                sizes = {file.name: file.stat().st_size if look else 0 for file in files}
            else:
                filesystem.invalidate_cache()
                found = filesystem.ls(path, detail=True)
                sizes = {file["name"].rpartition("/")[2]: file["size"] for file in found}
        except (FileNotFoundError, NotADirectoryError):
            return {}
        return {n: s for n, s in sizes.items() if fnmatch.fnmatchcase(n, pattern) and n[:1] != "."}

    def read_bytes(self, *names: str) -> bytes | None:
        """A file of up to MOST_BYTES, or None if there is no such file."""
        filesystem, path = file_system(self.path(*names))
        local = isinstance(filesystem, LocalFileSystem)
        if local and not os.path.isfile(path):
            return None  # on a pipe, reading might never end
        try:
            with open(path, "rb") if local else filesystem.open(path, "rb") as file:
                content: bytes = file.read(MOST_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return content if len(content) <= MOST_BYTES else None

    def read_json(self, *names: str) -> dict[str, Any] | None:
        """A JSON object, or None if there is no such file or it holds something else."""
        return json_object(self.read_bytes(*names))

    def manifest(self, name: str) -> dict[str, Any] | None:
        """The manifest of a shard; None if there is none, or the file is not one."""
        return self.read_json(MANIFESTS, f"{name}.json")

    def manifest_names(self) -> list[str]:
        """Names of all manifests, readable or not, sorted: the shards that are done."""
        return [name.removesuffix(".json") for name in self.names(MANIFESTS, "*.json")]

    def manifests(self) -> Iterator[dict[str, Any]]:
        """All readable manifests, in the order of their names."""
        for manifest in at_once(self.manifest, self.manifest_names()):
            if manifest is not None:
                yield manifest

    def write(self, *names: str, data: bytes) -> None:
        """Writes a file that appears whole or not at all."""
        self._refuse_link(*names[:-1])
        write_atomically(self.path(*names), data)

    def create(self, *names: str, data: bytes) -> bool:
        """Writes a file if there is none under its name; returns whether there was none."""
        self._refuse_link(*names[:-1])
        return create_atomically(self.path(*names), data)

    def remove(self, *names: str) -> None:
        """Deletes a file, if it is there; of a link, the link."""
        self._refuse_link(*names[:-1])
        filesystem, path = file_system(self.path(*names))
        with contextlib.suppress(FileNotFoundError):
            filesystem.rm_file(path)

    def _refuse_link(self, *folders: str) -> None:
        """Raises OutputError for a folder of the directory that leads elsewhere."""
        filesystem, place = file_system(self.root)
        if not folders or not isinstance(filesystem, LocalFileSystem):
            return
        for name in "/".join(folders).split("/"):
            place = os.path.join(place, name)
            if os.path.islink(place):
                raise OutputError(
                    f"{place} is a link to {os.readlink(place)!r}, wanted a folder of this "
                    "command's own; remove the link, or choose another --output"
                )

    def _refuse_foreign(self) -> None:
        filesystem, path = file_system(self.root)
        if filesystem.isfile(path):
            raise OutputError(f"--output {self.root} is a file, wanted a directory to create")
        ours = dict.fromkeys([*(folder.partition("/")[0] for folder in self.FOLDERS), *self.FILES])
        # One listing, and not a question for each name: a storage takes three requests for one.
        filesystem.invalidate_cache()
        try:
            names = filesystem.ls(path, detail=False)
        except (FileNotFoundError, NotADirectoryError):
            names = []
        filesystem.invalidate_cache()
        there = {name.rstrip("/").rpartition("/")[2] for name in names}
        found = [name for name in ours if name in there and filesystem.exists(f"{path}/{name}")]
        if found:
            raise OutputError(
                f"--output {self.root} already holds {', '.join(found)} but no {self.OWNER}, so "
                "this command did not write it; choose another --output"
            )

    def _refuse_other(self, earlier: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        different = [
            f"{name} {earlier.get(name)!r} there, {settings.get(name)!r} now"
            for name in sorted({*earlier, *settings})
            if earlier.get(name) != settings.get(name)
        ]
        if different:
            raise self._another("; ".join(different))

    def _another(self, difference: str) -> OutputError:
        return OutputError(
            f"--output {self.root} holds another {self.KIND}: {difference}; choose another "
            "--output, or start anew here with --overwrite"
        )

    def _remove_temporary(self) -> None:
        """Deletes the files that a killed run was just writing; only local files are renamed."""
        filesystem, root = file_system(self.root)
        if not isinstance(filesystem, LocalFileSystem):
            return
        before_0_5 = [f".{name}.*.tmp" for name in (RUN, *self.FILES)]
        for folder in ("", *self.FOLDERS):
            path = os.path.join(root, folder)
            patterns = [LEFT_OVER, *([".*.tmp"] if folder else before_0_5)]
            for name in os.listdir(path) if os.path.isdir(path) else ():
                if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
                    self.remove(folder, name)

    def _clear(self) -> None:
        # Manifests go first: nothing may look finished whose files are gone.
        for folder in sorted(self.FOLDERS, key=lambda folder: folder != MANIFESTS):
            for name in self.names(folder, self.FOLDERS[folder]):
                self.remove(folder, name)
        for name in self.FILES:
            self.remove(name)


def at_once(work: Callable[[T], R], items: Collection[T]) -> Iterator[R]:
    """Yields what a function returns for each item, in their order; READERS are in work at once."""
    if items:
        with ThreadPool(READERS) as pool:
            yield from pool.imap(work, items, chunksize=16)


def json_object(content: bytes | None) -> dict[str, Any] | None:
    """Reads a JSON object; None if it is nothing, or something else."""
    try:
        document = json.loads(content or b"")
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def to_json(document: Mapping[str, Any]) -> bytes:
    """An object as indented JSON, keys in their own order."""
    return (json.dumps(document, indent=1) + "\n").encode()
