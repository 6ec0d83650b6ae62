"""One property suite for every attention operator."""

from __future__ import annotations

import re

import pytest
import torch
from attention_cases import (
    EVERYTHING,
    EXACT,
    GOOD,
    ODD_WIDTHS,
    UNEQUAL_WIDTHS,
    Variant,
    each_average,
    each_operator,
    make_inputs,
    plain_attention,
    shaped,
    side_of,
)
from torch import Tensor

from stereo.attention import ATTENTION, build_attention
from stereo.types import InputError


@each_operator
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("width", "key_width"), [(1, 1), (2, 2), (7, 7), (33, 33), *UNEQUAL_WIDTHS])
def test_message_has_the_shape_and_dtype_of_the_queries(
    variant: Variant, width: int, key_width: int, dtype: torch.dtype
) -> None:
    if width != key_width and not variant.any_grids:
        pytest.skip("needs queries and keys on one grid")
    q, k, v = (x.to(dtype) for x in make_inputs(3, width, key_width, batch=2))
    message = variant.build(torch.float32)(q, k, v)  # parameters stay float32 in mixed precision
    assert message.shape == q.shape
    assert message.dtype == dtype
    assert message.isfinite().all()


@each_average
@pytest.mark.parametrize("side", [None, 0, +1, -1])
@pytest.mark.parametrize("width", ODD_WIDTHS)
def test_constant_values_come_out_as_the_same_constant(variant: Variant, width: int, side: int | None) -> None:
    """All weights of a query sum to 1, at every level, at every border."""
    q, k, _ = make_inputs(3, width)
    constant = torch.randn(8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    message = variant.build()(q, k, constant.expand_as(k), side=None if side is None else side_of(side))
    torch.testing.assert_close(message, constant.expand_as(q), **EXACT)


@each_operator
@pytest.mark.parametrize(("width", "key_width"), UNEQUAL_WIDTHS)
def test_constant_values_survive_rows_of_different_width(variant: Variant, width: int, key_width: int) -> None:
    q, k, _ = make_inputs(5, width, key_width)
    if not variant.any_grids:
        with pytest.raises(ValueError, match="needs queries and keys on one grid"):
            variant.build()(q, k, k)
        return
    torch.testing.assert_close(variant.build()(q, k, torch.ones_like(k)), torch.ones_like(q), **EXACT)


@each_operator
@pytest.mark.parametrize("side", [None, +1])
def test_gradcheck(variant: Variant, side: int | None) -> None:
    """Selection is piecewise constant: with random values no gap is as narrow as the step of 1e-6, so the check holds."""
    operator = variant.build(head_dim=4)
    inputs = [x.requires_grad_() for x in make_inputs(2, 5, heads=1, d=4)]

    def attend(q: Tensor, k: Tensor, v: Tensor, *_: Tensor) -> Tensor:
        return operator(q, k, v, side=None if side is None else side_of(side))

    assert torch.autograd.gradcheck(attend, (*inputs, *operator.parameters()))


@each_operator
def test_gradients_reach_every_token_of_q_k_and_v(variant: Variant) -> None:
    operator = variant.build()
    inputs = [x.requires_grad_() for x in make_inputs(3, 11)]
    operator(*inputs).square().sum().backward()
    for x in inputs if variant.everything else inputs[:1]:
        assert (x.grad.abs().amax(dim=-1) > 0).all()  # (1, 3, 11, heads)
    alone = variant.options.get("levels") == 1  # the softmax of a single weight is 1 whatever the weight
    for parameter in operator.parameters():
        assert alone or (parameter.grad != 0).all()


@each_operator
def test_strided_inputs_give_the_same_message(variant: Variant) -> None:
    """The layers hand over slices of one projection (unflatten, unbind), never contiguous tensors."""
    q, k, v = make_inputs(4, 8)
    packed = torch.stack([q, k, v], dim=3)  # (1, 4, 8, 3, heads, d)
    sliced = packed.unbind(dim=3)
    assert not any(x.is_contiguous() for x in sliced)
    torch.testing.assert_close(variant.build()(*sliced), variant.build()(q, k, v), **EXACT)


@each_operator
@pytest.mark.parametrize("side", [None, +1, -1])
def test_batch_entries_do_not_see_each_other(variant: Variant, side: int | None) -> None:
    operator = variant.build()
    q, k, v = make_inputs(3, 13, batch=2)
    both = operator(q, k, v, side=None if side is None else side_of(side, -side))
    for b in range(2):
        own = None if side is None else side_of(side * (-1) ** b)
        alone = operator(q[b : b + 1], k[b : b + 1], v[b : b + 1], side=own)
        torch.testing.assert_close(both[b : b + 1], alone, **EXACT)


@each_operator
def test_heads_do_not_see_each_other(variant: Variant) -> None:
    operator = variant.build()
    q, k, v = make_inputs(3, 13, heads=3)
    message = operator(q, k, v)
    for head in range(3):
        alone = operator(*(x[..., head : head + 1, :] for x in (q, k, v)))
        torch.testing.assert_close(message[..., head : head + 1, :], alone, **EXACT)


@each_operator
def test_side_zero_means_no_side(variant: Variant) -> None:
    q, k, v = make_inputs(3, 13)
    zero, none = variant.build()(q, k, v, side=side_of(0)), variant.build()(q, k, v)
    if variant.name == "linear":  # sums per query column in another order
        torch.testing.assert_close(zero, none, **EXACT)
    else:
        assert torch.equal(zero, none)


@each_operator
@pytest.mark.parametrize("row", [0, 2, 5, 8])
def test_nothing_is_read_outside_the_block_of_rows(variant: Variant, row: int) -> None:
    """Coarse levels pool 2^(L-1) rows into one, so that is as far as another row of keys and values can reach."""
    operator = variant.build()
    q, k, v = make_inputs(9, 11)
    before = operator(q, k, v)
    k[:, row], v[:, row] = k[:, row] + 3, v[:, row] - 5
    after = operator(q, k, v)
    outside = torch.arange(9) // variant.rows != row // variant.rows
    assert torch.equal(before[:, outside], after[:, outside])  # bit for bit
    assert not torch.isclose(before[:, row], after[:, row]).all(dim=-1).any()  # and the row itself reads what changed


@each_operator
@pytest.mark.parametrize("side", [+1, -1])
@pytest.mark.parametrize("column", [0, 3, 7, 12])
def test_nothing_is_read_beyond_the_allowed_side(variant: Variant, column: int, side: int) -> None:
    """A node that begins on the forbidden side of the query's own node is never read, at any level."""
    operator = variant.build()
    q, k, v = make_inputs(3, 13)
    before = operator(q, k, v, side=side_of(side))
    k[:, :, column], v[:, :, column] = k[:, :, column] + 3, v[:, :, column] - 5
    after = operator(q, k, v, side=side_of(side))
    forbidden = side * (torch.arange(13) // variant.block - column // variant.block) < 0
    assert torch.equal(before[:, :, forbidden], after[:, :, forbidden])  # bit for bit
    if variant.everything or variant.name == "additive":
        assert not torch.isclose(before[:, :, column], after[:, :, column]).any()


@each_operator
@pytest.mark.parametrize("side", [None, +1, -1])
@pytest.mark.parametrize("width", [1, 7, 32])
def test_on_a_plane_of_one_row_both_scopes_are_the_same(variant: Variant, width: int, side: int | None) -> None:
    q, k, v = make_inputs(1, width)
    row, image = (
        variant.build()(q, k, v, scope=scope, side=None if side is None else side_of(side)) for scope in ("row", "image")
    )
    torch.testing.assert_close(row, image, **EXACT)


@each_operator
def test_scope_image_reads_the_whole_plane(variant: Variant) -> None:
    """A change of the keys and values of row 4 is felt there, by the window it shares with row 5, and else everywhere."""
    operator = variant.build()
    q, k, v = make_inputs(9, 8)
    before = operator(q, k, v, scope="image")
    k[:, 4], v[:, 4] = k[:, 4] + 3, v[:, 4] - 5
    changed = (operator(q, k, v, scope="image") != before).flatten(2).any(dim=-1)[0]  # (9,)
    assert changed[4]
    if variant.name == "window":
        assert changed[5] and not changed.all()
    elif variant.everything and variant.options.get("topk", EVERYTHING) == EVERYTHING:
        assert changed.all()


@each_operator
@pytest.mark.parametrize("side", [+1, -1])
def test_the_two_sides_mirror_each_other(variant: Variant, side: int) -> None:
    """Width a multiple of every block, so that the pyramid of the mirrored row is the mirrored pyramid."""
    operator = variant.build()
    q, k, v = make_inputs(3, 16)
    message = operator(q, k, v, side=side_of(side))
    mirrored = operator(q.flip(2), k.flip(2), v.flip(2), side=side_of(-side)).flip(2)
    torch.testing.assert_close(message, mirrored, **EXACT)


@pytest.mark.parametrize("side", [0, +1, -1])
@pytest.mark.parametrize("width", ODD_WIDTHS)
def test_dense_is_full_attention_along_the_row(width: int, side: int) -> None:
    q, k, v = make_inputs(3, width)
    message = build_attention("dense")(q, k, v, side=side_of(side))
    torch.testing.assert_close(message, plain_attention(q, k, v, side), **EXACT)


# ---------------------------------------------------------------------------------------------------------------------
# What is refused


REFUSED = {
    "four axes": ((2, 5, 2, 4), GOOD, GOOD, r"expected q \(B,H,W,heads,d\)"),
    "keys and values differ": (GOOD, GOOD, (1, 2, 6, 2, 4), r"expected q \(B,H,W,heads,d\)"),
    "batches differ": (GOOD, (2, 2, 5, 2, 4), (2, 2, 5, 2, 4), "must agree in all but the width"),
    "rows differ": (GOOD, (1, 3, 5, 2, 4), (1, 3, 5, 2, 4), "must agree in all but the width"),
    "heads differ": (GOOD, (1, 2, 5, 1, 4), (1, 2, 5, 1, 4), "must agree in all but the width"),
    "head sizes differ": (GOOD, (1, 2, 5, 2, 8), (1, 2, 5, 2, 8), "must agree in all but the width"),
}


@each_operator
@pytest.mark.parametrize("case", REFUSED)
def test_shapes_that_break_the_contract_are_refused(variant: Variant, case: str) -> None:
    q, k, v, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        variant.build(torch.float32)(shaped(*q), shaped(*k), shaped(*v))


@each_operator
@pytest.mark.parametrize("scope", ["column", ""])
def test_an_unknown_scope_is_refused_by_name(variant: Variant, scope: str) -> None:
    with pytest.raises(ValueError, match=f"got scope {scope!r}, expected one of {re.escape(str(variant.build().scopes))}"):
        variant.build(torch.float32)(shaped(*GOOD), shaped(*GOOD), shaped(*GOOD), scope=scope)


@each_operator
def test_one_sided_search_needs_rows_of_equal_width(variant: Variant) -> None:
    other = shaped(1, 2, 6, 2, 4)
    with pytest.raises(ValueError, match="rows of equal width, got 5 queries and 6 keys"):
        variant.build(torch.float32)(shaped(*GOOD), other, other, side=side_of(1))


@each_operator
def test_one_side_per_batch_entry_is_needed(variant: Variant) -> None:
    """A longer ``side`` would otherwise broadcast and return a batch that nobody asked for."""
    with pytest.raises(ValueError, match="side"):
        variant.build(torch.float32)(shaped(*GOOD), shaped(*GOOD), shaped(*GOOD), side=side_of(1, -1))

def test_an_unknown_operator_names_the_near_matches() -> None:
    with pytest.raises(InputError, match=r"unknown attention 'quadtree': expected one of .*did you mean quadtree_b"):
        build_attention("quadtree")


@pytest.mark.parametrize("name", ATTENTION)
def test_an_unknown_option_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match="window_of_seven"):
        build_attention(name, window_of_seven=7)
