"""Full attention along each epipolar line: the operator that the quadtree is measured against."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stereo.attention.contract import check_inputs, masked_softmax, side_mask
from stereo.attention.position import Position


class DenseAttention(nn.Module):
    """Softmax over the whole row: O(W^2) in time and memory (STTR section 3.1, without its relative position terms)."""

    scopes = ("row",)

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
        query, key = torch.arange(q.shape[2], device=q.device), torch.arange(k.shape[2], device=q.device)
        q, terms = q * q.shape[-1] ** -0.5, None
        if position is not None:
            q, k = position.encode(q, query), position.encode(k, key)
            terms = position.terms(q, k, query, key)
        scores = q.transpose(2, 3) @ k.permute(0, 1, 3, 4, 2)  # (B, H, heads, W, Wk)
        if terms is not None:
            scores = scores + terms.transpose(2, 3)
        allowed = side_mask(side, (query[:, None] - key)[None, None, None])
        weights = masked_softmax(scores, allowed)
        return (weights @ v.transpose(2, 3)).transpose(2, 3)
