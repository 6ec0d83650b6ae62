"""Middlebury's calib.txt, read and written: vision.middlebury.edu/stereo/data/scenes2014 and .../eval3; ETH3D's two-view too.

cam0=[999.421 0 294.182; 0 999.421 252.932; 0 0 1]   the left camera, px
doffs=32.778                                         cx of cam1 minus cx of cam0, px
baseline=193.001                                     millimetres
width=741, height=497                                px of the images that the numbers are of, a line each
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from stereo.calibration.parsing import NUMBER, read_text, to_numbers
from stereo.calibration.rig import CalibrationFile, Choice, Size
from stereo.files import atomic_write
from stereo.geometry import Calibration
from stereo.types import InputError

LAYOUT = "Middlebury calib.txt"
_KEYS = {
    "cam0": (r"\[\s*# 0 #\s*;\s*0 # #\s*;\s*0 0 1\s*\]", "[f 0 cx; 0 f cy; 0 0 1]"),
    "doffs": ("#", "a number of px"),
    "baseline": ("#", "a number of mm"),
}


def recognises(text: str) -> bool:
    return re.search(r"^[ \t]*(cam0|doffs|baseline)[ \t]*=", text, re.MULTILINE) is not None


def _numbers(text: str, pattern: str) -> list[float] | None:
    """The groups of ``pattern`` in ``text`` as numbers; in the pattern, # stands for a number. None when it does not fit."""
    match = re.fullmatch(pattern.replace("#", f"({NUMBER})").replace(" ", r"\s+"), text)
    return [float(group) for group in match.groups()] if match else None


def parse(text: str, choice: Choice) -> CalibrationFile:
    """Other keys are ignored; the size is known where both sides are whole numbers. Raises InputError for anything else."""
    entries = [(key.strip(), value.strip()) for key, _, value in (line.partition("=") for line in text.splitlines())]
    found: dict[str, list[float]] = {}
    for key, (pattern, layout) in _KEYS.items():
        values = [value for name, value in entries if name == key]
        if len(values) != 1:
            raise InputError(f"it has {len(values)} lines '{key}=', expected one: {key}={layout}")
        numbers = _numbers(values[0], pattern)
        if numbers is None:
            raise InputError(f"got {key}={values[0][:80]}, expected {key}={layout}")
        found[key] = numbers
    fx, cx, fy, cy = found["cam0"]
    rig = Calibration(fx, cx, cy, found["baseline"][0] / 1000, found["doffs"][0], fy / fx if fx else 0.0)
    return CalibrationFile(LAYOUT, "mm", rig, size=_size(dict(entries)))


def _size(entries: dict[str, str]) -> Size | None:
    sides = to_numbers(entries.get(key, "") for key in ("width", "height"))
    if sides is None or any(side < 1 or side % 1 for side in sides):
        return None
    return int(sides[0]), int(sides[1])


def read_middlebury_calib(path: str | os.PathLike[str]) -> Calibration:
    """Read the calib.txt of Middlebury 2014, MiddEval3 and ETH3D two-view; its other keys are ignored; its mm become metres.

    Raises InputError when the file cannot be read, or a key is missing, given twice, malformed or out of range.
    """
    path = Path(path)
    text = read_text(path)
    try:
        rig = parse(text, Choice()).rectified
    except InputError as error:
        raise InputError(f"calibration '{path}': {error}") from None
    assert rig is not None
    return rig


def write_middlebury_calib(path: str | os.PathLike[str], rig: Calibration, size: Size) -> None:
    """Write a rectified rig for images of ``size``; read_middlebury_calib gives it back, to 12 digits.

    Raises InputError when the file cannot be written.
    """
    f, cx, cy, doffs = rig.focal_px, rig.cx, rig.cy, rig.doffs_px
    cameras = [f"[{f:.12g} 0 {x:.12g}; 0 {f * rig.aspect:.12g} {cy:.12g}; 0 0 1]" for x in (cx, cx + doffs)]
    lines = [f"cam0={cameras[0]}", f"cam1={cameras[1]}", f"doffs={doffs:.12g}", f"baseline={rig.baseline_m * 1000:.12g}"]
    lines += [f"width={size[0]}", f"height={size[1]}"]
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
