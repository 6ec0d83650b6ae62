"""Linear attention: a kernel feature map in place of the softmax, so that keys are summed up once and not per query."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stereo.attention.contract import check_inputs, visible_sums
from stereo.attention.position import Position, encode_only


class LinearAttention(nn.Module):
    """message_i = phi(q_i)^T S / phi(q_i)^T z, S = sum_j phi(k_j) v_j^T, z = sum_j phi(k_j), phi(x) = elu(x) + 1.

    Linear Transformer (arXiv 2006.16236, section 3.2), the attention of LoFTR (arXiv 2104.00680). With ``side`` the sums run
    up to the query's column (its section 3.3). O(W d^2), parameter-free; the weights sum to 1.
    Position is encoded before phi, so, unlike under softmax, more than differences of columns enters.
    """

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
        q, k = encode_only(position, q, k)
        query, key, dtype = feature_map(q), feature_map(k), q.dtype
        counted = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1).to(key.dtype)  # the ones sum up z beside S
        if side is not None:
            sums = visible_sums(key[..., None] * counted[..., None, :], scope, side)  # (B, H or 1, W, heads, d, d + 1)
        elif scope == "row":
            sums = torch.einsum("bhwnd,bhwne->bhnde", key, counted)[:, :, None]
        else:
            sums = torch.einsum("bhwnd,bhwne->bnde", key, counted)[:, None, None]
        message = torch.einsum("bhwnd,bhwnde->bhwne", query, sums)
        return (message[..., :-1] / message[..., -1:]).to(dtype)


def feature_map(x: Tensor) -> Tensor:
    """elu(x) + 1 in at least float32: x + 1 where x > 0, else exp(x).

    Written with exp because elu rounds to -1, and the sum to 0, from x = -17 on. Cut at exp(-30): no query divides by 0.
    """
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    return torch.where(x > 0, x + 1, x.clamp(min=-30, max=0).exp())
