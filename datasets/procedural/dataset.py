"""Seeds -> Sample: the built-in data set. Same seed, same bytes, whatever the number of workers."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datasets.procedural.photometric import photometric
from datasets.procedural.render import View, hidden, shade, trace
from datasets.procedural.shots import Shot, draw_shot, scene_name, tilted
from datasets.procedural.textures import USUAL, Bank, texture_bank
from stereo.config import ContentConfig
from stereo.types import InputError, Sample


def render_sample(
    seed: int,
    index: int,
    height: int,
    width: int,
    max_disparity: float = 0.4,
    augment: bool = True,
    content: ContentConfig = USUAL,
) -> Sample:
    """The scene of (seed, index) in a window of height x width px, as a Sample with exact truth for both views.

    augment: different exposure, blur, noise for each view and up to 1.5 px of vertical misalignment and 0.2 degrees of
    rotation of the right camera (as STTR trains); the truth is that of the aligned pair. Without it both views are clean.
    """
    return render_shot(draw_shot(seed, index, height, width, max_disparity, augment, content))


def render_shot(shot: Shot) -> Sample:
    """On the CPU, by itself; datasets.procedural.batched renders many at once, on any device."""
    scene, top, height, width = shot.scene, shot.top, shot.height, shot.width
    bank = texture_bank(*shot.bank)
    y, x = torch.meshgrid(torch.arange(top, top + height), torch.arange(width), indexing="ij")
    x, y = x.float(), y.float()

    left, right = trace(scene, x, y, right=False), trace(scene, x, y, right=True)
    occluded = hidden(scene, left, right, y, x - left.disp, other_is_right=True)
    occluded_right = hidden(scene, right, left, y, right.u, other_is_right=False)
    colours = [shade(scene, left, y, bank), _right_colours(shot, right, x, y, bank)]
    clean = [np.ascontiguousarray(c.permute(1, 2, 0).numpy()) for c in colours]
    if shot.development:
        images = photometric(clean[0], clean[1], shot.development)
    else:
        images = ((clean[0] * 255 + 0.5).astype(np.uint8), (clean[1] * 255 + 0.5).astype(np.uint8))
    everywhere = np.ones((height, width), dtype=bool)
    return Sample(
        left=images[0], right=images[1],
        disp=left.disp.numpy(), valid=everywhere, occluded=occluded.numpy(),
        disp_right=right.disp.numpy(), valid_right=everywhere, occluded_right=occluded_right.numpy(),
        name=shot.name,
    )  # fmt: skip


def _right_colours(shot: Shot, aligned: View, x: Tensor, y: Tensor, bank: Bank) -> Tensor:
    """The right image, through a camera that is a little shifted and rolled where the shot says so."""
    if shot.tilt is None:
        return shade(shot.scene, aligned, y, bank)
    shift, roll = shot.tilt
    x_tilted, y_tilted = tilted(x, y, shot.centre, shift, roll)
    return shade(shot.scene, trace(shot.scene, x_tilted, y_tilted, right=True), y_tilted, bank)


class GeneratedDataset(Dataset):
    """Scenes 0 .. ``count``-1 of ``seed``, all of height x width px. Items are Samples, rendered anew at each access.

    max_disparity, augment and content as in render_sample.
    Raises InputError for a negative seed, no scenes, or a size below 32 px.
    """

    def __init__(
        self,
        seed: int,
        count: int,
        height: int = 288,
        width: int = 576,
        max_disparity: float = 0.4,
        augment: bool = True,
        content: ContentConfig = USUAL,
    ):
        if count < 1 or height < 32 or width < 32:
            raise InputError(f"got {count} scenes of {height}x{width} px, expected at least 1 scene of at least 32x32 px")
        if seed < 0:
            raise InputError(f"got seed {seed}, expected 0 or more")
        self.seed, self.count, self.size = seed, count, (height, width)
        self.max_disparity, self.augment, self.content = max_disparity, augment, content

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(scene_name(self.seed, index) for index in range(self.count))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return render_sample(self.seed, index, *self.size, self.max_disparity, self.augment, self.content)
