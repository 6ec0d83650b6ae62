"""(seed, index) -> Shot: everything that is drawn about a pair, as numbers. Rendering it draws nothing more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from datasets.camera import Look
from datasets.procedural.scene import draw_scene
from datasets.procedural.surface import Number, Scene
from datasets.procedural.textures import COUNT, USUAL
from stereo.config import ContentConfig

SCENES_PER_BANK = 256  # consecutive scenes that share a texture bank
ASPECT = 0.56  # a crop shorter than this share of its width is a band cut out of a frame of that shape


@dataclass(frozen=True)
class Development:
    """How the two cameras turn light into pictures.

    dark, bright: the values that the darkest and the brightest per cent of the left view get, in both views.
    looks:        of the left and the right camera.
    grain:        seed of the noise.
    """

    dark: float
    bright: float
    looks: tuple[Look, Look]
    grain: int


@dataclass(frozen=True)
class Shot:
    """A pair before it is rendered: a window of ``height`` x ``width`` px of a scene, from its row ``top`` on.

    tilt:        by how many px the right camera stands too high and by how many radians it is rolled; None for an aligned one.
    development: None leaves both views as clean as the scene.
    """

    seed: int
    index: int
    height: int
    width: int
    content: ContentConfig
    scene: Scene
    top: int
    tilt: tuple[float, float] | None
    development: Development | None

    @property
    def name(self) -> str:
        return scene_name(self.seed, self.index)

    @property
    def centre(self) -> tuple[float, float]:
        """Column and row of the middle of the window."""
        return (self.width - 1) / 2, self.top + (self.height - 1) / 2

    @property
    def bank(self) -> tuple[int, int, ContentConfig]:
        """What texture_bank wants to know."""
        return self.seed, self.index // SCENES_PER_BANK, self.content


def tilted(x: Tensor, y: Tensor, centre: tuple[Number, Number], shift: Number, roll: Number) -> tuple[Tensor, Tensor]:
    """Where an aligned camera sees what one that is rolled about ``centre`` and shifted sees at (x, y)."""
    return x - roll * (y - centre[1]), y + roll * (x - centre[0]) + shift


def scene_name(seed: int, index: int) -> str:
    return f"generated:{seed}/{index:06d}"


def draw_shot(
    seed: int,
    index: int,
    height: int,
    width: int,
    max_disparity: float = 0.4,
    augment: bool = True,
    content: ContentConfig = USUAL,
) -> Shot:
    """The shot of (seed, index): a pure function of its arguments. As for render_sample."""
    rng = np.random.default_rng((seed, index))
    frame_height = max(height, round(ASPECT * width))
    scene = draw_scene(rng, frame_height, width, max_disparity, COUNT, content)
    top = int(rng.integers(0, frame_height - height + 1))
    tilt = _draw_tilt(rng) if augment and rng.random() < content.misalignment else None
    development = _draw_development(rng, content.photometric) if augment and content.photometric else None
    return Shot(seed, index, height, width, content, scene, top, tilt, development)


def _draw_tilt(rng: np.random.Generator) -> tuple[float, float]:
    return float(np.clip(rng.normal(0, 0.5), -1.5, 1.5)), float(np.deg2rad(np.clip(rng.normal(0, 0.07), -0.2, 0.2)))


def _draw_development(rng: np.random.Generator, factor: float) -> Development:
    """factor: of what tells the views apart."""
    dark, bright = float(rng.uniform(0, 0.15)), float(rng.uniform(0.75, 1.05))
    common = _draw_look(rng, 1.0)
    own = rng.random() < 0.7
    strength = factor * (0.5 if own else 0.05)
    left, right = (common.then(_draw_look(rng, strength)) for _ in range(2))
    return Development(dark, bright, (left, right), int(rng.integers(1 << 31)))


def _draw_look(rng: np.random.Generator, strength: float) -> Look:
    saturation = rng.uniform(0.1, 1.0) if strength == 1.0 else 1.0
    r, g, b = np.exp(rng.normal(0, 0.18 * strength)) * np.exp(rng.normal(0, 0.06 * strength, 3))
    return Look(
        saturation=saturation,
        gain=(r, g, b),
        gamma=np.exp(rng.normal(0, 0.2 * strength)),
        blur=abs(rng.normal(0, 0.7 * strength)),
        noise=abs(rng.normal(0, 0.015 * strength)),
        jpeg=int(rng.integers(35, 96)) if rng.random() < 0.25 * strength else 0,
    )
