"""Small blocks that several stages are made of."""

from __future__ import annotations

from torch import Tensor, nn

from stereo import kernels

ONEDNN_BLOCK = 16  # channels


class TokenNorm(nn.LayerNorm):
    """Layer normalisation over the last dimension, the channels of each token; then ``residual`` is added, then ReLU.

    No statistic crosses pixels, images or the batch: what the network computes does not depend on the crop,
    on the partner image, or on who else is in the batch (SPEC P6). kernel: a backend of stereo.kernels.
    """

    kernel = "auto"

    def forward(self, x: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        return kernels.channel_norm(self.kernel, x)(x, self.weight, self.bias, residual, relu, self.eps)


class ChannelNorm(TokenNorm):
    """The same over the channels of each pixel of (B, C, H, W)."""

    def forward(self, x: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        residual = None if residual is None else residual.permute(0, 2, 3, 1)
        return super().forward(x.permute(0, 2, 3, 1), residual, relu).permute(0, 3, 1, 2)


class Convolution(nn.Conv2d):
    """nn.Conv2d, kept clear of a defect of oneDNN (seen with PyTorch 2.13) that training in bfloat16 meets on CPUs.

    Of a dilated convolution of channels-last maps whose channels are no multiple of 16 it returns the gradient of the weights
    with memory in it that nobody has written: not finite, or wrong by half. Plain maps are computed rightly.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.dilation != (1, 1) and self.in_channels % ONEDNN_BLOCK:
            x = x.contiguous()
        return super().forward(x)


class ConvNorm(nn.Sequential):
    """3x3 (or k x k) convolution and ChannelNorm; ``residual`` is added, then ReLU."""

    def __init__(self, cin: int, cout: int, kernel: int = 3, stride: int = 1, dilation: int = 1):
        super().__init__(
            Convolution(cin, cout, kernel, stride, dilation * (kernel // 2), dilation, bias=False), ChannelNorm(cout)
        )

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        convolution, norm = self
        return norm(convolution(x), residual, relu=True)


class ResidualBlock(nn.Module):
    """relu(x + norm(conv(relu(norm(conv(x))))))."""

    def __init__(self, channels: int, dilation: int = 1):
        super().__init__()
        self.first = ConvNorm(channels, channels, dilation=dilation)
        self.second = ConvNorm(channels, channels, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x), x)
