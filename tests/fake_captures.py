"""Captures that do what a test wants them to do, for what cannot be had: cameras, and videos that fail in a certain place."""

from __future__ import annotations

import cv2
import numpy as np


class FakeCapture:
    """Stands in for cv2.VideoCapture. pictures: what grab comes to, in turn; None: grab fails, "bad": retrieve fails.

    times: ms of each picture, by default at ``fps``; announced: what the container declares.
    """

    def __init__(self, pictures, fps=30.0, times=None, announced=None, opened=True):
        self.pictures, self.fps, self.opened = list(pictures), fps, opened
        self.times = times or [1000 * i / (fps or 25) for i in range(len(self.pictures))]
        self.announced = len(self.pictures) if announced is None else announced
        self.at = -1
        self.released = False

    def isOpened(self):  # noqa: N802
        return self.opened

    def get(self, prop):
        return {cv2.CAP_PROP_FPS: self.fps, cv2.CAP_PROP_FRAME_COUNT: self.announced}.get(prop, self.times[max(self.at, 0)])

    def grab(self):
        assert not self.released
        self.at = min(self.at + 1, len(self.pictures))
        return self.at < len(self.pictures) and self.pictures[self.at] is not None

    def retrieve(self):
        picture = self.pictures[self.at]
        return (False, None) if isinstance(picture, str) else (True, np.ascontiguousarray(picture[..., ::-1]))

    def release(self):
        self.released = True


def opener(*captures: FakeCapture):
    """Hands out one capture after the other."""
    remaining = list(captures)
    return lambda _: remaining.pop(0)
