"""Context adjustment: the "refine" stage (STTR section 3.5, SPEC 1.12). It sees the image and the raw maps, 37 px around."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from stereo.model.sttr.backbone import conv

EPSILON = 1e-6  # added to a standard deviation


def standardise(disp: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, H, W) -> the map at mean 0 and deviation 1, and both, of each image by itself (SPEC P18)."""
    mean = disp.mean(dim=(1, 2), keepdim=True)
    deviation = disp.std(dim=(1, 2), keepdim=True) + EPSILON  # unbiased, as the weights were trained with
    return (disp - mean) / deviation, mean, deviation


def normed_conv(cin: int, cout: int) -> nn.Conv2d:
    """3x3 with its weight as length times direction; PyTorch's own initial weight, as published (SPEC 1.5)."""
    layer = nn.Conv2d(cin, cout, 3, padding=1)
    nn.init.zeros_(cast(Tensor, layer.bias))
    return weight_norm(layer)


class AdjustBlock(nn.Module):
    """x + a wide convolution, ReLU and a narrow one of (disparity, x)."""

    def __init__(self, channels: int, expansion: int):
        super().__init__()
        wide = expansion * channels
        self.body = nn.Sequential(normed_conv(channels + 1, wide), nn.ReLU(inplace=True), normed_conv(wide, channels))

    def forward(self, disp: Tensor, x: Tensor) -> Tensor:
        return x + self.body(torch.cat([disp, x], dim=1))


class ContextAdjustment(nn.Module):
    """WDSR-like residual blocks that meet the disparity again in each; a short chain for the occlusion."""

    def __init__(self, blocks: int, channels: int, expansion: int):
        super().__init__()
        c = channels
        self.enter = conv(4, c, bias=True)
        self.blocks = nn.ModuleList(AdjustBlock(c, expansion) for _ in range(blocks))
        self.leave = conv(c, 1, bias=True)
        # Twice two convolutions without an activation between them: the published network's own.
        self.occlusion = nn.Sequential(
            normed_conv(4, c), normed_conv(c, c), nn.ReLU(inplace=True),
            normed_conv(c, c), normed_conv(c, c), nn.ReLU(inplace=True),
            conv(c, 1, bias=True),
        )  # fmt: skip

    def forward(self, disp: Tensor, occlusion: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """disp standardised and occlusion in [-1, 1], (B, 1, H, W), image (B, 3, H, W) normalised
        -> standardised disparity and occlusion logits, (B, 1, H, W)."""
        x = self.enter(torch.cat([disp, image], dim=1))
        for block in self.blocks:
            x = block(disp, x)
        return disp + self.leave(x), self.occlusion(torch.cat([occlusion, image], dim=1))


def upsample_nearest(x: Tensor, size: tuple[int, int], stride: int | None) -> Tensor:
    """(B, h, w) -> (B, H, W): every pixel takes the token whose cell of ``stride`` px it lies in.

    stride None: tokens are stretched over the image, whatever the remainder of its size, as published (SPEC P3): on a width
    that is no multiple of the stride the cells drift against the pixels that the tokens were taken from.
    """
    if stride is None:
        return F.interpolate(x[:, None], size, mode="nearest")[:, 0]
    rows, columns = (
        (torch.arange(n, device=x.device) // stride).clamp(max=m - 1) for n, m in zip(size, x.shape[1:], strict=True)
    )
    return x[:, rows[:, None], columns]
