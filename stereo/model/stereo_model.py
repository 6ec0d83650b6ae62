"""The network. Start reading here: features -> tokens -> attend -> match -> refine, one file for each stage."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from stereo.attention import grid_period
from stereo.config import ModelConfig
from stereo.model.backbone import GRANULARITY, STRIDE, standardise
from stereo.model.matching import window_disparity
from stereo.types import Prediction


class StereoModel(nn.Module):
    """left, right -> Prediction. The same function in training, in evaluation and in use: it never sees a label.

    left, right: (B, 3, H, W) float in [0, 1], rectified, H and W multiples of 16 (StereoPredictor pads and crops).
    """

    granularity = GRANULARITY  # px: what StereoPredictor pads to a multiple of
    min_side = GRANULARITY
    bears_bf16 = True  # loses less than 1 % of the EPE to it: experiments/results/shortcuts.json
    finer_sizes = (1.0, 0.5, 2.0)  # of passes that are worth their time: experiments/results/iterated_use.json
    row_margin = 128  # px above and below a band; there the rest of the image hardly matters any more (docs/design_notes.md)
    depends_on_all = False  # ``normalise`` has taken all statistics, so a band of rows is what it is in the whole image

    def __init__(
        self,
        config: ModelConfig,
        backbone: nn.Module,
        transformer: nn.Module,
        matching: nn.Module,
        refine: nn.Module,
        sharpen: nn.Module | None,
    ):
        super().__init__()
        self.config = config
        self.backbone, self.transformer, self.matching = backbone, transformer, matching
        self.refine, self.sharpen = refine, sharpen

    @property
    def tile_step(self) -> int:
        """px: a part of the images that begins at a multiple of this pools the same tokens as the whole does."""
        matching = 2 ** (self.config.match_levels - 1) if self.config.matching == "sparse" else 1
        return math.lcm(GRANULARITY, STRIDE * grid_period(self.config), STRIDE * matching)

    def forward(self, left: Tensor, right: Tensor) -> Prediction:
        """Raises ValueError when the shapes differ or are no multiples of 16."""
        if left.shape != right.shape or left.dim() != 4 or left.shape[1] != 3:
            raise ValueError(f"expected left and right (B,3,H,W) alike, got {tuple(left.shape)} and {tuple(right.shape)}")
        if left.shape[2] % GRANULARITY or left.shape[3] % GRANULARITY:
            raise ValueError(f"expected sides that are multiples of {GRANULARITY}, got {tuple(left.shape[2:])}: pad them")
        return self.predict_normalised(self.normalise(left, right))

    def normalise(self, left: Tensor, right: Tensor) -> Tensor:
        """(B, 3, H, W) each -> (2B, 3, H, W), left images first: all that the network takes from an image as a whole."""
        return standardise(torch.cat([left, right]).contiguous(memory_format=torch.channels_last))

    def predict_normalised(self, images: Tensor) -> Prediction:
        """The rest of ``forward``, also of a part of the images that ``normalise`` gave."""
        features, at_half = self.backbone(images)  # (2B, C, h, w), (2B, stem, 2h, 2w)
        tokens_left, tokens_right = self.transformer(features)  # (B, h, w, C)
        transport, q, k = self.matching(tokens_left, tokens_right)
        columns = torch.arange(tokens_left.shape[2], device=images.device)
        disp_coarse, window_mass = window_disparity(transport.mass, columns, transport.index)
        maps, context = self.refine(disp_coarse, window_mass, transport, features.chunk(2)[0], tokens_left, q, k)
        if self.sharpen:
            maps = self.sharpen(maps, context, *at_half.chunk(2))
        return Prediction(maps.disp, maps.occlusion, maps.confidence, disp_coarse, transport)
