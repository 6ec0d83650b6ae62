"""How well the rows of a pair agree, before and after its rectification, at points that both images show."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from stereo.calibration.rectification import Rectification
from stereo.inference.pair_check import LEAST_MATCHES, fit_rows, match_points

GOOD, USABLE = 0.5, 1.0  # px, of the median after rectification
WORSE = 0.2  # px: rectifying what was rectified
BORDER = 12  # px beside what is black in which edges of the picture, not of the scene, may be matched


@dataclass(frozen=True)
class RowErrors:
    """|y_left - y_right| px of the same points. before: in the raw images; after: in the rectified ones. Both (N,)."""

    before: np.ndarray
    after: np.ndarray

    def numbers(self) -> dict[str, float]:
        """Median and 95th percentile, px, and the number of matches; without matches, that alone."""
        found: dict[str, float] = {"matches": len(self.after)}
        if len(self.after) < LEAST_MATCHES:
            return found
        for name, values in (("before", self.before), ("after", self.after)):
            median, high = np.percentile(values, (50, 95)).tolist()
            found |= {f"vertical_error_{name}_median_px": median, f"vertical_error_{name}_95_percent_px": high}
        return found

    def verdict(self) -> str:
        """One line: good, usable or bad, and what to do."""
        numbers = self.numbers()
        if len(numbers) == 1:
            return f"unknown: only {len(self.after)} points are found in both images; try a pair with more texture"
        before, after = (numbers[f"vertical_error_{name}_median_px"] for name in ("before", "after"))
        if after > before + WORSE:
            return f"bad: rows agreed better before ({before:.2f} px): these images are rectified already, or of another rig"
        if after > USABLE:
            return f"bad: rows differ by {after:.2f} px: the calibration is not that of these images; calibrate again"
        return f"{'good' if after <= GOOD else 'usable'}: rows differ by {after:.2f} px"


def row_errors(left: np.ndarray, right: np.ndarray, rectification: Rectification) -> RowErrors:
    """From rectified images (H, W, 3) uint8. Points are matched in these; where they were in the raw ones, the maps tell.

    Matches are sought wherever they lie, not along rows; those that no common shift, rotation and stretch of the rows explains
    within 2 px (or 4 times the median residual) are taken for mistakes.
    """
    greys = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (left, right)]
    points = match_points(greys[0], greys[1])
    agree = fit_rows(*points, greys[0].shape).agree
    for view, places in enumerate(points):
        edge = cv2.dilate(rectification.black(view).astype(np.uint8), np.ones((2 * BORDER + 1,) * 2, np.uint8)) > 0
        x, y = np.rint(places).astype(int).T
        agree &= ~edge[y.clip(0, edge.shape[0] - 1), x.clip(0, edge.shape[1] - 1)]
    matched = [places[agree] for places in points]
    rows = [_raw_rows(rectification.maps[view][1], places) for view, places in enumerate(matched)]
    return RowErrors(np.abs(rows[0] - rows[1]), np.abs(matched[0][:, 1] - matched[1][:, 1]))


def _raw_rows(rows: np.ndarray, places: np.ndarray) -> np.ndarray:
    """``rows`` (H, W) at ``places`` (N, 2) of (x, y) px, linear between pixels."""
    height, width = rows.shape
    x, y = places[:, 0].clip(0, width - 1), places[:, 1].clip(0, height - 1)
    left, top = x.astype(int).clip(0, width - 2), y.astype(int).clip(0, height - 2)
    a, b = x - left, y - top
    upper = (1 - a) * rows[top, left] + a * rows[top, left + 1]
    lower = (1 - a) * rows[top + 1, left] + a * rows[top + 1, left + 1]
    return (1 - b) * upper + b * lower


def pooled(parts: list[RowErrors]) -> RowErrors:
    """Those of several pairs of one rig as one."""
    return RowErrors(np.concatenate([p.before for p in parts]), np.concatenate([p.after for p in parts]))
