"""``camera.develop`` on tensors: the same steps on the same numbers, a batch at a time, on any device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.camera import LEAST_BLUR, Look, blur_reach
from datasets.jpeg import jpeg


def develop_batch(images: Tensor, looks: Sequence[Look], grain: Tensor | None = None) -> Tensor:
    """(N, 3, H, W) float32 in [0, 1] -> the same in whole numbers 0 .. 255, each with its own look.

    grain: (N, 3, H, W) of unit variance, needed where a look has noise.
    """

    def each(name: str) -> Tensor:
        values = np.array([getattr(look, name) for look in looks], np.float32).reshape(len(looks), -1, 1, 1)
        return torch.from_numpy(values).to(images.device)

    images = torch.lerp(images.mean(dim=1, keepdim=True), images, each("saturation"))
    blurred = [number for number, look in enumerate(looks) if look.blur > LEAST_BLUR]
    if blurred:
        images[blurred] = _blurred(images[blurred], [looks[number].blur for number in blurred])
    images = images.clamp_(0, 1).pow_(each("gamma")).mul_(each("gain"))
    if any(look.contrast != 1 for look in looks):
        images = torch.lerp(images.mean(dim=(1, 2, 3), keepdim=True), images, each("contrast"))
    if grain is not None:
        images = images.addcmul_(grain, each("noise"))
    images = images.mul_(255).add_(0.5).clamp_(0, 255).floor_()
    coded = [number for number, look in enumerate(looks) if look.jpeg]
    if coded:
        images[coded] = jpeg(images[coded], [looks[number].jpeg for number in coded])
    return images


def _blurred(images: Tensor, sigmas: Sequence[float]) -> Tensor:
    """(N, 3, H, W), each under a Gaussian of its own, mirrored at its border (the outermost pixel once)."""
    n, channels, height, width = images.shape
    reach = max(map(blur_reach, sigmas))
    taps = np.stack([_taps(sigma, reach) for sigma in sigmas]).repeat(channels, axis=0)
    weight = torch.from_numpy(taps.astype(np.float32)).to(images.device)[:, None, None]  # (N * 3, 1, 1, taps)
    for axis, kernel in ((3, weight), (2, weight.transpose(2, 3))):
        places = torch.from_numpy(_mirrored(images.shape[axis], reach)).to(images.device)
        wide = images.index_select(axis, places)
        images = F.conv2d(wide.view(1, n * channels, *wide.shape[2:]), kernel, groups=n * channels)
        images = images.view(n, channels, height, -1 if axis == 3 else width)
    return images


def _taps(sigma: float, reach: int) -> np.ndarray:
    """(2 reach + 1,) weights of sum 1, which are 0 beyond the reach of this Gaussian."""
    distance = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (distance / sigma) ** 2) * (abs(distance) <= blur_reach(sigma))
    return weights / weights.sum()


def _mirrored(count: int, reach: int) -> np.ndarray:
    """Which of 0 .. count-1 stands at -reach .. count-1+reach."""
    period = max(2 * count - 2, 1)
    place = np.arange(-reach, count + reach) % period
    return np.minimum(place, period - place)
