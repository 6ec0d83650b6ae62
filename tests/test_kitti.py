"""KITTI 2012, 2015 and Virtual KITTI 2 on fake trees, and the genuine files when they are there."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets.base import open_dataset
from datasets.kitti import Kitti2012, Kitti2015, VirtualKitti2
from datasets.pairs import PairsDataset
from stereo.geometry import left_right_check
from stereo.image_io import write_image
from stereo.types import InputError

SHARED = Path(__file__).resolve().parents[2] / "shared"
H, W = 5, 12


def write_picture(path: Path, height: int = H, width: int = W, value: int = 9) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.full((height, width, 3), value, np.uint8))


def write_stored(path: Path, values: np.ndarray) -> None:
    """Numbers as they are, without the tEXt entries that our own writer adds and KITTI's does not have."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", values)[1].tobytes())


def stored_truth(height: int = H, width: int = W) -> np.ndarray:
    """uint16: row 0 unknown; below, column x holds 256 * x + 1, so that its fraction is lost by whoever rounds."""
    stored = np.tile(256 * np.arange(width) + 1, (height, 1)).astype(np.uint16)
    stored[0] = 0
    return stored


# Folders of left, right, all of the truth, and the truth that is not occluded.
NAMES_2012 = ("colored_0", "colored_1", "disp_occ", "disp_noc")
NAMES_2015 = ("image_2", "image_3", "disp_occ_0", "disp_noc_0")
YEARS = pytest.mark.parametrize(("year", "names"), [(2012, NAMES_2012), (2015, NAMES_2015), (2012, NAMES_2015)])


def write_kitti(root: Path, names: tuple[str, str, str, str], sizes: tuple = ((H, W), (H + 2, W + 3))) -> None:
    """training/ with one frame per size, whose last known row is occluded, and testing/ with as many; all with a frame _11."""
    left, right, occ, noc = names
    for number, (height, width) in enumerate(sizes):
        for split in ("training", "testing"):
            for moment in (10, 11):
                write_picture(root / split / left / f"{number:06d}_{moment}.png", height, width, 10)
                write_picture(root / split / right / f"{number:06d}_{moment}.png", height, width, 20)
        stored = stored_truth(height, width)
        write_stored(root / "training" / occ / f"{number:06d}_10.png", stored)
        stored[-1] = 0
        write_stored(root / "training" / noc / f"{number:06d}_10.png", stored)


@YEARS
def test_px_are_stored_256_times_and_0_is_unknown(tmp_path: Path, year: int, names: tuple[str, str, str, str]):
    write_kitti(tmp_path, names)
    sample = open_dataset(f"kitti{year}:{tmp_path}")[0]
    assert (sample.left == 10).all() and (sample.right == 20).all()
    assert sample.disp.dtype == np.float32
    assert np.array_equal(sample.disp[1:], np.tile(np.arange(W) + np.float32(1 / 256), (H - 1, 1)))
    assert not sample.valid[0].any() and sample.valid[1:].all()
    assert (sample.disp[0] == 0).all()
    assert sample.disp_right is sample.valid_right is sample.occluded_right is None


@YEARS
def test_occluded_is_what_occ_knows_and_noc_does_not(tmp_path: Path, year: int, names: tuple[str, str, str, str]):
    write_kitti(tmp_path, names)
    sample = open_dataset(f"kitti{year}:{tmp_path}")[0]
    expected = np.zeros((H, W), bool)
    expected[-1] = True
    assert np.array_equal(sample.occluded, expected)
    shutil.rmtree(tmp_path / "training" / names[3])
    sample = open_dataset(f"kitti{year}:{tmp_path}")[0]
    assert sample.occluded is None
    assert sample.valid[-1].all()


