"""The processes that work together, as torchrun starts them. In a process alone nothing is sent.

A collective that fails means that another process is gone: StoppedError, one line.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from stereo.types import InputError, StoppedError

T = TypeVar("T")
PATIENCE = timedelta(hours=1)  # the others wait for the first process while it validates
JOINING = timedelta(minutes=10)


def rank() -> int:
    """The number of this process, 0 for the one that writes."""
    return dist.get_rank() if _together() else 0


def world_size() -> int:
    return dist.get_world_size() if _together() else 1


def restarts() -> int:
    """How often torchrun has started this run anew (its --max-restarts)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@contextmanager
def joined(device: str) -> Iterator[torch.device]:
    """Join the processes that torchrun has started, if it has, and yield the device of this one.

    device: cpu (over gloo) or cuda (over nccl; each process of a host takes a GPU of its own).
    Raises InputError when a host has fewer GPUs than processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield torch.device(device)
        return
    own, local = torch.device(device), int(os.environ["LOCAL_RANK"])
    if own.type == "cuda":
        if local >= torch.cuda.device_count():
            given = f"process {local} of this host, which has {torch.cuda.device_count()} GPUs"
            raise InputError(f"no GPU is left for {given}; lower --nproc-per-node, or add --device cpu")
        own = torch.device("cuda", local)
        torch.cuda.set_device(own)
    from torch.distributed.rendezvous import rendezvous  # builds of PyTorch without collectives have none

    with _others_there():
        store, number, size = next(rendezvous("env://", timeout=PATIENCE))
        store = _fresh(store, number, size)
        backend = "nccl" if own.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=number, world_size=size, timeout=PATIENCE)
    try:
        yield own
    finally:
        dist.destroy_process_group()


def add_up(values: Tensor) -> Tensor:
    """The sum of every process's ``values``, in place; the same bits in all of them."""
    if world_size() > 1:
        with _others_there():
            dist.all_reduce(values)
    return values


def add_up_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add up the gradients in one message. A parameter that has none in any process keeps none."""
    if world_size() == 1:
        return
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    used = grads[0].new_tensor([p.grad is not None for p in parameters])
    message = add_up(torch.cat([used, *(grad.flatten() for grad in grads)]))
    sums = message[len(used) :].split([p.numel() for p in parameters])
    for parameter, has, values in zip(parameters, message[: len(used)].tolist(), sums, strict=True):
        parameter.grad = values.view_as(parameter) if has else None


def from_first(make: Callable[[], T]) -> T:
    """What ``make`` gives in the first process, in every process; so is the InputError that it raises."""
    if world_size() == 1:
        return make()
    box: list[Any] = [None]
    if rank() == 0:
        try:
            box = [(make(), None)]
        except InputError as error:
            box = [(None, str(error))]
    with _others_there():
        dist.broadcast_object_list(box)
    result, refusal = box[0]
    if refusal is not None:
        raise InputError(refusal)
    return result


def everyones(value: T) -> list[T]:
    """The ``value`` of every process, by rank, in every process."""
    values: list[Any] = [value] * world_size()
    if world_size() > 1:
        with _others_there():
            dist.all_gather_object(values, value)
    return values


def _fresh(store: dist.Store, number: int, size: int) -> dist.Store:
    """A part of the store that no earlier attempt has written into.

    torchrun gives the processes that it starts again the store of those before, and the addresses in it are of the dead. So the
    first process names a new part, and answers each of the others that has read the name; from a dead one there is no answer.
    """
    own = secrets.token_hex(8)
    if number == 0:
        store.set("part", own)
        for other in range(1, size):
            store.set(f"{own}/{store.get(f'{own}/{other}').decode()}", "read")
        return dist.PrefixStore(own, store)
    deadline = time.monotonic() + JOINING.total_seconds()
    while True:
        part = store.get("part").decode()
        store.set(f"{part}/{number}", own)
        try:
            store.wait([f"{part}/{own}"], timedelta(seconds=1))
            return dist.PrefixStore(part, store)
        except RuntimeError:  # no answer yet
            if time.monotonic() > deadline:
                raise


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()


@contextmanager
def _others_there() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # of gloo and of nccl
        reason = str(error).splitlines()[0]
        raise StoppedError(
            f"process {os.environ.get('RANK', 0)} of {os.environ.get('WORLD_SIZE', 1)}: another process of the run is gone "
            f"({reason}); the last checkpoint is kept: start again with --resume, or let torchrun do so with --max-restarts"
        ) from error
