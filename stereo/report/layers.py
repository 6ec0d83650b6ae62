"""The maps of a pair as small pictures for a page: at most LONGEST px each, maps as PNG in a palette of their exact colours."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import cv2
import numpy as np

from stereo.report.colour import UNKNOWN, levels, robust_range
from stereo.report.page import TABLES, data_uri
from stereo.types import DisparityMap, Sample

LONGEST = 640  # px, longer side of a picture in a page
ERROR_LIMIT = 3.0  # px, where the colours of errors end: the brightest is what bad-3 counts
JPEG_QUALITY = 85
_UNKNOWN_INDEX = 255

Scale = tuple[str, float, float, str]  # colour table (a key of page.TABLES), least and greatest value, unit
SHARE: Scale = ("gray", 0.0, 1.0, "")  # of probabilities and masks


@dataclass(frozen=True)
class Layer:
    """One picture of a pair.

    key, title: its name for the script, and for people.
    data, kind: the encoded picture and its media type.
    scale:      what its colours mean; None for a photograph.
    """

    key: str
    title: str
    data: bytes
    kind: str
    scale: Scale | None = None

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


def legend(layer: Layer) -> str:
    """What the colours of a layer mean, as HTML."""
    return scale_legend(layer.title, layer.scale, open_end=layer.key == "error")


def scale_legend(title: str, scale: Scale | None, open_end: bool = False) -> str:
    """The same of a map that a script draws. ``open_end``: the last colour stands for all that is greater, too."""
    if scale is None:
        colours = '<span class="plain">photograph</span>'
    else:
        table, low, high, unit = scale
        above = " and more" if open_end else ""
        colours = f'<span>{low:g}</span><span class="bar {table}"></span><span>{high:.3g} {unit}{above}</span>'
    return f'<span class="what">{title}</span>{colours}'


def map_layer(key: str, title: str, values: np.ndarray, scale: Scale, longest: int = LONGEST) -> Layer:
    """A map (H, W) in colours; NaN is unknown. Shrunk by leaving pixels out: averages would invent disparities at edges."""
    size = shrunk_size(values.shape[0], values.shape[1], longest)
    small = cv2.resize(values.astype(np.float32), size, interpolation=cv2.INTER_NEAREST)
    index = np.where(np.isfinite(small), np.minimum(levels(small, scale[1], scale[2]), _UNKNOWN_INDEX - 1), _UNKNOWN_INDEX)
    palette = np.concatenate([TABLES[scale[0]][:_UNKNOWN_INDEX], UNKNOWN[None]])
    return Layer(key, title, palette_png(index.astype(np.uint8), palette), "image/png", scale)


def pair_layers(sample: Sample, result: DisparityMap, longest: int = LONGEST) -> tuple[Layer, ...]:
    """What a page shows of a pair with ground truth: left image, disparity, truth, error, occlusion, confidence.

    Prediction and truth share one range, taken from the truth; errors end at ERROR_LIMIT in every picture. Unknown is grey.
    """
    assert sample.disp is not None and sample.valid is not None
    truth = np.where(sample.valid, sample.disp, np.nan)
    low, high = robust_range(sample.disp, sample.valid)
    px, limits = ("turbo", low, high, "px"), ("inferno", 0.0, ERROR_LIMIT, "px")
    shares = (("occlusion", result.occlusion), ("confidence", result.confidence))
    return (
        Layer("left", "left image", jpeg(sample.left, longest), "image/jpeg"),
        map_layer("disparity", "disparity", result.disp, px, longest),
        map_layer("truth", "truth", truth, px, longest),
        map_layer("error", "error", np.abs(result.disp - truth), limits, longest),
        *(map_layer(name, name, values, SHARE, longest) for name, values in shares if values is not None),
    )
