"""Indexes plain tars of pictures, in which MP16-Pro circulates: `45_77_322.jpg` and the like.

A tar is read once by the strict reader; then any image is a range of its bytes. The lists call the
same picture `45/77/322.jpg`; `record.photo_id` knows both spellings.
"""

from __future__ import annotations

from collections.abc import Iterator

from locdiffusion.photos.blocks import ArchiveDamage, TarStatus
from locdiffusion.photos.names import NameKind, kind_of
from locdiffusion.photos.storage import ReadError, open_stream
from locdiffusion.photos.tar import Member, read_members
from pipelines.sources.record import Drop, ImageRef, RowError, checked_key
from schemas.samples import MAX_IMAGE_BYTES
from schemas.training import DropReason


def index_tar(url: str) -> Iterator[tuple[str, ImageRef] | Drop]:
    """Yields the place of each picture of a plain tar, holding one in memory at a time.

    Args:
        url: Path of the tar, or a URL that fsspec opens; it goes into each ImageRef as it is.

    Yields:
        The name of the member and the place of its bytes, or a Drop for a picture that cannot be
        used. A tar that is cut, damaged or compressed ends in a Drop without a key.

    Raises:
        OSError: The tar cannot be opened.
        ReadError: The tar cannot be read now; its content is not known.
    """
    with open_stream(url) as file:
        try:
            for member in read_members(file, _limit):
                if _limit(member.name) is None:
                    continue
                if member.data is not None and member.offset is None:
                    why = f"{url} is compressed, and its pictures have no place; unpack it first"
                    yield Drop(None, DropReason.UNUSABLE_SHARD, why)
                    return
                yield _entry(member, url)
        except ArchiveDamage as damage:
            if damage.status is TarStatus.UNREADABLE:
                raise ReadError(f"{url}: {damage}") from damage
            yield Drop(None, DropReason.UNUSABLE_SHARD, f"{url} is {damage}; copy it again")


def _limit(name: str) -> int | None:
    return MAX_IMAGE_BYTES if kind_of(name) is NameKind.PHOTO else None


def _entry(member: Member, url: str) -> tuple[str, ImageRef] | Drop:
    if member.data is None or member.offset is None:
        why = member.problem[1] if member.problem else "no bytes"
        return Drop(member.name, DropReason.NO_IMAGE, f"{why} (in {url})")
    try:
        key = checked_key(member.name.removeprefix("./"))
    except RowError as error:
        return Drop(None, error.reason, f"{error} (in {url})")
    return key, ImageRef("tar", url, member.offset, len(member.data))
