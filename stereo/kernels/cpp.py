"""The kernels in C++ for the CPU, each with its own backward, as torch custom operators (torch.ops.stereo_cpu).

Plain PyTorch must write out every gathered key (M times the size of k) and its backward is a serial scatter; these do neither.
Signatures: stereo/kernels/reference.py. Sources: stereo/kernels/cpu. Compiled on first use: stereo/kernels/build.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from stereo.kernels import build, shapes
from stereo.types import InputError

DTYPES = (torch.float32, torch.bfloat16, torch.float64)


@torch.compiler.assume_constant_result  # a compiled network asks while it is traced, not when it runs
def available() -> str:
    """Empty when the backend works here, else why not and what to do, in one line. The first call builds it if need be."""
    return _load()


def gather_scores(q: Tensor, k: Tensor, index: Tensor) -> Tensor:
    q, k = _prepare(q, k)
    return torch.ops.stereo_cpu.scores(q, k, index)


def gather_values(weights: Tensor, v: Tensor, index: Tensor) -> Tensor:
    weights, v = _prepare(weights, v)
    return torch.ops.stereo_cpu.values(weights, v, index)


def pool(x: Tensor, with_max: bool) -> Tensor:
    (x,) = _prepare(x)
    return torch.ops.stereo_cpu.pool(x, with_max)


def quadtree_level(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    parent: Tensor | None,
    coarse: Tensor | None,
    share: Tensor,
    side: Tensor | None,
    topk: int,
    turns: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    q, k, v, *rest = _prepare(q, k, v, *([] if coarse is None else [coarse]))
    coarse = rest[0] if rest else None
    wide = torch.promote_types(q.dtype, torch.float32)
    turn_q, turn_k = (None, None) if turns is None else (x.to(wide) for x in turns)
    return torch.ops.stereo_cpu.level(q, k, v, parent, coarse, share, side, topk, turn_q, turn_k)


def channel_norm(
    x: Tensor, scale: Tensor, shift: Tensor, residual: Tensor | None = None, relu: bool = False, eps: float = 1e-5
) -> Tensor:
    """In the dtype of x, whatever autocast says, as PyTorch's layer_norm; sums, scale and shift in float32 at least."""
    _check_device(x)
    wide = torch.promote_types(x.dtype, torch.float32)
    residual = None if residual is None else residual.to(x.dtype)
    return torch.ops.stereo_cpu.norm(x, scale.to(wide), shift.to(wide), residual, relu, eps)[0]


def propagation_step(
    disp: Tensor, confidence: Tensor, logits: Tensor, q: Tensor, k: Tensor, dilation: int
) -> tuple[Tensor, Tensor]:
    """In the dtype of disp, float32 at least."""
    _check_device(disp, logits)
    wide = torch.promote_types(disp.dtype, torch.float32)
    return torch.ops.stereo_cpu.propagation(*(x.to(wide) for x in (disp, confidence, logits, q, k)), dilation)


def _prepare(*tensors: Tensor) -> tuple[Tensor, ...]:
    """All in the dtype a matmul would take: autocast's when that is on (it leaves float64 alone), else the widest one."""
    _check_device(*tensors)
    common = functools.reduce(torch.promote_types, (x.dtype for x in tensors))
    if common != torch.float64 and torch.is_autocast_enabled("cpu"):
        wanted = torch.get_autocast_dtype("cpu")
        common = wanted if wanted in DTYPES else torch.float32  # float16, as training may have it
    return tuple(x.to(common) for x in tensors)


def _check_device(*tensors: Tensor) -> None:
    reason = available()
    if reason:
        raise InputError(f"kernel=cpp is not available: {reason}")
    if any(x.device.type != "cpu" for x in tensors):
        devices = sorted({str(x.device) for x in tensors})
        raise InputError(f"kernel=cpp works on CPU tensors, got {' and '.join(devices)}; use kernel=auto")


@functools.cache
def _load() -> str:
    """Build, load, and tell PyTorch shapes and gradients of the operators. Returns the reason when that fails."""
    reason = build.load()
    if not reason:
        _register()
    return reason


