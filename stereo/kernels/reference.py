"""The two sparse products that carry every quadtree operator, in plain PyTorch. This file is the law for all other backends.

Shapes: q (B, H, W, heads, d), k and v (B, H, Wk, heads, d), index (B, H, W, heads, M) int64 with values in [0, Wk).
Any floating dtype; differentiable in q, k, v and weights; repeated indices are allowed and add up.
"""

from __future__ import annotations

import torch
from torch import Tensor


def gather_columns(x: Tensor, index: Tensor) -> Tensor:
    """(B, H, Wk, heads, d) picked at index (B, H, W, heads, M) -> (B, H, heads, W, M, d)."""
    B, H, W, heads, M = index.shape
    d = x.shape[-1]
    flat = index.transpose(2, 3).reshape(B, H, heads, W * M, 1).expand(-1, -1, -1, -1, d)
    return x.transpose(2, 3).gather(3, flat).view(B, H, heads, W, M, d)


def gather_scores(q: Tensor, k: Tensor, index: Tensor) -> Tensor:
    """Dot product of each query with the keys named by its index list -> (B, H, W, heads, M)."""
    keys = gather_columns(k, index)
    return torch.einsum("bhnwd,bhnwmd->bhwnm", q.transpose(2, 3), keys)


def gather_values(weights: Tensor, v: Tensor, index: Tensor) -> Tensor:
    """Sum of the named values times their weights (B, H, W, heads, M) -> (B, H, W, heads, d)."""
    values = gather_columns(v, index)
    return torch.einsum("bhnwm,bhnwmd->bhwnd", weights.transpose(2, 3), values)
