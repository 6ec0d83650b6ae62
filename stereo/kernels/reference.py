"""The arithmetic that carries every quadtree operator, in plain PyTorch. This file is the law for all other backends.

Two sparse products, and one whole level of attention made of them, which other backends do in one pass.

Shapes: q (B, H, W, heads, d), k and v (B, H, Wk, heads, d), index (B, H, W, heads, M) int64 with values in [0, Wk).
Any floating dtype; differentiable in q, k, v and weights; repeated indices are allowed and add up.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
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


def quadtree_level(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    parent: Tensor | None,
    coarse: Tensor | None,
    share: Tensor,
    side: Tensor | None,
    topk: int,
    turns: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """One level of quadtree attention B in row scope -> message (B, H, W, heads, d), chosen (B, H, W, heads, topk) int32.

    parent: what the coarser level chose for the 2x2 queries of each of its nodes, (B, ceil(H/2), ceil(W/2), heads, K) int32:
    the candidates are both children of each. None: all keys are. An entry beyond the keys that exist stands for nothing.
    coarse: the coarser level's message, (B, ceil(H/2), ceil(W/2), heads, d), to be added. share (): factor of this level's own.
    side (B,) int64: see stereo.attention.contract. turns: (2, W, pairs) and (2, Wk, pairs), cosines and sines by which the
    rotary code turns the channels (i, pairs + i) of queries and keys; None: there is nothing to turn.
    chosen: the keys of the topk highest scores among those allowed, in any order; where fewer are allowed, the number of keys.
    A list of fewer candidates than topk is as long as they are.
    """
    if turns is not None:
        q, k = (turned(x, by) for x, by in zip((q, k), turns, strict=True))
    count = k.shape[2]
    if parent is None:
        candidates = torch.arange(count, device=q.device).expand(*q.shape[:4], -1)
    else:
        children = torch.cat([2 * parent, 2 * parent + 1], dim=-1).long()
        candidates = to_children(torch.where((children >= 0) & (children < count), children, count), q)
    allowed = candidates < count
    if side is not None:
        columns = torch.arange(q.shape[2], device=q.device)[:, None, None]
        allowed = allowed & (side.view(-1, 1, 1, 1, 1) * (columns - candidates) >= 0)
    existing = candidates.clamp(max=count - 1)
    scores = gather_scores(q, k, existing)
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32)).masked_fill(~allowed, float("-inf"))
    weights = wide.softmax(dim=-1).masked_fill(~allowed, 0.0)  # a list without any allowed key: all 0
    message = gather_values(weights.to(scores.dtype), v, existing) * share.to(v.dtype)
    best = wide.topk(min(topk, wide.shape[-1]), dim=-1)
    chosen = candidates.gather(-1, best.indices).masked_fill(best.values == float("-inf"), count)
    return message if coarse is None else message + to_children(coarse, q), chosen.int()


def turned(x: Tensor, by: Tensor) -> Tensor:
    """x (B, H, W, heads, d) with its first 2 * pairs channels rotated; by (2, W, pairs)."""
    pairs = by.shape[-1]
    cos, sin = by.to(x.dtype)[:, :, None]  # (W, 1, pairs) each
    a, b, rest = x[..., :pairs], x[..., pairs : 2 * pairs], x[..., 2 * pairs :]
    return torch.cat([a * cos - b * sin, a * sin + b * cos, rest], dim=-1)


def channel_norm(
    x: Tensor, scale: Tensor, shift: Tensor, residual: Tensor | None = None, relu: bool = False, eps: float = 1e-5
) -> Tensor:
    """Layer normalisation of the last dimension, (..., C), then scale and shift (C,), ``residual`` (..., C) added, ReLU."""
    y = F.layer_norm(x, scale.shape, scale, shift, eps)
    if residual is not None:
        y = y + residual
    return F.relu(y) if relu else y


def windows(x: Tensor, dilation: int = 1) -> list[Tensor]:
    """(..., h, w) -> nine of these: what every position of its 3x3 neighbourhood holds, row by row, edges replicated."""
    h, w = x.shape[-2:]
    # Put together by hand: torch.compile cannot follow F.pad's "replicate" behind a pixel_shuffle.
    left, right = (side.expand(*x.shape[:-1], dilation) for side in (x[..., :1], x[..., -1:]))
    wide = torch.cat([left, x, right], dim=-1)
    above, below = (side.expand(*x.shape[:-2], dilation, wide.shape[-1]) for side in (wide[..., :1, :], wide[..., -1:, :]))
    padded = torch.cat([above, wide, below], dim=-2)
    steps = (0, dilation, 2 * dilation)
    return [padded[..., dy : dy + h, dx : dx + w] for dy in steps for dx in steps]


def propagation_step(
    disp: Tensor, confidence: Tensor, logits: Tensor, q: Tensor, k: Tensor, dilation: int
) -> tuple[Tensor, Tensor]:
    """Each position's convex combination of the disparities, and of the confidences, in its 3x3 neighbourhood.

    disp, confidence (B, h, w), confidence in [0, 1]; logits (B, 9, h, w); q, k (B, d, h, w), whose product is added to the
    logits: one position's q with the other's k. A neighbour's weight goes with its confidence. -> (B, h, w) each.
    """
    trust = torch.stack(windows(confidence, dilation), dim=1)
    alike = torch.stack([(q * there).sum(dim=1) for there in windows(k, dilation)], dim=1)
    weights = (logits + alike + torch.log(trust + 1e-3)).softmax(dim=1)
    return (weights * torch.stack(windows(disp, dilation), dim=1)).sum(dim=1), (weights * trust).sum(dim=1)


def sum_of_children(x: Tensor) -> Tensor:
    """(B, H, W, heads, d) -> (B, ceil(H/2), ceil(W/2), heads, d)."""
    x = F.pad(x, (0, 0, 0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
    return x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).sum(dim=(2, 4))


def to_children(x: Tensor, finer: Tensor) -> Tensor:
    """Each node's content copied to those of its 2x2 children that exist on the grid of ``finer``."""
    doubled = x[:, :, None, :, None].expand(-1, -1, 2, -1, 2, *[-1] * (x.dim() - 3)).flatten(3, 4).flatten(1, 2)
    return doubled[:, : finer.shape[1], : finer.shape[2]]
