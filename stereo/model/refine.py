"""Context adjustment with learned upsampling: the "refine" stage. Its place is that of STTR section 3.5; the method is ours.

Nothing here depends on the range of the disparities: propagation and upsampling are convex combinations, and what the
convolutions see are differences of disparities in tokens, so a narrow training crop and a wide photograph look alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stereo import kernels
from stereo.kernels.reference import windows
from stereo.model.backbone import STRIDE
from stereo.model.layers import ConvNorm, ResidualBlock
from stereo.types import Transport

DILATIONS = (1, 4, 8, 16, 8, 4, 2, 1)  # of the propagation steps: together they carry a disparity across 44 tokens
AFFINITY = 8  # channels by which two positions are compared
SEARCH = 4  # tokens on either side of the current disparity at which the match is looked at again
BLURS = (3, 9, 27)  # windows, in tokens, whose confidence-weighted means a disparity is compared with


class Maps(NamedTuple):
    """disp: px of its own width; occlusion, confidence: logits. (B, h, w) each."""

    disp: Tensor
    occlusion: Tensor
    confidence: Tensor


def neighbours(x: Tensor, dilation: int = 1) -> Tensor:
    """(B, h, w) -> (B, 9, h, w): ``windows`` in one."""
    return torch.stack(windows(x, dilation), dim=1)


def propagate(
    disp: Tensor, confidence: Tensor, logits: Tensor, q: Tensor, k: Tensor, dilations: Sequence[int], kernel: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Replace every disparity by a convex combination of its neighbours', those first that are confident and look alike.

    disp, confidence (B, h, w); logits (B, 9 * steps, h, w), a step for each of ``dilations``; q, k (B, d, h, w): how much
    alike two positions are is the product of one's q and the other's k, so that no step has to cross an edge it cannot see.
    Returns the disparity and the confidence carried along, (B, h, w) each.
    """
    step = kernels.propagation_step(kernel, disp)
    for own, dilation in zip(logits.chunk(len(dilations), dim=1), dilations, strict=True):
        disp, confidence = step(disp, confidence, own, q, k, dilation)
    return disp, confidence


def local_scores(q: Tensor, k: Tensor, disp: Tensor, kernel: str) -> Tensor:
    """Match scores at disparities disp + SEARCH .. disp - SEARCH, linear between tokens -> (B, G * (2 * SEARCH + 1), h, w).

    q, k (B, h, w, G, d): what is compared, in G groups of channels; disp (B, h, w) tokens. Log-softmax over the window, cut
    at -8 and scaled to about [-1, 0], so that it reads the same whatever the temperature of the match.
    """
    w, groups = q.shape[2:4]
    target = torch.arange(w, device=disp.device) - disp
    base = target.floor()
    offsets = torch.arange(-SEARCH, SEARCH + 2, device=disp.device)
    index = (base[..., None].long() + offsets).clamp(0, w - 1)[:, :, :, None].expand(-1, -1, -1, groups, -1)
    with torch.autocast(disp.device.type, enabled=False):  # what lies between two tokens is a matter of small differences
        q, k = q.to(disp.dtype), k.to(disp.dtype)
        scores = kernels.select(kernel, k).gather_scores(q, k, index)  # (B, h, w, G, 2 * SEARCH + 2)
    fraction = (target - base)[..., None, None]
    scores = scores[..., :-1] * (1 - fraction) + scores[..., 1:] * fraction
    return (scores.log_softmax(dim=-1).clamp(min=-8) / 8).flatten(3).permute(0, 3, 1, 2)


