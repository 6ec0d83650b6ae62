"""Matching a smaller copy of a pair: a quarter of the work at half the size, for maps that have the size of the pair."""

from __future__ import annotations

import cv2
import numpy as np

from stereo.inference.predictor import MIN_SIDE, StereoPredictor, check_pair, shrink
from stereo.types import DisparityMap, InputError

EDGE = 1.0  # px of the small map: neighbours that differ by more lie on two surfaces


def predict_views(
    predictor: StereoPredictor, left: np.ndarray, right: np.ndarray, both: bool = False, scale: float = 1.0
) -> list[DisparityMap]:
    """The maps of the left view, and with ``both`` those of the right one, of (H, W, 3) uint8 RGB pictures.

    scale: 0 < scale <= 1, the size that the network sees; the maps have the size of the pictures, disparities are px of their
    width, and the confidence speaks of 1 / scale px.
    Raises InputError for what StereoPredictor refuses, and where the small pictures would have a side below 32 px.
    """
    check_pair(left, right)
    height, width = left.shape[:2]
    small = scaled_size((width, height), scale)
    pair = (left, right) if small == (width, height) else (shrink(left, small), shrink(right, small))
    maps = list(predictor.predict_both(*pair)) if both else [predictor.predict(*pair)]
    return maps if small == (width, height) else [enlarge(result, (width, height)) for result in maps]


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """``size`` (width, height) px times ``scale``. Raises InputError outside of 0 < scale <= 1, and for a side below 32 px."""
    if not 0 < scale <= 1:
        raise InputError(f"got --scale {scale:g}, expected a number above 0 and up to 1")
    small = round(size[0] * scale), round(size[1] * scale)
    if min(small) < MIN_SIDE:
        given = f"--scale {scale:g} makes {small[0]}x{small[1]} px of {size[0]}x{size[1]} px"
        raise InputError(f"{given}; expected at least {MIN_SIDE} px on each side, give a larger scale")
    return small


def enlarge(result: DisparityMap, size: tuple[int, int]) -> DisparityMap:
    """The maps at ``size`` (width, height) px, disparities in px of that width.

    Linear between neighbours on one surface; nearest where they are more than EDGE apart, since a mean of two surfaces lies on
    neither and would float between them in a cloud.
    """
    disp = result.disp
    kernel = np.ones((3, 3), np.uint8)
    step = cv2.dilate(disp, kernel) - cv2.erode(disp, kernel)
    smooth, nearest = (cv2.resize(disp, size, interpolation=way) for way in (cv2.INTER_LINEAR, cv2.INTER_NEAREST_EXACT))
    on_edge = cv2.resize(step, size, interpolation=cv2.INTER_NEAREST_EXACT) > EDGE
    occlusion, confidence = (
        cv2.resize(x, size, interpolation=cv2.INTER_LINEAR) for x in (result.occlusion, result.confidence)
    )
    factor = size[0] / disp.shape[1]
    enlarged = np.where(on_edge, nearest, smooth) * np.float32(factor)
    return DisparityMap(enlarged, np.asarray(occlusion), np.asarray(confidence))
