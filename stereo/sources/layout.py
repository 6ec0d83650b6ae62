"""Two views in one picture: side by side, or one above the other."""

from __future__ import annotations

import numpy as np

from stereo.types import InputError

LAYOUTS = ("sbs", "ou")


def split_views(image: np.ndarray, layout: str, right_first: bool, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(H, 2W, 3) of layout "sbs" or (2H, W, 3) of layout "ou" -> left, right (H, W, 3), views of the same memory.

    The first half is the left view, or the right one with ``right_first``.
    Raises InputError for a side that has no half: leaving out the middle column would be a guess about where the views meet,
    and a wrong one shifts every disparity by a pixel.
    """
    axis = 1 if layout == "sbs" else 0
    side = image.shape[axis]
    if side % 2:
        size = f"{image.shape[1]}x{image.shape[0]} px"
        what = "wide, odd, for two views side by side" if axis else "high, odd, for two views above one another"
        raise InputError(f"{name} is {size}: {side} px {what}; crop it to {side - 1} px where the views meet")
    first, second = np.split(image, 2, axis=axis)
    return (second, first) if right_first else (first, second)
