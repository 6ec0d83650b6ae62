"""Files in, files out: pictures, disparity and depth maps, and from stereo.raw_files PFM, PLY and TIFF.

Every writer has its reader; every write is atomic.
Whatever a user can cause (missing, truncated or foreign file, no place to write) is an InputError that names the path.
OpenCV decodes from memory, so a path may hold any character; it never reads a PFM, whose values it divides by the scale.
"""

from __future__ import annotations

import logging
import os
import re
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np

from stereo.config import near_matches
from stereo.files import atomic_write, reading
from stereo.picture_headers import PNG_SIGNATURE, check_picture, png_texts
from stereo.quiet import opencv_quiet, stderr_diverted
from stereo.raw_files import (
    parse_scale,
    read_npy,
    read_pfm,
    read_ply,
    read_ply_confidence,
    read_tiff_bands,
    write_pfm,
    write_ply,
    write_tiff_bands,
)
from stereo.types import InputError

__all__ = [
    "PNG16_SCALE",
    "WRITABLE",
    "atomic_write",
    "decode_image",
    "read_depth_png16",
    "read_disparity",
    "read_image",
    "read_npy",
    "read_pfm",
    "read_ply",
    "read_ply_confidence",
    "read_stored",
    "read_tiff_bands",
    "write_depth_png16",
    "write_disparity_png16",
    "write_image",
    "write_pfm",
    "write_ply",
    "write_tiff_bands",
]
log = logging.getLogger(__name__)

PNG16_SCALE = 256.0  # KITTI: stored value = 256 * disparity
NO_DEPTH, TOO_NEAR, TOO_FAR = 0, 1, 65535  # stored in a PNG of depths in mm
WRITABLE = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
# What libjpeg says and decodes nevertheless.
_DAMAGE = re.compile(rb"^(Corrupt JPEG data|Inconsistent progression|Invalid SOS).*", re.MULTILINE)


def _decode(data: bytes, path: Path, flags: int) -> np.ndarray:
    """cv2.imdecode whose every failure is one InputError; the result has the size that ``data``, the file, declares."""
    image, said = None, b""
    size = check_picture(data, path)
    if size is not None:
        with stderr_diverted() as stderr, opencv_quiet(), suppress(cv2.error):
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
            stderr.seek(0)
            said = stderr.read()
    if size is None or image is None or sorted(image.shape[:2]) != sorted(size):  # a rotation exchanges the sides
        found = f"{len(data)} bytes, starts with {data[:8]!r}: truncated, damaged or no image"
        raise InputError(f"cannot decode '{path}' ({found}); PNG, JPEG, WebP, PPM, TIFF and BMP are read")
    if complaint := _DAMAGE.search(said):
        log.warning("'%s' may be damaged, its decoder says: %s", path, complaint[0].decode("latin-1"))
    return image


