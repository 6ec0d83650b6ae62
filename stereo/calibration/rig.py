"""What a calibration file tells: a rectified rig (stereo.geometry.Calibration), an unrectified one (RawRig), or both.

Camera frames: x right, y down, z forward. Pixel centres lie at whole numbers. Lengths are metres here, whatever the file has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import numpy as np

from stereo.geometry import Calibration
from stereo.types import InputError

Size = tuple[int, int]  # width, height, px
METRES = {"m": 1.0, "cm": 0.01, "mm": 0.001}
DISTORTIONS = (4, 5, 8, 12, 14)  # numbers of OpenCV's k1 k2 p1 p2 [k3 [k4 k5 k6 [s1 s2 s3 s4 [tx ty]]]]
FOCAL_TOLERANCE = 1e-3  # relative: two cameras of a rectified rig have one focal length


@dataclass(frozen=True, eq=False)
class RawRig:
    """Two cameras as they are, before rectification: a point X of the left frame is rotation @ X + translation_m in the right.

    camera_left, camera_right:         (3, 3) [fx 0 cx; 0 fy cy; 0 0 1], px.
    distortion_left, distortion_right: (N,) in OpenCV's order, N one of DISTORTIONS.
    rotation:                          (3, 3).
    translation_m:                     (3,) metres; its x is negative where the right camera is on the right.
    size:                              of the images in px, None where the file does not say.
    Raises InputError for values that are no such rig.
    """

    camera_left: np.ndarray
    distortion_left: np.ndarray
    camera_right: np.ndarray
    distortion_right: np.ndarray
    rotation: np.ndarray
    translation_m: np.ndarray
    size: Size | None = None

    def __post_init__(self) -> None:
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "size"}
        for name, value in arrays.items():
            if not np.isfinite(value).all():
                raise InputError(f"got a {name} with values that are not finite, expected numbers")
        for name in ("camera_left", "camera_right"):
            check_camera(name, arrays[name])
        for name in ("distortion_left", "distortion_right"):
            if arrays[name].ndim != 1 or len(arrays[name]) not in DISTORTIONS:
                raise InputError(f"got {arrays[name].size} values in {name}, expected one of {DISTORTIONS} (OpenCV's order)")
        turn = self.rotation
        if turn.shape != (3, 3) or not np.allclose(turn @ turn.T, np.eye(3), atol=1e-3) or np.linalg.det(turn) < 0:
            raise InputError("got a rotation between the cameras that is no rotation matrix, expected 3x3, orthonormal")
        if self.translation_m.shape != (3,) or not np.linalg.norm(self.translation_m) > 0:
            raise InputError(f"got the translation {self.translation_m.tolist()} between cameras, expected x y z, not all 0")

    def scaled(self, factor_x: float, factor_y: float) -> RawRig:
        """The same rig for images resized by these factors (as in Calibration.scaled); distortion is of rays and stays."""
        cameras = []
        for camera in (self.camera_left, self.camera_right):
            (fx, _, cx), (_, fy, cy), _ = camera
            cx, cy = (cx + 0.5) * factor_x - 0.5, (cy + 0.5) * factor_y - 0.5
            cameras.append(np.array([[fx * factor_x, 0, cx], [0, fy * factor_y, cy], [0, 0, 1]]))
        size = self.size and (round(self.size[0] * factor_x), round(self.size[1] * factor_y))
        return replace(self, camera_left=cameras[0], camera_right=cameras[1], size=size)


def check_camera(name: str, camera: np.ndarray) -> None:
    """Raise InputError unless ``camera`` is [fx 0 cx; 0 fy cy; 0 0 1] with positive focal lengths."""
    form = camera.shape == (3, 3) and not camera[[0, 1, 2, 2], [1, 0, 0, 1]].any() and camera[2, 2] == 1
    if not form or camera[0, 0] <= 0 or camera[1, 1] <= 0:
        raise InputError(f"got {name} {camera.tolist()}, expected [fx 0 cx; 0 fy cy; 0 0 1] with focal lengths above 0")


@dataclass(frozen=True, eq=False)
class CalibrationFile:
    """The content of one calibration. layout: what it was recognised as. size: of the rectified images, None = not told."""

    layout: str
    unit: str  # of the file's lengths, a key of METRES
    rectified: Calibration | None = None
    raw: RawRig | None = None
    size: Size | None = None

    def in_unit(self, unit: str) -> CalibrationFile:
        """The same file, had its lengths been written in ``unit``."""
        factor = METRES[unit] / METRES[self.unit]
        rectified = self.rectified and replace(self.rectified, baseline_m=self.rectified.baseline_m * factor)
        raw = self.raw and replace(self.raw, translation_m=self.raw.translation_m * factor)
        return replace(self, unit=unit, rectified=rectified, raw=raw)


@dataclass(frozen=True)
class Choice:
    """What a file may leave open. size: of the images, for files that hold several; cameras: of KITTI's four, left and right;
    second: the text of a second file, where a layout has two."""

    size: Size | None = None
    cameras: tuple[int, int] = (2, 3)
    second: str | None = None

    def of_sizes(self, sizes: list[Size]) -> Size:
        """The one of ``sizes`` that is meant. Raises InputError when it is not among them, or not told."""
        told = ", ".join(f"{width}x{height}" for width, height in sizes)
        if not sizes:
            raise InputError("it holds no camera of both sides at one image size")
        if self.size is None and len(sizes) > 1:
            raise InputError(f"it holds image sizes {told}; say which with --calib-size WxH")
        chosen = self.size or sizes[0]
        if chosen not in sizes:
            raise InputError(f"it has no image size {chosen[0]}x{chosen[1]}, it holds {told}; name one with --calib-size WxH")
        return chosen


def from_projections(left: np.ndarray, right: np.ndarray) -> Calibration:
    """A rectified rig from its projection matrices (3, 4) of one frame: [fx 0 cx fx*Tx; 0 fy cy *; 0 0 1 *], Tx metres.

    Raises InputError when the matrices are not of two rectified cameras side by side, left before right.
    """
    fx, fy, (cx, cy) = left[0, 0], left[1, 1], left[:2, 2]
    if not (np.isfinite(left).all() and np.isfinite(right).all() and fx > 0 and fy > 0):
        raise InputError("a projection matrix has no positive focal length; is the camera calibrated?")
    if abs(right[0, 0] - fx) > FOCAL_TOLERANCE * fx or abs(right[1, 1] - fy) > FOCAL_TOLERANCE * fy:
        raise InputError(f"focal lengths of {fx:g} and {right[0, 0]:g} px differ: these matrices are not of a rectified rig")
    baseline = (left[0, 3] - right[0, 3]) / fx
    check_order(baseline)
    return Calibration(float(fx), float(cx), float(cy), float(baseline), float(right[0, 2] - cx), float(fy / fx))


def check_order(baseline_m: float) -> None:
    """Raise InputError unless the right camera lies to the right of the left one by ``baseline_m`` > 0."""
    if not (math.isfinite(baseline_m) and baseline_m > 0):
        why = "left and right are exchanged" if baseline_m < 0 else "that is one camera, or the file of a single one"
        raise InputError(f"the right camera lies {baseline_m:g} m to the right of the left one: {why}")
