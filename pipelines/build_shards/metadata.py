"""Turns lines of metadata into the records of each shard, before any image is read.

`read_records` and `read_links` turn ranges of files into tables; `link`, `cap_authors`, `cap_cells`
look at all records of a partition at once; `assign` gives each record its shard.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.build_shards import tables
from pipelines.build_shards.equal_area_cells import Cells
from pipelines.build_shards.file_ranges import FileRange, lines_of
from pipelines.build_shards.settings import Inputs, Route, Rules, Settings, Source
from pipelines.build_shards.stable_hash import uniform_numbers
from pipelines.sources import mp16, msgpack_images, tar_images, webdataset, yfcc100m
from pipelines.sources.record import Drop, ImageRef, Record
from schemas.training import DropReason, DropRow, Split

CHUNK_RECORDS = 20_000


@dataclass(frozen=True)
class Parser:
    """What turns the lines of a list into records.

    Attributes:
        parse: Function of a line that never raises for what is in it.
        has_header: Whether the first line of the list is no row.
        tells_authors: Whether the list has a column of photographers.
    """

    parse: Callable[[bytes], Record | Drop]
    has_header: bool
    tells_authors: bool


@dataclass
class Chunk:
    """Records or links of some lines of a range.

    Attributes:
        id: Name of the chunk in output files.
        table: Table of RECORDS or of LINKS.
        drops: Lines that became no row.
        read: Number of lines or samples.
    """

    id: str
    table: pa.Table
    drops: list[DropRow] = field(default_factory=list)
    read: int = 0


def read_records(span: FileRange, settings: Settings) -> Iterator[Chunk]:
    """Parses the records of a range; drops those that are not wanted or are excluded.

    Raises:
        OSError: The file cannot be read.
    """
    items = _parsed(span, settings.inputs)
    filters, exclusions = settings.rules.filters, settings.exclusions
    for number in itertools.count():
        records: list[Record] = []
        images: list[ImageRef | None] = []
        chunk = Chunk(f"{span.id}-{number:03d}", tables.RECORDS.empty_table())
        for item in itertools.islice(items, CHUNK_RECORDS):
            chunk.read += 1
            if isinstance(item, Record):
                drop = filters.check(item) or exclusions.check(item)
                if drop is None:
                    records.append(item)
                    images.append(_image_of(item, settings.inputs))
                    continue
                item = drop
            chunk.drops.append(DropRow(item.key, item.reason, item.detail, item.line))
        if not chunk.read:
            return
        chunk.table = tables.record_table(records, settings.rules.seed, images)
        yield chunk


def _parsed(span: FileRange, inputs: Inputs) -> Iterator[Record | Drop]:
    if inputs.source is Source.WEBDATASET:
        yield from webdataset.read_shard(span.url)
        return
    parser = parser_of(span, inputs.source)
    first = int(parser.has_header and span.start == 0)
    yield from map(parser.parse, itertools.islice(lines_of(span), first, None))


def parser_of(span: FileRange, source: Source) -> Parser:
    """Finds the parser of the rows of a range.

    Raises:
        DataError: The first line of the file is no header that is known.
    """
    if source is Source.YFCC100M:
        names = yfcc100m.columns_of(span.first_line, span.url)
        return Parser(functools.partial(yfcc100m.parse, columns=names), bool(names), True)
    columns = mp16.columns_of(span.first_line, span.url)
    parse = functools.partial(mp16.parse, columns=columns)
    return Parser(parse, columns.has_header, columns.author is not None)


def _image_of(record: Record, inputs: Inputs) -> ImageRef | None:
    """Returns the place of a record's image, if the record alone tells it."""
    if inputs.route is Route.FOLDER:
        return mp16.image_by_id(inputs.root, record.key)
    if inputs.route is Route.HASH and record.hash is not None:
        return yfcc100m.image_by_hash(inputs.root, record.hash)
    if inputs.route is Route.DOWNLOAD and record.url is not None:
        return ImageRef("url", record.url)
    return record.image


