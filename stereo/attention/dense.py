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
        columns = columns_of(q, scope), columns_of(k, scope)
        allowed = side_mask(side, (columns[0][:, None] - columns[1])[None, None, None])
        rows = as_rows(q, scope), as_rows(k, scope), as_rows(v, scope)
        return attend_rows(rows, columns, allowed, position).reshape(q.shape)


def attend_rows(
    rows: tuple[Tensor, Tensor, Tensor], columns: tuple[Tensor, Tensor], allowed: Tensor | None, position: Position | None
) -> Tensor:
    """Softmax attention of q (B,H,W,heads,d) over k, v (B,H,Wk,heads,d), the three ``rows`` -> (B,H,W,heads,d).

    columns: (W,) of the queries and (Wk,) of the keys, in finest tokens. allowed: (B or 1, 1, 1, W, Wk) bool, or None.
    """
    q, k, v = rows
    q, terms = q * q.shape[-1] ** -0.5, None
    if position is not None:
        q, k = (position.encode(x, at) for x, at in zip((q, k), columns, strict=True))
        terms = position.terms(q, k, *columns)
    scores = q.transpose(2, 3) @ k.permute(0, 1, 3, 4, 2)  # (B, H, heads, W, Wk)
    if terms is not None:
        scores = scores + terms.transpose(2, 3)
    return (masked_softmax(scores, allowed) @ v.transpose(2, 3)).transpose(2, 3)
