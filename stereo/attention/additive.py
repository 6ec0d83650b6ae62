"""Additive attention: one global query, pooled with learned weights, meets the keys element by element; no pair is formed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stereo.attention.contract import check_inputs, check_same_grid, visible_sums
from stereo.attention.position import Position, encode_only


class AdditiveAttention(nn.Module):
    """g = sum_i softmax_i(w_q . q_i / sqrt(d)) q_i over the row or plane, then p_j = g * k_j element by element, and

    values=True  (Fastformer, arXiv 2108.09084):  c = sum_j softmax_j(w_k . p_j / sqrt(d)) p_j,  message_i = T(c * v_i) + q_i;
    values=False (SwiftFormer, arXiv 2303.15446): message_i = T(p_i) + q_i, and v is not read.

    head_dim: d. Every head pools on its own with the same w_q, w_k and linear map T, where the papers pool over all channels;
    SwiftFormer's queries and pooling weights of unit length are not carried over, the softmax is Fastformer's for both. Message
    and query share their place, so both views lie on one grid. With ``side`` the sum over j keeps to the allowed keys. O(W d).
    """

    scopes = ("row", "image")

    def __init__(self, head_dim: int = 16, values: bool = True):
        super().__init__()
        self.query_pool = nn.Parameter(torch.randn(head_dim))
        self.key_pool = nn.Parameter(torch.randn(head_dim)) if values else None
        self.transform = nn.Linear(head_dim, head_dim)
        self.values = values

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scope: str = "row",
        side: Tensor | None = None,
        position: Position | None = None,
    ) -> Tensor:
        """q, k, v (B,H,W,heads,d) -> message (B,H,W,heads,d). See stereo.attention.contract."""
        check_inputs(self.scopes, q, k, v, scope, side)
        check_same_grid("additive", q, k)
        q, k = encode_only(position, q, k)
        products = pool_tokens(q, q @ self.query_pool.to(q.dtype), scope, None) * k  # (B, H, W, heads, d)
        if self.key_pool is not None:
            products = pool_tokens(products, products @ self.key_pool.to(q.dtype), scope, side) * v
        weight, bias = self.transform.weight.to(q.dtype), self.transform.bias.to(q.dtype)  # parameters may be wider than inputs
        return F.linear(products, weight, bias) + q


def pool_tokens(x: Tensor, logits: Tensor, scope: str, side: Tensor | None) -> Tensor:
    """Softmax-weighted mean of x (B,H,W,heads,d) by logits (B,H,W,heads), unscaled -> (B, H or 1, W or 1, heads, d).

    Logits are cut at +-30 in place of subtracting their maximum: a running sum cannot know the maximum of what is to come.
    """
    wide = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    weights = (wide * x.shape[-1] ** -0.5).clamp(-30, 30).exp()[..., None]
    pooled = visible_sums(weights * x, scope, side) / visible_sums(weights, scope, side)
    return pooled.to(x.dtype)
