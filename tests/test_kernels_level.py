"""One fused level of quadtree attention: the law against a loop in float64, the C++ kernel against the law."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from stereo.attention import build_attention
from stereo.attention.position import Rotary, rotary_frequencies
from stereo.attention.tree import pool_grid
from stereo.kernels import cpp, reference

WIDTHS = [1, 2, 7, 31, 32, 33, 100, 320]
RESULTS = ("message", "grad q", "grad k", "grad v", "grad coarse", "grad share")
SLACK = 16 * torch.finfo(torch.float32).eps  # of the largest value, where plain PyTorch's own error is zero by luck


@pytest.fixture
def compiled() -> None:
    if cpp.available():
        pytest.skip(cpp.available())


@dataclass(frozen=True)
class Case:
    """Arguments of quadtree_level in their order, and the gradient that comes in."""

    q: Tensor
    k: Tensor
    v: Tensor
    parent: Tensor | None
    coarse: Tensor | None
    share: Tensor
    side: Tensor | None
    topk: int
    turns: tuple[Tensor, Tensor] | None
    grad: Tensor

    def to(self, dtype: torch.dtype) -> Case:
        """Floating inputs in another type; angles and share stay what they are on a network: float32 at least."""
        moved = {name: x if (x := getattr(self, name)) is None else x.to(dtype) for name in ("q", "k", "v", "coarse", "grad")}
        wide = torch.promote_types(dtype, torch.float32)
        turns = None if self.turns is None else (self.turns[0].to(wide), self.turns[1].to(wide))
        return replace(self, **moved, share=self.share.to(wide), turns=turns)


def make_case(
    width: int,
    key_width: int | None = None,
    height: int = 3,
    heads: int = 2,
    d: int = 16,
    kept: int | None = 4,
    sided: bool = True,
    turning: bool = True,
    topk: int = 3,
) -> Case:
    """float64. kept: entries of the parent's lists, with repeats and keys that do not exist; None: no parent."""
    key_width = key_width or width
    g = torch.Generator().manual_seed(1000 * width + 10 * d + height)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    batch = 2
    half = (batch, (height + 1) // 2, (width + 1) // 2, heads)
    parent = coarse = turns = None
    if kept is not None:
        parent = torch.randint(0, (key_width + 1) // 2 + 2, (*half, kept), generator=g).int()
        # Each query sees something, as in a tree: its own place is among what its parent chose.
        parent[..., kept // 2] = torch.arange(half[2])[:, None].clamp(max=(key_width - 1) // 2).int()
        coarse = normal(*half, d)
    if turning:
        angles = normal(width, d // 4), normal(key_width, d // 4)
        turns = (torch.stack([angles[0].cos(), angles[0].sin()]), torch.stack([angles[1].cos(), angles[1].sin()]))
    return Case(
        normal(batch, height, width, heads, d), normal(batch, height, key_width, heads, d),
        normal(batch, height, key_width, heads, d), parent, coarse, torch.tensor(0.37, dtype=torch.float64),
        torch.tensor([1, -1]) if sided else None, topk, turns, normal(batch, height, width, heads, d),
    )  # fmt: skip


def run(backend, case: Case) -> tuple[list[Tensor | None], Tensor]:
    """Message and gradients in the order of RESULTS; the chosen keys."""
    names = ("q", "k", "v", "coarse", "share")
    leaves = {name: x.detach().clone().requires_grad_() for name in names if (x := getattr(case, name)) is not None}
    c = replace(case, **leaves)
    message, chosen = backend.quadtree_level(c.q, c.k, c.v, c.parent, c.coarse, c.share, c.side, c.topk, c.turns)
    grads = dict(zip(leaves, torch.autograd.grad(message, list(leaves.values()), c.grad), strict=True))
    return [message.detach(), *(grads.get(name) for name in names)], chosen


def by_hand(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Message and chosen keys, one query at a time."""
    q, k, v = (x.numpy() for x in (case.q, case.k, case.v))
    batch, height, width, heads, _ = q.shape
    count = k.shape[2]

    def rotated(x: np.ndarray, by: Tensor, column: int) -> np.ndarray:
        x, pairs = x.copy(), by.shape[-1]
        for i in range(pairs):
            z = complex(x[i], x[pairs + i]) * complex(by[0, column, i], by[1, column, i])
            x[i], x[pairs + i] = z.real, z.imag
        return x

    message, chosen = np.zeros(q.shape), np.zeros((*q.shape[:4], 0), int).tolist()
    for b, y, x, n in np.ndindex(batch, height, width, heads):
        if case.parent is None:
            keys = list(range(count))
        else:
            keys = [2 * p + c for c in (0, 1) for p in case.parent[b, y // 2, x // 2, n].tolist()]
            keys = [j for j in keys if j < count]
        if case.side is not None:
            keys = [j for j in keys if case.side[b] * (x - j) >= 0]
        query = q[b, y, x, n]
        if case.turns is not None:
            query = rotated(query, case.turns[0], x)
        scores = []
        for j in keys:
            key = k[b, y, j, n] if case.turns is None else rotated(k[b, y, j, n], case.turns[1], j)
            scores.append(float(query @ key))
        weights = [math.exp(s - max(scores)) for s in scores]
        for j, weight in zip(keys, weights, strict=True):
            message[b, y, x, n] += float(case.share) * weight / sum(weights) * v[b, y, j, n]
        if case.coarse is not None:
            message[b, y, x, n] += case.coarse[b, y // 2, x // 2, n].numpy()
        best = [keys[i] for i in sorted(range(len(keys)), key=lambda i: -scores[i])[: case.topk]]
        listed = count if case.parent is None else 2 * case.parent.shape[-1]
        chosen[b][y][x][n] = sorted(best + [count] * (min(case.topk, listed) - len(best)))
    return message, np.array(chosen)


CASES = [
    {"width": 7}, {"width": 6, "key_width": 11, "sided": False}, {"width": 5, "kept": None, "topk": 9},
    {"width": 4, "height": 2, "turning": False, "kept": 1}, {"width": 1, "height": 1},
]  # fmt: skip


@pytest.mark.parametrize("settings", CASES, ids=str)
def test_the_law_equals_a_loop(settings):
    case = make_case(**settings)
    (message, *_), chosen = run(reference, case)
    expected, best = by_hand(case)
    np.testing.assert_allclose(message.numpy(), expected, rtol=1e-12, atol=1e-12)
    assert np.array_equal(chosen.sort(dim=-1).values.numpy(), best)
    assert chosen.dtype == torch.int32


def test_gradients_of_the_law_are_those_of_differences():
    case = make_case(3, height=2, heads=1, d=4)
    leaves = [x.requires_grad_() for x in (case.q, case.k, case.v, case.coarse, case.share)]

    def message(q, k, v, coarse, share):
        return reference.quadtree_level(q, k, v, case.parent, coarse, share, case.side, 2, case.turns)[0]

    assert torch.autograd.gradcheck(message, leaves)


def assert_equal(ours: Case, law: Case | None = None) -> None:
    (found, chosen), (expected, best) = run(cpp, ours), run(reference, law or ours)
    assert torch.equal(chosen.sort(dim=-1).values, best.sort(dim=-1).values)
    for name, a, b in zip(RESULTS, found, expected, strict=True):
        if b is not None:
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("kept", [4, None])
@pytest.mark.parametrize("width", WIDTHS)
def test_cpp_equals_the_law_in_float64(width, kept):
    assert_equal(make_case(width, kept=kept))


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("d", [2, 4, 8, 24, 32, 64, 100])
@pytest.mark.parametrize(
    "settings", [{"sided": False}, {"turning": False}, {"kept": 9, "topk": 18}, {"key_width": 20}], ids=str
)
def test_cpp_in_other_shapes(d, settings):
    if "key_width" in settings:
        settings = {**settings, "sided": False}
    assert_equal(make_case(9, d=d, **settings))


@pytest.mark.usefixtures("compiled")
def test_cpp_reads_any_strides():
    plain = make_case(13)
    # Keys and values as one projection leaves them, everything else transposed in memory.
    both = torch.stack([plain.k, plain.v], dim=3)
    assert plain.parent is not None
    assert plain.coarse is not None
    odd = replace(
        plain,
        q=plain.q.permute(4, 3, 0, 2, 1).contiguous().permute(2, 4, 3, 1, 0),
        k=both[:, :, :, 0],
        v=both[:, :, :, 1],
        parent=plain.parent.flip(2).contiguous().flip(2),
        coarse=plain.coarse.transpose(1, 3).contiguous().transpose(1, 3),
        grad=plain.grad[..., :1].expand_as(plain.grad),
    )
    assert not odd.k.is_contiguous()
    assert_equal(odd)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", WIDTHS)
def test_cpp_error_in_low_precision(width, dtype):
    """At most twice that of plain PyTorch in the same type, against the law in float64 on the same rounded numbers."""
    rounded = make_case(width, topk=0).to(dtype)
    truth, _ = run(reference, rounded.to(torch.float64))
    for name, ours, theirs, true in zip(RESULTS, run(cpp, rounded)[0], run(reference, rounded)[0], truth, strict=True):
        assert ours is not None and theirs is not None and true is not None
        error, allowed = ((x.double() - true).abs().max().item() for x in (ours, theirs))
        scale = true.abs().max().item()
        if name == "grad share":  # one sum over everything: its roundings are those of its terms, which mostly cancel
            exact = rounded.to(torch.float64)
            alone = run(reference, replace(exact, coarse=torch.zeros_like(exact.coarse)))[0][0] / exact.share
            scale = (exact.grad * alone).sum(dim=-1).abs().sum().item()
        assert error <= 2 * allowed + SLACK * scale, name


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("spread", [0.0, 30.0, 200.0])
def test_cpp_survives_any_spread_of_scores(spread):
    case = make_case(33)
    case = replace(case, q=case.q * spread).to(torch.float32)
    found, _ = run(cpp, case)
    expected, _ = run(reference, case.to(torch.float64))
    for name, a, b in zip(RESULTS, found, expected, strict=True):
        assert a is not None and b is not None
        limit = 1e-4 * max(b.abs().max().item(), 1.0)  # scores of 1000 have roundings of 6e-5
        assert (a.double() - b).abs().max().item() <= limit, name


@pytest.mark.usefixtures("compiled")
def test_a_query_that_sees_nothing_gets_nothing():
    case = make_case(6, kept=2)
    assert case.parent is not None
    case = replace(case, parent=torch.full_like(case.parent, 3), coarse=torch.zeros_like(case.coarse))
    for backend in (reference, cpp):
        results, chosen = run(backend, case)
        assert all(x is not None and not x.isnan().any() for x in results)
        assert results[0].abs().max() == 0
        assert (chosen == 6).all()


@pytest.mark.usefixtures("compiled")
def test_threads_do_not_change_a_bit():
    before, case, found = torch.get_num_threads(), make_case(100, height=9).to(torch.float32), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(run(cpp, case))
    finally:
        torch.set_num_threads(before)
    for results, chosen in found[1:]:
        assert torch.equal(chosen, found[0][1])
        assert all(torch.equal(a, b) for a, b in zip(results[:5], found[0][0][:5], strict=True))


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("with_max", [True, False])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 6), (6, 1), (4, 6), (5, 7), (4, 7), (5, 6)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_pooling(height, width, with_max, dtype):
    g = torch.Generator().manual_seed(height * width)
    x = torch.randint(-3, 4, (2, height, width, 2, 2, 24), generator=g)[:, :, :, 0].to(dtype)  # small integers: many ties
    ours, theirs = (x.detach().clone().requires_grad_() for _ in range(2))
    assert torch.equal(torch.ops.stereo_cpu.sum_of_children(x), reference.sum_of_children(x))
    a, b = cpp.pool(ours, with_max), pool_grid(theirs, with_max)
    grad = torch.randint(-4, 5, a.shape, generator=g).to(dtype) * 8
    assert torch.equal(a, b)
    first, second = torch.autograd.grad(a, ours, grad)[0], torch.autograd.grad(b, theirs, grad)[0]
    assert torch.equal(first, second)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("rotary", [True, False])
@pytest.mark.parametrize("sided", [True, False])
@pytest.mark.parametrize(("height", "width"), [(3, 1), (5, 9), (8, 40), (7, 100)])
def test_the_operator_is_the_same_on_every_backend(height, width, sided, rotary):
    g = torch.Generator().manual_seed(width)
    q, k, v = (torch.randn(2, height, width, 2, 8, generator=g, dtype=torch.float64).requires_grad_() for _ in range(3))
    side = torch.tensor([1, -1]) if sided else None
    position = Rotary(rotary_frequencies(8)) if rotary else None
    grad = torch.randn(q.shape, generator=g, dtype=torch.float64)
    found = []
    for kernel in ("reference", "cpp"):
        torch.manual_seed(5)
        operator = build_attention("quadtree_b", levels=4, topk=3, pool="mean_max", kernel=kernel).double()
        torch.nn.init.normal_(operator.level_weights)
        message = operator(q, k, v, scope="row", side=side, position=position)
        found.append((message, *torch.autograd.grad(message, (q, k, v, operator.level_weights), grad)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("compiled")
def test_operators_tell_pytorch_what_it_must_know():
    """Schema, gradients registered, shapes without content, tracing: PyTorch's own checks of custom operators."""
    ops = torch.ops.stereo_cpu
    c = make_case(6, height=3).to(torch.float32)
    leaves = [x.detach().clone().requires_grad_() for x in (c.q, c.k, c.v)]
    assert c.turns is not None
    arguments = (*leaves, c.parent, c.coarse, c.share, c.side, 3, *c.turns)
    torch.library.opcheck(ops.level.default, arguments)
    torch.library.opcheck(ops.level.default, (*leaves, None, None, c.share, None, 0, None, None))
    torch.library.opcheck(ops.pool.default, (leaves[0], True))
    index = torch.randint(0, 6, (2, 3, 6, 2, 5))
    torch.library.opcheck(ops.scores.default, (*leaves[:2], index))
    torch.library.opcheck(ops.values.default, (torch.rand(index.shape, requires_grad=True), leaves[2], index))


@pytest.mark.usefixtures("compiled")
def test_wrong_shapes_are_refused():
    c = make_case(6)
    assert c.parent is not None
    with pytest.raises(RuntimeError, match="parent has shape"):
        cpp.quadtree_level(c.q, c.k, c.v, c.parent[:, :, 1:], None, c.share, None, 0, None)
    with pytest.raises(RuntimeError, match="parent is Long, expected Int"):
        cpp.quadtree_level(c.q, c.k, c.v, c.parent.long(), None, c.share, None, 0, None)
    with pytest.raises(RuntimeError, match="v has shape"):
        cpp.quadtree_level(c.q, c.k, c.v[:, :, 1:], None, None, c.share, None, 0, None)
    with pytest.raises(RuntimeError, match="side has shape"):
        cpp.quadtree_level(c.q, c.k, c.v, None, None, c.share, torch.ones(3, dtype=torch.int64), 0, None)
