"""Work shared out among the processes that torchrun has started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist


def started_by_torchrun() -> bool:
    """Whether this process is one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def world_size() -> int:
    """How many processes have joined; 1 without a group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process among them; 0 without a group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


@contextmanager
def joined() -> Iterator[None]:
    """A group of all processes inside the block; nothing happens in a process that stands alone or already has one.

    gloo also where the network runs on graphics cards: only rows of figures are exchanged.
    """
    mine = started_by_torchrun() and not dist.is_initialized()
    if mine:
        dist.init_process_group("gloo")
    try:
        yield
    finally:
        if mine:
            dist.destroy_process_group()


def everyones(value: Any) -> list[Any]:
    """The ``value`` of every process, by rank; all of them must call it. One that can be pickled."""
    values: list[Any] = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values
