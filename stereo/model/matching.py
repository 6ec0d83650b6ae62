"""Optimal transport along epipolar lines: the "match" stage (STTR section 3.3). It projects the features for itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stereo import kernels
from stereo.attention.candidates import row_candidates
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
    # Not math.log: to an export the width is part of what is computed; a number of Python stays that of the traced pair.
    dustbin = torch.full_like(extended[..., :1, 0], W).log()
    log_marginal = torch.cat([torch.zeros_like(extended[..., :W, 0]), dustbin], dim=-1)
    rows = (peak - peak.amax(dim=-2, keepdim=True)).clamp(min=-FLOOR).exp()[..., 0]  # undoes the shift: u = 0 to begin with
    for _ in range(iterations):
        # exp(a - log b) and not a / b: the gradient of 1 / b is 1 / b^2, which overflows long before b does.
        columns = (log_marginal - torch.einsum("...ij,...i->...j", kernel, rows).log()).exp()
        rows = (log_marginal - torch.einsum("...ij,...j->...i", kernel, columns).log()).exp()
    return (rows[..., :, None] * kernel * columns[..., None, :]).to(scores.dtype)


def sparse_sinkhorn(
    scores: Tensor, index: Tensor, dustbin_left: Tensor, dustbin_right: Tensor, iterations: int
) -> tuple[Tensor, Tensor, Tensor]:
    """``sinkhorn`` where only the listed matches exist -> mass (..., W, J), dustbins (..., W) and (..., Wk).

    scores (..., W, J), -inf where an entry is no match; index (..., W, J) int64, its column in [0, Wk), each at most once per
    list; dustbin_left (..., W), dustbin_right (..., Wk). Sums over a row run over its list, sums over a column are scattered:
    time and memory grow with W x J.
    """
    W, Wk = scores.shape[-2], dustbin_right.shape[-1]
    scores, bin_left, bin_right = scores.double(), dustbin_left.double(), dustbin_right.double()
    peak = torch.maximum(scores.detach().amax(dim=-1), bin_left.detach())  # of each row, dustbin included
    peak_bin = bin_right.detach().amax(dim=-1, keepdim=True).clamp(min=0)  # of the row of dustbins, its corner has score 0
    top = torch.maximum(peak.amax(dim=-1, keepdim=True), peak_bin)
    kernel = (scores - peak[..., None]).clamp(min=-FLOOR).exp().masked_fill(scores == float("-inf"), 0)
    to_bin = (bin_left - peak).clamp(min=-FLOOR).exp()  # (..., W): from left tokens to the dustbin
    from_bin = (bin_right - peak_bin).clamp(min=-FLOOR).exp()  # (..., Wk): from the dustbin to right tokens
    corner = (-peak_bin).clamp(min=-FLOOR).exp()  # (..., 1)
    rows, row_bin = (peak - top).clamp(min=-FLOOR).exp(), (peak_bin - top).clamp(min=-FLOOR).exp()
    flat = index.flatten(-2)
    marginal_right, marginal_left = (torch.full_like(corner, width).log() for width in (Wk, W))  # see sinkhorn
    for _ in range(iterations):
        arriving = (rows[..., None] * kernel).flatten(-2)
        column_sums = torch.zeros_like(bin_right).scatter_add(-1, flat, arriving) + row_bin * from_bin
        columns = (-column_sums.log()).exp()  # exp(-log a), not 1 / a: see sinkhorn
        column_bin = (marginal_right - ((rows * to_bin).sum(dim=-1, keepdim=True) + row_bin * corner).log()).exp()
        reached = columns.gather(-1, flat).view_as(kernel)
        rows = (-((kernel * reached).sum(dim=-1) + to_bin * column_bin).log()).exp()
        row_bin = (marginal_left - ((from_bin * columns).sum(dim=-1, keepdim=True) + corner * column_bin).log()).exp()
    mass = rows[..., None] * kernel * reached
    left, right = rows * to_bin * column_bin, row_bin * from_bin * columns
    return mass.to(dustbin_left.dtype), left.to(dustbin_left.dtype), right.to(dustbin_right.dtype)


def window_sums(mass: Tensor, query: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """First moment of the disparity, and mass, in the three-token window around the most likely match (SPEC 1.10).

    mass, index (B, h, w, J) as in stereo.types.Transport; query (w,) column of each left token
    -> moment (B, h, w) tokens >= 0, window mass (B, h, w).
    """
    best = index.gather(-1, mass.argmax(dim=-1, keepdim=True))
    weights = mass * ((index - best).abs() <= 1)
    disparity = (query[:, None] - index).clamp(min=0).to(mass.dtype)
    return (weights * disparity).sum(dim=-1), weights.sum(dim=-1)


def window_disparity(mass: Tensor, query: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Expected disparity in that window, in tokens >= 0, and the window's mass; shapes as in ``window_sums``.

    The divisor and the mass are two tensors on purpose (SPEC P1).
    """
    moment, window_mass = window_sums(mass, query, index)
    return moment / window_mass.clamp(min=1e-6), window_mass


