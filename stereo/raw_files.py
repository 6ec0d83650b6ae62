"""Files of raw numbers behind a short header: PFM, NPY, and the PLY and TIFF that we write.

No size is believed before it is checked. Whatever a user can cause (missing, truncated or foreign file, no place to write) is
an InputError that names the path.
"""

from __future__ import annotations

import math
import os
import re
import struct
from pathlib import Path

import numpy as np

from stereo.files import atomic_write, check_length, reading
from stereo.types import InputError

_PFM_HEADER = re.compile(rb"(P[Ff])\s+(?:#[^\n]*\n)*([1-9]\d{0,9})\s+([1-9]\d{0,9})\s+(\S+)[ \t]*\r?\n")
# Versions 1.0 to 3.0 differ in the bytes of the header's length. Plain numbers only; numpy writes its keys in this order,
# and from Python 2 an L behind a size.
_NPY_HEADER = re.compile(
    rb"\x93NUMPY(?:\x01\0..|[\x02\x03]\0....)"
    rb"\{'descr': *'([<>|=]?[biufc]\d{1,2})', *'fortran_order': *(True|False), *"
    rb"'shape': *\(((?:\d{1,18}L?, *)*(?:\d{1,18}L?)?)\),? *\} *\n",
    re.DOTALL,
)
_PLY_VERTEX = np.dtype([("position", "<f4", 3), ("colour", "u1", 3)])
_PLY_VERTEX_CONFIDENCE = np.dtype([*_PLY_VERTEX.descr, ("confidence", "<f4")])
TIFF_TEXT = b"band 1: depth, m; band 2: its standard deviation, m; nan occluded or unknown, -inf too near, +inf too far"


def _ply_header(points: int, confident: bool) -> bytes:
    return (
        b"ply\nformat binary_little_endian 1.0\ncomment metres; x right, y down, z forward from the camera\n"
        b"element vertex %d\n"
        b"property float x\nproperty float y\nproperty float z\n"
        b"property uchar red\nproperty uchar green\nproperty uchar blue\n%send_header\n"
    ) % (points, b"property float confidence\n" * confident)


def parse_scale(text: str) -> float:
    """The number in ``text``, 0 when there is no finite one."""
    try:
        return float(text) if math.isfinite(float(text)) else 0.0
    except ValueError:
        return 0.0


