"""The same two products as one dense matrix per row. On short rows a full product beats a gather, and its backward far more so.

Time and memory grow with W x Wk, so `auto` takes this backend for short rows only. Signatures: stereo/kernels/reference.py.
"""

from __future__ import annotations

from torch import Tensor


def gather_scores(q: Tensor, k: Tensor, index: Tensor) -> Tensor:
    scores = q.transpose(2, 3) @ k.permute(0, 1, 3, 4, 2)  # (B, H, heads, W, Wk)
    return scores.gather(-1, index.transpose(2, 3)).transpose(2, 3)


def gather_values(weights: Tensor, v: Tensor, index: Tensor) -> Tensor:
    B, H, W, heads, _ = index.shape
    dense = weights.new_zeros(B, H, heads, W, v.shape[2])
    dense = dense.scatter_add(-1, index.transpose(2, 3), weights.transpose(2, 3))
    return (dense @ v.transpose(2, 3)).transpose(2, 3)
