"""Reads the photos of one group of a table. Knows no Beam."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

from locdiffusion.geography.areas import AreaError, Areas
from locdiffusion.photos.archive import Sample
from locdiffusion.photos.blocks import TarStatus
from locdiffusion.photos.capture_time import Capture, TimeSource, parse_time, read_clock
from locdiffusion.photos.coordinates import (
    NOTHING,
    Angle,
    CoordinateError,
    Source,
    parse_angle,
    place,
)
from locdiffusion.photos.folder import PhotoFile
from locdiffusion.photos.folder_reader import FolderReader
from locdiffusion.photos.identity import Holder, PhotoPlace, last_parts
from locdiffusion.photos.names import MAX_NAME_LENGTH, shortened
from locdiffusion.photos.sidecar import Sidecar
from locdiffusion.photos.storage import DataError, passes
from locdiffusion.photos.table import TableGroup, TableRow, place_of
from schemas.geotags import ErrorRow, Stage, Status


@dataclass
class TableReader(FolderReader):
    """Yields the photos of the rows of a group, each as a Sample or as an ErrorRow with its key.

    Attributes:
        group: Rows to read.
    """

    group: TableGroup | None = None

    def __iter__(self) -> Iterator[Sample | ErrorRow]:
        assert self.group is not None
        try:
            rows = self.group.rows()
        except DataError as error:
            self.status, self.message, self.read_failed = TarStatus.UNREADABLE, str(error), True
            self.passing = passes(error.__cause__)
            yield ErrorRow(None, Stage.READ, Status.SHARD_UNREADABLE, str(error))
            return
        for number, row in enumerate(rows, self.group.first + 1):
            if row.key not in self.kept:
                item = self._photo_of(row, number)
                if isinstance(item, ErrorRow):
                    item = item._replace(path=row.uri or None)
                yield item
            elif problem := said_by(row, self._said(number)).problem:
                self.problems.append(problem)

    def _photo_of(self, row: TableRow, number: int) -> Sample | ErrorRow:
        assert self.group is not None
        said = self._said(number)
        if len(row.key) > MAX_NAME_LENGTH:
            key, why = shortened(row.key), f"{said} has a key of more than {MAX_NAME_LENGTH:,}"
            return ErrorRow(key, Stage.READ, Status.NAME_TOO_LONG, f"{why} characters; shorten it")
        if row.repeats:
            why = f"{said} has a key that an earlier row has; give each row a key of its own"
            return ErrorRow(row.key, Stage.READ, Status.DUPLICATE_KEY, why)
        photo, problem = place_of(row, self.group.url, self.group.follow_links)
        if photo is None:
            return ErrorRow(row.key, Stage.READ, Status.MISSING_IMAGE, f"{said} {problem}")
        try:
            prior = own_prior(row.prior)
        except AreaError as error:
            return ErrorRow(row.key, Stage.READ, Status.BAD_PRIOR, f"the prior in {said}: {error}")
        found = self._read(photo)
        if isinstance(found, ErrorRow):
            return found._replace(key=row.key)
        sidecar = said_by(row, said)
        self.problems += filter(None, [sidecar.problem])
        url, parts = self.group.url, self.group.apart
        table = last_parts(url, parts - 1) if parts else ""
        where = PhotoPlace(Holder.TABLE, table, row.key, row.uri)
        return Sample(row.key, found.image, sidecar=sidecar, prior=prior, place=where)

    def _said(self, number: int) -> str:
        """Name of a row, for messages."""
        assert self.group is not None
        return f"row {number:,} of {self.group.url.rpartition('/')[2]}"

    def _lasting(self, photo: PhotoFile, error: OSError) -> str:
        """A file that a table names and nobody finds is not there; in a folder it was listed."""
        missing = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
        why = super()._lasting(photo, error)
        if not why and isinstance(error, missing):
            why = f"no file is there ({error}); correct the table, or put it there"
        return why


@functools.lru_cache(maxsize=1024)
def own_prior(text: str) -> str | None:
    """Reads the prior of one photo, in one spelling for all priors that are the same.

    Args:
        text: Prior as of `--prior`, but no file; empty for none.

    Raises:
        AreaError: The text is no prior.
    """
    # Imports torch, which listing does without.
    from locdiffusion.density.base_measure import BaseMeasureName

    name = text.strip().lower()
    names = [known.value for known in BaseMeasureName]
    if not name or name in names:
        return name or None
    areas = None if len(text) > MAX_NAME_LENGTH else Areas.parse(text)
    if areas is None:
        raise AreaError(
            f"{text[:80]!r} is none for a single photo; write country:NO, a disc such as "
            f"59.9,10.7,300km, several of these with ;, or one of {', '.join(names)} (a file of "
            "polygons is given with --prior)"
        )
    return str(areas)


def said_by(row: TableRow, said: str) -> Sidecar:
    """Reads the position and the time of a row, as if a document said them.

    Args:
        row: Row of a table.
        said: Name of the row, for messages.
    """
    found, time, problems = NOTHING, None, []
    try:
        found = place([_angle(text) for text in (row.latitude, row.longitude)], Source.TABLE)
    except CoordinateError as error:
        problems.append(str(error))
    if row.captured_at:
        time = parse_time(row.captured_at, TimeSource.TABLE)
        if read_clock(row.captured_at) is None:
            problems.append(
                f"captured_at is {row.captured_at[:40]!r}, wanted a time such as "
                "2024-05-17T10:30:00+02:00"
            )
    problem = f"{said}: {'; '.join(problems)}" if problems else ""
    return Sidecar(found.position, found.source, problem, Capture(time))


def _angle(text: str) -> Angle | None:
    try:
        return Angle((float(text),), signed=True) if text else None
    except ValueError:
        return parse_angle(text)
