"""Spatial-reduction attention: every query sees all of the row or plane, but pooled."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stereo.attention.contract import as_rows, check_inputs, columns_of, side_mask
from stereo.attention.dense import attend_rows
from stereo.attention.position import Position


def pool_blocks(x: Tensor, reduction: int, scope: str) -> Tensor:
    """Means over blocks of (B, H, W, heads, d): 1 x r in row scope, so that rows keep to themselves, r x r in image scope.

    -> (B, H or ceil(H / r), ceil(W / r), heads, d). A block that hangs over the edge averages over what exists.
    """
    block = (1 if scope == "row" else reduction, reduction)
    planes = F.avg_pool2d(x.flatten(-2).permute(0, 3, 1, 2), block, ceil_mode=True, count_include_pad=False)
    return planes.permute(0, 2, 3, 1).unflatten(-1, x.shape[-2:])


class SpatialReduction(nn.Module):
    """softmax(q . SR(k) / sqrt(d)) SR(v), SR the mean over blocks (PVT, arXiv 2102.12122, spatial-reduction attention).

    reduction: r, the side of a block in tokens. PVT's SR is a learned strided convolution and a norm; PVTv2 (2106.13797) pools,
    as here, so there is nothing to learn. O(W^2 / r) in row scope, O((H W)^2 / r^2) in image scope. With ``side`` blocks beyond
    the query's own are hidden; its own may be seen whole.
    """

    scopes = ("row", "image")

    def __init__(self, reduction: int = 4):
        super().__init__()
        if reduction < 1:
            raise ValueError(f"expected reduction >= 1, got {reduction}")
        self.reduction = reduction

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scope: str = "row",
        side: Tensor | None = None,
        position: Position | None = None,
    ) -> Tensor:
        """q (B,H,W,heads,d), k and v (B,Hk,Wk,heads,d) -> message (B,H,W,heads,d). See stereo.attention.contract."""
        check_inputs(self.scopes, q, k, v, scope, side)
        keys, values = (pool_blocks(x, self.reduction, scope) for x in (k, v))
        columns, blocks = columns_of(q, scope), columns_of(keys, scope)
        own = torch.div(columns, self.reduction, rounding_mode="floor")
        allowed = side_mask(side, (own[:, None] - blocks)[None, None, None])
        centres = (blocks + 0.5) * self.reduction - 0.5
        rows = as_rows(q, scope), as_rows(keys, scope), as_rows(values, scope)
        return attend_rows(rows, (columns, centres), allowed, position).reshape(q.shape)
