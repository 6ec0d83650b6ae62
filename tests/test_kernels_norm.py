"""Layer normalisation, residual and ReLU in one pass: against plain PyTorch in float64, in low precision, in odd layouts."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from stereo import build_model, kernels
from stereo.kernels import cpp, reference
from stereo.types import InputError

CHANNELS = [2, 7, 16, 31, 32, 33, 48, 100]
FLAGS = list(product((False, True), (False, True)))  # residual, relu
NAMES = ("result", "grad x", "grad scale", "grad shift", "grad residual")


@pytest.fixture(autouse=True)
def _compiler():
    if cpp.available():
        pytest.skip(cpp.available())


def make_inputs(channels: int, dtype: torch.dtype, rows: int = 35) -> tuple[list[Tensor], Tensor]:
    """x, scale, shift, residual, and a gradient of the result. Means and deviations far from 0 and 1."""
    g = torch.Generator().manual_seed(channels)
    wide = torch.promote_types(dtype, torch.float32)
    x, residual, grad = (torch.randn(rows, channels, generator=g, dtype=torch.float64) for _ in range(3))
    scale, shift = (torch.randn(channels, generator=g, dtype=torch.float64).to(wide) for _ in range(2))
    return [(3 + 2 * x).to(dtype), scale, shift, residual.to(dtype)], grad.to(dtype)


def run(norm, inputs: list[Tensor], grad: Tensor, with_residual: bool, relu: bool) -> list[Tensor]:
    x, scale, shift, residual = (x.detach().requires_grad_() for x in inputs)
    given = [x, scale, shift, *([residual] if with_residual else [])]
    y = norm(*given, relu=relu)
    return [y.detach(), *torch.autograd.grad(y, given, grad.to(y.dtype))]


@pytest.mark.parametrize("flags", FLAGS, ids=str)
@pytest.mark.parametrize("channels", CHANNELS)
def test_equals_the_law_in_float64(channels, flags):
    inputs, grad = make_inputs(channels, torch.float64)
    ours, theirs = (run(norm, inputs, grad, *flags) for norm in (cpp.channel_norm, reference.channel_norm))
    for name, a, b in zip(NAMES, ours, theirs, strict=False):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("flags", FLAGS, ids=str)
@pytest.mark.parametrize("channels", CHANNELS)
def test_error_in_low_precision(channels, flags, dtype):
    """At most twice that of plain PyTorch in the same type, against float64 on the same rounded numbers."""
    inputs, grad = make_inputs(channels, dtype)
    exact = run(reference.channel_norm, [x.double() for x in inputs], grad.double(), *flags)
    ours, theirs = (run(norm, inputs, grad, *flags) for norm in (cpp.channel_norm, reference.channel_norm))
    for name, a, b, true in zip(NAMES, ours, theirs, exact, strict=False):
        error, allowed = ((x.double() - true).abs().max().item() for x in (a, b))
        assert error <= 2 * allowed + 1e-6 * true.abs().max().item(), name


def test_many_rows_and_any_number_of_threads_sum_alike():
    """More rows than a task takes: the sums over rows are the same bits however they are shared out."""
    inputs, grad = make_inputs(16, torch.float32, rows=9000)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(run(cpp.channel_norm, inputs, grad, True, True))
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)
    law = run(reference.channel_norm, [x.double() for x in inputs], grad.double(), True, True)
    torch.testing.assert_close(found[0][2].double(), law[2], rtol=1e-5, atol=1e-3)


def test_any_strides_and_no_rows():
    inputs, grad = make_inputs(24, torch.float64, rows=30)
    x, scale, shift, residual = inputs
    law = run(reference.channel_norm, inputs, grad, True, True)
    odd = [x.T.contiguous().T, scale.repeat_interleave(2)[::2], shift, residual.T.contiguous().T]
    assert not odd[0].is_contiguous()
    for a, b in zip(run(cpp.channel_norm, odd, grad.T.contiguous().T, True, True), law, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert cpp.channel_norm(x[:0], scale, shift).shape == (0, 24)


def test_what_is_not_a_number_stays_so():
    """Training has to see it: a ReLU must not make 0 of it."""
    inputs, grad = make_inputs(16, torch.float32, rows=3)
    inputs[0][1, 5] = torch.nan
    ours, theirs = (run(norm, inputs, grad, True, True) for norm in (cpp.channel_norm, reference.channel_norm))
    assert ours[0][1].isnan().all()
    for name, a, b in zip(NAMES, ours, theirs, strict=True):
        assert torch.equal(a.isnan(), b.isnan()), name


@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_it_is_a_proper_custom_operator(flags):
    inputs, _ = make_inputs(8, torch.float32, rows=5)
    with_residual, relu = flags
    x, scale, shift, residual = (x.requires_grad_() for x in inputs)
    torch.library.opcheck(torch.ops.stereo_cpu.norm, (x, scale, shift, residual if with_residual else None, relu, 1e-5))


def test_networks_take_it_where_it_is():
    assert kernels.channel_norm("auto", torch.zeros(1, 8)) is cpp.channel_norm
    assert kernels.channel_norm("matmul", torch.zeros(1, 8)) is reference.channel_norm
    assert kernels.channel_norm("auto", torch.zeros(1, 8, dtype=torch.float16)) is reference.channel_norm
    assert kernels.channel_norm("auto", torch.zeros(1, 8, device="meta")) is reference.channel_norm
    with pytest.raises(InputError, match="works on CPU tensors, got meta"):
        cpp.channel_norm(torch.zeros(1, 8, device="meta"), *torch.zeros(2, 8))
    torch.manual_seed(0)
    fused, plain = (build_model("tiny", kernel).eval() for kernel in ("cpp", "reference"))
    plain.load_state_dict(fused.state_dict())
    with torch.no_grad():
        images = torch.rand(2, 3, 32, 64)
        a, b = (model.transformer(model.backbone(images)[0])[0] for model in (fused, plain))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
