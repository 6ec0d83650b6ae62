"""Quadtree attention along epipolar lines: coarse to fine, 2K candidates per query and level, linear in the width.

QuadTree Attention (ICLR 2022, arXiv 2201.02767), variant B, carried over from the plane to the row:
a coarse row stands for 2^l fine rows, so a node has four children; a query looks only into its own row of each level.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stereo import kernels
from stereo.attention.contract import check_inputs, masked_softmax, side_mask
from stereo.attention.rotary import rotate


def effective_levels(levels: int, key_width: int) -> int:
    """Levels that still choose: the coarsest row must hold at least two keys, so small inputs drop the coarse ones."""
    while levels > 1 and key_width <= 2 ** (levels - 1):
        levels -= 1
    return levels


def pad_grid(x: Tensor, multiple: int) -> Tensor:
    """(B, H, W, heads, d) zero-padded below and to the right until H and W are multiples."""
    return F.pad(x, (0, 0, 0, 0, 0, -x.shape[2] % multiple, 0, -x.shape[1] % multiple))


def pool_grid(x: Tensor, height: int, width: int, with_max: bool) -> Tensor:
    """2x2 pooling of (B, H, W, heads, d) over the cells inside height x width; what lies outside is padding and never counts.

    ``with_max`` gives the average of mean and maximum, which keeps thin structures visible to the coarse levels.
    """
    B, H, W, heads, d = x.shape
    blocks = x.view(B, H // 2, 2, W // 2, 2, heads, d)
    if height == H and width == W:
        mean = blocks.mean(dim=(2, 4))
        return (mean + blocks.amax(dim=(2, 4))) / 2 if with_max else mean
    inside = (torch.arange(H, device=x.device) < height)[:, None] & (torch.arange(W, device=x.device) < width)
    inside = inside.view(H // 2, 2, W // 2, 2, 1, 1)
    mean = (blocks * inside).sum(dim=(2, 4)) / inside.sum(dim=(1, 3)).clamp(min=1).to(x.dtype)
    if not with_max:
        return mean
    peak = blocks.masked_fill(~inside, float("-inf")).amax(dim=(2, 4))
    return (mean + torch.where(peak.isinf(), mean, peak)) / 2


class QuadtreeB(nn.Module):
    """Each level normalised on its own, levels mixed by learned weights (SPEC: QTAttB).

    levels: L, finest included. topk: K, keys kept per query and level. pool: "mean" as published, or "mean_max".
    kernel: a backend name of stereo.kernels.
    """

    scopes = ("row",)

    def __init__(self, levels: int = 4, topk: int = 8, pool: str = "mean_max", kernel: str = "auto"):
        super().__init__()
        if levels < 1 or topk < 1 or pool not in ("mean", "mean_max"):
            raise ValueError(f"expected levels >= 1, topk >= 1 and pool mean|mean_max, got {levels}, {topk}, {pool!r}")
        self.levels, self.topk, self.pool, self.kernel = levels, topk, pool, kernel
        self.level_weights = nn.Parameter(torch.zeros(levels))  # finest first; zeros mix all levels alike

    def pyramid(self, x: Tensor, levels: int, with_max: bool) -> list[Tensor]:
        """Finest first; every level (B, H_l, W_l, heads, d) of the grid padded to a multiple of 2^(levels-1)."""
        height, width = x.shape[1:3]
        out = [pad_grid(x, 2 ** (levels - 1))]
        for _ in range(levels - 1):
            out.append(pool_grid(out[-1], height, width, with_max))
            height, width = -(-height // 2), -(-width // 2)
        return out

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scope: str = "row",
        side: Tensor | None = None,
        frequencies: Tensor | None = None,
    ) -> Tensor:
        """q (B,H,W,heads,d), k and v (B,H,Wk,heads,d) -> message (B,H,W,heads,d). See stereo.attention.contract."""
        check_inputs(self, q, k, v, scope, side)
        H, W, Wk = q.shape[1], q.shape[2], k.shape[2]
        levels = effective_levels(self.levels, Wk)
        scale = q.shape[-1] ** -0.5
        queries, keys = (self.pyramid(x, levels, self.pool == "mean_max") for x in (q * scale, k))
        values = self.pyramid(v, levels, with_max=False)
        mixture = self.level_weights[:levels].softmax(dim=0)

        message, chosen = None, None
        for level in reversed(range(levels)):
            q_l, k_l, v_l = queries[level], keys[level], values[level]
            if frequencies is not None:
                q_l, k_l = (rotate(x, _centres(x.shape[2], level, x.device), frequencies) for x in (q_l, k_l))
            candidates = _children(chosen) if chosen is not None else _all_columns(q_l, k_l)
            weights, here = self._attend_level(q_l, k_l, v_l, candidates, -(-Wk // 2**level), side)
            message = here * mixture[level] if message is None else _to_children(message) + here * mixture[level]
            if level > 0:
                best = weights.topk(min(self.topk, weights.shape[-1]), dim=-1, sorted=False).indices
                chosen = candidates.gather(-1, best)
        return message[:, :H, :W]

    def _attend_level(
        self, q: Tensor, k: Tensor, v: Tensor, candidates: Tensor, key_width: int, side: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Softmax over the candidates that exist and are allowed -> weights (B,H,W,heads,M), message (B,H,W,heads,d)."""
        backend = kernels.select(self.kernel, k.shape[2])
        allowed = candidates < key_width  # beyond it lies padding
        columns = torch.arange(q.shape[2], device=q.device)[:, None, None]
        one_sided = side_mask(side, columns - candidates)
        if one_sided is not None:
            # A padded query column may lie beyond every allowed key; it is cropped later and may see anything that exists.
            allowed = allowed & (one_sided | (columns >= key_width))
        weights = masked_softmax(backend.gather_scores(q, k, candidates), allowed)
        return weights, backend.gather_values(weights, v, candidates)


def _centres(width: int, level: int, device: torch.device) -> Tensor:
    """Centre of every node of a level, in finest tokens."""
    return (torch.arange(width, device=device) + 0.5) * 2**level - 0.5


def _all_columns(q: Tensor, k: Tensor) -> Tensor:
    """Every key column for every query -> (B, H, W, heads, Wk)."""
    return torch.arange(k.shape[2], device=q.device).expand(*q.shape[:4], -1)


def _to_children(x: Tensor) -> Tensor:
    """Each node's content copied to its 2x2 children: (B, H, W, ...) -> (B, 2H, 2W, ...)."""
    return x.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)


def _children(chosen: Tensor) -> Tensor:
    """Columns 2j, 2j+1 of the chosen columns j, handed to the 2x2 children: (B,H,W,heads,K) -> (B,2H,2W,heads,2K)."""
    return _to_children(torch.cat([2 * chosen, 2 * chosen + 1], dim=-1))
