"""JPEGs that hold both views: MPO, several pictures in one file, and JPS, a side-by-side picture that says so."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from stereo.picture_headers import JPEG_END, jpeg_segments
from stereo.types import InputError

JPEG_START = b"\xff\xd8\xff"
_APP2, _APP3 = 0xE2, 0xE3
_MP_ENTRIES = 0xB002  # tag of the index: 16 bytes for each picture
_DISPARITY, _THUMBNAILS = 0x020002, 0x01
_JPS_LAYOUTS = {2: "sbs", 3: "ou"}


@dataclass(frozen=True)
class MpoEntry:
    """One picture of an MPO: what it is (the MP type code of the standard, None where no index says so) and where."""

    kind: int | None
    start: int
    end: int


def is_stereo_mpo(data: bytes) -> bool:
    """Whether the file has an index that declares two views of one scene: so do MPOs that are called .jpg."""
    return sum(entry.kind == _DISPARITY for entry in _indexed(data)) == 2


def split_mpo(data: bytes, path: Path) -> tuple[bytes, bytes]:
    """The JPEG files of the first and of the second view, the left and the right one in what 3-D cameras write.

    The MP index (CIPA DC-007, Multi-Picture Format, an APP2 segment) tells where they are; without one, or with one that points
    elsewhere, the second JPEG is looked for behind the end of the first. Thumbnails are left out.
    Raises InputError unless exactly two remain.
    """
    entries = _indexed(data) or _found(data)
    views = [entry for entry in entries if entry.kind == _DISPARITY]
    if len(views) != 2:
        views = [entry for entry in entries if entry.kind is None or entry.kind >> 16 != _THUMBNAILS]
    if len(views) != 2:
        raise InputError(f"'{path}' holds {len(views)} picture(s), expected an MPO of two: left and right; extract two of them")
    left, right = (data[entry.start : entry.end] for entry in views)
    return left, right


def _indexed(data: bytes) -> list[MpoEntry]:
    """The pictures of the MP index; empty where there is none, or one that points at something else than a JPEG."""
    for code, first, end in jpeg_segments(data):
        if code == _APP2 and data[first : first + 4] == b"MPF\0":
            try:
                entries = _read_index(data, first + 4, end)
            except struct.error:
                return []
            sound = all(data.startswith(JPEG_START, entry.start) and entry.end <= len(data) for entry in entries)
            return entries if sound else []
    return []


def _read_index(data: bytes, base: int, end: int) -> list[MpoEntry]:
    """Entries of the index whose TIFF header is at ``base``; offsets count from there, but the first picture's is 0."""
    order = "<" if data[base : base + 2] == b"II" else ">"
    (directory,) = struct.unpack_from(f"{order}I", data, base + 4)
    (fields,) = struct.unpack_from(f"{order}H", data, base + directory)
    for i in range(fields):
        tag, _, size, offset = struct.unpack_from(f"{order}HHII", data, base + directory + 2 + 12 * i)
        if tag == _MP_ENTRIES and base + offset + size <= end:
            rows = [struct.unpack_from(f"{order}III", data, base + offset + 16 * k) for k in range(size // 16)]
            starts = [base + where if where else 0 for _, _, where in rows]
            return [MpoEntry(row[0] & 0xFFFFFF, start, start + row[1]) for row, start in zip(rows, starts, strict=True)]
    return []


def _found(data: bytes) -> list[MpoEntry]:
    """The JPEGs that follow one another; a thumbnail inside of one is part of its segments and not found."""
    entries, start = [], 0 if data.startswith(JPEG_START) else -1
    while start >= 0:
        ends = [end for code, _, end in jpeg_segments(data, start) if code == JPEG_END]
        if not ends:
            break
        entries.append(MpoEntry(None, start, ends[0]))
        start = data.find(JPEG_START, ends[0])
    return entries


def jps_arrangement(data: bytes, path: Path) -> tuple[str, bool]:
    """(layout "sbs" or "ou", whether the right view comes first) of a JPS.

    Its APP3 segment "_JPSJPS_" holds, after a length of two bytes, separation, flags, layout and type; bit 2 of the flags: left
    first. Without the segment it is side by side with the right view first, for crossed eyes, as JPS files are.
    Raises InputError for a JPS that is neither side by side nor over-under.
    """
    for code, first, end in jpeg_segments(data):
        if code == _APP3 and data[first : first + 8] == b"_JPSJPS_" and end - first >= 14:
            flags, layout, kind = data[first + 11 : first + 14]
            if kind != 1 or layout not in _JPS_LAYOUTS:
                found = f"'{path}' is a JPS of type {kind} and layout {layout}"
                raise InputError(f"{found}, expected type 1 (stereo), layout 2 (side by side) or 3 (over-under); convert it")
            return _JPS_LAYOUTS[layout], not flags & 4
    return "sbs", True
