"""Pairs in plain folders, the simplest layout with ground truth. Bring your own data in this one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stereo.image_io import read_disparity, read_image
from stereo.types import InputError, Sample

REQUIRED = ("left.png", "right.png", "disp_left.pfm")
# The data set's own mask goes before the one that was computed from its ground truth.
OCCLUSION_MASKS = ("occ_left.png", "occ_left_derived.png")


def _find_scenes(root: Path) -> list[Path]:
    """Every folder at or up to two levels below ``root`` that holds one of REQUIRED, sorted."""
    if not root.is_dir():
        raise InputError(f"'{root}' is not a folder; expected one of the form ROOT/<set>/<scene>/left.png")
    folders = sorted({file.parent for depth in ("", "*/", "*/*/") for name in REQUIRED for file in root.glob(depth + name)})
    if not folders:
        patterns = ", ".join(f"'{root / depth / 'left.png'}'" for depth in ("", "*", "*/*"))
        raise InputError(f"no stereo pair found; looked for {patterns} (with {' and '.join(REQUIRED[1:])} beside it)")
    for folder in folders:
        for name in REQUIRED:
            if not (folder / name).is_file():
                raise InputError(f"'{folder}' has no {name}; a scene is a folder with {', '.join(REQUIRED)}")
    return folders


def _read_truth(path: Path, size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """``disp`` (H, W) float32 px, 0 where unknown, and ``valid`` (H, W) bool."""
    disp, valid = read_disparity(path)
    if disp.shape != size:
        raise InputError(f"'{path}' is {_wxh(disp.shape)}, its image is {_wxh(size)}; expected equal sizes")
    if disp.min() < 0:
        raise InputError(f"'{path}' holds {disp.min():.4g} px; expected x_right = x_left - disp, so disp >= 0: flip the sign")
    return disp, valid


def _read_occlusion(folder: Path, size: tuple[int, ...]) -> np.ndarray | None:
    """(H, W) bool, True = occluded, from the first of OCCLUSION_MASKS that exists; None when there is none."""
    path = next((folder / name for name in OCCLUSION_MASKS if (folder / name).is_file()), None)
    if path is None:
        return None
    mask = read_image(path)[..., 0]
    if mask.shape != size:
        raise InputError(f"'{path}' is {_wxh(mask.shape)}, its image is {_wxh(size)}; expected equal sizes")
    other = np.setdiff1d(mask, (0, 255))
    if other.size:  # Middlebury's mask0nocc.png has 128, and there 255 means the opposite
        raise InputError(f"'{path}' holds the value {other[0]}; expected only 0 (visible) and 255 (occluded)")
    return mask == 255


def _wxh(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"


class PairsDataset:
    """Scenes in the layout::

        ROOT/
          <set>/
            <scene>/
              left.png  right.png      8-bit, rectified, of equal size
              disp_left.pfm            px, x_right = x_left - d, +inf = unknown
              disp_right.pfm           optional, the same for the right view: x_left = x_right + d
              occ_left.png             optional, 255 = occluded, 0 = visible: the data set's own mask
              occ_left_derived.png     optional, read when occ_left.png is absent

    ``root`` may also be one <set> folder or one <scene> folder; a scene is called "<set>/<scene>" in each case. Scenes are
    sorted by path; other files and folders are ignored. Without a mask ``occluded`` is None (not known).
    Raises InputError when no scene is found or a scene lacks a required file; reading a scene raises it for a damaged file,
    unequal sizes, a negative disparity, or a mask with a third value.
    """

    def __init__(self, root: str | Path) -> None:
        self._folders = _find_scenes(Path(root).resolve())  # "." has no name of its own
        self.names = tuple(f"{folder.parent.name}/{folder.name}" for folder in self._folders)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        folder, name = self._folders[index], self.names[index]
        left, right = read_image(folder / "left.png"), read_image(folder / "right.png")
        size = left.shape[:2]
        if right.shape[:2] != size:
            raise InputError(f"'{folder}': left.png is {_wxh(size)}, right.png is {_wxh(right.shape)}; expected equal sizes")
        disp, valid = _read_truth(folder / "disp_left.pfm", size)
        path = folder / "disp_right.pfm"
        disp_right, valid_right = _read_truth(path, size) if path.is_file() else (None, None)
        return Sample(
            left=left,
            right=right,
            disp=disp,
            valid=valid,
            occluded=_read_occlusion(folder, size),
            disp_right=disp_right,
            valid_right=valid_right,
            name=name,
        )
