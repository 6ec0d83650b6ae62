"""Fake trees of the Scene Flow family in every layout, for the tests called test_sceneflow*.py."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets.sceneflow import SceneFlow
from stereo.image_io import write_image, write_pfm

H, W = 3, 4
FLYING, FLYING_TEST, SCENE = "TRAIN/A/0000", "TEST/C/0012", "funnyworld_x2"
DRIVE = "15mm_focallength/scene_forwards/fast"


def picture(path: Path, value: int, width: int = W) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.full((H, width, 3), value, np.uint8))


def disparity(path: Path, value: float | np.ndarray, width: int = W) -> None:
    """value: of all pixels, or an array that broadcasts to them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_pfm(path, np.full((H, width), value, np.float32))


def mask(path: Path, column: int, width: int = W) -> None:
    """A 1-bit PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros((H, width), np.uint8)
    values[:, column] = 255
    path.write_bytes(cv2.imencode(".png", values, [cv2.IMWRITE_PNG_BILEVEL, 1])[1].tobytes())
    assert path.read_bytes()[24] == 1


def frame(images: Path, disparities: Path, group: str, stem: str, value: int, extension: str = ".png") -> None:
    """Left image ``value``, right image ``value`` + 100, left disparity ``value`` px."""
    picture(images / group / "left" / f"{stem}{extension}", value)
    picture(images / group / "right" / f"{stem}{extension}", value + 100)
    disparity(disparities / group / "left" / f"{stem}.pfm", value)


def values(dataset: SceneFlow) -> dict[str, int]:
    """name -> the value that all files of the frame agree on."""
    found = {}
    for sample in dataset:
        value = int(sample.left[0, 0, 0])
        assert (sample.left == value).all() and (sample.right == value + 100).all()
        assert (sample.disp == value).all() and sample.valid.all()
        found[sample.name] = value
    return found


FAMILY = {
    "driving/15mm_focallength/scene_forwards/fast/0001": 1,
    "flyingthings3d/TEST/C/0012/0006": 2,
    "flyingthings3d/TRAIN/A/0000/0006": 3,
    "flyingthings3d/TRAIN/A/0000/0007": 4,
    "monkaa/funnyworld_x2/0001": 5,
}


def family(flying: tuple[Path, Path], monkaa: tuple[Path, Path], driving: tuple[Path, Path], below: str = "") -> None:
    """The frames of FAMILY; pairs are (image folder, disparity folder); Monkaa and Driving lie ``below``."""
    frame(*driving, f"{below}{DRIVE}", "0001", 1)
    frame(*flying, FLYING_TEST, "0006", 2)
    frame(*flying, FLYING, "0006", 3)
    frame(*flying, FLYING, "0007", 4)
    frame(*monkaa, f"{below}{SCENE}", "0001", 5)


def separate(root: Path, images: str = "frames_cleanpass") -> None:
    """torchvision's, which is the three archives unpacked side by side."""
    family(*((root / name / images, root / name / "disparity") for name in ("FlyingThings3D", "Monkaa", "Driving")))


def merged(root: Path) -> None:
    both = (root / "frames_finalpass", root / "disparity")
    family(both, both, both, below="TRAIN/")


def archives(root: Path) -> None:
    flying = (root / "frames_cleanpass", root / "frames_disparity")
    family(flying, *((root / f"{name}_frames_cleanpass", root / f"{name}_disparity") for name in ("monkaa", "driving")))


def marked_archives(root: Path) -> None:
    """FlyingThings3D's own are marked or not."""
    flying = (root / "flying_frames_cleanpass", root / "frames_disparity")
    family(flying, *((root / f"{name}_frames_cleanpass", root / f"{name}_disparity") for name in ("monkaa", "driving")))


def unpacked_archives(root: Path) -> None:
    """Each into a folder of its own name."""
    family(
        *(
            (root / f"{name}__frames_cleanpass" / "frames_cleanpass", root / f"{name}__disparity" / "disparity")
            for name in ("flyingthings3d", "monkaa", "driving")
        )
    )


def flying_above_the_others(root: Path) -> None:
    family(*((folder / "RGB_finalpass", folder / "disparity") for folder in (root, root / "Monkaa", root / "Driving")))


LAYOUTS = [separate, merged, archives, marked_archives, unpacked_archives, flying_above_the_others]


def subset(root: Path, images: str = "image_clean", test: str = "val", sign: int = -1) -> None:
    """Numbered with gaps, left disparities stored with ``sign``; masks of left column 1 and right column 2."""
    for split, stem, value in (("train", "0000000", 1), ("train", "0000002", 2), (test, "0000108", 3)):
        base = root / split
        frame(base / images, base / "disparity", "", stem, value)
        disparity(base / "disparity" / "left" / f"{stem}.pfm", sign * value)
        disparity(base / "disparity" / "right" / f"{stem}.pfm", value)
        for column, view in ((1, "left"), (2, "right")):
            mask(base / "disparity_occlusions" / view / f"{stem}.png", column)
        disparity(base / "disparity_change" / "left" / f"{stem}.pfm", 50)


SUBSET = {f"flyingthings3d-subset/{name}": v for name, v in (("train/0000000", 1), ("train/0000002", 2), ("val/0000108", 3))}


def messages(caplog: pytest.LogCaptureFixture, part: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if part in record.getMessage()]
