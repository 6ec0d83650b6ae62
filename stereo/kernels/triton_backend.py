"""The kernels in Triton for CUDA devices, with their own backward, as torch custom operators (torch.ops.stereo_triton).

Signatures: stereo/kernels/reference.py. Kernels: stereo/kernels/triton_kernels.py; Triton compiles them on first use. float32,
bfloat16 and float16, summed in float32. The gradients of keys and values are added up by many programs at once, in the order in
which they come: two runs differ in the last bits. Under TRITON_INTERPRET=1, set before Triton is imported, Triton's interpreter
runs them on CPU tensors, slowly.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

import torch
from torch import Tensor

from stereo.kernels import shapes
from stereo.types import InputError

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TILE = 2048  # numbers of a tile (queries, candidates, channels); with 4096 the backward runs out of registers on sm_80
CELLS = 1024  # numbers that a program pools


def available() -> str:
    """Empty when the kernels run here, else why not and what to do, in one line. The first call tries one."""
    return _load()[1] or _try()


def gather_scores(q: Tensor, k: Tensor, index: Tensor) -> Tensor:
    """An index beyond the keys gives 0: to refuse it the host would have to wait for the device."""
    q, k = _prepare(q, k)
    _check(index, (*q.shape[:4], index.shape[-1]), torch.int64, "index")
    _check(k, (*q.shape[:2], k.shape[2], *q.shape[3:]), q.dtype, "k")
    return torch.ops.stereo_triton.scores(q, k, index)


def gather_values(weights: Tensor, v: Tensor, index: Tensor) -> Tensor:
    """An index beyond the values adds nothing, see ``gather_scores``."""
    weights, v = _prepare(weights, v)
    _check(index, tuple(weights.shape), torch.int64, "index")
    _check(v, (*weights.shape[:2], v.shape[2], weights.shape[3], v.shape[-1]), v.dtype, "v")
    return torch.ops.stereo_triton.values(weights, v, index)


def pool(x: Tensor, with_max: bool) -> Tensor:
    (x,) = _prepare(x)
    return torch.ops.stereo_triton.pool(x, with_max)


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
    B, H, W, heads, d = q.shape
    nodes = (B, (H + 1) // 2, (W + 1) // 2, heads)
    _check(k, (B, H, k.shape[2], heads, d), q.dtype, "k")
    _check(v, tuple(k.shape), q.dtype, "v")
    _check(parent, (*nodes, 0 if parent is None else parent.shape[-1]), torch.int32, "parent")
    _check(coarse, (*nodes, d), q.dtype, "coarse")
    _check(side, (B,), torch.int64, "side")
    turn_q, turn_k = (None, None) if turns is None else (x.float() for x in turns)
    for x, by, name in ((q, turn_q, "queries"), (k, turn_k, "keys")):
        pairs = 0 if by is None else min(by.shape[-1], d // 2)
        _check(by, (2, x.shape[2], pairs), torch.float32, f"turn of {name}")
    return torch.ops.stereo_triton.level(q, k, v, parent, coarse, share.to(q.device), side, topk, turn_q, turn_k)


def _prepare(*tensors: Tensor) -> tuple[Tensor, ...]:
    """All in the dtype a matmul would take: autocast's when that is on, else the widest one. On a device where kernels run."""
    if available():
        raise InputError(f"kernel=triton is not available: {available()}")
    devices = sorted({str(x.device) for x in tensors})
    if len(devices) > 1 or tensors[0].device.type != ("cpu" if _interpreted() else "cuda"):
        raise InputError(f"kernel=triton works on tensors of one CUDA device, got {' and '.join(devices)}; use kernel=auto")
    common = functools.reduce(torch.promote_types, (x.dtype for x in tensors))
    if common not in DTYPES:
        names = ", ".join(str(x).removeprefix("torch.") for x in DTYPES)
        raise InputError(f"kernel=triton knows {names}, not {common}; use kernel=reference")
    if torch.is_autocast_enabled(tensors[0].device.type):
        common = torch.get_autocast_dtype(tensors[0].device.type)
    return tuple(x.to(common) for x in tensors)


def _check(x: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype, name: str) -> None:
    if x is not None and (tuple(x.shape) != shape or x.dtype != dtype):
        raise ValueError(f"{name} has shape {tuple(x.shape)} in {x.dtype}, expected {shape} in {dtype}")


