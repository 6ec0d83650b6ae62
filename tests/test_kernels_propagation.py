"""A step of propagation in one pass: against plain PyTorch in float64, in float32, at every edge, in odd layouts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stereo import kernels
from stereo.kernels import cpp, reference
from stereo.types import InputError

NAMES = ("disp", "confidence", "grad disp", "grad confidence", "grad logits", "grad q", "grad k")
# height, width, channels: narrower and lower than a dilation, one row, one column, more than a vector, odd
SIZES = [(1, 1, 1), (1, 33, 3), (7, 1, 2), (5, 7, 8), (9, 32, 4), (20, 100, 8), (33, 31, 1)]


@pytest.fixture(autouse=True)
def _compiler():
    if cpp.available():
        pytest.skip(cpp.available())


def make_inputs(
    height: int, width: int, channels: int, dtype: torch.dtype, spread: float = 2.0
) -> tuple[list[Tensor], list[Tensor]]:
    """disp, confidence, logits, q, k, and gradients of both results. Some confidences are 0 and 1."""
    g = torch.Generator().manual_seed(height * width + channels)
    disp = 40 * torch.rand(2, height, width, generator=g, dtype=torch.float64)
    confidence = (1.4 * torch.rand(2, height, width, generator=g, dtype=torch.float64) - 0.2).clamp(0, 1)
    logits, q, k = (
        spread * torch.randn(2, planes, height, width, generator=g, dtype=torch.float64) for planes in (9, channels, channels)
    )
    grads = torch.randn(2, 2, height, width, generator=g, dtype=torch.float64)
    return [x.to(dtype) for x in (disp, confidence, logits, q, k)], [x.to(dtype) for x in grads]


def run(step, inputs: list[Tensor], grads: list[Tensor], dilation: int) -> list[Tensor]:
    inputs = [x.detach().requires_grad_() for x in inputs]
    results = step(*inputs, dilation)
    return [*(x.detach() for x in results), *torch.autograd.grad(results, inputs, grads)]


@pytest.mark.parametrize("dilation", [1, 2, 16])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_the_law_in_float64(size, dilation):
    inputs, grads = make_inputs(*size, torch.float64)
    ours, theirs = (run(step, inputs, grads, dilation) for step in (cpp.propagation_step, reference.propagation_step))
    for name, a, b in zip(NAMES, ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("spread", [0.0, 2.0, 10.0, 30.0])
@pytest.mark.parametrize("size", [(60, 200, 8), (70, 150, 3)], ids=str)
def test_error_in_float32(size, spread):
    """At most twice that of plain PyTorch in float32, against float64 on the same rounded numbers.

    In the mean of squares over many positions: where a confidence is 0 and scores are in their thousands, a single rounding
    decides the largest error of either.
    """
    inputs, grads = make_inputs(*size, torch.float32, spread)
    exact = run(reference.propagation_step, [x.double() for x in inputs], [x.double() for x in grads], 2)
    ours, theirs = (run(step, inputs, grads, 2) for step in (cpp.propagation_step, reference.propagation_step))
    for name, a, b, true in zip(NAMES, ours, theirs, exact, strict=True):
        error, allowed = ((x.double() - true).square().mean().sqrt().item() for x in (a, b))
        assert error <= 2 * allowed, name


def test_any_number_of_threads_gives_the_same_bits():
    inputs, grads = make_inputs(64, 96, 8, torch.float32)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(run(cpp.propagation_step, inputs, grads, 4))
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_any_strides_and_no_rows():
    inputs, grads = make_inputs(6, 10, 4, torch.float64)
    law = run(reference.propagation_step, inputs, grads, 1)
    odd = [x.transpose(-1, -2).contiguous().transpose(-1, -2) for x in inputs]
    assert not any(x.is_contiguous() for x in odd)
    for a, b in zip(run(cpp.propagation_step, odd, grads, 1), law, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert [x.shape for x in cpp.propagation_step(*(x[:0] for x in inputs), 1)] == [(0, 6, 10)] * 2


@pytest.mark.parametrize("which", range(5), ids=("disp", "confidence", "logits", "q", "k"))
def test_what_is_not_a_number_stays_so(which: int):
    """Training has to see it."""
    inputs, grads = make_inputs(3, 40, 2, torch.float32)
    inputs[which][0, ..., 1, 20] = torch.nan
    ours, theirs = (run(step, inputs, grads, 1) for step in (cpp.propagation_step, reference.propagation_step))
    assert ours[0].isnan().any()
    for name, a, b in zip(NAMES, ours, theirs, strict=True):
        assert torch.equal(a.isnan(), b.isnan()), name


@pytest.mark.parametrize("result", [0, 1])
def test_a_gradient_of_one_result_alone(result: int):
    inputs, grads = make_inputs(6, 20, 4, torch.float64)
    found = []
    for step in (cpp.propagation_step, reference.propagation_step):
        given = [x.detach().requires_grad_() for x in inputs]
        found.append(torch.autograd.grad(step(*given, 2)[result], given, grads[0], allow_unused=True))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b, rtol=1e-10, atol=1e-10)


def test_it_is_a_proper_custom_operator():
    inputs, _ = make_inputs(4, 9, 2, torch.float32)
    torch.library.opcheck(torch.ops.stereo_cpu.propagation, (*(x.requires_grad_() for x in inputs), 2))


def test_networks_take_it_where_it_is():
    x = torch.zeros(1, 4, 4)
    assert kernels.propagation_step("auto", x) is cpp.propagation_step
    assert kernels.propagation_step("matmul", x) is reference.propagation_step
    assert kernels.propagation_step("auto", x.to("meta")) is reference.propagation_step
    with pytest.raises(InputError, match="works on CPU tensors, got meta"):
        cpp.propagation_step(*(torch.zeros(1, 4, 4, device="meta"),) * 2, *(torch.zeros(1, 9, 4, 4, device="meta"),) * 3, 1)
    with pytest.raises(RuntimeError, match="logits has shape"):
        cpp.propagation_step(x, x, torch.zeros(1, 8, 4, 4), *(torch.zeros(1, 2, 4, 4),) * 2, 1)
