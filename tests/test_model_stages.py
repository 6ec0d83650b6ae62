"""The parts of the match and refine stages on their own, against slow independent versions and numbers by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stereo.kernels import cpp
from stereo.model.layers import ConvNorm
from stereo.model.matching import (
    DenseMatching,
    SparseMatching,
    right_disparity,
    sinkhorn,
    sparse_sinkhorn,
    window_disparity,
)
from stereo.model.refine import DILATIONS, SEARCH, Maps, contrasts, convex_upsample, local_scores, neighbours, propagate
from stereo.model.sharpen import Sharpen
from stereo.types import Transport

ORACLE = Path(__file__).resolve().parents[2] / "shared" / "oracles" / "ot_sinkhorn.npz"
NEG_INF = float("-inf")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_scores(width: int, std: float, one_sided: bool, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    scores, bins = (std * torch.randn(shape, generator=generator(seed)) for shape in ((2, 3, width, width), (2, 2, 3, width)))
    if one_sided:
        scores = scores.masked_fill(torch.ones(width, width, dtype=torch.bool).triu(1), NEG_INF)
    return scores, bins[0], bins[1]


def log_sinkhorn(scores: Tensor, dustbin_left: Tensor, dustbin_right: Tensor, iterations: int) -> Tensor:
    """SPEC 1.9 to the letter, in float64 and in the log domain; no shift, no floor."""
    width = scores.shape[-1]
    extended = torch.zeros(*scores.shape[:-2], width + 1, width + 1, dtype=torch.float64)
    extended[..., :-1, :-1], extended[..., :-1, -1], extended[..., -1, :-1] = scores, dustbin_left, dustbin_right
    marginal = torch.zeros(width + 1, dtype=torch.float64)
    marginal[-1] = math.log(width)
    u, v = extended.new_zeros(extended.shape[:-1]), extended.new_zeros(extended.shape[:-1])
    for _ in range(iterations):
        v = marginal - torch.logsumexp(extended + u[..., :, None], dim=-2)
        u = marginal - torch.logsumexp(extended + v[..., None, :], dim=-1)
    return (extended + u[..., :, None] + v[..., None, :]).exp()


# ---------------------------------------------------------------------------------------------------------------------
# Optimal transport


@pytest.mark.parametrize("one_sided", [False, True])
@pytest.mark.parametrize(("width", "std"), [(1, 5.0), (2, 5.0), (50, 5.0), (160, 5.0), (160, 20.0)])
def test_sinkhorn_equals_the_log_domain(width: int, std: float, one_sided: bool):
    given = random_scores(width, std, one_sided)
    plan = sinkhorn(*given, 10)
    # float32 against float64: measured 7e-7 for probabilities; the corner, of mass near ``width``, is compared relatively
    torch.testing.assert_close(plan.double(), log_sinkhorn(*given, 10), atol=1e-4, rtol=1e-4)
    assert (plan[..., :-1, :].sum(-1) - 1).abs().max() < 1e-5
    assert (plan[..., -1, :].sum(-1) / width - 1).abs().max() < 1e-5
    if one_sided:
        assert plan[..., :-1, :-1].triu(1).eq(0).all()
        assert plan[..., 0, 1:-1].eq(0).all()  # the first token can only match the first, or nothing


@pytest.mark.parametrize("case", "abcdef")
def test_sinkhorn_equals_the_public_code(case: str):
    """Our dustbin is a score per token with the corner fixed at 0; a common score phi is the same after subtracting it."""
    if not ORACLE.is_file():
        pytest.skip("../shared/oracles is absent")
    with np.load(ORACLE) as oracle:
        attn, phi, iterations, expected = (oracle[f"{case}.{name}"] for name in ("attn", "phi", "iters", "ot"))
    scores = torch.from_numpy(attn - phi)
    bins = torch.zeros(scores.shape[:-1])
    plan = sinkhorn(scores, bins, bins, int(iterations))
    assert (plan[..., :-1, :].sum(-1) - 1).abs().max() < 1e-5
    assert plan[..., :-1, :-1][scores == NEG_INF].eq(0).all()
    # the README's 1e-5 for values up to the width of at most 33
    np.testing.assert_allclose(plan.numpy(), expected, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("one_sided", [False, True])
def test_gradients_of_sinkhorn_equal_the_log_domain(one_sided: bool):
    given = random_scores(24, 4.0, one_sided)
    cotangent = torch.rand(2, 3, 25, 25, generator=generator(1))
    gradients = []
    for function in (sinkhorn, log_sinkhorn):
        leaves = [x.clone().requires_grad_() for x in given]
        gradients.append(torch.autograd.grad((function(*leaves, 4) * cotangent).sum(), leaves))
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-3)  # rounding of masses up to 24, measured 5e-6


@pytest.mark.parametrize("one_sided", [False, True])
@pytest.mark.parametrize("std", [8.0, 30.0])
def test_gradients_of_wide_scores_are_finite(std: float, one_sided: bool):
    given = [x.requires_grad_() for x in random_scores(60, std, one_sided)]
    plan = sinkhorn(*given, 4)
    assert plan.isfinite().all()
    gradients = torch.autograd.grad((plan * torch.rand(plan.shape, generator=generator(1))).sum(), given)
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_a_certain_match_takes_all_mass_and_a_hopeless_token_goes_to_the_dustbin():
    scores = torch.full((1, 1, 4, 4), -15.0)
    for left, right in ((1, 0), (2, 1), (3, 2)):
        scores[..., left, right] = 15.0
    bins = torch.zeros(1, 1, 4)
    plan = sinkhorn(scores, bins, bins, 10)[0, 0]
    # The other matches get e^-30. The dustbins fill slowly: after 10 iterations they still hold 0.064 of every match.
    matches = plan[1:4, 0:3]
    assert matches.diag().min() > 0.9
    assert (matches - matches.diag().diag()).abs().max() < 1e-9
    assert min(plan[0, -1], plan[-1, 3]) > 0.9


def test_matching_is_one_sided_and_mixes_no_rows():
    torch.manual_seed(0)
    matching = DenseMatching(8, 4)
    left, right = torch.randn(2, 1, 3, 6, 8, generator=generator()).unbind()
    with torch.no_grad():
        transport, q, k = matching(left, right)
        changed = right.clone()
        changed[:, 1] = torch.randn(6, 8, generator=generator(1))
        other, _, _ = matching(left, changed)
    assert transport.mass.triu(1).eq(0).all()
    assert transport.mass.diagonal(dim1=-2, dim2=-1).gt(0).all()  # no disparity is a disparity
    assert transport.index.eq(torch.arange(6)).all()
    assert (transport.mass.sum(-1) + transport.dustbin - 1).abs().max() < 1e-5
    assert torch.equal(transport.mass[:, [0, 2]], other.mass[:, [0, 2]])
    assert not torch.equal(transport.mass[:, 1], other.mass[:, 1])
    # q . k is the score: left and right projected by the same layer, scaled by C^-1/2 together
    expected = matching.project(left) @ matching.project(right).transpose(-1, -2) / math.sqrt(8)
    torch.testing.assert_close(q @ k.transpose(-1, -2), expected, atol=1e-5, rtol=1e-5)


def as_matrix(transport: Transport, width: int) -> Tensor:
    return torch.zeros(*transport.mass.shape[:3], width, dtype=transport.mass.dtype).scatter_add(
        -1, transport.index, transport.mass
    )


def matchings(width: int, std: float, **settings) -> tuple[DenseMatching, SparseMatching, list[Tensor]]:
    """Both with the same weights, and features of both views."""
    torch.manual_seed(width)
    dense, sparse = DenseMatching(16, 6), SparseMatching(16, 6, **settings)
    sparse.load_state_dict(dense.state_dict())
    return dense, sparse, [std * torch.randn(2, 3, width, 16, generator=generator(i)) for i in (1, 2)]


@pytest.mark.parametrize("std", [1.0, 4.0, 12.0])
@pytest.mark.parametrize("width", [1, 2, 9, 37])
@pytest.mark.parametrize("kernel", ["auto", "reference"])
def test_sparse_matching_over_all_candidates_is_dense_matching(width: int, std: float, kernel: str):
    """Masses, dustbins and the gradients that reach the features, to 1e-5; std 12: scores that span some hundred nats."""
    dense, sparse, features = matchings(width, std, levels=4, topk=64, kernel=kernel)
    weights = torch.randn(width, generator=generator(3))
    found = []
    for matching in (dense, sparse):
        leaves = [x.clone().requires_grad_() for x in features]
        transport, _, _ = matching(*leaves)
        matrix = as_matrix(transport, width)
        total = (matrix * weights).sum() + (transport.dustbin * weights + transport.dustbin_right * weights.flip(0)).sum()
        found.append((matrix, transport.dustbin, transport.dustbin_right, *torch.autograd.grad(total, leaves)))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_sparse_matching_holds_few_matches_each_once():
    _, sparse, features = matchings(100, 2.0, levels=3, topk=4)
    transport, q, k = sparse(*features)
    assert transport.mass.shape == transport.index.shape == (2, 3, 100, 8)
    columns = torch.arange(100)[:, None]
    held = transport.mass > 0
    assert (transport.index <= columns)[held].all()
    ordered = torch.where(held, transport.index, -1 - torch.arange(8)).sort(dim=-1).values
    assert (ordered.diff(dim=-1) > 0).all()
    torch.testing.assert_close(transport.mass.sum(-1) + transport.dustbin, torch.ones(2, 3, 100), atol=1e-5, rtol=0)
    assert q.shape == k.shape == features[0].shape


def test_sparse_sinkhorn_is_the_dense_one_with_the_rest_forbidden():
    """Also with columns that nobody lists, and rows whose whole list is forbidden."""
    width, entries = 12, 4
    lists = torch.rand(2, width, width - 1, generator=generator()).argsort(dim=-1)[..., :entries]  # the last column: never
    scores = 3 * torch.randn(2, width, entries, generator=generator(1))
    scores[:, 4] = float("-inf")
    bins = torch.randn(2, 2, width, generator=generator(2))
    dense = torch.full((2, width, width), float("-inf")).scatter(-1, lists, scores)
    plan = sinkhorn(dense, bins[0], bins[1], 7)
    mass, left, right = sparse_sinkhorn(scores, lists, bins[0], bins[1], 7)
    torch.testing.assert_close(mass, plan[:, :-1, :-1].gather(-1, lists), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(left, plan[:, :-1, -1], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(right, plan[:, -1, :-1], atol=1e-6, rtol=1e-5)


def test_the_right_view_is_read_by_columns():
    """Against the dense matrix turned round: the window around the best left token of every right one."""
    dense, sparse, features = matchings(31, 3.0, levels=3, topk=5)
    for matching in (dense, sparse):
        transport, _, _ = matching(*features)
        turned = as_matrix(transport, 31).transpose(-1, -2)  # [right, left]
        disp, mass = right_disparity(transport)
        best = turned.argmax(dim=-1, keepdim=True)
        near = (torch.arange(31) - best).abs() <= 1
        steps = (torch.arange(31) - torch.arange(31)[:, None]).clamp(min=0)  # left minus right
        torch.testing.assert_close(mass, (turned * near).sum(-1), atol=1e-6, rtol=1e-5)
        expected = (turned * near * steps).sum(-1) / (turned * near).sum(-1).clamp(min=1e-6)
        torch.testing.assert_close(disp, expected, atol=1e-4, rtol=1e-4)


# ---------------------------------------------------------------------------------------------------------------------
# Window regression


def test_window_disparity_of_a_one_hot_plan_is_exact():
    width = 7
    for right in range(width):
        mass = torch.zeros(1, 1, width, width)
        mass[..., right] = 1
        disp, inside = window_disparity(mass, torch.arange(width), torch.arange(width).expand(mass.shape))
        assert disp[0, 0].tolist() == [max(left - right, 0) for left in range(width)]
        assert inside.eq(1).all()


@pytest.mark.parametrize(
    ("row", "query", "disp", "inside"),
    [
        ([0.0, 0.25, 0.5, 0.125, 0.0], 4, (3 * 0.25 + 2 * 0.5 + 1 * 0.125) / 0.875, 0.875),
        ([0.5, 0.25, 0.125, 0.0, 0.0], 4, (4 * 0.5 + 3 * 0.25) / 0.75, 0.75),  # the window is cut at the left border
        ([0.0, 0.0, 0.125, 0.25, 0.5], 4, (1 * 0.25 + 0 * 0.5) / 0.75, 0.75),  # and at the right one
        ([0.3, 0.0, 0.0, 0.4, 0.0], 4, 1.0, 0.4),  # what lies outside of the window does not count
        ([0.0, 0.0, 0.5, 0.25, 0.0], 2, 0.0, 0.75),  # a match to the right of the query is disparity 0
        ([0.0] * 5, 3, 0.0, 0.0),  # no mass at all: neither NaN nor a large number
    ],
)
def test_window_disparity_by_hand(row: list, query: int, disp: float, inside: float):
    columns = torch.arange(5).expand(1, 1, 1, 5)
    found, mass = window_disparity(torch.tensor(row).expand(1, 1, 1, 5), torch.tensor([query]), columns)
    assert found.item() == pytest.approx(disp, abs=1e-6)
    assert mass.item() == pytest.approx(inside, abs=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# Refinement


@pytest.mark.parametrize("dilation", [1, 2, 5])
def test_neighbours_by_a_slow_loop(dilation: int):
    x = torch.randn(2, 4, 6, generator=generator())
    found = neighbours(x, dilation)
    for row in range(4):
        for column in range(6):
            rows = [min(max(row + step * dilation, 0), 3) for step in (-1, 0, 1)]
            columns = [min(max(column + step * dilation, 0), 5) for step in (-1, 0, 1)]
            assert torch.equal(found[:, :, row, column], x[:, rows][:, :, columns].flatten(1))


def propagated(disp: Tensor, confidence: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Where everything looks alike."""
    nothing = torch.zeros(len(disp), 1, *disp.shape[1:])
    return propagate(disp, confidence, logits, nothing, nothing, DILATIONS)


