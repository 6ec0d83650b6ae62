"""The frames of a source that a network can take, and an account of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from stereo.inference.predictor import check_pair
from stereo.sources.frame import Dropped, Source, StereoFrame
from stereo.types import InputError


class UsableFrames:
    """Iterate what a source yields (``incoming``: the source itself, or a Prefetch of it) without what cannot be matched.

    A pair of unequal or too small images is dropped, like one that could not be read; of a single pair it is an InputError.
    one_size: frames of another size than the first are dropped, too. limit: at most so many.
    used, dropped: counts so far. reasons: the first few, one line each.
    """

    REASONS = 3

    def __init__(
        self, incoming: Iterable[StereoFrame | Dropped], source: Source, one_size: bool = False, limit: int | None = None
    ):
        self._incoming, self._source, self._one_size, self._limit = iter(incoming), source, one_size, limit
        self._size: tuple[int, ...] | None = None
        self._first: StereoFrame | None = None
        self.used = self.dropped = 0
        self.reasons: list[str] = []
        self._check: Callable[[int, int], object] = lambda height, width: None

    def require(self, check: Callable[[int, int], object]) -> None:
        """Drop frames behind the first one for whose height and width ``check`` raises InputError."""
        self._check = check

    @property
    def expected(self) -> int | None:
        """How many will come at most; None when nobody knows."""
        known = [count for count in (self._source.length, self._limit) if count is not None]
        return min(known) if known else None

    def first(self) -> StereoFrame:
        """The first usable frame, which iterating delivers once more. Raises InputError when there is none."""
        self._first = next(self._usable(), None)
        if self._first is None:
            why = self.reasons[0] if self.reasons else "it ended at once"
            raise InputError(f"no frame of {self._source.name} can be used: {why}")
        return self._first

    def __iter__(self) -> Iterator[StereoFrame]:
        frame: StereoFrame | None = self.first() if self._first is None else self._first
        self._first = None  # a large picture is held no longer than needed
        while frame is not None:
            self.used += 1
            yield frame
            if self.used == self._limit:
                return
            frame = next(self._usable(), None)

    def _usable(self) -> Iterator[StereoFrame]:
        for item in self._incoming:
            if isinstance(item, Dropped):
                self._drop(item)
            elif (problem := self._problem(item)) is None:
                yield item
            elif self._source.length == 1:
                raise InputError(problem)
            else:
                self._drop(Dropped(item.name, problem))

    def _problem(self, frame: StereoFrame) -> str | None:
        try:
            check_pair(frame.left, frame.right)
            height, width = frame.left.shape[:2]
            self._check(height, width)
        except InputError as error:
            return str(error)
        self._size = self._size or (height, width)
        if self._one_size and self._size != (height, width):
            return f"it is {width}x{height} px, those before it are {self._size[1]}x{self._size[0]} px"
        return None

    def _drop(self, item: Dropped) -> None:
        self.dropped += item.count
        if len(self.reasons) < self.REASONS:
            self.reasons.append(item.reason if item.name in item.reason else f"{item.name}: {item.reason}")

    def summary(self) -> str | None:
        """"skipped 1 of 300 frames: ...", None when none was."""
        if not self.dropped:
            return None
        more = "; ..." if self.dropped > len(self.reasons) else ""
        return f"skipped {self.dropped} of {self.used + self.dropped} frames: {'; '.join(self.reasons)}{more}"
