"""What a confidence is worth: sort the pixels by it, drop the least confident, and see what error is left."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from stereo.types import InputError

STEPS = 100  # coverages 1/100 .. 100/100
SHOWN = tuple(range(10, 101, 10))  # percent, of the risk-coverage curve that is reported
KEPT = 80  # percent, of bad-3 after discarding the least confident
LOWER_BITS = 11  # of the 32 of a key: with so many, neither histogram has too many bins


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
    keys = _descending(confidence)
    sums, limits, shares = _sums_of_first(kept, keys, error)
    smallest = error.astype(np.float32)
    best, _, _ = _sums_of_first(kept, smallest.view(np.uint32), smallest)  # floats from 0 on sort like their bits
    risk, oracle = sums / kept, best / kept
    limit, wrong = limits[KEPT - 1], error > 3
    left = np.count_nonzero(wrong & (keys < limit)) + shares[KEPT - 1] * np.count_nonzero(wrong & (keys == limit))
    area, epe = max(0.0, float(np.mean(risk - oracle))), float(risk[-1])  # the two sums round differently
    relative, bad = area / epe if epe else math.nan, 100.0 * float(left / kept[KEPT - 1])
    values = [*(float(risk[c - 1]) for c in SHOWN), area, relative, bad]
    return dict(zip(names, values, strict=True)) | {f"count_kept{KEPT}": int(kept[KEPT - 1])}


def _descending(confidence: np.ndarray) -> np.ndarray:
    """(N,) uint32 that sort like the confidences from the greatest to the least, in float32."""
    bits = (np.float32(0) - confidence.astype(np.float32)).view(np.uint32)
    # As whole numbers floats sort by size once those below 0 are inverted and the others go above them.
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))


def _sums_of_first(kept: np.ndarray, keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each number in ``kept`` the sum of so many of the ``values`` (N,), those of the least ``keys`` (N,) uint32 first.

    Also the key among whose pixels the number ends, and the share of these that is kept: all of them count by that share.
    """
    # Two histograms do what a sort does in four times as long: one by the upper bits of the keys, and one by all bits of those
    # pixels in whose bins a number ends.
    upper = (keys >> LOWER_BITS).astype(np.intp)
    lowest = upper.min()
    upper -= lowest
    counts, sums = np.bincount(upper), np.bincount(upper, values)
    last = np.searchsorted(np.cumsum(counts), kept)
    split = np.zeros(counts.size, bool)
    split[last] = True
    counts[split], sums[split] = 0, 0
    rest = kept - np.cumsum(counts)[last]

    inside = np.flatnonzero(split[upper])
    lower = keys[inside] & ((1 << LOWER_BITS) - 1)
    bins = (np.cumsum(split) - 1)[upper[inside]] << LOWER_BITS | lower
    fine_counts, fine_sums = np.bincount(bins), np.bincount(bins, values[inside])
    ends = np.cumsum(fine_counts)
    at = np.searchsorted(ends, rest)
    shares = 1 - (ends[at] - rest) / fine_counts[at]
    found = np.cumsum(sums)[last] + np.cumsum(fine_sums)[at] - (1 - shares) * fine_sums[at]
    return found, (lowest + last) << LOWER_BITS | (at & ((1 << LOWER_BITS) - 1)), shares