def test_propagation_keeps_a_constant():
    logits = 3 * torch.randn(2, 9 * len(DILATIONS), 5, 40, generator=generator())
    confidence = torch.rand(2, 5, 40, generator=generator(1))
    disp, carried = propagated(torch.full((2, 5, 40), 17.25), confidence, logits)
    assert (disp - 17.25).abs().max() < 1e-4  # eight sums of nine weights in float32
    assert confidence.min() <= carried.min()
    assert carried.max() <= confidence.max() + 1e-6


def test_propagation_fills_a_hole_from_confident_neighbours():
    """Without any learned preference: a hole of 5 x 9 tokens, no confidence, in a wall at disparity 12."""
    disp, confidence = torch.full((1, 15, 31), 12.0), torch.ones(1, 15, 31)
    disp[:, 5:10, 11:20], confidence[:, 5:10, 11:20] = 90.0, 0.0
    filled, carried = propagated(disp, confidence, torch.zeros(1, 9 * len(DILATIONS), 15, 31))
    # a neighbour without confidence weighs 1e-3 of a confident one: at most 8 * 1e-3 * 78 px, and the next steps dilute it
    assert (filled - 12).abs().max() < 0.7
    assert carried.min() > 0.9


def test_propagation_never_leaves_the_range():
    disp = 50 * torch.rand(2, 6, 20, generator=generator())
    logits = 5 * torch.randn(2, 9 * len(DILATIONS), 6, 20, generator=generator(1))
    found, _ = propagated(disp, torch.rand(2, 6, 20, generator=generator(2)), logits)
    assert disp.min() - 1e-4 <= found.min()
    assert found.max() <= disp.max() + 1e-4
    assert (found - disp).abs().max() > 1


