"""What OpenCV captures from: a video file or a camera, opened without a word of its own on the terminal."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

import cv2
import numpy as np

from stereo.quiet import opencv_quiet, silence_ffmpeg, stderr_diverted
from stereo.types import InputError

HIGHEST_RATE = 1000.0  # frames per second; above it a container tells its clock, not its frames
RETRIES = 10  # grabs that may fail before a video counts as ended, where it has announced more


class Capture(Protocol):
    """The part of cv2.VideoCapture that is used here: tests hand in their own."""

    def isOpened(self) -> bool: ...  # noqa: N802, OpenCV's name
    def grab(self) -> bool: ...
    def retrieve(self) -> tuple[bool, np.ndarray | None]: ...
    def get(self, prop: int) -> float: ...
    def release(self) -> None: ...


Opener = Callable[[str | int], Capture]


def open_capture(what: str | int) -> Capture:
    """A video file by its path, or a camera by its number. Whether that worked is for the caller to ask."""
    silence_ffmpeg()
    with stderr_diverted(), opencv_quiet():
        return cv2.VideoCapture(what)


class VideoFile:
    """One video file, frame after frame.

    announced: frames that the container declares, None when it does not. fps: None when it says nothing usable.
    time: s of the frame grabbed last, since the first one.
    Raises InputError for a file that is missing or no video that OpenCV decodes.
    """

    def __init__(self, path: str, opener: Opener = open_capture):
        self.path = path
        if not os.path.isfile(path):
            raise InputError(f"cannot read video '{path}': no such file; check the path")
        self._capture = opener(path)
        if not self._capture.isOpened():
            self._capture.release()
            why = "empty, damaged, cut off, or of an unknown codec"
            raise InputError(f"cannot decode video '{path}': {why}; convert or copy it again")
        count, rate = (self._capture.get(prop) for prop in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS))
        self.announced = int(count) if 0 < count < 2**31 else None
        self.fps = rate if 0 < rate <= HIGHEST_RATE else None
        self.grabbed = 0
        self.gaps: tuple[float, float] | None = None  # shortest and longest time between two frames, s
        self._start = self._last = 0.0

    @property
    def time(self) -> float:
        return self._last - self._start

    def grab(self) -> bool:
        """Go to the next frame; False at the end. What the decoder steps over is missing in ``grabbed``, from ``announced``."""
        with opencv_quiet():
            tries = 1 + (RETRIES if self.announced is not None and self.grabbed < self.announced else 0)
            if not any(self._capture.grab() for _ in range(tries)):
                return False
        time = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if self.grabbed:
            gap = time - self._last
            self.gaps = (gap, gap) if self.gaps is None else (min(self.gaps[0], gap), max(self.gaps[1], gap))
        else:
            self._start = time
        self._last = time
        self.grabbed += 1
        return True

    def retrieve(self) -> np.ndarray | None:
        """(H, W, 3) uint8 BGR; None when it cannot be decoded."""
        with opencv_quiet():
            done, image = self._capture.retrieve()
        return image if done else None

    @property
    def has_clock(self) -> bool:
        """Whether times have gone forward with every frame so far; some containers have none."""
        return self.gaps is not None and self.gaps[0] > 0

    def close(self) -> None:
        self._capture.release()
