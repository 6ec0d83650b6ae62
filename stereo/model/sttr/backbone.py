"""Image features at 1/4, 1/8 and 1/16 with pooled context: the "features" stage (SPEC 1.3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

POOLS = (16, 8, 4, 2)  # sides of the pooling windows, in pixels of the 1/8 map
MIN_SIDE = 8 * (POOLS[0] - 1) + 1  # px: the widest window must fit on the 1/8 map


class Norm(nn.Module):
    """Affine normalisation of (2B, C, H, W), left images first, by statistics of the input itself, never running ones.

    of_pair: over the two images of a pair together, as the published network does with its batch of one pair (SPEC P6).
    Otherwise over each image alone, so that neither the partner image nor the batch changes what an image looks like.
    A channel of one pixel per image, which the widest pooling leaves below 249 px, then carries its bias only.
    """

    def __init__(self, channels: int, of_pair: bool):
        super().__init__()
        self.of_pair = of_pair
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        if not self.of_pair:
            return F.group_norm(x, len(self.weight), self.weight, self.bias, eps=1e-5)
        pairs = len(x) // 2
        if pairs == 1:  # the same as below without a copy
            return self._over_all(x)
        return torch.stack([self._over_all(x[i::pairs]) for i in range(pairs)], dim=1).flatten(0, 1)

    def _over_all(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=1e-5)


def conv(cin: int, cout: int, side: int = 3, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    """side x side convolution that keeps the size (but for the stride), initialised as published (SPEC 1.5)."""
    layer = nn.Conv2d(cin, cout, side, stride, padding=side // 2, bias=bias)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class ResidualUnit(nn.Module):
    """ResNet's basic block: relu(shortcut(x) + norm(conv(relu(norm(conv(x))))))."""

    def __init__(self, cin: int, cout: int, stride: int, of_pair: bool):
        super().__init__()
        self.conv1, self.first_norm = conv(cin, cout, stride=stride), Norm(cout, of_pair)
        self.conv2, self.second_norm = conv(cout, cout), Norm(cout, of_pair)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut = nn.Sequential(conv(cin, cout, 1, stride), Norm(cout, of_pair))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first_norm(self.conv1(x)))
        return F.relu(self.second_norm(self.conv2(y)) + self.shortcut(x))


class SttrBackbone(nn.Module):
    """(2B, 3, H, W), normalised -> maps of 64 channels at 1/4, 128 at 1/8, 128 at 1/16."""

    def __init__(self, of_pair: bool):
        super().__init__()
        stem: list[nn.Module] = []
        for cin, cout, stride in ((3, 16, 2), (16, 16, 1), (16, 32, 1)):
            stem += [conv(cin, cout, stride=stride), Norm(cout, of_pair), nn.ReLU(inplace=True)]
        self.stem = nn.Sequential(*stem)
        self.to_quarter, self.to_eighth = (
            nn.Sequential(*(ResidualUnit(*((cin, cout, 2) if i == 0 else (cout, cout, 1)), of_pair) for i in range(3)))
            for cin, cout in ((32, 64), (64, 128))
        )
        self.pooled = nn.ModuleList(
            nn.Sequential(nn.AvgPool2d(side), conv(128, 32, 1), Norm(32, of_pair), nn.ReLU(inplace=True))
            for side in POOLS
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        quarter = self.to_quarter(self.stem(images))
        eighth = self.to_eighth(quarter)
        size = [-(-side // 16) for side in images.shape[-2:]]
        context = [F.interpolate(pool(eighth), size, mode="bilinear", align_corners=False) for pool in self.pooled]
        return quarter, eighth, torch.cat(context, dim=1)
