"""The texture bank: drawn once for a seed, then recoloured and affinely re-used by many surfaces."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stereo.config import ContentConfig
from stereo.image_io import read_image
from stereo.types import InputError

Bank = tuple[Tensor, Tensor]  # all textures, and the same at half size
USUAL = ContentConfig()

SIZE = 256  # texels per side
COUNT = 32  # textures in a bank


def _spectrum_noise(rng: np.random.Generator, exponent: float) -> np.ndarray:
    """(SIZE, SIZE) in [0, 1], power falling as frequency^-exponent: cloud, bark, gravel, grain."""
    f = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)[None])
    f[0, 0] = 1.0
    spectrum = np.fft.rfft2(rng.standard_normal((SIZE, SIZE))) * f**-exponent
    noise = np.fft.irfft2(spectrum, s=(SIZE, SIZE))
    low, high = np.percentile(noise, (1, 99))
    return np.clip((noise - low) / (high - low), 0, 1).astype(np.float32)


def _palette(rng: np.random.Generator, scalar: np.ndarray, colours: int) -> np.ndarray:
    """Map a scalar field through a random piecewise linear palette -> (SIZE, SIZE, 3)."""
    stops = np.linspace(0, 1, colours)
    table = rng.random((colours, 3))
    return np.stack([np.interp(scalar, stops, table[:, c]) for c in range(3)], axis=-1).astype(np.float32)


def _noise(rng: np.random.Generator) -> np.ndarray:
    return _palette(rng, _spectrum_noise(rng, rng.uniform(0.3, 2.2)), int(rng.integers(2, 7)))


def _posterised(rng: np.random.Generator) -> np.ndarray:
    """Noise cut into flat patches with sharp edges: camouflage, stains, foliage from afar."""
    levels = int(rng.integers(2, 6))
    field = np.floor(_spectrum_noise(rng, rng.uniform(1.2, 2.0)) * levels) / levels
    return np.clip(_palette(rng, field, levels + 1) + 0.1 * (_noise(rng) - 0.5), 0, 1)


def _dead_leaves(rng: np.random.Generator) -> np.ndarray:
    """Overlapping discs and boxes with radii of a power law: the statistics of natural images."""
    image = np.ascontiguousarray(np.broadcast_to(rng.random(3).astype(np.float32), (SIZE, SIZE, 3)))
    count = int(rng.integers(150, 500))
    radii = np.clip(3 * rng.random(count) ** -0.6, 2, SIZE / 5).astype(int)
    centres = rng.integers(0, SIZE, (count, 2))
    colours = rng.random((count, 3))
    round_ones = rng.random(count) < rng.random()
    for (x, y), radius, colour, is_round in zip(centres.tolist(), radii.tolist(), colours.tolist(), round_ones, strict=True):
        if is_round:
            cv2.circle(image, (x, y), radius, colour, -1, cv2.LINE_AA)
        else:
            cv2.rectangle(image, (x - radius, y - radius // 2), (x + radius, y + radius), colour, -1)
    return image


def _stripes(rng: np.random.Generator) -> np.ndarray:
    angle, period = rng.uniform(0, np.pi), rng.uniform(6, 48)
    y, x = np.mgrid[:SIZE, :SIZE]
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period)
    sharp = rng.uniform(1, 12)
    return _palette(rng, np.clip(0.5 + 0.5 * sharp * wave, 0, 1), int(rng.integers(2, 4)))


def _tiles(rng: np.random.Generator) -> np.ndarray:
    """Checkers and bricks: exact repetition, the classic trap of matching."""
    h, w = rng.integers(8, 48, 2)
    y, x = np.mgrid[:SIZE, :SIZE]
    row = y // h
    shifted = x + (row % 2) * (w // 2 if rng.random() < 0.5 else 0)
    colours = rng.random((2, 3))
    checker = ((shifted // w + row) % 2)[..., None]
    image = colours[0] * checker + colours[1] * (1 - checker)
    joint = ((y % h) < 2) | ((shifted % w) < 2)
    image[joint] = rng.random(3)
    grain = rng.uniform(0, 0.4) * (_spectrum_noise(rng, rng.uniform(0.3, 1.5)) - 0.5)
    return np.clip(image + grain[..., None], 0, 1).astype(np.float32)


def _glyphs(rng: np.random.Generator) -> np.ndarray:
    image = np.ascontiguousarray(np.broadcast_to(rng.integers(0, 256, 3, dtype=np.uint8), (SIZE, SIZE, 3)))
    for y in range(10, SIZE + 20, int(rng.integers(14, 40))):
        text = "".join(chr(c) for c in rng.integers(33, 127, 40))
        scale = float(rng.uniform(0.3, 1.2))
        cv2.putText(image, text, (int(rng.integers(-20, 5)), y), 0, scale, (255 * rng.random(3)).tolist(), 1, cv2.LINE_AA)
    return image.astype(np.float32) / 255


def _plain(rng: np.random.Generator) -> np.ndarray:
    """Almost nothing to match: a painted wall."""
    soft = rng.uniform(0.0, 0.12) * (_palette(rng, _spectrum_noise(rng, rng.uniform(1.5, 2.5)), 3) - 0.5)
    return np.clip(rng.uniform(0.1, 0.9, 3) + soft, 0, 1).astype(np.float32)


def _gradient(rng: np.random.Generator) -> np.ndarray:
    """Smooth ramps of colour, straight or round: sky, a lamp on a wall, paint under uneven light."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE - rng.uniform(0, 1, 2)[:, None, None]
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.hypot(x, y) if rng.random() < 0.4 else x * np.cos(angle) + y * np.sin(angle)
    ramp = (ramp - ramp.min()) / np.ptp(ramp)
    grain = rng.uniform(0, 0.08) * (_spectrum_noise(rng, rng.uniform(0.3, 1.5)) - 0.5)
    return np.clip(_palette(rng, ramp, int(rng.integers(2, 5))) + grain[..., None], 0, 1).astype(np.float32)


