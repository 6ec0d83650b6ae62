"""The C++ backend: against plain PyTorch in float64, in low precision, in odd memory layouts, and when it cannot be built."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from stereo.kernels import build, cpp, reference
from stereo.types import InputError

WIDTHS = [1, 2, 7, 31, 32, 33, 100]
DEPTHS = [4, 8, 16, 24, 64]  # shorter than a vector, whole vectors, and one that ends inside a vector
EXTRA_DEPTHS = [1, 32, 33, 100, 128]  # the remaining specialisations and the loop without one
B, H, HEADS = 2, 3, 2
RESULTS = ("scores", "grad q", "grad k", "values", "grad weights", "grad v")


@pytest.fixture(autouse=True)
def _compiler(request):
    if request.node.originalname != "test_missing_compiler_is_one_clear_line" and cpp.available():
        pytest.skip(cpp.available())


def make_inputs(width: int, key_width: int, d: int, entries: int = 5, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """q, k, v, weights, index and a gradient for each of the two results."""
    g = torch.Generator().manual_seed(10000 * width + 100 * key_width + d)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    q, k, v = (normal(B, H, columns, HEADS, d) for columns in (width, key_width, key_width))
    weights = normal(B, H, width, HEADS, entries).double().softmax(dim=-1).to(dtype)
    index = torch.randint(0, key_width, (B, H, width, HEADS, entries), generator=g)
    return [q, k, v, weights, index, normal(B, H, width, HEADS, entries), normal(B, H, width, HEADS, d)]


def results(backend, q, k, v, weights, index, grad_scores, grad_values) -> list[Tensor]:
    """Both products and the gradients of all four inputs, in the order of RESULTS."""
    q, k, v, weights = (x.detach().requires_grad_() for x in (q, k, v, weights))
    scores, values = backend.gather_scores(q, k, index), backend.gather_values(weights, v, index)
    grads = torch.autograd.grad(scores, (q, k), grad_scores) + torch.autograd.grad(values, (weights, v), grad_values)
    return [scores.detach(), *grads[:2], values.detach(), *grads[2:]]


def assert_same(inputs: list[Tensor], law: list[Tensor] | None = None) -> None:
    for name, ours, theirs in zip(RESULTS, results(cpp, *inputs), law or results(reference, *inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("d", DEPTHS)
@pytest.mark.parametrize("width", WIDTHS)
def test_equals_reference_in_float64(width, d):
    assert_same(make_inputs(width, width, d))


@pytest.mark.parametrize("d", EXTRA_DEPTHS)
@pytest.mark.parametrize(("width", "key_width"), [(5, 33), (33, 5)])
def test_other_depths_and_unequal_widths(width, key_width, d):
    assert_same(make_inputs(width, key_width, d))


@pytest.mark.parametrize("entries", [1, 7, 8, 16, 17, 40])
def test_any_list_length(entries):
    assert_same(make_inputs(9, 11, 16, entries))


def other_axis_order(x: Tensor) -> Tensor:
    """Unit steps along the last axis only; the layout a (B, heads, W, H, d) tensor has after a permute."""
    return x.permute(0, 3, 2, 1, 4).contiguous().permute(0, 3, 2, 1, 4)


def gaps_everywhere(x: Tensor) -> Tensor:
    """No unit step on any axis, and the last axis outermost in memory."""
    room = x.new_zeros(*reversed(x.shape), 2)
    room[..., 0] = x.permute(*reversed(range(x.dim())))
    return room[..., 0].permute(*reversed(range(x.dim())))


@pytest.mark.parametrize("layout", [other_axis_order, gaps_everywhere])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_any_strides(layout, dtype):
    plain = make_inputs(13, 21, 24, dtype=dtype)
    strided = [layout(x) for x in plain]
    assert not any(x.is_contiguous() for x in strided)
    for ours, theirs in zip(results(cpp, *strided), results(cpp, *plain), strict=True):
        assert torch.equal(ours, theirs)


def test_batch_broadcast_without_a_copy():
    q, k, v, weights, index, grad_scores, grad_values = make_inputs(6, 9, 16)
    expanded = [x[:1].expand_as(x) for x in (q, k, v, weights, index)]
    assert_same([*expanded, grad_scores[:1, :, :1].expand_as(grad_scores), torch.ones(()).double().expand_as(grad_values)])


@pytest.mark.parametrize("key_width", [1, 20, 33])
def test_all_columns_as_an_expanded_index(key_width):
    """The coarsest level: one list for all queries, seen through strides of zero."""
    inputs = make_inputs(12, key_width, 16, entries=key_width)
    inputs[4] = torch.arange(key_width).expand(B, H, 12, HEADS, -1)
    assert_same(inputs)


@pytest.mark.parametrize("kind", ["one key per list", "one key for all"])
def test_repeated_entries_add_up(kind):
    inputs = make_inputs(33, 33, 16, entries=8)
    index = inputs[4]
    inputs[4] = index[..., :1].expand_as(index) if kind == "one key per list" else torch.full_like(index, 32)
    assert_same(inputs)


@pytest.mark.parametrize("d", [8, 16, 24, 64])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_low_precision_error(d, dtype):
    """At most twice the error of plain PyTorch in the same dtype, plus what is left where chance makes that error zero."""
    inputs = make_inputs(50, 33, d, entries=16, dtype=dtype)
    truth = results(reference, *(x if x.dtype == torch.int64 else x.double() for x in inputs))
    for name, ours, theirs, true in zip(RESULTS, results(cpp, *inputs), results(reference, *inputs), truth, strict=True):
        assert ours.dtype == dtype
        error, allowed = ((x.double() - true).abs().max().item() for x in (ours, theirs))
        assert error <= 2 * allowed + 8 * torch.finfo(torch.float32).eps * true.abs().max().item(), name


def test_bfloat16_rounds_like_torch():
    """One term per sum and a weight of one: the result is the value itself, through every special case of the conversion."""
    values = torch.tensor([0.0, -0.0, 1.0, -3.14159, 3.4e38, -1e-40, float("inf"), float("-inf"), float("nan")])
    v = values.to(torch.bfloat16).repeat(2)[None, None, None, None, :]
    index = torch.zeros(1, 1, 1, 1, 1, dtype=torch.int64)
    out = cpp.gather_values(torch.ones(1, 1, 1, 1, 1, dtype=torch.bfloat16), v, index)
    assert torch.equal(out.nan_to_num(7.0), v.nan_to_num(7.0))
    big = torch.randn(1, 1, 1, 1, 4096)
    scale = torch.full((1, 1, 1, 1, 1), 1.2265625, dtype=torch.bfloat16)
    v = big.to(torch.bfloat16)
    assert torch.equal(cpp.gather_values(scale, v, index), (v.float() * scale.float()).to(torch.bfloat16))


def test_only_the_gradients_asked_for():
    q, k, v, weights, index, grad_scores, grad_values = make_inputs(7, 7, 16)
    law = results(reference, q, k, v, weights, index, grad_scores, grad_values)
    for which, name in ((0, "grad q"), (1, "grad k")):
        a, b = (x.clone().requires_grad_(i == which) for i, x in enumerate((q, k)))
        (grad,) = torch.autograd.grad(cpp.gather_scores(a, b, index), (a, b)[which], grad_scores)
        torch.testing.assert_close(grad, law[RESULTS.index(name)])
    for which, name in ((0, "grad weights"), (1, "grad v")):
        a, b = (x.clone().requires_grad_(i == which) for i, x in enumerate((weights, v)))
        (grad,) = torch.autograd.grad(cpp.gather_values(a, b, index), (a, b)[which], grad_values)
        torch.testing.assert_close(grad, law[RESULTS.index(name)])


def test_gradcheck():
    q, k, v, weights, index, _, _ = make_inputs(3, 4, 3, entries=2)
    for x in (q, k, v, weights):
        x.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: cpp.gather_scores(a, b, index), (q, k))
    assert torch.autograd.gradcheck(lambda a, b: cpp.gather_values(a, b, index), (weights, v))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("first", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("second", [torch.float32, torch.bfloat16])
def test_mixed_dtypes(autocast, first, second):
    """bfloat16 under autocast as in torch.matmul, else the wider of the two; gradients come back in the inputs' own dtypes."""
    q, k, v, weights, index, _, _ = make_inputs(7, 7, 16)
    q, weights = (x.to(first).requires_grad_() for x in (q, weights))
    k, v = (x.to(second).requires_grad_() for x in (k, v))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        scores, values = cpp.gather_scores(q, k, index), cpp.gather_values(weights, v, index)
    expected = torch.bfloat16 if autocast else torch.promote_types(first, second)
    assert scores.dtype == values.dtype == expected
    grads = torch.autograd.grad(scores.float().sum() + values.float().sum(), (q, k, weights, v))
    assert [x.dtype for x in grads] == [first, second, first, second]


