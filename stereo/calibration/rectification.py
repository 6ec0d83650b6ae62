"""From two cameras as they are to images whose rows agree. Pure functions on arrays."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from stereo.calibration.rig import RawRig, Size, from_projections
from stereo.geometry import Calibration
from stereo.types import InputError

Maps = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class Rectification:
    """Where each pixel of the rectified images comes from.

    calibration: of the rectified images; doffs is 0, a point at infinity has disparity 0.
    maps:        of left and right, two (H, W) float32 each: column and row, px of the raw image.
    """

    calibration: Calibration
    maps: tuple[Maps, Maps]

    def black(self, view: int) -> np.ndarray:
        """(H, W) bool: pixels of the rectified left (0) or right (1) image that no raw pixel covers."""
        x, y = self.maps[view]
        return ~((x > -0.5) & (y > -0.5) & (x < x.shape[1] - 0.5) & (y < y.shape[0] - 0.5))

    def apply(self, image: np.ndarray, view: int) -> np.ndarray:
        """A raw left (0) or right (1) image (H, W, 3) uint8 -> rectified, of the same size, black where nothing is known."""
        return np.asarray(cv2.remap(image, *self.maps[view], cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT), np.uint8)


def plan_rectification(rig: RawRig, size: Size, alpha: float = 0.0) -> Rectification:
    """Rectify images of ``size`` (width, height), taken by ``rig``, into images of the same size.

    alpha: 0 enlarges until no pixel is black, 1 keeps every pixel of the raw images, between them is between.
    Raises InputError when the cameras are not side by side, left before right, or the numbers make no picture.
    """
    direction = -rig.rotation.T @ rig.translation_m  # of the right camera, seen from the left one
    if abs(direction[1]) > abs(direction[0]) or abs(direction[2]) > abs(direction[0]):
        place = f"{direction.round(4).tolist()} m (x right, y down, z forward)"
        raise InputError(f"the right camera lies at {place} from the left one; expected them side by side")
    if direction[0] < 0:
        fix = "exchange the images, and the cameras of the calibration"
        raise InputError(f"the right camera lies {-direction[0]:g} m to the left of the left one: {fix}")
    # As rows and columns: OpenCV 5 reads an array of one dimension in another way.
    distortions = rig.distortion_left[None], rig.distortion_right[None]
    cameras = rig.camera_left, distortions[0], rig.camera_right, distortions[1]
    try:
        turn_left, turn_right, left, right, *_ = cv2.stereoRectify(
            *cameras,
            size,
            rig.rotation,
            rig.translation_m[:, None],
            flags=cv2.CALIB_ZERO_DISPARITY,
            alpha=alpha,
            newImageSize=size,
        )
        calibration = from_projections(left, right)
        maps = [
            cv2.initUndistortRectifyMap(camera, distortion, turn, projection, size, cv2.CV_32FC1)
            for camera, distortion, turn, projection in zip(
                cameras[::2], cameras[1::2], (turn_left, turn_right), (left, right), strict=True
            )
        ]
    except cv2.error as error:
        raise InputError(f"OpenCV cannot rectify {size[0]}x{size[1]} px with this calibration: {error.err}") from None
    if not all(np.isfinite(part).all() for pair in maps for part in pair):
        raise InputError("this calibration maps pixels to no finite place; is its distortion that of these images?")
    return Rectification(calibration, ((maps[0][0], maps[0][1]), (maps[1][0], maps[1][1])))
