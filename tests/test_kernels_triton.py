"""The Triton backend against the law in float64: on a CUDA device, or under TRITON_INTERPRET=1 interpreted on the CPU.

Without either they skip; test_kernels_triton_without_gpu.py runs this file under the interpreter, in a process of its own.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from test_kernels import assert_as_precise_as_plain, make_inputs, plain_scores, plain_values, strided, with_gradients
from test_kernels_level import RESULTS, SLACK, Case, make_case, run
from torch import Tensor

from stereo.attention import build_attention
from stereo.attention.candidates import row_candidates
from stereo.attention.position import Rotary, rotary_frequencies
from stereo.attention.tree import pool_grid
from stereo.kernels import reference, triton_backend
from stereo.types import InputError

triton = pytest.importorskip("triton", reason="triton cannot be imported")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
pytestmark = (
    [] if INTERPRETED else [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
)

WIDTHS = [1, 2, 7, 31, 32, 33, 100]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16", "float16"])


@pytest.fixture(autouse=True)
def _rounding_to_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter cuts float32 to bfloat16 where every device rounds to nearest; PyTorch's rounding takes its place."""
    if not INTERPRETED:
        return
    from triton.runtime import interpreter

    original = interpreter._convert_float

    def convert(x, source, target, mode):
        if (str(source), str(target)) != ("fp32", "bf16"):
            return original(x, source, target, mode)
        return torch.tensor(x).to(torch.bfloat16).view(torch.uint16).numpy()

    monkeypatch.setattr(interpreter, "_convert_float", convert)


@pytest.fixture(autouse=True)
def _larger_programs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter takes its time per program, so all but one test give it fewer and larger ones than a device."""
    if INTERPRETED and request.node.originalname != "test_a_level_in_other_shapes":
        monkeypatch.setattr(triton_backend, "TILE", 8 * triton_backend.TILE)


def moved(case: Case, device: str) -> Case:
    def move(x):
        return tuple(move(y) for y in x) if isinstance(x, tuple) else x.to(device) if isinstance(x, Tensor) else x

    return Case(**{field.name: move(getattr(case, field.name)) for field in dataclasses.fields(case)})


def run_triton(case: Case, layout: Callable[[Tensor], Tensor] = torch.Tensor.contiguous) -> tuple[list[Tensor | None], Tensor]:
    """As ``run``, there and back; layout: how tensors lie in memory, the incoming gradient and the parent's lists too."""
    case = moved(case, DEVICE)
    names = ("q", "k", "v", "coarse", "share")
    leaves = {name: x.detach().clone() for name in names if (x := getattr(case, name)) is not None}
    leaves = {name: (layout(x) if x.dim() else x).requires_grad_() for name, x in leaves.items()}
    c = replace(case, **leaves, parent=None if case.parent is None else layout(case.parent))
    message, chosen = triton_backend.quadtree_level(c.q, c.k, c.v, c.parent, c.coarse, c.share, c.side, c.topk, c.turns)
    grads = dict(zip(leaves, torch.autograd.grad(message, list(leaves.values()), layout(c.grad)), strict=True))
    results = [message.detach(), *(grads.get(name) for name in names)]
    return [None if x is None else x.cpu() for x in results], chosen.cpu()


def assert_like_the_law(case: Case, dtype: torch.dtype, layout: Callable[[Tensor], Tensor] = torch.Tensor.contiguous) -> None:
    """Errors at most twice those of plain PyTorch in the same type, against the law in float64 on the same rounded numbers."""
    rounded = case.to(dtype)
    exact = rounded.to(torch.float64)
    (truth, best), (plain, _), (found, chosen) = run(reference, exact), run(reference, rounded), run_triton(rounded, layout)
    largest = max(x.abs().max().item() for x in truth if x is not None)
    for name, ours, theirs, true in zip(RESULTS, found, plain, truth, strict=True):
        if true is None:
            assert ours is None
            continue
        assert ours is not None and theirs is not None
        assert ours.dtype == theirs.dtype
        error, yardstick = ((x.double() - true).abs().max().item() for x in (ours, theirs))
        scale = true.abs().max().item()
        if scale < 1e-12:  # terms of order 1 that cancel: what remains of them is their rounding
            scale = largest
        if name == "grad share":  # one sum over everything, whose terms mostly cancel
            alone = run(reference, replace(exact, coarse=None))[0][0] / exact.share
            scale = (exact.grad * alone).sum(dim=-1).abs().sum().item()
        assert error <= 2 * yardstick + SLACK * scale, f"{name}: {error:.3g}, and plain PyTorch {yardstick:.3g}"
    if dtype == torch.float32:
        assert torch.equal(chosen.sort(dim=-1).values, best.sort(dim=-1).values)
    assert chosen.dtype == torch.int32


