"""Ground-truth files as every reader here needs them: of the image's size, of the right sign, with masks kept apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stereo.image_io import read_disparity, read_image, read_stored
from stereo.types import InputError


def wxh(shape: tuple[int, ...]) -> str:
    """"741x497" for an array of shape (497, 741, ...)."""
    return f"{shape[1]}x{shape[0]}"


class SignError(InputError):
    """A disparity map of the other sign."""


def read_truth(path: Path, size: tuple[int, ...], flip: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """``disp`` (H, W) float32 px, 0 where unknown, and ``valid`` (H, W) bool, of an image of ``size`` (H, W).

    flip: the file stores -disp. Raises InputError for a damaged file or another size, and SignError, which is one, where
    ``disp`` is negative.
    """
    disp, valid = read_disparity(path)
    _check_size(path, disp, size)
    if flip:
        disp = np.float32(0) - disp  # no -0.0 where unknown
    if disp.min() < 0:
        stored, way = (disp.min(), "flip the sign") if not flip else (-disp.min(), "keep the sign")
        raise SignError(f"'{path}' holds {stored:.4g} px; expected x_right = x_left - disp, so disp >= 0: {way}")
    return disp, valid


def read_mask(path: Path, size: tuple[int, ...]) -> np.ndarray:
    """(H, W) bool, True = occluded, from a picture whose 255 means occluded and whose 0 means visible.

    Raises InputError for a damaged file, another size, or a third value (Middlebury's masks have 128, and mean the opposite).
    """
    mask = read_image(path)[..., 0]
    _check_size(path, mask, size)
    other = np.setdiff1d(mask, (0, 255))
    if other.size:
        raise InputError(f"'{path}' holds the value {other[0]}; expected only 0 (visible) and 255 (occluded)")
    return mask == 255


def read_numbers(path: Path, size: tuple[int, ...], dtype: type[np.unsignedinteger]) -> np.ndarray:
    """(H, W) of the whole numbers that a picture of an image of ``size`` (H, W) stores, one per pixel, untouched.

    Three equal channels, as re-saved copies have, count as one.
    Raises InputError for a damaged file, another size, a coloured picture, or numbers that are not of ``dtype``.
    """
    stored = read_stored(path)
    numbers = stored.reshape(*stored.shape[:2], -1)
    if stored.dtype != dtype or (numbers != numbers[..., :1]).any():
        found = f"{stored.dtype} {'colours' if stored.ndim == 3 else 'numbers'}"
        raise InputError(f"'{path}' holds {found}; expected one {np.dtype(dtype)} number per pixel, as the data set comes")
    _check_size(path, numbers[..., 0], size)
    return numbers[..., 0]


def _check_size(path: Path, array: np.ndarray, size: tuple[int, ...]) -> None:
    if array.shape != size:
        raise InputError(f"'{path}' is {wxh(array.shape)}, its image is {wxh(size)}; expected equal sizes")
