"""Disparities of a film that do not flicker where nothing moves."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from stereo.types import DisparityMap, InputError

CHANGE = 12.0  # grey levels, after a mean over 3 x 3 px: the picture has changed there
SPREAD = 7  # px: side of the square around a changed pixel that counts as changed; edges of disparities are that unsure
CONTRADICTION = 0.75  # px of disparity times confidence
CUT = 0.5  # share of changed pixels: another scene


class TemporalFilter:
    """A recursive mean over time, weighted with the confidence, of one view.

    With the disparities d(t), the confidences c(t) in [0, 1] and the strength s in [0, 1], per pixel:

        h(t) = keep(t) * s * W(t-1)                        weight of the past
        W(t) = h(t) + c(t)
        D(t) = (h(t) * D(t-1) + c(t) * d(t)) / W(t)        the result; d(t) where W(t) = 0

    so that while keep = 1 it is D(t) = sum of s^k c(t-k) d(t-k) / sum of s^k c(t-k), k = 0 .. t: of constant confidence the
    exponential mean in which the newest frame has the weight 1 - s. keep(t) is 0, and the pixel begins anew, where

    - the picture has changed within SPREAD px: a channel, averaged over 3 x 3 px, by more than CHANGE levels since the last
    - c(t) * |d(t) - D(t-1)| > CONTRADICTION: a sure pixel says that its surface has moved; an unsure one is noise
    - more than CUT of the picture has changed, or its size: a cut, counted in ``cuts``.

    So a thing that moves across the view carries no trail, and one that moves in depth lags by less than CONTRADICTION / c px.
    Raises InputError for a strength outside [0, 1].
    """

    def __init__(self, strength: float):
        if not 0 <= strength <= 1:
            raise InputError(f"got --smooth {strength:g}, expected 0 (off) to 1 (the mean over all that has not changed)")
        self.strength = strength
        self.cuts = 0
        self._image: np.ndarray | None = None
        self._disp = self._weight = np.zeros((0, 0), np.float32)  # D and W

    def __call__(self, image: np.ndarray, result: DisparityMap) -> DisparityMap:
        """``result`` of ``image`` (H, W, 3) uint8 with the disparities D(t); occlusion and confidence are the frame's own."""
        if self.strength == 0:
            return result
        blurred = np.asarray(cv2.blur(image, (3, 3)))
        if self._image is None or self._image.shape != blurred.shape:
            self.cuts += self._image is not None
            past, history = result.disp, np.zeros_like(result.disp)
        else:
            past, history = self._disp, self.strength * self._weight * self._kept(blurred, self._image, result)
        weight = history + result.confidence
        mean = (history * past + result.confidence * result.disp) / np.maximum(weight, np.finfo(np.float32).tiny)
        self._image, self._weight = blurred, weight
        self._disp = np.where(weight > 0, mean, result.disp).astype(np.float32)
        return replace(result, disp=self._disp)

    def _kept(self, image: np.ndarray, before: np.ndarray, result: DisparityMap) -> np.ndarray:
        """(H, W) float32, 1 where the past counts and 0 where the pixel begins anew."""
        change = cv2.absdiff(image, before).max(axis=2) > CHANGE
        if change.mean() > CUT:
            self.cuts += 1
            return np.zeros_like(result.disp)
        changed = cv2.dilate(change.astype(np.uint8), np.ones((SPREAD, SPREAD), np.uint8)) > 0
        moved = result.confidence * np.abs(result.disp - self._disp) > CONTRADICTION
        return np.float32(1) - (changed | moved)
