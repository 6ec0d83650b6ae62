"""A folder of disparity maps without images: all that is needed to score somebody's files against them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datasets.truth import DISPARITY_FILES, read_truth
from stereo.image_io import read_disparity
from stereo.types import InputError, Sample


class DisparityFolder:
    """Ground truth in the layout::

        ROOT/
          **/NAME.pfm | NAME.npy         px, x_right = x_left - d, unknown: inf or NaN
          **/NAME.png                    16-bit, px * 256, unknown: 0

    An image is called by its path below ROOT without the extension; images are sorted by name. They are of one grey, so
    nothing is textureless, and which pixels are occluded is not known.
    Raises InputError when there is no such file, or when two differ in their extension only; reading raises it for a damaged
    file and for a negative disparity.
    """

    def __init__(self, root: str | Path) -> None:
        top = Path(root)
        paths = sorted(path for path in top.rglob("[!.]*") if path.suffix.lower() in DISPARITY_FILES)
        if not paths:
            raise InputError(f"no disparity map found in '{top}'; looked for files {', '.join(DISPARITY_FILES)}")
        self.paths = {path.relative_to(top).with_suffix("").as_posix(): path for path in paths}
        if len(self.paths) < len(paths):
            twice = next(path for path in paths if path not in self.paths.values())
            raise InputError(f"'{twice}' has a twin of another extension; expected one file for each image")
        self.names = tuple(self.paths)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        name = self.names[index]
        shape = read_disparity(self.paths[name])[0].shape  # no image says what it has to be
        disp, valid = read_truth(self.paths[name], shape)
        grey = np.zeros((*shape, 3), np.uint8)
        return Sample(left=grey, right=grey, disp=disp, valid=valid, name=name)
