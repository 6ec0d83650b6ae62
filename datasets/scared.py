"""SCARED, endoscopic images with measured depth, rectified and turned into disparities as STTR uses them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datasets.frames import Frame, FrameDataset, existing, find_left_images, first_folder
from datasets.truth import check_size
from stereo.image_io import read_image

OCCLUDED = 128


class Scared(FrameDataset):
    """Frames in the layout, which is not that of the raw release (its images are not rectified)::

        ROOT/training/                    or ROOT itself
          img_left/NAME.png               8-bit RGB, rectified
          img_right/NAME.png
          disp_left/NAME.pfm              px, x_right = x_left - d; 0 or not finite = unknown
          occ_left/NAME.png               optional, 128 = occluded, any other value is not

    A frame is called "scared/NAME". The depth is unknown where a pixel is occluded, and not only there.
    Raises InputError when nothing is found or a frame lacks a file; reading a frame raises it for a damaged file, unequal
    sizes, or a negative disparity.
    """

    def __init__(self, root: str | Path) -> None:
        left = first_folder(Path(root), ["training/img_left", "img_left"], "rectified SCARED")
        base = left.parent

        def frame(path: Path) -> Frame:
            return Frame(
                name=f"scared/{path.stem}",
                left=path,
                right=base / "img_right" / path.name,
                disp=base / "disp_left" / f"{path.stem}.pfm",
                occluded=existing(base / "occ_left" / f"{path.stem}.png"),
            )

        super().__init__([frame(path) for path in find_left_images(base, [f"{left.name}/*.png"], "frame of SCARED")])

    def read_disparity(self, path: Path, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        disp, valid = super().read_disparity(path, size)
        return disp, valid & (disp > 0)

    def read_occluded(self, path: Path, size: tuple[int, int]) -> np.ndarray:
        mask = read_image(path)[..., 0]
        check_size(path, mask.shape, size)
        return mask == OCCLUDED
