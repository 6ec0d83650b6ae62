"""Files of raw numbers behind a short header: PFM, NPY, and the PLY that we write. No size is believed before it is checked.

Whatever a user can cause (missing, truncated or foreign file, no place to write) is an InputError that names the path.
"""

from __future__ import annotations

import math
import os
import re
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
_PLY_HEADER = (
    b"ply\nformat binary_little_endian 1.0\nelement vertex %d\n"
    b"property float x\nproperty float y\nproperty float z\n"
    b"property uchar red\nproperty uchar green\nproperty uchar blue\nend_header\n"
)


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


def write_ply(path: str | os.PathLike[str], points: np.ndarray, colours: np.ndarray) -> None:
    """Write a point cloud as a binary little-endian PLY: points (N, 3) float32, colours (N, 3) uint8 RGB; N may be 0.

    Raises InputError for other shapes or colours that are not uint8, and when the file cannot be written.
    """
    path, points, colours = Path(path), np.asarray(points, np.float32), np.asarray(colours)
    if points.ndim != 2 or points.shape[1] != 3 or colours.shape != points.shape or colours.dtype != np.uint8:
        found = f"points {points.shape} and {colours.dtype} colours {colours.shape}"
        raise InputError(f"cannot write '{path}': got {found}, expected points (N, 3) and uint8 colours (N, 3)")
    vertices = np.empty(len(points), _PLY_VERTEX)
    vertices["position"], vertices["colour"] = points, colours
    with atomic_write(path) as temporary:
        temporary.write_bytes(_PLY_HEADER % len(points) + vertices.tobytes())


def read_ply(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Read what write_ply writes: points (N, 3) float32 and colours (N, 3) uint8 RGB.

    Raises InputError when the file is missing, empty, of another PLY layout, or not exactly as long as its header says.
    """
    path = Path(path)
    with reading(path, "PLY file") as (file, size):
        start = file.read(512)
        count = re.search(rb"\nelement vertex (\d{1,15})\n", start)
        header = _PLY_HEADER % int(count[1]) if count else b""
        if not count or not start.startswith(header):
            raise InputError(f"PLY file '{path}': expected binary little endian, vertices of float x y z, uchar red green blue")
        check_length(path, size, len(header) + _PLY_VERTEX.itemsize * int(count[1]))
        file.seek(len(header))
        vertices = np.fromfile(file, _PLY_VERTEX)
    return vertices["position"].astype(np.float32), vertices["colour"].copy()