@YEARS
def test_only_frames_10_whatever_their_sizes(tmp_path: Path, year: int, names: tuple[str, str, str, str]):
    write_kitti(tmp_path, names)
    (tmp_path / "training" / names[0] / "._000000_10.png").write_bytes(b"left behind by a copy")
    dataset = open_dataset(f"kitti{year}:{tmp_path}")
    assert dataset.names == (f"kitti{year}/000000_10", f"kitti{year}/000001_10")
    assert [sample.valid.shape for sample in dataset] == [(H, W), (H + 2, W + 3)]


@YEARS
def test_testing_has_no_truth(tmp_path: Path, year: int, names: tuple[str, str, str, str]):
    write_kitti(tmp_path, names)
    dataset = open_dataset(f"kitti{year}:{tmp_path}?split=testing")
    assert len(dataset) == 2
    assert (dataset[0].disp, dataset[0].valid, dataset[0].occluded) == (None, None, None)
    with pytest.raises(InputError, match=r"got split 'test' for KITTI .*, expected one of training, testing"):
        open_dataset(f"kitti{year}:{tmp_path}?split=test")


def test_the_second_moment_is_not_the_right_view(tmp_path: Path):
    write_kitti(tmp_path, NAMES_2015)
    shutil.copytree(tmp_path / "training" / "disp_occ_0", tmp_path / "training" / "disp_occ_1")
    assert Kitti2015(tmp_path)[0].disp_right is None


def test_2012_linked_to_the_names_of_2015(tmp_path: Path):
    write_kitti(tmp_path / "original", NAMES_2012)
    for split in ("training", "testing"):
        (tmp_path / "linked" / split).mkdir(parents=True)
        for old, new in zip(NAMES_2012, NAMES_2015, strict=True):
            if (tmp_path / "original" / split / old).is_dir():
                (tmp_path / "linked" / split / new).symlink_to(tmp_path / "original" / split / old)
    one, other = Kitti2012(tmp_path / "original")[1], Kitti2012(tmp_path / "linked")[1]
    assert np.array_equal(one.disp, other.disp) and np.array_equal(one.occluded, other.occluded)


def test_2012_in_grey(tmp_path: Path):
    write_kitti(tmp_path, ("image_0", "image_1", "disp_occ", "disp_noc"))
    assert (Kitti2012(tmp_path)[0].left == 10).all()
    write_kitti(tmp_path, NAMES_2012)
    assert Kitti2012(tmp_path).frames[0].left.parent.name == "colored_0"


@pytest.mark.parametrize("path", ["", "KITTI_2015", "KITTI_2015/training"])
def test_root_parent_or_split(tmp_path: Path, path: str):
    write_kitti(tmp_path / "KITTI_2015", NAMES_2015)
    write_kitti(tmp_path / "KITTI_2012", NAMES_2012)
    dataset = Kitti2015(tmp_path / path)
    assert len(dataset) == 2
    assert all("KITTI_2015" in frame.left.parts for frame in dataset.frames)


def test_another_number_than_published_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write_kitti(tmp_path, NAMES_2015)
    with caplog.at_level(logging.INFO):
        Kitti2015(tmp_path)
    assert [record.getMessage() for record in caplog.records] == ["Kitti2015: 2 frames are here, 200 were published"]


@YEARS
@pytest.mark.parametrize("folder", range(4))
def test_missing_file(tmp_path: Path, year: int, names: tuple[str, str, str, str], folder: int):
    write_kitti(tmp_path, names)
    (tmp_path / "training" / names[folder] / "000001_10.png").unlink()
    with pytest.raises(InputError, match=rf"{names[folder]}/000001_10.png' is missing; kitti{year}/000001_10 needs it"):
        open_dataset(f"kitti{year}:{tmp_path}")


def test_nothing_found_says_what_was_looked_for(tmp_path: Path):
    with pytest.raises(InputError, match=r"no KITTI 2015 training split found; looked for .*/training', '.*data_scene_flow/"):
        Kitti2015(tmp_path)
    (tmp_path / "training").mkdir()
    with pytest.raises(InputError, match=r"has no images of KITTI 2012; expected a folder colored_0 or image_2 or image_0"):
        Kitti2012(tmp_path)
    write_picture(tmp_path / "training" / "image_2" / "000000_11.png")
    with pytest.raises(InputError, match=r"no frame found; looked for '.*image_2/NNNNNN_10.png'"):
        Kitti2015(tmp_path)


