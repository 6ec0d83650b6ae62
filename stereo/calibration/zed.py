"""Stereolabs' factory file SNxxxx.conf: support.stereolabs.com, "How can I find the calibration parameters of my ZED camera?",
and how it is used: github.com/stereolabs/zed-opencv-native.

INI; names in any case. [LEFT_CAM_2K] [RIGHT_CAM_2K] and so on for each of RESOLUTIONS: fx fy cx cy px, k1 k2 p1 p2 k3.
[STEREO]: Baseline, TY_2K, TZ_2K (or TY, TZ) in millimetres, where the right camera is; RX_2K, CV_2K, RZ_2K (or RX, CV, RZ) the
rotation vector, radians, that takes directions of the left camera to the right one. These are the cameras as they are: pictures
that Stereolabs' own SDK hands out are rectified already, and another calibration belongs to them.
"""

from __future__ import annotations

import configparser

import cv2
import numpy as np

from stereo.calibration.parsing import to_numbers
from stereo.calibration.rig import CalibrationFile, Choice, RawRig, Size
from stereo.types import InputError

LAYOUT = "ZED factory .conf"
RESOLUTIONS: dict[str, Size] = {
    "2K": (2208, 1242),
    "FHD1200": (1920, 1200),
    "FHD": (1920, 1080),
    "HD": (1280, 720),
    "SVGA": (960, 600),
    "VGA": (672, 376),
}


def recognises(text: str) -> bool:
    return "[LEFT_CAM_" in text.upper()


def parse(text: str, choice: Choice) -> CalibrationFile:
    ini = configparser.ConfigParser(interpolation=None, default_section="", inline_comment_prefixes=(";", "#"))
    try:
        ini.read_string(text)
    except configparser.Error as error:
        raise InputError(f"it is no INI file: {error.message.splitlines()[0]}") from None
    sections = {name.upper(): dict(ini[name]) for name in ini.sections()}
    held = [name for name in RESOLUTIONS if f"LEFT_CAM_{name}" in sections and f"RIGHT_CAM_{name}" in sections]
    size = choice.of_sizes([RESOLUTIONS[name] for name in held])
    name = next(name for name in held if RESOLUTIONS[name] == size)
    (m1, d1), (m2, d2) = (_camera(sections[f"{side}_CAM_{name}"], f"{side}_CAM_{name}") for side in ("LEFT", "RIGHT"))
    stereo = sections.get("STEREO", {})
    place = [_number(stereo, "STEREO", ("baseline",)), *(_turn(stereo, key, name) for key in ("ty", "tz"))]
    turn, _ = cv2.Rodrigues(np.array([_turn(stereo, key, name) for key in ("rx", "cv", "rz")]))
    return CalibrationFile(LAYOUT, "mm", raw=RawRig(m1, d1, m2, d2, turn, -np.array(place) / 1000, size))


def _camera(section: dict[str, str], where: str) -> tuple[np.ndarray, np.ndarray]:
    fx, fy, cx, cy = (_number(section, where, (key,)) for key in ("fx", "fy", "cx", "cy"))
    distortion = [_number(section, where, (key,), 0.0) for key in ("k1", "k2", "p1", "p2", "k3")]
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), np.array(distortion)


def _turn(stereo: dict[str, str], key: str, resolution: str) -> float:
    return _number(stereo, "STEREO", (f"{key}_{resolution.lower()}", key), 0.0)


def _number(section: dict[str, str], where: str, names: tuple[str, ...], default: float | None = None) -> float:
    given = [section[name] for name in names if name in section]
    if not given and default is not None:
        return default
    numbers = to_numbers(given[:1])
    if not numbers:
        found = f"got {names[-1]} = '{given[0][:40]}'" if given else f"there is no {names[-1]}"
        raise InputError(f"section [{where}]: {found}, expected a number")
    return numbers[0]
