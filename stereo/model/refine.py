"""Context adjustment with learned upsampling: the "refine" stage. Its place is that of STTR section 3.5; the method is ours.

Nothing here depends on the range of the disparities: propagation and upsampling are convex combinations, and what the
convolutions see are differences of disparities in tokens, so a narrow training crop and a wide photograph look alike.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stereo import kernels
from stereo.model.backbone import STRIDE
from stereo.model.layers import ConvNorm, ResidualBlock
from stereo.types import Transport

DILATIONS = (1, 4, 8, 4, 2, 1)  # of the propagation steps: together they carry a disparity across 20 tokens
SEARCH = 4  # tokens on either side of the current disparity at which the match is looked at again
BLURS = (3, 9, 27)  # windows, in tokens, whose confidence-weighted means a disparity is compared with


def neighbours(x: Tensor, dilation: int = 1) -> Tensor:
    """(B, h, w) -> (B, 9, h, w): the 3x3 neighbourhood of every position, edges replicated."""
    h, w = x.shape[-2:]
    padded = F.pad(x[:, None], (dilation,) * 4, mode="replicate")[:, 0]
    steps = (0, dilation, 2 * dilation)
    return torch.stack([padded[:, dy : dy + h, dx : dx + w] for dy in steps for dx in steps], dim=1)


def propagate(disp: Tensor, confidence: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Replace every disparity by a convex combination of its neighbours', the confident ones first.

    disp, confidence (B, h, w); logits (B, 9 * steps, h, w) -> disparity and confidence carried along, (B, h, w) each.
    """
    for step, dilation in zip(logits.chunk(len(DILATIONS), dim=1), DILATIONS, strict=True):
        trust = neighbours(confidence, dilation)
        weights = (step + torch.log(trust + 1e-3)).softmax(dim=1)
        disp = (weights * neighbours(disp, dilation)).sum(dim=1)
        confidence = (weights * trust).sum(dim=1)
    return disp, confidence


def local_scores(q: Tensor, k: Tensor, disp: Tensor, kernel: str) -> Tensor:
    """Match scores at disparities disp + SEARCH .. disp - SEARCH, linear between tokens -> (B, h, w, 2 * SEARCH + 1).

    q, k (B, h, w, C) as the match projects them; disp (B, h, w) tokens. Log-softmax over the window, cut at -8 and scaled
    to about [-1, 0], so that it reads the same whatever the temperature of the match.
    """
    w = q.shape[2]
    target = torch.arange(w, device=disp.device) - disp
    base = target.floor()
    offsets = torch.arange(-SEARCH, SEARCH + 2, device=disp.device)
    index = (base[..., None].long() + offsets).clamp(0, w - 1)[:, :, :, None]  # (B, h, w, 1 head, 2 * SEARCH + 2)
    keys = k[:, :, :, None]
    scores = kernels.select(kernel, keys).gather_scores(q[:, :, :, None], keys, index)[:, :, :, 0]
    fraction = (target - base)[..., None]
    scores = scores[..., :-1] * (1 - fraction) + scores[..., 1:] * fraction
    return scores.log_softmax(dim=-1).clamp(min=-8) / 8


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


def convex_upsample(disp: Tensor, logits: Tensor) -> Tensor:
    """(B, h, w) tokens -> (B, H, W) px, each pixel a convex combination of its token's 3x3 neighbourhood (RAFT section 3.3).

    logits (B, 9 * STRIDE^2, h, w).
    """
    B, h, w = disp.shape
    weights = logits.view(B, 9, STRIDE * STRIDE, h, w).softmax(dim=1)
    fine = (weights * neighbours(disp * STRIDE)[:, :, None]).sum(dim=1)  # (B, STRIDE^2, h, w)
    return F.pixel_shuffle(fine, STRIDE)[:, 0]


class Refine(nn.Module):
    """Fill what has no match, correct what has one, upsample to full resolution, and say how sure each pixel is."""

    def __init__(self, channels: int, kernel: str):
        super().__init__()
        self.kernel = kernel
        self.context = ConvNorm(2 * channels + 2 * SEARCH + 1 + len(BLURS) + 2, channels, kernel=1)
        self.spread = nn.Sequential(
            ConvNorm(channels, channels), nn.Conv2d(channels, 9 * len(DILATIONS), 1)
        )
        self.adjust = ConvNorm(channels + 2 * SEARCH + 1 + len(BLURS) + 2, channels, kernel=1)
        self.trunk = nn.Sequential(ResidualBlock(channels), ResidualBlock(channels, dilation=2))
        self.residual = nn.Conv2d(channels, 1, 3, padding=1)
        self.mask = nn.Sequential(ConvNorm(channels, channels), nn.Conv2d(channels, 9 * STRIDE**2, 1))
        self.doubt = nn.Sequential(ConvNorm(channels, channels), nn.Conv2d(channels, 2 * STRIDE**2, 1))
        for parameter in self.residual.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, disp: Tensor, window_mass: Tensor, transport: Transport, features: Tensor, tokens: Tensor, q: Tensor, k: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """disp, window_mass (B,h,w); features (B,C,h,w) and tokens (B,h,w,C) of the left view; q, k (B,h,w,C) of the match.

        Returns disparity (B,H,W) px, occlusion logits and confidence logits (B,H,W).
        """
        look = self.evidence(disp, window_mass, transport.dustbin, q, k)
        context = self.context(torch.cat([features, tokens.permute(0, 3, 1, 2), look], dim=1))
        disp, confidence = propagate(disp, window_mass, self.spread(context).float())

        look = self.evidence(disp, confidence, transport.dustbin, q, k)
        context = self.trunk(self.adjust(torch.cat([context, look], dim=1)))
        disp = disp + self.residual(context).float()[:, 0]

        full = convex_upsample(disp, self.mask(context).float()).clamp(min=0)
        occlusion, confidence = F.pixel_shuffle(self.doubt(context).float(), STRIDE).unbind(dim=1)
        return full, occlusion, confidence

    def evidence(self, disp: Tensor, confidence: Tensor, dustbin: Tensor, q: Tensor, k: Tensor) -> Tensor:
        """What is known about a disparity map: match scores around it, contrast to its surroundings, masses -> (B, ., h, w)."""
        scores = local_scores(q, k, disp.detach(), self.kernel).permute(0, 3, 1, 2)
        masses = torch.stack([confidence, dustbin], dim=1)
        return torch.cat([scores, contrasts(disp, confidence), masses], dim=1)