def test_truth_of_another_size_or_depth(tmp_path: Path):
    write_kitti(tmp_path, NAMES_2015)
    truth = tmp_path / "training" / "disp_occ_0"
    shutil.copy(truth / "000001_10.png", truth / "000000_10.png")
    with pytest.raises(InputError, match=rf"disp_occ_0/000000_10.png' is {W + 3}x{H + 2}, its image is {W}x{H}"):
        Kitti2015(tmp_path)[0]
    write_stored(truth / "000000_10.png", np.ones((H, W), np.uint8))
    with pytest.raises(InputError, match=r"disp_occ_0/000000_10\.png"):
        Kitti2015(tmp_path)[0]


FOCAL_TIMES_BASELINE = 725.0087 * 0.532725


def write_vkitti(root: Path, depths: tuple, apart: bool, places: tuple[str, ...] = ("Scene01/clone",)) -> None:
    """One frame, 00000, for each of ``places``; depths in cm; apart: images and depths in trees of their own."""
    rgb, depth = (root / "vkitti_2.0.3_rgb", root / "vkitti_2.0.3_depth") if apart else (root, root)
    for place in places:
        for camera, centimetres in enumerate(depths):
            write_picture(rgb / place / f"frames/rgb/Camera_{camera}/rgb_00000.jpg", *centimetres.shape, 10 * camera)
            write_stored(depth / place / f"frames/depth/Camera_{camera}/depth_00000.png", centimetres.astype(np.uint16))


def plain_depths() -> tuple[np.ndarray, np.ndarray]:
    """A wall at 386.2 m, 1 px, and the sky above."""
    centimetres = np.full((H, W), 38624)
    centimetres[0] = 65535
    return centimetres, centimetres


def test_depth_in_centimetres_becomes_disparity(tmp_path: Path):
    centimetres = np.random.default_rng(0).integers(1, 65535, (H, W))
    centimetres[3, 4] = 65534
    centimetres[2, 3] = 0
    write_vkitti(tmp_path, (centimetres, centimetres), apart=False)
    sample = open_dataset(f"vkitti2:{tmp_path}")[0]
    assert not sample.valid[2, 3] and sample.disp[2, 3] == 0 and sample.valid.sum() == H * W - 1
    expected = FOCAL_TIMES_BASELINE * 100 / centimetres[sample.valid]
    assert sample.disp[sample.valid] == pytest.approx(expected, rel=1e-6)
    assert np.array_equal(sample.disp, sample.disp_right)


def test_the_sky_is_unknown_and_the_log_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """0.59 px would be a truth that the sky does not have; a centimetre nearer is a depth like any other."""
    depth = np.full((H, W), 65534)
    depth[0], depth[1, :2] = 65535, 65535
    write_vkitti(tmp_path, (depth, depth), apart=False)
    with caplog.at_level(logging.INFO):
        dataset = VirtualKitti2(tmp_path)
        sample = dataset[0]
        _ = dataset[0]
    for disp, valid in ((sample.disp, sample.valid), (sample.disp_right, sample.valid_right)):
        assert np.array_equal(valid, depth < 65535)
        assert (disp[~valid] == 0).all()
        assert disp[valid] == pytest.approx(FOCAL_TIMES_BASELINE / 655.34)
    told = [record.getMessage() for record in caplog.records if "ceiling" in record.getMessage()]
    assert len(told) == 1
    assert told[0].startswith(f"{W + 2} of {H * W} pixels of '") and "Camera_0/depth_00000.png" in told[0]


