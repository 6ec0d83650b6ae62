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
from stereo.attention.position import Position


def effective_levels(levels: int, key_width: int) -> int:
    """Levels that still choose: the coarsest row must hold at least two keys, so small inputs drop the coarse ones."""
    while levels > 1 and key_width <= 2 ** (levels - 1):
        levels -= 1
    return levels


def pool_grid(x: Tensor, with_max: bool) -> Tensor:
    """2x2 pooling of (B, H, W, heads, d) -> (B, ceil(H/2), ceil(W/2), heads, d). A cell beyond the edge counts nowhere.

    ``with_max`` gives the average of mean and maximum, which keeps thin structures visible to the coarse levels.
    """
    planes = x.flatten(-2).permute(0, 3, 1, 2)  # channels-last, no copy
    pooled = F.avg_pool2d(planes, 2, ceil_mode=True, count_include_pad=False)
    if with_max:
        pooled = (pooled + F.max_pool2d(planes, 2, ceil_mode=True)) / 2
    return pooled.permute(0, 2, 3, 1).unflatten(-1, x.shape[-2:])


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
        """Finest first; level l is (B, ceil(H / 2^l), ceil(W / 2^l), heads, d)."""
        out = [x]
        for _ in range(levels - 1):
            out.append(pool_grid(out[-1], with_max))
        return out

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scope: str = "row",
        side: Tensor | None = None,
        position: Position | None = None,
    ) -> Tensor:
        """q (B,H,W,heads,d), k and v (B,H,Wk,heads,d) -> message (B,H,W,heads,d). See stereo.attention.contract."""
        check_inputs(self.scopes, q, k, v, scope, side)
        levels = effective_levels(self.levels, k.shape[2])
        queries, keys = (self.pyramid(x, levels, self.pool == "mean_max") for x in (q * q.shape[-1] ** -0.5, k))
        values = self.pyramid(v, levels, with_max=False)
        mixture = self.level_weights[:levels].softmax(dim=0)

        message = chosen = None
        for level in reversed(range(levels)):
            q_l, k_l, v_l = queries[level], keys[level], values[level]
            candidates = _all_columns(q_l, k_l) if chosen is None else _children(chosen, q_l)
            weights, here = self._attend_level(q_l, k_l, v_l, candidates, side, position, level)
            message = here * mixture[level] if message is None else _to_children(message, q_l) + here * mixture[level]
            if level > 0:
                best = weights.topk(min(self.topk, weights.shape[-1]), dim=-1, sorted=False).indices
                chosen = candidates.gather(-1, best)
        assert message is not None  # there is always the finest level
        return message

    def _attend_level(
        self, q: Tensor, k: Tensor, v: Tensor, candidates: Tensor, side: Tensor | None, position: Position | None, level: int
    ) -> tuple[Tensor, Tensor]:
        """Softmax over the candidates that exist and are allowed -> weights (B,H,W,heads,M), message (B,H,W,heads,d)."""
        backend = kernels.select(self.kernel, k.shape[2])
        columns = torch.arange(q.shape[2], device=q.device)[:, None, None]
        allowed = candidates < k.shape[2]  # the second child of the last column of an odd row does not exist
        one_sided = side_mask(side, columns - candidates)
        if one_sided is not None:
            allowed = allowed & one_sided
        existing = candidates.clamp(max=k.shape[2] - 1)
        terms = None
        if position is not None:
            query_columns, key_columns = (_centres(x.shape[2], level, x.device) for x in (q, k))
            q, k = position.encode(q, query_columns), position.encode(k, key_columns)
            terms = position.terms(q, k, query_columns, key_columns, existing)
        scores = backend.gather_scores(q, k, existing)
        weights = masked_softmax(scores if terms is None else scores + terms, allowed)
        return weights, backend.gather_values(weights, v, existing)


def _centres(width: int, level: int, device: torch.device) -> Tensor:
    """Centre of every node of a level, in finest tokens."""
    return (torch.arange(width, device=device) + 0.5) * 2**level - 0.5


def _all_columns(q: Tensor, k: Tensor) -> Tensor:
    """Every key column for every query -> (B, H, W, heads, Wk)."""
    return torch.arange(k.shape[2], device=q.device).expand(*q.shape[:4], -1)


def _to_children(x: Tensor, finer: Tensor) -> Tensor:
    """Each node's content copied to those of its 2x2 children that exist on the grid of ``finer``: (B, H, W, ...)."""
    return x.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)[:, : finer.shape[1], : finer.shape[2]]


def _children(chosen: Tensor, finer: Tensor) -> Tensor:
    """Columns 2j, 2j+1 of the chosen columns j, handed to the 2x2 children: (B,H,W,heads,K) -> (B,2H,2W,heads,2K)."""
    return _to_children(torch.cat([2 * chosen, 2 * chosen + 1], dim=-1), finer)
