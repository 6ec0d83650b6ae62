"""A window to watch, where there is a display."""

from __future__ import annotations

import os
import subprocess
import sys

import cv2
import numpy as np

QUIT = (27, ord("q"))  # Esc
PROBE = "import cv2; cv2.namedWindow('probe'); cv2.waitKey(1); cv2.destroyAllWindows()"
PATIENCE = 20  # s


def window_problem() -> str | None:
    """Why no window can be opened here; None when one can.

    Tried in a process of its own: where a display is named that does not answer, the window system ends the whole program.
    """
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "there is no display"
    try:
        done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired):
        return "the display does not answer"
    return None if done.returncode == 0 else "the display cannot be used, or this OpenCV is built without windows"


class Window:
    """A window of the given title that shows one picture after the other."""

    def __init__(self, title: str):
        self._title, self._shown = title, False

    def show(self, rgb: np.ndarray) -> bool:
        """Show (H, W, 3) uint8 RGB. False when the user has pressed q or Esc, or closed the window."""
        if self._shown and cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) < 1:
            return False
        cv2.imshow(self._title, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
        self._shown = True
        return cv2.waitKey(1) & 0xFF not in QUIT

    def close(self) -> None:
        if self._shown:
            cv2.destroyWindow(self._title)
            self._shown = False
