"""Fake trees of one frame, with known numbers, in the layouts of the data sets of test_other_datasets."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from stereo.image_io import write_image, write_pfm

H, W = 4, 6


def write(path: Path, values: np.ndarray, *options: int) -> None:
    """Any file by its extension; pictures as they are (RGB), so also 16 bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".pfm":
        write_pfm(path, values)
    else:
        assert cv2.imwrite(str(path), values[..., ::-1] if values.ndim == 3 else values, options)


def write_images(left: Path, right: Path) -> None:
    for path, value in ((left, 10), (right, 20)):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, np.full((H, W, 3), value, np.uint8))


def constant(*channels: int, dtype: type = np.uint8) -> np.ndarray:
    """(H, W[, 3]), 0 at (0, 0)."""
    values = np.tile(np.array(channels, dtype), (H, W, 1))
    values[0, 0] = 0
    return values[..., 0] if len(channels) == 1 else values


def write_sintel(root: Path) -> list[Path]:
    base, file = root / "training", "alley_1/frame_0001.png"
    write_images(base / "final_left" / file, base / "final_right" / file)
    write(base / "disparities" / file, constant(200, 100, 50))
    for kind, column in (("occlusions", 1), ("outofframe", 4)):
        mask = np.zeros((H, W), np.uint8)
        mask[:, column] = 255
        write(base / kind / file, mask)
    return [base / kind / file for kind in ("final_left", "final_right", "disparities", "occlusions")]


def write_scared(root: Path) -> list[Path]:
    base = root / "training"
    write_images(base / "img_left" / "000050.png", base / "img_right" / "000050.png")
    write(base / "disp_left" / "000050.pfm", constant(12, dtype=np.float32))
    return [base / "img_left" / "000050.png", base / "img_right" / "000050.png", base / "disp_left" / "000050.pfm"]


def write_crestereo(root: Path) -> list[Path]:
    left, right = (root / "tree" / "left" / f"ab-12_{view}.jpg" for view in ("left", "right"))
    write_images(left, right)
    write(left.with_name("ab-12_left.disp.png"), constant(3 * 32 + 8, dtype=np.uint16))
    return [left, right, left.with_name("ab-12_left.disp.png")]


def write_instereo2k(root: Path) -> list[Path]:
    folder = root / "part1" / "000001"
    write_images(folder / "left.png", folder / "right.png")
    write(folder / "left_disp.png", constant(4250, dtype=np.uint16))
    return [folder / "left.png", folder / "right.png", folder / "left_disp.png"]


def write_tartanair(root: Path) -> list[Path]:
    flight = root / "office" / "Easy" / "P001"
    left, right = (flight / f"image_{view}" / f"000007_{view}.png" for view in ("left", "right"))
    write_images(left, right)
    write(flight / "depth_left" / "000007_left_depth.npy", constant(5, dtype=np.float32))
    return [left, right, flight / "depth_left" / "000007_left_depth.npy"]


def write_fallingthings(root: Path) -> list[Path]:
    folder = root / "single" / "011_banana_16k" / "temple_0"
    write_images(folder / "000003.left.jpg", folder / "000003.right.jpg")
    write(folder / "000003.left.depth.png", constant(20_000, dtype=np.uint16))
    write_camera(folder)
    return [folder / f"000003.{end}" for end in ("left.jpg", "right.jpg", "left.depth.png")]


def write_camera(folder: Path, **changes: float) -> None:
    camera = {"fx": 768.0, "fy": 768.0, "cx": W / 2, "cy": H / 2, "resX": W, "resY": H, "s": 0} | changes
    settings = {"camera_settings": [{"name": view, "intrinsic_settings": camera} for view in ("left", "right")]}
    (folder / "_camera_settings.json").write_text(json.dumps(settings))


def write_fsd(root: Path) -> list[Path]:
    data = root / "kitchen_3" / "dataset" / "data"
    write_images(data / "left" / "rgb" / "0042.jpg", data / "right" / "rgb" / "0042.jpg")
    write(data / "left" / "disparity" / "0042.png", constant(1, 2, 3))
    return [data / "left" / "rgb" / "0042.jpg", data / "right" / "rgb" / "0042.jpg", data / "left" / "disparity" / "0042.png"]


@dataclass(frozen=True)
class Case:
    name: str  # in the registry
    write: Callable[[Path], list[Path]]  # writes one frame and returns its files, first left, second right, third disparity
    frame: str
    px: float  # everywhere but at (0, 0)
    first_valid: bool  # what a stored 0 at (0, 0) means


CASES = [
    Case("sintel", write_sintel, "sintel/alley_1/frame_0001", 800 + 100 / 64 + 50 / 16384, True),
    Case("scared", write_scared, "scared/000050", 12, False),
    Case("crestereo", write_crestereo, "crestereo/tree/left/ab-12", 3.25, False),
    Case("instereo2k", write_instereo2k, "instereo2k/part1/000001", 42.5, False),
    Case("tartanair", write_tartanair, "tartanair/office/Easy/P001/000007", 16, False),
    Case("fallingthings", write_fallingthings, "fallingthings/single/011_banana_16k/temple_0/000003", 23.04, False),
    Case("fsd", write_fsd, "fsd/kitchen_3/0042", (255 * 255 + 2 * 255 + 3) / 1000, False),
]
