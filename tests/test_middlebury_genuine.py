"""Middlebury's genuine files, where they are there: equal to the verified copies, and proved by warping."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from datasets.base import open_dataset
from datasets.pairs import PairsDataset
from stereo.geometry import warp_right_to_left
from stereo.image_io import read_image, read_stored, write_image
from stereo.types import InputError, Sample

SHARED = Path(__file__).resolve().parents[2] / "shared"
LAYOUTS = SHARED / "layouts" / "middlebury"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is absent: it holds the genuine files")


def copies_rule(sample: Sample) -> np.ndarray:
    """How the copies' occ_left_derived.png was made from the same disparities.

    Occluded: the match is more than half a pixel left of the frame, or of the two columns around it (at the edge, the outermost
    two) at least one is known and none that is known agrees within 1 px. Our check asks the nearest column alone, so that it
    also marks rims that this rule spares.
    """
    height, width = sample.disp.shape
    columns = np.arange(width) - sample.disp.astype(np.float64)
    rows, below = np.arange(height)[:, None], np.floor(columns).astype(int).clip(0, width - 2)
    known, near = np.zeros((2, height, width), bool)
    for column in (below, below + 1):
        there = sample.valid_right[rows, column]
        known |= there
        near |= there & (np.abs(sample.disp - sample.disp_right[rows, column]) <= 1)
    return sample.valid & ((columns < -0.5) | (known & ~near))


def assert_same(genuine: Sample, copy: Sample, names: Sequence[str]) -> None:
    for name in names:
        assert np.array_equal(getattr(genuine, name), getattr(copy, name)), name


BOTH_VIEWS = ("left", "right", "disp", "valid", "disp_right", "valid_right")


@pytest.mark.parametrize(
    ("spec", "scene"),
    [("middlebury2003:", "middlebury2003/teddy")]
    + [("middlebury2005:", f"middlebury2005/{s}") for s in ("Art", "Dolls", "Laundry")],
)
def test_genuine_bytes_equal_their_copy(spec: str, scene: str):
    dataset = open_dataset(f"{spec}{LAYOUTS}")
    genuine, folder = dataset[dataset.names.index(scene)], SHARED / "data" / scene
    assert_same(genuine, PairsDataset(folder)[0], BOTH_VIEWS)
    derived = read_stored(folder / "occ_left_derived.png") == 255
    assert np.array_equal(copies_rule(genuine), derived)
    assert (genuine.occluded & derived).sum() > 0.93 * (genuine.occluded | derived).sum()


def test_genuine_v3_equals_its_copy():
    for path in (LAYOUTS, LAYOUTS / "MiddEval3", LAYOUTS / "MiddEval3/trainingQ", LAYOUTS / "MiddEval3/trainingQ/Motorcycle"):
        dataset = open_dataset(f"middlebury:{path}")
        assert dataset.names == ("middlebury/trainingQ/Motorcycle",)
    genuine, folder = dataset[0], SHARED / "data" / "middlebury2014" / "Motorcycle_Q"
    assert_same(genuine, PairsDataset(folder)[0], (*BOTH_VIEWS, "occluded"))
    assert np.array_equal(copies_rule(genuine), read_stored(folder / "occ_left_derived.png") == 255)
    masks = [read_stored(dataset.frames[0].left.with_name(f"mask{view}nocc.png")) for view in (0, 1)]
    for mask, valid, occluded in zip(
        masks, (genuine.valid, genuine.valid_right), (genuine.occluded, genuine.occluded_right), strict=True
    ):
        assert np.array_equal(mask == 128, occluded) and np.array_equal(mask > 0, valid)


@pytest.mark.parametrize("scene", ["middlebury2001/tsukuba", "middlebury2003/teddy"])
def test_genuine_v2_equals_its_copy(scene: str):
    dataset = open_dataset(f"middlebury_v2:{LAYOUTS}")
    index = dataset.names.index(f"middlebury_v2/{Path(scene).name}")
    genuine, frame = dataset[index], dataset.frames[index]
    assert_same(genuine, PairsDataset(SHARED / "data" / scene)[0], ("left", "right", "disp", "valid", "occluded"))
    # all.png, which the copies' masks were made with, says what groundtruth.png knows.
    assert np.array_equal(read_image(frame.left.with_name("all.png"))[..., 0] == 255, genuine.valid)


def test_genuine_tsukuba_equals_its_copy(tmp_path: Path):
    """The official pictures are not there, only the truth under its other name; the views are those of version 2."""
    with pytest.raises(InputError, match=r"tsukuba/im3.png' is missing"):
        open_dataset(f"middlebury2001:{LAYOUTS}")
    (tmp_path / "tsukuba").mkdir()
    shutil.copy(LAYOUTS / "scenes2001/tsukuba/disp3.pgm", tmp_path / "tsukuba/truedisp.row3.col3.pgm")
    for view, column in (("imL", 3), ("imR", 4)):
        write_image(tmp_path / f"tsukuba/scene1.row3.col{column}.ppm", read_image(LAYOUTS / f"MiddV2/tsukuba/{view}.png"))
    genuine = open_dataset(f"middlebury2001:{tmp_path}")[0]
    assert_same(genuine, PairsDataset(SHARED / "data/middlebury2001/tsukuba")[0], ("left", "right", "disp", "valid"))


def warping_error(sample: Sample, times: float) -> float:
    """Mean difference, in grey levels, of the left view and the right one warped by ``times`` the truth, where both see."""
    warped, inside = warp_right_to_left(sample.right, sample.disp * np.float32(times))
    shown = inside & sample.valid & ~sample.occluded
    return float(np.abs(warped - sample.left)[shown].mean())


@pytest.mark.parametrize("spec", ["middlebury:", "middlebury2003:", "middlebury2005:", "middlebury_v2:"])
def test_genuine_views_show_that_the_factor_is_right(spec: str):
    for sample in open_dataset(f"{spec}{LAYOUTS}"):
        right = warping_error(sample, 1)
        for other in (1 / 4, 1 / 3, 1 / 2, 3 / 4, 4 / 3, 3 / 2, 2, 3, 4):
            assert warping_error(sample, other) > 2.5 * right, (sample.name, other)
