"""What JPEG does to a picture, on tensors: the arithmetic of a baseline encoder and decoder without the file in between."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# ITU-T T.81, tables K.1 and K.2: quantiser steps of luminance and chrominance at quality 50, frequencies growing along rows
# and down columns.
LUMINANCE = (
    16, 11, 10, 16, 24, 40, 51, 61,
    12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77,
    24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
CHROMINANCE = (
    17, 18, 24, 47, 99, 99, 99, 99,
    18, 21, 26, 66, 99, 99, 99, 99,
    24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99,
    *([99] * 32),
)  # fmt: skip

# ITU-R BT.601 with differences scaled to +-0.5, as JFIF wants them.
RED, BLUE = 0.299, 0.114
GREEN = 1 - RED - BLUE


def jpeg(images: Tensor, qualities: Sequence[int]) -> Tensor:
    """(N, 3, H, W) RGB, whole numbers 0 .. 255 as float32, compressed with quality 1 .. 100 each -> the same after decoding.

    Colour at half the resolution, 8 x 8 blocks, steps scaled by the quality and numbers rounded as libjpeg does; its
    arithmetic differs in the last bits, which changes a grey level here and there.
    """
    height, width = images.shape[2:]
    images = F.pad(images, (0, -width % 16, 0, -height % 16), mode="replicate")
    y, b, r = _ycc(images)
    steps = [torch.tensor([_steps(table, q) for q in qualities]).to(images.device) for table in (LUMINANCE, CHROMINANCE)]
    y = _requantised(y, steps[0])
    b, r = (_requantised(_halved(x), steps[1]) for x in (b, r))
    b, r = (F.interpolate(x[:, None], scale_factor=2, mode="bilinear")[:, 0].round() - 128 for x in (b, r))
    red, blue = y + 2 * (1 - RED) * r, y + 2 * (1 - BLUE) * b
    green = y - (2 * RED * (1 - RED) / GREEN) * r - (2 * BLUE * (1 - BLUE) / GREEN) * b
    return torch.stack([red, green, blue], dim=1).round().clamp(0, 255)[:, :, :height, :width]


def _ycc(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Luminance and the two differences of colour, (N, H, W) each, whole numbers 0 .. 255."""
    red, green, blue = images.unbind(1)
    y = RED * red + GREEN * green + BLUE * blue
    b, r = (blue - y) / (2 * (1 - BLUE)) + 128, (red - y) / (2 * (1 - RED)) + 128
    return y.round(), b.round(), r.round()


def _halved(plane: Tensor) -> Tensor:
    """Means of 2 x 2, rounded down and up in turn from column to column, as libjpeg does to stay true on average."""
    sums = 4 * F.avg_pool2d(plane[:, None], 2)[:, 0]
    bias = 1 + torch.arange(sums.shape[-1], device=plane.device) % 2
    return ((sums + bias) / 4).floor()


def _steps(table: Sequence[int], quality: int) -> list[int]:
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return [min(max((step * percent + 50) // 100, 1), 255) for step in table]


def _requantised(plane: Tensor, steps: Tensor) -> Tensor:
    """(N, H, W), (N, 64) -> the plane as its rounded cosine coefficients give it back."""
    n, height, width = plane.shape
    basis = _cosines(plane.device)
    blocks = (plane - 128).view(n, height // 8, 8, width // 8, 8)
    steps = steps.float().view(n, 1, 8, 1, 8)
    along = blocks @ basis.T
    coefficients = (along.transpose(2, 4) @ basis.T).transpose(2, 4)
    eighths, half = (8 * coefficients).round(), (4 * steps).floor()  # libjpeg's transform gives whole eighths: ties are common
    rounded = eighths.sign() * ((eighths.abs() + half) / (8 * steps)).floor() * steps
    down = (rounded.transpose(2, 4) @ basis).transpose(2, 4)
    return ((down @ basis).reshape(n, height, width) + 128).round().clamp(0, 255)


def _cosines(device: torch.device) -> Tensor:
    """(8, 8): orthonormal cosines, a frequency per row."""
    frequency, place = torch.arange(8.0)[:, None], torch.arange(8.0)
    basis = torch.cos(math.pi / 8 * frequency * (place + 0.5)) / 2
    basis[0] /= math.sqrt(2)
    return basis.to(device)
