"""Pairs in plain folders, the simplest layout with ground truth. Bring your own data in this one."""

from __future__ import annotations

from pathlib import Path

from datasets.frames import Frame, FrameDataset, existing
from stereo.types import InputError

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
    return folders


def _frame(folder: Path) -> Frame:
    return Frame(
        name=f"{folder.parent.name}/{folder.name}",
        left=folder / "left.png",
        right=folder / "right.png",
        disp=folder / "disp_left.pfm",
        disp_right=existing(folder / "disp_right.pfm"),
        occluded=next((folder / name for name in OCCLUSION_MASKS if (folder / name).is_file()), None),
    )


class PairsDataset(FrameDataset):
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
    sorted by path; other files and folders are ignored. Without a mask and without disp_right.pfm ``occluded`` is None.
    Raises InputError when no scene is found or a scene lacks a required file; reading a scene raises it for a damaged file,
    unequal sizes, a negative disparity, or a mask with a third value.
    """

    def __init__(self, root: str | Path) -> None:
        folders = _find_scenes(Path(root).resolve())  # "." has no name of its own
        super().__init__([_frame(folder) for folder in folders])
