"""Stereo pictures and videos for the tests, made without the code that reads them; every frame carries its number."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np

BITS = 8
BLOCK = 8  # px of a bit: what a codec does at its edges does not reach its middle


def marked(number: int, height: int = 64, width: int = 96, shift: int = 0) -> np.ndarray:
    """(height, width, 3) uint8 RGB whose upper rows hold ``number`` as black and white blocks; ``shift`` px to the left."""
    rng = np.random.default_rng(7)
    soft = cv2.GaussianBlur(rng.integers(0, 256, (height, width + 32, 3), dtype=np.uint8), (0, 0), 2)
    image = soft[:, shift : shift + width].copy()
    for bit in range(BITS):
        image[:BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 255 * (number >> bit & 1)
    return image


def number_of(image: np.ndarray) -> int:
    """What ``marked`` has written, also after a lossy codec."""
    middle = BLOCK // 2
    return sum((int(image[middle, bit * BLOCK + middle].mean()) > 127) << bit for bit in range(BITS))


def pair(number: int, **size: int) -> tuple[np.ndarray, np.ndarray]:
    return marked(number, **size), marked(number, shift=4, **size)


def side_by_side(number: int, **size: int) -> np.ndarray:
    return np.hstack(pair(number, **size))


def write_video(path: Path, frames: list[np.ndarray], fps: float = 30.0, codec: str = "mp4v") -> str:
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    return str(path)


def read_video(path: Path) -> list[np.ndarray]:
    """All frames as RGB."""
    video, frames = cv2.VideoCapture(str(path)), []
    while (item := video.read())[0]:
        frames.append(item[1][..., ::-1])
    return frames


def jpeg(image: np.ndarray, *segments: bytes) -> bytes:
    """A JPEG with additional segments (marker, length and payload) behind its start."""
    done, data = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 98])
    assert done
    return data[:2].tobytes() + b"".join(segments) + data[2:].tobytes()


def segment(marker: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def mpo(images: list[np.ndarray], kinds: list[int] | None = None, order: str = "<", thumbnail: bool = False) -> bytes:
    """Several JPEGs in one file with an MP index as CIPA DC-007 describes it (section 5), in the first one's APP2.

    kinds: type codes; disparity views by default, the first of them the base. thumbnail: the first holds a JPEG in its EXIF.
    """
    kinds = kinds or [0x020002] * len(images)
    extra = [segment(0xE1, b"Exif\0\0" + jpeg(marked(99, 32, 64)))] if thumbnail else []
    size_of_index = 8 + 2 + 3 * 12 + 4 + 16 * len(images)
    blank = segment(0xE2, b"MPF\0" + bytes(size_of_index))
    files = [jpeg(images[0], *extra, blank), *(jpeg(image) for image in images[1:])]
    base = files[0].index(b"MPF\0") + 4
    starts = np.cumsum([0, *map(len, files)])
    mark = b"II*\0" if order == "<" else b"MM\0*"
    index = mark + struct.pack(f"{order}I", 8) + struct.pack(f"{order}H", 3)
    index += struct.pack(f"{order}HHI4s", 0xB000, 7, 4, b"0100")
    index += struct.pack(f"{order}HHII", 0xB001, 4, 1, len(images))
    index += struct.pack(f"{order}HHII", 0xB002, 7, 16 * len(images), 8 + 2 + 3 * 12 + 4) + bytes(4)
    for i, (kind, file) in enumerate(zip(kinds, files, strict=True)):
        offset = int(starts[i]) - base if i else 0
        index += struct.pack(f"{order}IIIHH", kind | (0x20000000 if i == 0 else 0), len(file), offset, 0, 0)
    files[0] = files[0].replace(b"MPF\0" + bytes(size_of_index), b"MPF\0" + index)
    return b"".join(files)


def jps(image: np.ndarray, flags: int | None, layout: int = 2, kind: int = 1) -> bytes:
    """A JPEG with the descriptor of a JPS (separation, flags, layout, type); None: without."""
    if flags is None:
        return jpeg(image)
    descriptor = struct.pack(">H", 4) + bytes([0, flags, layout, kind]) + struct.pack(">H", 0)
    return jpeg(image, segment(0xE3, b"_JPSJPS_" + descriptor))
