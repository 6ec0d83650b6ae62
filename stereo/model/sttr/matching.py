"""Optimal transport with one dustbin score, and the window around the best match: the "match" stage (SPEC 1.9 and 1.10).

The log domain, unlike stereo.model.matching: scores are summed over heads, so a row can span more than its cut allows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from stereo.attention.position import Position


def log_sinkhorn(scores: Tensor, iterations: int) -> Tensor:
    """scores (..., W+1, W+1), -inf where forbidden, the last row and column being the dustbins -> probabilities, same shape.

    Marginals: 1 per token, W per dustbin. Every real row sums to 1 exactly, the dustbin's row to W; columns only nearly.
    """
    width = scores.shape[-1] - 1
    log_marginal = scores.new_zeros(width + 1)
    log_marginal[width] = math.log(width)
    rows = scores.new_zeros(scores.shape[:-1])
    for _ in range(iterations):
        columns = log_marginal - (scores + rows[..., :, None]).logsumexp(dim=-2)
        rows = log_marginal - (scores + columns[..., None, :]).logsumexp(dim=-1)
    return (scores + rows[..., :, None] + columns[..., None, :]).exp()


def with_dustbins(logits: Tensor, dustbin: Tensor) -> Tensor:
    """(..., W, W) -> (..., W+1, W+1): one more column, row and corner that hold the scalar ``dustbin``."""
    width = logits.shape[-1]
    extended = dustbin.to(logits).expand(*logits.shape[:-2], width + 1, width + 1).clone()
    extended[..., :-1, :-1] = logits
    return extended


class SttrMatching(nn.Module):
    """Scores summed over heads, one-sided (x_right <= x_left), then Sinkhorn, or a plain softmax of each row."""

    def __init__(self, iterations: int, kind: str):
        super().__init__()
        self.iterations, self.kind = iterations, kind
        self.dustbin = nn.Parameter(torch.zeros(()))

    def forward(self, q: Tensor, k: Tensor, position: Position | None) -> tuple[Tensor, Tensor]:
        """q, k (B,h,w,heads,d) -> logits (B,h,w,w), -inf right of the query, and plan (B,h,w+1,w+1), dustbins last.

        The sum over heads, not their mean: it is the temperature that the weights were trained at (SPEC P8).
        """
        columns = torch.arange(q.shape[2], device=q.device)
        q = q * q.shape[-1] ** -0.5
        if position is not None:
            q, k = position.encode(q, columns), position.encode(k, columns)
        logits = q.flatten(-2) @ k.flatten(-2).transpose(-1, -2)
        terms = None if position is None else position.terms(q, k, columns, columns)
        if terms is not None:
            logits = logits + terms.sum(dim=-2)
        with torch.autocast(q.device.type, enabled=False):
            wide = logits if logits.dtype == torch.float64 else logits.float()
            wide = wide.masked_fill(columns > columns[:, None], float("-inf"))
            scores = with_dustbins(wide, self.dustbin)
            plan = scores.softmax(dim=-1) if self.kind == "softmax" else log_sinkhorn(scores, self.iterations)
        return wide, plan
