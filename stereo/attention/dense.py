"""Full attention along each epipolar line, or over the plane: the operator that the quadtree is measured against."""

from __future__ import annotations

from torch import Tensor, nn

from stereo.attention.contract import as_rows, check_inputs, columns_of, masked_softmax, side_mask
from stereo.attention.position import Position


class DenseAttention(nn.Module):
    """Softmax over the whole row or plane: O(W^2) or O(H^2 W^2) (STTR section 3.1, without its relative position terms)."""

    scopes = ("row", "image")

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
        query, key = columns_of(q, scope), columns_of(k, scope)
        shape = q.shape
        q, k, v = (as_rows(x, scope) for x in (q, k, v))
        q, terms = q * q.shape[-1] ** -0.5, None
        if position is not None:
            q, k = position.encode(q, query), position.encode(k, key)
            terms = position.terms(q, k, query, key)
        scores = q.transpose(2, 3) @ k.permute(0, 1, 3, 4, 2)  # (B, H, heads, W, Wk)
        if terms is not None:
            scores = scores + terms.transpose(2, 3)
        allowed = side_mask(side, (query[:, None] - key)[None, None, None])
        weights = masked_softmax(scores, allowed)
        return (weights @ v.transpose(2, 3)).transpose(2, 3).reshape(shape)
