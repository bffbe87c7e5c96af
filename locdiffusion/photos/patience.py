"""Reads a shard in several tries, where an error of the network or the storage may pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

from locdiffusion.photos.archive import Sample, ShardReader
from locdiffusion.photos.folder_reader import FolderReader
from locdiffusion.photos.storage import PAUSES_S
from schemas.geotags import ErrorRow

Reader = FolderReader | ShardReader


@dataclass
class PatientReader:
    """Yields the items of a shard, each once; a try goes on behind what earlier ones have met.

    Attributes:
        new_reader: Makes a reader that begins with the first photo.
        sleep: Waits so many seconds before another try.
        kept: Keys of photos that are left out.
        last: Reader of the last try, whose status is that of the shard.
    """

    new_reader: Callable[[], Reader]
    sleep: Callable[[float], None] = time.sleep
    kept: Collection[str] = ()
    last: Reader = field(init=False)

    def __iter__(self) -> Iterator[Sample | ErrorRow]:
        met = set(self.kept)
        for pause in (*PAUSES_S, None):
            self.last = self.new_reader()
            for item in self.last:
                # What comes at and behind the error is met again in the next try.
                if item.key in met or (self.last.passing and pause is not None):
                    continue
                if item.key is not None:
                    met.add(item.key)
                yield item
            if pause is None or not self.last.passing:
                return
            self.sleep(pause)
