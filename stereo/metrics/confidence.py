"""What a confidence is worth: sort the pixels by it, drop the least confident, and see what error is left."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from stereo.types import InputError

STEPS = 100  # coverages 1/100 .. 100/100
SHOWN = tuple(range(10, 101, 10))  # percent, of the risk-coverage curve that is reported
KEPT = 80  # percent, of bad-3 after discarding the least confident


def confidence_scores(error: np.ndarray, confidence: np.ndarray | None) -> dict[str, Any]:
    """How well ``confidence`` (N,) sorts the pixels with absolute errors ``error`` (N,) px, the surest first.

    ``risk_10`` .. ``risk_100``  px, the risk-coverage curve: mean error of the 10 .. 100 percent most confident pixels
                      (risk_100 is the EPE).
    ``ause``          px, area under the sparsification error: the mean over the coverages 1, 2 .. 100 percent of the risk minus
                      the oracle's, which drops the largest errors first. 0 is the oracle, and nothing is below it.
    ``ause_relative`` the same divided by the EPE, which is the usual normalisation (Ilg et al. 2018): images of different
                      difficulty weigh alike. NaN where the EPE is 0.
    ``bad3_kept80``   percent wrong by more than 3 px once the 20 percent least confident pixels are discarded, and
                      ``count_kept80``, how many pixels that leaves.
    A coverage of c percent keeps ceil(c N / 100) pixels. Pixels of one confidence count with their mean, which is what any of
    their orders gives on average: so the result does not depend on the order of pixels, and a constant confidence is a
    random one. Confidences are told apart, and the oracle's errors rounded, in float32.
    No pixels, or None for no confidence: NaN.
    Raises InputError when the sizes differ or a confidence is not a number.
    """
    names = [*(f"risk_{c}" for c in SHOWN), "ause", "ause_relative", f"bad3_kept{KEPT}"]
    if confidence is None or error.size == 0:
        return dict.fromkeys(names, math.nan) | {f"count_kept{KEPT}": 0}
    if confidence.shape != error.shape or np.isnan(confidence).any():
        found = f"{int(np.isnan(confidence).sum())} NaN among confidences {confidence.shape} for errors {error.shape}"
        raise InputError(f"got {found}; expected one number for each scored pixel")
    kept = -(-np.arange(1, STEPS + 1) * error.size // STEPS)
    order, groups = _from_surest(confidence)
    risk = _sums_of_first(kept, error[order], groups) / kept
    oracle = np.cumsum(np.sort(error.astype(np.float32)), dtype=np.float64)[kept - 1] / kept
    wrong = _sums_of_first(kept[[KEPT - 1]], (error > 3)[order], groups)[0]
    area, epe = max(0.0, float(np.mean(risk - oracle))), float(risk[-1])  # the two sums round differently
    relative, bad = area / epe if epe else math.nan, 100.0 * float(wrong / kept[KEPT - 1])
    values = [*(float(risk[c - 1]) for c in SHOWN), area, relative, bad]
    return dict(zip(names, values, strict=True)) | {f"count_kept{KEPT}": int(kept[KEPT - 1])}


def _from_surest(confidence: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order from the greatest confidence to the least (N,), and where in it each group of equal ones begins (G,)."""
    bits = (np.float32(0) - confidence.astype(np.float32)).view(np.uint32)
    # As whole numbers floats sort by size once those below 0 are inverted and the others go above them. numpy sorts 16 bits by
    # counting, and two such passes take a fifth of the time of sorting floats, which was a third of all scoring.
    keys = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    order = np.argsort(keys.astype(np.uint16), kind="stable")
    order = order[np.argsort((keys >> 16).astype(np.uint16)[order], kind="stable")]
    ordered = keys[order]
    return order, np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))


def _sums_of_first(kept: np.ndarray, values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """For each number in ``kept`` the sum of so many first values; a group that is cut gives its mean for each of them."""
    before = np.concatenate([[0], np.cumsum(values)])
    cut = np.searchsorted(groups, kept, side="right") - 1  # where nothing is cut, a group of which nothing is kept
    start, end = groups[cut], np.append(groups, len(values))[cut + 1]
    return before[start] + (kept - start) * (before[end] - before[start]) / (end - start)
