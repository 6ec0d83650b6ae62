"""How the generator's two cameras look at the same light: a pair as arrays, or a batch of pairs as tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from datasets.camera import Look, develop
from datasets.developing import develop_batch
from datasets.grain import grain
from datasets.procedural.shots import Development


def photometric(left: np.ndarray, right: np.ndarray, how: Development) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) float32 in [0, 1] -> uint8 pair. Geometry is not touched, so the ground truth stays true."""
    scale, offset = _exposure(left, how)
    # One field of grain, turned by half a turn for the other view: no pixel meets its own, at half the cost of two fields.
    noise = grain([how.grain], *left.shape[:2])[0].permute(1, 2, 0).contiguous().numpy()
    first = develop(left * scale + offset, how.looks[0], noise)
    return first, develop(right * scale + offset, how.looks[1], noise[::-1, ::-1])


def photometric_batch(left: Tensor, right: Tensor, how: Sequence[Development | None]) -> tuple[Tensor, Tensor]:
    """(B, 3, H, W) float32 in [0, 1] -> the same in whole numbers 0 .. 255; without a development they are only rounded."""
    looks = [d.looks if d else (Look(), Look()) for d in how]
    noise = None
    if any(how):
        scale, offset = _exposures(left, how)
        left, right = left * scale + offset, right * scale + offset
        noise = grain([d.grain if d else 0 for d in how], left.shape[2], left.shape[3], left.device)
    first = develop_batch(left, [look for look, _ in looks], noise)
    return first, develop_batch(right, [look for _, look in looks], None if noise is None else noise.flip(2, 3))


DARKEST, BRIGHTEST = 0.01, 0.99  # quantiles of the left view


def _exposure(left: np.ndarray, how: Development) -> tuple[np.float32, np.float32]:
    """Scale and offset of both views: what lies between the darkest and the brightest per cent fills most of the range."""
    low, high = np.quantile(left[::4, ::4], (DARKEST, BRIGHTEST))
    scale = min((how.bright - how.dark) / max(high - low, 0.05), 3.0)
    return np.float32(scale), np.float32(how.dark - low * scale)


def _exposures(left: Tensor, how: Sequence[Development | None]) -> tuple[Tensor, Tensor]:
    """The same of (B, 3, H, W), each (B, 1, 1, 1)."""
    ordered = left[:, :, ::4, ::4].flatten(1).sort(dim=1).values
    low, high = (_quantile(ordered, share) for share in (DARKEST, BRIGHTEST))
    given = torch.tensor([(d.dark, d.bright, 1.0) if d else (0.0, 1.0, 0.0) for d in how]).to(left.device)
    dark, bright, wanted = given.T
    scale = torch.where(wanted > 0, ((bright - dark) / (high - low).clamp(min=0.05)).clamp(max=3.0), 1.0)
    offset = torch.where(wanted > 0, dark - low * scale, 0.0)
    return scale.view(-1, 1, 1, 1), offset.view(-1, 1, 1, 1)


def _quantile(ordered: Tensor, share: float) -> Tensor:
    """(B, N) sorted -> (B,), between the two values beside the place; torch.quantile stops at 16 million values."""
    place = share * (ordered.shape[1] - 1)
    low = int(place)
    return torch.lerp(ordered[:, low], ordered[:, min(low + 1, ordered.shape[1] - 1)], place - low)
