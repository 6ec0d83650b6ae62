"""Ground-truth files as every reader here needs them: of the image's size, of the right sign, with masks kept apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stereo.geometry import Calibration, depth_to_disparity
from stereo.image_io import read_disparity, read_image, read_stored
from stereo.types import InputError

DISPARITY_FILES = (".npy", ".pfm", ".png")


def wxh(shape: tuple[int, ...]) -> str:
    """"741x497" for an array of shape (497, 741, ...)."""
    return f"{shape[1]}x{shape[0]}"


class SignError(InputError):
    """A disparity map of the other sign."""


def read_truth(path: Path, size: tuple[int, ...], scale: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """``disp`` (H, W) float32 px, 0 where unknown, and ``valid`` (H, W) bool, of an image of ``size`` (H, W).

    scale: px per stored unit, -1 where a PFM has the other sign; then a PNG may be of 8 or 16 bits, its 0 being unknown.
    None: PFM and NPY hold px, a 16-bit PNG px * 256 (or its tEXt Scale).
    Raises InputError for a damaged file or another size, and SignError, which is one, where ``disp`` is negative.
    """
    if scale is not None and path.suffix.lower() == ".png":
        disp, valid = read_coded(path, size, (scale,))
    else:
        disp, valid = read_disparity(path)
        check_size(path, disp.shape, size)
        disp = disp if scale is None else disp * np.float32(scale) + np.float32(0)  # no -0.0 where unknown
    if disp.min() < 0:
        stored, way = (-disp.min(), "keep the sign") if scale == -1 else (disp.min(), "flip the sign")
        raise SignError(f"'{path}' holds {stored:.4g} px; expected x_right = x_left - disp, so disp >= 0: {way}")
    return disp, valid


def read_coded(path: Path, size: tuple[int, ...], weights: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """``disp`` and ``valid`` as read_truth has them, from a picture whose channels (one grey, or R, G, B) are digits.

    disp is the sum of weight * channel; a pixel whose channels are all 0 is unknown.
    Raises InputError for a damaged file, another size or number of channels, and values that are no whole numbers.
    """
    stored = read_stored(path)
    channels = 1 if stored.ndim == 2 else stored.shape[2]
    if channels != len(weights) or stored.dtype.kind != "u":
        raise InputError(f"'{path}' holds {stored.dtype} in {channels} channel(s); expected whole numbers in {len(weights)}")
    check_size(path, stored.shape[:2], size)
    # float64 first: the stored type has no room for the product.
    digits = stored.reshape(*size, channels).astype(np.float64)
    return (digits @ np.asarray(weights)).astype(np.float32), np.any(digits > 0, axis=-1)


def truth_from_depth(
    path: Path, depth: np.ndarray, size: tuple[int, ...], calibration: Calibration
) -> tuple[np.ndarray, np.ndarray]:
    """``disp`` and ``valid`` as read_truth has them, from ``depth`` (H, W) metres of the file ``path``.

    A depth that is 0, negative or not finite is unknown. Raises InputError for another size.
    """
    check_size(path, depth.shape, size)
    valid = np.isfinite(depth) & (depth > 0)
    return depth_to_disparity(np.where(valid, depth, np.inf), calibration), valid


def read_mask(path: Path, size: tuple[int, ...]) -> np.ndarray:
    """(H, W) bool, True = occluded, from a picture whose 255 means occluded and whose 0 means visible.

    Raises InputError for a damaged file, another size, or a third value (Middlebury's masks have 128, and mean the opposite).
    """
    mask = np.ascontiguousarray(read_image(path)[..., 0])
    check_size(path, mask.shape, size)
    other = mask[(mask != 0) & (mask != 255)]
    if other.size:
        raise InputError(f"'{path}' holds the value {other.min()}; expected only 0 (visible) and 255 (occluded)")
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
    check_size(path, numbers.shape[:2], size)
    return numbers[..., 0]


def check_size(path: Path, shape: tuple[int, ...], size: tuple[int, ...]) -> None:
    """Raise InputError unless ``shape``, that of the file ``path``, is the ``size`` (H, W) of its image."""
    if shape != size:
        raise InputError(f"'{path}' is {wxh(shape)}, its image is {wxh(size)}; expected equal sizes")
