"""Measurements in the colours of a PNG, which a page's script reads back from a canvas: numbers, not a picture of them.

Red and green hold 16 bits, code = 256 * red + green: 0 = unknown, else value = (code - 1) * quantum. Blue holds a share in
0 .. 1 as share * 255. A PNG without alpha and without a colour profile comes out of a canvas byte for byte.
"""

from __future__ import annotations

import cv2
import numpy as np

CODES = 65534  # steps of a quantum between the least code that is known and the greatest


def quantum_for(*maps: np.ndarray | None) -> float:
    """The least step, px, in which 16 bits reach the greatest finite value of all the maps (H, W); of 1 px at least."""
    known = [float(x[np.isfinite(x)].max()) for x in maps if x is not None and np.isfinite(x).any()]
    return max([1.0, *known]) / CODES


def packed_png(values: np.ndarray, quantum: float, shares: np.ndarray) -> bytes:
    """values (H, W) >= 0 in whatever unit, NaN and inf = unknown, and shares (H, W) in [0, 1] -> a PNG of 8-bit colours.

    What is read back is within quantum / 2 of a value, and within 1 / 510 of a share.
    """
    known = np.isfinite(values)
    code = (np.rint(np.where(known, values, 0).astype(np.float64) / quantum).clip(0, CODES) + 1).astype(np.uint16) * known
    share = np.rint(np.clip(np.nan_to_num(shares), 0, 1) * 255)
    planes = [share, code & 255, code >> 8]  # OpenCV counts the colours from blue
    done, data = cv2.imencode(".png", np.stack(planes, axis=-1).astype(np.uint8), [cv2.IMWRITE_PNG_COMPRESSION, 6])
    assert done
    return data.tobytes()


def byte_sum(png: bytes) -> int:
    """The sum of all bytes of all pixels: by it a page finds out that its browser alters what is read from a canvas."""
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    return int(pixels.sum(dtype=np.int64))
