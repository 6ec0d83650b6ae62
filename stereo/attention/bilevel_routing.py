"""Bi-level routing attention: first choose whole regions by their means, then attend to all tokens inside the chosen ones."""

from __future__ import annotations

from torch import Tensor, nn

from stereo.attention.contract import as_rows, check_inputs, columns_of, masked_softmax, side_mask
from stereo.attention.position import Position
from stereo.attention.sparse import KeyGrid, allowed_candidates, candidate_scores, candidate_values, child_nodes
from stereo.attention.spatial_reduction import pool_blocks


class BilevelRouting(nn.Module):
    """Softmax over the tokens of the K regions whose mean key fits the mean query of one's own region best.

    BiFormer (arXiv 2303.08810, section 3.2): A = Q_r K_r^T between region means, I = topk(A) per region, then attention over
    the gathered tokens. region: r, regions are 1 x r tokens in row scope and r x r in image scope; BiFormer fixes their number.
    topk: K, regions kept, clamped to what exists. Two deviations: every head routes for itself, and position enters the choice
    of regions at their centres. Its local term (a depthwise convolution of v) is left to the feed-forward part. With ``side``
    regions beyond the query's own are not chosen, and tokens are masked one by one. kernel: a backend name of stereo.kernels.
    """

    scopes = ("row", "image")

    def __init__(self, region: int = 8, topk: int = 4, kernel: str = "auto"):
        super().__init__()
        if region < 1 or topk < 1:
            raise ValueError(f"expected region >= 1 and topk >= 1, got {region} and {topk}")
        self.region, self.topk, self.kernel = region, topk, kernel

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
        q = q * q.shape[-1] ** -0.5
        keys, regions = KeyGrid.of(k, scope), self.regions(q, k, scope, side, position)
        candidates = self._to_tokens(regions, keys, scope)[:, : q.shape[1], : q.shape[2]]
        allowed = allowed_candidates(candidates, keys, scope, side)
        existing, columns = keys.existing(candidates), (columns_of(q, scope), columns_of(k, scope))
        scores = candidate_scores(q, k, existing, scope, columns, position, self.kernel)
        return candidate_values(masked_softmax(scores, allowed), v, existing, scope, self.kernel)

    def regions(self, q: Tensor, k: Tensor, scope: str, side: Tensor | None, position: Position | None) -> Tensor:
        """The regions chosen by every region of scaled queries -> (B, regions down, regions across, heads, K) indices."""
        q, k = (pool_blocks(x, self.region, scope).detach() for x in (q, k))  # a choice has no gradient
        shape = q.shape
        query, key = columns_of(q, scope), columns_of(k, scope)
        allowed = side_mask(side, (query[:, None] - key)[None, None, None])
        q, k = as_rows(q, scope), as_rows(k, scope)
        terms = None
        if position is not None:
            query, key = ((at + 0.5) * self.region - 0.5 for at in (query, key))  # centres in tokens
            q, k = position.encode(q, query), position.encode(k, key)
            terms = position.terms(q, k, query, key)
        affinity = q.transpose(2, 3) @ k.permute(0, 1, 3, 4, 2)  # (B, H, heads, regions, regions)
        if terms is not None:
            affinity = affinity + terms.transpose(2, 3)
        if allowed is not None:
            affinity = affinity.masked_fill(~allowed, float("-inf"))
        best = affinity.topk(min(self.topk, affinity.shape[-1]), dim=-1, sorted=False).indices
        return best.transpose(2, 3).reshape(*shape[:4], -1)

    def _to_tokens(self, regions: Tensor, keys: KeyGrid, scope: str) -> Tensor:
        """Tokens of the chosen regions, handed to every query of the region -> (B, >= H, >= W, heads, M)."""
        across = -(-keys.width // self.region)
        coarse = KeyGrid(1 if keys.height == 1 else -(-keys.height // self.region), across)
        tokens = child_nodes(regions, coarse, keys, self.region).repeat_interleave(self.region, dim=2)
        return tokens if scope == "row" else tokens.repeat_interleave(self.region, dim=1)
