"""Position along the row. Operators ask a position object two things and know nothing else about it:

``encode(x, columns)``: x (B, H, W, heads, d) with its columns (W,) in finest tokens worked in;
``terms(q, k, query_columns, key_columns, candidates)``: what to add to the scaled scores q.k, or None.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Position(Protocol):
    def encode(self, x: Tensor, columns: Tensor) -> Tensor: ...

    def terms(
        self, q: Tensor, k: Tensor, query_columns: Tensor, key_columns: Tensor, candidates: Tensor | None = None
    ) -> Tensor | None:
        """q (B,H,W,heads,d) scaled by d^-0.5, k (B,H,Wk,heads,d), columns (W,) and (Wk,) in finest tokens.

        candidates (B,H,W,heads,M): indices of keys; the result has their shape. None means all keys: (B,H,W,heads,Wk).
        """
        ...


def rotary_frequencies(head_dim: int, longest: float = 512.0) -> Tensor:
    """Angular frequencies, one per rotated pair: periods from 4 to ``longest`` tokens in equal ratios -> (head_dim // 4,).

    Only half of a head is rotated: the other half can still compare content at any distance, also at distances
    that no training crop was wide enough to hold.
    """
    pairs = head_dim // 4
    periods = 4.0 * (longest / 4.0) ** (torch.arange(pairs) / max(pairs - 1, 1))
    return 2 * torch.pi / periods


class Rotary:
    """Rotary code (RoFormer, arXiv 2104.09864): rides on q and k, so it costs nothing per pair."""

    def __init__(self, frequencies: Tensor):
        self.frequencies = frequencies

    def encode(self, x: Tensor, columns: Tensor) -> Tensor:
        """Rotate the first 2 * len(frequencies) channels of every head by column * frequency.

        The product of a rotated query and a rotated key depends on the columns only through their difference.
        """
        pairs = self.frequencies.numel()
        angle = columns[:, None].to(torch.float32) * self.frequencies.to(torch.float32)  # (W, pairs)
        cos, sin = angle.cos().to(x.dtype)[:, None], angle.sin().to(x.dtype)[:, None]  # (W, 1, pairs)
        a, b, rest = x[..., :pairs], x[..., pairs : 2 * pairs], x[..., 2 * pairs :]
        return torch.cat([a * cos - b * sin, a * sin + b * cos, rest], dim=-1)

    def terms(self, q: Tensor, k: Tensor, query_columns: Tensor, key_columns: Tensor, candidates: Tensor | None = None) -> None:
        return None


def encode_only(position: Position | None, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """q and k with position worked in, for operators that never form a score per pair and so have nowhere to add terms.

    Raises ValueError for a position object that has terms, rather than leave half of it out.
    """
    if position is None:
        return q, k
    query, key = (torch.arange(x.shape[2], device=x.device) for x in (q, k))
    q, k = position.encode(q, query), position.encode(k, key)
    if position.terms(q[:, :, :1], k[:, :, :1], query[:1], key[:1]) is not None:
        raise ValueError(f"an operator without scores per pair cannot add the terms of {type(position).__name__}; use Rotary")
    return q, k
