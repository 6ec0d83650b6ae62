"""The quadtree operators against the tree by hand, against full attention, and backend against backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from attention_cases import (
    EVERYTHING,
    EXACT,
    GOOD,
    ODD_WIDTHS,
    ROTARY,
    UNEQUAL_WIDTHS,
    Variant,
    make_inputs,
    only_level,
    plain_attention,
    shaped,
    side_of,
)
from quadtree_by_hand import quadtree_by_hand
from torch import Tensor

from stereo.attention import build_attention
from stereo.attention.position import Rotary, rotary_frequencies
from stereo.kernels import ON_A_CPU
from stereo.types import InputError

LEVEL_WEIGHTS = [0.7, -0.4, 0.2, 0.5]


def assert_equals_by_hand(
    q: Tensor, k: Tensor, v: Tensor, levels: int, topk: int, pool: str, side: int | None, kernel: str = "auto"
) -> None:
    operator = build_attention("quadtree_b", levels=levels, topk=topk, pool=pool, kernel=kernel).double()
    operator.level_weights.data = torch.tensor(LEVEL_WEIGHTS[:levels], dtype=torch.float64)
    message = operator(q, k, v, side=None if side is None else side_of(side).expand(len(q)))
    options = {"levels": levels, "topk": topk, "pool": pool, "level_weights": LEVEL_WEIGHTS, "side": side or 0}
    expected = np.stack([quadtree_by_hand(*(x[b].numpy() for x in (q, k, v)), **options) for b in range(len(q))])
    np.testing.assert_allclose(message.detach().numpy(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("side", [None, +1, -1])
@pytest.mark.parametrize("pool", ["mean", "mean_max"])
@pytest.mark.parametrize(("height", "width"), [(5, 7), (3, 13), (1, 9), (4, 16), (6, 21)])
@pytest.mark.parametrize("kernel", ON_A_CPU)
def test_quadtree_equals_the_tree_by_hand(kernel: str, height: int, width: int, pool: str, side: int | None) -> None:
    q, k, v = make_inputs(height, width, d=4, seed=height * width)
    assert_equals_by_hand(q, k, v, levels=3, topk=2, pool=pool, side=side, kernel=kernel)


@pytest.mark.parametrize("pool", ["mean", "mean_max"])
@pytest.mark.parametrize(("width", "key_width"), [(13, 6), (6, 13), (1, 11), (11, 2), (9, 1)])
def test_quadtree_equals_the_tree_by_hand_when_query_and_key_rows_differ(width: int, key_width: int, pool: str) -> None:
    q, k, v = make_inputs(3, width, key_width, batch=2, d=4)
    assert_equals_by_hand(q, k, v, levels=3, topk=2, pool=pool, side=None)


@pytest.mark.parametrize("side", [None, +1, -1])
@pytest.mark.parametrize(("levels", "topk"), [(1, 1), (2, 3), (3, 1), (4, 2), (4, EVERYTHING)])
def test_quadtree_equals_the_tree_by_hand_for_other_depths_and_k(levels: int, topk: int, side: int | None) -> None:
    q, k, v = make_inputs(3, 19, d=4)
    assert_equals_by_hand(q, k, v, levels, topk, "mean_max", side)


@pytest.mark.parametrize("side", [None, +1, -1])
def test_quadtree_rotates_every_node_about_its_centre(side: int | None) -> None:
    q, k, v = make_inputs(3, 13, d=8)
    frequencies = rotary_frequencies(8)
    operator = build_attention("quadtree_b", levels=3, topk=2, pool="mean").double()
    operator.level_weights.data = torch.tensor(LEVEL_WEIGHTS[:3], dtype=torch.float64)
    message = operator(q, k, v, side=None if side is None else side_of(side), position=Rotary(frequencies))[0].detach()
    options = {"levels": 3, "topk": 2, "pool": "mean", "level_weights": LEVEL_WEIGHTS, "side": side or 0}
    grids = [x[0].numpy() for x in (q, k, v)]
    expected = quadtree_by_hand(*grids, **options, frequencies=frequencies.tolist())
    np.testing.assert_allclose(message.numpy(), expected, **ROTARY)
    without = quadtree_by_hand(*grids, **options)
    assert np.abs(expected - without).max() > 0.1  # the code does matter here


def test_the_tree_by_hand_is_full_attention_when_nothing_is_left_out() -> None:
    """A check of the check: one level of the brute force is the textbook formula."""
    q, k, v = make_inputs(2, 5)
    by_hand = quadtree_by_hand(*(x[0].numpy() for x in (q, k, v)), levels=1, topk=1, level_weights=[0.0], pool="mean", side=1)
    np.testing.assert_allclose(by_hand, plain_attention(q, k, v, side=1)[0].numpy(), **EXACT)


@pytest.mark.parametrize("rotary", [False, True], ids=["plain", "rotary"])
@pytest.mark.parametrize("side", [None, +1, -1])
@pytest.mark.parametrize("pool", ["mean", "mean_max"])
@pytest.mark.parametrize("width", ODD_WIDTHS)
def test_quadtree_that_keeps_everything_equals_dense(width: int, pool: str, side: int | None, rotary: bool) -> None:
    """With the level weights on the finest level. Rotary included: a finest node is a token, so its centre is its column."""
    q, k, v = make_inputs(3, width)
    options = {"side": None if side is None else side_of(side), "position": Rotary(rotary_frequencies(8)) if rotary else None}
    tree = only_level(build_attention("quadtree_b", levels=4, topk=EVERYTHING, pool=pool), 0)
    torch.testing.assert_close(tree(q, k, v, **options), build_attention("dense")(q, k, v, **options), **EXACT)


@pytest.mark.parametrize(("width", "key_width"), UNEQUAL_WIDTHS)
def test_quadtree_that_keeps_everything_equals_dense_when_widths_differ(width: int, key_width: int) -> None:
    q, k, v = make_inputs(3, width, key_width)
    tree = only_level(build_attention("quadtree_b", levels=4, topk=EVERYTHING), 0)
    torch.testing.assert_close(tree(q, k, v), build_attention("dense")(q, k, v), **EXACT)


@pytest.mark.parametrize("width", [1, 7, 33])
def test_k_beyond_the_row_is_clamped(width: int) -> None:
    q, k, v = make_inputs(3, width)
    clamped, exact = (build_attention("quadtree_b", levels=3, topk=topk) for topk in (EVERYTHING, width + 3))
    torch.testing.assert_close(clamped(q, k, v), exact(q, k, v), **EXACT)


def test_a_small_k_does_choose() -> None:
    """Otherwise the equalities above would hold for an operator that ignores K."""
    q, k, v = make_inputs(3, 33)
    few, all_of_them = (only_level(build_attention("quadtree_b", levels=3, topk=topk), 0) for topk in (2, EVERYTHING))
    assert not torch.isclose(few(q, k, v), all_of_them(q, k, v)).any(dim=-1).any()


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("row", [0, 5, 8])
def test_messages_of_a_level_come_from_the_querys_own_row_of_that_level(level: int, row: int) -> None:
    """Level 0 reads values of the query's own row only, level l of the 2^l rows that its own coarse row stands for."""
    operator = only_level(build_attention("quadtree_b", levels=3, topk=EVERYTHING), level)
    q, k, v = make_inputs(9, 11)
    before = operator(q, k, v)
    v[:, row] += 5
    changed = (operator(q, k, v) != before).flatten(3).all(dim=-1)[0]  # (H, W)
    own = torch.arange(9) // 2**level == row // 2**level
    assert changed[own].all()
    assert not changed[~own].any()