Draw = Callable[[np.random.Generator], np.ndarray]
KINDS: tuple[tuple[Draw, float], ...] = (
    (_noise, 0.24),
    (_posterised, 0.15),
    (_dead_leaves, 0.22),
    (_stripes, 0.08),
    (_tiles, 0.10),
    (_glyphs, 0.07),
    (_gradient, 0.06),
    (_plain, 0.08),
)
REPEATED, PLAIN = (_stripes, _tiles), (_gradient, _plain)
PHOTOGRAPHS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".tif", ".tiff")


def _patch(rng: np.random.Generator, paths: tuple[Path, ...]) -> np.ndarray:
    """A square out of one of the photographs, at a random scale."""
    image = read_image(paths[rng.integers(len(paths))])
    side = int(rng.uniform(0.3, 1.0) * min(image.shape[:2]))
    top, left = (int(rng.integers(0, room - side + 1)) for room in image.shape[:2])
    square = image[top : top + max(side, 1), left : left + max(side, 1)]
    return cv2.resize(square, (SIZE, SIZE), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


@functools.cache
def photographs(folder: str) -> tuple[Path, ...]:
    """All pictures in a folder, sorted. Raises InputError when there is none."""
    paths = tuple(sorted(path for path in Path(folder).glob("*") if path.suffix.lower() in PHOTOGRAPHS))
    if not paths:
        raise InputError(f"no photograph in the folder of textures '{folder}'; expected files {', '.join(PHOTOGRAPHS)}")
    return paths


@functools.lru_cache(maxsize=2)
def texture_bank(seed: int, block: int, content: ContentConfig = USUAL) -> Bank:
    """COUNT textures in [0, 1], (COUNT, 3, SIZE, SIZE), and the same at half size for surfaces that shrink them.

    Pure in its arguments (and the photographs): every worker that needs the bank of a block of scenes draws the same bytes.
    """
    rng = np.random.default_rng((seed, block, 77))
    factors: dict[Draw, float] = dict.fromkeys(REPEATED, content.repetition) | dict.fromkeys(PLAIN, content.plain)
    shares = np.array([share * factors.get(draw, 1.0) for draw, share in KINDS])
    kinds = rng.choice(len(KINDS), COUNT, p=shares / shares.sum())
    draws: list[Draw] = [KINDS[kind][0] for kind in kinds]
    if content.textures:
        draws[::2] = [functools.partial(_patch, paths=photographs(content.textures))] * len(draws[::2])
    bank = torch.from_numpy(np.stack([draw(rng) for draw in draws])).permute(0, 3, 1, 2).contiguous()
    return bank, F.avg_pool2d(bank, 2)
