"""Files in, files out: images, PFM, 16-bit disparity PNG, NPY, PLY. Every writer has its reader; every write is atomic.

Whatever a user can cause (missing, truncated or foreign file, no place to write) is an InputError that names the path.
OpenCV decodes from memory, so a path may hold any character; it never reads a PFM, whose values it divides by the scale.
"""

from __future__ import annotations

import math
import os
import re
import secrets
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tokenize import TokenError
from typing import BinaryIO

import cv2
import numpy as np

from stereo.config import near_matches
from stereo.types import InputError

PNG16_SCALE = 256.0  # KITTI: stored value = 256 * disparity
MAX_PIXELS = 2**28  # of a PNG, by its header: 16384 x 16384, 768 MiB as RGB
WRITABLE = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # neither an escaped 255 nor a restart inside the coded pixels
_PFM_HEADER = re.compile(rb"(P[Ff])\s+(?:#[^\n]*\n)*([1-9]\d{0,9})\s+([1-9]\d{0,9})\s+(\S+)[ \t]*\r?\n")
_PLY_VERTEX = np.dtype([("position", "<f4", 3), ("colour", "u1", 3)])
_PLY_HEADER = (
    b"ply\nformat binary_little_endian 1.0\nelement vertex %d\n"
    b"property float x\nproperty float y\nproperty float z\n"
    b"property uchar red\nproperty uchar green\nproperty uchar blue\nend_header\n"
)


@contextmanager
def _reading(path: Path, what: str) -> Iterator[tuple[BinaryIO, int]]:
    """Open ``path`` and yield (file, its size in bytes). Raises InputError when it is missing, unreadable or empty."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise InputError(f"{what} '{path}' is empty (0 bytes); copy or download it again")
            yield file, size
    except OSError as error:  # "No such file or directory", "Permission denied", "Is a directory"
        raise InputError(f"cannot read {what} '{path}': {error.strerror or error}; check the path") from error


def _check_length(path: Path, size: int, needed: int) -> None:
    """Raise InputError unless the file has the bytes its header asks for; called before anything is allocated."""
    if size != needed:
        raise InputError(f"'{path}' has {size} bytes, its header asks for {needed}: truncated or damaged, copy it again")


def _parse_scale(text: str) -> float:
    """The number in ``text``, 0 when there is no finite one."""
    try:
        return float(text) if math.isfinite(float(text)) else 0.0
    except ValueError:
        return 0.0


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``, with the same extension; it becomes ``path`` when the block ends.

    A reader sees the old file or the whole new one, never a part. When the block raises (KeyboardInterrupt included) the
    temporary file is removed and ``path`` stays as it was.
    Raises InputError when the folder is missing or cannot be written, ``path`` is not a regular file, or the disk is full.
    """
    path = Path(path)
    # Not tempfile: its files are private (mode 0600) and would stay so after the replacement.
    temporary = path.with_name(f".{secrets.token_hex(6)}{path.suffix}")
    try:
        if path.exists() and not path.is_file():  # os.replace would swap out a device such as /dev/null
            raise InputError(f"cannot write '{path}': it exists and is not a regular file; choose another name")
        temporary.open("xb").close()
    except OSError as error:  # "No such file or directory", "Not a directory", "Permission denied", "File name too long"
        raise InputError(f"cannot write '{path}': {error.strerror}; create its folder or choose another") from error
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # on disk before the old file goes: a power cut leaves one of the two
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise InputError(f"cannot write '{path}': {error.strerror or error}") from error
        raise


_cv_log = getattr(cv2.utils, "logging", cv2)  # OpenCV 5 moved setLogLevel there


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence OpenCV's log inside the block: we raise one line of our own."""
    before = _cv_log.setLogLevel(0)
    try:
        yield
    finally:
        if before > 0:  # 0 may be what another thread's block has set, and that thread will restore
            _cv_log.setLogLevel(before)