@pytest.mark.parametrize("side", [+1, -1])
@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("column", [0, 6, 12])
def test_messages_of_a_level_come_from_the_allowed_side_of_that_level(level: int, column: int, side: int) -> None:
    """side +1 reads keys j <= i only at the finest level; on level l, nodes that do not begin right of the query's own."""
    operator = only_level(build_attention("quadtree_b", levels=3, topk=EVERYTHING), level)
    q, k, v = make_inputs(3, 13)
    before = operator(q, k, v, side=side_of(side))
    v[:, :, column] += 5
    after = operator(q, k, v, side=side_of(side))
    changed = (after != before).flatten(3).all(dim=-1)[0, 0]  # (W,)
    allowed = side * (torch.arange(13) // 2**level - column // 2**level) >= 0
    assert changed[allowed].all()
    assert torch.equal(after[:, :, ~allowed], before[:, :, ~allowed])


@pytest.mark.parametrize("side", [None, +1, -1])
def test_quadtree_backends_agree(side: int | None) -> None:
    """Messages and gradients of every backend against the reference, through selection, masks and padding."""
    results = {}
    for kernel in ON_A_CPU:
        operator = Variant("quadtree_b", {"levels": 4, "topk": 3, "kernel": kernel}).build()
        inputs = [x.requires_grad_() for x in make_inputs(5, 33)]
        message = operator(*inputs, side=None if side is None else side_of(side))
        message.square().sum().backward()
        results[kernel] = [message.detach(), *(x.grad for x in inputs)]
    for kernel, result in results.items():
        for ours, law in zip(result, results["reference"], strict=True):
            torch.testing.assert_close(ours, law, rtol=0, atol=1e-11, msg=lambda m, kernel=kernel: f"{kernel}: {m}")


@pytest.mark.parametrize("options", [{"levels": 0}, {"topk": 0}, {"pool": "median"}])
def test_quadtree_refuses_options_without_meaning(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected levels >= 1, topk >= 1 and pool mean\|mean_max"):
        build_attention("quadtree_b", **options)


def test_quadtree_refuses_an_unknown_kernel() -> None:
    with pytest.raises(InputError, match="unknown kernel backend 'matmull'"):
        build_attention("quadtree_b", kernel="matmull")(shaped(*GOOD), shaped(*GOOD), shaped(*GOOD))
