"""A small pair for the tests of its page: every number known, every kind of pixel there."""

from __future__ import annotations

from typing import Any

import numpy as np

from stereo.geometry import Calibration
from stereo.types import DisparityMap, Sample

H, W = 32, 64
RIG = Calibration(focal_px=80, cx=30.5, cy=17, baseline_m=0.25, doffs_px=1.5, aspect=1.1)
FACTS: dict[str, Any] = {
    "left": "<script>window.hacked = 1</script>/left.png",
    "right": '"><img src=x onerror="window.hacked = 2">',
    "width": W,
    "height": H,
    "seconds": 0.123,
    "weights": {"name": "tiny-<b>0</b>", "preset": "tiny", "sha256": "00ff"},
    "precision": "fp32",
    "device": "cpu",
    "matched": "the whole image",
    "version": "0.3.0",
}


def quadrants() -> np.ndarray:
    """(H, W, 3) uint8: red and green above, blue and white below, plain enough for a JPEG to keep the colours."""
    image = np.zeros((H, W, 3), np.uint8)
    image[: H // 2, : W // 2] = 230, 20, 20
    image[: H // 2, W // 2 :] = 20, 200, 20
    image[H // 2 :, : W // 2] = 20, 20, 230
    image[H // 2 :, W // 2 :] = 240, 240, 240
    return image


def viewed() -> tuple[np.ndarray, DisparityMap, Sample]:
    """Left image, result and truth: disparities 0 .. 60 px, a third occluded, a corner of the truth unknown."""
    rng = np.random.default_rng(5)
    disp = rng.uniform(0, 60, (H, W)).astype(np.float32)
    disp[3, 5] = 0
    occlusion, confidence = rng.uniform(0, 1, (2, H, W)).astype(np.float32)
    truth = (disp + rng.normal(0, 2, (H, W))).clip(min=0).astype(np.float32)
    valid = np.ones((H, W), bool)
    valid[:4, :4] = False
    left = quadrants()
    return left, DisparityMap(disp, occlusion, confidence), Sample(left, left, truth, valid, occlusion > 0.5)