def read_pfm(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a PFM as float32: (H, W) for 'Pf', (H, W, 3) for 'PF'; row 0 is the top; values (inf and NaN too) as stored.

    The sign of the header's scale is the byte order. Its magnitude means nothing: Middlebury writes -0.003922 beside values
    that are px already.
    Raises InputError when the file is missing, empty, no PFM, or not exactly as long as its header says.
    """
    path = Path(path)
    with reading(path, "PFM file") as (file, size):
        start = file.read(512)
        header = _PFM_HEADER.match(start)
        if header is None:
            raise InputError(f"'{path}' starts with {start[:16]!r}, expected a PFM header: lines 'Pf', 'width height', 'scale'")
        width, height, channels = int(header[2]), int(header[3]), 3 if header[1] == b"PF" else 1
        scale = parse_scale(header[4].decode("latin-1"))
        if not scale:
            raise InputError(f"PFM file '{path}': got scale {header[4]!r}, expected a number below (little endian) or above 0")
        check_length(path, size, header.end() + 4 * width * height * channels)
        file.seek(header.end())
        values = np.fromfile(file, "<f4" if scale < 0 else ">f4")
    shape = (height, width) if channels == 1 else (height, width, 3)
    return np.ascontiguousarray(values.reshape(shape)[::-1], np.float32)


def write_pfm(path: str | os.PathLike[str], array: np.ndarray) -> None:
    """Write (H, W) or (H, W, 3) numbers as a little-endian float32 PFM; values, inf and NaN included, are kept as they are.

    Raises InputError for another shape and when the file cannot be written.
    """
    path, array = Path(path), np.asarray(array, "<f4")
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise InputError(f"cannot write '{path}': got shape {array.shape}, expected (H, W) or (H, W, 3)")
    height, width = array.shape[:2]
    header = b"%s\n%d %d\n-1.0\n" % (b"Pf" if array.ndim == 2 else b"PF", width, height)
    with atomic_write(path) as temporary:
        temporary.write_bytes(header + array[::-1].tobytes())


def read_npy(path: str | os.PathLike[str]) -> np.ndarray:
    """Read the array of numbers, of any shape and type, that numpy.save wrote; as stored, in row-major order.

    The header is matched, not evaluated: numpy's own parser lets out whatever Python's does.
    Raises InputError when the file is missing, empty, no such array, or not exactly as long as its header says.
    """
    path = Path(path)
    with reading(path, "NPY file") as (file, size):
        header = _NPY_HEADER.match(file.read(1024))
        dtype = _number_type(header[1].decode()) if header else None
        shape = [int(n) for n in re.findall(rb"\d+", header[3])] if header else []
        if header is None or dtype is None or size != header.end() + dtype.itemsize * math.prod(shape):
            raise InputError(f"'{path}' is truncated or no NPY file; expected an array of numbers from numpy.save")
        file.seek(header.end())
        values = np.fromfile(file, dtype)
    return np.ascontiguousarray(values.reshape(shape, order="F" if header[2] == b"True" else "C"))


def _number_type(descr: str) -> np.dtype | None:
    try:
        return np.dtype(descr)
    except TypeError:  # there is no f3
        return None


def write_ply(
    path: str | os.PathLike[str], points: np.ndarray, colours: np.ndarray, confidence: np.ndarray | None = None
) -> None:
    """Write a cloud as a binary little-endian PLY: points (N, 3) float32 metres, colours (N, 3) uint8 RGB; N may be 0.

    confidence: (N,) float32, one more property of that name behind the colours.
    Raises InputError for other shapes or colours that are not uint8, and when the file cannot be written.
    """
    path, points, colours = Path(path), np.asarray(points, np.float32), np.asarray(colours)
    if points.ndim != 2 or points.shape[1] != 3 or colours.shape != points.shape or colours.dtype != np.uint8:
        found = f"points {points.shape} and {colours.dtype} colours {colours.shape}"
        raise InputError(f"cannot write '{path}': got {found}, expected points (N, 3) and uint8 colours (N, 3)")
    if confidence is not None and confidence.shape != points.shape[:1]:
        raise InputError(f"cannot write '{path}': got confidence {confidence.shape} for {len(points)} points")
    vertices = np.empty(len(points), _PLY_VERTEX if confidence is None else _PLY_VERTEX_CONFIDENCE)
    vertices["position"], vertices["colour"] = points, colours
    if confidence is not None:
        vertices["confidence"] = confidence
    header = _ply_header(len(points), confidence is not None)
    with atomic_write(path) as temporary:
        temporary.write_bytes(header + vertices.tobytes())


def _read_vertices(path: Path) -> np.ndarray:
    """The vertices of what write_ply writes, of either type."""
    with reading(path, "PLY file") as (file, size):
        start = file.read(512)
        count = re.search(rb"\nelement vertex (\d{1,15})\n", start)
        headers = [_ply_header(int(count[1]), confident) for confident in (False, True)] if count else []
        header = next((header for header in headers if start.startswith(header)), b"")
        if not header:
            raise InputError(f"PLY file '{path}': expected binary little endian, vertices of float x y z, uchar red green blue")
        vertex = _PLY_VERTEX if header == headers[0] else _PLY_VERTEX_CONFIDENCE
        check_length(path, size, len(header) + vertex.itemsize * int(count[1]))  # type: ignore[index]
        file.seek(len(header))
        return np.fromfile(file, vertex)


def read_ply(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Read what write_ply writes: points (N, 3) float32 and colours (N, 3) uint8 RGB.

    Raises InputError when the file is missing, empty, of another PLY layout, or not exactly as long as its header says.
    """
    vertices = _read_vertices(Path(path))
    return vertices["position"].astype(np.float32), vertices["colour"].copy()


def read_ply_confidence(path: str | os.PathLike[str]) -> np.ndarray | None:
    """The confidence (N,) float32 of the points that read_ply reads; None where the file has none. Raises as read_ply."""
    vertices = _read_vertices(Path(path))
    return vertices["confidence"].astype(np.float32) if "confidence" in (vertices.dtype.names or ()) else None


def _tiff_header(width: int, height: int) -> bytes:
    """What precedes the values in a TIFF of two float32 bands: 8 bytes, a directory of 13 tags, the description."""
    text = TIFF_TEXT + b"\0" * (2 - len(TIFF_TEXT) % 2)  # ends in 0, values start at an even place
    start = 8 + 2 + 12 * 13 + 4
    short, long = (3, "<HH"), (4, "<I")
    tags = [
        (256, long, 1, (width,)),
        (257, long, 1, (height,)),
        (258, short, 2, (32, 32)),  # bits of each band
        (259, short, 1, (1, 0)),  # not compressed
        (262, short, 1, (1, 0)),  # large is bright
        (270, (2, "<I"), len(text), (start,)),  # description
        (273, long, 1, (start + len(text),)),  # one strip
        (277, short, 1, (2, 0)),  # bands
        (278, long, 1, (height,)),
        (279, long, 1, (8 * width * height,)),
        (284, short, 1, (1, 0)),  # pixel by pixel
        (338, short, 1, (0, 0)),  # the second band is no transparency
        (339, short, 2, (3, 3)),  # floating point
    ]
    entries = b"".join(
        struct.pack("<HHI", tag, kind, count) + struct.pack(form, *value) for tag, (kind, form), count, value in tags
    )
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + text


def write_tiff_bands(path: str | os.PathLike[str], bands: np.ndarray) -> None:
    """Write (H, W, 2) float32, depth and its standard deviation in metres, as one uncompressed TIFF of two bands.

    Values, inf and NaN included, are kept as they are. No OpenCV: it writes one, three or four channels.
    Raises InputError for another shape, beyond TIFF's 4 GiB, and when the file cannot be written.
    """
    path, bands = Path(path), np.asarray(bands, "<f4")
    if bands.ndim != 3 or bands.shape[2] != 2 or bands.size == 0 or bands.nbytes >= 2**32 - 4096:
        raise InputError(f"cannot write '{path}': got shape {bands.shape}, expected (H, W, 2) of less than 4 GiB")
    with atomic_write(path) as temporary:
        temporary.write_bytes(_tiff_header(bands.shape[1], bands.shape[0]) + bands.tobytes())


def read_tiff_bands(path: str | os.PathLike[str]) -> np.ndarray:
    """Read what write_tiff_bands writes: (H, W, 2) float32.

    Raises InputError when the file is missing, empty, another kind of TIFF, or not exactly as long as its header says.
    """
    path = Path(path)
    with reading(path, "TIFF file") as (file, size):
        start = file.read(512)
        width, height = (struct.unpack_from("<I", start, place)[0] if len(start) >= 34 else 0 for place in (18, 30))
        header = _tiff_header(width, height) if 0 < 8 * width * height < 2**32 else b""
        if not header or not start.startswith(header):
            raise InputError(f"TIFF file '{path}': expected two bands of float32, as written here")
        check_length(path, size, len(header) + 8 * width * height)
        file.seek(len(header))
        return np.fromfile(file, "<f4").reshape(height, width, 2).astype(np.float32)
