"""Dense decoder from the backbone's maps to token features: the "tokens" stage (SPEC 1.4, light version 1.15)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stereo.model.sttr.backbone import Norm, conv

LAYERS = 4  # of a dense block
BOTTLENECK = 4  # width of a dense layer's hidden map, in units of its growth


def centre_crop(x: Tensor, like: Tensor) -> Tensor:
    """Cut (.., H, W) down to the size of ``like``; of an odd surplus the larger part goes below and to the right."""
    (height, width), (y, x0) = like.shape[-2:], ((a - b) // 2 for a, b in zip(x.shape[-2:], like.shape[-2:], strict=True))
    return x[..., y : y + height, x0 : x0 + width]


class DenseLayer(nn.Module):
    """What DenseNet adds to the channels it has seen: norm, relu, conv1x1, norm, relu, conv3x3."""

    def __init__(self, cin: int, growth: int, of_pair: bool):
        super().__init__()
        hidden = BOTTLENECK * growth
        self.norm1, self.conv1 = Norm(cin, of_pair), conv(cin, hidden, 1)
        self.norm2, self.conv2 = Norm(hidden, of_pair), conv(hidden, growth)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))


class DenseBlock(nn.Module):
    """(2B, cin, h, w) -> (2B, cin + 4 * growth, h, w): each layer's output is appended to its input."""

    def __init__(self, cin: int, growth: int, of_pair: bool):
        super().__init__()
        self.steps = nn.ModuleList(DenseLayer(cin + i * growth, growth, of_pair) for i in range(LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = torch.cat([x, step(x)], dim=1)
        return x


class QuarterDecoder(nn.Module):
    """The three maps -> (2B, 128 + 2 * grown, H/4, W/4): upsampled, skipped and grown channels, grown = 4 * growth.

    As it stands this is the light version's tokenizer with its 64 + 64 + 64 channels, of which the last 128 are the tokens.
    """

    def __init__(self, growth: int, of_pair: bool):
        super().__init__()
        grown = LAYERS * growth
        self.grown = grown
        self.up = nn.ModuleList(nn.ConvTranspose2d(grown, grown, 3, stride=2) for _ in range(2))
        self.blocks = nn.ModuleList(DenseBlock(cin, growth, of_pair) for cin in (128, grown + 128, grown + 64))

    def forward(self, quarter: Tensor, eighth: Tensor, sixteenth: Tensor) -> Tensor:
        x = self.blocks[0](sixteenth)
        for up, block, skip in zip(self.up, self.blocks[1:], (eighth, quarter), strict=True):
            x = centre_crop(up(x[:, -self.grown :]), skip)  # only the grown channels go up
            x = block(torch.cat([x, skip], dim=1))
        return x


class LightTokenizer(nn.Module):
    """Tokens at 1/4 resolution -> (2B, H/4, W/4, C), C = 128: the skipped and the grown channels."""

    def __init__(self, channels: int, growth: int, of_pair: bool):
        super().__init__()
        self.channels = channels
        self.decoder = QuarterDecoder(growth, of_pair)

    def forward(self, images: Tensor, features: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        return self.decoder(*features)[:, -self.channels :].permute(0, 2, 3, 1)


class Tokenizer(nn.Module):
    """A full-resolution map of C channels, of which every ``stride``-th column and row are the tokens -> (2B, h, w, C).

    The map is computed whole and then thinned out: this is the memory that STTR needs (SPEC 1.2). stride 0: all of it.
    """

    def __init__(self, channels: int, growth: int, stride: int, of_pair: bool):
        super().__init__()
        self.step = max(stride, 1)
        self.decoder = QuarterDecoder(growth, of_pair)
        # No activation between the two steps: that is how the public network is built.
        self.up = nn.Sequential(
            nn.ConvTranspose2d(self.decoder.grown, channels, 3, stride=2, bias=False),
            Norm(channels, of_pair),
            nn.ConvTranspose2d(channels, channels, 3, stride=2),
        )
        mix: list[nn.Module] = []
        for cin in (channels + 3, channels):
            mix += [conv(cin, channels), Norm(channels, of_pair), nn.ReLU(inplace=True)]
        self.mix = nn.Sequential(*mix)

    def forward(self, images: Tensor, features: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        grown = self.decoder(*features)[:, -self.decoder.grown :]
        full = self.mix(torch.cat([centre_crop(self.up(grown), images), images], dim=1))
        tokens = slice(self.step // 2, None, self.step)
        return full[:, :, tokens, tokens].permute(0, 2, 3, 1)
