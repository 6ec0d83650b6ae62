"""What a picture declares, read from its bytes before any decoder sees them: decoders allocate first and complain later.

Also what they let pass: a JPEG without an end, a PNG with a wrong checksum.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from stereo.types import InputError

MAX_PIXELS = 2**28  # 16384 x 16384, 768 MiB as RGB
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# A block of 8 x 8 pixels takes at least one bit of each component, and two components may share the blocks between them.
_JPEG_PIXELS_PER_BYTE = 8 * 64 * 2
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # neither an escaped 255 nor a restart inside the coded pixels
_JPEG_HUFFMAN = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive; others are arithmetic coding and what nobody writes
JPEG_END = 0xD9
_PNM_HEADER = re.compile(rb"P[1-6](?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)+(\d{1,9})\s")
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_TIFF_INTEGERS = {3: "H", 4: "I", 16: "Q"}

Size = tuple[int, int]  # width, height


def check_picture(data: bytes, path: Path) -> Size | None:
    """The size that the picture declares; None when it is none of ours, or truncated within its header.

    PNG, JPEG, WebP, PPM (with PGM and PBM), TIFF and BMP are ours.
    Raises InputError for one of no or more than MAX_PIXELS pixels, and for a truncated or damaged PNG or JPEG.
    """
    try:
        size = _declared_size(data, path)
    except (struct.error, OverflowError):  # the header ends too soon, or points beyond what there is
        return None
    if size is not None and not 0 < size[0] * size[1] <= MAX_PIXELS:
        raise InputError(f"'{path}' declares {size[0]}x{size[1]} pixels, expected 1 to {MAX_PIXELS}")
    return size


def _declared_size(data: bytes, path: Path) -> Size | None:
    if data.startswith(PNG_SIGNATURE):
        png_texts(data, path)
        return struct.unpack_from(">II", data, 16)
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg_size(data, path)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp_size(data)
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return _tiff_size(data)
    if data.startswith(b"BM"):
        return _bmp_size(data)
    header = _PNM_HEADER.match(data[:4096])
    return (int(header[1]), int(header[2])) if header else None


def png_texts(data: bytes, path: Path) -> dict[str, str]:
    """Check the chunks of a PNG from signature to IEND and return its tEXt entries.

    Raises InputError for a truncated or damaged file.
    """
    view, texts = memoryview(data), {}
    position, name = len(PNG_SIGNATURE), b""
    while name != b"IEND":
        start = position + 8
        length, name = struct.unpack(">I4s", view[position:start]) if start <= len(data) else (0, b"")
        position = start + length + 4
        if position > len(data):
            raise InputError(f"PNG '{path}' is truncated: it ends after {len(data)} bytes; copy or download it again")
        if zlib.crc32(view[start - 4 : start + length]) != int.from_bytes(view[position - 4 : position]):
            raise InputError(f"PNG '{path}' is damaged: bad checksum of chunk {name!r}; copy or download it again")
        if start == 16 and (name, length) != (b"IHDR", 13):
            raise InputError(f"PNG '{path}' is damaged: it starts with the chunk {name!r}; copy or download it again")
        if name == b"tEXt":
            key, _, text = bytes(view[start : start + length]).partition(b"\0")
            texts[key.decode("latin-1")] = text.decode("latin-1")
    return texts


def jpeg_segments(data: bytes, start: int = 0) -> Iterator[tuple[int, int, int]]:
    """(code, first byte, end) of each segment's payload in the JPEG that begins at ``start``; the last has the code JPEG_END.

    Where that is missing the file is truncated.
    """
    position = start + 2
    while marker := _JPEG_MARKER.search(data, position):
        code, first = marker[0][1], marker.end() + 2
        if code == JPEG_END:
            yield code, marker.end(), marker.end()
            return
        # Skip the segment: its payload (an EXIF thumbnail) may hold markers of its own.
        position = marker.end() + int.from_bytes(data[marker.end() : first])
        yield code, first, position


def _jpeg_size(data: bytes, path: Path) -> Size | None:
    """Also asks for the end marker: OpenCV 4 fills the missing part of a truncated JPEG with grey and returns it."""
    size = None
    for code, first, _ in jpeg_segments(data):
        if code == JPEG_END:
            return size
        if 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC) and size is None:  # a frame, not a table
            height, width = struct.unpack_from(">HH", data, first + 1)
            if code in _JPEG_HUFFMAN and width * height > len(data) * _JPEG_PIXELS_PER_BYTE:
                raise InputError(f"JPEG '{path}' declares {width}x{height} pixels in {len(data)} bytes: truncated or damaged")
            size = width, height
    raise InputError(f"JPEG '{path}' is truncated: it has no end after {len(data)} bytes; copy or download it again")


def _webp_size(data: bytes) -> Size | None:
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF  # the upper bits are a scale for display
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        width, above, height, higher = struct.unpack_from("<HBHB", data, 24)  # 24 bits each
        return (width | above << 16) + 1, (height | higher << 16) + 1
    return None


def _tiff_size(data: bytes) -> Size | None:
    """Of the first image. The newer form, for files beyond 4 GiB, has wider fields."""
    order, wide = "<" if data.startswith(b"I") else ">", b"+" in data[2:4]
    (directory,) = struct.unpack_from(f"{order}Q" if wide else f"{order}I", data, 8 if wide else 4)
    head, entry = (f"{order}Q", f"{order}HHQ") if wide else (f"{order}H", f"{order}HHI")
    (count,) = struct.unpack_from(head, data, directory)
    found = {}
    for i in range(min(count, 4096)):
        place = directory + struct.calcsize(head) + i * (20 if wide else 12)
        tag, kind, values = struct.unpack_from(entry, data, place)
        if tag in (_TIFF_WIDTH, _TIFF_HEIGHT) and kind in _TIFF_INTEGERS and values == 1:
            (found[tag],) = struct.unpack_from(order + _TIFF_INTEGERS[kind], data, place + struct.calcsize(entry))
    return (found[_TIFF_WIDTH], found[_TIFF_HEIGHT]) if len(found) == 2 else None


def _bmp_size(data: bytes) -> Size:
    (header,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", data, 18)
    return width, abs(height)  # below 0: the top row comes first
