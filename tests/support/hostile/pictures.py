"""Files of pictures that cost a decoder far more than their bytes, each made by code.

`PICTURES` names them all. The file of each is small and quickly made; most are sound enough that a
careless decoder starts to work on them.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import struct
import zlib
from collections.abc import Callable, Iterable

from PIL import Image

from support.archives import encode
from support.picture_files import jpeg_with, picture_file, png_chunk, png_with

GREY = Image.new("L", (64, 64), 128)


def grey(width: int, height: int, mode: str = "L") -> Image.Image:
    """A picture of one colour."""
    return Image.new(mode, (width, height), (128,) * len(mode) if len(mode) > 1 else 128)


def packed_zeros(size: int) -> bytes:
    """A zlib stream that unpacks to so many zeros, made without packing them all."""
    piece = 2**20
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(piece)) + packer.flush(zlib.Z_FULL_FLUSH)
    rest = zlib.compressobj(9, zlib.DEFLATED, -15)
    tail = rest.compress(bytes(size % piece)) + rest.flush()
    return b"\x78\x9c" + block * (size // piece) + tail + struct.pack(">HH", size % 65_521, 1)


# Metadata


@functools.cache
def exif_bomb(tags: int = 5_000, size: int = 2**20) -> bytes:
    """A TIFF block with thousands of tags that point to one value of a megabyte."""
    blob = 8 + 2 + 12 * tags + 4
    head = b"II*\0" + struct.pack("<IH", 8, tags)
    table = b"".join(struct.pack("<HHII", 0x9000 + tag, 7, size, blob) for tag in range(tags))
    return head + table + bytes(3 + size) + b"\1"


def raw_profile(block: bytes) -> bytes:
    """EXIF as ImageMagick writes it into a text."""
    return b"\nexif\n%8d\n%b\n" % (len(block), block.hex().encode())


def png_text_exif() -> bytes:
    """A PNG of 32 KB whose compressed text holds the bomb."""
    text = zlib.compress(raw_profile(b"Exif\0\0" + exif_bomb()), 9)
    return png_with(png_chunk(b"zTXt", b"Raw profile type exif\0\0" + text))


def png_exif() -> bytes:
    """A PNG with the bomb in its own chunk."""
    return png_with(png_chunk(b"eXIf", exif_bomb()))


def png_profile() -> bytes:
    """A PNG whose colour profile unpacks to a gigabyte."""
    return png_with(png_chunk(b"iCCP", b"icc\0\0" + packed_zeros(2**30)))


def png_texts(count: int = 1_000) -> bytes:
    """A PNG with a thousand packets of XMP, each of which unpacks to four megabytes."""
    text = zlib.compress(b"<x:xmpmeta>" + b" " * (2**22 - 11), 9)
    chunk = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + text)
    return png_with(*[chunk] * count)


def png_xmp_elements(count: int = 16) -> bytes:
    """A PNG with packets of a million elements each."""
    text = b"<x xmlns:exif='http://ns.adobe.com/exif/1.0/' exif:gpsLatitude='1'>" + b"<a/>" * (
        2**20 - 100
    )
    chunk = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(text, 9))
    return png_with(*[chunk] * count)


def jpeg_joined_exif() -> bytes:
    """A JPEG with the bomb in joined segments."""
    block = exif_bomb()
    parts = [block[at : at + 65_000] for at in range(0, len(block), 65_000)]
    return jpeg_with(*((0xE1, b"Exif\0\0" + part) for part in parts))


def jpeg_tiny_exif(count: int = 400_000) -> bytes:
    """A JPEG whose EXIF comes in hundreds of thousands of segments of a few bytes."""
    return jpeg_with(*[(0xE1, b"Exif\0\0II*\0")], *[(0xE1, b"Exif\0\0xx")] * count)


def jpeg_profile() -> bytes:
    """A JPEG with a colour profile in 255 parts, each as long as a segment can be."""
    parts = (b"ICC_PROFILE\0" + bytes((n, 255)) + bytes(60_000) for n in range(1, 256))
    return jpeg_with(*((0xE2, part) for part in parts))


def riff_chunk(name: bytes, body: bytes) -> bytes:
    """A chunk of a WebP."""
    return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def riff(*chunks: bytes) -> bytes:
    """A WebP of chunks."""
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def canvas(width: int, height: int, flags: int = 0) -> bytes:
    """The first chunk of an extended WebP."""
    sides = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return riff_chunk(b"VP8X", struct.pack("<I", flags) + sides)


def webp_exif() -> bytes:
    """A WebP with the bomb."""
    return encode(GREY.convert("RGB"), "WEBP", exif=exif_bomb())


def webp_frames(count: int = 100_000) -> bytes:
    """A WebP with a hundred thousand frames."""
    frame = encode(Image.new("RGB", (1, 1)), "WEBP", lossless=True)[12:]
    moved = riff_chunk(b"ANMF", bytes(15) + b"\0" + frame)
    return riff(canvas(1, 1, 2), riff_chunk(b"ANIM", bytes(6)), *[moved] * count)


def webp_chunks(count: int = 500_000) -> bytes:
    """A WebP with half a million empty chunks, in any of which metadata might stand."""
    plain = encode(Image.new("RGB", (1, 1)), "WEBP", lossless=True)[12:]
    return riff(canvas(1, 1), plain, *[riff_chunk(b"EXIF", b"")] * count)


def webp_large() -> bytes:
    """A WebP of a hundred megapixels in a few kilobytes."""
    return encode(grey(10_900, 10_900, "RGB"), "WEBP", lossless=True, quality=0, method=0)


# JPEG


def jpeg_scans(count: int = 15_000, side: int = 2048) -> bytes:
    """A progressive JPEG that repeats one scan thousands of times."""
    data = encode(grey(side, side), "JPEG", progressive=True)
    tables = data.rindex(b"\xff\xc4")
    scan = data[tables:-2]
    return data[:-2] + scan * count + b"\xff\xd9"


def jpeg_small_scans(count: int = 200_000) -> bytes:
    """A tiny progressive JPEG with hundreds of thousands of scans."""
    return jpeg_scans(count, 16)


def jpeg_sequential_scans(count: int = 450, side: int = 8_000) -> bytes:
    """A sequential JPEG of three components, one of which has hundreds of scans without data."""
    data = encode(grey(16, 16), "JPEG")
    at, frame = data.index(b"\xff\xda"), data.index(b"\xff\xc0")
    parts = b"".join(bytes((number, 0x11, 0)) for number in (1, 2, 3))
    head = data[:frame] + b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, side, side, 3) + parts
    return head + data[frame + 13 : at] + data[at : at + 10] * count + b"\xff\xd9"


def jpeg_arithmetic(count: int = 400, side: int = 8000) -> bytes:
    """A progressive JPEG with arithmetic coding, whose scans hold no data at all."""
    quantization = b"\xff\xdb\0\x43\0" + bytes([1]) * 64
    frame = b"\xff\xca" + struct.pack(">HBHHB", 11, 8, side, side, 1) + b"\1\x11\0"
    first = b"\xff\xda\0\x08\1\1\0\0\0\0"
    scan = b"\xff\xda\0\x08\1\1\0\1\x3f\0"
    return b"\xff\xd8" + quantization + frame + first + scan * count + b"\xff\xd9"


def jpeg_gigapixels() -> bytes:
    """A baseline JPEG of four colours that says it has four gigapixels, and breaks off."""
    data = encode(grey(16, 16, "CMYK"), "JPEG", quality=100, subsampling=0)
    at = data.index(b"\xff\xc0")
    return data[: at + 5] + struct.pack(">HH", 65_500, 65_500) + data[at + 9 :]


def jpeg_run(count: int = 3_000_000) -> bytes:
    """A JPEG with millions of bytes that each may begin a marker, and none does."""
    data = picture_file("jpeg")
    return data[:-2] + b"\xff" * count + b"\0"


def jpeg_segments_without_end(count: int = 3_000_000) -> bytes:
    """A JPEG with millions of empty comments."""
    return jpeg_with(*[(0xFE, b"")] * count)


def jpeg_tables(count: int = 300) -> bytes:
    """A JPEG with quantization tables of many megabytes."""
    return jpeg_with(*[(0xDB, (b"\0" + bytes([1]) * 64) * 1_000)] * count)


# PNG, GIF and BMP


def png_empty_parts(count: int = 1_000_000) -> bytes:
    """A PNG whose pixels come in a million empty parts."""
    data = picture_file("png")
    at = data.index(b"IDAT") - 4
    return data[:at] + png_chunk(b"IDAT", b"") * count + data[at:]


def png_large(colour: int, bits: int = 8, interlace: int = 0) -> bytes:
    """A PNG of a hundred megapixels of one colour."""
    side = 10_900
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    size = side * samples * bits // 8 + 1
    rows = packed_zeros(size * (side + 64 * interlace))
    header = struct.pack(">IIBBBBB", side, side, bits, colour, 0, 0, interlace)
    palette = png_chunk(b"PLTE", bytes(3)) if colour == 3 else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + palette
        + png_chunk(b"IDAT", rows)
        + png_chunk(b"IEND", b"")
    )


def png_large_alpha() -> bytes:
    """A PNG of a hundred megapixels with transparency, interlaced."""
    return png_large(6, 8, 1)


def png_large_grey() -> bytes:
    """A PNG of a hundred megapixels in 65,536 shades of grey."""
    return png_large(0, 16)


def gif_parts(count: int = 3_000_000) -> bytes:
    """A GIF whose pixels come in millions of parts of one byte."""
    data = picture_file("gif")
    at = data.index(b"\x2c\0\0\0\0")
    table = 3 * 2 ** ((data[at + 9] & 7) + 1) if data[at + 9] & 0x80 else 0
    start = at + 10 + table + 1
    return data[:start] + b"\1\0" * count + data[start:]


def gif_extensions(count: int = 1_000_000) -> bytes:
    """A GIF with a million extensions before its picture."""
    data = picture_file("gif")
    start = 13 + 3 * 2 ** ((data[10] & 7) + 1)
    return data[:start] + b"\x21\xff\0" * count + data[start:]


def gif_frames(count: int = 300_000) -> bytes:
    """A GIF with hundreds of thousands of frames."""
    frame = b"\x2c\0\0\0\0\1\0\1\0\0\2\2\x44\1\0"
    return b"GIF89a\1\0\1\0\x80\0\0" + bytes(6) + frame * count + b";"


def bmp(width: int, height: int, data: bytes) -> bytes:
    """A BMP with run lengths."""
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 1, 1, 256, 0)
    start = 14 + 40 + 1024
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + head + bytes(1024) + data


def bmp_runs(count: int = 4_000_000) -> bytes:
    """A BMP with millions of runs of one pixel."""
    return bmp(10_000, 12_000, b"\1\0" * count)


def bmp_steps() -> bytes:
    """A BMP of a few bytes that skips 255 rows of a hundred million pixels."""
    return bmp(100_000_000, 1, b"\0\2\xff\xff" * 8)


# TIFF

Entry = tuple[int, int, int, int]


def tiff(entries: Iterable[Entry], *rest: bytes, after: int = 0) -> bytes:
    """A TIFF whose directory lies behind the other bytes, which start at byte 8."""
    body = b"".join(rest)
    body += bytes(len(body) % 2)
    rows = sorted(entries)
    table = struct.pack("<H", len(rows)) + b"".join(struct.pack("<HHII", *row) for row in rows)
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + table + struct.pack("<I", after)


def fields(width: int, height: int, coded: int = 1, **more: int) -> list[Entry]:
    """The fields that a grey picture needs, without its strips."""
    return [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, 8),
        (259, 3, 1, coded),
        (262, 3, 1, 1),
        (277, 3, 1, 1),
    ]


def tiff_tags(count: int = 20_000, size: int = 2**20) -> bytes:
    """A TIFF with thousands of tags that point to one value."""
    strip = [(273, 4, 1, 8), (278, 4, 1, 64), (279, 4, 1, 4096)]
    bombs = [(0x9000 + tag, 7, size, 8) for tag in range(count)]
    return tiff(fields(64, 64) + strip + bombs, bytes(size))


def tiff_packed_tags() -> bytes:
    """A compressed TIFF with thousands of tags that point to one value."""
    packed = zlib.compress(bytes(4096))
    strip = [(273, 4, 1, 8), (278, 4, 1, 64), (279, 4, 1, len(packed))]
    bombs = [(0x9000 + tag, 7, 2**20, 8) for tag in range(20_000)]
    return tiff(fields(64, 64, 8) + strip + bombs, packed + bytes(2**20))


def tiff_numbers(count: int = 4_000_000) -> bytes:
    """A TIFF with millions of strips that it does not need."""
    offsets = struct.pack("<I", 8) * count
    lists = [(273, 4, count, 8), (278, 4, 1, 1), (279, 4, count, 8)]
    return tiff(fields(64, 64) + lists, offsets)


def tiff_unknown_numbers(count: int = 8_000_000) -> bytes:
    """A TIFF whose resolution holds millions of fractions."""
    strip = [(273, 4, 1, 8), (278, 4, 1, 64), (279, 4, 1, 4096), (282, 5, count // 2, 8)]
    return tiff(fields(64, 64) + strip, struct.pack("<I", 7) * count)


def tiff_shared_strips(rows: int = 65_000) -> bytes:
    """A TIFF of which every row is the same compressed megabyte, with its bits turned."""
    packed = packed_zeros(2**24).ljust(2**21, b"\0")
    end = 8 + len(packed)
    lists = struct.pack("<I", 8) * rows + struct.pack("<I", len(packed)) * rows
    strips = [(273, 4, rows, end), (278, 4, 1, 1), (279, 4, rows, end + 4 * rows), (266, 3, 1, 2)]
    return tiff(fields(64, rows, 8) + strips, packed, lists)


def tiff_tile() -> bytes:
    """A TIFF of 16 x 16 pixels in one compressed tile of a gigabyte."""
    packed = packed_zeros(2**30)
    tile = [(322, 4, 1, 2**15), (323, 4, 1, 2**15), (324, 4, 1, 8), (325, 4, 1, len(packed))]
    return tiff(fields(16, 16, 8) + tile, packed)


def tiff_chain(count: int = 200_000) -> bytes:
    """A TIFF with hundreds of thousands of directories in a row."""
    chain = b"".join(
        struct.pack("<H", 0) + struct.pack("<I", 8 + 4096 + 6 * (n + 1)) for n in range(count - 1)
    )
    strip = [(273, 4, 1, 8), (278, 4, 1, 64), (279, 4, 1, 4096)]
    return tiff(fields(64, 64) + strip, bytes(4096), chain, bytes(6), after=8 + 4096)


def tiff_scans(count: int = 15_000, side: int = 2048, rows: int = 1) -> bytes:
    """A TIFF that holds the JPEG with thousands of scans."""
    data = jpeg_scans(count, side)
    strip = [(273, 4, 1, 8), (278, 4, 1, side), (279, 4, 1, len(data))]
    return tiff(fields(side, side, 7) + strip, data)


def tiff_floats() -> bytes:
    """A TIFF of a hundred megapixels of floating point in one strip."""
    side = 10_900
    packed = packed_zeros(8 * side**2)
    wide = [(258, 3, 1, 64), (339, 3, 1, 3)]
    rest = [one for one in fields(side, side, 8) if one[0] != 258]
    strip = [(273, 4, 1, 8), (278, 4, 1, side), (279, 4, 1, len(packed))]
    return tiff(rest + wide + strip, packed)


# JPEG 2000


def codestream(
    side: int,
    tile: int | None = None,
    components: int = 1,
    layers: int = 1,
    levels: int = 5,
    block: int = 6,
    precinct: int | None = None,
    tiles: int = 1,
) -> bytes:
    """A JPEG 2000 of empty tiles; sizes of blocks and precincts are powers of two."""
    tile = tile or side
    sizes = struct.pack(">HIIIIIIIIH", 0, side, side, 0, 0, tile, tile, 0, 0, components)
    sizes += b"\7\1\1" * components
    coding = struct.pack(">BBHBBBBBB", precinct is not None, 0, layers, 0, levels, 0, 0, 0, 1)
    coding = coding[:6] + bytes((block - 2, block - 2)) + coding[8:]
    if precinct is not None:
        coding += bytes([precinct * 17]) * (levels + 1)
    exponents = b"\x40" + bytes([8 << 3]) * (3 * levels + 1)
    parts = b"".join(
        b"\xff" + mark + struct.pack(">H", len(body) + 2) + body
        for mark, body in ((b"\x51", sizes), (b"\x52", coding), (b"\x5c", exponents))
    )
    tile_parts = b"".join(
        b"\xff\x90" + struct.pack(">HHIBB", 10, number, 14 + 16, 0, 1) + b"\xff\x93" + bytes(16)
        for number in range(tiles)
    )
    return b"\xff\x4f" + parts + tile_parts + b"\xff\xd9"


def box(name: bytes, *bodies: bytes) -> bytes:
    """A box of JPEG 2000 or of HEIC."""
    body = b"".join(bodies)
    return struct.pack(">I", 8 + len(body)) + name + body


def jp2(stream: bytes, *more: bytes, side: int = 64) -> bytes:
    """A JPEG 2000 with boxes around its codestream."""
    head = box(b"ihdr", struct.pack(">IIHBBBB", side, side, 1, 7, 7, 0, 0))
    colours = box(b"colr", struct.pack(">BBBI", 1, 0, 0, 17))
    start = b"\0\0\0\x0cjP  \r\n\x87\n" + box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
    return start + box(b"jp2h", head, colours, *more) + box(b"jp2c", stream)


def j2k_blocks() -> bytes:
    """A JPEG 2000 of a hundred megapixels in blocks of 4 x 4."""
    return codestream(10_900, block=2)


def j2k_precincts() -> bytes:
    """A JPEG 2000 of a hundred megapixels in precincts of 2 x 2."""
    return codestream(10_900, block=2, precinct=1)


def j2k_layers() -> bytes:
    """A JPEG 2000 with 65,535 layers in each of thousands of tiles."""
    return codestream(2_048, 32, layers=65_535, levels=32, tiles=4_096)


def j2k_tiles() -> bytes:
    """A JPEG 2000 of 65,025 tiles."""
    return codestream(255 * 42, 42, components=4, tiles=65_025)


def j2k_components() -> bytes:
    """A JPEG 2000 with 16,384 components in 16,384 tiles."""
    return codestream(128, 1, components=16_384)


def jp2_components() -> bytes:
    """A JPEG 2000 whose box says one component, and whose codestream says 16,384."""
    return jp2(codestream(64, 1, components=16_384))


def j2k_large() -> bytes:
    """A JPEG 2000 of a hundred megapixels in a few bytes."""
    return codestream(10_900, 10_900, components=4)


def jp2_boxes(count: int = 1_000_000) -> bytes:
    """A JPEG 2000 with a million empty boxes."""
    return jp2(picture_file("j2k", GREY), box(b"free") * count)


def j2k_markers(count: int = 1_000_000) -> bytes:
    """A JPEG 2000 with a million empty segments in its head."""
    plain = codestream(64)
    at = plain.index(b"\xff\x52")
    return plain[:at] + b"\xff\x63\0\2" * count + plain[at:]


# HEIC and AVIF


def full(name: bytes, *bodies: bytes, version: int = 0) -> bytes:
    """A box with a version and no flags."""
    return box(name, bytes((version, 0, 0, 0)), *bodies)


@functools.cache
def coded(brand: bytes, width: int = 64, height: int = 64) -> tuple[bytes, bytes, bytes]:
    """Type, configuration box and bytes of a grey picture in AV1 or HEVC."""
    if brand == b"avif":
        data = encode(grey(width, height, "RGB"), "AVIF", speed=10)
        kind, name = b"av01", b"av1C"
    else:
        import pillow_heif

        file = io.BytesIO()
        pillow_heif.from_pillow(grey(width, height, "RGB")).save(file)
        data, kind, name = file.getvalue(), b"hvc1", b"hvcC"
    at = data.index(name) - 4
    config = data[at : at + int.from_bytes(data[at : at + 4], "big")]
    return kind, config, data[data.index(b"mdat") + 4 :]


def items(
    brand: bytes,
    kinds: Iterable[tuple[bytes, int, int]],
    properties: Iterable[bytes],
    belongs: Iterable[tuple[int, bytes]],
    refers: Iterable[tuple[bytes, int, tuple[int, ...]]],
    data: bytes,
) -> bytes:
    """A file of items, numbered from 1, the first of which is the picture.

    Args:
        brand: Brand of the file.
        kinds: Type of each item, and where its bytes start and end in `data`.
        properties: Boxes of properties.
        belongs: Item and the numbers of its properties.
        refers: Type of a reference, item, and the items that it names.
        data: Bytes of all items.
    """
    kinds = list(kinds)
    start = box(b"ftyp", brand, b"\0\0\0\0mif1", brand)

    def meta(base: int) -> bytes:
        infos = [
            full(b"infe", struct.pack(">IH", number, 0), kind, b"\0", version=3)
            for number, (kind, _, _) in enumerate(kinds, 1)
        ]
        places = [
            struct.pack(">IHHHII", number, 0, 0, 1, base + first, last - first)
            for number, (_, first, last) in enumerate(kinds, 1)
        ]
        owners = list(belongs)
        owned = [struct.pack(">IB", item, len(numbers)) + numbers for item, numbers in owners]
        named = [
            box(
                kind,
                struct.pack(">IH", item, len(others)),
                struct.pack(f">{len(others)}I", *others),
            )
            for kind, item, others in refers
        ]
        handler = full(b"hdlr", bytes(4), b"pict", bytes(13))
        return full(
            b"meta",
            handler,
            full(b"pitm", struct.pack(">H", 1)),
            full(b"iloc", b"\x44\0", struct.pack(">I", len(kinds)), *places, version=2),
            full(b"iinf", struct.pack(">I", len(kinds)), *infos, version=1),
            box(
                b"iprp",
                box(b"ipco", *properties),
                full(b"ipma", struct.pack(">I", len(owners)), *owned, version=1),
            ),
            *([full(b"iref", *named, version=1)] if named else []),
        )

    base = len(start) + len(meta(0)) + 8
    return start + meta(base) + box(b"mdat", data)


def size_box(width: int, height: int) -> bytes:
    """The property that says how large an item is."""
    return full(b"ispe", struct.pack(">II", width, height))


def items_exif(brand: bytes, count: int = 1) -> bytes:
    """A picture with the bomb, or with many items that share its bytes."""
    kind, config, data = coded(brand)
    block = b"\0\0\0\0" + exif_bomb()
    exif = [(b"Exif", len(data), len(data) + len(block))] * count
    refers = [(b"cdsc", number, (1,)) for number in range(2, 2 + count)]
    bits = full(b"pixi", b"\3\x08\x08\x08")
    properties = [config, size_box(64, 64), bits]
    kinds = [(kind, 0, len(data)), *exif]
    return items(brand, kinds, properties, [(1, b"\x81\2\3")], refers, data + block)


def items_grid(brand: bytes, rows: int = 255, side: int = 64, shown: int = 64) -> bytes:
    """A picture of 64 x 64 pixels that is cut out of a grid of 65,025 pictures."""
    kind, config, data = coded(brand)
    grid = struct.pack(">BBBBHH", 0, 0, rows - 1, rows - 1, shown, shown)
    kinds = [(b"grid", len(data), len(data) + len(grid))]
    count = rows * rows if brand == b"avif" else 1
    kinds += [(kind, 0, len(data))] * count
    named = tuple(range(2, 2 + count)) if count > 1 else (2,) * (rows * rows)
    bits = full(b"pixi", b"\3\x08\x08\x08")
    properties = [config, size_box(side, side), size_box(shown, shown), bits]
    belongs = [(1, b"\3\4"), *((number, b"\x81\2\4") for number in range(2, 2 + count))]
    return items(brand, kinds, properties, belongs, [(b"dimg", 1, named)], data + grid)


def heic_overlay(levels: int = 8, copies: int = 16) -> bytes:
    """A picture laid over itself, level over level, billions of times."""
    kind, config, data = coded(b"heic")
    place = struct.pack(">ii", 0, 0)
    head = b"\0\0" + bytes(8) + struct.pack(">HH", 64, 64)
    names = [(b"iovl", len(data), len(data) + len(head) + len(place) * copies)] * levels
    refers = [(b"dimg", n, (n + 1,) * copies) for n in range(1, levels + 1)]
    properties = [config, size_box(64, 64), full(b"pixi", b"\3\x08\x08\x08")]
    belongs = [*((n, b"\2\3") for n in range(1, levels + 1)), (levels + 1, b"\x81\2\3")]
    overlay = head + place * copies
    kinds = [*names, (kind, 0, len(data))]
    return items(b"heic", kinds, properties, belongs, refers, data + overlay)


def items_lying(brand: bytes) -> bytes:
    """A picture that says it is small, and whose coded bytes say that it is large."""
    kind, config, data = coded(brand, 1_024, 1_024)
    properties = [config, size_box(64, 64), full(b"pixi", b"\3\x08\x08\x08")]
    return items(brand, [(kind, 0, len(data))], properties, [(1, b"\x81\2\3")], [], data)


def items_large(brand: bytes) -> bytes:
    """A picture of a hundred megapixels in a grid, in a few kilobytes."""
    rows, side = 10, 1_088
    kind, config, data = coded(brand, side, side)
    shown = rows * side
    grid = struct.pack(">BBBBHH", 0, 0, rows - 1, rows - 1, shown, shown)
    kinds = [(b"grid", len(data), len(data) + len(grid))] + [(kind, 0, len(data))] * rows**2
    bits = full(b"pixi", b"\3\x08\x08\x08")
    properties = [config, size_box(side, side), size_box(shown, shown), bits]
    numbers = tuple(range(2, 2 + rows**2))
    belongs = [(1, b"\3\4"), *((number, b"\x81\2\4") for number in numbers)]
    return items(brand, kinds, properties, belongs, [(b"dimg", 1, numbers)], data + grid)


def iso_boxes(brand: bytes, count: int = 1_000_000) -> bytes:
    """A picture with a million empty boxes behind it."""
    kind, config, data = coded(brand)
    properties = [config, size_box(64, 64), full(b"pixi", b"\3\x08\x08\x08")]
    whole = items(brand, [(kind, 0, len(data))], properties, [(1, b"\x81\2\3")], [], data)
    return whole + box(b"free") * count


def avif_sequence() -> bytes:
    """An AVIF with hundreds of frames."""
    frames = [grey(64, 64, "RGB")] * 300
    return encode(frames[0], "AVIF", save_all=True, append_images=frames[1:])


def avif_film_exif() -> bytes:
    """An AVIF with frames, and with the bomb among what belongs to them."""
    frames = [grey(64, 64, "RGB")] * 2
    return encode(frames[0], "AVIF", save_all=True, append_images=frames[1:], exif=exif_bomb())


def items_decoy(brand: bytes) -> bytes:
    """A picture with the bomb, and with a second list of items that knows nothing of it."""
    kind, config, data = coded(brand)
    properties = [config, size_box(64, 64)]
    decoy = items(brand, [(kind, 0, len(data))], properties, [(1, b"\x81\2")], [], data)
    at = decoy.index(b"meta") - 4
    return items_exif(brand) + decoy[at : at + int.from_bytes(decoy[at : at + 4], "big")]


_AVIF, _HEIC = b"avif", b"heic"

PICTURES: dict[str, Callable[[], bytes]] = {
    "png_text_exif.png": png_text_exif,
    "png_exif.png": png_exif,
    "png_profile.png": png_profile,
    "png_texts.png": png_texts,
    "png_xmp_elements.png": png_xmp_elements,
    "png_empty_parts.png": png_empty_parts,
    "png_large_alpha.png": png_large_alpha,
    "png_large_grey.png": png_large_grey,
    "jpeg_joined_exif.jpg": jpeg_joined_exif,
    "jpeg_tiny_exif.jpg": jpeg_tiny_exif,
    "jpeg_profile.jpg": jpeg_profile,
    "jpeg_scans.jpg": jpeg_scans,
    "jpeg_small_scans.jpg": jpeg_small_scans,
    "jpeg_sequential_scans.jpg": jpeg_sequential_scans,
    "jpeg_arithmetic.jpg": jpeg_arithmetic,
    "jpeg_gigapixels.jpg": jpeg_gigapixels,
    "jpeg_run.jpg": jpeg_run,
    "jpeg_segments_without_end.jpg": jpeg_segments_without_end,
    "jpeg_tables.jpg": jpeg_tables,
    "webp_exif.webp": webp_exif,
    "webp_frames.webp": webp_frames,
    "webp_chunks.webp": webp_chunks,
    "webp_large.webp": webp_large,
    "gif_parts.gif": gif_parts,
    "gif_extensions.gif": gif_extensions,
    "gif_frames.gif": gif_frames,
    "bmp_runs.bmp": bmp_runs,
    "bmp_steps.bmp": bmp_steps,
    "tiff_tags.tif": tiff_tags,
    "tiff_packed_tags.tif": tiff_packed_tags,
    "tiff_numbers.tif": tiff_numbers,
    "tiff_unknown_numbers.tif": tiff_unknown_numbers,
    "tiff_shared_strips.tif": tiff_shared_strips,
    "tiff_tile.tif": tiff_tile,
    "tiff_chain.tif": tiff_chain,
    "tiff_scans.tif": tiff_scans,
    "tiff_floats.tif": tiff_floats,
    "j2k_blocks.j2k": j2k_blocks,
    "j2k_precincts.j2k": j2k_precincts,
    "j2k_layers.j2k": j2k_layers,
    "j2k_tiles.j2k": j2k_tiles,
    "j2k_components.j2k": j2k_components,
    "jp2_components.jp2": jp2_components,
    "j2k_large.j2k": j2k_large,
    "jp2_boxes.jp2": jp2_boxes,
    "j2k_markers.j2k": j2k_markers,
    "avif_exif.avif": functools.partial(items_exif, _AVIF),
    "avif_exif_shared.avif": functools.partial(items_exif, _AVIF, 900),
    "avif_grid.avif": functools.partial(items_grid, _AVIF),
    "avif_large.avif": functools.partial(items_large, _AVIF),
    "avif_lying.avif": functools.partial(items_lying, _AVIF),
    "avif_boxes.avif": functools.partial(iso_boxes, _AVIF),
    "avif_sequence.avif": avif_sequence,
    "avif_film_exif.avif": avif_film_exif,
    "avif_decoy.avif": functools.partial(items_decoy, _AVIF),
}
if importlib.util.find_spec("pillow_heif"):
    PICTURES |= {
        "heic_exif.heic": functools.partial(items_exif, _HEIC),
        "heic_exif_shared.heic": functools.partial(items_exif, _HEIC, 900),
        "heic_decoy.heic": functools.partial(items_decoy, _HEIC),
        "heic_grid.heic": functools.partial(items_grid, _HEIC),
        "heic_overlay.heic": heic_overlay,
        "heic_large.heic": functools.partial(items_large, _HEIC),
        "heic_lying.heic": functools.partial(items_lying, _HEIC),
        "heic_boxes.heic": functools.partial(iso_boxes, _HEIC),
    }
