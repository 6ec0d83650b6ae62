"""Small blocks that several stages are made of."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each pixel of (B, C, H, W).

    No statistic crosses pixels, images or the batch: what the network computes does not depend on the crop,
    on the partner image, or on who else is in the batch (SPEC P6).
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNormAct(nn.Sequential):
    """3x3 (or k x k) convolution, ChannelNorm, ReLU."""

    def __init__(self, cin: int, cout: int, kernel: int = 3, stride: int = 1, dilation: int = 1):
        super().__init__(
            nn.Conv2d(cin, cout, kernel, stride, dilation * (kernel // 2), dilation, bias=False),
            ChannelNorm(cout),
            nn.ReLU(inplace=True),
        )


class ResidualBlock(nn.Module):
    """x + conv(relu(norm(conv(x)))), normalised at the end."""

    def __init__(self, channels: int, dilation: int = 1):
        super().__init__()
        self.first = ConvNormAct(channels, channels, dilation=dilation)
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False), ChannelNorm(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))