@functools.cache
def _load() -> tuple[Any, str]:
    """The module of kernels, and the operators registered; or None and the reason."""
    try:
        kernels = importlib.import_module("stereo.kernels.triton_kernels")
    except Exception as error:  # Triton looks for compilers and drivers when it is imported: the caller needs one line
        return None, f"Triton cannot be imported ({_one_line(error)}); install triton or use kernel=reference"
    _register()
    return kernels, ""


@functools.cache
def _try() -> str:
    """Pool one cell: a launch needs a driver, a device that Triton knows, and on some systems a C compiler."""
    if _interpreted():
        return ""
    if not torch.cuda.is_available():
        return "there is no CUDA device; use kernel=auto"
    try:
        _run_pool(torch.zeros(1, 1, 1, 1, 1, device="cuda"), False)
    except Exception as error:  # whatever a compiler or a driver can think of
        return f"Triton cannot run a kernel here ({_one_line(error)}); use kernel=reference"
    return ""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _kernels() -> Any:
    return _load()[0]


def _interpreted() -> bool:
    return not isinstance(_kernels().level_forward, _kernels().triton.JITFunction)


def _launch(kernel: Any, programs: int, like: Tensor, *arguments: Any, **meta: Any) -> None:
    if programs:
        with torch.cuda.device_of(like):  # Triton launches on the current device, whatever its arguments; CPU: none is meant
            kernel[(programs,)](*arguments, **meta)


