"""A second look at the match, at half resolution: the end of the "refine" stage where a network has it.

A token of 4 px decides which surface a pixel belongs to; where on that surface, and on which side of an edge, shows only in
finer features. The maps of ``Refine`` come in at half resolution, the features of both views are compared around the
disparity that is there (four pixels of the half-size image on either side), and what goes out is corrected and upsampled.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stereo.model.layers import ConvNorm, ResidualBlock
from stereo.model.refine import Maps, Propagation, convex_upsample, evidence, evidence_channels, local_scores, zeroed

FACTOR = 2  # from half resolution to full
DILATIONS = (4, 2, 1)  # of propagation: what straddles an edge finds its side
GROUPS, DEPTH = 2, 8  # of the features that are compared: each group of channels has a say of its own


class Sharpen(nn.Module):
    """channels: of the context at 1/4; stem: of the features at 1/2; width: of the work that is done there."""

    def __init__(self, channels: int, stem: int, width: int, kernel: str):
        super().__init__()
        self.kernel = kernel
        self.describe = nn.Conv2d(stem, GROUPS * DEPTH, 3, padding=1)
        self.context = nn.Conv2d(channels, width, 1)
        self.spread = Propagation(stem + width, DILATIONS, hidden=False, kernel=kernel)
        self.mix = ConvNorm(stem + width + evidence_channels(GROUPS), width, kernel=1)
        self.trunk = ResidualBlock(width)
        self.residual = zeroed(nn.Conv2d(width, 1, 3, padding=1))
        self.mask = nn.Conv2d(width, 9 * FACTOR**2, 1)
        self.doubt = zeroed(nn.Conv2d(width, 2 * FACTOR**2, 1))

    def forward(self, maps: Maps, context: Tensor, left: Tensor, right: Tensor) -> Maps:
        """maps (B, h, w) at half resolution; context (B, C, h/2, w/2); left, right (B, stem, h, w) -> maps (B, 2h, 2w)."""
        context = F.interpolate(self.context(context), scale_factor=2.0, mode="bilinear", align_corners=False)
        context = torch.cat([left, context], dim=1)
        disp, trust = self.spread(maps.disp, maps.confidence.sigmoid(), context)

        scores = local_scores(self.described(left), self.described(right), disp.detach(), self.kernel)
        look = evidence(scores, disp, trust, maps.occlusion.sigmoid())
        context = self.trunk(self.mix(torch.cat([context, look], dim=1)))
        disp = disp + self.residual(context).float()[:, 0]
        fine = convex_upsample(disp, self.mask(context).float(), FACTOR).clamp(min=0)
        doubt = torch.stack([maps.occlusion, maps.confidence], dim=1)[:, :, None]
        doubt = doubt + self.doubt(context).float().unflatten(1, (2, FACTOR**2))
        return Maps(fine, *F.pixel_shuffle(doubt.flatten(1, 2), FACTOR).unbind(dim=1))

    def described(self, features: Tensor) -> Tensor:
        """(B, stem, h, w) -> (B, h, w, GROUPS, DEPTH), scaled so that products are scores."""
        described = self.describe(features).permute(0, 2, 3, 1) * DEPTH**-0.25
        return described.unflatten(-1, (GROUPS, DEPTH))