def read_links(span: FileRange, inputs: Inputs) -> Iterator[Chunk]:
    """Reads the places of images; entries that cannot be used are counted.

    Raises:
        OSError: The file cannot be read.
    """
    items: Iterator[tuple[str, str | ImageRef] | Drop]
    if inputs.route is Route.MESSAGES:
        items = iter(msgpack_images.index_shard(span.url))
    elif inputs.route is Route.TARS:
        items = iter(tar_images.index_tar(span.url))
    elif inputs.route is Route.HASH:
        items = map(yfcc100m.parse_hash, lines_of(span))
    else:
        items = map(_url_image, lines_of(span))
    for number in itertools.count():
        links: list[tuple[str, str | ImageRef]] = []
        chunk = Chunk(f"{span.id}-{number:03d}", tables.LINKS.empty_table())
        for item in itertools.islice(items, CHUNK_RECORDS):
            chunk.read += 1
            if isinstance(item, Drop):
                chunk.drops.append(DropRow(item.key, item.reason, item.detail, item.line))
            else:
                links.append(item)
        if not chunk.read:
            return
        chunk.table = tables.link_table(links)
        yield chunk


def _url_image(line: bytes) -> tuple[str, ImageRef] | Drop:
    pair = mp16.parse_url(line)
    return pair if isinstance(pair, Drop) else (pair[0], ImageRef("url", pair[1]))


def link(records: pa.Table, links: pa.Table, inputs: Inputs) -> tuple[pa.Table, list[DropRow]]:
    """Keeps one record per photo and adds the place of its image.

    Args:
        records: Table of RECORDS with all records of some photos.
        links: Table of LINKS with all links of the same photos.
        inputs: Inputs of the build.

    Returns:
        The records that have an image, by rank, and the drops.
    """
    records = tables.in_order(records)
    first = _first_of_each(records["photo"])
    drops = _drops(
        records.filter(pa.array(~first)), DropReason.DUPLICATE_ID, "the photo is listed before"
    )
    records = records.filter(pa.array(first))
    if len(links):
        records = _join(records, tables.in_order(links), inputs)
    found = records["image_kind"].is_valid()
    drops += _drops(records.filter(pc.invert(found)), DropReason.NO_IMAGE, _NO_IMAGE[inputs.route])
    return records.filter(found), drops


_NO_IMAGE = {
    Route.FOLDER: "the record names no image",
    Route.HASH: "no hash is known for the photo",
    Route.MESSAGES: "no msgpack shard holds the photo",
    Route.TARS: "no tar holds the photo, by its id with _ or / between its parts",
    Route.DOWNLOAD: "no address is known for the photo",
    Route.TAR: "the sample has no image",
}


def _first_of_each(column: pa.ChunkedArray) -> np.ndarray:
    values, _ = tables.codes(column)
    first = np.zeros(len(values), bool)
    first[np.unique(values, return_index=True)[1]] = True
    return first


def _join(records: pa.Table, links: pa.Table, inputs: Inputs) -> pa.Table:
    """Adds images to records that have none; of several links of a photo, the first counts."""
    links = links.filter(pa.array(_first_of_each(links["photo"])))
    position = pc.index_in(records["photo"], value_set=links["photo"])
    joined = links.take(position)
    if inputs.route is Route.HASH:
        joined = _images_by_hash(joined, inputs.root)
    for name in (*tables.IMAGE_COLUMNS, "hash"):
        column = pc.coalesce(records[name], joined[name])
        records = records.set_column(records.column_names.index(name), name, column)
    return records


def _images_by_hash(links: pa.Table, root: str) -> pa.Table:
    images = [
        None if digest is None else yfcc100m.image_by_hash(root, digest)
        for digest in links["hash"].to_pylist()
    ]
    made = tables.image_columns(images)
    for name, kind in tables.IMAGE_COLUMNS.items():
        column = pa.array(made[name], type=kind)
        links = links.set_column(links.column_names.index(name), name, column)
    return links


def cap_authors(records: pa.Table, rules: Rules) -> tuple[pa.Table, list[DropRow]]:
    """Keeps at most `author_cap` photos per photographer; unknown photographers have no cap."""
    groups, authors = tables.codes(records["author"])
    if "" in authors:
        groups[groups == authors.index("")] = -1
    why = f"the photographer has more than {rules.author_cap:,} photos"
    return _capped(records, groups, rules.author_cap, DropReason.AUTHOR_CAP, why)


def cap_cells(records: pa.Table, rules: Rules) -> tuple[pa.Table, list[DropRow]]:
    """Keeps at most `cell_cap` photos per cell."""
    why = f"the cell has more than {rules.cell_cap:,} photos"
    return _capped(records, cells_of(records, rules), rules.cell_cap, DropReason.CELL_CAP, why)


