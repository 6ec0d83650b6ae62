"""Numbers to colours: disparity, error and probability maps as RGB pictures, and the scale that makes them readable.

Colour runs from near (warm) to far (cold) for disparity, from dark (exact) to bright (wrong) for errors; grey is unknown.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

UNKNOWN = np.array([128, 128, 128], np.uint8)  # neither TURBO nor INFERNO holds a neutral grey
TEXT = (30, 30, 30)
WHITE = 255
FONT = cv2.FONT_HERSHEY_SIMPLEX
CAPITAL_HEIGHT = 22  # px of a capital letter at font scale 1


def _table(colormap: int) -> np.ndarray:
    """An OpenCV colour map as (256, 3) uint8 RGB."""
    return cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], colormap)[:, 0, ::-1].copy()


TURBO = _table(cv2.COLORMAP_TURBO)
INFERNO = _table(cv2.COLORMAP_INFERNO)
GRAY = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)


def levels(values: np.ndarray, vmin: float, vmax: float) -> np.ndarray:
    """Rows of a colour table for ``values`` of any shape: uint8, 0 at ``vmin`` and below, 255 at ``vmax`` and above; NaN is 0.

    Raises ValueError unless vmin < vmax, both finite.
    """
    if not (math.isfinite(vmin) and math.isfinite(vmax) and vmin < vmax):
        raise ValueError(f"got the colour range {vmin} to {vmax}, expected two finite numbers, the smaller one first")
    unit = np.clip((np.nan_to_num(values, posinf=vmax, neginf=vmin) - vmin) / (vmax - vmin), 0, 1)
    return np.rint(255 * unit).astype(np.uint8)


def robust_range(disp: np.ndarray, valid: np.ndarray | None = None, percentile: float = 99) -> tuple[float, float]:
    """A colour range (0, vmax) px for the map ``disp`` (H, W) that a few wild values cannot stretch.

    vmax is the given percentile over the finite values in ``valid`` (H, W) bool, at least 1 px, also when there are none.
    """
    known = np.isfinite(disp) if valid is None else np.isfinite(disp) & valid
    return 0.0, max(1.0, float(np.percentile(disp[known], percentile))) if known.any() else 1.0


def colour_disparity(disp: np.ndarray, vmin: float, vmax: float) -> np.ndarray:
    """Colour ``disp`` (H, W) px: (H, W, 3) uint8 RGB, blue at ``vmin`` (far) to red at ``vmax`` (near), clipped beyond.

    NaN and inf are unknown: grey. Raises ValueError unless vmin < vmax, both finite.
    """
    disp = np.asarray(disp)
    return np.where(np.isfinite(disp)[..., None], TURBO[levels(disp, vmin, vmax)], UNKNOWN)


def gray(probability: np.ndarray) -> np.ndarray:
    """``probability`` (H, W), clipped to [0, 1] (NaN is 0), as (H, W, 3) uint8 from black (0) to white (1)."""
    return GRAY[levels(np.asarray(probability), 0, 1)]


def colour_error(pred: np.ndarray, truth: np.ndarray, valid: np.ndarray, limit: float, legend: bool = True) -> np.ndarray:
    """Colour |pred - truth| (H, W) px from black (0) to bright yellow (``limit`` and more); grey where not ``valid``.

    A prediction that is not finite counts as ``limit``. Returns (H, W, 3) uint8 RGB, or with the legend's strip below it.
    Raises ValueError unless limit > 0.
    """
    error = np.abs(np.where(valid, np.asarray(pred, np.float32) - np.where(valid, truth, 0), 0))
    heat = INFERNO[levels(np.where(np.isfinite(error), error, limit), 0, limit)]
    picture = np.where(np.asarray(valid)[..., None], heat, UNKNOWN)
    return with_legend(picture, 0, limit, table=INFERNO) if legend else picture


def text_width(text: str, height: int) -> int:
    """Width in px of a text whose capital letters are ``height`` px tall."""
    return cv2.getTextSize(text, FONT, height / CAPITAL_HEIGHT, _thickness(height))[0][0]


def draw_text(canvas: np.ndarray, text: str, left: int, baseline: int, height: int) -> None:
    """Write dark text into ``canvas`` (H, W, 3) uint8, in place, from column ``left``, standing on row ``baseline``."""
    cv2.putText(canvas, text, (left, baseline), FONT, height / CAPITAL_HEIGHT, TEXT, _thickness(height), cv2.LINE_AA)


def _thickness(height: int) -> int:
    return max(1, round(height / 12))


def _ticks(vmin: float, vmax: float, step: float) -> tuple[list[float], list[str]]:
    """The multiples of ``step`` in [vmin, vmax] and how they are written."""
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(vmin / step - 1e-6), math.floor(vmax / step + 1e-6)
    values = [k * step for k in range(first, last + 1)]
    return values, [f"{value:.{digits}f}" for value in values]


def _place_ticks(
    vmin: float, vmax: float, unit: str, left: int, right: int, width: int, height: int
) -> list[tuple[int, int, str]]:
    """(tick column, text column, text) for the finest round step whose texts neither touch nor leave the strip.

    Where none fits (a range of five digits on 64 px) it is the last tick of the coarsest step alone.
    """
    placed: list[tuple[int, int, str]] = []
    start, edge = 10.0 ** math.floor(math.log10((vmax - vmin) / 10)), height // 4
    for factor in (1, 2, 5, 10, 20, 50):
        values, texts = _ticks(vmin, vmax, start * factor)
        if not texts:
            break
        texts[-1] += f" {unit}".rstrip()
        columns = [round(left + (value - vmin) / (vmax - vmin) * (right - left)) for value in values]
        widths = [text_width(text, height) for text in texts]
        starts = [max(edge, min(c - w // 2, width - w - edge)) for c, w in zip(columns, widths, strict=True)]
        placed = list(zip(columns, starts, texts, strict=True))
        if all(s + w + height <= following for s, w, following in zip(starts, widths, starts[1:], strict=False)):
            return placed
    return placed[-1:]


def with_legend(rgb: np.ndarray, vmin: float, vmax: float, unit: str = "px", table: np.ndarray = TURBO) -> np.ndarray:
    """Put a white strip with a colour bar and round numbers below ``rgb`` (H, W, 3) uint8; the picture itself is untouched.

    ``table`` (256, 3) uint8 is the colour map that the picture was made with. The result has the picture's width, and at
    least 64 px (white at the right), so that the numbers can be read.
    """
    picture_height, picture_width = rgb.shape[:2]
    width = max(picture_width, 64)
    height = int(np.clip(width / 55, 8, 40))  # of a digit; everything else is measured in it
    bar_top, bar_bottom = picture_height + height // 2, picture_height + height // 2 + height
    baseline = bar_bottom + 2 * height
    canvas = np.full((baseline + height - height // 4, width, 3), WHITE, np.uint8)
    canvas[:picture_height, :picture_width] = rgb
    left, right = height, width - height  # first column of the bar, and the one behind its last
    canvas[bar_top - 1 : bar_bottom + 1, left - 1 : right + 1] = UNKNOWN  # a thin edge: the bar of GRAY ends in white
    canvas[bar_top:bar_bottom, left:right] = table[np.linspace(0, 255, right - left).round().astype(int)]
    for column, start, text in _place_ticks(vmin, vmax, unit, left, right - 1, width, height):
        canvas[bar_bottom : bar_bottom + height // 2, column : column + _thickness(height)] = TEXT
        draw_text(canvas, text, start, baseline, height)
    return canvas
