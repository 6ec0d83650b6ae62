"""What two real cameras do to the same light: exposure, gamma, colour cast, blur, noise, JPEG. Each view draws its own."""

from __future__ import annotations

import cv2
import numpy as np


def photometric(
    left: np.ndarray, right: np.ndarray, rng: np.random.Generator, factor: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) float32 in [0, 1] -> uint8 pair. Geometry is not touched, so the ground truth stays true.

    factor: of what tells the views apart.
    """
    common = _draw_look(rng, 1.0) | {"levels": _exposure(left, rng)}
    own = rng.random() < 0.7
    strength = factor * (0.5 if own else 0.05)
    # One field of grain, turned by half a turn for the other view: no pixel meets its own, at half the cost of two fields.
    grain = rng.standard_normal(left.shape, dtype=np.float32)
    first = _apply(left, common, _draw_look(rng, strength), grain)
    return first, _apply(right, common, _draw_look(rng, strength), grain[::-1, ::-1])


def _exposure(left: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Scale and offset of both views: what lies between the darkest and the brightest per cent fills most of the range."""
    low, high = np.percentile(left[::4, ::4], (1, 99))
    dark, bright = rng.uniform(0, 0.15), rng.uniform(0.75, 1.05)
    scale = min((bright - dark) / max(high - low, 0.05), 3.0)
    return scale, dark - low * scale


def _draw_look(rng: np.random.Generator, strength: float) -> dict:
    return {
        "saturation": rng.uniform(0.1, 1.0) if strength == 1.0 else 1.0,
        "gain": np.exp(rng.normal(0, 0.18 * strength)) * np.exp(rng.normal(0, 0.06 * strength, 3)),
        "gamma": np.exp(rng.normal(0, 0.2 * strength)),
        "blur": abs(rng.normal(0, 0.7 * strength)),
        "noise": abs(rng.normal(0, 0.015 * strength)),
        "jpeg": int(rng.integers(35, 96)) if rng.random() < 0.25 * strength else 0,
    }


def _apply(image: np.ndarray, common: dict, own: dict, grain: np.ndarray) -> np.ndarray:
    keep = np.float32(common["saturation"])
    image = image @ (keep * np.eye(3, dtype=np.float32) + (1 - keep) / 3)  # towards the mean of the channels
    sigma = float(np.hypot(common["blur"], own["blur"]))
    if sigma > 0.25:
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    scale, offset = common["levels"]
    image = np.clip(image * np.float32(scale) + np.float32(offset), 0, 1) ** np.float32(common["gamma"] * own["gamma"])
    image = image * (common["gain"] * own["gain"]).astype(np.float32)
    noise = float(np.hypot(common["noise"], own["noise"]))
    image = image + grain * np.float32(noise)
    image = np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)
    quality = own["jpeg"] or common["jpeg"]
    if quality:
        coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        image = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))
    return image
