"""Both quadtree operators in both scopes against the tree by hand: any grids, key masks, sides, one K per level, LePE."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from attention_cases import EVERYTHING, EXACT, make_inputs, only_level, side_of
from quadtree_by_hand import quadtree_by_hand
from torch import Tensor, nn

from stereo.attention import build_attention
from stereo.attention.position import Rotary, rotary_frequencies
from stereo.attention.tree import Pyramid
from stereo.kernels import ON_A_CPU

BOTH = ["quadtree_a", "quadtree_b"]
LEVEL_WEIGHTS = [0.7, -0.4, 0.2, 0.5]
GRIDS = [((5, 7), (5, 7)), ((4, 4), (6, 5)), ((7, 3), (2, 9)), ((1, 6), (5, 1)), ((3, 2), (1, 1)), ((2, 3), (1, 8))]
Size = tuple[int, int]


def make_planes(query: Size, key: Size, heads: int = 2, d: int = 4, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(1, *size, heads, d, generator=generator, dtype=torch.float64) for size in (query, key, key)]


def make_mask(key: Size, share: float, seed: int = 3) -> Tensor:
    return torch.rand(1, *key, generator=torch.Generator().manual_seed(seed)) < share


def build(name: str, **options: Any) -> nn.Module:
    operator = build_attention(name, **options).double()
    if name == "quadtree_b":
        operator.level_weights.data = torch.tensor(LEVEL_WEIGHTS[: options["levels"]], dtype=torch.float64)
    return operator


def assert_equals_by_hand(
    name: str,
    inputs: list[Tensor],
    scope: str,
    side: int = 0,
    mask: Tensor | None = None,
    levels: int = 3,
    topk: Any = 2,
    pool: str = "mean_max",
    kernel: str = "auto",
) -> Tensor:
    message = build(name, levels=levels, topk=topk, pool=pool, kernel=kernel)(
        *inputs, scope=scope, side=side_of(side) if side else None, key_mask=mask
    )
    expected = quadtree_by_hand(
        *(x[0].numpy() for x in inputs),
        levels=levels,
        topk=topk,
        pool=pool,
        level_weights=LEVEL_WEIGHTS if name == "quadtree_b" else None,
        side=side,
        scope=scope,
        visible=None if mask is None else mask[0].numpy(),
    )
    np.testing.assert_allclose(message[0].detach().numpy(), expected, rtol=0, atol=1e-10)
    return message


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("pool", ["mean", "mean_max"])
@pytest.mark.parametrize(("query", "key"), GRIDS, ids=str)
@pytest.mark.parametrize("kernel", ON_A_CPU)
def test_image_scope_on_any_two_grids(name: str, kernel: str, query: Size, key: Size, pool: str) -> None:
    assert_equals_by_hand(name, make_planes(query, key), "image", pool=pool, kernel=kernel)


@pytest.mark.parametrize("side", [0, +1, -1])
@pytest.mark.parametrize("pool", ["mean", "mean_max"])
@pytest.mark.parametrize(("height", "width"), [(5, 7), (3, 13), (1, 9), (4, 16)])
def test_variant_a_along_the_row(height: int, width: int, pool: str, side: int) -> None:
    assert_equals_by_hand("quadtree_a", make_planes((height, width), (height, width)), "row", side, pool=pool)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("scope", ["row", "image"])
@pytest.mark.parametrize("side", [0, +1, -1])
@pytest.mark.parametrize("share", [0.15, 0.5, 0.9])
def test_masked_keys_are_neither_candidates_nor_pooled(name: str, scope: str, side: int, share: float) -> None:
    """Few keys left: whole rows, sibling groups and coarse nodes go dark; what may be seen still weighs 1 in sum."""
    size = (5, 9)
    inputs, mask = make_planes(size, size, d=4), make_mask(size, share)
    assert_equals_by_hand(name, inputs, scope, side, mask)
    q, k, v = inputs
    operator = build(name, levels=3, topk=2)
    ones = operator(q, k, torch.ones_like(v), scope=scope, side=side_of(side), key_mask=mask)
    torch.testing.assert_close(ones, (ones > 0.5).double(), **EXACT)  # 1, or 0 where nothing may be seen
    garbage = [x.masked_fill(~mask[..., None, None], 1e6) for x in (k, v)]
    clean = operator(q, k, v, scope=scope, side=side_of(side), key_mask=mask)
    assert torch.equal(operator(q, *garbage, scope=scope, side=side_of(side), key_mask=mask), clean)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("scope", ["row", "image"])
@pytest.mark.parametrize("pool", ["mean", "mean_max"])
def test_gradients_through_masks_are_right_and_finite(name: str, scope: str, pool: str) -> None:
    size = (3, 5)
    operator, mask = build(name, levels=2, topk=2, pool=pool), make_mask(size, 0.4)
    mask[:, 2] = False  # a row with nothing in it
    inputs = [x.requires_grad_() for x in make_planes(size, size, heads=1)]
    assert torch.autograd.gradcheck(lambda *x: operator(*x, scope=scope, side=side_of(1), key_mask=mask), inputs)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("scope", ["row", "image"])
def test_a_mask_that_hides_nothing_changes_nothing_and_one_that_hides_all_gives_zero(name: str, scope: str) -> None:
    inputs = make_planes((5, 7), (5, 7))
    operator, mask = build(name, levels=3, topk=2), torch.ones(1, 5, 7, dtype=torch.bool)
    torch.testing.assert_close(operator(*inputs, scope=scope, key_mask=mask), operator(*inputs, scope=scope), **EXACT)
    assert torch.equal(operator(*inputs, scope=scope, key_mask=~mask), torch.zeros_like(inputs[0]))


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("scope", ["row", "image"])
@pytest.mark.parametrize("side", [0, +1, -1])
@pytest.mark.parametrize(("levels", "topk"), [(1, 1), (1, EVERYTHING), (2, 3), (4, (5, 1, 3, 2)), (4, EVERYTHING)])
def test_other_depths_and_one_k_per_level(name: str, scope: str, side: int, levels: int, topk: Any) -> None:
    assert_equals_by_hand(name, make_planes((5, 11), (5, 11)), scope, side, levels=levels, topk=topk)


@pytest.mark.parametrize("scope", ["row", "image"])
@pytest.mark.parametrize(("levels", "size"), [(1, (5, 11)), (4, (1, 2)), (3, (2, 2)), (4, (1, 1))])
def test_variant_a_loses_no_weight_where_levels_drop_out(levels: int, size: Size, scope: str) -> None:
    """The public code drops what its one level has chosen: with v = 1 it returns 0.46 to 0.94 (STYLE 4.1)."""
    inputs = make_planes(size, size)
    operator = build("quadtree_a", levels=levels, topk=3)
    if levels == 1:
        dense = build_attention("dense")(*inputs, scope=scope)
        torch.testing.assert_close(operator(*inputs, scope=scope), dense, **EXACT)
    ones = operator(*inputs[:2], torch.ones_like(inputs[2]), scope=scope)
    torch.testing.assert_close(ones, torch.ones_like(ones), **EXACT)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize(("query", "key"), [((7, 9), (7, 9)), ((7, 9), (12, 5)), ((16, 24), (16, 24))], ids=str)
@pytest.mark.parametrize(("levels", "topk"), [(3, 6), (3, (16, 8, 8)), (2, 8), (4, 4)])
def test_weights_sum_to_one_over_the_plane(name: str, query: Size, key: Size, levels: int, topk: Any) -> None:
    q, k, v = make_planes(query, key)
    message = build(name, levels=levels, topk=topk)(q, k, torch.ones_like(v), scope="image")
    torch.testing.assert_close(message, torch.ones_like(q), **EXACT)


@pytest.mark.parametrize("side", [0, +1, -1])
@pytest.mark.parametrize("rotary", [False, True], ids=["plain", "rotary"])
def test_tree_that_keeps_everything_equals_dense_over_the_plane(rotary: bool, side: int) -> None:
    inputs = make_planes((6, 11), (6, 11), d=8)
    options = {"scope": "image", "side": side_of(side), "position": Rotary(rotary_frequencies(8)) if rotary else None}
    tree = only_level(build_attention("quadtree_b", levels=3, topk=EVERYTHING), 0)
    torch.testing.assert_close(tree(*inputs, **options), build_attention("dense")(*inputs, **options), **EXACT)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("side", [0, +1, -1])
def test_on_a_plane_of_one_row_both_scopes_are_the_same(name: str, side: int) -> None:
    q, k, v = make_inputs(1, 21)
    operator = build(name, levels=3, topk=2)
    row, image = (operator(q, k, v, scope=scope, side=side_of(side)) for scope in ("row", "image"))
    torch.testing.assert_close(row, image, **EXACT)


def test_lepe_adds_the_convolved_values_of_every_level() -> None:
    q, k, v = make_inputs(5, 7, heads=2, d=4)
    operator, plain = (build("quadtree_b", levels=2, topk=2, lepe_channels=c) for c in (8, 0))
    local = operator(q, k, v) - plain(q, k, v)
    fine, coarse = (
        F.conv2d(F.pad(x, (1, 1, 1, 1)), c.weight, c.bias, groups=8)
        for x, c in zip(pooled_planes(v), operator.lepe, strict=True)
    )
    mixture = torch.tensor(LEVEL_WEIGHTS[:2], dtype=torch.float64).softmax(dim=0)
    expected = fine * mixture[0] + F.interpolate(coarse, scale_factor=2, mode="nearest")[:, :, :5, :7] * mixture[1]
    torch.testing.assert_close(local, expected.permute(0, 2, 3, 1).unflatten(-1, (2, 4)), **EXACT)


def pooled_planes(v: Tensor) -> list[Tensor]:
    """(B, H, W, heads, d) -> two levels of (B, C, H_l, W_l)."""
    plane = v.flatten(-2).permute(0, 3, 1, 2)
    return [plane, F.avg_pool2d(plane, 2, ceil_mode=True, count_include_pad=False)]


def test_lepe_takes_masked_keys_as_zero_and_refuses_other_grids_and_widths() -> None:
    q, k, v = make_inputs(5, 7, heads=2, d=4)
    operator, mask = build("quadtree_b", levels=2, topk=2, lepe_channels=8), make_mask((5, 7), 0.6)
    hidden = v.masked_fill(~mask[..., None, None], 1e6)
    torch.testing.assert_close(operator(q, k, v, key_mask=mask), operator(q, k, hidden, key_mask=mask), **EXACT)
    with pytest.raises(ValueError, match="LePE needs queries and values of one size with 8 channels"):
        operator(q, *make_inputs(5, 9, heads=2, d=4)[1:])
    with pytest.raises(ValueError, match="LePE needs queries and values of one size with 8 channels"):
        operator(*make_inputs(5, 7, heads=2, d=8))


@pytest.mark.parametrize("scope", ["row", "image"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_every_option_works_in_the_dtype_of_the_queries_with_float32_parameters(dtype: torch.dtype, scope: str) -> None:
    operator = build_attention("quadtree_b", levels=3, topk=(4, 3, 2), lepe_channels=8)
    inputs = [x.to(dtype).requires_grad_() for x in make_planes((5, 7), (5, 7))]
    message = operator(*inputs, scope=scope, side=side_of(1), key_mask=make_mask((5, 7), 0.7))
    message.float().square().sum().backward()
    assert message.dtype == dtype and message.shape == inputs[0].shape
    assert all(x.grad is not None and x.grad.isfinite().all() for x in (*inputs, *operator.parameters()))


def test_levels_yielded_by_the_walk_add_up_to_the_message() -> None:
    q, k, v = make_inputs(4, 16)
    operator = build("quadtree_a", levels=3, topk=2)
    tree = Pyramid.pooled(q, k, v, 3, with_max=True)
    levels = list(operator.walk(tree))
    assert [level.number for level in levels] == [2, 1, 0]
    up = [x.message.repeat_interleave(2**x.number, 1).repeat_interleave(2**x.number, 2) for x in levels]
    torch.testing.assert_close(sum(up), operator(q, k, v), **EXACT)


@pytest.mark.parametrize("name", BOTH)
def test_grids_and_masks_that_do_not_fit_are_refused(name: str) -> None:
    operator = build(name, levels=2, topk=2)
    q, k, v = make_planes((3, 4), (5, 4))
    with pytest.raises(ValueError, match="must agree in all but the width"):
        operator(q, k, v, scope="row")
    with pytest.raises(ValueError, match="must agree in all but height and width"):
        operator(q, k[:, :, :, :1], v[:, :, :, :1], scope="image")
    for mask in (torch.ones(1, 5, 4), torch.ones(1, 3, 4, dtype=torch.bool)):
        with pytest.raises(ValueError, match=r"expected a key_mask of torch.bool \(1, 5, 4\)"):
            operator(q, k, v, scope="image", key_mask=mask)


@pytest.mark.parametrize("topk", [(2, 2), (2, 2, 2, 2)])
def test_one_k_per_level_must_be_one_per_level(topk: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=f"one for each of the 3 levels, got {len(topk)}"):
        build_attention("quadtree_a", levels=3, topk=topk)
