"""InStereo2K: 2 050 photographed indoor pairs, disparities of both views measured with structured light."""

from __future__ import annotations

from pathlib import Path

from datasets.frames import Frame, FrameDataset, existing, find_left_images


class InStereo2K(FrameDataset):
    """Frames in the layout::

        ROOT/{part1,part2,part3,part4,part5,test}/       or ROOT/train/part1/ and so on, or one of these as ROOT
          ID/
            left.png  right.png           8-bit RGB
            left_disp.png                 16-bit grey, px * 100, 0 = unknown
            right_disp.png                optional, the same for the right view

    A frame is called "instereo2k/part1/ID". There are no masks; with both disparities they are derived.
    Raises InputError when nothing is found or a frame lacks a file; reading a frame raises it for a damaged file, unequal
    sizes, or a disparity that is no grey picture.
    """

    def __init__(self, root: str | Path) -> None:
        root = Path(root)

        def frame(left: Path) -> Frame:
            return Frame(
                name=("instereo2k" / left.parent.relative_to(root)).as_posix(),
                left=left,
                right=left.with_name("right.png"),
                disp=left.with_name("left_disp.png"),
                disp_right=existing(left.with_name("right_disp.png")),
                scale=1 / 100,
            )

        patterns = ["*/left.png", "*/*/left.png", "*/*/*/left.png"]
        super().__init__([frame(left) for left in find_left_images(root, patterns, "frame of InStereo2K")])