def _png_texts(data: bytes, path: Path) -> dict[str, str]:
    """Check the chunks of a PNG from signature to IEND and return its tEXt entries.

    libpng would print its complaints straight to stderr and allocate whatever the header declares.
    Raises InputError for a truncated or damaged file and for one of more than MAX_PIXELS.
    """
    view, texts = memoryview(data), {}
    position, name = len(_PNG_SIGNATURE), b""
    while name != b"IEND":
        start = position + 8
        length, name = struct.unpack(">I4s", view[position:start]) if start <= len(data) else (0, b"")
        position = start + length + 4
        if position > len(data):
            raise InputError(f"PNG '{path}' is truncated: it ends after {len(data)} bytes; copy or download it again")
        if zlib.crc32(view[start - 4 : start + length]) != int.from_bytes(view[position - 4 : position]):
            raise InputError(f"PNG '{path}' is damaged: bad checksum of chunk {name!r}; copy or download it again")
        if start == 16:
            width, height = struct.unpack(">II", view[start : start + 8]) if name == b"IHDR" and length == 13 else (0, 0)
            if not 0 < width * height <= MAX_PIXELS:
                raise InputError(f"PNG '{path}' declares {width}x{height} pixels, expected 1 to {MAX_PIXELS}")
        if name == b"tEXt":
            key, _, text = bytes(view[start : start + length]).partition(b"\0")
            texts[key.decode("latin-1")] = text.decode("latin-1")
    return texts


def _is_whole_jpeg(data: bytes) -> bool:
    """Whether the end marker is there. OpenCV 4 fills the missing part of a truncated JPEG with grey and returns it."""
    position = 2
    while marker := _JPEG_MARKER.search(data, position):
        if marker[0] == b"\xff\xd9":
            return True
        # Skip the segment: its payload (an EXIF thumbnail) may hold markers of its own.
        position = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])
    return False