def contrasts(disp: Tensor, confidence: Tensor) -> Tensor:
    """How far each disparity lies from the confident mean around it, at several window sizes -> (B, len(BLURS), h, w).

    In tokens, compressed by asinh: a hole of 50 tokens and one of 5 look similar, a sub-token ripple stays linear.
    """
    maps = []
    weighted = torch.stack([disp * confidence, confidence], dim=1)
    for size in BLURS:
        total = F.avg_pool2d(weighted, (1, size), stride=1, padding=(0, size // 2), count_include_pad=False)
        total = F.avg_pool2d(total, (size, 1), stride=1, padding=(size // 2, 0), count_include_pad=False)
        maps.append(torch.asinh(disp - total[:, 0] / total[:, 1].clamp(min=1e-3)))
    return torch.stack(maps, dim=1)


def convex_upsample(disp: Tensor, logits: Tensor, factor: int) -> Tensor:
    """(B, h, w) -> (B, factor h, factor w), each pixel a convex combination of a 3x3 neighbourhood (RAFT section 3.3).

    disp in pixels of its own width, before and after; logits (B, 9 * factor^2, h, w).
    """
    B, h, w = disp.shape
    weights = logits.view(B, 9, factor * factor, h, w).softmax(dim=1)
    fine = (weights * neighbours(disp * factor)[:, :, None]).sum(dim=1)  # (B, factor^2, h, w)
    return F.pixel_shuffle(fine, factor)[:, 0]


def evidence(scores: Tensor, disp: Tensor, trust: Tensor, unmatched: Tensor) -> Tensor:
    """What is known about a disparity map: match scores around it, contrast to its surroundings, two shares -> (B, ., h, w).

    trust, unmatched (B, h, w): how sure each disparity is, and how likely that there is none.
    """
    return torch.cat([scores, contrasts(disp, trust), torch.stack([trust, unmatched], dim=1)], dim=1)


def evidence_channels(groups: int) -> int:
    """Of ``evidence``, where ``local_scores`` compared so many groups."""
    return groups * (2 * SEARCH + 1) + len(BLURS) + 2


def head(channels: int, outputs: int, hidden: bool) -> nn.Module:
    last = nn.Conv2d(channels, outputs, 1)
    return nn.Sequential(ConvNorm(channels, channels), last) if hidden else last


def zeroed(conv: nn.Conv2d) -> nn.Conv2d:
    """So that a correction begins as none."""
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    return conv


class Propagation(nn.Module):
    """``propagate`` with logits and affinity read from features of so many ``channels``."""

    def __init__(self, channels: int, dilations: Sequence[int], hidden: bool, kernel: str):
        super().__init__()
        self.dilations, self.kernel = dilations, kernel
        self.head = head(channels, 9 * len(dilations) + 2 * AFFINITY, hidden)

    def forward(self, disp: Tensor, confidence: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        plain = self.head(features).to(disp.dtype, memory_format=torch.contiguous_format)
        logits, q, k = plain.split([9 * len(self.dilations), AFFINITY, AFFINITY], dim=1)
        return propagate(disp, confidence, logits, q * AFFINITY**-0.5, k.contiguous(), self.dilations, self.kernel)


class Refine(nn.Module):
    """Fill what has no match, correct what has one, upsample ``factor`` times, and say how sure each pixel is.

    factor: STRIDE, to full resolution; 2 where ``Sharpen`` takes the maps from there, and the heads then are single layers.
    """

    def __init__(self, channels: int, factor: int, kernel: str):
        super().__init__()
        self.factor, self.kernel = factor, kernel
        known, last = evidence_channels(groups=1), factor == STRIDE
        self.context = ConvNorm(2 * channels + known, channels, kernel=1)
        self.spread = Propagation(channels, DILATIONS, hidden=True, kernel=kernel)
        self.adjust = ConvNorm(channels + known, channels, kernel=1)
        self.trunk = nn.Sequential(ResidualBlock(channels), ResidualBlock(channels, dilation=2))
        self.residual = zeroed(nn.Conv2d(channels, 1, 3, padding=1))
        self.mask = head(channels, 9 * factor**2, hidden=last)
        self.doubt = head(channels, 2 * factor**2, hidden=last)

    def forward(
        self, disp: Tensor, window_mass: Tensor, transport: Transport, features: Tensor, tokens: Tensor, q: Tensor, k: Tensor
    ) -> tuple[Maps, Tensor]:
        """disp, window_mass (B,h,w); features (B,C,h,w) and tokens (B,h,w,C) of the left view; q, k (B,h,w,C) of the match.

        Returns the maps (B, factor h, factor w) and the features (B,C,h,w) that they were read from.
        """
        q, k = q[:, :, :, None], k[:, :, :, None]  # one group
        look = evidence(local_scores(q, k, disp.detach(), self.kernel), disp, window_mass, transport.dustbin)
        context = self.context(torch.cat([features, tokens.permute(0, 3, 1, 2), look], dim=1))
        disp, trust = self.spread(disp, window_mass, context)

        look = evidence(local_scores(q, k, disp.detach(), self.kernel), disp, trust, transport.dustbin)
        context = self.trunk(self.adjust(torch.cat([context, look], dim=1)))
        disp = disp + self.residual(context).float()[:, 0]

        fine = convex_upsample(disp, self.mask(context).float(), self.factor).clamp(min=0)
        doubt = F.pixel_shuffle(self.doubt(context).float(), self.factor)
        return Maps(fine, *doubt.unbind(dim=1)), context
