"""Is a difference between two methods more than the luck of which images were scored?"""

from __future__ import annotations

import numpy as np

LEVEL = 95  # percent, of the interval
CHUNK = 2**22  # numbers drawn at a time, whatever the number of images


def paired_bootstrap(differences: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    """The 95 % interval of the mean of ``differences`` (N,), one for each image: percentiles of the means of resampled images.

    Each of the ``resamples`` draws N images with replacement, both methods' figures together, so what makes an image hard for
    both does not widen the interval (Efron and Tibshirani 1993, chapter 13). The same seed gives the same interval. NaN without
    images.
    """
    if differences.size == 0:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    means = []
    step = max(1, CHUNK // differences.size)
    for start in range(0, resamples, step):
        drawn = rng.integers(0, differences.size, (min(step, resamples - start), differences.size))
        means.append(differences[drawn].mean(axis=1))
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(np.concatenate(means), (tail, 100 - tail))
    return float(low), float(high)