def _decode(data: bytes, path: Path, flags: int) -> np.ndarray:
    """cv2.imdecode whose every failure is one InputError."""
    image = None
    if data.startswith(_PNG_SIGNATURE):
        _png_texts(data, path)
    if not data.startswith(b"\xff\xd8") or _is_whole_jpeg(data):
        with _quiet(), suppress(cv2.error):
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        found = f"{len(data)} bytes, starts with {data[:8]!r}: truncated, damaged or no image"
        raise InputError(f"cannot decode '{path}' ({found}); PNG, JPEG, WebP, PPM, TIFF and BMP are read")
    return image


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an image file as (H, W, 3) uint8 RGB.

    Greyscale is repeated to three channels; alpha is dropped, not blended; 16-bit values are scaled from their full range
    (65535 becomes 255); an EXIF rotation is applied, so the picture stands as a viewer shows it.
    Raises InputError when the file is missing, empty, truncated, no image, or holds floating point values.
    """
    path = Path(path)
    with _reading(path, "image") as (file, _):
        data = file.read()
    image = _decode(data, path, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if image.dtype == np.uint16:
        image = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if image.dtype != np.uint8:
        raise InputError(f"image '{path}' holds {image.dtype} values, expected 8 or 16 bit integers; convert it to PNG")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_stored(path: str | os.PathLike[str]) -> np.ndarray:
    """Read the numbers of an image file as they are stored, for pictures that hold measurements: no scaling, no rotation.

    -> (H, W) of one channel or (H, W, 3) RGB (alpha dropped); uint8 (1-bit PNG: 0 and 255), uint16, or float32 of a TIFF.
    Raises InputError when the file is missing, empty, truncated or no image.
    """
    path = Path(path)
    with _reading(path, "image") as (file, _):
        data = file.read()
    image = _decode(data, path, cv2.IMREAD_UNCHANGED)
    return image if image.ndim == 2 else cv2.cvtColor(image[..., :3], cv2.COLOR_BGR2RGB)


def _encode(image: np.ndarray, path: Path) -> bytes:
    """The bytes of ``image`` (BGR or one channel) in the format that the extension of ``path`` names."""
    done = False
    with _quiet(), suppress(cv2.error):
        done, data = cv2.imencode(path.suffix.lower(), image)
    if not done:
        raise InputError(f"cannot write '{path}': an image of shape {image.shape} does not fit that format; use .png")
    return data.tobytes()


def write_image(path: str | os.PathLike[str], rgb: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB, or (H, W) uint8 as one grey channel, in the format that the extension names (WRITABLE).

    PNG, PPM, BMP and TIFF come back from read_image byte for byte.
    Raises InputError for another extension, shape or dtype, and when the file cannot be written.
    """
    path, rgb = Path(path), np.asarray(rgb)
    if path.suffix.lower() not in WRITABLE:
        raise InputError(f"cannot write '{path}': unknown extension '{path.suffix}', {near_matches(path.suffix, WRITABLE)}")
    if rgb.dtype != np.uint8 or rgb.size == 0 or not (rgb.ndim == 2 or (rgb.ndim == 3 and rgb.shape[2] == 3)):
        raise InputError(f"cannot write '{path}': got {rgb.dtype} {rgb.shape}, expected uint8 (H, W, 3) or (H, W)")
    data = _encode(rgb if rgb.ndim == 2 else cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2BGR), path)
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def read_pfm(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a PFM as float32: (H, W) for 'Pf', (H, W, 3) for 'PF'; row 0 is the top; values (inf and NaN too) as stored.

    The sign of the header's scale is the byte order. Its magnitude means nothing: Middlebury writes -0.003922 beside values
    that are px already.
    Raises InputError when the file is missing, empty, no PFM, or not exactly as long as its header says.
    """
    path = Path(path)
    with _reading(path, "PFM file") as (file, size):
        start = file.read(512)
        header = _PFM_HEADER.match(start)
        if header is None:
            raise InputError(f"'{path}' starts with {start[:16]!r}, expected a PFM header: lines 'Pf', 'width height', 'scale'")
        width, height, channels = int(header[2]), int(header[3]), 3 if header[1] == b"PF" else 1
        scale = _parse_scale(header[4].decode("latin-1"))
        if not scale:
            raise InputError(f"PFM file '{path}': got scale {header[4]!r}, expected a number below (little endian) or above 0")
        _check_length(path, size, header.end() + 4 * width * height * channels)
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


def _read_png16(path: Path) -> np.ndarray:
    """(H, W) px from a 16-bit PNG, NaN where the stored value is 0."""
    with _reading(path, "disparity file") as (file, _):
        data = file.read()
    if not data.startswith(_PNG_SIGNATURE):
        raise InputError(f"disparity file '{path}' starts with {data[:8]!r} and is no PNG; .pfm, 16-bit .png and .npy are read")
    texts = _png_texts(data, path)
    bits, colour_type = data[24], data[25]
    if bits != 16 or colour_type != 0:
        found = f"{bits}-bit {'colour' if colour_type else 'grey'} PNG, whose scale is unknown"
        raise InputError(f"disparity file '{path}' is a {found}; expected 16-bit grey (px * 256, 0 = unknown), .pfm or .npy")
    scale = _parse_scale(texts.get("Scale", str(PNG16_SCALE)))
    if scale <= 0:
        raise InputError(f"disparity file '{path}': got Scale {texts['Scale']!r} in its tEXt chunk, expected a number above 0")
    stored = _decode(data, path, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
    return np.where(stored > 0, stored / np.float32(scale), np.float32(np.nan))


def _read_npy(path: Path) -> np.ndarray:
    """The array of a .npy file, mapped rather than loaded, so that a header that asks for too much costs no memory."""
    with _reading(path, "disparity file"):
        array = None
        # All that numpy lets out of its parser when the header, a Python literal, is damaged.
        with suppress(ValueError, EOFError, OverflowError, SyntaxError, TypeError, TokenError):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):  # numpy.savez makes no array
        raise InputError(f"disparity file '{path}' is truncated or no NPY file; expected float values (H, W) from numpy.save")
    return array


_DISPARITY_READERS = {"npy": _read_npy, "pfm": read_pfm, "png": _read_png16}


def read_disparity(path: str | os.PathLike[str], kind: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Read a disparity map: ``disp`` (H, W) float32 px and ``valid`` (H, W) bool; ``disp`` is 0 where it is not valid.

    ``kind`` is "pfm", "png" or "npy"; None takes the extension. What counts as unknown: in PFM and NPY a value that is not
    finite; in a 16-bit PNG the stored 0 (px = value / 256, or the Scale of its tEXt chunk). So a 0 in a PFM is a legal
    disparity. Negative values are kept as they are: turning a sign convention around is up to the data set's loader.
    Raises InputError for an unreadable file, another kind, an 8-bit PNG (unknown scale) and a map without a valid value.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".") if kind is None else kind
    if kind not in _DISPARITY_READERS:
        raise InputError(f"disparity file '{path}': unknown kind '{kind}', {near_matches(kind, _DISPARITY_READERS)}")
    values = _DISPARITY_READERS[kind](path)
    if values.ndim != 2 or values.dtype.kind != "f":
        raise InputError(f"disparity file '{path}' holds {values.dtype} values of shape {values.shape}, expected float (H, W)")
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf: unknown
        values = values.astype(np.float32)
    valid = np.isfinite(values)
    if not valid.any():
        raise InputError(f"disparity file '{path}' (shape {values.shape}) holds no known value; expected at least one pixel")
    return np.where(valid, values, np.float32(0)), valid


def write_disparity_png16(path: str | os.PathLike[str], disp: np.ndarray, valid: np.ndarray | None = None) -> None:
    """Write (H, W) px as a 16-bit PNG, value = round(256 * disp), 0 = unknown (KITTI), with tEXt Scale=256 and Unit=px.

    Unknown is what ``valid`` (H, W) bool leaves out, and what is not finite. Known values are clipped to what can be stored:
    at least 1/256 px (so an exact 0, or a negative value, stays known), at most 65535/256 = 255.996 px; a PFM has no ceiling.
    Raises InputError when the shapes differ, the extension is not .png, or the file cannot be written.
    """
    path, disp = Path(path), np.asarray(disp)
    known = np.ones(disp.shape, bool) if valid is None else np.asarray(valid, bool)
    if disp.ndim != 2 or disp.size == 0 or known.shape != disp.shape or path.suffix.lower() != ".png":
        raise InputError(f"cannot write '{path}': got disp {disp.shape}, valid {known.shape}, expected equal (H, W) and a .png")
    known = known & np.isfinite(disp)
    stored = np.rint(np.clip(np.where(known, disp, 0), 1 / PNG16_SCALE, 65535 / PNG16_SCALE) * PNG16_SCALE) * known
    data = _encode(stored.astype(np.uint16), path)
    texts = b""
    for entry in (b"tEXtScale\x00%d" % PNG16_SCALE, b"tEXtUnit\x00px"):
        texts += struct.pack(">I", len(entry) - 4) + entry + struct.pack(">I", zlib.crc32(entry))
    header_end = len(_PNG_SIGNATURE) + 25  # IHDR is always 4 + 4 + 13 + 4 bytes
    with atomic_write(path) as temporary:
        temporary.write_bytes(data[:header_end] + texts + data[header_end:])


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
    with _reading(path, "PLY file") as (file, size):
        start = file.read(512)
        count = re.search(rb"\nelement vertex (\d{1,15})\n", start)
        header = _PLY_HEADER % int(count[1]) if count else b""
        if not count or not start.startswith(header):
            raise InputError(f"PLY file '{path}': expected binary little endian, vertices of float x y z, uchar red green blue")
        _check_length(path, size, len(header) + _PLY_VERTEX.itemsize * int(count[1]))
        file.seek(len(header))
        vertices = np.fromfile(file, _PLY_VERTEX)
    return vertices["position"].astype(np.float32), vertices["colour"].copy()
