"""Sparse gather arithmetic: every backend against a double loop in float64, its gradients, its low precision, its selection."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import Tensor

from stereo import kernels
from stereo.kernels import BACKENDS, MATMUL_MAX_WIDTH, ON_A_CPU, matmul, reference
from stereo.types import InputError

WIDTHS = [1, 2, 7, 31, 32, 33, 100]
SHAPES = [(width, width) for width in WIDTHS] + [(5, 33), (33, 5)]  # (query columns, key columns)
B, H, HEADS, D, M = 2, 2, 2, 8, 5

# float32 and bfloat16 are held to twice the error of plain PyTorch in the same dtype. Where that error is zero by luck
# (one column, weights that round exactly), this much remains, relative to the largest value: 8 roundings of float32.
# It is nothing on the scale of bfloat16, whose single rounding is 65536 times coarser.
SLACK = 8 * torch.finfo(torch.float32).eps
ERROR_RATIO = {"result": 2, "grad 1": 3, "grad 2": 3}  # gradients through repeated entries: 2 to 5 is usual (STYLE 1.6)


def strided(x: Tensor) -> Tensor:
    """The same values in memory that is not contiguous: another axis order and a gap after every element."""
    room = x.new_zeros(*reversed(x.shape), 2)
    room[..., 0] = x.permute(*reversed(range(x.dim())))
    return room[..., 0].permute(*reversed(range(x.dim())))


def make_index(width: int, key_width: int, repeats: str, generator: torch.Generator) -> Tensor:
    shape = (B, H, width, HEADS, M)
    index = torch.randint(0, key_width, shape, generator=generator)
    if repeats == "all":
        index = index[..., :1].expand(shape).contiguous()  # every entry of a list is the same key
    if repeats == "shared":
        index = torch.full(shape, key_width - 1)  # every query of every list reads the last key
    return index


def make_inputs(
    width: int, key_width: int, repeats: str = "some", dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """q, k, v, weights, index; "some" repeats are what chance gives (certain when there are fewer keys than entries)."""
    generator = torch.Generator().manual_seed(1000 * width + key_width)
    q = torch.randn(B, H, width, HEADS, D, generator=generator, dtype=torch.float64).to(dtype)
    k, v = (torch.randn(B, H, key_width, HEADS, D, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    weights = torch.randn(B, H, width, HEADS, M, generator=generator, dtype=torch.float64).softmax(dim=-1).to(dtype)
    return q, k, v, weights, make_index(width, key_width, repeats, generator)


def loop_scores(q: Tensor, k: Tensor, index: Tensor) -> Tensor:
    """The definition, one number at a time, in float64."""
    queries, keys, columns = q.double().numpy(), k.double().numpy(), index.numpy()
    out = np.zeros(columns.shape)
    for place in np.ndindex(*columns.shape):
        b, y, x, head, _ = place
        out[place] = sum(queries[b, y, x, head] * keys[b, y, columns[place], head])
    return torch.from_numpy(out)


def loop_values(weights: Tensor, v: Tensor, index: Tensor) -> Tensor:
    weight, values, columns = weights.double().numpy(), v.double().numpy(), index.numpy()
    out = np.zeros((*columns.shape[:4], v.shape[-1]))
    for place in np.ndindex(*columns.shape):
        b, y, x, head, _ = place
        out[b, y, x, head] += weight[place] * values[b, y, columns[place], head]
    return torch.from_numpy(out)


def plain_scores(q: Tensor, k: Tensor, index: Tensor) -> Tensor:
    """What anyone would write in PyTorch: the yardstick for low precision. Shares no line with the backends."""
    batch, row, _, head, _ = torch.meshgrid(*(torch.arange(n) for n in index.shape), indexing="ij")
    return (q[..., None, :] * k[batch, row, index, head]).sum(dim=-1)


def plain_values(weights: Tensor, v: Tensor, index: Tensor) -> Tensor:
    batch, row, _, head, _ = torch.meshgrid(*(torch.arange(n) for n in index.shape), indexing="ij")
    return (weights[..., None] * v[batch, row, index, head]).sum(dim=-2)


def with_gradients(function, first: Tensor, second: Tensor, index: Tensor) -> list[Tensor]:
    """Result and gradients of a weighted sum of it with respect to both tensors, in the dtype of the inputs."""
    first, second = first.detach().requires_grad_(), second.detach().requires_grad_()
    out = function(first, second, index)
    pull = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).reshape(out.shape).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, (first, second), pull)]


def assert_as_precise_as_plain(ours: list[Tensor], plain: list[Tensor], truth: list[Tensor]) -> None:
    for name, mine, theirs, exact in zip(ERROR_RATIO, ours, plain, truth, strict=True):
        assert mine.dtype == theirs.dtype
        error, yardstick = ((x.double() - exact).abs().max().item() for x in (mine, theirs))
        limit = ERROR_RATIO[name] * yardstick + SLACK * exact.abs().max().item()
        assert error <= limit, f"{name}: {error:.3g}, and plain PyTorch {yardstick:.3g}"


@pytest.mark.parametrize("layout", ["contiguous", "strided"])
@pytest.mark.parametrize("repeats", ["some", "all", "shared"])
@pytest.mark.parametrize(("width", "key_width"), SHAPES)
@pytest.mark.parametrize("backend", ON_A_CPU)
def test_float64_equals_the_double_loop(backend: str, width: int, key_width: int, repeats: str, layout: str) -> None:
    q, k, v, weights, index = make_inputs(width, key_width, repeats)
    expected = loop_scores(q, k, index), loop_values(weights, v, index)
    if layout == "strided":
        q, k, v, weights, index = (strided(x) for x in (q, k, v, weights, index))
        assert not any(x.is_contiguous() for x in (q, k, v, weights, index))
    scores = BACKENDS[backend].gather_scores(q, k, index)
    message = BACKENDS[backend].gather_values(weights, v, index)
    # Sums of at most max(D, M) products of order 1: rounding is below 1e-14.
    torch.testing.assert_close(scores, expected[0], rtol=0, atol=1e-13)
    torch.testing.assert_close(message, expected[1], rtol=0, atol=1e-13)


@pytest.mark.parametrize("layout", ["contiguous", "strided"])
@pytest.mark.parametrize("repeats", ["some", "all", "shared"])
@pytest.mark.parametrize(("width", "key_width"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("backend", ON_A_CPU)
def test_low_precision_loses_at_most_twice_what_pytorch_loses(
    backend: str, dtype: torch.dtype, width: int, key_width: int, repeats: str, layout: str
) -> None:
    """Results and gradients; many queries share a key, so the gradients are where a scatter would accumulate error."""
    q, k, v, weights, index = make_inputs(width, key_width, repeats, dtype)
    module = BACKENDS[backend]
    for ours, plain, first, second in (
        (module.gather_scores, plain_scores, q, k),
        (module.gather_values, plain_values, weights, v),
    ):
        truth = with_gradients(plain, first.double(), second.double(), index)
        yardstick = with_gradients(plain, first, second, index)
        if layout == "strided":
            result = with_gradients(ours, strided(first), strided(second), strided(index))
        else:
            result = with_gradients(ours, first, second, index)
        assert_as_precise_as_plain(result, yardstick, truth)


def test_the_yardstick_is_the_double_loop() -> None:
    """The plain formulation serves as float64 truth for gradients above, so it has to be right itself."""
    q, k, v, weights, index = make_inputs(7, 5)
    torch.testing.assert_close(plain_scores(q, k, index), loop_scores(q, k, index), rtol=0, atol=1e-13)
    torch.testing.assert_close(plain_values(weights, v, index), loop_values(weights, v, index), rtol=0, atol=1e-13)


@pytest.mark.parametrize("layout", ["contiguous", "strided"])
@pytest.mark.parametrize("repeats", ["some", "all", "shared"])
@pytest.mark.parametrize("backend", ON_A_CPU)
def test_gradcheck(backend: str, repeats: str, layout: str) -> None:
    q, k, v, weights, index = make_inputs(3, 4, repeats)
    # One batch entry, two rows and heads, three channels: finite differences cost two calls per number.
    q, k, v, weights, index = q[:1, ..., :3], k[:1, ..., :3], v[:1, ..., :3], weights[:1], index[:1]
    prepare = strided if layout == "strided" else torch.Tensor.contiguous
    q, k, v, weights, index = (prepare(x) for x in (q, k, v, weights, index))
    for x in (q, k, v, weights):
        x.requires_grad_()
    module = BACKENDS[backend]
    assert torch.autograd.gradcheck(lambda q, k: module.gather_scores(q, k, index), (q, k))
    assert torch.autograd.gradcheck(lambda w, v: module.gather_values(w, v, index), (weights, v))


def keys_of(width: int) -> Tensor:
    return torch.empty(1, 1, 1, 1, 1).expand(1, 1, width, 1, 4)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("key_width", [1, MATMUL_MAX_WIDTH + 1])
def test_a_named_backend_is_taken_at_any_width(name: str, key_width: int) -> None:
    assert kernels.select(name, keys_of(key_width)) is BACKENDS[name]


@pytest.mark.parametrize(
    ("key_width", "expected"),
    [(1, matmul), (MATMUL_MAX_WIDTH, matmul), (MATMUL_MAX_WIDTH + 1, reference), (100 * MATMUL_MAX_WIDTH, reference)],
)
def test_without_cpp_auto_picks_by_width(monkeypatch: pytest.MonkeyPatch, key_width: int, expected: object) -> None:
    monkeypatch.setattr(kernels.cpp, "available", lambda: "there is no compiler")
    assert kernels.select("auto", keys_of(key_width)) is expected
    assert kernels.fused("auto", keys_of(key_width)) is None


@pytest.mark.parametrize("key_width", [1, 100 * MATMUL_MAX_WIDTH])
def test_auto_takes_cpp_where_it_can(monkeypatch: pytest.MonkeyPatch, key_width: int) -> None:
    monkeypatch.setattr(kernels.cpp, "available", lambda: "")
    assert kernels.select("auto", keys_of(key_width)) is kernels.cpp
    assert kernels.fused("auto", keys_of(key_width)) is kernels.cpp
    for elsewhere in (keys_of(key_width).half(), keys_of(key_width).to("meta")):
        assert kernels.select("auto", elsewhere) is not kernels.cpp


def test_auto_says_once_what_it_chose_and_why(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(kernels.cpp, "available", lambda: "there is no compiler")
    kernels._announce_once.cache_clear()  # another test may have made it speak already
    with caplog.at_level(logging.INFO, logger="stereo.kernels"):
        for key_width in (7, 8, 7):
            kernels.select("auto", keys_of(key_width))
    assert [record.getMessage() for record in caplog.records] == [
        f"kernel backend: matmul (auto: rows of <= {MATMUL_MAX_WIDTH} keys, and there is no compiler)"
    ]


ALLOWED = ", ".join(sorted(["auto", *BACKENDS]))


def test_an_unknown_backend_names_the_near_matches() -> None:
    with pytest.raises(InputError, match=rf"'matmull': expected one of {ALLOWED}; did you mean matmul\?$"):
        kernels.select("matmull", keys_of(7))


def test_an_unknown_backend_unlike_any_lists_what_is_allowed() -> None:
    with pytest.raises(InputError, match=rf"'zzz': expected one of {ALLOWED}$"):
        kernels.select("zzz", keys_of(7))
