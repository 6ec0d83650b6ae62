"""TartanAir: rendered flights with the depth of both views."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datasets.frames import Frame, FrameDataset, existing, find_files
from datasets.truth import truth_from_depth
from stereo.geometry import Calibration
from stereo.image_io import read_disparity

CAMERA = Calibration(focal_px=320, cx=320, cy=240, baseline_m=0.25)  # of every frame: disp = 80 / depth


class TartanAir(FrameDataset):
    """Frames in the layout::

        ROOT/ENV/{Easy,Hard}/PNNN/                     or any folder above or within
          image_left/NNNNNN_left.png                   8-bit RGB, 640x480
          image_right/NNNNNN_right.png
          depth_left/NNNNNN_left_depth.npy             float, m; 0 or not finite = unknown; the sky is far, about 10000
          depth_right/NNNNNN_right_depth.npy           optional, the same for the right view

    A frame is called "tartanair/ENV/Easy/PNNN/NNNNNN". There are no masks; with both depths they are derived.
    RAFT-Stereo leaves out seasonsforest_winter/Easy; here nothing is left out.
    Raises InputError when nothing is found or a frame lacks a file; reading a frame raises it for a damaged file or
    unequal sizes.
    """

    def __init__(self, root: str | Path) -> None:
        root = Path(root)

        def frame(left: Path) -> Frame:
            flight, number = left.parents[1], left.stem.removesuffix("_left")
            return Frame(
                name=("tartanair" / flight.relative_to(root) / number).as_posix(),
                left=left,
                right=flight / "image_right" / f"{number}_right.png",
                disp=flight / "depth_left" / f"{number}_left_depth.npy",
                disp_right=existing(flight / "depth_right" / f"{number}_right_depth.npy"),
            )

        patterns = ["**/image_left/*_left.png"]
        super().__init__([frame(left) for left in find_files(root, patterns, "frame of TartanAir")])

    def read_disparity(self, path: Path, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        metres, _ = read_disparity(path)  # an NPY of floats like any other; unknown becomes 0
        return truth_from_depth(path, metres, size, CAMERA)
