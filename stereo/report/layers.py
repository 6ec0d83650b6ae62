"""The maps of a pair as small pictures for a page: at most LONGEST px each, maps as PNG in a palette of their exact colours."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import cv2
import numpy as np

from stereo.report.colour import GRAY, INFERNO, TURBO, UNKNOWN, levels, robust_range
from stereo.report.page import data_uri
from stereo.types import DisparityMap, Sample

LONGEST = 640  # px, longer side of a picture in a page
ERROR_LIMIT = 3.0  # px, where the colours of errors end: the brightest is what bad-3 counts
JPEG_QUALITY = 85
_UNKNOWN_INDEX = 255


@dataclass(frozen=True)
class Layer:
    """One picture of a pair.

    key, title: its name for the script, and for people.
    data, kind: the encoded picture and its media type.
    scale:      colour table (a key of page.TABLES), least and greatest value, unit; None for a photograph.
    """

    key: str
    title: str
    data: bytes
    kind: str
    scale: tuple[str, float, float, str] | None = None

    @property
    def uri(self) -> str:
        return data_uri(self.data, self.kind)


def shrunk_size(height: int, width: int, longest: int = LONGEST) -> tuple[int, int]:
    """(width, height) px, the order of OpenCV, with the longer side at most ``longest``. Nothing is enlarged."""
    factor = min(1.0, longest / max(height, width))
    return max(1, round(width * factor)), max(1, round(height * factor))


def jpeg(rgb: np.ndarray, longest: int = LONGEST) -> bytes:
    """(H, W, 3) uint8 RGB as a JPEG of at most ``longest`` px."""
    small = cv2.resize(rgb, shrunk_size(rgb.shape[0], rgb.shape[1], longest), interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert done
    return data.tobytes()


def palette_png(index: np.ndarray, palette: np.ndarray) -> bytes:
    """``index`` (H, W) uint8 into ``palette`` (256, 3) uint8 RGB as a PNG: a third of the bytes of the same colours spelt out.

    OpenCV writes grey; the header then calls these greys the palette's entries.
    """
    done, encoded = cv2.imencode(".png", index, [cv2.IMWRITE_PNG_COMPRESSION, 6])
    data = encoded.tobytes()
    assert done and data[12:16] == b"IHDR"
    header = data[16:25] + bytes([3]) + data[26:29]  # colour type 0, grey, becomes 3, palette
    return data[:8] + _chunk(b"IHDR", header) + _chunk(b"PLTE", palette.tobytes()) + data[33:]


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _map(key: str, title: str, values: np.ndarray, scale: tuple[str, float, float, str], table: np.ndarray) -> Layer:
    """A map (H, W) in colours; NaN is unknown. Shrunk by leaving pixels out: averages would invent disparities at edges."""
    small = cv2.resize(values.astype(np.float32), shrunk_size(*values.shape), interpolation=cv2.INTER_NEAREST)
    index = np.where(np.isfinite(small), np.minimum(levels(small, scale[1], scale[2]), _UNKNOWN_INDEX - 1), _UNKNOWN_INDEX)
    palette = np.concatenate([table[:_UNKNOWN_INDEX], UNKNOWN[None]])
    return Layer(key, title, palette_png(index.astype(np.uint8), palette), "image/png", scale)


def pair_layers(sample: Sample, result: DisparityMap) -> tuple[Layer, ...]:
    """What a page shows of a pair with ground truth: left image, disparity, truth, error, occlusion, confidence.

    Prediction and truth share one range, taken from the truth; errors end at ERROR_LIMIT in every picture. Unknown is grey.
    """
    assert sample.disp is not None and sample.valid is not None
    truth = np.where(sample.valid, sample.disp, np.nan)
    low, high = robust_range(sample.disp, sample.valid)
    px, share = ("turbo", low, high, "px"), ("gray", 0.0, 1.0, "")
    shares = (("occlusion", result.occlusion), ("confidence", result.confidence))
    return (
        Layer("left", "left image", jpeg(sample.left), "image/jpeg"),
        _map("disparity", "disparity", result.disp, px, TURBO),
        _map("truth", "truth", truth, px, TURBO),
        _map("error", "error", np.abs(result.disp - truth), ("inferno", 0.0, ERROR_LIMIT, "px"), INFERNO),
        *(_map(name, name, values, share, GRAY) for name, values in shares if values is not None),
    )
