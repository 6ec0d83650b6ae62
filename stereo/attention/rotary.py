"""Rotary position code along the row (RoFormer, arXiv 2104.09864): it rides on q and k, so no operator has to know about it."""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_frequencies(head_dim: int, longest: float = 512.0) -> Tensor:
    """Angular frequencies, one per rotated pair: periods from 4 to ``longest`` tokens in equal ratios -> (head_dim // 4,).

    Only half of a head is rotated: the other half can still compare content at any distance, also at distances
    that no training crop was wide enough to hold.
    """
    pairs = head_dim // 4
    periods = 4.0 * (longest / 4.0) ** (torch.arange(pairs) / max(pairs - 1, 1))
    return 2 * torch.pi / periods


def rotate(x: Tensor, columns: Tensor, frequencies: Tensor) -> Tensor:
    """Rotate the first 2 * len(frequencies) channels of every head by column * frequency.

    x: (B, H, W, heads, d). columns: (W,) position in finest tokens. The product of a rotated query and a rotated key
    depends on the columns only through their difference.
    """
    pairs = frequencies.numel()
    angle = columns[:, None].to(torch.float32) * frequencies.to(torch.float32)  # (W, pairs)
    cos, sin = angle.cos().to(x.dtype)[:, None], angle.sin().to(x.dtype)[:, None]  # (W, 1, pairs)
    a, b, rest = x[..., :pairs], x[..., pairs : 2 * pairs], x[..., 2 * pairs :]
    return torch.cat([a * cos - b * sin, a * sin + b * cos, rest], dim=-1)
