"""Film grain as a function of (seed, place): the same numbers on every device and in every batch, to rounding."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def grain(seeds: Sequence[int], height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """(B, 3, height, width) float32 of standard normal values, one field for each seed (0 .. 2^31 - 1).

    A hash of the place and the seed gives 32 evenly spread bits; Box and Muller turn every such word into two independent
    values: the halves of the flat field. 16 bits each bound them by 4.9.
    """
    count = (3 * height * width + 1) // 2
    place = _scrambled(torch.arange(count, dtype=torch.int32, device=device))
    # Scrambled by itself too: seeds that follow each other must not give fields that do.
    seed = _scrambled(torch.tensor(seeds, dtype=torch.int32).to(device))
    word = _scrambled(place ^ seed[:, None])  # (B, count)
    first, second = (((half & 0xFFFF).float() + 0.5) / 65536 for half in (word >> 16, word))
    length, angle = (-2 * first.log()).sqrt(), second * (2 * math.pi)
    values = torch.cat([length * angle.cos(), length * angle.sin()], dim=1)
    return values[:, : 3 * height * width].reshape(-1, 3, height, width)


def _scrambled(word: Tensor) -> Tensor:
    """int32 -> int32, one to one: every bit of the input flips each bit of the output about half of the time.

    Odd multiples carry low bits upwards (products wrap around), shifts carry high bits down. The factors are the digits of
    the golden ratio and of the square root of 2: any odd ones without a pattern would do.
    """
    word = (word ^ _down(word, 16)) * -0x61C88647
    word = (word ^ _down(word, 15)) * 0x6A09E667
    return word ^ _down(word, 16)


def _down(word: Tensor, bits: int) -> Tensor:
    """Logical shift: int32 has a sign, which an ordinary one would drag along."""
    return (word >> bits) & ((1 << (32 - bits)) - 1)
