"""Items of a data set one after the other, made by processes that run ahead. One that dies is named, with what it made."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from datasets.handover import LostError, unpack
from stereo.types import StoppedError

IDLE = -1


class Numbered(Dataset):
    """Items by number, each a pure function of its number."""

    def __len__(self) -> int:
        raise NotImplementedError

    def described(self, item: int) -> str:
        """What the item is made of, for the line about a process that died over it."""
        raise NotImplementedError


def ordered_items(numbered: Numbered, workers: int) -> Iterator[Any]:
    """The items of a data set one after the other, made by ``workers`` processes (0: in this one) that run ahead.

    What a process has packed (datasets.handover) comes unpacked; what a dead one has packed and nobody has taken is lost.
    Raises StoppedError, when the next item is awaited, for a process that was killed.
    """
    board = torch.full((workers, 2), IDLE).share_memory_()  # of each process: its id and the item that it is making
    loader = DataLoader(
        _Watched(numbered, board),
        batch_size=None,
        num_workers=workers,
        worker_init_fn=partial(_begin, board),
        prefetch_factor=4 if workers else None,
        generator=torch.Generator(),  # not the run's random state, which a resumed run would draw from once more
    )
    # A fork has none of its parent's threads, and OpenCV in a worker would wait for those of its pool for ever: no pool, then,
    # while the workers start. They stay with one thread each; the network has the other cores.
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with _deaths_told_on_asking():
            items = iter(loader)
    finally:
        cv2.setNumThreads(threads)
    return _told(items, numbered, board) if workers else items


class _Watched(Dataset):
    """A data set that notes on the ``board`` what is being made."""

    def __init__(self, numbered: Numbered, board: Tensor) -> None:
        self.numbered, self.board = numbered, board

    def __len__(self) -> int:
        return len(self.numbered)

    def __getitem__(self, item: int) -> Any:
        worker = get_worker_info()
        if worker is None:
            return self.numbered[item]
        self.board[worker.id, 1] = item
        made = self.numbered[item]
        self.board[worker.id, 1] = IDLE
        return made


def _begin(board: Tensor, worker: int) -> None:
    torch.set_num_threads(1)
    board[worker, 0] = os.getpid()


@contextmanager
def _deaths_told_on_asking() -> Iterator[None]:
    """PyTorch has a worker's death raise wherever the main thread happens to be; without that, asking for an item raises."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        if before is not None:  # None: set by something else than Python, and Python cannot put it back
            signal.signal(signal.SIGCHLD, before)


def _told(items: Iterator[Any], numbered: Numbered, board: Tensor) -> Iterator[Any]:
    try:
        yield from map(unpack, items)
    except LostError as error:
        raise _stopped([error.maker], numbered, board) from error
    except RuntimeError as error:
        found = re.match(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)", str(error))
        if not found:
            raise
        raise _stopped([int(pid) for pid in found[1].split(",")], numbered, board) from error


def _stopped(pids: Sequence[int], numbered: Numbered, board: Tensor) -> StoppedError:
    dead = "; ".join(_death(pid, numbered, board) for pid in pids)
    return StoppedError(f"{dead}; most likely memory ran out: take fewer workers (of a training: data.workers, then --resume)")


def _death(pid: int, numbered: Numbered, board: Tensor) -> str:
    pids = board[:, 0].tolist()
    if pid not in pids:
        return f"a data worker (process {pid}) died as it started"
    worker = pids.index(pid)
    item = int(board[worker, 1])
    making = "between two batches" if item == IDLE else f"while it made {numbered.described(item)}"
    return f"data worker {worker} (process {pid}) died {making}"
