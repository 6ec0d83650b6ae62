"""What every source yields, and what every source is."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from stereo.types import InputError

_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class StereoFrame:
    """One pair. left, right: (H, W, 3) uint8 RGB, rectified; possibly views of a larger picture.

    stem: what its files are called, without an ending. index: its place in the source, from 0. time: s since the first frame,
    None where there is no clock. name: what messages call it. origin: the path or device of the left and of the right image.
    """

    stem: str
    left: np.ndarray
    right: np.ndarray
    index: int
    time: float | None
    name: str
    origin: tuple[str, str]


@dataclass(frozen=True)
class Dropped:
    """``count`` frames that a source could not deliver, and why; it goes on behind them."""

    name: str
    reason: str
    count: int = 1


@dataclass(frozen=True)
class Selection:
    """Frames ``start``, ``start + step``, ... before ``stop`` (None: to the end), like a slice of Python."""

    start: int = 0
    stop: int | None = None
    step: int = 1

    @classmethod
    def parse(cls, text: str) -> Selection:
        """'A:B:STEP', each part of which may be left out, or one number. Raises InputError for anything else."""
        parts = text.split(":")
        if len(parts) > 3 or not any(parts) or any(part and not _NUMBER.fullmatch(part) for part in parts):
            raise InputError(f"got --frames '{text}', expected A:B:STEP of whole numbers from 0, for example 100:200 or ::10")
        start, stop, step = ([int(part) if part else None for part in parts] + [None, None])[:3]
        if len(parts) == 1:
            stop = (start or 0) + 1
        chosen = cls(start or 0, stop, 1 if step is None else step)
        if chosen.step < 1 or (stop is not None and stop <= chosen.start):
            raise InputError(f"got --frames '{text}', which selects nothing; expected A:B:STEP, A below B and STEP above 0")
        return chosen

    def __contains__(self, index: int) -> bool:
        return index >= self.start and not self.ends_before(index) and (index - self.start) % self.step == 0

    def ends_before(self, index: int) -> bool:
        return self.stop is not None and index >= self.stop

    def count(self, length: int | None) -> int | None:
        """How many of ``length`` frames it selects; None where that is not known."""
        if length is None:
            return None if self.stop is None else len(range(self.start, self.stop, self.step))
        return len(range(*slice(self.start, self.stop, self.step).indices(length)))


class Source(ABC):
    """Pairs in their order; iterated once.

    name: what messages call it. stem: what results of the whole are called. length: frames that the selection will deliver,
    None when nobody knows. fps: frames per second of those, None without a clock. moving: the frames are a film, of one size.
    live: they come whether somebody takes them or not, and the newest is wanted.
    notes: lines to say, about what is odd about it; complete when the iteration has ended.
    """

    name: str
    stem: str
    length: int | None = None
    fps: float | None = None
    moving = False
    live = False

    def __init__(self) -> None:
        self.notes: list[str] = []

    @abstractmethod
    def __iter__(self) -> Iterator[StereoFrame | Dropped]:
        """Raises StoppedError when a device is gone for good."""

    def close(self) -> None:  # noqa: B027, most sources hold nothing
        """Give back files and devices. May be called twice, and by the thread that iterates only."""
