"""KITTI 2012 and 2015, sparse laser truth of streets, and the rendered Virtual KITTI 2."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from datasets.frames import Frame, FrameDataset, NonOccludedMasks, choose, first_folder
from datasets.truth import read_numbers
from stereo.geometry import Calibration, depth_to_disparity
from stereo.types import InputError

log = logging.getLogger(__name__)

SPLITS = ("training", "testing")


class _Kitti(NonOccludedMasks):
    """What both years share: 16-bit PNGs of px * 256, 0 = unknown, and only the frames _10 have truth."""

    YEAR: int
    HOMES: tuple[str, ...]  # what people call the folder that holds training/ and testing/
    IMAGES: tuple[tuple[str, str], ...]  # folders of the left and the right view; the first pair that is there is read
    TRUTH: tuple[tuple[str, str], ...]  # folders of the truth of all pixels and of those that are not occluded
    PUBLISHED: tuple[int, int]  # frames of each split

    def __init__(self, root: str | Path, split: str = "training") -> None:
        what = f"KITTI {self.YEAR}"
        choose("split", split, SPLITS, what)
        top = Path(root).resolve()
        top = top.parent if top.name == split else top
        base = first_folder(top, [split, *(f"{home}/{split}" for home in self.HOMES)], f"{what} {split} split")
        views = next((pair for pair in self.IMAGES if (base / pair[0]).is_dir()), None)
        if views is None:
            wanted = " or ".join(left for left, _ in self.IMAGES)
            raise InputError(f"'{base}' has no images of {what}; expected a folder {wanted}")
        left, right = (base / view for view in views)
        # Both views, so that a lost left image is noticed too. Digits first: "._000000_10.png" is what macOS leaves behind.
        files = sorted({path.name for view in (left, right) for path in view.glob("[0-9]*_10.png")})
        if not files:
            raise InputError(f"no frame found; looked for '{left / 'NNNNNN_10.png'}'")
        occ, noc = next((pair for pair in self.TRUTH if (base / pair[0]).is_dir()), self.TRUTH[0])
        frames = [
            Frame(
                name=f"kitti{self.YEAR}/{file.removesuffix('.png')}",
                left=left / file,
                right=right / file,
                disp=base / occ / file if split == "training" else None,
                occluded=base / noc / file if split == "training" and (base / noc).is_dir() else None,
            )
            for file in files
        ]
        super().__init__(frames, self.PUBLISHED[SPLITS.index(split)])

    def read_occluded(self, path: Path, size: tuple[int, int]) -> np.ndarray:
        _, visible = self.read_disparity(path, size)
        return ~visible


class Kitti2012(_Kitti):
    """KITTI 2012, 194 training and 195 testing frames of varying size, in the layout::

        ROOT/                                   or its parent, when it is called one of HOMES; or ROOT/training itself
          training/
            colored_0/NNNNNN_10.png             left, 8-bit RGB; without colour, the grey image_0 and image_1 are read
            colored_1/NNNNNN_10.png             right, of equal size
            disp_occ/NNNNNN_10.png              uint16, px * 256, 0 = unknown; sparse, occluded pixels included
            disp_noc/NNNNNN_10.png              optional, the same without the occluded pixels
          testing/
            colored_0/NNNNNN_10.png  colored_1/NNNNNN_10.png

    The names of KITTI 2015 (image_2, image_3, disp_occ_0, disp_noc_0) work too: many link 2012 to them. Frames _11 are ignored.
    split: "training" or "testing", which has no truth. Occluded is what disp_occ knows and disp_noc does not; without disp_noc
    it is not known. A frame is called "kitti2012/NNNNNN_10"; frames are sorted.
    Raises InputError for another split, when nothing is found or a frame lacks a file; reading raises it for a damaged file or
    unequal sizes.
    """

    YEAR = 2012
    HOMES = ("kitti2012", "KITTI2012", "KITTI_2012", "data_stereo_flow")
    IMAGES = (("colored_0", "colored_1"), ("image_2", "image_3"), ("image_0", "image_1"))
    TRUTH = (("disp_occ", "disp_noc"), ("disp_occ_0", "disp_noc_0"))
    PUBLISHED = (194, 195)


class Kitti2015(_Kitti):
    """KITTI 2015, 200 training and 200 testing frames of varying size, in the layout::

        ROOT/                                   or its parent, when it is called one of HOMES; or ROOT/training itself
          training/
            image_2/NNNNNN_10.png               left, 8-bit RGB
            image_3/NNNNNN_10.png               right, of equal size
            disp_occ_0/NNNNNN_10.png            uint16, px * 256, 0 = unknown; sparse, occluded pixels included
            disp_noc_0/NNNNNN_10.png            optional, the same without the occluded pixels
          testing/
            image_2/NNNNNN_10.png  image_3/NNNNNN_10.png

    Frames _11 are ignored, and disp_occ_1 too: it is the second moment seen from the left, not the right view.
    Options, masks, names and errors as in Kitti2012; a frame is called "kitti2015/NNNNNN_10".
    """

    YEAR = 2015
    HOMES = ("kitti2015", "KITTI2015", "KITTI_2015", "data_scene_flow")
    IMAGES = (("image_2", "image_3"),)
    TRUTH = (("disp_occ_0", "disp_noc_0"),)
    PUBLISHED = (200, 200)


CAMERA = Calibration(focal_px=725.0087, cx=620.5, cy=187.0, baseline_m=0.532725)  # of every frame of Virtual KITTI 2
RGB, DEPTH = "vkitti_2.0.3_rgb", "vkitti_2.0.3_depth"
TURNED = ("15-deg-left", "15-deg-right", "30-deg-left", "30-deg-right")
VARIATIONS = (*TURNED, "clone", "fog", "morning", "overcast", "rain", "sunset")
FRAMES_PER_VARIATION = 2126
CEILING = 65535  # the largest depth that 16 bits hold, 655.35 m: the sky, and whatever else is farther


class VirtualKitti2(FrameDataset):
    """Virtual KITTI 2.0.3, 2126 frames of 1242x375 px in each of ten variations, in the layout::

        ROOT/                                   or its parent, or one SceneNN
          vkitti_2.0.3_rgb/                     both levels may be absent: all archives unpacked into one folder
            SceneNN/VARIATION/frames/rgb/
              Camera_0/rgb_NNNNN.jpg            left, 8-bit RGB
              Camera_1/rgb_NNNNN.jpg            right
          vkitti_2.0.3_depth/
            SceneNN/VARIATION/frames/depth/
              Camera_0/depth_NNNNN.png          uint16, centimetres along the optical axis, 0 and 65535 = unknown
              Camera_1/depth_NNNNN.png          the same for the right view

    disp = 0.532725 m * 725.0087 px / depth. The sky is stored at the ceiling, 655.35 m, which would be 0.59 px and not 0: it is
    unknown, and the log says once how much of a file that is. There are no occlusion files; masks are derived from the truth
    of both views.
    variation: one of VARIATIONS, None = all. A frame is called "vkitti2/SceneNN/VARIATION/NNNNN"; frames are sorted by name.
    Raises InputError for another variation, when nothing is found or a frame lacks a file; reading raises it for a damaged
    file, unequal sizes or a depth that is not 16-bit.
    """

    def __init__(self, root: str | Path, variation: str | None = None) -> None:
        choose("variation", variation, VARIATIONS, "Virtual KITTI 2")
        top = Path(root).resolve()
        below = f"{variation or '*'}/frames/rgb"
        patterns = [below, f"Scene[0-9]*/{below}", f"*/Scene[0-9]*/{below}", f"*/*/Scene[0-9]*/{below}"]
        folders = next((found for pattern in patterns if (found := sorted(top.glob(pattern)))), [])
        frames = [frame for folder in folders for frame in self._frames(folder)]
        if not frames:
            wanted = f"'{top}/[{RGB}/]SceneNN/{variation or 'VARIATION'}/frames/rgb/Camera_0/rgb_NNNNN.jpg'"
            raise InputError(f"no Virtual KITTI 2 found; looked for {wanted}")
        self._ceiling_was_told = False
        one_scene = folders[0].parents[2] == top
        super().__init__(frames, None if one_scene else FRAMES_PER_VARIATION * (1 if variation else len(VARIATIONS)))

    @staticmethod
    def _frames(rgb: Path) -> list[Frame]:
        """The frames of ROOT/SceneNN/VARIATION/frames/rgb."""
        root, scene, variation = rgb.parents[3], rgb.parents[2].name, rgb.parents[1].name
        depth_root = root.with_name(DEPTH) if root.name == RGB else root
        depth = depth_root / scene / variation / "frames" / "depth"
        numbers = sorted({path.stem.removeprefix("rgb_") for path in rgb.glob("Camera_[01]/rgb_[0-9]*.jpg")})
        return [
            Frame(
                name=f"vkitti2/{scene}/{variation}/{number}",
                left=rgb / "Camera_0" / f"rgb_{number}.jpg",
                right=rgb / "Camera_1" / f"rgb_{number}.jpg",
                disp=depth / "Camera_0" / f"depth_{number}.png",
                disp_right=depth / "Camera_1" / f"depth_{number}.png",
            )
            for number in numbers
        ]

    def read_disparity(self, path: Path, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        centimetres = read_numbers(path, size, np.uint16)
        valid = (centimetres > 0) & (centimetres < CEILING)
        beyond = int((centimetres == CEILING).sum())
        if beyond and not self._ceiling_was_told:
            self._ceiling_was_told = True
            log.info("%d of %d pixels of '%s' are at the ceiling of 655.35 m, mostly sky: unknown", beyond, valid.size, path)
        depth = np.where(valid, centimetres, 1) / 100
        return np.where(valid, depth_to_disparity(depth, CAMERA), np.float32(0)), valid
