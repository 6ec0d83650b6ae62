"""Scene Flow's FlyingThings3D in its official layout, which is also what ``datasets.procedural.write`` writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets.truth import read_mask, read_truth, wxh
from stereo.config import near_matches
from stereo.image_io import read_image
from stereo.types import InputError, Sample

SPLITS = ("TEST", "TRAIN")
PASSES = ("frames_cleanpass", "frames_finalpass")  # the first one found is read unless the caller names one
LETTERS = "ABC"
FRAMES = "[ABC]/[0-9]*/{view}/[0-9]*.png"  # digits first: "._0006.png" is what macOS leaves beside a copy


def frame_path(base: Path, kind: str, split: str, sequence: str, view: str, frame: str) -> Path:
    """The file of one frame, ``sequence`` being "A/0000". kind: one of PASSES, "disparity" or "occlusion"."""
    return base / kind / split / sequence / view / f"{frame}{'.pfm' if kind == 'disparity' else '.png'}"


def _find_base(root: Path) -> Path:
    """``root`` or its child FlyingThings3D, whichever holds one of PASSES."""
    for base in (root, root / "FlyingThings3D"):
        if any((base / images).is_dir() for images in PASSES):
            return base
    wanted = f"'{root}/[FlyingThings3D/]{{{','.join(PASSES)}}}/{{{','.join(SPLITS)}}}/{{A,B,C}}/NNNN/left/FFFF.png'"
    raise InputError(f"no FlyingThings3D found; looked for {wanted}")


def _read_optional(read: Callable, path: Path, size: tuple[int, ...]) -> Any:
    """What ``read`` makes of the file; None when there is no such file."""
    return read(path, size) if path.is_file() else None


class FlyingThings3D:
    """Frames in the layout::

        ROOT/                                  or its parent, when it is called FlyingThings3D
          frames_cleanpass/                    or frames_finalpass
            {TRAIN,TEST}/{A,B,C}/NNNN/
              left/FFFF.png  right/FFFF.png    8-bit RGB or RGBA (alpha is dropped), of equal size
          disparity/
            {TRAIN,TEST}/{A,B,C}/NNNN/
              left/FFFF.pfm                    px, >= 0, x_right = x_left - d, not finite = unknown
              right/FFFF.pfm                   optional, the same for the right view: x_left = x_right + d
          occlusion/                           optional, as a whole and file by file; not part of the official release
            {TRAIN,TEST}/{A,B,C}/NNNN/
              left/FFFF.png  right/FFFF.png    255 = occluded, 0 = visible

    split: "TRAIN", "TEST", or None for all that is there. images: one of PASSES; None takes the clean pass if there is one.
    A frame is called "flyingthings3d/TEST/A/0000/0006"; frames are sorted by name. What has no file is None in the Sample.
    Raises InputError for another split or pass, when no frame is found, or when a frame lacks one of its images or its left
    disparity; reading a frame raises it for a damaged file, unequal sizes, a negative disparity, or a mask with a third value.
    """

    def __init__(self, root: str | Path, split: str | None = None, images: str | None = None) -> None:
        if split is not None and split not in SPLITS:
            raise InputError(f"unknown split '{split}' of FlyingThings3D: {near_matches(split, SPLITS)}")
        if images is not None and images not in PASSES:
            raise InputError(f"unknown images '{images}' of FlyingThings3D: {near_matches(images, PASSES)}")
        self._base = _find_base(Path(root))
        self._images = images or next(name for name in PASSES if (self._base / name).is_dir())
        self._frames = self._find_frames(SPLITS if split is None else (split,))
        self.names = tuple(f"flyingthings3d/{'/'.join(frame)}" for frame in self._frames)

    def _find_frames(self, splits: tuple[str, ...]) -> list[tuple[str, str, str]]:
        """(split, sequence, frame) of every frame that has an image in either view, sorted. Checks that partners exist."""
        found = set()
        for split in splits:
            top = self._base / self._images / split
            # Both views, so that a lost left image is noticed too. Names are parts of the path below the split, never a
            # replaced "left" in the whole path, which may well contain that word further up.
            for view in ("left", "right"):
                for path in top.glob(FRAMES.format(view=view)):
                    letter, sequence, _, _ = path.relative_to(top).parts
                    found.add((split, f"{letter}/{sequence}", path.stem))
        if not found:
            top = self._base / self._images / (splits[0] if len(splits) == 1 else f"{{{','.join(splits)}}}")
            raise InputError(f"no frame found; looked for '{top}/{{A,B,C}}/NNNN/{{left,right}}/FFFF.png'")
        for frame in found:
            for kind, view in ((self._images, "left"), (self._images, "right"), ("disparity", "left")):
                if not (path := self._path(kind, view, frame)).is_file():
                    raise InputError(f"'{path}' is missing; frame {'/'.join(frame)} needs both images and its left disparity")
        return sorted(found)

    def _path(self, kind: str, view: str, frame: tuple[str, str, str]) -> Path:
        split, sequence, number = frame
        return frame_path(self._base, kind, split, sequence, view, number)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        frame, name = self._frames[index], self.names[index]
        left, right = (read_image(self._path(self._images, view, frame)) for view in ("left", "right"))
        size = left.shape[:2]
        if right.shape[:2] != size:
            raise InputError(f"frame {name}: left is {wxh(size)}, right is {wxh(right.shape)}; expected equal sizes")
        disp, valid = read_truth(self._path("disparity", "left", frame), size)
        disp_right, valid_right = _read_optional(read_truth, self._path("disparity", "right", frame), size) or (None, None)
        return Sample(
            left=left,
            right=right,
            disp=disp,
            valid=valid,
            occluded=_read_optional(read_mask, self._path("occlusion", "left", frame), size),
            disp_right=disp_right,
            valid_right=valid_right,
            occluded_right=_read_optional(read_mask, self._path("occlusion", "right", frame), size),
            name=name,
        )