@each_dtype
@pytest.mark.parametrize("kept", [4, None])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_level(width: int, kept: int | None, dtype: torch.dtype):
    small = width < 10  # the interpreter is slow
    assert_like_the_law(make_case(width, kept=kept, height=3 if small else 1, heads=2 if small else 1), dtype)


@pytest.mark.parametrize(
    "settings",
    [
        {"d": 1, "turning": False}, {"d": 2}, {"d": 24, "height": 5}, {"d": 64, "heads": 3}, {"d": 100, "sided": False},
        {"kept": 1, "topk": 1}, {"kept": 9, "topk": 18}, {"kept": 20, "topk": 3}, {"kept": None, "topk": 16, "d": 8},
        {"kept": None, "d": 100}, {"key_width": 20, "sided": False}, {"key_width": 3, "sided": False, "kept": None},
        {"topk": 0}, {"kept": None, "topk": 12, "key_width": 70, "sided": False, "height": 1},
        {"turning": False, "sided": False},
    ],
    ids=str,
)  # fmt: skip
def test_a_level_in_other_shapes(settings: dict):
    assert_like_the_law(make_case(9, **settings), torch.float32)


def as_projected(x: Tensor) -> Tensor:
    """Channels side by side, tokens apart, as keys and values lie that one projection made."""
    return torch.stack([x, torch.full_like(x, 1000)], dim=3)[:, :, :, 0]


@pytest.mark.parametrize("kept", [4, None])
@pytest.mark.parametrize("layout", [strided, as_projected])
def test_a_level_reads_any_strides(layout: Callable[[Tensor], Tensor], kept: int | None):
    case = make_case(13, kept=kept)
    assert not layout(case.k).is_contiguous()
    assert_like_the_law(case, torch.float32, layout)


@pytest.mark.parametrize("kept", [4, None])
@pytest.mark.parametrize("spread", [0.0, 30.0, 200.0])
def test_a_level_survives_any_spread_of_scores(spread: float, kept: int | None):
    case = make_case(33, kept=kept, height=2, heads=1)
    case = replace(case, q=case.q * spread).to(torch.float32)
    found, _ = run_triton(case)
    expected, _ = run(reference, case.to(torch.float64))
    for name, a, b in zip(RESULTS, found, expected, strict=True):
        if b is not None:
            assert a is not None
            limit = 1e-4 * max(b.abs().max().item(), 1.0)  # scores of 1000 have roundings of 6e-5
            assert (a.double() - b).abs().max().item() <= limit, name


def test_a_query_that_sees_nothing_gets_nothing():
    case = make_case(6, kept=2)
    assert case.parent is not None
    nothing = replace(case, parent=torch.full_like(case.parent, 3), coarse=torch.zeros_like(case.coarse)).to(torch.float32)
    results, chosen = run_triton(nothing)
    assert all(x is not None and not x.isnan().any() for x in results)
    assert results[0] is not None and results[0].abs().max() == 0
    assert (chosen == 6).all()


def test_repeated_entries_are_kept_as_often_as_they_stand():
    case = replace(make_case(8, kept=4, topk=4, sided=False), parent=torch.full((2, 2, 4, 2, 4), 1, dtype=torch.int32))
    (_, best), (_, chosen) = run(reference, case), run_triton(case.to(torch.float32))
    assert torch.equal(chosen.sort(dim=-1).values, best.sort(dim=-1).values)
    assert set(chosen.unique().tolist()) <= {2, 3}


