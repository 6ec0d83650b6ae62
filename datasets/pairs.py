"""Pairs in plain folders, the simplest layout with ground truth. Bring your own data in this one."""

from __future__ import annotations

from pathlib import Path

from datasets.truth import read_mask, read_truth, wxh
from stereo.image_io import read_image
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
            raise InputError(f"'{folder}': left.png is {wxh(size)}, right.png is {wxh(right.shape)}; expected equal sizes")
        disp, valid = read_truth(folder / "disp_left.pfm", size)
        path = folder / "disp_right.pfm"
        mask = next((folder / name for name in OCCLUSION_MASKS if (folder / name).is_file()), None)
        disp_right, valid_right = read_truth(path, size) if path.is_file() else (None, None)
        return Sample(
            left=left,
            right=right,
            disp=disp,
            valid=valid,
            occluded=None if mask is None else read_mask(mask, size),
            disp_right=disp_right,
            valid_right=valid_right,
            name=name,
        )