def test_propagation_stays_on_its_side_of_an_edge():
    """Two walls that look different, at disparities 12 and 40, meet in a strip where nothing is known."""
    disp, confidence = torch.full((1, 9, 40), 12.0), torch.ones(1, 9, 40)
    disp[:, :, 20:] = 40.0
    disp[:, :, 16:24], confidence[:, :, 16:24] = 90.0, 0.0
    affinity = torch.full((1, 1, 9, 40), 4.0)
    affinity[..., 20:] = -4.0
    filled, _ = propagate(disp, confidence, torch.zeros(1, 9 * len(DILATIONS), 9, 40), affinity, affinity, DILATIONS)
    assert (filled[:, :, :20] - 12).abs().max() < 0.7
    assert (filled[:, :, 20:] - 40).abs().max() < 0.7
    blurred, _ = propagated(disp, confidence, torch.zeros(1, 9 * len(DILATIONS), 9, 40))
    assert (blurred[:, :, 19] - 12).min() > 5  # what affinity is for


def test_propagation_equals_a_slow_loop():
    B, h, w, d, dilations = 2, 4, 7, 3, (2, 1)
    disp, confidence = torch.rand(2, B, h, w, generator=generator()).double().unbind()
    logits = torch.randn(B, 9 * len(dilations), h, w, generator=generator(1)).double()
    q, k = torch.randn(2, B, d, h, w, generator=generator(2)).double().unbind()
    found = propagate(disp, confidence, logits, q, k, dilations)
    for step, dilation in enumerate(dilations):
        before, carried = disp.clone(), confidence.clone()
        for b, y, x in np.ndindex(B, h, w):
            weights, there = [], []
            for n, (dy, dx) in enumerate((dy, dx) for dy in (-dilation, 0, dilation) for dx in (-dilation, 0, dilation)):
                at = b, min(max(y + dy, 0), h - 1), min(max(x + dx, 0), w - 1)
                alike = sum(float(q[b, c, y, x] * k[b, c, at[1], at[2]]) for c in range(d))
                weights.append((float(carried[at]) + 1e-3) * math.exp(float(logits[b, 9 * step + n, y, x]) + alike))
                there.append(at)
            total = sum(weights)
            disp[b, y, x] = sum(weight * float(before[at]) for weight, at in zip(weights, there, strict=True)) / total
            confidence[b, y, x] = sum(weight * float(carried[at]) for weight, at in zip(weights, there, strict=True)) / total
    torch.testing.assert_close(found, (disp, confidence), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("kernel", ["reference", "matmul", "cpp"])
def test_local_scores_equal_a_slow_loop(kernel: str):
    if kernel == "cpp" and cpp.available():
        pytest.skip(cpp.available())
    B, h, w, groups, d = 2, 2, 12, 2, 4
    q, k = torch.randn(2, B, h, w, groups, d, generator=generator()).unbind()
    disp = 14 * torch.rand(B, h, w, generator=generator(1)) - 1  # beyond both ends of the row, too
    disp[0, 0, :3] = torch.tensor([0.0, 1.0, 2.5])
    found = local_scores(q, k, disp, kernel)
    assert found.shape == (B, groups * (2 * SEARCH + 1), h, w)
    for b, y, x, g in np.ndindex(B, h, w, groups):
        scores = []
        for step in range(-SEARCH, SEARCH + 1):
            column = x - float(disp[b, y, x]) + step
            below = math.floor(column)
            pair = [q[b, y, x, g] @ k[b, y, min(max(at, 0), w - 1), g] for at in (below, below + 1)]
            scores.append(pair[0] * (1 - (column - below)) + pair[1] * (column - below))
        scores = torch.stack(scores)
        expected = (scores - scores.exp().sum().log()).clamp(min=-8) / 8
        of_group = slice(g * (2 * SEARCH + 1), (g + 1) * (2 * SEARCH + 1))
        torch.testing.assert_close(found[b, of_group, y, x], expected, atol=1e-5, rtol=1e-5)


def test_contrasts_compare_with_the_confident_mean():
    disp, confidence = torch.full((1, 9, 9), 10.0), torch.ones(1, 9, 9)
    assert contrasts(disp, confidence).abs().max() < 1e-5
    disp[0, 4, 4], confidence[0, 4, 4] = 16.0, 0.0  # an outlier nobody trusts does not move the mean
    torch.testing.assert_close(contrasts(disp, confidence)[0, :, 4, 4], torch.full((3,), math.asinh(6.0)), atol=1e-5, rtol=0)
    assert contrasts(disp, confidence)[0, :, 0, 0].abs().max() < 1e-5


@pytest.mark.parametrize("factor", [2, 4])
def test_upsampling_a_constant(factor: int):
    logits = 3 * torch.randn(2, 9 * factor**2, 3, 5, generator=generator())
    full = convex_upsample(torch.full((2, 3, 5), 2.5), logits, factor)
    assert full.shape == (2, 3 * factor, 5 * factor)
    assert (full - 2.5 * factor).abs().max() < 1e-5


@pytest.mark.parametrize("factor", [2, 4])
def test_upsampling_a_ramp_stays_between_its_neighbours(factor: int):
    """Also locally: a pixel of token x lies between tokens x - 1 and x + 1, so a ramp stays a ramp, in px."""
    ramp = torch.arange(7.0).expand(1, 3, 7)
    full = convex_upsample(ramp, 5 * torch.randn(1, 9 * factor**2, 3, 7, generator=generator()), factor)
    token = ramp.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    assert ((full / factor - token).abs() <= 1 + 1e-5).all()
    assert full.min() >= 0
    assert full.max() <= 6 * factor


def test_upsampling_puts_every_choice_in_its_place():
    """Logits that choose neighbour n for sub-pixel (i, j) of token (y, x) and nothing else."""
    disp = torch.randn(1, 3, 4, generator=generator())
    for factor, i, j, n in ((4, 0, 0, 0), (4, 1, 3, 5), (4, 3, 2, 7), (2, 0, 1, 4)):
        logits = torch.zeros(1, 9, factor**2, 3, 4)
        logits[:, n, i * factor + j] = 100.0
        full = convex_upsample(disp, logits.flatten(1, 2), factor)
        torch.testing.assert_close(full[:, i::factor, j::factor], factor * neighbours(disp)[:, n], atol=1e-5, rtol=0)


def test_sharpening_begins_as_plain_upsampling():
    """No correction yet: a disparity from around there, doubled, and each doubt handed on to its four pixels."""
    sharpen = Sharpen(channels=16, stem=8, width=8, kernel="reference")
    left, right = torch.randn(2, 2, 8, 10, 40, generator=generator()).unbind()
    disp, occlusion, confidence = torch.rand(3, 2, 10, 40, generator=generator(1)).unbind()
    disp = disp + torch.arange(40.0)  # so that what lies around a place differs from place to place
    found = sharpen(Maps(9 + disp, occlusion, confidence), torch.randn(2, 16, 5, 20, generator=generator(2)), left, right)
    reach = 1 + sum(sharpen.spread.dilations)
    low, high = (sign * F.max_pool2d(sign * (9 + disp), 2 * reach + 1, 1, reach) for sign in (-1, 1))
    for y, x in np.ndindex(2, 2):
        assert (found.disp[:, y::2, x::2] >= 2 * low - 1e-4).all()
        assert (found.disp[:, y::2, x::2] <= 2 * high + 1e-4).all()
        torch.testing.assert_close(found.occlusion[:, y::2, x::2], occlusion)
        torch.testing.assert_close(found.confidence[:, y::2, x::2], confidence)


def test_sharpening_learns_what_only_the_features_know():
    """Maps that say 4 px everywhere where the views are 2 to 6 px apart: whoever does not compare them is 1.2 px off."""
    torch.manual_seed(0)
    sharpen = Sharpen(channels=4, stem=8, width=8, kernel="reference")
    optimizer = torch.optim.Adam(sharpen.parameters(), lr=1e-2)
    context, zeros = torch.zeros(5, 4, 4, 16), torch.zeros(5, 8, 32)
    disp = torch.arange(2.0, 7.0)[:, None, None]

    def error(seed: int) -> Tensor:
        scene = torch.randn(5, 8, 8, 2 * 32 + 6, generator=generator(seed))
        right = torch.stack([view[..., d : d + 64] for d, view in zip((2, 3, 4, 5, 6), scene, strict=True)])
        left, right = (F.avg_pool2d(x, (1, 2)) for x in (scene[..., :64], right))
        found = sharpen(Maps(zeros + 2, zeros, zeros), context, left, right)
        return (found.disp - disp)[..., 12:].abs().mean()

    with torch.no_grad():
        assert error(1000) == pytest.approx(1.2, abs=0.01)
    for step in range(60):
        optimizer.zero_grad()
        error(step).backward()
        optimizer.step()
    with torch.no_grad():
        assert error(1000) < 0.4


# ---------------------------------------------------------------------------------------------------------------------
# Layers


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("channels", [20, 36, 48, 72])
def test_gradients_in_bfloat16_are_those_of_float32(channels: int, dilation: int):
    torch.manual_seed(channels)
    layer = ConvNorm(channels, channels, dilation=dilation)
    x = torch.randn(4, channels, 24, 160).contiguous(memory_format=torch.channels_last)
    weights = torch.randn(4, channels, 24, 160)
    gradients = []
    for autocast in (False, True):
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            (layer(x).float() * weights).sum().backward()
        gradients.append(layer[0].weight.grad)
    plain, half = gradients
    assert (half - plain).norm() < 0.15 * plain.norm()  # rounding: 0.05; the defect: 0.4 and more, or not finite
