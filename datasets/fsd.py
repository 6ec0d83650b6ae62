"""FSD, the rendered training set of FoundationStereo: a million pairs, disparity in the colours of a PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datasets.frames import Frame, FrameDataset, existing, find_left_images
from datasets.truth import read_coded

WEIGHTS = (255 * 255 / 1000, 255 / 1000, 1 / 1000)  # px per unit of R, G, B: digits to base 255, not 256


class FSD(FrameDataset):
    """Frames in the layout::

        ROOT/SCENE/dataset/data/               or ROOT is one SCENE
          left/rgb/NNNN.jpg                    8-bit RGB
          left/disparity/NNNN.png              8-bit RGB: px = (255 * 255 R + 255 G + B) / 1000, black = unknown
          right/rgb/NNNN.jpg
          right/disparity/NNNN.png             optional, the same for the right view

    A frame is called "fsd/SCENE/NNNN". There are no masks; with both disparities they are derived.
    Raises InputError when nothing is found or a frame lacks a file; reading a frame raises it for a damaged file, unequal
    sizes, or a disparity that is no colour picture.
    """

    def __init__(self, root: str | Path) -> None:
        root = Path(root)

        def frame(left: Path) -> Frame:
            data, truth = left.parents[2], f"{left.stem}.png"
            return Frame(
                name=("fsd" / data.parents[1].relative_to(root) / left.stem).as_posix(),
                left=left,
                right=data / "right" / "rgb" / left.name,
                disp=data / "left" / "disparity" / truth,
                disp_right=existing(data / "right" / "disparity" / truth),
            )

        patterns = ["*/dataset/data/left/rgb/*.jpg", "dataset/data/left/rgb/*.jpg"]
        super().__init__([frame(left) for left in find_left_images(root, patterns, "frame of FSD")])

    def read_disparity(self, path: Path, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        return read_coded(path, size, WEIGHTS)