@each_dtype
@pytest.mark.parametrize("repeats", ["some", "all", "shared"])
@pytest.mark.parametrize(("width", "key_width"), [*((width, width) for width in WIDTHS[:-1]), (5, 100), (33, 5)])
def test_sparse_products_and_their_gradients(width: int, key_width: int, repeats: str, dtype: torch.dtype):
    q, k, v, weights, index = make_inputs(width, key_width, repeats, dtype)
    for ours, plain, first, second in (
        (triton_backend.gather_scores, plain_scores, q, k),
        (triton_backend.gather_values, plain_values, weights, v),
    ):
        truth = with_gradients(plain, first.double(), second.double(), index)
        yardstick = with_gradients(plain, first, second, index)
        result = with_gradients(ours, *(strided(x.to(DEVICE)) for x in (first, second, index)))
        assert_as_precise_as_plain([x.cpu() for x in result], yardstick, truth)


def test_an_index_beyond_the_keys_reads_nothing():
    q, k, v, weights, index = (x.to(DEVICE) for x in make_inputs(7, 5, dtype=torch.float32))
    for wrong in (-1, 5, 2**40):
        broken = index.clone()
        broken[..., 1] = wrong
        scores, values = triton_backend.gather_scores(q, k, broken), triton_backend.gather_values(weights, v, broken)
        assert (scores[..., 1] == 0).all()
        rest = [0, 2, 3, 4]
        torch.testing.assert_close(values, reference.gather_values(weights[..., rest], v, index[..., rest]))


@pytest.mark.parametrize("with_max", [True, False])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 6), (6, 1), (4, 6), (5, 7), (4, 7), (5, 6)])
@each_dtype
def test_pooling(height: int, width: int, with_max: bool, dtype: torch.dtype):
    """Small integers: many ties, and every result is exact."""
    g = torch.Generator().manual_seed(height * width)
    x = torch.randint(-3, 4, (2, height, width, 2, 2, 24), generator=g)[:, :, :, 0].to(dtype)
    ours, theirs = x.to(DEVICE).requires_grad_(), x.clone().requires_grad_()
    a, b = triton_backend.pool(ours, with_max), pool_grid(theirs, with_max)
    grad = torch.randint(-4, 5, a.shape, generator=g).to(dtype) * 8
    assert torch.equal(a.cpu(), b)
    first, second = torch.autograd.grad(a, ours, grad.to(DEVICE))[0], torch.autograd.grad(b, theirs, grad)[0]
    assert torch.equal(first.cpu(), second)
    total = torch.ops.stereo_triton.pool(x.to(DEVICE), False, True)
    assert torch.equal(total.cpu(), reference.sum_of_children(x))


@pytest.mark.parametrize(("d", "pairs"), [(8, 4), (8, 2), (7, 3), (5, 0), (100, 25)])
def test_turning_and_turning_back(d: int, pairs: int):
    g = torch.Generator().manual_seed(d)
    x = strided(torch.randn(2, 3, 6, 2, d, generator=g))
    angles = torch.randn(6, pairs, generator=g)
    by = torch.stack([angles.cos(), angles.sin()])
    there = triton_backend._turned(x.to(DEVICE), by.to(DEVICE), torch.float32)
    torch.testing.assert_close(there.cpu(), reference.turned(x, by), rtol=0, atol=1e-6)
    back = triton_backend._turned(there, by.to(DEVICE), torch.float32, -1)
    torch.testing.assert_close(back.cpu(), x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rotary", [True, False])
@pytest.mark.parametrize("sided", [True, False])
@pytest.mark.parametrize(("height", "width"), [(3, 1), (5, 9), (3, 40)])
def test_the_operator_is_the_same(height: int, width: int, sided: bool, rotary: bool):
    """quadtree_b in float32 against the law in float64, messages and gradients through all levels."""
    g = torch.Generator().manual_seed(width)
    q, k, v = (torch.randn(2, height, width, 1, 8, generator=g) for _ in range(3))
    side = torch.tensor([1, -1]) if sided else None
    position = Rotary(rotary_frequencies(8)) if rotary else None
    grad = torch.randn(q.shape, generator=g)
    found = []
    for kernel, device, dtype in (("reference", "cpu", torch.float64), ("triton", DEVICE, torch.float32)):
        torch.manual_seed(5)
        operator = build_attention("quadtree_b", levels=4, topk=3, pool="mean_max", kernel=kernel)
        torch.nn.init.normal_(operator.level_weights)
        operator = operator.to(device, dtype)
        inputs = [x.to(device, dtype, copy=True).requires_grad_() for x in (q, k, v)]
        places = None if position is None else Rotary(position.frequencies.to(device))
        message = operator(*inputs, scope="row", side=None if side is None else side.to(device), position=places)
        results = (message, *torch.autograd.grad(message, (*inputs, operator.level_weights), grad.to(device, dtype)))
        found.append([x.detach().cpu().double() for x in results])
    for law, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, law, rtol=1e-4, atol=1e-5)


