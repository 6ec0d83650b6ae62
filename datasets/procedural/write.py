"""Generated scenes as files, in the layout of FlyingThings3D, so that the same loader (and other people's) reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tqdm import tqdm

from datasets.procedural.dataset import GeneratedDataset
from datasets.procedural.textures import USUAL, photographs
from datasets.sceneflow_layouts import LETTERS, PASSES, SPLITS, frame_path
from stereo.config import ContentConfig, near_matches
from stereo.image_io import write_image, write_pfm
from stereo.types import InputError, Sample

FRAME = "0006"  # the first frame of every sequence of the original
PER_LETTER = 10_000  # sequences 0000 to 9999
MAX_SCENES = PER_LETTER * len(LETTERS)


def write_dataset(
    folder: str | Path,
    scenes: int,
    seed: int,
    height: int = 540,
    width: int = 960,
    split: str = "TRAIN",
    progress: bool = True,
    content: ContentConfig = USUAL,
) -> None:
    """Write scenes 0 .. ``scenes``-1 of ``seed``, height x width px each, to a new or empty ``folder``.

    Scene n is the sequence A/nnnn (then B, C) with the single frame 0006: both images in frames_cleanpass, both disparities
    and both occlusion masks. Images and masks are PNG and disparities PFM, so everything reads back as it was rendered.
    Every file appears whole or not at all, and an interrupted run takes the files of its unfinished scene away.
    progress: show a bar on stderr when that is a terminal.
    Raises InputError for a folder that holds anything, an unknown split, impossible numbers, or a place that cannot be
    written.
    """
    folder = Path(folder)
    if split not in SPLITS:
        raise InputError(f"unknown split '{split}': {near_matches(split, SPLITS)}")
    if scenes > MAX_SCENES:
        raise InputError(f"got {scenes} scenes, the layout has room for {MAX_SCENES} in a split; write several folders")
    dataset = GeneratedDataset(seed, scenes, height, width, content=content)
    if content.textures:
        photographs(content.textures)  # refused before the folder is made
    _make_empty(folder)
    for number in tqdm(range(scenes), desc="generate", unit="scene", disable=None if progress else True):
        sequence = f"{LETTERS[number // PER_LETTER]}/{number % PER_LETTER:04d}"
        _write_scene(folder, split, sequence, dataset[number])


def _make_empty(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        occupied = next(folder.iterdir(), None)
    except OSError as error:  # "File exists" (a file of that name), "Permission denied", "Read-only file system"
        raise InputError(f"cannot write to the folder '{folder}': {error.strerror or error}; choose another") from error
    if occupied is not None:
        raise InputError(f"folder '{folder}' is not empty (it holds '{occupied.name}'); choose a new one or empty it first")


def _write_scene(folder: Path, split: str, sequence: str, sample: Sample) -> None:
    assert sample.occluded is not None and sample.occluded_right is not None
    assert sample.disp is not None and sample.disp_right is not None
    # Images last: a scene without them is one that the loader does not look for, should the machine die in between.
    contents = {
        ("disparity", "left"): sample.disp,
        ("disparity", "right"): sample.disp_right,
        ("occlusion", "left"): sample.occluded.astype(np.uint8) * 255,
        ("occlusion", "right"): sample.occluded_right.astype(np.uint8) * 255,
        (PASSES[0], "right"): sample.right,
        (PASSES[0], "left"): sample.left,
    }
    paths = [frame_path(folder, kind, split, sequence, view, FRAME) for kind, view in contents]
    try:
        for path, array in zip(paths, contents.values(), strict=True):
            _make_parent(path)
            (write_pfm if path.suffix == ".pfm" else write_image)(path, array)
    except BaseException:
        for path in paths:
            path.unlink(missing_ok=True)
        raise


def _make_parent(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot create the folder '{path.parent}': {error.strerror or error}") from error