def cells_of(records: pa.Table, rules: Rules) -> np.ndarray:
    """Returns the cell of each record, int64 ``(N,)``."""
    places = (records[name].to_numpy() for name in ("latitude", "longitude"))
    return Cells(rules.cell_degrees).index(*places)


def _capped(
    records: pa.Table, groups: np.ndarray, cap: int, reason: DropReason, why: str
) -> tuple[pa.Table, list[DropRow]]:
    kept = within_cap(groups, records["rank"].to_numpy(), cap)
    return records.filter(pa.array(kept)), _drops(records.filter(pa.array(~kept)), reason, why)


def within_cap(groups: NDArray[np.int64], ranks: NDArray[np.uint64], cap: int) -> NDArray[np.bool_]:
    """Chooses the `cap` photos of each group that have the smallest ranks.

    Args:
        groups: Group of each photo, int64 ``(N,)``; a photo of a negative group is always kept.
        ranks: Ranks of the photos, uint64 ``(N,)``, different within a group.
        cap: Largest number of photos per group, at least 1.

    Returns:
        Whether each photo stays, bool ``(N,)``.
    """
    order = np.lexsort((ranks, groups))
    ordered = groups[order]
    starts = np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(order)]
    first = np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))
    kept = np.empty(len(order), bool)
    kept[order] = (np.arange(len(order)) - first < cap) | (ordered < 0)
    return kept


def _drops(records: pa.Table, reason: DropReason, why: str) -> list[DropRow]:
    return [DropRow(key, reason, why, "") for key in records["key"].to_pylist()]


def for_validation(records: pa.Table, rules: Rules) -> np.ndarray:
    """Returns whether each record is for validation, bool ``(N,)``.

    All photos of a photographer are for the same split. Photos of unknown photographers are decided
    one by one.
    """
    groups, authors = tables.codes(records["author"])
    chosen = uniform_numbers(authors, rules.seed) < rules.val_fraction
    result = chosen[groups] if len(groups) else np.zeros(0, bool)
    if "" in authors:
        alone = groups == authors.index("")
        photos = records["photo"].filter(pa.array(alone)).to_pylist()
        result[alone] = uniform_numbers(photos, rules.seed) < rules.val_fraction
    return result


def count_splits(records: pa.Table, rules: Rules) -> Counter[str]:
    """Counts the records of each split."""
    held_out = int(for_validation(records, rules).sum())
    return Counter({Split.VAL.value: held_out, Split.TRAIN.value: len(records) - held_out})


def shard_counts(photos: Counter[str], rules: Rules) -> dict[str, int]:
    """Computes the number of shards of each split from its number of photos."""
    return {
        split.value: max(1, round(photos[split.value] / rules.shard_size))
        for split in Split
        if photos[split.value]
    }


def assign(records: pa.Table, shards: dict[str, int], rules: Rules) -> tuple[np.ndarray, list[str]]:
    """Assigns a shard to each record by its rank, so that shards are mixed and of similar size.

    Returns:
        Index of the shard of each record, int64 ``(N,)``, and the names of all shards.
    """
    held_out = for_validation(records, rules)
    return shard_numbers(records["rank"].to_numpy(), held_out, shards), shard_names(shards)


def shard_numbers(
    ranks: NDArray[np.uint64], held_out: NDArray[np.bool_], shards: Mapping[str, int]
) -> NDArray[np.int64]:
    """Computes the shard of photos, as an index into `shard_names`.

    Args:
        ranks: Ranks of the photos, uint64 ``(N,)``.
        held_out: Whether each photo is for validation, bool ``(N,)``.
        shards: Number of shards of each split.
    """
    train, val = (shards.get(split.value, 0) for split in (Split.TRAIN, Split.VAL))
    number = np.where(held_out, ranks % np.uint64(max(val, 1)), ranks % np.uint64(max(train, 1)))
    return number.astype(np.int64) + np.where(held_out, train, 0)


def shard_names(shards: Mapping[str, int]) -> list[str]:
    """Returns the names of all shards, train before val."""
    return [
        f"{split.value}-{number:05d}" for split in Split for number in range(shards.get(split, 0))
    ]


def plan_tables(
    records: pa.Table, shards: dict[str, int], rules: Rules
) -> Iterable[tuple[str, pa.Table]]:
    """Yields the name and the records of each shard, by rank."""
    records = tables.in_order(records)
    numbers, names = assign(records, shards, rules)
    for number, part in tables.split_rows(records, numbers):
        yield names[number], part