def test_candidates_are_the_same():
    q, k = (torch.randn(1, 3, 40, 2, 8, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    side = torch.tensor([1])
    ours = row_candidates(q.to(DEVICE), k.to(DEVICE), 3, 4, side.to(DEVICE), kernel="triton").cpu()
    law = row_candidates(q.double(), k.double(), 3, 4, side, kernel="reference")
    assert torch.equal(ours.sort(dim=-1).values, law.sort(dim=-1).values)


@pytest.mark.parametrize("autocast", [False, True])
def test_mixed_dtypes(autocast: bool):
    """bfloat16 under autocast as in torch.matmul, else the wider of the two; gradients come back in the inputs' own dtypes."""
    q, k, _, _, index = (x.to(DEVICE) for x in make_inputs(7, 7, dtype=torch.float32))
    q, k = q.requires_grad_(), k.bfloat16().requires_grad_()
    with torch.autocast(DEVICE, torch.bfloat16, enabled=autocast):
        scores = triton_backend.gather_scores(q, k, index)
    assert scores.dtype == (torch.bfloat16 if autocast else torch.float32)
    grads = torch.autograd.grad(scores.float().sum(), (q, k))
    assert [x.dtype for x in grads] == [torch.float32, torch.bfloat16]


def test_operators_tell_pytorch_what_it_must_know():
    """Schema, gradients registered, shapes without content, tracing: PyTorch's own checks of custom operators."""
    ops = torch.ops.stereo_triton
    c = moved(make_case(6, height=3, heads=1).to(torch.float32), DEVICE)
    q, k, v = (x.detach().clone().requires_grad_() for x in (c.q, c.k, c.v))
    assert c.turns is not None
    # Gradients of k and v are sums in any order: where they are compared, the last bits may differ.
    options = {"rtol": 1e-4, "atol": 1e-5}
    torch.library.opcheck(ops.level.default, (q, k, v, c.parent, c.coarse, c.share, c.side, 3, *c.turns), **options)
    torch.library.opcheck(ops.level.default, (q, k, v, None, None, c.share, None, 0, None, None), **options)
    torch.library.opcheck(ops.pool.default, (q, True))
    index = torch.randint(0, 6, (2, 3, 6, 1, 5), device=DEVICE)
    torch.library.opcheck(ops.scores.default, (q, k, index), **options)
    torch.library.opcheck(ops.values.default, (torch.rand(index.shape, requires_grad=True, device=DEVICE), v, index), **options)


def test_what_does_not_fit_is_refused():
    c = moved(make_case(6).to(torch.float32), DEVICE)
    assert c.parent is not None and c.turns is not None
    level = triton_backend.quadtree_level
    with pytest.raises(ValueError, match="parent has shape"):
        level(c.q, c.k, c.v, c.parent[:, :, 1:], None, c.share, None, 0, None)
    with pytest.raises(ValueError, match=r"parent has shape .* in torch.int64, expected .* in torch.int32"):
        level(c.q, c.k, c.v, c.parent.long(), None, c.share, None, 0, None)
    with pytest.raises(ValueError, match="v has shape"):
        level(c.q, c.k, c.v[:, :, 1:], None, None, c.share, None, 0, None)
    with pytest.raises(ValueError, match="side has shape"):
        level(c.q, c.k, c.v, None, None, c.share, torch.ones(3, dtype=torch.int64, device=DEVICE), 0, None)
    with pytest.raises(ValueError, match="turn of queries has shape"):
        level(c.q, c.k, c.v, None, None, c.share, None, 0, (c.turns[0][:, 1:], c.turns[1]))
    with pytest.raises(ValueError, match="index has shape"):
        triton_backend.gather_scores(c.q, c.k, torch.zeros(2, 3, 6, 2, 5, dtype=torch.int32, device=DEVICE))
    with pytest.raises(InputError, match=r"kernel=triton knows float32, bfloat16, float16, not torch\.float64"):
        triton_backend.pool(c.q.double(), True)
    with pytest.raises(InputError, match="kernel=triton works on tensors of one CUDA device, got meta"):
        triton_backend.pool(c.q.to("meta"), True)