def right_disparity(transport: Transport) -> tuple[Tensor, Tensor]:
    """The same of the right view, read from the same masses by columns -> disparity in tokens >= 0 and window mass, (B, h, Wk).

    A right token that no left one lists has mass 0.
    """
    mass, index = transport.mass, transport.index
    queries = torch.arange(mass.shape[2], device=mass.device)[:, None].expand(mass.shape).flatten(2)
    flat, columns = mass.flatten(2), index.flatten(2)
    zeros = torch.zeros_like(transport.dustbin_right)
    peak = zeros.scatter_reduce(-1, columns, flat.detach(), "amax")
    is_best = (flat == peak.gather(-1, columns)) & (flat > 0)
    best = zeros.long().scatter_reduce(-1, columns, torch.where(is_best, queries, -1), "amax", include_self=False)
    weights = flat * ((queries - best.gather(-1, columns)).abs() <= 1)
    window_mass = zeros.scatter_add(-1, columns, weights)
    moment = zeros.scatter_add(-1, columns, weights * (queries - columns).clamp(min=0))
    return moment / window_mass.clamp(min=1e-6), window_mass


class Matching(nn.Module):
    """Features of both views -> where each left token goes. The weights are the same whichever matches are looked at."""

    def __init__(self, channels: int, iterations: int):
        super().__init__()
        self.iterations = iterations
        self.project = nn.Linear(channels, channels)
        self.dustbin = nn.Linear(channels, 1)

    def forward(self, left: Tensor, right: Tensor) -> tuple[Transport, Tensor, Tensor]:
        """left, right (B, h, w, C) -> transport, and the projected features (B, h, w, C), scaled so that q.k is the score."""
        q, k = (self.project(x).float() * left.shape[-1] ** -0.25 for x in (left, right))
        with torch.autocast(left.device.type, enabled=False):
            dustbin_left, dustbin_right = (self.dustbin(x.float())[..., 0] for x in (left, right))
            return self.transport(q, k, dustbin_left, dustbin_right), q, k

    def transport(self, q: Tensor, k: Tensor, dustbin_left: Tensor, dustbin_right: Tensor) -> Transport:
        raise NotImplementedError


class DenseMatching(Matching):
    """Scores of all pairs on a row, one-sided (x_right <= x_left), then Sinkhorn with a dustbin score per token."""

    def transport(self, q: Tensor, k: Tensor, dustbin_left: Tensor, dustbin_right: Tensor) -> Transport:
        columns = torch.arange(q.shape[2], device=q.device)
        scores = (q @ k.transpose(-1, -2)).masked_fill(columns > columns[:, None], float("-inf"))
        plan = sinkhorn(scores, dustbin_left, dustbin_right, self.iterations)
        mass = plan[..., :-1, :-1]
        return Transport(mass, columns.expand(mass.shape), plan[..., :-1, -1], plan[..., -1, :-1])


class SparseMatching(Matching):
    """The same over the pairs that a descent of the quadtree finds: no matrix of all pairs, linear in the width (DESIGN 3).

    topk: keys kept per query and level; at most twice as many matches are looked at. Gradients flow through the scores of
    these, not through their choice.
    """

    def __init__(self, channels: int, iterations: int, levels: int = 3, topk: int = 12, kernel: str = "auto"):
        super().__init__(channels, iterations)
        self.levels, self.topk, self.kernel = levels, topk, kernel

    def transport(self, q: Tensor, k: Tensor, dustbin_left: Tensor, dustbin_right: Tensor) -> Transport:
        queries, keys = q[:, :, :, None], k[:, :, :, None]  # one head
        left = torch.ones(len(q), dtype=torch.int64, device=q.device)
        index = row_candidates(queries, keys, self.levels, self.topk, left, kernel=self.kernel)
        columns = torch.arange(q.shape[2], device=q.device)
        possible = (index <= columns[:, None, None])[:, :, :, 0]
        index = index.clamp(max=q.shape[2] - 1)
        scores = kernels.select(self.kernel, keys).gather_scores(queries, keys, index)[:, :, :, 0]
        index = index[:, :, :, 0]
        mass, dustbin, missed = sparse_sinkhorn(
            scores.masked_fill(~possible, float("-inf")), index, dustbin_left, dustbin_right, self.iterations
        )
        return Transport(mass, index, dustbin, missed)
