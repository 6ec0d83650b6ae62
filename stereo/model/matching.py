"""Optimal transport along epipolar lines: the "match" stage (STTR section 3.3). It projects the features for itself."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from stereo.types import Transport

FLOOR = 170.0  # nats below a row's best score at which a score is cut; e^-340, the least product, is far inside float64's range


def sinkhorn(scores: Tensor, dustbin_left: Tensor, dustbin_right: Tensor, iterations: int) -> Tensor:
    """Sinkhorn with dustbins -> probabilities (..., W+1, W+1); every real row sums to exactly 1 (SPEC 1.9).

    scores (..., W, W), -inf where a match is forbidden; dustbin_left (..., W): score of "no match" of each left token,
    dustbin_right (..., W) of each right token. Marginals: 1 per token, W per dustbin.
    Written as matrix scaling (two matrix-vector products per iteration) on rows shifted by their maximum, in float64: equal to
    the log domain, at half the time of its column-wise log-sum-exp. In float32 the products leave the range and the gradient
    overflows as soon as scores span 40 nats, and trained scores do.
    """
    W = scores.shape[-1]
    top = torch.cat([scores, dustbin_left[..., None]], dim=-1)
    bottom = torch.cat([dustbin_right, torch.zeros_like(dustbin_right[..., :1])], dim=-1)
    extended = torch.cat([top, bottom[..., None, :]], dim=-2).double()
    peak = extended.detach().amax(dim=-1, keepdim=True)
    kernel = (extended - peak).clamp(min=-FLOOR).exp().masked_fill(extended == float("-inf"), 0)
    log_marginal = extended.new_zeros(W + 1)
    log_marginal[W] = math.log(W)
    rows = (peak - peak.amax(dim=-2, keepdim=True)).clamp(min=-FLOOR).exp()[..., 0]  # undoes the shift: u = 0 to begin with
    for _ in range(iterations):
        # exp(a - log b) and not a / b: the gradient of 1 / b is 1 / b^2, which overflows long before b does.
        columns = (log_marginal - torch.einsum("...ij,...i->...j", kernel, rows).log()).exp()
        rows = (log_marginal - torch.einsum("...ij,...j->...i", kernel, columns).log()).exp()
    return (rows[..., :, None] * kernel * columns[..., None, :]).to(scores.dtype)


def window_sums(mass: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    """First moment of the disparity, and mass, in the three-token window around the most likely match (SPEC 1.10).

    mass (B, h, w, W); query (w,) column of each left token -> moment (B, h, w) tokens >= 0, window mass (B, h, w).
    """
    window = mass.argmax(dim=-1, keepdim=True) + torch.arange(-1, 2, device=mass.device)
    inside = (window >= 0) & (window < mass.shape[-1])
    weights = mass.gather(-1, window.clamp(0, mass.shape[-1] - 1)) * inside
    disparity = (query[:, None] - window).clamp(min=0).to(mass.dtype)
    return (weights * disparity).sum(dim=-1), weights.sum(dim=-1)


def window_disparity(mass: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    """Expected disparity in that window, in tokens >= 0, and the window's mass; shapes as in ``window_sums``.

    The divisor and the mass are two tensors on purpose (SPEC P1).
    """
    moment, window_mass = window_sums(mass, query)
    return moment / window_mass.clamp(min=1e-6), window_mass


class DenseMatching(nn.Module):
    """Scores of all pairs on a row, one-sided (x_right <= x_left), then Sinkhorn with a dustbin score per token."""

    def __init__(self, channels: int, iterations: int):
        super().__init__()
        self.iterations = iterations
        self.project = nn.Linear(channels, channels)
        self.dustbin = nn.Linear(channels, 1)

    def forward(self, left: Tensor, right: Tensor) -> tuple[Transport, Tensor, Tensor]:
        """left, right (B, h, w, C) -> transport, and the projected features (B, h, w, C), scaled so that q.k is the score."""
        q, k = (self.project(x).float() * left.shape[-1] ** -0.25 for x in (left, right))
        columns = torch.arange(left.shape[2], device=left.device)
        with torch.autocast(left.device.type, enabled=False):
            scores = (q @ k.transpose(-1, -2)).masked_fill(columns > columns[:, None], float("-inf"))
            dustbin_left, dustbin_right = (self.dustbin(x.float())[..., 0] for x in (left, right))
            plan = sinkhorn(scores, dustbin_left, dustbin_right, self.iterations)
        mass = plan[..., :-1, :-1]
        index = columns.expand(mass.shape)
        return Transport(mass, index, plan[..., :-1, -1], plan[..., -1, :-1]), q, k
