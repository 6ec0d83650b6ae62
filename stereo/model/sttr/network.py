"""STTR. Start reading here: features -> tokens -> attend -> match -> refine, one file for each stage.

``faithful`` keeps what the published weights were trained with and is wrong (SPEC section 6): normalisation by the statistics
of both views together (P6), the ratio of widths in place of the stride (P3), and a window mass that is set to 1 where the match
is weakest, so that the surest occlusions read as visible (P1). Without it these are put right, and the network has to be
trained so. Neither way takes a label, and neither lets one pair of a batch see another (P5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stereo.attention import grid_period
from stereo.attention.position import Rotary, relative_sine, rotary_frequencies
from stereo.config import SttrConfig
from stereo.model.matching import window_sums
from stereo.model.sttr.adjust import ContextAdjustment, standardise, upsample_nearest
from stereo.model.sttr.backbone import MIN_SIDE
from stereo.model.sttr.matching import SttrMatching
from stereo.model.sttr.transformer import SttrTransformer
from stereo.types import InputError, Prediction, Transport

MEAN = (0.485, 0.456, 0.406)  # of ImageNet's RGB values
DEVIATION = (0.229, 0.224, 0.225)
WEAK = 0.1  # window mass below which the published network resets it to 1


@dataclass(frozen=True)
class SttrMaps:
    """Everything that a pair's match and its refinement give; H x W pixels, h x w tokens.

    logits:           (B, h, w, w), summed over heads, -inf right of the query.
    plan:             (B, h, w+1, w+1), the dustbins last.
    disp_coarse:      (B, h, w) tokens.
    window_mass:      (B, h, w) in [0, 1], as the plan has it.
    occlusion_coarse: (B, h, w) in [0, 1].
    disp:             (B, H, W) px, not clamped: the adjustment may fall below 0.
    occlusion_logits: (B, H, W).
    """

    logits: Tensor
    plan: Tensor
    disp_coarse: Tensor
    window_mass: Tensor
    occlusion_coarse: Tensor
    disp: Tensor
    occlusion_logits: Tensor


class Sttr(nn.Module):
    """left, right -> Prediction. left, right: (B, 3, H, W) float in [0, 1], rectified, any H and W from 121 px on."""

    granularity = 1  # px: what StereoPredictor pads to a multiple of
    min_side = MIN_SIDE
    bears_bf16 = False  # held to the public code's numbers
    finer_sizes = (1.0,)  # nor does the public code look twice
    row_margin = 96  # px above and below a band of rows
    depends_on_all = True  # its layers normalise by statistics of all that they are given

    def __init__(
        self,
        config: SttrConfig,
        backbone: nn.Module,
        tokenizer: nn.Module,
        transformer: SttrTransformer,
        matching: SttrMatching,
        adjust: ContextAdjustment | None,
    ):
        super().__init__()
        self.config = config
        self.backbone, self.tokenizer, self.transformer = backbone, tokenizer, transformer
        self.matching, self.adjust = matching, adjust

    @property
    def tile_step(self) -> int:
        """px: a part of the images that begins at a multiple of this has the same pixels as tokens as the whole has."""
        coarsest = 16  # stride of the backbone
        return math.lcm(coarsest, max(self.config.stride, 1) * grid_period(self.config))

    def forward(self, left: Tensor, right: Tensor) -> Prediction:
        """Raises InputError (a ValueError) when the shapes differ or a side is below 121 px.

        STTR has no confidence of its own: the mass in the window around the match stands in, and no loss bends it.
        """
        if left.shape != right.shape or left.dim() != 4 or left.shape[1] != 3:
            raise InputError(f"expected left and right (B,3,H,W) alike, got {tuple(left.shape)} and {tuple(right.shape)}")
        if min(left.shape[2:]) < self.min_side:
            raise InputError(f"got {left.shape[3]}x{left.shape[2]} px, STTR needs at least {self.min_side} px on each side")
        return self.predict_normalised(self.normalise(left, right))

    def normalise(self, left: Tensor, right: Tensor) -> Tensor:
        """(B, 3, H, W) each -> (2B, 3, H, W), left images first, ImageNet's mean and deviation taken out."""
        images = torch.cat([left, right])
        mean, deviation = (images.new_tensor(x)[:, None, None] for x in (MEAN, DEVIATION))
        return (images - mean) / deviation

    def predict_normalised(self, images: Tensor) -> Prediction:
        """The rest of ``forward``. A part of the images gives other values than it has in the whole (``depends_on_all``)."""
        size = images.shape[-2:]
        maps = self.match_normalised(*images.chunk(2))
        mass = maps.plan[..., :-1, :-1]
        index = torch.arange(mass.shape[-1], device=mass.device).expand(mass.shape)
        transport = Transport(mass, index, maps.plan[..., :-1, -1], maps.plan[..., -1, :-1])
        confidence = self.upsample(maps.window_mass.detach(), size).logit(eps=1e-6)
        return Prediction(maps.disp.clamp(min=0), maps.occlusion_logits, confidence, maps.disp_coarse, transport)

    def match_normalised(self, left: Tensor, right: Tensor) -> SttrMaps:
        """The network proper: left, right (B, 3, H, W), ImageNet's mean and deviation taken out."""
        images = torch.cat([left, right])
        tokens = self.tokenizer(images, self.backbone(images))  # (2B, h, w, C)
        q, k, position = self.transformer(tokens, self.position_table(tokens, left.shape[-1]))
        logits, plan = self.matching(q, k, position)
        columns, matches = torch.arange(tokens.shape[2], device=left.device), plan[..., :-1, :-1]
        moment, mass = window_sums(matches, columns, columns.expand(matches.shape))
        disp_coarse, occlusion_coarse = self.regress(moment, mass)
        disp, occlusion_logits = self.refine(disp_coarse, occlusion_coarse, left)
        return SttrMaps(logits, plan, disp_coarse, mass, occlusion_coarse, disp, occlusion_logits)

    def scale(self, width: int, tokens: int) -> float:
        """Pixels per token: the stride, or what the public code divides by (SPEC P3)."""
        return width / tokens if self.config.faithful and self.config.decoder == "full" else float(self.config.stride)

    def position_table(self, tokens: Tensor, width: int) -> Tensor | Rotary | None:
        """(2w-1, C): offsets in px; in tokens for the light version, whose weights know no px (SPEC P9). Rotary needs none."""
        if self.config.position == "none":
            return None
        if self.config.position == "rotary":
            return Rotary(rotary_frequencies(tokens.shape[3] // self.config.heads).to(tokens.device))
        count = tokens.shape[2]
        unit = self.scale(width, count) if self.config.decoder == "full" else 1.0
        return relative_sine(count, tokens.shape[3], unit).to(tokens)

    def regress(self, moment: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
        """First moment and mass of the window, (B, h, w) -> disparity in tokens, probability of occlusion.

        Divisor and mass are two tensors (SPEC P1), unless faithful asks for the one.
        """
        if self.config.faithful:
            mass = torch.where(mass < WEAK, 1.0, mass)
        return moment / mass.clamp(min=1e-6), 1 - mass

    def refine(self, disp_coarse: Tensor, occlusion_coarse: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
        """(B, h, w) tokens and probabilities -> disparity in px and occlusion logits, (B, H, W)."""
        size = left.shape[-2:]
        disp = self.upsample(disp_coarse * self.scale(size[1], disp_coarse.shape[2]), size)
        occlusion = self.upsample(occlusion_coarse, size)
        if self.adjust is None or self.config.stride == 0:
            return disp, occlusion.logit(eps=1e-6)
        standard, mean, deviation = standardise(disp)
        standard, logits = self.adjust(standard[:, None], (occlusion[:, None] - 0.5) / 0.5, left)
        return standard[:, 0] * deviation + mean, logits[:, 0]

    def upsample(self, x: Tensor, size: torch.Size) -> Tensor:
        return upsample_nearest(x, (size[0], size[1]), None if self.config.faithful else self.config.stride)
