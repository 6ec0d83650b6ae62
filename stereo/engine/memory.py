"""The C library's allocator, for programs that allocate and free the same large tensors thousands of times."""

from __future__ import annotations

import ctypes

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
