"""Memory of this machine: how much is free, and an allocator for programs that free the same large tensors again and again."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h of glibc


def keep_freed_memory() -> bool:
    """Keep freed memory in the process instead of handing it back to the system after every tensor.

    By default glibc maps each large block afresh, and zeroing those pages took three quarters of a training step on a CPU.
    Returns False where the C library has no such switch (macOS, Windows, musl): nothing changes there.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**28))
    accepted = [mallopt(key, value) for key, value in settings]  # each call counts, so no short cut
    return all(accepted)


def free_bytes(device: torch.device | str = "cpu") -> int | None:
    """What can be had now: of a graphics card's memory, or of the system's for a new process; None where it does not say."""
    device = torch.device(device)
    if device.type == "cuda":
        held_idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # PyTorch's own, free again
        return torch.cuda.mem_get_info(device)[0] + held_idle
    if device.type != "cpu":
        return None
    try:
        return 1024 * int(Path("/proc/meminfo").read_text(encoding="utf-8").partition("MemAvailable:")[2].split()[0])
    except (OSError, IndexError):
        return None
