"""Pictures side by side: a captioned grid, and the one figure that shows everything known about a stereo pair."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from stereo.report.colour import (
    GRAY,
    WHITE,
    colour_disparity,
    colour_error,
    draw_text,
    gray,
    robust_range,
    text_width,
    with_legend,
)
from stereo.types import DisparityMap, Sample

SMALLEST_TEXT = 9  # px, height of a capital letter; below it a caption widens its column instead of shrinking further
FRAME = 215  # grey level of the line around each picture: a white confidence map must not melt into the page


def _caption_height(captions: Sequence[str], widths: Sequence[int]) -> int:
    """The largest text height, one for the whole panel, at which every caption fits above its picture."""
    height = int(np.clip(np.median(widths) / 40, SMALLEST_TEXT, 40))
    while height > SMALLEST_TEXT and any(text_width(c, height) > w for c, w in zip(captions, widths, strict=True)):
        height -= 1
    return height


def panel(images: Sequence[tuple[str, np.ndarray]], columns: int) -> np.ndarray:
    """Arrange (caption, picture) pairs row by row in a grid on white, each caption in a strip above its picture.

    Pictures are (H, W, 3) uint8 RGB of any sizes; they are neither scaled nor cut: a column is as wide as its widest picture
    or caption, a row as high as its highest picture. Returns (H', W', 3) uint8 RGB.
    Raises ValueError without a picture, for ``columns`` < 1, and for a picture of another kind.
    """
    if not images or columns < 1:
        raise ValueError(f"got {len(images)} pictures in {columns} columns, expected at least one of each")
    for caption, picture in images:
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(f"picture '{caption}': got {picture.dtype} {picture.shape}, expected uint8 (H, W, 3)")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    captions, pictures = zip(*images, strict=True)
    text = _caption_height(captions, [picture.shape[1] for picture in pictures])
    strip, margin = 2 * text, max(text, 8)

    wanted = [max(p.shape[1], text_width(c, text)) for c, p in images]
    widths = [max(wanted[column::columns]) for column in range(columns)]
    heights = [max(p.shape[0] for p in pictures[row * columns : (row + 1) * columns]) for row in range(rows)]
    canvas = np.full(
        (sum(heights) + rows * (strip + margin) + margin, sum(widths) + (columns + 1) * margin, 3), WHITE, np.uint8
    )
    for index, (caption, picture) in enumerate(images):
        row, column = divmod(index, columns)
        top = sum(heights[:row]) + row * (strip + margin) + margin // 2 + strip
        left = sum(widths[:column]) + (column + 1) * margin
        height, width = picture.shape[:2]
        canvas[top - 1 : top + height + 1, left - 1 : left + width + 1] = FRAME
        canvas[top : top + height, left : left + width] = picture
        draw_text(canvas, caption, left, top - text // 2 - 1, text)
    return canvas


def pair_figure(left: np.ndarray, result: DisparityMap, truth: Sample | None = None, error_limit: float = 3.0) -> np.ndarray:
    """One figure for one pair: left | disparity | occlusion | confidence, and with ground truth also truth | error.

    ``left`` is (H, W, 3) uint8 RGB, ``result`` and ``truth`` are of its size; a ``truth`` without ``disp`` counts as None.
    Prediction and truth share one colour range, taken from the truth where it is known, so equal colours are equal px.
    ``error_limit`` (px) is where the error's colours end. Returns (H', W', 3) uint8 RGB.
    Raises ValueError when the sizes differ.
    """
    true_disp, valid = (None, None) if truth is None else (truth.disp, truth.valid)
    maps: list[tuple[str, np.ndarray | None]] = [("disparity", result.disp), ("occlusion", result.occlusion)]
    maps += [("confidence", result.confidence), ("ground truth", true_disp), ("valid", valid)]
    for name, values in maps:
        if values is not None and values.shape != left.shape[:2]:
            raise ValueError(f"{name}: got shape {values.shape}, expected that of the left image, {left.shape[:2]}")

    probabilities = [
        ("occlusion probability", with_legend(gray(result.occlusion), 0, 1, "", GRAY)),
        ("confidence", with_legend(gray(result.confidence), 0, 1, "", GRAY)),
    ]
    if true_disp is None or valid is None:
        low, high = robust_range(result.disp)
        disparity = with_legend(colour_disparity(result.disp, low, high), low, high)
        return panel([("left", left), ("disparity", disparity), *probabilities], columns=2)
    low, high = robust_range(true_disp, valid)
    images = [
        ("left", left),
        ("disparity", with_legend(colour_disparity(result.disp, low, high), low, high)),
        ("ground truth", with_legend(colour_disparity(np.where(valid, true_disp, np.nan), low, high), low, high)),
        ("error", colour_error(result.disp, true_disp, valid, error_limit)),
    ]
    return panel(images + probabilities, columns=3)


def contact_sheet(samples: Sequence[Sample], width: int = 320) -> np.ndarray:
    """What a data set looks like: per sample one row of left | right | disparity | occluded, each ``width`` px wide.

    Colours of the disparity run over each sample's own range, which the caption gives; a truth that a sample
    does not have is a grey field. Returns (H', W', 3) uint8 RGB. Raises ValueError without a sample.
    """
    images: list[tuple[str, np.ndarray]] = []
    for sample in samples:
        height = max(round(sample.left.shape[0] * width / sample.left.shape[1]), 1)
        size, unknown = (width, height), np.full((height, width, 3), FRAME, np.uint8)
        disparity, occluded, told = unknown, unknown, "no disparity"
        if sample.disp is not None and sample.valid is not None:
            low, high = robust_range(sample.disp, sample.valid)
            coloured = colour_disparity(np.where(sample.valid, sample.disp, np.nan), low, high)
            disparity, told = cv2.resize(coloured, size, interpolation=cv2.INTER_NEAREST), f"{low:.1f} .. {high:.1f} px"
        if sample.occluded is not None:
            occluded = cv2.resize(gray(sample.occluded.astype(np.float32)), size, interpolation=cv2.INTER_AREA)
        left, right = (cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in (sample.left, sample.right))
        share = "occlusion unknown" if sample.occluded is None else f"{100 * sample.occluded.mean():.1f} % occluded"
        images += [(sample.name, left), ("right", right), (told, disparity), (share, occluded)]
    return panel(images, columns=4)
