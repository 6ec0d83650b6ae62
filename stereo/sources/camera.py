"""Pairs from one camera that delivers both views in one picture, or from two cameras."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np

from stereo.sources.capture import Capture, Opener, open_capture
from stereo.sources.frame import Dropped, Selection, Source, StereoFrame
from stereo.sources.video import views_of
from stereo.types import InputError, StoppedError

PREFIX = "camera:"
REOPENINGS = 3  # of a camera that has stopped, before it counts as gone
PAUSE = 0.5  # s before each of them


class CameraSource(Source):
    """Frames of camera ``numbers`` as they come, without an end; of two cameras both are triggered before either is decoded.

    A camera that stops is opened anew up to REOPENINGS times.
    Raises InputError for a camera that cannot be opened; iterating raises StoppedError when one is gone for good.
    """

    moving = True
    live = True

    def __init__(
        self,
        numbers: list[int],
        layout: str | None,
        swap: bool,
        selection: Selection,
        opener: Opener = open_capture,
        wait: Callable[[float], None] = time.sleep,
    ):
        super().__init__()
        self._numbers, self._layout, self._swap, self._selection = numbers, layout, swap, selection
        self._opener, self._wait = opener, wait
        self.name = " | ".join(f"{PREFIX}{number}" for number in numbers)
        self.stem = "camera" + "_".join(map(str, numbers))
        self.length = selection.count(None)
        self._captures: list[Capture] = []
        if (missing := self._open()) is not None:
            raise InputError(f"{PREFIX}{missing} cannot be opened: is it plugged in, free, and its number right (from 0 on)?")

    def _open(self) -> int | None:
        """Open all of them; the number of one that cannot be opened, or None."""
        for number in self._numbers:
            self._captures.append(self._opener(number))
            if not self._captures[-1].isOpened():
                self.close()
                return number
        return None

    def __iter__(self) -> Iterator[StereoFrame | Dropped]:
        index, start = 0, time.perf_counter()
        while not self._selection.ends_before(index):
            images = self._take()
            now = time.perf_counter() - start
            if images is None:
                self._open_again(index)
                yield Dropped(f"frame {index} of {self.name}", "the camera paused and was opened again")
                continue
            if index in self._selection:
                name = f"frame {index} of {self.name}"
                left, right = views_of(images, self._layout, self._swap, name)
                origin = f"{PREFIX}{self._numbers[0]}", f"{PREFIX}{self._numbers[-1]}"
                stem = f"{self.stem}_{index:06d}"
                yield StereoFrame(stem, left, right, index, now, name, origin[::-1] if self._swap else origin)
            index += 1

    def _take(self) -> list[np.ndarray] | None:
        """A picture of each camera, None when one of them has none."""
        grabbed = [capture.grab() for capture in self._captures]  # all are triggered before any is decoded
        if not all(grabbed):
            return None
        images = [image for done, image in (capture.retrieve() for capture in self._captures) if done and image is not None]
        return images if len(images) == len(self._captures) else None

    def _open_again(self, index: int) -> None:
        self.close()
        for _ in range(REOPENINGS):
            self._wait(PAUSE)
            if self._open() is None:
                return
        raise StoppedError(f"{self.name} has delivered nothing since frame {index}: unplugged? Plug it in and start again")

    def close(self) -> None:
        for capture in self._captures:
            capture.release()
        self._captures = []


def camera_number(text: str) -> int:
    """'camera:0' -> 0. Raises InputError."""
    number = text.removeprefix(PREFIX)
    if not number.isdecimal():
        raise InputError(f"got '{text}', expected {PREFIX}N with the camera's number from 0 on, for example {PREFIX}0")
    return int(number)
