"""TartanAir: rendered flights with the depth of both views."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from datasets.frames import Frame, FrameDataset, choose, existing, find_left_images
from datasets.truth import truth_from_depth
from stereo.geometry import Calibration
from stereo.image_io import read_disparity
from stereo.types import InputError

log = logging.getLogger(__name__)

CAMERA = Calibration(focal_px=320, cx=320, cy=240, baseline_m=0.25)  # of every frame: disp = 80 / depth
UNUSED = ("seasonsforest_winter", "Easy")


class TartanAir(FrameDataset):
    """Frames in the layout::

        ROOT/ENV/{Easy,Hard}/PNNN/                     or any folder above or within
          image_left/NNNNNN_left.png                   8-bit RGB, 640x480
          image_right/NNNNNN_right.png
          depth_left/NNNNNN_left_depth.npy             float, m; 0 or not finite = unknown; the sky is far, about 10000
          depth_right/NNNNNN_right_depth.npy           optional, the same for the right view

    A frame is called "tartanair/ENV/Easy/PNNN/NNNNNN". There are no masks; with both depths they are derived.
    unused: what to do with seasonsforest_winter/Easy, whose depth is bad and which RAFT-Stereo leaves out too: "skip", which
    the log says, or "keep".
    Raises InputError for another option, when nothing is found or left, or a frame lacks a file; reading a frame raises it for
    a damaged file or unequal sizes.
    """

    def __init__(self, root: str | Path, unused: str = "skip") -> None:
        choose("unused", unused, ("skip", "keep"), "TartanAir")
        root = Path(root)
        whole_root = root.resolve()  # the folders of UNUSED may be above

        def frame(left: Path) -> Frame:
            flight, number = left.parents[1], left.stem.removesuffix("_left")
            return Frame(
                name=("tartanair" / flight.relative_to(root) / number).as_posix(),
                left=left,
                right=flight / "image_right" / f"{number}_right.png",
                disp=flight / "depth_left" / f"{number}_left_depth.npy",
                disp_right=existing(flight / "depth_right" / f"{number}_right_depth.npy"),
            )

        def is_unused(left: Path) -> bool:
            return (whole_root / left.relative_to(root)).parts[-5:-3] == UNUSED

        found = find_left_images(root, ["**/image_left/*_left.png"], "frame of TartanAir")
        lefts = [left for left in found if unused == "keep" or not is_unused(left)]
        if not lefts:
            raise InputError(f"'{root}' is of {'/'.join(UNUSED)} only, whose depth is bad; unused=keep reads it")
        if len(lefts) < len(found):
            counts = f"{len(found) - len(lefts)} of {len(found)} frames"
            log.info("TartanAir: %s are of %s, whose depth is bad: left out (unused=keep reads them)", counts, "/".join(UNUSED))
        super().__init__([frame(left) for left in lefts])

    def read_disparity(self, path: Path, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        metres, _ = read_disparity(path)  # an NPY of floats like any other; unknown becomes 0
        return truth_from_depth(path, metres, size, CAMERA)
