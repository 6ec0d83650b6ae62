"""What every operator promises: ``attend(q, k, v, scope, side, position) -> message``.

q (B, H, W, heads, d); k, v (B, Hk, Wk, heads, d); message (B, H, W, heads, d).
scope "row": a query sees keys of its own row (an epipolar line) only, so Hk = H. scope "image": it sees the plane.
side (B,) int: +1 lets query column i see keys j <= i (left looks into the right image), -1 keys j >= i (right into left),
0 or None everything. position: see stereo.attention.position; None means that position is unknown. In image scope, too, it
speaks of columns only.
"""

from __future__ import annotations

import torch
from torch import Tensor


def check_inputs(scopes: tuple[str, ...], q: Tensor, k: Tensor, v: Tensor, scope: str, side: Tensor | None) -> None:
    """Raise ValueError when shapes break the contract or the scope is none of the operator's."""
    if scope not in scopes:
        raise ValueError(f"got scope {scope!r}, expected one of {scopes}")
    if q.dim() != 5 or k.dim() != 5 or k.shape != v.shape:
        raise ValueError(f"expected q (B,H,W,heads,d) and k, v (B,Hk,Wk,heads,d), got {[tuple(t.shape) for t in (q, k, v)]}")
    if q.shape[0] != k.shape[0] or q.shape[3:] != k.shape[3:] or (scope == "row" and q.shape[1] != k.shape[1]):
        free = "the width" if scope == "row" else "height and width"
        raise ValueError(f"q and k must agree in all but {free}, got {tuple(q.shape)} and {tuple(k.shape)}")
    if side is not None and side.shape != q.shape[:1]:
        raise ValueError(f"side needs one entry per batch entry, got {tuple(side.shape)} for a batch of {q.shape[0]}")
    if side is not None and q.shape[2] != k.shape[2]:
        raise ValueError(f"one-sided attention needs rows of equal width, got {q.shape[2]} queries and {k.shape[2]} keys")


def check_key_mask(key_mask: Tensor | None, k: Tensor) -> None:
    """Raise ValueError unless the mask says True (may be seen) or False for every key (B, Hk, Wk)."""
    if key_mask is not None and (key_mask.dtype != torch.bool or key_mask.shape != k.shape[:3]):
        given = f"{key_mask.dtype} {tuple(key_mask.shape)}"
        raise ValueError(f"expected a key_mask of torch.bool {tuple(k.shape[:3])}, True where the key may be seen, got {given}")


def as_rows(x: Tensor, scope: str) -> Tensor:
    """(B, H, W, ...) as rows that keep to themselves: in image scope the plane is one long row (B, 1, H * W, ...)."""
    return x if scope == "row" else x.flatten(1, 2)[:, None]


def columns_of(x: Tensor, scope: str) -> Tensor:
    """Column of every token of ``as_rows(x, scope)``: (W,) or (H * W,)."""
    columns = torch.arange(x.shape[2], device=x.device)
    return columns if scope == "row" else columns.repeat(x.shape[1])


def check_same_grid(name: str, q: Tensor, k: Tensor) -> None:
    """Raise ValueError unless queries and keys lie on one grid, for operators that pair them by their place."""
    if q.shape[:3] != k.shape[:3]:
        raise ValueError(f"{name} needs queries and keys on one grid, got {tuple(q.shape[1:3])} and {tuple(k.shape[1:3])}")


def side_mask(side: Tensor | None, offset: Tensor) -> Tensor | None:
    """True where the key may be seen; offset = query column - key column, (B or 1, ...) -> (B, ...), or None for all."""
    return None if side is None else side.view(-1, *[1] * (offset.dim() - 1)) * offset >= 0


def visible_sums(x: Tensor, scope: str, side: Tensor | None) -> Tensor:
    """Sum of x (B, H, W, ...), one entry per key, over the keys that a query may see, in at least float32.

    -> (B, H, 1, ...) where every query of a row sees the same, (B, H, W, ...) per query column with ``side``; H is 1 in image
    scope. Running sums: O(W).
    """
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    if scope == "image":
        x = x.sum(dim=1, keepdim=True)
    total = x.sum(dim=2, keepdim=True)
    if side is None:
        return total
    side = side.view(-1, *[1] * (x.dim() - 1))
    running = torch.where(side < 0, x.flip(2), x).cumsum(dim=2)
    return torch.where(side == 0, total, torch.where(side < 0, running.flip(2), running))


def masked_softmax(scores: Tensor, allowed: Tensor | None, may_be_empty: bool = False) -> Tensor:
    """Softmax over the last axis in at least float32; forbidden entries get exactly 0. Returns the dtype of ``scores``.

    may_be_empty: some rows may forbid everything; their weights are all 0 (without it they would be NaN).
    """
    wide = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
    if allowed is not None:
        wide = wide.masked_fill(~allowed, float("-inf"))
    weights = wide.softmax(dim=-1)
    if allowed is not None and may_be_empty:
        weights = weights.masked_fill(~allowed, 0.0)
    return weights.to(scores.dtype)
