"""The same network at several sizes of one pair: what a larger copy shows more finely, a smaller one more surely.

At twice the size a token covers half as much of the picture, so that thin things and edges come out; at its own size more of
the scene fits into what a token sees. Where passes agree they are averaged, where they differ the surer one wins.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from stereo.types import DisparityMap

NEAR = 2.0  # px: disparities of two passes that lie closer mean one surface, and are averaged
CLOSE = 1.0  # px: what confidence is about


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
    interpolation = cv2.INTER_AREA if factor > 1 else cv2.INTER_LINEAR
    disp, occlusion, confidence = (
        np.asarray(cv2.resize(x, (width, height), interpolation=interpolation), np.float32)
        for x in (maps.disp, maps.occlusion, maps.confidence)
    )
    return DisparityMap(disp / np.float32(factor), occlusion, 1 - (1 - confidence) ** np.float32(factor))


def merged(passes: Sequence[DisparityMap]) -> DisparityMap:
    """One map of several of the same pair and size; a single one is returned as it is.

    disp: the mean, weighted with confidence, of the surest and of those within NEAR px of it. occlusion: the mean.
    confidence: the mean, in which a pass counts 0 where it differs from the result by CLOSE px or more.
    """
    if len(passes) == 1:
        return passes[0]
    disp, confidence = (np.stack([getattr(x, name) for x in passes]) for name in ("disp", "confidence"))
    surest = confidence.argmax(axis=0)[None]
    chosen = np.take_along_axis(disp, surest, axis=0)
    weights = np.where(np.abs(disp - chosen) < NEAR, confidence, 0)
    np.put_along_axis(weights, surest, np.maximum(np.take_along_axis(confidence, surest, axis=0), 1e-6), axis=0)
    result = (weights * disp).sum(axis=0) / weights.sum(axis=0)
    agrees = np.abs(disp - result) < CLOSE
    return DisparityMap(result, np.mean([x.occlusion for x in passes], axis=0), (confidence * agrees).mean(axis=0))