def test_virtual_masks_come_from_both_views(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    left, right = np.full((H, W), 38624), np.full((H, W), 38624)  # 1 px
    left[:, 6:9] = right[:, 2:5] = round(FOCAL_TIMES_BASELINE / 4 * 100)  # 4 px
    write_vkitti(tmp_path, (left, right), apart=True)
    with caplog.at_level(logging.INFO):
        sample = VirtualKitti2(tmp_path)[0]
    hidden = np.zeros((H, W), bool)
    hidden[:, [0, 3, 4, 5]] = True  # out of frame, and behind the block
    assert np.array_equal(sample.occluded, hidden)
    assert sample.occluded_right.sum() == hidden.sum()
    assert "left-right check" in caplog.text


@pytest.mark.parametrize("apart", [False, True])
def test_virtual_trees(tmp_path: Path, apart: bool):
    root = tmp_path / "vkitti"
    write_vkitti(root, plain_depths(), apart, ("Scene02/fog", "Scene01/clone", "Scene01/15-deg-left"))
    names = ("vkitti2/Scene01/15-deg-left/00000", "vkitti2/Scene01/clone/00000", "vkitti2/Scene02/fog/00000")
    images = root / "vkitti_2.0.3_rgb" if apart else root
    for path in (tmp_path, root, images):
        dataset = VirtualKitti2(path)
        assert dataset.names == names
        assert dataset[2].valid[1:].all()
    assert VirtualKitti2(images / "Scene01").names == names[:2]
    assert open_dataset(f"vkitti2:{root}?variation=fog").names == names[2:]
    with pytest.raises(InputError, match=r"got variation 'snow' for Virtual KITTI 2, expected one of .*clone, fog"):
        VirtualKitti2(root, variation="snow")


@pytest.mark.parametrize("file", ["rgb/Camera_0/rgb", "rgb/Camera_1/rgb", "depth/Camera_0/depth", "depth/Camera_1/depth"])
def test_virtual_missing_file(tmp_path: Path, file: str):
    write_vkitti(tmp_path, plain_depths(), apart=False)
    next((tmp_path / "Scene01/clone/frames").glob(f"{file}_00000.*")).unlink()
    with pytest.raises(InputError, match=rf"{file}_00000.*' is missing; vkitti2/Scene01/clone/00000 needs it"):
        VirtualKitti2(tmp_path)


def test_virtual_nothing_found_or_foreign_depth(tmp_path: Path):
    with pytest.raises(InputError, match=r"no Virtual KITTI 2 found; looked for '.*SceneNN/VARIATION/frames/rgb/Camera_0"):
        VirtualKitti2(tmp_path)
    write_vkitti(tmp_path, plain_depths(), apart=False)
    write_stored(tmp_path / "Scene01/clone/frames/depth/Camera_0/depth_00000.png", np.ones((H, W), np.uint8))
    with pytest.raises(InputError, match=r"depth_00000.png' holds uint8 numbers; expected one uint16 number per pixel"):
        VirtualKitti2(tmp_path)[0]


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is absent: it holds the genuine files")
@pytest.mark.parametrize(("year", "scene"), [(2012, "000000_10"), (2015, "000046_10")])
def test_genuine_files_equal_their_copy(year: int, scene: str):
    dataset = open_dataset(f"kitti{year}:{SHARED / 'layouts'}")
    assert dataset.names == (f"kitti{year}/{scene}",)
    genuine, copy = dataset[0], PairsDataset(SHARED / "data" / f"kitti{year}" / scene)[0]
    for name in ("left", "right", "disp", "valid"):
        assert np.array_equal(getattr(genuine, name), getattr(copy, name)), name
    assert genuine.occluded is copy.occluded is None  # disp_noc is not there


def test_the_derived_mask_is_the_check_of_geometry(tmp_path: Path):
    rng = np.random.default_rng(1)
    left, right = (rng.integers(4000, 65535, (H, W)) for _ in range(2))
    write_vkitti(tmp_path, (left, right), apart=False)
    sample = VirtualKitti2(tmp_path)[0]
    assert np.array_equal(sample.occluded, left_right_check(sample.disp, sample.disp_right, 1.0))
