"""Disparities of a sequence as a film in colours: one fixed range, a codec that every OpenCV wheel has, never half a file."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from stereo.files import atomic_write
from stereo.inference.window import Window
from stereo.quiet import opencv_quiet, silence_ffmpeg, stderr_diverted
from stereo.report.colour import colour_disparity, robust_range, with_legend
from stereo.sources.frame import StereoFrame
from stereo.types import InputError, StoppedError

CODECS = (("mp4v", ".mp4"), ("MJPG", ".avi"))  # the second where the wheel was built without the first
RANGE_FRAMES = 5  # whose disparities tell the range of the colours
RESERVE = 32 * 2**20  # bytes that stay free: the index of a film is written at its end, and without it nothing plays
STYLES = ("disp", "side-by-side")
MEASURED = (0.1, 120.0)  # frames per second: bounds of what is believed of the first frames of a camera
ASSUMED_RATE = 10.0  # frames per second, of pictures and of a camera's single frame


class _NoCodecError(Exception):
    """This OpenCV cannot write such a file."""


class FilmFile:
    """A video that is being written, to a temporary file until ``writing_film`` ends. path: what it will be called."""

    def __init__(self, temporary: Path, path: Path, codec: str, fps: float, size: tuple[int, int]):
        self._temporary, self.path, self.frames = temporary, path, 0
        self._size = size[0] + size[0] % 2, size[1] + size[1] % 2  # colours are stored at half the size
        silence_ffmpeg()
        with stderr_diverted(), opencv_quiet():
            self._writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter.fourcc(*codec), fps, self._size)
        if not self._writer.isOpened():
            raise _NoCodecError

    def write(self, rgb: np.ndarray) -> None:
        """Append (H, W, 3) uint8 RGB. Raises StoppedError while there still is room to finish the file."""
        free = shutil.disk_usage(self.path.parent).free
        if free < RESERVE:
            raise StoppedError(f"the disk is full but for {free // 2**20} MiB; make room, or write elsewhere with -o")
        below, beside = self._size[1] - rgb.shape[0], self._size[0] - rgb.shape[1]
        image = cv2.copyMakeBorder(rgb, 0, below, 0, beside, cv2.BORDER_REPLICATE)
        with opencv_quiet():
            self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        self.frames += 1

    def finish(self) -> None:
        """Complete the file and play it back. Raises InputError unless it opens and holds what was written.

        It may hold one frame more than were counted: Ctrl-C can come between writing and counting.
        """
        with stderr_diverted(), opencv_quiet():
            self._writer.release()
            played = cv2.VideoCapture(str(self._temporary))
            count = int(played.get(cv2.CAP_PROP_FRAME_COUNT)) if played.isOpened() else 0
            played.set(cv2.CAP_PROP_POS_FRAMES, count - 1)
            whole = count in (self.frames, self.frames + 1) and played.read()[0]
            played.release()
        if not whole:
            found = f"of {self.frames} frames written {max(count, 0)} can be played"
            raise InputError(f"cannot write '{self.path}': {found}; is the disk full?")
        self.frames = count


@contextmanager
def writing_film(folder: Path, stem: str, fps: float, size: tuple[int, int]) -> Iterator[FilmFile]:
    """A film of ``size`` (width, height) px, called STEM.mp4, or STEM.avi where the codec is missing, when the block ends.

    Leaves nothing when the block raises, or when the file cannot be played back. Raises InputError where none can be written.
    """
    for codec, suffix in CODECS:
        path = folder / f"{stem}{suffix}"
        with suppress(_NoCodecError), atomic_write(path) as temporary:
            film = FilmFile(temporary, path, codec, fps, size)
            yield film
            film.finish()
            return
    raise InputError(f"cannot write a video to '{folder}': this OpenCV has no encoder for one; install opencv-python")


class DisparityFilm:
    """Frames in, a film of their disparities out, all in the colours of one range.

    fps: of the film; None: measured on the first frames (a camera). colour_range: (low, high) px; None: estimated once, from
    the first RANGE_FRAMES frames, which are held that long. style: "disp", "side-by-side" (the left image beside it), or None
    for no file. window: where to show it, too. Call ``close`` in any case: it completes the file.
    """

    def __init__(
        self,
        folder: Path,
        stem: str,
        fps: float | None,
        colour_range: tuple[float, float] | None,
        style: str | None,
        window: Window | None,
    ):
        self._folder, self._stem, self._fps, self._style, self._window = folder, stem, fps, style, window
        self.colour_range = colour_range
        self._judged = 0  # frames that have told the range
        self._held: list[tuple[StereoFrame, np.ndarray]] = []
        self._stack = ExitStack()
        self._file: FilmFile | None = None

    @property
    def path(self) -> Path | None:
        return None if self._file is None else self._file.path

    @property
    def frames(self) -> int:
        return 0 if self._file is None else self._file.frames

    def add(self, frame: StereoFrame, disp: np.ndarray) -> bool:
        """Take a frame and its disparities (H, W) px. False when the user has closed the window."""
        if self.colour_range is not None and self._fps is not None:
            return self._draw(frame, disp)
        self._held.append((frame, disp))
        return self._release() if len(self._held) == RANGE_FRAMES else True

    def _release(self) -> bool:
        """Settle what is open from the frames held, and draw them."""
        held, self._held = self._held, []
        if self.colour_range is None:
            self._judged = len(held)
            self.colour_range = 0.0, float(math.ceil(max(robust_range(disp)[1] for _, disp in held)))
        if self._fps is None:
            gaps = np.diff([frame.time or 0.0 for frame, _ in held])
            usual = float(np.median(gaps)) if len(gaps) else 0.0  # the first gap is long: the network has just been loaded
            measured = 1 / usual if usual > 0 else ASSUMED_RATE
            self._fps = min(max(measured, MEASURED[0]), MEASURED[1])
        return all([self._draw(frame, disp) for frame, disp in held])  # noqa: C419, every one is drawn

    def _draw(self, frame: StereoFrame, disp: np.ndarray) -> bool:
        assert self.colour_range is not None and self._fps is not None  # settled before
        low, high = self.colour_range
        colours = colour_disparity(disp, low, high)
        picture = with_legend(np.hstack([frame.left, colours]) if self._style == "side-by-side" else colours, low, high)
        if self._style is not None:
            if self._file is None:
                size = picture.shape[1], picture.shape[0]
                self._file = self._stack.enter_context(writing_film(self._folder, f"{self._stem}.disp", self._fps, size))
            self._file.write(picture)
        return self._window is None or self._window.show(picture)

    def close(self) -> None:
        """Raises InputError when the film cannot be completed."""
        if self._held:
            self._release()
        self._stack.close()
        if self._window is not None:
            self._window.close()

    def range_line(self) -> str:
        """The range of the colours, and how to have the same one again, for people."""
        low, high = self.colour_range or (0.0, 0.0)
        kept = f", after the first {self._judged} frames; --range {low:g} {high:g} keeps them" if self._judged else ""
        return f"colours from {low:g} to {high:g} px{kept}"

    def facts(self) -> dict[str, Any]:
        """For a sidecar: the film, its rate, the range of its colours in px and where that comes from."""
        return {
            "video": str(self.path) if self.path else None,
            "video_frames": self.frames,
            "video_fps": self._fps,
            "colour_range_px": self.colour_range,
            "colour_range_from": f"the first {self._judged} frames" if self._judged else "--range",
        }
