"""ROS camera_info of both cameras as YAML: wiki.ros.org/camera_calibration_parsers, docs.ros.org sensor_msgs/CameraInfo.

What camera_calibration and camera_info_manager write: image_width, image_height, camera_matrix, distortion_model,
distortion_coefficients, rectification_matrix, projection_matrix, each matrix as rows, cols, data. What `rostopic echo` and
`ros2 topic echo` print, with width, height and K D R P or k d r p, is read, too. One file for each camera, or both as two
documents of one file, the left one first. Lengths are metres: the right camera's P[0,3] is -fx times the baseline.
"""

from __future__ import annotations

import re

import numpy as np

from stereo.calibration.parsing import Entries, need, parse_yaml, take, take_size
from stereo.calibration.rig import CalibrationFile, Choice, RawRig, Size, from_projections
from stereo.types import InputError

LAYOUT = "ROS camera_info YAML"
MODELS = ("plumb_bob", "rational_polynomial")


def recognises(text: str) -> bool:
    return re.search(r"^(projection_matrix|distortion_model|P|p):", text, re.MULTILINE) is not None


def parse(text: str, choice: Choice) -> CalibrationFile:
    cameras = parse_yaml(text) + (parse_yaml(choice.second) if choice.second is not None else [])
    if len(cameras) != 2:
        fix = "name the right camera's file with --calib2" if len(cameras) == 1 else "give one of the left and one of the right"
        raise InputError(f"it holds camera_info of {len(cameras)} camera(s), expected two: {fix}")
    sizes = [take_size(camera, ("image_width", "width"), ("image_height", "height")) for camera in cameras]
    if sizes[0] != sizes[1]:
        raise InputError(f"the left camera has images of {sizes[0]} px, the right one {sizes[1]}; expected one size")
    left, right = (_matrix(camera, ("projection_matrix", "P", "p"), (3, 4)) for camera in cameras)
    rectified = from_projections(left, right)
    return CalibrationFile(LAYOUT, "m", rectified, _raw(cameras, rectified.baseline_m, sizes[0]), sizes[0])


def _matrix(camera: Entries, names: tuple[str, str, str], shape: tuple[int, int]) -> np.ndarray:
    keys = (f"{names[0]}.data", *names[1:])
    return need(take(camera, keys, shape[0] * shape[1]), f"{names[0]}, no {names[1]} and no {names[2]}").reshape(shape)


def _raw(cameras: list[dict[str, str]], baseline_m: float, size: Size | None) -> RawRig | None:
    """The cameras before their rectification; None where a distortion is none of MODELS."""
    optics, turns = [], []
    for camera in cameras:
        if camera.get("distortion_model", MODELS[0]).strip("'\" ") not in ("", *MODELS):
            return None
        distortion = take(camera, ("distortion_coefficients.data", "D", "d"), None)
        if distortion is None or not len(distortion):
            distortion = np.zeros(5)
        optics.append((_matrix(camera, ("camera_matrix", "K", "k"), (3, 3)), distortion))
        turns.append(_matrix(camera, ("rectification_matrix", "R", "r"), (3, 3)))
    # Where turns[i] takes points of camera i to its rectified frame, the right one lies at -shift of the left one.
    shift = np.array([-baseline_m, 0, 0])
    return RawRig(*optics[0], *optics[1], turns[1].T @ turns[0], turns[1].T @ shift, size)
