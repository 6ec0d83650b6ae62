"""ETH3D's two-view stereo: small grey images with laser truth, in the formats of Middlebury's evaluation."""

from __future__ import annotations

from pathlib import Path

from datasets.frames import Frame, NonOccludedMasks, choose, existing, scene_folders
from stereo.types import InputError

PUBLISHED = {"training": 27, "testing": 20}


class Eth3d(NonOccludedMasks):
    """ETH3D low-res two-view, 27 training and 20 testing frames of varying size, in the layout::

        ROOT/                                   or its parent, when it is called ETH3D or eth3d, or one SCENE
          two_view_training/SCENE/
            im0.png  im1.png                    left and right, 8-bit grey (read as three equal channels)
          two_view_training_gt/SCENE/           or everything of a scene in one folder
            disp0GT.pfm                         px, +inf = unknown; semi-dense
            mask0nocc.png                       optional, 255 = known and seen by both cameras
          two_view_testing/SCENE/
            im0.png  im1.png

    ROOT may also be the folder right above the scenes, whatever its name. split: "training" or "testing", which has no truth.
    Occluded is what disp0GT.pfm knows and mask0nocc.png does not mark; without the mask it is not known. The truth is of the
    left view only; calib.txt stays where it is. A frame is called "eth3d/SCENE"; frames are sorted by name.
    Raises InputError for another split, when nothing is found or a frame lacks a file; reading raises it for a damaged file,
    unequal sizes or a negative disparity.
    """

    def __init__(self, root: str | Path, split: str = "training") -> None:
        choose("split", split, tuple(PUBLISHED), "ETH3D")
        folders = scene_folders(Path(root), ("ETH3D", "eth3d"), (f"two_view_{split}", "two_view", ""), ["im0.png"])
        for folder in folders:  # any folder's name will do but the other split's
            if folder.parent.name.startswith("two_view_t") and folder.parent.name != f"two_view_{split}":
                raise InputError(f"'{folder}' is not of the {split} split; give the folder above, or the other split as option")
        super().__init__([self._frame(folder, split) for folder in folders], PUBLISHED[split])

    @staticmethod
    def _frame(folder: Path, split: str) -> Frame:
        name = f"eth3d/{folder.name}"
        if split == "testing":
            return Frame(name, folder / "im0.png", folder / "im1.png")
        apart = folder.parent.with_name(f"{folder.parent.name}_gt") / folder.name
        truth = apart if apart.is_dir() else folder
        return Frame(
            name=name,
            left=folder / "im0.png",
            right=folder / "im1.png",
            disp=truth / "disp0GT.pfm",
            occluded=existing(truth / "mask0nocc.png"),
        )
