"""Position along the row. Operators ask a position object two things and know nothing else about it:

``encode(x, columns)``: x (B, H, W, heads, d) with its columns (W,) in finest tokens worked in;
``terms(q, k, query_columns, key_columns, candidates)``: what to add to the scaled scores q.k, or None.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from stereo.kernels import reference


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

    def mirrored(self) -> Rotary:
        """The code for offsets of the other sign."""
        return Rotary(-self.frequencies)

    def encode(self, x: Tensor, columns: Tensor) -> Tensor:
        """Rotate the first 2 * len(frequencies) channels of every head by column * frequency.

        The product of a rotated query and a rotated key depends on the columns only through their difference.
        """
        return reference.turned(x, self.turns(columns))

    def turns(self, columns: Tensor) -> Tensor:
        """(2, W, pairs) float32: cosines and sines of column * frequency."""
        angle = columns[:, None].to(torch.float32) * self.frequencies.to(torch.float32)
        return torch.stack([angle.cos(), angle.sin()])

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


def relative_sine(width: int, channels: int, scale: float) -> Tensor:
    """STTR's table of relative positions: row r holds the sines and cosines of (width - 1 - r) * scale -> (2 * width - 1, C).

    scale: what one token counts, in the unit that the weights were trained with (px for STTR, tokens for its light version).
    In float32 step by step: published weights saw these very roundings, 1e-5 at a thousand px (SPEC 1.6).
    """
    offsets = torch.arange(width - 1, -width, -1, dtype=torch.float32) * scale
    periods = 10000 ** (torch.arange(0, channels, 2, dtype=torch.float32) / channels)
    phase = offsets[:, None] / periods
    return torch.stack([phase.sin(), phase.cos()], dim=-1).flatten(1)


class RelativeTerms:
    """STTR's relative position (section 3.1, SPEC 1.7): content meets position, position meets content; the pair of positions
    is left out.

    queries, keys (2W-1, heads, d): the table of ``relative_sine`` as the layer's own query and key projections see it, queries
    scaled by d^-0.5. Row W - 1 stands for equal columns, row 0 for a query W - 1 tokens right of its key. Projecting the table
    and not its W x W gathering saves 7 % of STTR's arithmetic (SPEC P9).
    Columns may be the centres of coarse nodes: two nodes of level l are a multiple of 2^l tokens apart, at most
    W - 1 whatever W, so the finest level's table has a row for every offset.
    """

    def __init__(self, queries: Tensor, keys: Tensor):
        self.queries, self.keys = queries, keys

    def encode(self, x: Tensor, columns: Tensor) -> Tensor:
        return x

    def terms(
        self, q: Tensor, k: Tensor, query_columns: Tensor, key_columns: Tensor, candidates: Tensor | None = None
    ) -> Tensor:
        centre = len(self.keys) // 2
        if candidates is None:
            rows = (centre - query_columns[:, None] + key_columns).round().long()  # (W, Wk)
            # One product for each head and query column, one for each head and key column; einsum takes 1.4 times as long.
            content = _by_column(q) @ self.keys.transpose(0, 1)[:, rows].mT  # (heads, W, B * H, Wk)
            reverse = _by_column(k) @ self.queries.transpose(0, 1)[:, rows.T].mT  # (heads, Wk, B * H, W)
            return (content + reverse.permute(0, 3, 2, 1)).unflatten(2, q.shape[:2]).permute(2, 3, 1, 0, 4)
        rows = (centre - query_columns[:, None, None] + key_columns[candidates]).round().long()  # (B, H, W, heads, M)
        queries, keys = (x.expand(*q.shape[:2], -1, -1, -1) for x in (self.queries, self.keys))  # one table for all rows
        content = reference.gather_scores(q, keys, rows)
        chosen = reference.gather_columns(k, candidates).flatten(3, 4).transpose(2, 3)  # (B, H, W * M, heads, d)
        one_each = rows.transpose(3, 4).flatten(2, 3)[..., None]  # (B, H, W * M, heads, 1)
        reverse = reference.gather_scores(chosen, queries, one_each)[..., 0].unflatten(2, (q.shape[2], -1))
        return content + reverse.transpose(3, 4)


def _by_column(x: Tensor) -> Tensor:
    """(B, H, W, heads, d) -> (heads, W, B * H, d)."""
    return x.permute(3, 2, 0, 1, 4).flatten(2, 3)
