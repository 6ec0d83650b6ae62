"""OpenCV's semi-global block matching: the classical baseline that every network here is compared with."""

from __future__ import annotations

import cv2
import numpy as np

from stereo.config import near_matches
from stereo.types import DisparityMap, InputError

BLOCK = 5  # px, side of the matched block
STEP = 16  # OpenCV searches a multiple of 16 disparities
MAX_DISPARITIES = 2032  # OpenCV returns int16 in 1/16 px
MIN_WIDTH = BLOCK // 2 + 1

# Along how many directions costs are summed up: all eight over the whole image, or three (left, right, down) in one pass, which
# is faster and needs little memory.
MODES = {"hh": cv2.STEREO_SGBM_MODE_HH, "3way": cv2.STEREO_SGBM_MODE_SGBM_3WAY}
BASELINES = {"sgbm": "hh", "sgbm-3way": "3way"}  # what a method is called in tables and files -> its mode

# The search range that suits each public set, chosen with the ground truth in hand: the baseline is given something here that
# a network is not. With it the errors on eleven public scenes are those of experiments/results/real_pairs.json.
SEARCH_RANGES = {
    "flyingthings3d": 256,
    "kitti2012": 192,
    "kitti2015": 192,
    "middlebury2001": 32,
    "middlebury2003": 128,
    "middlebury2005": 128,
    "middlebury2014": 128,
    "eth3d": 64,
}


def search_range(name: str) -> int | None:
    """The range of the set that a sample called "set/scene" comes from; None (a guess from the width) for any other."""
    return SEARCH_RANGES.get(name.partition("/")[0])


def fill_from_background(disp: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Fill the holes of a disparity map along its rows: ``disp`` (H, W) px, ``known`` (H, W) bool; returns (H, W) dense.

    A hole takes the smaller of the first known values to its left and right, because what one camera does not see belongs to
    the farther surface. Beside the image's edge there is only one such value; a row without any becomes 0.
    """
    width = disp.shape[1]
    column = np.arange(width)
    left = np.maximum.accumulate(np.where(known, column, -1), axis=1)
    right = np.minimum.accumulate(np.where(known, column, width)[:, ::-1], axis=1)[:, ::-1]
    far = np.finfo(disp.dtype).max  # stands for "no neighbour on this side"
    from_left = np.where(left >= 0, np.take_along_axis(disp, left.clip(min=0), axis=1), far)
    from_right = np.where(right < width, np.take_along_axis(disp, right.clip(max=width - 1), axis=1), far)
    filled = np.where(known, disp, np.minimum(from_left, from_right))
    return np.where(known.any(axis=1, keepdims=True), filled, 0).astype(disp.dtype)


class SgbmPredictor:
    """StereoSGBM with a left-right check, its holes filled from the background.

    num_disparities: how many disparities are searched, 0 to num_disparities - 1 px; a multiple of 16, at most 2032. None takes
    a quarter of the image's width, rounded up: a guess that needs no ground truth. Memory and time grow with it.
    mode: "hh" (MODE_HH) or "3way" (MODE_SGBM_3WAY), see MODES.
    Raises InputError for another number or mode.
    """

    def __init__(self, num_disparities: int | None = None, mode: str = "hh") -> None:
        if num_disparities is not None and (num_disparities % STEP or not STEP <= num_disparities <= MAX_DISPARITIES):
            allowed = f"a multiple of {STEP} from {STEP} to {MAX_DISPARITIES}"
            raise InputError(f"got {num_disparities} disparities, expected {allowed}")
        if mode not in MODES:
            raise InputError(f"got mode '{mode}', {near_matches(mode, MODES)}")
        self.num_disparities, self.mode = num_disparities, mode

    def predict(self, left: np.ndarray, right: np.ndarray) -> DisparityMap:
        """Match two (H, W, 3) uint8 images, rectified; the order of the channels makes no difference.

        ``occlusion`` is 1 where SGBM gave no value (hidden, ambiguous or speckle) and 0 elsewhere; ``confidence`` is its
        complement.
        Raises InputError for another dtype or shape, unequal sizes, or a width below 3 px.
        """
        for name, image in (("left", left), ("right", right)):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.shape[1] < MIN_WIDTH:
                found = f"{image.dtype} {image.shape}"
                raise InputError(f"{name} image: got {found}, expected uint8 (H, W, 3) with W of {MIN_WIDTH} or more")
        if left.shape != right.shape:
            raise InputError(f"left image is {left.shape}, right image is {right.shape}; expected equal sizes")
        count = self.num_disparities or min(-(-left.shape[1] // (4 * STEP)) * STEP, MAX_DISPARITIES)
        matcher = cv2.StereoSGBM.create(
            minDisparity=0,
            numDisparities=count,
            blockSize=BLOCK,
            P1=8 * 3 * BLOCK**2,
            P2=32 * 3 * BLOCK**2,
            disp12MaxDiff=1,
            uniquenessRatio=5,
            speckleWindowSize=100,
            speckleRange=2,
            mode=MODES[self.mode],
        )
        # OpenCV gives no value to the first ``count`` columns; with a replicated border those columns are not the image's.
        padded = [cv2.copyMakeBorder(image, 0, 0, count, 0, cv2.BORDER_REPLICATE) for image in (left, right)]
        disp = matcher.compute(*padded)[:, count:].astype(np.float32) / 16
        known = disp >= 0
        occlusion = (~known).astype(np.float32)
        return DisparityMap(disp=fill_from_background(disp, known), occlusion=occlusion, confidence=1 - occlusion)
