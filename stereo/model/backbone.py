"""Image features at 1/4 resolution with context from 1/16: the "features" stage."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from stereo.model.layers import ChannelNorm, ConvNorm, ResidualBlock

STRIDE = 4  # pixels per token
GRANULARITY = 16  # the coarsest stride: image sides must be multiples of it


def standardise(image: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> zero mean, unit variance per image, so exposure and contrast of a view cancel."""
    mean = image.mean(dim=(1, 2, 3), keepdim=True)
    return (image - mean) / (image.var(dim=(1, 2, 3), keepdim=True, unbiased=False) + 1e-4).sqrt()


class Backbone(nn.Module):
    """(B, 3, H, W), standardised -> features (B, C, H/4, W/4) and, on the way to them, (B, stem, H/2, W/2).

    Four strides down, three maps summed on the way up.
    """

    def __init__(self, stem: int, channels: int, context: int):
        super().__init__()
        self.at_half = nn.Sequential(ConvNorm(3, stem, stride=2), ConvNorm(stem, stem))
        self.at_quarter = nn.Sequential(ConvNorm(stem, channels, stride=2), ConvNorm(channels, channels))
        self.at_eighth = nn.Sequential(ConvNorm(channels, context, stride=2), ResidualBlock(context))
        self.at_sixteenth = nn.Sequential(ConvNorm(context, context, stride=2), ResidualBlock(context))
        self.lateral = nn.Conv2d(context, context, 1)
        self.merge = nn.Conv2d(context, channels, 1)
        self.norm = ChannelNorm(channels)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        half = self.at_half(image)  # (B, stem, H/2, W/2)
        quarter = self.at_quarter(half)  # (B, C, H/4, W/4)
        eighth = self.at_eighth(quarter)
        sixteenth = self.at_sixteenth(eighth)
        eighth = eighth + F.interpolate(self.lateral(sixteenth), scale_factor=2.0, mode="bilinear", align_corners=False)
        up = F.interpolate(self.merge(eighth), scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.norm(quarter + up), half
