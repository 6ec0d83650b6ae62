"""Keeping what C code prints away from the terminal, where it would stand among our own lines.

OpenCV has a log whose level can be set. libpng, libjpeg and parts of FFmpeg write to the process's stderr and ask nobody.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import BinaryIO

import cv2

_cv_log = getattr(cv2.utils, "logging", cv2)  # OpenCV 5 moved setLogLevel there
STDERR = threading.Lock()  # the process has one; who prints to it from another thread than the one that decodes takes this


@contextmanager
def opencv_quiet() -> Iterator[None]:
    """Silence OpenCV's log inside the block: we raise one line of our own."""
    before = _cv_log.setLogLevel(0)
    try:
        yield
    finally:
        if before > 0:  # 0 may be what another thread's block has set, and that thread will restore
            _cv_log.setLogLevel(before)


def _scratch_file() -> BinaryIO:
    try:
        return tempfile.TemporaryFile()
    except OSError:  # no folder where one may be: it keeps nothing
        return open(os.devnull, "w+b")


@contextmanager
def stderr_diverted() -> Iterator[BinaryIO]:
    """Send what C code prints to stderr into a file, inside the block: libpng and libjpeg talk to nobody else.

    One thread at a time. What other threads log meanwhile waits until the block ends; what they print without STDERR is lost.
    """
    with STDERR, ExitStack() as waiting, _scratch_file() as file:
        for handler in logging.getLogger().handlers:
            handler.acquire()
            waiting.callback(handler.release)
        before = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield file
        finally:
            os.dup2(before, 2)
            os.close(before)


def silence_ffmpeg() -> None:
    """Ask OpenCV's FFmpeg to print nothing; it listens once, before the first video of the process is opened.

    A level that the user has set is left alone.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
