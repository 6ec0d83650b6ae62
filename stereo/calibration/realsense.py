"""Intel RealSense's factory calibration of its two infrared cameras, in either of two forms. Lengths are metres.

Text: all that `rs-enumerate-devices -c` prints (github.com/IntelRealSense/librealsense, tools/enumerate-devices), of which the
blocks 'Intrinsic of "Infrared 1" / 848x480 / {Y8}', the same of "Infrared 2", and 'Extrinsic from "Infrared 1" To "Infrared 2"'
are read; of several sizes, that of the images.

JSON: {"left": I, "right": I, "extrinsics": E}, where I has the fields of rs2_intrinsics as pyrealsense2 names them (width,
height, fx, fy, ppx, ppy, model, coeffs) and E those of rs2_extrinsics from left to right: rotation (9 numbers, by columns) and
translation (3). librealsense writes no such file itself; a few lines of Python do, see docs/calibration.md.

Y8 images come rectified from the camera: no distortion, no rotation. Whatever is not becomes a raw rig.
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

from stereo.calibration.parsing import numbers_of, short, to_numbers
from stereo.calibration.rig import CalibrationFile, Choice, RawRig, Size, check_order
from stereo.geometry import Calibration
from stereo.types import InputError

LAYOUT = "RealSense rs-enumerate-devices -c, or JSON of its intrinsics and extrinsics"
_INTRINSIC = re.compile(r'^Intrinsic of "Infrared ([12])" / .*$', re.MULTILINE)
_EXTRINSIC = re.compile(r'^Extrinsic from "Infrared 1"\s+To\s+"Infrared 2"\s*:', re.MULTILINE)
MODELS = ("brown conrady", "modified brown conrady")  # of OpenCV's formula; the inverse one is not
MOST_BLOCK = 2000  # characters: five times what one takes
Camera = tuple[Size, np.ndarray, np.ndarray]  # size, (3, 3) px, (5,) distortion


def recognises(text: str) -> bool:
    return text.lstrip().startswith("{") or 'Intrinsic of "' in text


def parse(text: str, choice: Choice) -> CalibrationFile:
    pairs, rotation, translation = _from_json(text) if text.lstrip().startswith("{") else _from_listing(text)
    size = choice.of_sizes(list(pairs))
    (m1, d1), (m2, d2) = pairs[size]
    raw = RawRig(m1, d1, m2, d2, rotation, translation, size)
    straight = np.allclose(rotation, np.eye(3), atol=1e-6) and np.abs(translation[1:]).max() < 1e-3 * abs(translation[0])
    if not straight or d1.any() or d2.any() or m1[0, 0] != m2[0, 0] or m1[1, 1:].tolist() != m2[1, 1:].tolist():
        return CalibrationFile(LAYOUT, "m", raw=raw)
    check_order(-translation[0])
    f, cx, fy, cy = m1[0, 0], m1[0, 2], m1[1, 1], m1[1, 2]
    return CalibrationFile(LAYOUT, "m", Calibration(f, cx, cy, -translation[0], m2[0, 2] - cx, fy / f), raw, size)


Pairs = dict[Size, tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]]


def _from_listing(text: str) -> tuple[Pairs, np.ndarray, np.ndarray]:
    cameras: dict[str, dict[Size, tuple[np.ndarray, np.ndarray]]] = {"1": {}, "2": {}}
    for match in _INTRINSIC.finditer(text):
        block = text[match.end() : match.end() + MOST_BLOCK].split("\n\n", 1)[0]
        fields = dict(re.findall(r"^\s*(\w+)[^:\n]*:\s*(.*?)\s*$", block, re.MULTILINE))
        numbers = {name.lower(): numbers_of(value) for name, value in fields.items()}
        size, *camera = _camera(numbers, fields.get("Distortion", ""))
        cameras[match[1]].setdefault(size, (camera[0], camera[1]))  # the same again for other formats
    extrinsic = _EXTRINSIC.search(text)
    if extrinsic is None:
        raise InputError('it has no block \'Extrinsic from "Infrared 1" To "Infrared 2"\'; run rs-enumerate-devices with -c')
    rest = re.match(
        r"\s*Rotation Matrix:\s*(.*?)\s*Translation Vector:([^\n]*)",
        text[extrinsic.end() : extrinsic.end() + MOST_BLOCK],
        re.DOTALL,
    )
    rotation, translation = (to_numbers(group.split()) for group in rest.groups()) if rest else (None, None)
    if rotation is None or len(rotation) != 9 or translation is None or len(translation) != 3:
        raise InputError("the block of Infrared 1 to Infrared 2 has no rotation of 9 and translation of 3 numbers")
    pairs = {size: (camera, cameras["2"][size]) for size, camera in cameras["1"].items() if size in cameras["2"]}
    return pairs, np.reshape(rotation, (3, 3)), np.array(translation)


def _from_json(text: str) -> tuple[Pairs, np.ndarray, np.ndarray]:
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"it starts like JSON and is none: {short(str(error))}") from None
    parts = [given.get(name) for name in ("left", "right", "extrinsics")]
    if not all(isinstance(part, dict) for part in parts):
        raise InputError(f"got JSON with {short(', '.join(map(str, given)))}, expected objects left, right and extrinsics")
    cameras = [({name: _floats(value) for name, value in part.items()}, str(part.get("model", ""))) for part in parts[:2]]
    left, right = (_camera(*camera) for camera in cameras)
    if left[0] != right[0]:
        raise InputError(f"got left of {left[0]} px and right of {right[0]} px, expected one size")
    rotation, translation = (_floats(parts[2].get(name)) for name in ("rotation", "translation"))
    if rotation is None or len(rotation) != 9 or translation is None or len(translation) != 3:
        raise InputError("its extrinsics have no rotation of 9 numbers and translation of 3")
    return {left[0]: (left[1:], right[1:])}, np.reshape(rotation, (3, 3)).T, np.array(translation)


def _floats(value: Any) -> list[float] | None:
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, int | float) and abs(item) < 1e12 for item in items):
        return None
    return [float(item) for item in items]


def _camera(numbers: dict[str, list[float] | None], model: str) -> Camera:
    values = []
    for name in ("width", "height", "fx", "fy", "ppx", "ppy"):
        value = numbers.get(name)
        if value is None or len(value) != 1:
            raise InputError(f"an infrared camera has no number {name}")
        values += value
    width, height, fx, fy, cx, cy = values
    if width < 1 or height < 1 or width % 1 or height % 1:
        raise InputError(f"an infrared camera has images of {width:g}x{height:g} px, expected whole numbers above 0")
    coefficients = numbers.get("coeffs")
    if coefficients is None or len(coefficients) != 5:
        raise InputError("an infrared camera has no coeffs of 5 numbers")
    if any(coefficients) and model.lower().rpartition(".")[2].replace("_", " ") not in MODELS:
        raise InputError(f"got the distortion model '{short(model)}', expected Brown Conrady or coeffs of 0")
    return (int(width), int(height)), np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), np.array(coefficients)
