"""Middlebury's stereo data sets, 2001 to 2021, and the layouts of its evaluations 2 and 3.

Calibration stays in the scene's calib.txt, which stereo.calibration.middlebury reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.frames import Frame, FrameDataset, NonOccludedMasks, choose, existing, scene_folders
from datasets.truth import read_numbers, wxh
from stereo.types import InputError

SUFFIXES = (".png", ".ppm", ".pgm")


def _picture(folder: Path, stem: str) -> Path:
    """The file ``stem`` with the suffix that is there; re-saved copies of PPM and PGM are PNG, which is also what is missed."""
    return next((path for suffix in SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()), folder / f"{stem}.png")


def _read_scaled(path: Path, size: tuple[int, int], factor: int) -> tuple[np.ndarray, np.ndarray]:
    """disp (H, W) float32 px and valid (H, W) bool of a file of bytes: px * ``factor``, 0 = unknown."""
    stored = read_numbers(path, size, np.uint8)
    return stored.astype(np.float32) / np.float32(factor), stored > 0


class Middlebury2001(FrameDataset):
    """Middlebury 2001, 8 scenes, in the layout::

        ROOT/                                   or its parent, when it is called scenes2001[/data], or one SCENE
          {barn1,barn2,bull,poster,sawtooth,venus}/
            im2.ppm  im6.ppm                    left and right; the other views are ignored
            disp2.pgm  disp6.pgm                bytes, px * 8, 0 = unknown
          map/
            im0.pgm  im1.pgm                    the same as im2 and im6
            disp0.pgm  disp1.pgm                px * 8
          tsukuba/
            scene1.row3.col3.ppm  ...col4.ppm   left and right; some copies call them im3 and im4
            truedisp.row3.col3.pgm              px * 16, left only; some copies call it disp3

    Any of them may be PNG. Masks are derived from the truth of both views; tsukuba's is not known (MiddleburyV2 has it).
    A frame is called "middlebury2001/SCENE"; frames are sorted by name.
    Raises InputError when nothing is found, a scene has another name (its truth may be scaled otherwise) or a frame lacks a
    file; reading raises it for a damaged file or unequal sizes.
    """

    SCENES = ("barn1", "barn2", "bull", "map", "poster", "sawtooth", "tsukuba", "venus")
    FILES = (  # left, right, truth, truth of the right view
        ("im2", "im6", "disp2", "disp6"),
        ("im0", "im1", "disp0", "disp1"),
        ("scene1.row3.col3", "scene1.row3.col4", "truedisp.row3.col3", None),
        ("im3", "im4", "disp3", None),
    )

    def __init__(self, root: str | Path) -> None:
        anchors = [f"{disp}.p[gn][mg]" for _, _, disp, _ in self.FILES]
        folders = scene_folders(Path(root), ("scenes2001", "scenes2001/data", "2001"), ("",), anchors)
        super().__init__([self._frame(folder) for folder in folders], published=len(self.SCENES))

    def _frame(self, folder: Path) -> Frame:
        if folder.name.lower() not in self.SCENES:  # cones and teddy of 2003 have files of the same names, scaled otherwise
            raise InputError(f"'{folder}' is no scene of Middlebury 2001; expected a folder called {', '.join(self.SCENES)}")
        left, right, disp, disp_right = next(files for files in self.FILES if _picture(folder, files[2]).is_file())
        return Frame(
            name=f"middlebury2001/{folder.name}",
            left=_picture(folder, left),
            right=_picture(folder, right),
            disp=_picture(folder, disp),
            disp_right=existing(_picture(folder, disp_right)) if disp_right else None,
        )

    def read_disparity(self, path: Path, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        return _read_scaled(path, size, 16 if path.parent.name.lower() == "tsukuba" else 8)


class _FullSizeTruth(FrameDataset):
    """2003, 2005 and 2006: bytes hold the disparity in px of the full size at every size, so the height tells the divisor."""

    YEAR: int
    FULL_HEIGHT: int  # of the images, px
    DIVISORS: tuple[int, ...]  # how many times smaller the sizes are
    FILES: tuple[str, str, str, str]  # left, right, truth, truth of the right view
    HOMES: tuple[str, ...]
    PUBLISHED: int | None = None

    def __init__(self, root: str | Path, holders: Sequence[str] = ("",), images: str = "") -> None:
        """images: the folder below a scene that its views lie in, if there is one."""
        left, right, disp, disp_right = self.FILES
        frames = [
            Frame(
                name="/".join(filter(None, (f"middlebury{self.YEAR}", folder.name, images))),
                left=_picture(folder / images, left),
                right=_picture(folder / images, right),
                disp=_picture(folder, disp),
                disp_right=existing(_picture(folder, disp_right)),
            )
            for folder in scene_folders(Path(root), self.HOMES, holders, [f"{disp}.p[gn][mg]"])
        ]
        super().__init__(frames, self.PUBLISHED)

    def read_disparity(self, path: Path, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        divisors = {self.FULL_HEIGHT // divisor: divisor for divisor in self.DIVISORS}
        if size[0] not in divisors:
            heights = ", ".join(map(str, divisors))
            raise InputError(
                f"the image of '{path}' is {wxh(size)}; expected a height of {heights} px, which tells how its truth is "
                "scaled: take the original files, not resized ones"
            )
        return _read_scaled(path, size, divisors[size[0]])


class Middlebury2003(_FullSizeTruth):
    """Middlebury 2003, cones and teddy in three sizes, in the layout::

        ROOT/                                   or its parent, when it is called scenes2003[/newdata], or one SCENE
          SCENE/                                cones, teddy (450x375), conesH, teddyH (900x750), conesF, teddyF (1800x1500)
            im2.png  im6.png                    left and right (or .ppm); the other views are ignored
            disp2.png  disp6.png                bytes (or .pgm), 0 = unknown; px * 4 at quarter, * 2 at half, * 1 at full size

    The height of the image tells its size. Masks are derived from the truth of both views.
    A frame is called "middlebury2003/SCENE"; frames are sorted by name. Errors as in Middlebury2001, and for another height.
    """

    YEAR = 2003
    FULL_HEIGHT = 1500
    DIVISORS = (1, 2, 4)
    FILES = ("im2", "im6", "disp2", "disp6")
    HOMES = ("scenes2003", "scenes2003/newdata", "2003")

    def __init__(self, root: str | Path) -> None:
        super().__init__(root)


class Middlebury2005(_FullSizeTruth):
    """Middlebury 2005, 6 scenes with truth in three sizes, in the layout::

        ROOT/                                   or its parent, when it is called scenes2005, or one SCENE
          {FullSize,HalfSize,ThirdSize}/        this level may be absent
            SCENE/
              view1.png  view5.png              left and right; the other views are ignored
              Illum{1,2,3}/Exp{0,1,2}/          optional: the same under three lights, with three exposures each
                view1.png  view5.png
              disp1.png  disp5.png              bytes, 0 = unknown; px at full size, px * 2 at half, px * 3 at third size

    size: "full", "half" or "third"; None takes the first that is there. The height of the image (1110, 555, 370) tells how its
    truth is scaled. illumination, exposure: the numbers of a light and an exposure, for both views; both or neither.
    Scenes without disp1.png (Computer, Drumsticks, Dwarves) are left out. Masks are derived from the truth of both views.
    A frame is called "middlebury2005/SCENE", with "/Illum2/Exp1" behind it where these were asked for; frames are sorted.
    Errors as in Middlebury2001, and for another option or height.
    """

    YEAR = 2005
    FULL_HEIGHT = 1110
    DIVISORS = (1, 2, 3)
    FILES = ("view1", "view5", "disp1", "disp5")
    HOMES = ("scenes2005", "2005")
    PUBLISHED = 6
    SIZES = ("full", "half", "third")

    def __init__(
        self, root: str | Path, size: str | None = None, illumination: str | None = None, exposure: str | None = None
    ) -> None:
        what = f"Middlebury {self.YEAR}"
        choose("size", size, self.SIZES, what)
        choose("illumination", illumination, ("1", "2", "3"), what)
        choose("exposure", exposure, ("0", "1", "2"), what)
        if (illumination is None) != (exposure is None):
            raise InputError(f"got illumination {illumination} and exposure {exposure} for {what}, expected both or neither")
        folders = [f"{name.capitalize()}Size" for name in self.SIZES if size in (None, name)]
        images = "" if illumination is None else f"Illum{illumination}/Exp{exposure}"
        super().__init__(root, [*folders, ""] if size is None else folders, images)


class Middlebury2006(Middlebury2005):
    """Middlebury 2006, 21 scenes: layout, options and names as in Middlebury2005, with 2006 for 2005."""

    YEAR = 2006
    HOMES = ("scenes2006", "2006")
    PUBLISHED = 21


class MiddleburyV2(NonOccludedMasks):
    """The four scenes of the old evaluation, version 2 (tsukuba, venus, teddy, cones), in the layout::

        ROOT/                                   or its parent, when it is called MiddV2, or one SCENE
          SCENE/
            imL.png  imR.png                    left and right
            groundtruth.png                     bytes, px * factor, 0 = unknown
            nonocc.png                          255 = seen by both cameras
            info.txt                            first line: the factor

    all.png and disc.png are ignored: all.png is what groundtruth.png knows. A frame is called "middlebury_v2/SCENE".
    Raises InputError when nothing is found or a frame lacks a file; reading raises it for a damaged file, unequal sizes, or an
    info.txt that does not start with a whole number from 1 to 255.
    """

    def __init__(self, root: str | Path) -> None:
        folders = scene_folders(Path(root), ("MiddV2",), ("",), ["groundtruth.png"])
        frames = [
            Frame(
                name=f"middlebury_v2/{folder.name}",
                left=folder / "imL.png",
                right=folder / "imR.png",
                disp=folder / "groundtruth.png",
                occluded=folder / "nonocc.png",
                also=(folder / "info.txt",),
            )
            for folder in folders
        ]
        super().__init__(frames, published=4)

    @staticmethod
    def _factor(path: Path) -> int:
        try:
            first = path.read_text(encoding="ascii", errors="replace").partition("\n")[0].strip()
        except OSError as error:
            raise InputError(f"cannot read '{path}': {error.strerror}; its first line tells how the truth is scaled") from error
        if not (first.isdigit() and len(first) <= 3 and 1 <= int(first) <= 255):
            raise InputError(f"'{path}' starts with '{first[:40]}', expected the factor of groundtruth.png, from 1 to 255")
        return int(first)

    def read_disparity(self, path: Path, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        return _read_scaled(path, size, self._factor(path.with_name("info.txt")))


class Middlebury(NonOccludedMasks):
    """The evaluation version 3, 15 training and 15 test scenes in three sizes, in the layout::

        ROOT/                                   or its parent, when it is called MiddEval3, or one SCENE
          training{F,H,Q}/                      full, half and quarter size
            SCENE/
              im0.png  im1.png                  left and right
              disp0GT.pfm                       px, +inf = unknown; the header's scale is no factor
              disp1GT.pfm                       optional, the same for the right view
              mask0nocc.png  mask1nocc.png      optional, 255 = seen by both cameras, 128 = occluded, 0 = unknown
          test{F,H,Q}/
            SCENE/im0.png  im1.png

    split: "training" or "test", which has no truth. size: "F", "H" or "Q"; None takes the first of them that is there.
    A mask that is missing is derived where both disparities exist. Vertical disparities (disp0GTy.pfm) are not read.
    A frame is called "middlebury/trainingQ/SCENE"; frames are sorted by name.
    Raises InputError for another split or size, when nothing is found or a frame lacks a file; reading raises it for a damaged
    file, unequal sizes or a negative disparity.
    """

    SIZES = ("F", "H", "Q")

    def __init__(self, root: str | Path, split: str = "training", size: str | None = None) -> None:
        choose("split", split, ("training", "test"), "Middlebury version 3")
        choose("size", size, self.SIZES, "Middlebury version 3")
        holders = [f"{split}{letter}" for letter in self.SIZES if size in (None, letter)]
        folders = scene_folders(Path(root), ("MiddEval3",), holders, ["im0.png"])
        super().__init__([self._frame(folder, split) for folder in folders], published=15)

    @staticmethod
    def _frame(folder: Path, split: str) -> Frame:
        name = f"middlebury/{folder.parent.name}/{folder.name}"
        if split == "test":
            return Frame(name, folder / "im0.png", folder / "im1.png")
        right = existing(folder / "disp1GT.pfm")
        return Frame(
            name=name,
            left=folder / "im0.png",
            right=folder / "im1.png",
            disp=folder / "disp0GT.pfm",
            disp_right=right,
            occluded=existing(folder / "mask0nocc.png"),
            occluded_right=existing(folder / "mask1nocc.png") if right else None,
        )


def _float_frames(name: str, folder: Path, images: str) -> list[Frame]:
    """The frames of a scene of 2014 or 2021: one, or one for each light and exposure below ambient/."""
    if images == "ambient":
        lefts = sorted(folder.glob("ambient/*/im0e*.png"))
        if not lefts:
            raise InputError(f"'{folder}' has no ambient/*/im0e*.png; ambient images are a download of their own")
        rights = [left.with_name(left.name.replace("im0", "im1", 1)) for left in lefts]
        variants = [f"/{left.parent.name}{left.stem.removeprefix('im0')}" for left in lefts]
    else:
        suffix = "" if images == "default" else images
        lefts, rights, variants = [folder / "im0.png"], [folder / f"im1{suffix}.png"], [f"/{suffix}" if suffix else ""]
    disp, disp_right = folder / "disp0.pfm", existing(folder / "disp1.pfm")
    return [
        Frame(f"{name}/{folder.name}{variant}", left, right, disp, disp_right)
        for left, right, variant in zip(lefts, rights, variants, strict=True)
    ]


class Middlebury2014(FrameDataset):
    """Middlebury 2014, 23 scenes with truth, each rectified twice, in the layout::

        ROOT/                                   or its parent, when it is called scenes2014[/datasets], or one scene
          SCENE-perfect/  SCENE-imperfect/      rectified with the true calibration, and with one of everyday quality
            im0.png  im1.png                    left and right
            im1E.png  im1L.png                  the right view with another exposure, with another light
            ambient/L{1,2,...}/                 optional: both views under several lights, each with several exposures
              im0e{0,1,...}.png  im1e{0,1,...}.png
            disp0.pfm  disp1.pfm                px, +inf = unknown, of the left and of the right view

    calibration: "perfect" or "imperfect", None = both. images: "default", "E", "L" (im0 with im1E or im1L), or "ambient": one
    frame for each light and exposure. There are no occlusion files; masks are derived from the truth of both views. Vertical
    disparities, sample counts and deviations are not read.
    A frame is called "middlebury2014/SCENE-perfect", with "/E", "/L" or "/L1e0" behind it for other images.
    Raises InputError for another option, when nothing is found or a frame lacks a file; reading raises it for a damaged file,
    unequal sizes or a negative disparity.
    """

    def __init__(self, root: str | Path, calibration: str | None = None, images: str = "default") -> None:
        choose("calibration", calibration, ("perfect", "imperfect"), "Middlebury 2014")
        choose("images", images, ("default", "E", "L", "ambient"), "Middlebury 2014")
        folders = scene_folders(Path(root), ("scenes2014", "scenes2014/datasets", "2014"), ("",), ["disp0.pfm"])
        if calibration:
            folders = [folder for folder in folders if folder.name.endswith(f"-{calibration}")]
            if not folders:
                raise InputError(
                    f"no scene in '{root}' is of calibration {calibration}; looked for SCENE-{calibration}/disp0.pfm"
                )
        frames = [frame for folder in folders for frame in _float_frames("middlebury2014", folder, images)]
        super().__init__(frames, None if images == "ambient" else 23 if calibration else 46)


class Middlebury2021(FrameDataset):
    """Middlebury 2021, 24 scenes taken with a phone on a robot arm, in the layout::

        ROOT/                                   or its parent, when it is called [scenes2021/]data, or one SCENE
          SCENE/                                artroom1, artroom2, bandsaw1, ...
            im0.png  im1.png                    left and right
            ambient/{F,L,T}{0,1,...}/           optional: both views with flash, lamps or torch, each with several exposures
              im0e{0,1,...}.png  im1e{0,1,...}.png
            disp0.pfm  disp1.pfm                px, +inf = unknown, of the left and of the right view

    images: "default", or "ambient": one frame for each light and exposure. Masks are derived from the truth of both views.
    A frame is called "middlebury2021/SCENE", with "/L0e2" behind it for ambient images. Errors as in Middlebury2014.
    """

    def __init__(self, root: str | Path, images: str = "default") -> None:
        choose("images", images, ("default", "ambient"), "Middlebury 2021")
        homes = ("data", "scenes2021", "scenes2021/data", "2021", "2021/data")
        folders = scene_folders(Path(root), homes, ("",), ["disp0.pfm"])
        frames = [frame for folder in folders for frame in _float_frames("middlebury2021", folder, images)]
        super().__init__(frames, None if images == "ambient" else 24)
