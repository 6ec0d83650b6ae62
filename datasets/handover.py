"""From the process that made something to the one that uses it: its arrays in memory that both have, not through a pipe.

A pipe takes 64 KiB at a time, and each byte is copied six times on the way: as much work as reading a pair. Where the system
has no such memory (only Linux has) things go the usual way.
"""

from __future__ import annotations

import mmap
import os
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from multiprocessing import resource_sharer
from typing import Any

ALIGNED = 64  # bytes: each array begins at a multiple


@dataclass(frozen=True)
class Parcel:
    """A pickle, and the contents of its arrays one after the other in a file without a name, which is never on a disk.

    Not in /dev/shm, which containers keep as small as 64 MB.
    """

    content: bytes
    sizes: tuple[int, ...]
    file: Any

    def open(self) -> Any:
        """What was packed; the arrays are the file's memory. To be called once."""
        ends = _ends(self.sizes)
        descriptor = self.file.detach()
        try:
            memory = memoryview(mmap.mmap(descriptor, ends[-1]))
        finally:
            os.close(descriptor)
        starts = (end - _padded(size) for end, size in zip(ends, self.sizes, strict=True))
        return pickle.loads(
            self.content, buffers=[memory[start : start + size] for start, size in zip(starts, self.sizes, strict=True)]
        )


def pack(made: Any) -> Any:
    """``made`` as a Parcel, or as it is: for a queue of multiprocessing, whose other end calls ``unpack``."""
    arrays: list[pickle.PickleBuffer] = []
    content = pickle.dumps(made, protocol=5, buffer_callback=arrays.append)
    if not arrays or not hasattr(os, "memfd_create"):
        return made
    try:
        descriptor = os.memfd_create("sample")
    except OSError:  # a system that has the name and not the call
        return made
    views = [array.raw() for array in arrays]
    with os.fdopen(descriptor, "wb") as file:
        for view, end in zip(views, _ends([view.nbytes for view in views]), strict=True):
            file.write(view)
            file.truncate(end)
            file.seek(end)
        return Parcel(content, tuple(view.nbytes for view in views), resource_sharer.DupFd(descriptor))


def unpack(received: Any) -> Any:
    """What was given to ``pack``."""
    return received.open() if isinstance(received, Parcel) else received


def _padded(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED


def _ends(sizes: Sequence[int]) -> list[int]:
    return list(accumulate(map(_padded, sizes)))
