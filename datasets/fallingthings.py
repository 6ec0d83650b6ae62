"""Falling Things (FAT): rendered household objects with the depth of both views."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from datasets.frames import Frame, FrameDataset, existing, find_left_images
from datasets.truth import truth_from_depth
from stereo.geometry import Calibration
from stereo.image_io import read_stored
from stereo.types import InputError

CAMERA_FILE = "_camera_settings.json"
BASELINE_M = 0.06
METRES = 1e-4  # per stored unit
FARTHEST = 65535  # all that 16 bits can say: at least 6.55 m, and outdoors mostly more


class FallingThings(FrameDataset):
    """Frames in the layout, at any depth below ROOT::

        ROOT/mixed/SCENE/                      and ROOT/single/OBJECT/SCENE/
          NNNNNN.left.jpg  NNNNNN.right.jpg    8-bit RGB; or .png
          NNNNNN.left.depth.png                16-bit grey, 0.1 mm, 0 and 65535 = unknown
          NNNNNN.right.depth.png               optional, the same for the right view
          _camera_settings.json                fx at the size resX x resY; scaled to the size of the image

    disp = fx * 0.06 m / depth. A frame is called "fallingthings/mixed/SCENE/NNNNNN". There are no masks; with both depths they
    are derived. Raises InputError when nothing is found or a frame lacks a file; reading a frame raises it for a damaged file
    (the camera's included) or unequal sizes.
    """

    def __init__(self, root: str | Path) -> None:
        root = Path(root)

        def frame(left: Path) -> Frame:
            number = left.stem.removesuffix(".left")
            return Frame(
                name=("fallingthings" / left.parent.relative_to(root) / number).as_posix(),
                left=left,
                right=left.with_name(f"{number}.right{left.suffix}"),
                disp=left.with_name(f"{number}.left.depth.png"),
                disp_right=existing(left.with_name(f"{number}.right.depth.png")),
                also=(left.with_name(CAMERA_FILE),),
            )

        patterns = ["**/*.left.jpg", "**/*.left.png"]
        super().__init__([frame(left) for left in find_left_images(root, patterns, "frame of Falling Things")])

    def read_disparity(self, path: Path, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        stored = read_stored(path)
        if stored.dtype != np.uint16 or stored.ndim != 2:
            raise InputError(f"'{path}' holds {stored.dtype} of shape {stored.shape}; expected a depth in 16-bit grey")
        metres = np.where(stored < FARTHEST, stored * METRES, 0)
        return truth_from_depth(path, metres, size, _read_camera(path.with_name(CAMERA_FILE), size))


def _read_camera(path: Path, size: tuple[int, int]) -> Calibration:
    """The rig at images of ``size`` (H, W). Both cameras are alike but for their place."""
    try:
        settings = json.loads(path.read_bytes())["camera_settings"][0]["intrinsic_settings"]
        fx, cx, cy, width, height = (float(settings[key]) for key in ("fx", "cx", "cy", "resX", "resY"))
        return Calibration(fx, cx, cy, BASELINE_M).scaled(size[1] / width, size[0] / height)
    except OSError as error:
        raise InputError(f"cannot read camera '{path}': {error.strerror or error}; it lies beside the images") from error
    except (ValueError, LookupError, TypeError, ZeroDivisionError) as error:
        expected = "camera_settings[0].intrinsic_settings with fx, cx, cy, resX, resY"
        raise InputError(f"camera '{path}' is not as expected ({expected}): {error!r}") from error
