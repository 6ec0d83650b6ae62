"""What test_sttr.py and test_sttr_quadtree.py share: a narrow STTR of two layers, and what to feed it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from stereo.config import SttrConfig
from stereo.model.build import build_model
from stereo.model.sttr.network import Sttr
from stereo.types import Batch

NARROW = SttrConfig(channels=16, layers=2, heads=2, adjust_blocks=1, adjust_channels=4, adjust_expansion=2)


def network(config: SttrConfig = NARROW, **changes) -> Sttr:
    """The same weights each time."""
    torch.manual_seed(0)
    model = build_model(replace(config, **changes)).eval()
    assert isinstance(model, Sttr)
    return model


def pair(height: int, width: int, batch: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noise, (batch, 3, height, width) each."""
    left, right = torch.rand(2, batch, 3, height, width, generator=torch.Generator().manual_seed(seed))
    return left, right


def random_batch(height: int, width: int) -> Batch:
    """One pair of noise with a truth of noise, 0 .. 40 px."""
    shape, generator = (1, height, width), torch.Generator().manual_seed(1)
    disp = 40 * torch.rand(shape, generator=generator)
    valid, occluded, occluded_right = (torch.rand(shape, generator=generator) < p for p in (0.8, 0.2, 0.2))
    return Batch(*pair(height, width), disp, valid, occluded, occluded_right)
