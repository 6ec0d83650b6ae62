"""MPI Sintel stereo: rendered, disparity in the colours of a PNG, two masks of what the right camera does not see."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datasets.frames import Frame, FrameDataset, choose, find_left_images, first_folder
from datasets.truth import check_size, read_coded
from stereo.image_io import read_image

PASSES = ("final", "clean")
PUBLISHED = 1064  # frames
WEIGHTS = (4, 1 / 64, 1 / 16384)  # px per unit of R, G, B


class Sintel(FrameDataset):
    """Frames in the layout::

        ROOT/training/                                 or ROOT itself
          {clean,final}_left/SCENE/frame_NNNN.png      8-bit RGB, one pass is enough
          {clean,final}_right/SCENE/frame_NNNN.png
          disparities/SCENE/frame_NNNN.png             8-bit RGB: px = 4 R + G / 64 + B / 16384, known everywhere
          occlusions/SCENE/frame_NNNN.png              not 0: covered in the right image
          outofframe/SCENE/frame_NNNN.png              not 0: beside the right image

    images: one of PASSES; None takes the final one where it is there. Occluded is what either mask has.
    A frame is called "sintel/SCENE/frame_NNNN".
    Raises InputError for another pass, when nothing is found, or when a frame lacks a file; reading a frame raises it for a
    damaged file, unequal sizes, or a disparity that is no colour picture.
    """

    def __init__(self, root: str | Path, images: str | None = None) -> None:
        choose("images", images, PASSES, "Sintel")
        wanted = [name for name in PASSES if images in (None, name)]
        folders = [f"{base}{name}_left" for name in wanted for base in ("training/", "")]
        left = first_folder(Path(root), folders, f"{images or 'final or clean'} pass of Sintel")
        base, right = left.parent, left.with_name(left.name.replace("left", "right"))

        def frame(path: Path) -> Frame:
            file = path.relative_to(left)
            return Frame(
                name=f"sintel/{file.with_suffix('').as_posix()}",
                left=path,
                right=right / file,
                disp=base / "disparities" / file,
                occluded=base / "occlusions" / file,
                also=(base / "outofframe" / file,),
            )

        frames = [frame(path) for path in find_left_images(base, [f"{left.name}/*/frame_*.png"], "frame of Sintel")]
        super().__init__(frames, PUBLISHED)

    def read_disparity(self, path: Path, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        disp, _ = read_coded(path, size, WEIGHTS)
        return disp, np.ones(size, bool)  # a black pixel is at infinity, not unknown

    def read_occluded(self, path: Path, size: tuple[int, int]) -> np.ndarray:
        outside = path.parents[2] / "outofframe" / path.parent.name / path.name
        return _read_nonzero(path, size) | _read_nonzero(outside, size)


def _read_nonzero(path: Path, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: not only 0 and 255, because "a pixel is set to 1" can be a 1 in eight bits."""
    mask = read_image(path)[..., 0] > 0
    check_size(path, mask.shape, size)
    return mask
