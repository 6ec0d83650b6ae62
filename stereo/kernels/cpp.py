"""The gather primitives in C++ for the CPU, with their own backward. Signatures: stereo/kernels/reference.py.

Plain PyTorch must write out every gathered key (M times the size of k) and its backward is a serial scatter; gather_cpu.cpp
does neither. It is compiled on first use, for this very CPU, and kept in a cache folder, so only the first run pays for it.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from stereo.types import InputError

SOURCE = Path(__file__).with_name("gather_cpu.cpp")
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi")
INSTALL = "install g++ or use kernel=reference"


def available() -> str:
    """Empty when the backend works here, else why not and what to do, in one line. The first call builds it if need be."""
    return _load()


def gather_scores(q: Tensor, k: Tensor, index: Tensor) -> Tensor:
    q, k = _prepare(q, k)
    return _Scores.apply(q, k, index)


def gather_values(weights: Tensor, v: Tensor, index: Tensor) -> Tensor:
    weights, v = _prepare(weights, v)
    return _Values.apply(weights, v, index)


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, index)
        return torch.ops.stereo_gather.scores(q, k, index)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        need_q, need_k, _ = ctx.needs_input_grad
        return *torch.ops.stereo_gather.scores_backward(grad, *ctx.saved_tensors, need_q, need_k), None


class _Values(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weights: Tensor, v: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(weights, v, index)
        return torch.ops.stereo_gather.values(weights, v, index)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        need_weights, need_v, _ = ctx.needs_input_grad
        return *torch.ops.stereo_gather.values_backward(grad, *ctx.saved_tensors, need_weights, need_v), None


def _prepare(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the dtype a matmul would take: autocast's when that is on (it leaves float64 alone), else the wider one."""
    reason = _load()
    if reason:
        raise InputError(f"kernel=cpp is not available: {reason}")
    if a.device.type != "cpu" or b.device.type != "cpu":
        raise InputError(f"kernel=cpp works on CPU tensors, got {a.device} and {b.device}; use kernel=auto")
    common = torch.promote_types(a.dtype, b.dtype)
    if common != torch.float64 and torch.is_autocast_enabled("cpu"):
        common = torch.get_autocast_dtype("cpu")
    return a.to(common), b.to(common)


@functools.cache
def _load() -> str:
    """Register torch.ops.stereo_gather, building it if the cache lacks it. Returns the reason when that fails.

    The name of the library carries all it depends on, so a stale one is never picked up. It is built in a folder of its own
    and moved into place: no lock that a killed build could leave behind, and of two builds at once the last one wins.
    """
    if sys.platform != "linux":
        return f"it is built on Linux only, this is {sys.platform}; use kernel=reference"
    try:
        library = _cache_folder() / f"stereo_gather_{_key()}.so"
        if library.exists():
            torch.ops.load_library(str(library))
            return ""
        compiler = os.environ.get("CXX", "c++")
        if shutil.which(compiler) is None:
            return f"'{compiler}' not found; {INSTALL}"
        if shutil.which("ninja") is None:
            return "'ninja' not found; install ninja or use kernel=reference"
        _build(library)
    except Exception as error:  # whatever a compiler, loader or file system can think of: the caller needs one line
        return f"building {SOURCE.name} failed ({_first_error(str(error))}); {INSTALL}"
    return ""


def _build(library: Path) -> None:
    from torch.utils import cpp_extension  # slow to import, needed by the first run only

    logging.getLogger(__name__).info("building the C++ kernels (once, about half a minute): %s", library)
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent, prefix="build_") as folder:
        cpp_extension.load(
            name=library.stem,
            sources=[str(SOURCE)],
            extra_cflags=list(FLAGS),
            extra_ldflags=["-fopenmp"],
            build_directory=folder,
            is_python_module=False,
            verbose=False,
        )
        (Path(folder) / library.name).replace(library)


def _cache_folder() -> Path:
    chosen = os.environ.get("STEREO_CACHE") or os.environ.get("TORCH_EXTENSIONS_DIR")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "torch_extensions"


def _key() -> str:
    """Source, flags, torch and CPU: -march=native code from another machine on a shared home folder would crash here."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    cpu = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    parts = (SOURCE.read_text(), *FLAGS, torch.__version__, platform.machine(), " ".join(sorted(cpu.split())))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _first_error(text: str) -> str:
    """The line of a build log that says what is wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no message"]
    return next((line for line in lines if "error:" in line), lines[0])
