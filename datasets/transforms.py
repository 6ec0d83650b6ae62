"""Augmentation of one pair with its truth: pure functions (Sample, rng, settings) -> Sample, composed by ``augment``.

No function writes into the arrays that it gets, so they may be a read-only memory map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from datasets.camera import Look, develop
from stereo.config import Augmentation
from stereo.types import Sample

Size = tuple[int, int]  # (height, width) px
TRUTH = ("disp", "valid", "occluded", "disp_right", "valid_right", "occluded_right")


# Nothing at all but a crop around the centre: for validation.
_NEVER: dict[str, Any] = {name: 0.0 for name in Augmentation.__dataclass_fields__ if name.endswith("_probability")}
UNCHANGED = Augmentation(**_NEVER, crop="centre")


def augment(sample: Sample, rng: np.random.Generator, settings: Augmentation, size: Size | None = None) -> Sample:
    """The sample, changed at random, cut to ``size`` (H, W) px; None keeps what scaling makes of the whole.

    1 scale, stretch and crop: first, so that all that follows is as small as the crop and counts px of the result.
    2, 3 mirror the columns, which makes the right view the left one, and the rows.
    4 misalign the right view: after the flip has decided which view that is.
    5 colour, blur, noise, JPEG: after everything that resamples, which would smooth the noise.
    6 patches on the right view: last, they stand for evidence that is missing and not for a thing that a camera has seen.
    An image that is smaller than ``size`` is enlarged, by one factor for both axes, until it covers it.
    """
    sample = scale_and_crop(sample, rng, settings, size)
    for step in (flip_views, flip_rows, misalign, recolour, cover):
        sample = step(sample, rng, settings)
    return sample


def scale_and_crop(sample: Sample, rng: np.random.Generator, settings: Augmentation, size: Size | None = None) -> Sample:
    """A window of the pair, resized to ``size`` (H, W) px, or the whole of it times the factors drawn.

    The window is cut before it is resized, which gives what cropping the resized pair would, at the cost of the crop: so
    the window, and with it the factor of the disparities, is a whole number of px.
    """
    height, width = sample.left.shape[:2]
    factor_y = factor_x = 1.0
    if rng.random() < settings.scale_probability:
        low, high = np.log(settings.scale)
        factor_y = float(np.exp(rng.uniform(low, high)))
        factor_x = factor_y * _factor(rng, settings.stretch)
    if size is None:
        return resized(sample, (max(1, round(height * factor_y)), max(1, round(width * factor_x))))
    lift = max(1.0, size[0] / (height * factor_y), size[1] / (width * factor_x))
    window = [
        min(length, max(1, round(wanted / (factor * lift))))
        for length, wanted, factor in zip((height, width), size, (factor_y, factor_x), strict=True)
    ]
    room = height - window[0], width - window[1]
    top, left = (rng.integers(0, np.array(room) + 1) if settings.crop == "random" else np.array(room) // 2).tolist()
    return resized(cropped(sample, top, left, (window[0], window[1])), size)


def cropped(sample: Sample, top: int, left: int, size: Size) -> Sample:
    """The same window of both views, ``size`` (H, W) px from row ``top`` and column ``left``; disparities stay.

    A pixel whose match the window leaves out is occluded from now on, in either view.
    """
    window = slice(top, top + size[0]), slice(left, left + size[1])
    return _with_lost_matches(_each(sample, lambda image: image[window], lambda known: known[window]))


def resized(sample: Sample, size: Size) -> Sample:
    """Both views at ``size`` (H, W) px, disparities times the factor of the width.

    Truth is taken at the nearest pixel, whether it is sparse or dense: a mean of two surfaces is a disparity that neither has.
    Match columns scale with the pixels' corners, so the outermost half pixel may leave the frame; it becomes occluded.
    """
    height, width = sample.left.shape[:2]
    if (height, width) == size:
        return sample
    # The pixel that holds the centre x + 1/2 of the new one, in whole numbers: (2x + 1) * old / (2 * new), rounded down.
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(size, (height, width), strict=True))
    nearest = np.ix_(rows, columns)
    shrinks = size[0] <= height and size[1] <= width
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    sample = _each(sample, lambda image: cv2.resize(image, size[::-1], interpolation=method), lambda known: known[nearest])
    factor = np.float32(size[1] / width)
    disp, disp_right = (None if known is None else known * factor for known in (sample.disp, sample.disp_right))
    return _with_lost_matches(replace(sample, disp=disp, disp_right=disp_right))


def flip_views(sample: Sample, rng: np.random.Generator, settings: Augmentation) -> Sample:
    """Mirror the columns: the mirrored right view is a left view, with the right view's truth.

    Without that truth (its disparities, and its occlusion where the left one is known) nothing happens.
    """
    known = sample.disp_right is not None and (sample.occluded is None or sample.occluded_right is not None)
    if rng.random() >= settings.flip_probability or not known:
        return sample
    mirrored = _each(sample, lambda image: image[:, ::-1].copy(), lambda known: known[:, ::-1].copy())
    swapped = {name: getattr(mirrored, f"{name}_right") for name in ("disp", "valid", "occluded")}
    swapped |= {f"{name}_right": getattr(mirrored, name) for name in ("disp", "valid", "occluded")}
    return replace(mirrored, left=mirrored.right, right=mirrored.left, **swapped)


def flip_rows(sample: Sample, rng: np.random.Generator, settings: Augmentation) -> Sample:
    """Upside down; disparities stay."""
    if rng.random() >= settings.vertical_flip_probability:
        return sample
    return _each(sample, lambda image: image[::-1].copy(), lambda known: known[::-1].copy())


def misalign(sample: Sample, rng: np.random.Generator, settings: Augmentation) -> Sample:
    """Move and turn the right view a little, as an imperfect rectification does; the truth stays that of the aligned pair."""
    if rng.random() >= settings.misalign_probability:
        return sample
    shift, degrees = (rng.uniform(-limit, limit) for limit in (settings.shift, settings.rotation))
    return replace(sample, right=tilted(sample.right, shift, degrees))


def tilted(image: np.ndarray, shift: float, degrees: float) -> np.ndarray:
    """(H, W, 3) uint8, moved down by ``shift`` px and turned counter-clockwise about its centre; its border is repeated."""
    height, width = image.shape[:2]
    motion = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    motion[1, 2] += shift
    return cv2.warpAffine(image, motion, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def recolour(sample: Sample, rng: np.random.Generator, settings: Augmentation) -> Sample:
    """Another light for both views, and a camera of its own for each: colour, gamma, blur, noise, JPEG."""
    coloured = rng.random() < settings.colour_probability
    common = _draw_colour(rng, settings, 1.0) if coloured else Look()
    images = []
    for image in (sample.left, sample.right):
        look = common.then(_draw_colour(rng, settings, settings.asymmetry)) if coloured else common
        look = look.then(_draw_camera(rng, settings))
        grain = rng.standard_normal(image.shape, dtype=np.float32) if look.noise else None
        images.append(image if look == Look() else develop(image.astype(np.float32) / 255, look, grain))
    return replace(sample, left=images[0], right=images[1])


def cover(sample: Sample, rng: np.random.Generator, settings: Augmentation) -> Sample:
    """Hide up to ``patches`` rectangles of the right view behind its mean colour or noise; the truth stays.

    What is to be learned there is the disparity that the surroundings suggest, so a hidden match is not called occluded.
    """
    if rng.random() >= settings.patch_probability:
        return sample
    right = sample.right.copy()
    mean = sample.right.mean(axis=(0, 1)).round().astype(np.uint8)
    for _ in range(rng.integers(1, settings.patches + 1)):
        sides = rng.integers(settings.patch_size[0], settings.patch_size[1] + 1, 2)
        corner = rng.integers(0, right.shape[:2]) - sides // 2  # the centre lies in the image
        rows, columns = (slice(max(0, start), start + side) for start, side in zip(corner, sides, strict=True))
        patch = right[rows, columns]
        patch[:] = mean if rng.random() < 0.5 else rng.integers(0, 256, patch.shape, np.uint8)
    return replace(sample, right=right)


def _each(sample: Sample, image: Callable[[np.ndarray], np.ndarray], truth: Callable[[np.ndarray], np.ndarray]) -> Sample:
    """The sample with both images and whatever is known passed through."""
    changed: dict[str, Any] = {name: truth(getattr(sample, name)) for name in TRUTH if getattr(sample, name) is not None}
    return replace(sample, left=image(sample.left), right=image(sample.right), **changed)


def _with_lost_matches(sample: Sample) -> Sample:
    """Known matches outside the frame, by geometry's rule (below 0 or above W - 1), become occluded in both views."""
    width = sample.left.shape[1]
    columns = np.arange(width, dtype=np.float32)
    occluded, occluded_right = sample.occluded, sample.occluded_right
    if occluded is not None and sample.disp is not None:
        occluded = occluded | (sample.valid & (columns - sample.disp < 0))
    if occluded_right is not None and sample.disp_right is not None:
        occluded_right = occluded_right | (sample.valid_right & (columns + sample.disp_right > width - 1))
    return replace(sample, occluded=occluded, occluded_right=occluded_right)


def _factor(rng: np.random.Generator, limit: float, share: float = 1.0) -> float:
    """A factor up to ``limit`` as Augmentation means it, its logarithm cut down to a share."""
    return float((1 + limit) ** rng.uniform(-share, share))


def _draw_colour(rng: np.random.Generator, settings: Augmentation, share: float) -> Look:
    gain = _factor(rng, settings.brightness, share)
    r, g, b = (gain * _factor(rng, settings.hue, share) for _ in range(3))
    return Look(
        saturation=_factor(rng, settings.saturation, share),
        gamma=_factor(rng, settings.gamma, share),
        gain=(r, g, b),
        contrast=_factor(rng, settings.contrast, share),
    )


def _draw_camera(rng: np.random.Generator, settings: Augmentation) -> Look:
    low, high = settings.jpeg
    return Look(
        blur=rng.uniform(0, settings.blur) if rng.random() < settings.blur_probability else 0.0,
        noise=rng.uniform(0, settings.noise) / 255 if rng.random() < settings.noise_probability else 0.0,
        jpeg=int(rng.integers(low, high + 1)) if rng.random() < settings.jpeg_probability else 0,
    )
