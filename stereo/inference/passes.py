"""The same network at several sizes of one pair: what a larger copy shows more finely, a smaller one more surely.

At twice the size a token covers a quarter of the area, so that thin things and edges come out; at half the size more of the
scene fits into what a token sees, and disparities are half as large. Where passes agree they are averaged, where they differ
the surer one wins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from stereo.types import DisparityMap, InputError

SIZES = 0.25, 4.0  # of a pass, times the pair's own: least and most
MIN_SIDE = 32  # px, of a pair and of its copies
EDGE = 1.0  # px of a small map: neighbours that differ by more lie on two surfaces
NEAR = 2.0  # px: disparities of two passes that lie closer mean one surface, and are averaged
CLOSE = 1.0  # px: what confidence is about
AROUND = 17  # px: side of the square whose mean confidence says which pass is the surest in its middle


def check_sizes(sizes: Sequence[float] | None, height: int | None = None, width: int | None = None) -> None:
    """Raise InputError for no size, one outside SIZES, or one that makes a side of height x width px shorter than MIN_SIDE."""
    if sizes is None:
        return
    if not sizes or not all(SIZES[0] <= size <= SIZES[1] for size in sizes):
        given = ", ".join(f"{size:g}" for size in sizes) or "none"
        raise InputError(f"got sizes {given}, expected factors from {SIZES[0]:g} to {SIZES[1]:g} of the pair's own size")
    if height and width and not fits(min(sizes), height, width):
        small = f"{round(width * min(sizes))}x{round(height * min(sizes))} px"
        fix = f"expected at least {MIN_SIDE} px on each side, give a larger one"
        raise InputError(f"size {min(sizes):g} makes {small} of {width}x{height} px; {fix}")


def fits(size: float, height: int, width: int) -> bool:
    """Whether a copy of height x width px at ``size`` times its sides is one that a network can be given."""
    return round(min(height, width) * size) >= MIN_SIDE


def resized(image: np.ndarray, factor: float) -> np.ndarray:
    """(H, W, 3) uint8 -> the same at ``factor`` times its sides, rounded; itself where that changes nothing."""
    height, width = image.shape[:2]
    size = max(1, round(width * factor)), max(1, round(height * factor))
    if size == (width, height):
        return image
    interpolation = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(np.ascontiguousarray(image), size, interpolation=interpolation), np.uint8)


def brought_back(maps: DisparityMap, height: int, width: int) -> DisparityMap:
    """Maps of a resized pair at the size of the pair: disparities in px of the given width, and confidence about those px.

    Confidence is the probability that the error is below 1 px. If errors are distributed as Laplace says, 1 - confidence is
    exp(-1 / b); of a copy f times as wide, 1 px here is f px there, so 1 - confidence becomes exp(-f / b), its f-th power.
    """
    if maps.disp.shape == (height, width):
        return maps
    factor = maps.disp.shape[1] / width
    size, interpolation = (width, height), cv2.INTER_AREA if factor > 1 else cv2.INTER_LINEAR
    disp, occlusion, confidence = (
        np.asarray(cv2.resize(x, size, interpolation=interpolation), np.float32)
        for x in (maps.disp, maps.occlusion, maps.confidence)
    )
    if factor < 1:
        disp = np.where(_on_edge(maps.disp, size), cv2.resize(maps.disp, size, interpolation=cv2.INTER_NEAREST_EXACT), disp)
    return DisparityMap(disp / np.float32(factor), occlusion, 1 - (1 - confidence) ** np.float32(factor))


def _on_edge(disp: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Where a map that is enlarged to ``size`` takes the nearest neighbour: the mean of two surfaces lies on neither."""
    kernel = np.ones((3, 3), np.uint8)
    step = cv2.dilate(disp, kernel) - cv2.erode(disp, kernel)
    return np.asarray(cv2.resize(step, size, interpolation=cv2.INTER_NEAREST_EXACT)) > EDGE


def merged(sized: Mapping[float, DisparityMap]) -> DisparityMap:
    """One map of several of a pair, brought back from those sizes; a single one is returned as it is.

    disp: the mean, weighted with confidence, of the surest and of those within NEAR px of it. Which one is the surest is asked
    of a neighbourhood: surfaces are larger than pixels, and single pixels would change sides in a checkered way.
    occlusion: the mean, weighted with the size: its edges are sharper in a larger copy.
    confidence: the mean, in which a pass counts 0 where it differs from the result by CLOSE px or more.
    """
    passes = list(sized.values())
    if len(passes) == 1:
        return passes[0]
    occlusion = np.average([x.occlusion for x in passes], axis=0, weights=list(sized)).astype(np.float32)
    disp, confidence = (np.stack([getattr(x, name) for x in passes]) for name in ("disp", "confidence"))
    surest = np.argmax([cv2.blur(x, (AROUND, AROUND)) for x in confidence], axis=0)[None]
    chosen = np.take_along_axis(disp, surest, axis=0)
    weights = np.where(np.abs(disp - chosen) < NEAR, confidence, 0)
    np.put_along_axis(weights, surest, np.maximum(np.take_along_axis(confidence, surest, axis=0), 1e-6), axis=0)
    result = (weights * disp).sum(axis=0) / weights.sum(axis=0)
    agrees = np.abs(disp - result) < CLOSE
    return DisparityMap(result, occlusion, (confidence * agrees).mean(axis=0))
