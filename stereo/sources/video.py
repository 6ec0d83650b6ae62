"""Pairs from videos: one file that holds both views, or a file for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from stereo.sources.capture import Opener, VideoFile, open_capture
from stereo.sources.frame import Dropped, Selection, Source, StereoFrame
from stereo.sources.layout import split_views
from stereo.types import InputError

VIDEOS = (".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm")
ASSUMED_RATE = 25.0  # frames per second, where a video does not say
SAME_RATE = 0.005  # relative difference: 29.97 and 30 are the same rate, badly rounded
UNEVEN = 1.5  # times the shortest time between two frames; and CLOCK_STEP more: Matroska counts in ms
CLOCK_STEP = 0.003  # s


def views_of(images: list[np.ndarray], layout: str | None, swap: bool, name: str) -> tuple[np.ndarray, np.ndarray]:
    """BGR pictures, one of both views or one of each -> left, right RGB. Raises InputError as split_views does."""
    first, second = images if len(images) == 2 else split_views(images[0], layout or "sbs", False, name)
    left, right = (cv2.cvtColor(view, cv2.COLOR_BGR2RGB) for view in (first, second))  # each copied out of the large picture
    return (right, left) if swap else (left, right)


class VideoSource(Source):
    """Frames of one video of ``layout`` "sbs" or "ou", or of a left and a right one.

    Two videos are paired by their clocks, where they have any: a frame that one decoder stepped over costs one pair and does
    not shift those behind it. The shorter one ends both.
    Raises InputError for what VideoFile refuses, for two unequal frame rates, and for a selection behind the end.
    """

    moving = True

    def __init__(self, paths: list[str], layout: str | None, swap: bool, selection: Selection, opener: Opener = open_capture):
        super().__init__()
        self._files: list[VideoFile] = []
        self._paths, self._layout, self._swap, self._selection = paths, layout, swap, selection
        try:
            self._files += [VideoFile(path, opener) for path in paths]
            self.name, self.stem = " | ".join(paths), Path(paths[0]).stem
            self._check_rates()
            counts = [file.announced for file in self._files if file.announced is not None]
            self.announced = min(counts) if len(counts) == len(paths) else None
            self.length = selection.count(self.announced)
            if self.length == 0:
                given = f"--frames selects none of the {self.announced} frames of '{self.name}'"
                raise InputError(f"{given}; they are counted from 0")
        except InputError:
            self.close()
            raise

    def _check_rates(self) -> None:
        rates = [file.fps for file in self._files]
        if rates[0] is None:
            self.notes.append(f"'{self._paths[0]}' does not say its frame rate; {ASSUMED_RATE:g} frames/s are assumed")
        self._period = 1 / (rates[0] or ASSUMED_RATE)
        self.fps = (rates[0] or ASSUMED_RATE) / self._selection.step
        if len(rates) == 2 and rates[0] and rates[1] and abs(rates[0] - rates[1]) > SAME_RATE * rates[0]:
            found = f"'{self._paths[0]}' runs at {rates[0]:g} frames/s and '{self._paths[1]}' at {rates[1]:g}"
            raise InputError(f"{found}; expected one rate, convert one of them first (ffmpeg -i IN -r {rates[0]:g} OUT)")

    def __iter__(self) -> Iterator[StereoFrame | Dropped]:
        index = unpaired = 0
        while not self._selection.ends_before(index):
            before = unpaired
            grabbed = [file.grab() for file in self._files]
            together = all(grabbed)
            while together and (behind := self._behind()) is not None:
                unpaired += 1
                together = behind.grab()
            if unpaired > before:
                yield Dropped(self._called(index), "the other video lacks its partner", unpaired - before)
            if not together:
                yield from self._tell_the_end(index, unpaired)
                return
            if index in self._selection:
                yield self._frame(index)
            index += 1

    def _behind(self) -> VideoFile | None:
        """The one of two files whose frame is more than half a frame older than the other's."""
        if len(self._files) == 1 or not all(file.has_clock for file in self._files):
            return None
        first, second = self._files
        # In frames, not in seconds: rates that were rounded differently would drift apart.
        ahead = first.time * (first.fps or ASSUMED_RATE) - second.time * (second.fps or ASSUMED_RATE)
        return None if abs(ahead) <= 0.5 else second if ahead > 0 else first

    def _frame(self, index: int) -> StereoFrame | Dropped:
        name = self._called(index)
        images = [image for file in self._files if (image := file.retrieve()) is not None]
        if len(images) < len(self._files):
            return Dropped(name, "it cannot be decoded")
        left, right = views_of(images, self._layout, self._swap, name)
        time = self._files[0].time if self._files[0].has_clock else index * self._period
        origin = self._paths[0], self._paths[-1]
        stem = f"{self.stem}_{index:06d}"
        return StereoFrame(stem, left, right, index, time, name, origin[::-1] if self._swap else origin)

    def _called(self, index: int) -> str:
        return f"frame {index} of '{self._paths[0]}'"

    def _tell_the_end(self, index: int, unpaired: int) -> Iterator[Dropped]:
        """What was announced and did not come; whether one of two goes on; uneven times. ``index``: the number of pairs."""
        if self.announced is not None:
            lost = (self._selection.count(self.announced) or 0) - (self._selection.count(index + unpaired) or 0)
            if lost > 0:
                reason = f"the video announces {self.announced} frames and {index} could be decoded: damaged or cut off"
                yield Dropped(f"'{self.name}'", reason, lost)
        counts = [file.announced or file.grabbed for file in self._files]
        if max(counts) > min(counts):
            given = f"the videos have {' and '.join(map(str, counts))} frames"
            self.notes.append(f"{given}; what is behind the end of the shorter one is left out")
        gaps = self._files[0].gaps
        if gaps and self._files[0].has_clock and gaps[1] > UNEVEN * gaps[0] + CLOCK_STEP:
            given = f"frames of '{self._paths[0]}' come {1000 * gaps[0]:.0f} to {1000 * gaps[1]:.0f} ms apart"
            self.notes.append(f"{given}; a video that is written shows each as long as any other, {self.fps:g} a second")

    def close(self) -> None:
        for file in self._files:
            file.close()