def _read_whole(path: Path, what: str) -> bytes:
    with reading(path, what) as (file, _):
        return file.read()


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an image file as (H, W, 3) uint8 RGB.

    Greyscale is repeated to three channels; alpha is dropped, not blended; 16-bit values are scaled from their full range
    (65535 becomes 255); an EXIF rotation is applied, so the picture stands as a viewer shows it.
    A JPEG with damage that its decoder gets over comes back as a viewer shows it too, and the log has a warning.
    Raises InputError when the file is missing, empty, truncated, no image, beyond MAX_PIXELS (stereo.picture_headers), or
    holds floating point values.
    """
    path = Path(path)
    return decode_image(_read_whole(path, "image"), path)


def decode_image(data: bytes, path: Path) -> np.ndarray:
    """``read_image`` of bytes that were read already, from ``path``; raises InputError as it does."""
    image = _decode(data, path, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if image.dtype == np.uint16:
        image = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if image.dtype != np.uint8:
        raise InputError(f"image '{path}' holds {image.dtype} values, expected 8 or 16 bit integers; convert it to PNG")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_stored(path: str | os.PathLike[str]) -> np.ndarray:
    """Read the numbers of an image file as they are stored, for pictures that hold measurements: no scaling, no rotation.

    -> (H, W) of one channel or (H, W, 3) RGB (alpha dropped); uint8 (1-bit PNG: 0 and 255), uint16, or float32 of a TIFF.
    Raises InputError when the file is missing, empty, truncated, no image or beyond MAX_PIXELS (stereo.picture_headers).
    """
    path = Path(path)
    image = _decode(_read_whole(path, "image"), path, cv2.IMREAD_UNCHANGED)
    if image.ndim == 3 and image.shape[2] == 2:  # a TIFF's grey and alpha
        image = image[..., 0]
    return np.ascontiguousarray(image if image.ndim == 2 else image[..., 2::-1])


def _encode(image: np.ndarray, path: Path) -> bytes:
    """The bytes of ``image`` (BGR or one channel) in the format that the extension of ``path`` names."""
    done = False
    with opencv_quiet(), suppress(cv2.error):
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


def _read_png16(path: Path) -> np.ndarray:
    """(H, W) px from a 16-bit PNG, NaN where the stored value is 0."""
    data = _read_whole(path, "disparity file")
    if not data.startswith(PNG_SIGNATURE):
        raise InputError(f"disparity file '{path}' starts with {data[:8]!r} and is no PNG; .pfm, 16-bit .png and .npy are read")
    texts = png_texts(data, path)
    bits, colour_type = data[24], data[25]
    if bits != 16 or colour_type != 0:
        found = f"{bits}-bit {'colour' if colour_type else 'grey'} PNG, whose scale is unknown"
        raise InputError(f"disparity file '{path}' is a {found}; expected 16-bit grey (px * 256, 0 = unknown), .pfm or .npy")
    scale = parse_scale(texts.get("Scale", str(PNG16_SCALE)))
    if scale <= 0:
        raise InputError(f"disparity file '{path}': got Scale {texts['Scale']!r} in its tEXt chunk, expected a number above 0")
    stored = _decode(data, path, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
    return np.where(stored > 0, stored / scale, np.nan)  # in float64, where no scale is 0 or inf


_DISPARITY_READERS = {"npy": read_npy, "pfm": read_pfm, "png": _read_png16}


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
    with np.errstate(over="ignore", invalid="ignore"):  # a float64 beyond float32 becomes inf: unknown
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
    _write_png16(path, stored.astype(np.uint16), {b"Scale": b"%d" % PNG16_SCALE, b"Unit": b"px"})


def _write_png16(path: Path, stored: np.ndarray, texts: dict[bytes, bytes]) -> None:
    """(H, W) uint16 as a PNG with tEXt chunks, which OpenCV would not write."""
    data = _encode(stored, path)
    chunks = b""
    for name, value in texts.items():
        entry = b"tEXt" + name + b"\x00" + value
        chunks += struct.pack(">I", len(entry) - 4) + entry + struct.pack(">I", zlib.crc32(entry))
    header_end = len(PNG_SIGNATURE) + 25  # IHDR is always 4 + 4 + 13 + 4 bytes
    with atomic_write(path) as temporary:
        temporary.write_bytes(data[:header_end] + chunks + data[header_end:])


def write_depth_png16(path: str | os.PathLike[str], depth: np.ndarray) -> None:
    """Write (H, W) metres as a 16-bit PNG of millimetres, with tEXt Unit=mm: 2 .. 65534, and three codes.

    NO_DEPTH = 0 where depth is NaN (occluded or unknown), TOO_NEAR = 1 where it is -inf, TOO_FAR = 65535 where it is +inf or
    beyond 65.534 m. What is nearer than 2 mm, though known, is stored as 2.
    Raises InputError for another shape, an extension other than .png, and when the file cannot be written.
    """
    path, depth = Path(path), np.asarray(depth, np.float64)
    if depth.ndim != 2 or depth.size == 0 or path.suffix.lower() != ".png":
        raise InputError(f"cannot write '{path}': got depth {depth.shape}, expected (H, W) and a .png")
    metres = np.nan_to_num(depth, nan=0.0, posinf=1e3, neginf=0.0)
    stored = np.rint(np.clip(metres, 0, 1e3) * 1000).clip(TOO_NEAR + 1, TOO_FAR)
    stored = np.where(np.isneginf(depth), TOO_NEAR, np.where(np.isnan(depth), NO_DEPTH, stored))
    _write_png16(path, stored.astype(np.uint16), {b"Unit": b"mm"})


def read_depth_png16(path: str | os.PathLike[str]) -> np.ndarray:
    """Read what write_depth_png16 writes: (H, W) float32 metres, NaN, -inf and inf for its three codes.

    Raises InputError for a file that is missing, no PNG, or not of 16 bits, one channel and the unit mm.
    """
    path = Path(path)
    data = _read_whole(path, "depth file")
    if not data.startswith(PNG_SIGNATURE) or png_texts(data, path).get("Unit") != "mm" or (data[24], data[25]) != (16, 0):
        raise InputError(f"depth file '{path}': expected a 16-bit grey PNG with tEXt Unit=mm, as written here")
    stored = _decode(data, path, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
    codes = ((stored == NO_DEPTH, np.nan), (stored == TOO_NEAR, -np.inf), (stored == TOO_FAR, np.inf))
    depth = (stored / 1000).astype(np.float32)
    for where, code in codes:
        depth[where] = code
    return depth