def _power_of_two(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


def _blocks(entries: int, d: int, listed: bool = True) -> dict[str, int]:
    """Sides of a program's tile. Matrix products want 16 of everything at least."""
    if not listed:
        return {"BLOCK_Q": 32, "BLOCK_M": 32, "BLOCK_D": max(16, _power_of_two(d))}
    channels, places = _power_of_two(d), min(_power_of_two(entries), 32)
    return {"BLOCK_Q": min(max(TILE // (places * channels), 1), 64), "BLOCK_M": places, "BLOCK_D": channels}


def _grid(x: Tensor, block: int) -> tuple[int, int]:
    """Blocks of queries per row, and programs, for x (B, H, W, heads, ...)."""
    B, H, W, heads = x.shape[:4]
    blocks = -(-W // block)
    return blocks, B * H * heads * blocks


def _dense_last(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _run_scores(q: Tensor, k: Tensor, index: Tensor) -> Tensor:
    q, k, index = _dense_last(q), _dense_last(k), index.contiguous()
    out = q.new_empty(index.shape)
    (_, H, W, heads, M), d = index.shape, q.shape[-1]
    tile = _blocks(M, d)
    blocks, programs = _grid(q, tile["BLOCK_Q"])
    sizes = (H, W, k.shape[2], heads, d, M, blocks)
    _launch(_kernels().gather_scores, programs, q, q, k, index, out, *sizes, *q.stride()[:4], *k.stride()[:4], **tile)
    return out


def _run_values(weights: Tensor, v: Tensor, index: Tensor) -> Tensor:
    weights, v, index = weights.contiguous(), _dense_last(v), index.contiguous()
    (B, H, W, heads, M), d = index.shape, v.shape[-1]
    out = v.new_empty((B, H, W, heads, d))
    tile = _blocks(M, d)
    blocks, programs = _grid(out, tile["BLOCK_Q"])
    sizes = (H, W, v.shape[2], heads, d, M, blocks)
    _launch(_kernels().gather_values, programs, v, weights, v, index, out, *sizes, *v.stride()[:4], **tile)
    return out


def _run_scatter(weights: Tensor, x: Tensor, index: Tensor, columns: int) -> Tensor:
    """x (B, H, W, heads, d) times weights, added up by the columns that index names -> (B, H, columns, heads, d)."""
    weights, x, index = weights.contiguous(), _dense_last(x), index.contiguous()
    (B, H, W, heads, M), d = index.shape, x.shape[-1]
    out = x.new_zeros((B, H, columns, heads, d), dtype=torch.float32)
    tile = _blocks(M, d)
    blocks, programs = _grid(x, tile["BLOCK_Q"])
    sizes = (H, W, columns, heads, d, M, blocks)
    _launch(_kernels().scatter, programs, x, weights, x, index, out, *sizes, *x.stride()[:4], **tile)
    return out.to(x.dtype)


def _turned(x: Tensor, by: Tensor, dtype: torch.dtype, direction: int = 1) -> Tensor:
    """``reference.turned``, or back (direction -1)."""
    x, by = _dense_last(x), by.contiguous()
    _, H, W, heads, d = x.shape
    pairs = by.shape[-1]
    out = x.new_empty(x.shape, dtype=dtype)
    tile = {"BLOCK_Q": max(CELLS // _power_of_two(d), 1), "BLOCK_D": _power_of_two(d)}
    blocks, programs = _grid(x, tile["BLOCK_Q"])
    _launch(_kernels().turn, programs, x, x, by, out, H, W, heads, d, pairs, blocks, *x.stride()[:4], direction, **tile)
    return out


def _run_pool(x: Tensor, with_max: bool, total: bool = False) -> Tensor:
    x = x.contiguous()
    _, H, W, heads, d = x.shape
    out = shapes.pooled(x)
    flags = {"WITH_MAX": with_max, "SUM": total, "BLOCK": CELLS}
    _launch(_kernels().pool_forward, -(-out.numel() // CELLS), x, x, out, out.numel(), H, W, heads * d, **flags)
    return out


def _run_pool_backward(grad: Tensor, x: Tensor, with_max: bool) -> Tensor:
    grad, x = grad.contiguous(), x.contiguous()
    _, H, W, heads, d = x.shape
    out = x.new_empty(x.shape)
    flags = {"WITH_MAX": with_max, "BLOCK": CELLS}
    _launch(_kernels().pool_backward, -(-grad.numel() // CELLS), x, grad, x, out, grad.numel(), H, W, heads * d, **flags)
    return out


def _run_level(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    parent: Tensor | None,
    coarse: Tensor | None,
    share: Tensor,
    side: Tensor | None,
    topk: int,
    turn_q: Tensor | None,
    turn_k: Tensor | None,
) -> tuple[Tensor, Tensor]:
    message, chosen = shapes.level(q, k, v, parent, coarse, share, side, topk, turn_q, turn_k)
    q, k, v = *_prepared(q, k, turn_q, turn_k), _dense_last(v)
    kept = chosen.shape[-1]
    tile, flags, sizes, programs = _level_grid(q, k, parent, side)
    flags |= {"ADDED": coarse is not None, "BLOCK_K": _power_of_two(kept) if kept else 0}
    parent, coarse, side = (q if x is None else x.contiguous() for x in (parent, coarse, side))  # q: will not be read
    tensors = (q, k, v, parent, coarse, share, side, message, chosen)
    strides = (*q.stride()[:4], *k.stride()[:4], *v.stride()[:4])
    _launch(_kernels().level_forward, programs, q, *tensors, *sizes, kept, *strides, **flags, **tile)
    return message, chosen


def _run_level_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    parent: Tensor | None,
    share: Tensor,
    side: Tensor | None,
    turn_q: Tensor | None,
    turn_k: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and share. Those of q and k are turned back before they are rounded."""
    dtype, grad, v = q.dtype, _dense_last(grad), _dense_last(v)
    q, k = _prepared(q, k, turn_q, turn_k)
    grad_q = q.new_empty(q.shape)
    grad_k, grad_v = (x.new_zeros(x.shape, dtype=torch.float32) for x in (k, v))
    slope = q.new_empty(q.shape[:4], dtype=torch.float32)
    tile, flags, sizes, programs = _level_grid(q, k, parent, side)
    parent, side = (q if x is None else x.contiguous() for x in (parent, side))  # q: will not be read
    tensors = (grad, q, k, v, parent, share, side, grad_q, grad_k, grad_v, slope)
    strides = (*grad.stride()[:4], *q.stride()[:4], *k.stride()[:4], *v.stride()[:4])
    _launch(_kernels().level_backward, programs, q, *tensors, *sizes, *strides, **flags, **tile)
    if turn_q is not None and turn_k is not None:
        grad_q, grad_k = _turned(grad_q, turn_q, dtype, -1), _turned(grad_k, turn_k, dtype, -1)
    return grad_q.to(dtype), grad_k.to(dtype), grad_v.to(dtype), slope.sum(dtype=torch.float64).to(share.dtype)


def _prepared(q: Tensor, k: Tensor, turn_q: Tensor | None, turn_k: Tensor | None) -> tuple[Tensor, Tensor]:
    """Queries and keys as the kernels read them. Turned ones stay float32: rounded, they would err as much as plain PyTorch."""
    if turn_q is None or turn_k is None:
        return _dense_last(q), _dense_last(k)
    return _turned(q, turn_q, torch.float32), _turned(k, turn_k, torch.float32)


def _level_grid(q: Tensor, k: Tensor, parent: Tensor | None, side: Tensor | None) -> tuple[dict, dict, tuple[int, ...], int]:
    """Tile, flags, sizes and programs of either direction."""
    _, H, W, heads, d = q.shape
    count = k.shape[2]
    entries = 0 if parent is None else parent.shape[-1]
    places = count if parent is None else 2 * entries
    tile = _blocks(places, d, listed=parent is not None)
    blocks, programs = _grid(q, tile["BLOCK_Q"])
    flags = {"LISTED": parent is not None, "SIDED": side is not None}
    return tile, flags, (H, W, count, heads, d, blocks, entries, places), programs


def _fake_scatter(weights: Tensor, x: Tensor, index: Tensor, columns: int) -> Tensor:
    return x.new_empty((*x.shape[:2], columns, *x.shape[3:]))


def _register() -> None:
    """Schemas, shapes of the results for tracing (torch.compile, export), and gradients."""
    grid = "Tensor q, Tensor k, Tensor v, Tensor? parent"
    turns = "Tensor? turn_q, Tensor? turn_k"
    for name, schema, run, fake in (
        ("scores", "(Tensor q, Tensor k, Tensor index) -> Tensor", _run_scores, shapes.scores),
        ("values", "(Tensor weights, Tensor v, Tensor index) -> Tensor", _run_values, shapes.values),
        ("scatter", "(Tensor weights, Tensor x, Tensor index, SymInt columns) -> Tensor", _run_scatter, _fake_scatter),
        ("pool", "(Tensor x, bool with_max, bool total=False) -> Tensor", _run_pool, shapes.pooled),
        (
            "pool_backward", "(Tensor grad, Tensor x, bool with_max) -> Tensor",
            _run_pool_backward, lambda grad, x, with_max: shapes.like(x),
        ),
        (
            "level", f"({grid}, Tensor? coarse, Tensor share, Tensor? side, SymInt topk, {turns}) -> (Tensor, Tensor)",
            _run_level, shapes.level,
        ),
        (
            "level_backward", f"(Tensor grad, {grid}, Tensor share, Tensor? side, {turns}) -> (Tensor, Tensor, Tensor, Tensor)",
            _run_level_backward, shapes.level_gradients,
        ),
    ):  # fmt: skip
        operator = torch.library.custom_op(f"stereo_triton::{name}", run, mutates_args=(), schema=schema)
        operator.register_fake(fake)
    for name, backward, save in (
        ("scores", _scores_backward, _save),
        ("values", _values_backward, _save),
        ("pool", _pool_backward, _save_pool),
        ("level", _level_backward, _save_level),
    ):
        torch.library.register_autograd(f"stereo_triton::{name}", backward, setup_context=save)


def _save(ctx: Any, inputs: tuple, output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _save_pool(ctx: Any, inputs: tuple, output: Any) -> None:
    x, ctx.with_max, _ = inputs
    ctx.save_for_backward(x)


def _save_level(ctx: Any, inputs: tuple, output: Any) -> None:
    q, k, v, parent, _coarse, share, side, _topk, turn_q, turn_k = inputs
    ctx.set_materialize_grads(False)  # the chosen keys have no gradient: no zeros of their size
    ctx.save_for_backward(q, k, v, parent, share, side, turn_q, turn_k)


def _scores_backward(ctx: Any, grad: Tensor) -> tuple:
    ops, (q, k, index) = torch.ops.stereo_triton, ctx.saved_tensors
    need_q, need_k, _ = ctx.needs_input_grad
    return ops.values(grad, k, index) if need_q else None, ops.scatter(grad, q, index, k.shape[2]) if need_k else None, None


def _values_backward(ctx: Any, grad: Tensor) -> tuple:
    ops, (weights, v, index) = torch.ops.stereo_triton, ctx.saved_tensors
    need_weights, need_v, _ = ctx.needs_input_grad
    of_weights = ops.scores(grad, v, index) if need_weights else None
    return of_weights, ops.scatter(weights, grad, index, v.shape[2]) if need_v else None, None


def _pool_backward(ctx: Any, grad: Tensor) -> tuple:
    return torch.ops.stereo_triton.pool_backward(grad, *ctx.saved_tensors, ctx.with_max), None, None


def _level_backward(ctx: Any, grad: Tensor | None, _chosen: Any) -> tuple:
    if grad is None:
        return (None,) * 10
    grad_q, grad_k, grad_v, grad_share = torch.ops.stereo_triton.level_backward(grad, *ctx.saved_tensors)
    coarse = torch.ops.stereo_triton.pool(grad, False, True) if ctx.needs_input_grad[4] else None
    return grad_q, grad_k, grad_v, None, coarse, grad_share, None, None, None, None
