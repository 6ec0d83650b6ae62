"""The one counter of arithmetic: what a forward pass multiplies and holds, traced on tensors that have a shape but no content.

Multiply-adds are those of matrix products, convolutions and einsums, 1 for each product that is summed up. Gathers count by
the products that follow them: ``stereo.kernels.reference`` is the law for what an operator computes, so that is counted,
whatever backend would run. Multiplications and divisions element by element (scaling, gates, weighted sums of a few
values) are a second figure, ``elementwise``. Not counted: additions alone, exp, softmax, normalisation, pooling,
interpolation, sorting, top-K, copies.
"""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

DEFINITION = "reference"  # the backend whose products are the definition


def _products(*_: Any, out_val: Tensor, **__: Any) -> int:
    return math.prod(out_val.shape) if out_val.is_floating_point() else 0  # arithmetic of indices is no arithmetic


_products._get_raw = True  # type: ignore[attr-defined]  # FlopCounterMode: hand over tensors, not shapes


def _by_vector(matrix: torch.Size, *_: Any, **__: Any) -> int:
    return 2 * math.prod(matrix)  # FLOP, as FlopCounterMode's own formulas; of a product of two vectors, too


# What FlopCounterMode has no formula for.
ELEMENTWISE = (torch.ops.aten.mul, torch.ops.aten.div)
FORMULAS = dict.fromkeys(ELEMENTWISE, _products) | dict.fromkeys((torch.ops.aten.mv, torch.ops.aten.dot), _by_vector)


@dataclass(frozen=True)
class Count:
    """Of one forward pass. Counts, not FLOP: a multiply-add is 1.

    macs:        multiply-adds of products and convolutions.
    elementwise: multiplications and divisions of floating numbers, element by element.
    live_bytes:  most bytes that its tensors hold at one time, inputs and parameters not included. What a backend's own work
                 space adds is not in it; the gathered copies of the reference kernels are.
    live_parts:  most bytes that are held, by anybody, while each of the module's own children runs.
    parts:       macs by the name of the module that they lie in, all depths ("transformer.self_layers.0.within.operator").
    """

    parameters: int
    macs: int
    elementwise: int
    live_bytes: int
    parts: dict[str, int] = field(default_factory=dict)
    live_parts: dict[str, int] = field(default_factory=dict)


def count_forward(module: nn.Module, *inputs: Tensor, kernel: str = DEFINITION, **options: Any) -> Count:
    """Count ``module(*inputs, **options)`` without running it; only the shapes and dtypes of the inputs matter.

    The module is left as it is. kernel: counted in place of the backend that its operators would take; anything but the
    default tells what a backend does, not what the operator is.
    """
    module = copy.deepcopy(module)
    for part in module.modules():
        if isinstance(getattr(part, "kernel", None), str):
            part.kernel = kernel  # type: ignore[assignment]
    memory = _LiveBytes()
    for name, child in module.named_children():
        memory.watch(name, child)
    counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        shapes = [fake.from_tensor(x) for x in inputs]
        with torch.no_grad(), memory, counter:
            module(*shapes, **options)
    own = type(module).__name__
    parts: dict[str, int] = {}
    for name, counts in counter.get_flop_counts().items():
        if name != "Global":
            parts[name.removeprefix(own).removeprefix(".")] = _macs(counts)
    total = counter.get_flop_counts().get("Global", {})
    return Count(
        parameters=sum(p.numel() for p in module.parameters()),
        macs=_macs(total),
        elementwise=sum(n for packet, n in total.items() if packet in ELEMENTWISE),
        live_bytes=memory.peak,
        parts={name: macs for name, macs in parts.items() if name},
        live_parts=memory.parts,
    )


def trace_bytes(run: Callable[..., Any], *shapes: Sequence[int], device: torch.device | str = "cpu") -> int:
    """``Count.live_bytes`` of ``run(*tensors)`` on float tensors of these shapes, with the kernels that it will take.

    Nothing but the bytes is counted, which takes a fraction of the time of ``count_forward``.
    """
    memory = _LiveBytes()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        inputs = [torch.empty(*shape, device=device) for shape in shapes]
        with memory:
            run(*inputs)
    return memory.peak


def _macs(counts: dict[Any, int]) -> int:
    """FlopCounterMode counts a multiply-add as two."""
    return sum(n for packet, n in counts.items() if packet not in ELEMENTWISE) // 2


class _LiveBytes(TorchDispatchMode):
    """Bytes in the storages that were made within, and their peak; a storage counts until nothing refers to it any more."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()
        self.parts: dict[str, int] = {}

    def watch(self, name: str, module: nn.Module) -> None:
        """Note the peak of every call of ``module`` under that name."""
        before = 0

        def begin(*_: Any) -> None:
            nonlocal before
            before, self.peak = self.peak, self.now

        def end(*_: Any) -> None:
            self.parts[name] = max(self.parts.get(name, 0), self.peak)
            self.peak = max(before, self.peak)

        module.register_forward_pre_hook(begin)
        module.register_forward_hook(end)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                if key not in given and key not in self.known:
                    self.known.add(key)
                    self.now += size
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._release, key, size)
        return out

    def _release(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size
