"""ETH3D two-view on a fake tree, and the genuine scene when it is there; so are signed disparities of a set with no reader."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets.base import open_dataset
from datasets.eth3d import Eth3d
from datasets.pairs import PairsDataset
from datasets.truth import read_truth
from stereo.geometry import warp_right_to_left
from stereo.image_io import read_image, read_stored, write_image, write_pfm
from stereo.types import InputError

SHARED = Path(__file__).resolve().parents[2] / "shared"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is absent: it holds the genuine files")
H, W = 5, 12


def write_views(folder: Path) -> None:
    """Grey pictures of one channel."""
    folder.mkdir(parents=True, exist_ok=True)
    for view, value in ((0, 10), (1, 20)):
        write_image(folder / f"im{view}.png", np.full((H, W), value, np.uint8))


def write_truth(folder: Path, mask: bool = True, occluded: int = 128) -> None:
    """Disparity = column; row 0 is unknown, row 1 occluded."""
    folder.mkdir(parents=True, exist_ok=True)
    disp = np.tile(np.arange(W, dtype=np.float32), (H, 1))
    disp[0] = np.inf
    write_pfm(folder / "disp0GT.pfm", disp)
    values = np.full((H, W), 255, np.uint8)
    values[0], values[1] = 0, occluded
    if mask:
        (folder / "mask0nocc.png").write_bytes(cv2.imencode(".png", values)[1].tobytes())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The official folders: images and truth apart."""
    root = tmp_path / "ETH3D"
    for scene in ("playground_1l", "delivery_area_1l"):
        write_views(root / "two_view_training" / scene)
        write_truth(root / "two_view_training_gt" / scene)
    write_views(root / "two_view_testing" / "lakeside_1l")
    return root


NAMES = ("eth3d/delivery_area_1l", "eth3d/playground_1l")


def test_images_and_truth_in_folders_of_their_own(root: Path):
    for path in (root.parent, root, root / "two_view_training"):
        assert open_dataset(f"eth3d:{path}").names == NAMES
    assert Eth3d(root / "two_view_training" / "playground_1l").names == NAMES[1:]
    assert Eth3d(root)[0].valid[1:].all()


def test_everything_of_a_scene_in_one_folder(root: Path, tmp_path: Path):
    for scene in (root / "two_view_training").iterdir():
        shutil.copytree(scene, tmp_path / "all" / scene.name)
        shutil.copytree(root / "two_view_training_gt" / scene.name, tmp_path / "all" / scene.name, dirs_exist_ok=True)
    apart, together = Eth3d(root), Eth3d(tmp_path / "all")
    assert together.names == NAMES
    for name in ("left", "right", "disp", "valid", "occluded"):
        assert np.array_equal(getattr(apart[0], name), getattr(together[0], name))
    assert Eth3d(tmp_path / "all" / "playground_1l").names == NAMES[1:]


@pytest.mark.parametrize("occluded", [0, 128])
def test_inf_is_unknown_and_what_is_not_marked_is_occluded(root: Path, occluded: int):
    write_truth(root / "two_view_training_gt" / "playground_1l", occluded=occluded)
    sample = Eth3d(root)[1]
    assert sample.left.shape == (H, W, 3) and (sample.left == 10).all() and (sample.right == 20).all()
    assert not sample.valid[0].any() and sample.valid[1:].all()  # disparity 0 is known
    assert np.array_equal(sample.disp[1:], np.tile(np.arange(W), (H - 1, 1)))
    expected = np.zeros((H, W), bool)
    expected[1] = True
    assert np.array_equal(sample.occluded, expected)
    assert sample.disp_right is sample.occluded_right is None


def test_without_mask_occlusion_is_not_known(root: Path):
    (root / "two_view_training_gt" / "playground_1l" / "mask0nocc.png").unlink()
    assert Eth3d(root)[1].occluded is None
    assert Eth3d(root)[0].occluded is not None


def test_testing_has_no_truth(root: Path):
    for path in (root, root / "two_view_testing", root / "two_view_testing" / "lakeside_1l"):
        dataset = open_dataset(f"eth3d:{path}?split=testing")
        assert dataset.names == ("eth3d/lakeside_1l",)
        assert (dataset[0].disp, dataset[0].valid, dataset[0].occluded) == (None, None, None)
    with pytest.raises(InputError, match="got split 'test' for ETH3D, expected one of training, testing"):
        Eth3d(root, split="test")


@pytest.mark.parametrize(("folder", "split"), [("two_view_testing", "training"), ("two_view_training", "testing")])
def test_a_folder_of_the_other_split(root: Path, folder: str, split: str):
    with pytest.raises(InputError, match=rf"{folder}/.*' is not of the {split} split; give the folder above"):
        Eth3d(root / folder, split)


@pytest.mark.parametrize("lost", ["two_view_training/playground_1l/im1.png", "two_view_training_gt/playground_1l/disp0GT.pfm"])
def test_missing_file(root: Path, lost: str):
    (root / lost).unlink()
    with pytest.raises(InputError, match=rf"{lost}' is missing; eth3d/playground_1l needs it"):
        Eth3d(root)


def test_nothing_found_says_what_was_looked_for(tmp_path: Path):
    with pytest.raises(
        InputError, match=r"no scene found; looked for '.*\[ETH3D\|eth3d/\]\[two_view_training\|.*/\]SCENE/im0.png"
    ):
        Eth3d(tmp_path)


@needs_shared
def test_genuine_scene_equals_its_copy():
    layout = SHARED / "layouts" / "eth3d"
    for path in (layout.parent, layout, layout / "two_view", layout / "two_view" / "playground"):
        dataset = Eth3d(path)
        assert dataset.names == ("eth3d/playground",)
    genuine, copy = dataset[0], PairsDataset(SHARED / "data" / "eth3d" / "playground")[0]
    for name in ("left", "right", "disp", "valid"):
        assert np.array_equal(getattr(genuine, name), getattr(copy, name)), name
    assert genuine.occluded is copy.occluded is None


@needs_shared
def test_signed_disparities_are_read_and_refused(tmp_path: Path):
    """US3D, satellite pairs: float32 TIFF, x_right = x_left - d on both sides of 0, -999 = unknown. It has no reader."""
    stem = SHARED / "layouts" / "us3d_signed" / "JAX_079_006_007"
    stored = read_stored(f"{stem}_LEFT_DSP.tif")
    left, right = (read_image(f"{stem}_{view}_RGB.tif") for view in ("LEFT", "RIGHT"))
    assert stored.dtype == np.float32 and stored.shape == left.shape[:2] == right.shape[:2]
    known = stored != -999
    assert (stored[known].min(), stored[known].max()) == (-30, 9)

    def error(disp: np.ndarray) -> float:
        warped, inside = warp_right_to_left(right, disp)
        return float(np.abs(warped - left)[inside & known].mean())

    assert error(stored) < 0.7 * error(-stored)  # our sign
    write_pfm(tmp_path / "disp.pfm", np.where(known, stored, np.inf))
    with pytest.raises(InputError, match=r"disp.pfm' holds -30 px; .*flip the sign"):
        read_truth(tmp_path / "disp.pfm", stored.shape)
