"""CREStereo's rendered training set: 200 000 pairs, disparities of both views in 16-bit PNGs."""

from __future__ import annotations

from pathlib import Path

from datasets.frames import Frame, FrameDataset, existing, find_left_images


class CREStereo(FrameDataset):
    """Frames in the layout, at any depth below ROOT::

        ROOT/{shapenet,reflective,tree,hole}/
          ID_left.jpg  ID_right.jpg       8-bit RGB
          ID_left.disp.png                16-bit grey, px * 32, 0 = unknown
          ID_right.disp.png               optional, the same for the right view

    A frame is called "crestereo/tree/ID". There are no masks; with both disparities they are derived.
    Raises InputError when nothing is found or a frame lacks a file; reading a frame raises it for a damaged file, unequal
    sizes, or a disparity that is no grey picture.
    """

    def __init__(self, root: str | Path) -> None:
        root = Path(root)

        def frame(left: Path) -> Frame:
            number = left.name.removesuffix("_left.jpg")
            return Frame(
                name=("crestereo" / left.parent.relative_to(root) / number).as_posix(),
                left=left,
                right=left.with_name(f"{number}_right.jpg"),
                disp=left.with_name(f"{number}_left.disp.png"),
                disp_right=existing(left.with_name(f"{number}_right.disp.png")),
                scale=1 / 32,
            )

        super().__init__([frame(left) for left in find_left_images(root, ["**/*_left.jpg"], "frame of CREStereo")])