def _register() -> None:
    """Shapes of the results for tracing (torch.compile, export), and gradients."""
    fakes: dict[str, Callable] = {"scores": shapes.scores, "values": shapes.values, "pool": shapes.pooled}
    fakes |= {"sum_of_children": shapes.pooled, "level": shapes.level, "level_backward": shapes.level_gradients}
    fakes |= {"norm": shapes.norm, "norm_backward": shapes.norm_gradients}
    fakes |= {"propagation": shapes.propagation, "propagation_backward": shapes.propagation_gradients}
    for name, fake in fakes.items():
        torch.library.register_fake(f"stereo_cpu::{name}", fake)
    for name, backward, save in (
        ("scores", _scores_backward, _save_all),
        ("values", _values_backward, _save_all),
        ("pool", _pool_backward, _save_pool),
        ("level", _level_backward, _save_level),
        ("norm", _norm_backward, _save_norm),
        ("propagation", _propagation_backward, _save_propagation),
    ):
        torch.library.register_autograd(f"stereo_cpu::{name}", backward, setup_context=save)
    for name in ("scores", "values"):  # two gradients like the two inputs, whichever are asked for
        torch.library.register_fake(f"stereo_cpu::{name}_backward", lambda grad, a, b, *_: (shapes.like(a), shapes.like(b)))
    torch.library.register_fake("stereo_cpu::pool_backward", lambda grad, x, with_max: shapes.like(x))


def _save_all(ctx: Any, inputs: tuple, output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _save_pool(ctx: Any, inputs: tuple, output: Any) -> None:
    x, ctx.with_max = inputs
    ctx.save_for_backward(x)


def _save_level(ctx: Any, inputs: tuple, output: Any) -> None:
    q, k, v, parent, _coarse, share, side, _topk, turn_q, turn_k = inputs
    ctx.set_materialize_grads(False)  # the chosen keys have no gradient: no zeros of their size
    ctx.save_for_backward(q, k, v, parent, share, side, turn_q, turn_k)


def _save_norm(ctx: Any, inputs: tuple, output: Any) -> None:
    x, scale, _shift, residual, ctx.relu, _eps = inputs
    y, statistics = output
    ctx.residual = residual is not None
    ctx.mark_non_differentiable(statistics)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, scale, y if ctx.relu else x, statistics)  # the result tells what the ReLU let through


def _save_propagation(ctx: Any, inputs: tuple, output: Any) -> None:
    *tensors, ctx.dilation = inputs
    ctx.save_for_backward(*tensors)


def _scores_backward(ctx: Any, grad: Tensor) -> tuple:
    need_q, need_k, _ = ctx.needs_input_grad
    return *torch.ops.stereo_cpu.scores_backward(grad, *ctx.saved_tensors, need_q, need_k), None


def _values_backward(ctx: Any, grad: Tensor) -> tuple:
    need_weights, need_v, _ = ctx.needs_input_grad
    return *torch.ops.stereo_cpu.values_backward(grad, *ctx.saved_tensors, need_weights, need_v), None


def _pool_backward(ctx: Any, grad: Tensor) -> tuple:
    return torch.ops.stereo_cpu.pool_backward(grad, *ctx.saved_tensors, ctx.with_max), None


def _level_backward(ctx: Any, grad: Tensor | None, _chosen: Any) -> tuple:
    if grad is None:
        return (None,) * 10
    grad_q, grad_k, grad_v, grad_share = torch.ops.stereo_cpu.level_backward(grad, *ctx.saved_tensors)
    coarse = torch.ops.stereo_cpu.sum_of_children(grad) if ctx.needs_input_grad[4] else None
    return grad_q, grad_k, grad_v, None, coarse, grad_share, None, None, None, None


def _norm_backward(ctx: Any, grad: Tensor | None, _statistics: Any) -> tuple:
    if grad is None:
        return (None,) * 6
    found = torch.ops.stereo_cpu.norm_backward(grad, *ctx.saved_tensors, ctx.residual, ctx.relu)
    return *found[:3], found[3] if ctx.residual else None, None, None


def _propagation_backward(ctx: Any, grad_disp: Tensor, grad_confidence: Tensor) -> tuple:
    found = torch.ops.stereo_cpu.propagation_backward(grad_disp, grad_confidence, *ctx.saved_tensors, ctx.dilation)
    return *found, None