def test_float64_survives_autocast():
    q, k, _, _, index, _, _ = make_inputs(7, 7, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert cpp.gather_scores(q, k, index).dtype == torch.float64


def test_threads_do_not_change_the_result():
    inputs = make_inputs(100, 100, 16, entries=16, dtype=torch.float32)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(results(cpp, *inputs))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("wrong", [-1, 7, 2**40])
def test_index_out_of_range(wrong):
    q, k, v, weights, index, _, _ = make_inputs(9, 7, 16)
    index[1, 2, 8, 1, 4] = wrong
    with pytest.raises(RuntimeError, match="index out of range: allowed are 0 to 6"):
        cpp.gather_scores(q, k, index)
    with pytest.raises(RuntimeError, match="index out of range: allowed are 0 to 6"):
        cpp.gather_values(weights, v, index)


def test_wrong_shapes_and_types():
    q, k, v, weights, index, _, _ = make_inputs(9, 7, 16)
    with pytest.raises(RuntimeError, match="q or gradient has shape"):
        cpp.gather_scores(q[:, :, 1:], k, index)
    with pytest.raises(RuntimeError, match="weights or gradient has shape"):
        cpp.gather_values(weights[..., 1:], v, index)
    with pytest.raises(RuntimeError, match="expected int64"):
        cpp.gather_scores(q, k, index.int())
    with pytest.raises(RuntimeError, match="expected float32, bfloat16 or float64"):
        cpp.gather_scores(q.half(), k.half(), index)


def test_other_devices_are_refused():
    q, k, _, _, index, _, _ = make_inputs(2, 2, 4)
    with pytest.raises(InputError, match="CPU tensors, got meta"):
        cpp.gather_scores(q.to("meta"), k.to("meta"), index.to("meta"))


@pytest.mark.parametrize(
    ("setting", "value", "reason"),
    [
        ("CXX", "no-such-compiler", "'no-such-compiler' not found; install g\\+\\+ or use kernel=reference"),
        ("PATH", "", "not found; install g\\+\\+ or use kernel=reference"),
    ],
)
def test_missing_compiler_is_one_clear_line(monkeypatch, tmp_path, setting, value, reason):
    monkeypatch.setenv("STEREO_CACHE", str(tmp_path))
    monkeypatch.setenv(setting, value)
    monkeypatch.setattr(cpp, "_load", build.load.__wrapped__)  # the answer of this process is already cached
    q, k, _, _, index, _, _ = make_inputs(2, 2, 4)
    with pytest.raises(InputError, match=reason) as caught:
        cpp.gather_scores(q, k, index)
    assert "\n" not in str(caught.value)
    assert "\n" not in cpp.available()


def test_failed_build_is_one_clear_line(monkeypatch, tmp_path):
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "broken.cpp").write_text("int broken( {\n")
    monkeypatch.setenv("STEREO_CACHE", str(tmp_path))
    monkeypatch.setattr(build, "FOLDER", sources)
    reason = build.load.__wrapped__()
    assert reason.startswith("building the C++ kernels failed (")
    assert "broken.cpp" in reason
    assert "error:" in reason
    assert "kernel=reference" in reason
    assert "\n" not in reason
    assert not list(tmp_path.glob("*.so"))
    assert not list(tmp_path.glob("build_*"))


def test_import_is_light_and_a_second_process_does_not_build():
    """The build machinery (setuptools and all) is imported by the run that builds, and by no other."""
    code = (
        "import sys; from stereo.kernels import cpp; import torch; assert cpp.available() == '';"
        "print('torch.utils.cpp_extension' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ), check=False)
    assert done.stdout.strip() == "False", done.stderr
