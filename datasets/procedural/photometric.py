"""How the generator's two cameras look at the same light: what they share, and what each draws for itself."""

from __future__ import annotations

import numpy as np

from datasets.camera import Look, develop


def photometric(
    left: np.ndarray, right: np.ndarray, rng: np.random.Generator, factor: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) float32 in [0, 1] -> uint8 pair. Geometry is not touched, so the ground truth stays true.

    factor: of what tells the views apart.
    """
    scale, offset = _exposure(left, rng)
    common = _draw_look(rng, 1.0)
    own = rng.random() < 0.7
    strength = factor * (0.5 if own else 0.05)
    # One field of grain, turned by half a turn for the other view: no pixel meets its own, at half the cost of two fields.
    grain = rng.standard_normal(left.shape, dtype=np.float32)
    first = develop(left * scale + offset, common.then(_draw_look(rng, strength)), grain)
    return first, develop(right * scale + offset, common.then(_draw_look(rng, strength)), grain[::-1, ::-1])


def _exposure(left: np.ndarray, rng: np.random.Generator) -> tuple[np.float32, np.float32]:
    """Scale and offset of both views: what lies between the darkest and the brightest per cent fills most of the range."""
    low, high = np.percentile(left[::4, ::4], (1, 99))
    dark, bright = rng.uniform(0, 0.15), rng.uniform(0.75, 1.05)
    scale = min((bright - dark) / max(high - low, 0.05), 3.0)
    return np.float32(scale), np.float32(dark - low * scale)


def _draw_look(rng: np.random.Generator, strength: float) -> Look:
    saturation = rng.uniform(0.1, 1.0) if strength == 1.0 else 1.0
    r, g, b = np.exp(rng.normal(0, 0.18 * strength)) * np.exp(rng.normal(0, 0.06 * strength, 3))
    return Look(
        saturation=saturation,
        gain=(r, g, b),
        gamma=np.exp(rng.normal(0, 0.2 * strength)),
        blur=abs(rng.normal(0, 0.7 * strength)),
        noise=abs(rng.normal(0, 0.015 * strength)),
        jpeg=int(rng.integers(35, 96)) if rng.random() < 0.25 * strength else 0,
    )
