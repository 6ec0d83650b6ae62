"""Sparse gather arithmetic. One signature, several backends; `auto` chooses and says so once."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from stereo.config import near_matches
from stereo.kernels import cpp, matmul, reference, triton_backend
from stereo.types import InputError

BACKENDS: dict[str, ModuleType] = {"reference": reference, "matmul": matmul, "cpp": cpp, "triton": triton_backend}
ON_A_CPU = tuple(name for name in BACKENDS if name != "triton")
FUSED = (cpp, triton_backend)  # those that do a whole level in one pass

# Above this many key columns the dense product of `matmul` costs more than gathering a dozen keys per query.
MATMUL_MAX_WIDTH = 512


def _announce(choice: str, reason: str) -> None:
    if not torch.compiler.is_compiling():  # nothing that a compiled network should do
        _announce_once(choice, reason)


@functools.cache
def _announce_once(choice: str, reason: str) -> None:
    logging.getLogger(__name__).info("kernel backend: %s (%s)", choice, reason)


def select(name: str, keys: Tensor) -> ModuleType:
    """The backend module for keys (B, H, Wk, heads, d). Raises InputError for an unknown name.

    auto: the kernels for the device where they can be had, Triton's on CUDA and those in C++ on a CPU; else `matmul` on short
    rows and `reference` on long ones.
    """
    if name != "auto":
        if name not in BACKENDS:
            raise InputError(f"unknown kernel backend '{name}': {near_matches(name, ['auto', *BACKENDS])}")
        return BACKENDS[name]
    cuda = keys.device.type == "cuda"
    name, kernels = ("triton", triton_backend) if cuda else ("cpp", cpp)
    reason = _why_not(kernels, keys)
    if not reason:
        _announce(name, f"auto: on a {'CUDA device' if cuda else 'CPU'}")
        return kernels
    short = keys.shape[2] <= MATMUL_MAX_WIDTH
    rows = f"rows of {'<=' if short else '>'} {MATMUL_MAX_WIDTH} keys"
    _announce("matmul" if short else "reference", f"auto: {rows}, and {reason}")
    return matmul if short else reference


def _why_not(kernels: ModuleType, keys: Tensor) -> str:
    if keys.device.type not in ("cpu", "cuda"):
        return f"there are no kernels for {keys.device.type}"
    if keys.dtype not in kernels.DTYPES:
        known = ", ".join(str(x).removeprefix("torch.") for x in kernels.DTYPES)
        return f"the kernels for {keys.device.type} know {known}, not {keys.dtype}"
    return kernels.available()


def fused(name: str, keys: Tensor) -> ModuleType | None:
    """The backend that does a whole level of the tree in one pass, if the one that ``select`` gives does."""
    backend = select(name, keys)
    return backend if backend in FUSED else None


def channel_norm(name: str, x: Tensor) -> Callable[..., Tensor]:
    """What does ``reference.channel_norm`` for x: in one pass in C++ on a CPU if ``name`` allows it, else plain PyTorch."""
    return cpp.channel_norm if _cpp_takes(name, x) else reference.channel_norm


def propagation_step(name: str, disp: Tensor) -> Callable[..., tuple[Tensor, Tensor]]:
    """The same for ``reference.propagation_step``."""
    return cpp.propagation_step if _cpp_takes(name, disp) else reference.propagation_step


def _cpp_takes(name: str, x: Tensor) -> bool:
    return name in ("auto", "cpp") and x.device.type == "cpu" and x.dtype in cpp.DTYPES and not cpp.available()
