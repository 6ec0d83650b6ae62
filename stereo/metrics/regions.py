"""Which pixels are scored apart: regions of the image, and bins of the true disparity."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import cv2
import numpy as np

from stereo.types import InputError, Sample

EDGE_GAP = 2.0  # px of disparity between neighbours; Scharstein and Szeliski 2002, eval_disp_gap
EDGE_REACH = 2  # px to either side, as benchmarks' users ask; theirs is 4 (eval_discont_width 9)
FLAT_GRADIENT = 4.0  # grey levels squared; Scharstein and Szeliski 2002, eval_textureless_thresh
FLAT_WINDOW = 3  # px, eval_textureless_width

REGIONS = {
    "all": "pixels with ground truth, occluded ones included",
    "noc": "pixels with ground truth that the right camera sees; all pixels with ground truth where the occlusion is unknown",
    "occ": "pixels with ground truth that the right camera does not see; none where the occlusion is unknown",
    "oof": "out of frame: pixels with ground truth whose match x - d lies outside the right image, where no method can see it",
    "edge": f"pixels with ground truth within {EDGE_REACH} px (rows and columns) of two neighbours with ground truth whose "
            f"disparities differ by more than {EDGE_GAP:g} px (Scharstein and Szeliski 2002)",
    "textureless": "pixels with ground truth where the squared horizontal gradient of the left image's grey levels, averaged "
                   f"over {FLAT_WINDOW}x{FLAT_WINDOW} px, is below {FLAT_GRADIENT:g} (Scharstein and Szeliski 2002); none in "
                   "an image of one colour, which stands for no image",
}  # fmt: skip

# First and last (exclusive) true disparity in px, by name: doubling, because errors and difficulty grow by proportion.
_EDGES = (0, 16, 32, 64, 128, 192)
BINS = {
    f"d{low}to{high}": (float(low), float(high)) for low, high in pairwise(_EDGES)
} | {f"d{_EDGES[-1]}up": (float(_EDGES[-1]), math.inf)}  # fmt: skip


def region_masks(sample: Sample) -> dict[str, np.ndarray]:
    """The regions of REGIONS as (H, W) bool masks; "all" holds all the others.

    Where ``sample.occluded`` is None, ``noc`` equals ``all`` and ``occ`` is empty: whoever reports such figures says so.
    Raises InputError when the sample has no ground truth.
    """
    if sample.disp is None or sample.valid is None:
        raise InputError(f"'{sample.name}' has no ground-truth disparity, so it cannot be scored")
    disp, valid = sample.disp, sample.valid
    occluded = np.zeros_like(valid) if sample.occluded is None else sample.occluded
    columns = np.arange(disp.shape[1], dtype=np.float32)
    return {
        "all": valid,
        "noc": valid & ~occluded,
        "occ": valid & occluded,
        "oof": valid & ((disp > columns) | (disp < columns - (disp.shape[1] - 1))),
        "edge": valid & near_edges(disp, valid),
        "textureless": valid & textureless(sample.left),
    }


def near_edges(disp: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """(H, W) px, (H, W) bool -> (H, W) bool: the region "edge", whether a pixel has ground truth or not."""
    beside = np.zeros(disp.shape, np.uint8)
    for first, second in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        jump = (np.abs(disp[second] - disp[first]) > EDGE_GAP) & valid[first] & valid[second]
        beside[first] |= jump
        beside[second] |= jump
    return cv2.dilate(beside, np.ones((2 * EDGE_REACH + 1,) * 2, np.uint8)).astype(bool)


def textureless(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> (H, W) bool: the region "textureless"."""
    if image.min() == image.max():
        return np.zeros(image.shape[:2], bool)
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY).astype(np.float32)
    squared = np.zeros_like(grey)
    np.square(grey[:, 1:] - grey[:, :-1], out=squared[:, :-1])  # the last column has no neighbour to its right
    window = (FLAT_WINDOW, FLAT_WINDOW)
    # Sums of squares of whole numbers are exact in float32; the mean is compared as a sum, so no rounding decides.
    total = cv2.boxFilter(squared, -1, window, normalize=False, borderType=cv2.BORDER_REPLICATE)
    return total < FLAT_GRADIENT * FLAT_WINDOW**2


def bin_errors(error: np.ndarray, reference: np.ndarray) -> dict[str, Any]:
    """``epe_BIN`` (px), ``bad3_BIN`` (percent) and ``count_BIN`` for each of BINS; NaN and 0 for a bin without pixels.

    error, reference: px (N,), those of ``absolute_errors``. A truth below 0 belongs to the first bin.
    """
    number = np.zeros(reference.shape, np.uint8)
    for edge in _EDGES[1:]:  # a fifth of the time of a binary search
        number += reference >= edge
    counts = np.bincount(number, minlength=len(BINS))
    sums = np.bincount(number, weights=error, minlength=len(BINS))
    wrong = np.bincount(number[error > 3], minlength=len(BINS))
    row: dict[str, Any] = {}
    for name, count, total, bad in zip(BINS, counts, sums, wrong, strict=True):
        row[f"epe_{name}"] = float(total / count) if count else math.nan
        row[f"bad3_{name}"] = 100.0 * float(bad / count) if count else math.nan
        row[f"count_{name}"] = int(count)
    return row
