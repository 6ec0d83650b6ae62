"""FoundationStereo's K.txt: github.com/NVlabs/FoundationStereo, assets/K.txt.

Line 1: the 9 numbers of the left camera's matrix, row by row, px; line 2: the baseline in metres. The pair is rectified, with
one principal point (doffs 0), and its size is not told.
"""

from __future__ import annotations

import numpy as np

from stereo.calibration.parsing import to_numbers
from stereo.calibration.rig import CalibrationFile, Choice, check_camera
from stereo.geometry import Calibration
from stereo.types import InputError

LAYOUT = "FoundationStereo K.txt"


def _lines(text: str) -> list[list[str]]:
    return [line.replace(",", " ").split() for line in text.splitlines() if line.strip()]


def recognises(text: str) -> bool:
    lines = _lines(text)
    return bool(lines) and len(lines[0]) in (3, 9) and to_numbers(lines[0]) is not None


def parse(text: str, choice: Choice) -> CalibrationFile:
    lines = [to_numbers(line) for line in _lines(text)]
    if [None if line is None else len(line) for line in lines] != [9, 1]:
        raise InputError("expected two lines: 9 numbers (the camera matrix, row by row) and the baseline in metres")
    camera, baseline = lines
    assert camera is not None and baseline is not None
    check_camera("K", np.reshape(camera, (3, 3)))
    fx, _, cx, _, fy, cy, *_ = camera
    return CalibrationFile(LAYOUT, "m", Calibration(fx, cx, cy, baseline[0], 0.0, fy / fx))
