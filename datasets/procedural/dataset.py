"""Seeds -> Sample: the built-in data set. Same seed, same bytes, whatever the number of workers."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datasets.procedural.photometric import photometric
from datasets.procedural.render import View, hidden, shade, trace
from datasets.procedural.scene import Scene, draw_scene
from datasets.procedural.textures import COUNT, USUAL, Bank, texture_bank
from stereo.config import ContentConfig
from stereo.types import InputError, Sample

SCENES_PER_BANK = 256  # consecutive scenes that share a texture bank
ASPECT = 0.56  # a crop shorter than this share of its width is a band cut out of a frame of that shape


def scene_name(seed: int, index: int) -> str:
    return f"generated:{seed}/{index:06d}"


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
    rng = np.random.default_rng((seed, index))
    frame_height = max(height, round(ASPECT * width))
    scene = draw_scene(rng, frame_height, width, max_disparity, COUNT, content)
    top = int(rng.integers(0, frame_height - height + 1))
    bank = texture_bank(seed, index // SCENES_PER_BANK, content)
    y, x = torch.meshgrid(torch.arange(top, top + height), torch.arange(width), indexing="ij")
    x, y = x.float(), y.float()

    left, right = trace(scene, x, y, right=False), trace(scene, x, y, right=True)
    occluded = hidden(scene, left, right, y, x - left.disp, other_is_right=True)
    occluded_right = hidden(scene, right, left, y, right.u, other_is_right=False)
    askew = content.misalignment if augment else 0.0
    colours = [shade(scene, left, y, bank), _right_colours(scene, right, x, y, bank, rng, askew)]
    clean = [np.ascontiguousarray(c.permute(1, 2, 0).numpy()) for c in colours]
    strength = content.photometric if augment else 0.0
    images = photometric(clean[0], clean[1], rng, strength) if strength else [(x * 255 + 0.5).astype(np.uint8) for x in clean]
    everywhere = np.ones((height, width), dtype=bool)
    return Sample(
        left=images[0], right=images[1],
        disp=left.disp.numpy(), valid=everywhere, occluded=occluded.numpy(),
        disp_right=right.disp.numpy(), valid_right=everywhere, occluded_right=occluded_right.numpy(),
        name=scene_name(seed, index),
    )  # fmt: skip


def _right_colours(
    scene: Scene, aligned: View, x: Tensor, y: Tensor, bank: Bank, rng: np.random.Generator, askew: float
) -> Tensor:
    """The right image; in a share ``askew`` of all pairs through a camera that is a little shifted and rolled."""
    if rng.random() >= askew:
        return shade(scene, aligned, y, bank)
    shift = float(np.clip(rng.normal(0, 0.5), -1.5, 1.5))
    roll = float(np.deg2rad(np.clip(rng.normal(0, 0.07), -0.2, 0.2)))
    centre_x, centre_y = x.mean(), y.mean()
    x_tilted, y_tilted = x - roll * (y - centre_y), y + roll * (x - centre_x) + shift
    return shade(scene, trace(scene, x_tilted, y_tilted, right=True), y_tilted, bank)


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
