"""One property suite for every attention operator, and a brute-force quadtree that every number of quadtree_b must equal."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stereo.attention import ATTENTION, build_attention
from stereo.attention.position import Rotary, rotary_frequencies
from stereo.kernels import BACKENDS
from stereo.types import InputError

EVERYTHING = 1000  # a K larger than any row used here
ODD_WIDTHS = [1, 2, 7, 31, 33, 100]
UNEQUAL_WIDTHS = [(7, 12), (12, 7), (1, 5), (5, 1), (33, 100)]

# float64 against float64, two orders of the same sums of order 1: rounding stays below 1e-13.
EXACT = {"rtol": 0.0, "atol": 1e-12}
# The rotary angles are float32 on purpose (they are tables, not learned): up to 100 tokens times a quarter turn, half a
# float32 rounding of that is 1e-5, times dot products of order 1.
ROTARY = {"rtol": 0.0, "atol": 2e-5}


@dataclass(frozen=True)
class Variant:
    """One operator with one set of options. ``block``: how many rows and columns may share what it reads."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    block: int = 1

    def build(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        operator = build_attention(self.name, **self.options).to(dtype)
        generator = torch.Generator().manual_seed(0)
        for parameter in operator.parameters():  # away from any symmetric start
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
        return operator

    def __str__(self) -> str:
        return "-".join([self.name, *(f"{key}{value}" for key, value in self.options.items())])


OPTIONS: dict[str, list[Variant]] = {
    "quadtree_b": [
        Variant("quadtree_b", {"levels": 3, "topk": 2, "pool": "mean"}, block=4),
        Variant("quadtree_b", {"levels": 3, "topk": 2, "pool": "mean_max"}, block=4),
        Variant("quadtree_b", {"levels": 2, "topk": EVERYTHING}, block=2),
        Variant("quadtree_b", {"levels": 1, "topk": 1}, block=1),
    ],
}
# A new operator joins the suite by being registered; it needs an entry in OPTIONS only where its defaults do not suit.
VARIANTS = [variant for name in ATTENTION for variant in OPTIONS.get(name, [Variant(name)])]
each_operator = pytest.mark.parametrize("variant", VARIANTS, ids=str)


def make_inputs(
    height: int, width: int, key_width: int | None = None, batch: int = 1, heads: int = 2, d: int = 8, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    columns = (width, width, width) if key_width is None else (width, key_width, key_width)
    q, k, v = (torch.randn(batch, height, n, heads, d, generator=generator, dtype=torch.float64) for n in columns)
    return q, k, v


def side_of(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def only_level(operator: nn.Module, level: int) -> nn.Module:
    """Let one level speak alone: the softmax of the level weights is then exactly 1 there and 0 elsewhere."""
    with torch.no_grad():
        operator.level_weights.fill_(float("-inf"))
        operator.level_weights[level] = 0.0
    return operator


def plain_attention(q: Tensor, k: Tensor, v: Tensor, side: int = 0) -> Tensor:
    """Full attention along the row as anyone writes it, in the dtype of the inputs."""
    scores = torch.einsum("bhind,bhjnd->bhnij", q, k) / q.shape[-1] ** 0.5
    i, j = torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])
    scores = scores.masked_fill(side * (i - j) < 0, float("-inf"))
    return torch.einsum("bhnij,bhjnd->bhind", scores.softmax(dim=-1), v)


# ---------------------------------------------------------------------------------------------------------------------
# The quadtree by hand (SPEC 3.4 and 3.4b, DESIGN section 2), numpy float64, one query and one head at a time


def tree_of(grid: np.ndarray, pool: str) -> Callable[[int, int, int], np.ndarray | None]:
    """node(level, y, x) -> (heads, d): what the node stands for, or None where it holds padding only."""

    @functools.cache
    def node(level: int, y: int, x: int) -> np.ndarray | None:
        if level == 0:
            return grid[y, x] if y < grid.shape[0] and x < grid.shape[1] else None
        four = [node(level - 1, 2 * y + a, 2 * x + b) for a in (0, 1) for b in (0, 1)]
        existing = [child for child in four if child is not None]
        if not existing:
            return None
        mean = sum(existing) / len(existing)
        return mean if pool == "mean" else (mean + functools.reduce(np.maximum, existing)) / 2

    return node


def turned(x: np.ndarray, position: float, frequencies: np.ndarray) -> np.ndarray:
    """Channels c and c + pairs as one complex number, times exp(i * position * frequency)."""
    pairs = len(frequencies)
    z = (x[:pairs] + 1j * x[pairs : 2 * pairs]) * np.exp(1j * position * frequencies)
    return np.concatenate([z.real, z.imag, x[2 * pairs :]])


def quadtree_by_hand(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    levels: int,
    topk: int,
    level_weights: Sequence[float],
    pool: str,
    side: int = 0,
    frequencies: Sequence[float] = (),
) -> np.ndarray:
    """q (H, W, heads, d), k and v (H, Wk, heads, d) -> (H, W, heads, d)."""
    H, W, heads, d = q.shape
    key_columns = k.shape[1]
    while levels > 1 and -(-key_columns // 2 ** (levels - 1)) < 2:  # one node on the row chooses nothing
        levels -= 1
    omega = np.exp(np.asarray(level_weights[:levels], dtype=np.float64))
    omega /= omega.sum()
    queries, keys, values = tree_of(q, pool), tree_of(k, pool), tree_of(v, "mean")

    out = np.zeros((H, W, heads, d))
    for y, x, head in np.ndindex(H, W, heads):
        kept: list[int] | None = None  # S_{l+1} of the parent, this head
        for level in range(levels - 1, -1, -1):
            row, own = y // 2**level, x // 2**level
            named = range(key_columns) if kept is None else [child for j in kept for child in (2 * j, 2 * j + 1)]
            seen = [j for j in named if keys(level, row, j) is not None and side * (own - j) >= 0]
            centre = (2**level - 1) / 2  # of a node, from its first finest column
            query = turned(queries(level, row, own)[head], own * 2**level + centre, np.asarray(frequencies))
            logits = [
                float(query @ turned(keys(level, row, j)[head], j * 2**level + centre, np.asarray(frequencies))) / d**0.5
                for j in seen
            ]
            mass = np.exp(np.asarray(logits) - max(logits))
            mass /= mass.sum()
            for p, j in zip(mass, seen, strict=True):
                out[y, x, head] += omega[level] * p * values(level, row, j)[head]
            kept = [j for _, j in sorted(zip(mass, seen, strict=True), reverse=True)[:topk]]
    return out


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
@pytest.mark.parametrize("kernel", BACKENDS)
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


# ---------------------------------------------------------------------------------------------------------------------
# Every operator


@each_operator
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("width", "key_width"), [(1, 1), (2, 2), (7, 7), (33, 33), *UNEQUAL_WIDTHS])
def test_message_has_the_shape_and_dtype_of_the_queries(
    variant: Variant, width: int, key_width: int, dtype: torch.dtype
) -> None:
    q, k, v = (x.to(dtype) for x in make_inputs(3, width, key_width, batch=2))
    message = variant.build(torch.float32)(q, k, v)  # parameters stay float32 in mixed precision
    assert message.shape == q.shape
    assert message.dtype == dtype
    assert message.isfinite().all()


@each_operator
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
    torch.testing.assert_close(variant.build()(q, k, torch.ones_like(k)), torch.ones_like(q), **EXACT)


@each_operator
@pytest.mark.parametrize("side", [None, +1])
def test_gradcheck(variant: Variant, side: int | None) -> None:
    """Selection is piecewise constant: with random values no gap is as narrow as the step of 1e-6, so the check holds."""
    operator = variant.build()
    inputs = [x.requires_grad_() for x in make_inputs(2, 5, heads=1, d=4)]

    def attend(q: Tensor, k: Tensor, v: Tensor, *_: Tensor) -> Tensor:
        return operator(q, k, v, side=None if side is None else side_of(side))

    assert torch.autograd.gradcheck(attend, (*inputs, *operator.parameters()))


@each_operator
def test_gradients_reach_every_token_of_q_k_and_v(variant: Variant) -> None:
    operator = variant.build()
    inputs = [x.requires_grad_() for x in make_inputs(3, 11)]
    operator(*inputs).square().sum().backward()
    for x in inputs:
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
    assert torch.equal(variant.build()(q, k, v, side=side_of(0)), variant.build()(q, k, v))


@each_operator
@pytest.mark.parametrize("row", [0, 2, 5, 8])
def test_nothing_is_read_outside_the_block_of_rows(variant: Variant, row: int) -> None:
    """Coarse levels pool 2^(L-1) rows into one, so that is as far as another row of keys and values can reach."""
    operator = variant.build()
    q, k, v = make_inputs(9, 11)
    before = operator(q, k, v)
    k[:, row], v[:, row] = k[:, row] + 3, v[:, row] - 5
    after = operator(q, k, v)
    outside = torch.arange(9) // variant.block != row // variant.block
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
    assert not torch.isclose(before[:, :, column], after[:, :, column]).any()


@each_operator
@pytest.mark.parametrize("side", [+1, -1])
def test_the_two_sides_mirror_each_other(variant: Variant, side: int) -> None:
    """Width a multiple of every block, so that the pyramid of the mirrored row is the mirrored pyramid."""
    operator = variant.build()
    q, k, v = make_inputs(3, 16)
    message = operator(q, k, v, side=side_of(side))
    mirrored = operator(q.flip(2), k.flip(2), v.flip(2), side=side_of(-side)).flip(2)
    torch.testing.assert_close(message, mirrored, **EXACT)


# ---------------------------------------------------------------------------------------------------------------------
# Dense, and the quadtree that keeps everything, against full attention


@pytest.mark.parametrize("side", [0, +1, -1])
@pytest.mark.parametrize("width", ODD_WIDTHS)
def test_dense_is_full_attention_along_the_row(width: int, side: int) -> None:
    q, k, v = make_inputs(3, width)
    message = build_attention("dense")(q, k, v, side=side_of(side))
    torch.testing.assert_close(message, plain_attention(q, k, v, side), **EXACT)


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
    for kernel in BACKENDS:
        operator = Variant("quadtree_b", {"levels": 4, "topk": 3, "kernel": kernel}).build()
        inputs = [x.requires_grad_() for x in make_inputs(5, 33)]
        message = operator(*inputs, side=None if side is None else side_of(side))
        message.square().sum().backward()
        results[kernel] = [message.detach(), *(x.grad for x in inputs)]
    for kernel, result in results.items():
        for ours, law in zip(result, results["reference"], strict=True):
            torch.testing.assert_close(ours, law, rtol=0, atol=1e-11, msg=lambda m, kernel=kernel: f"{kernel}: {m}")


def whole_tree(kernel: str, pool: str = "mean") -> nn.Module:
    return build_attention("quadtree_b", levels=4, topk=EVERYTHING, pool=pool, kernel=kernel)


BF16_OPERATORS: dict[str, Callable[[], nn.Module]] = {"dense": functools.partial(build_attention, "dense")}
for _kernel in BACKENDS:
    BF16_OPERATORS[f"finest level-{_kernel}"] = lambda kernel=_kernel: only_level(whole_tree(kernel), 0)
    BF16_OPERATORS[f"all levels-{_kernel}"] = functools.partial(whole_tree, _kernel)


def with_gradients(attend: Callable[[Tensor, Tensor, Tensor], Tensor], *inputs: Tensor) -> list[Tensor]:
    """The message, and the gradients of a weighted sum of it with respect to q, k and v, in float64."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    message = attend(*leaves)
    pull = torch.linspace(-1, 1, message.numel(), dtype=torch.float64).reshape(message.shape).to(message.dtype)
    return [x.detach().double() for x in (message, *torch.autograd.grad(message, leaves, pull))]


@pytest.mark.parametrize("side", [0, +1])
@pytest.mark.parametrize("width", [7, 33, 100])
@pytest.mark.parametrize("name", BF16_OPERATORS)
def test_bfloat16_loses_at_most_twice_what_pytorch_loses(name: str, width: int, side: int) -> None:
    """Messages; three times for gradients (STYLE 1.6). Truth: the same operator in float64 on the same rounded inputs.

    The yardstick is full attention written plainly in bfloat16. The tree keeps everything and pools by the mean, because
    where it selects or takes a maximum, a rounded score may choose another key, which is a kink and not an error.
    """
    low = [x.bfloat16() for x in make_inputs(4, width, batch=2)]
    high = [x.double() for x in low]
    operator, sides = BF16_OPERATORS[name](), side_of(side, side)
    ours, exact = (with_gradients(lambda q, k, v: operator(q, k, v, side=sides), *inputs) for inputs in (low, high))
    plain, plain_exact = (with_gradients(lambda q, k, v: plain_attention(q, k, v, side), *inputs) for inputs in (low, high))
    for i, what in enumerate(("message", "grad q", "grad k", "grad v")):
        error, yardstick = ((x[i] - y[i]).abs().max().item() for x, y in ((ours, exact), (plain, plain_exact)))
        assert yardstick > 0
        assert error <= (2 if what == "message" else 3) * yardstick, f"{what}: {error:.3g}, and plain PyTorch {yardstick:.3g}"


# ---------------------------------------------------------------------------------------------------------------------
# Rotary position code


def test_rotated_products_depend_on_column_differences_only() -> None:
    frequencies = rotary_frequencies(16)
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(16, generator=generator, dtype=torch.float64).expand(1, 1, 20, 1, 16) for _ in range(2))

    def products(query_shift: int, key_shift: int) -> Tensor:
        """(20, 20): the same content at every column, so that only the columns can make a difference."""
        columns = torch.arange(20)
        queries, keys = Rotary(frequencies).encode(q, columns + query_shift), Rotary(frequencies).encode(k, columns + key_shift)
        return queries[0, 0, :, 0] @ keys[0, 0, :, 0].T

    base = products(0, 0)
    torch.testing.assert_close(products(37, 37), base, **ROTARY)
    for difference in range(-19, 20):  # constant along every diagonal
        diagonal = base.diagonal(difference)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), **ROTARY)
    assert (products(1, 0) - base).abs().min() > 1e-3  # and the difference does count
    torch.testing.assert_close(products(1, 0)[:, 1:], base[:, :-1], **ROTARY)


def test_rotation_keeps_lengths_column_zero_and_the_second_half_of_a_head() -> None:
    x, *_ = make_inputs(2, 9, d=16)
    rotated = Rotary(rotary_frequencies(16)).encode(x, torch.arange(9))
    torch.testing.assert_close(rotated.norm(dim=-1), x.norm(dim=-1), rtol=1e-6, atol=0)  # sines of float32
    assert torch.equal(rotated[:, :, 0], x[:, :, 0])
    assert torch.equal(rotated[..., 8:], x[..., 8:])
    assert not torch.isclose(rotated[:, :, 1:, :, :8], x[:, :, 1:, :, :8]).all(dim=-1).any()


def commutes_with_rotation(variant: Variant) -> bool:
    """Means turn with what they average; a maximum does not."""
    return variant.options.get("levels", 1) == 1 or variant.options.get("pool") == "mean"


@pytest.mark.parametrize("width", [7, 33])
@pytest.mark.parametrize("variant", [v for v in VARIANTS if commutes_with_rotation(v)], ids=str)
def test_attention_with_rotary_does_not_move_with_the_origin(variant: Variant, width: int) -> None:
    """Inputs turned by one common shift beforehand: the message stays, because only differences of columns enter."""
    q, k, v = make_inputs(2, width)
    frequencies = rotary_frequencies(8)
    shift = torch.full((width,), 11)
    moved = Rotary(frequencies).encode(q, shift), Rotary(frequencies).encode(k, shift)
    operator = variant.build()
    message = operator(q, k, v, position=Rotary(frequencies))
    torch.testing.assert_close(operator(*moved, v, position=Rotary(frequencies)), message, **ROTARY)
    assert (operator(q, k, v) - message).abs().max() > 0.1  # the code does matter here


@pytest.mark.parametrize(("head_dim", "pairs"), [(4, 1), (8, 2), (16, 4), (18, 4)])
def test_rotary_periods_run_from_four_tokens_to_the_longest_in_equal_ratios(head_dim: int, pairs: int) -> None:
    periods = 2 * torch.pi / rotary_frequencies(head_dim, longest=256.0)
    assert periods.shape == (pairs,)
    expected = torch.tensor([4.0 * 64.0 ** (i / max(pairs - 1, 1)) for i in range(pairs)])
    torch.testing.assert_close(periods, expected, rtol=1e-5, atol=0)


# ---------------------------------------------------------------------------------------------------------------------
# What is refused


def shaped(*shape: int) -> Tensor:
    return torch.zeros(shape)


GOOD = (1, 2, 5, 2, 4)
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


@pytest.mark.parametrize("name", [name for name, kind in ATTENTION.items() if "image" not in kind.scopes])
def test_scope_image_is_refused_where_it_is_not_implemented(name: str) -> None:
    with pytest.raises(ValueError, match=r"got scope 'image', expected one of \('row',\)"):
        build_attention(name)(shaped(*GOOD), shaped(*GOOD), shaped(*GOOD), scope="image")


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


@pytest.mark.parametrize("options", [{"levels": 0}, {"topk": 0}, {"pool": "median"}])
def test_quadtree_refuses_options_without_meaning(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected levels >= 1, topk >= 1 and pool mean\|mean_max"):
        build_attention("quadtree_b", **options)


def test_quadtree_refuses_an_unknown_kernel() -> None:
    with pytest.raises(InputError, match="unknown kernel backend 'matmull'"):
        build_attention("quadtree_b", kernel="matmull")(shaped(*GOOD), shaped(*GOOD), shaped(*GOOD))


def test_an_unknown_operator_names_the_near_matches() -> None:
    with pytest.raises(InputError, match=r"unknown attention 'quadtree': expected one of .*did you mean quadtree_b"):
        build_attention("quadtree")


@pytest.mark.parametrize("name", ATTENTION)
def test_an_unknown_option_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match="window_of_seven"):
        build_attention(name, window_of_seven=7)
