"""Sintel, SCARED, CREStereo, InStereo2K, TartanAir, Falling Things and FSD on fake trees with known numbers and their traps."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from dataset_trees import (
    CASES,
    Case,
    H,
    W,
    constant,
    write,
    write_camera,
    write_fallingthings,
    write_fsd,
    write_images,
    write_instereo2k,
    write_scared,
    write_sintel,
    write_tartanair,
)

from datasets.base import open_dataset
from datasets.frames import FrameDataset
from datasets.truth import read_coded
from stereo.image_io import read_stored
from stereo.types import InputError, Sample

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The word "left" stands above the data, where replacing it by "right" would lead nowhere."""
    return tmp_path / "left" / "leftovers"


def open_one(name: str, root: Path) -> Sample:
    (sample,) = open_dataset(f"{name}:{root}")
    return sample


# ---------------------------------------------------------------------------------------------------------------------
# What all of them do


@each_case
def test_a_frame(case: Case, root: Path):
    case.write(root)
    dataset = open_dataset(f"{case.name}:{root}")
    assert dataset.names == (case.frame,)
    sample = dataset[0]
    assert sample.name == case.frame
    assert abs(sample.left.astype(int) - 10).max() <= 2 and abs(sample.right.astype(int) - 20).max() <= 2  # JPEG
    expected = np.full((H, W), case.px)
    expected[0, 0] = 0
    assert sample.disp.dtype == np.float32
    np.testing.assert_allclose(sample.disp, expected, rtol=1e-6)
    assert sample.valid.dtype == bool
    assert sample.valid.ravel().tolist() == [case.first_valid] + [True] * (H * W - 1)
    assert sample.disp_right is None


@each_case
@pytest.mark.parametrize("number", [1, 2])
def test_a_missing_file_is_named_when_the_data_set_is_opened(case: Case, number: int, root: Path):
    lost = case.write(root)[number]
    lost.unlink()
    with pytest.raises(InputError, match=f"{lost.name}' is missing; {case.frame} needs it"):
        open_dataset(f"{case.name}:{root}")


@each_case
def test_a_frame_of_which_only_the_right_image_is_left_is_named_too(case: Case, root: Path):
    root = root / "bright" / "left_and_right"
    left, right = (path.relative_to(root) for path in case.write(root)[:2])
    left, right = (root / re.sub(r"\d(?=\D*$)", "9", path.as_posix()) for path in (left, right))  # the last digit
    right.parent.mkdir(exist_ok=True)
    right.write_bytes(b"a right image")
    right.with_name(f"._{right.name}").write_bytes(b"no picture")
    with pytest.raises(InputError, match=f"{re.escape(str(left))}' is missing"):
        open_dataset(f"{case.name}:{root}")


@each_case
def test_nothing_found_says_what_was_looked_for(case: Case, root: Path):
    left = case.write(root)[0]
    left.unlink()
    with pytest.raises(InputError, match=r"no .* found; looked for .*left"):
        open_dataset(f"{case.name}:{root}")
    with pytest.raises(InputError, match=r"no .* found; looked for .*absent"):
        open_dataset(f"{case.name}:{root / 'absent'}")


@each_case
def test_what_macos_leaves_behind_is_no_frame(case: Case, root: Path):
    left = case.write(root)[0]
    left.with_name(f"._{left.name}").write_bytes(b"no picture")
    assert open_dataset(f"{case.name}:{root}").names == (case.frame,)


@each_case
def test_a_disparity_of_another_size(case: Case, root: Path):
    path = case.write(root)[2]
    stored = np.load(path) if path.suffix == ".npy" else constant(12, dtype=np.float32)
    if path.suffix == ".png":
        stored = read_stored(path)
    write(path, np.concatenate([stored, stored[:, :1]], axis=1))
    with pytest.raises(InputError, match=rf"{path.name}' is {W + 1}x{H}, its image is {W}x{H}"):
        open_one(case.name, root)


@each_case
def test_a_disparity_of_another_kind(case: Case, root: Path):
    """What a viewer or a conversion leaves: grey where colours are digits, colours where grey is a number."""
    path = case.write(root)[2]
    if path.suffix != ".png":
        path.write_bytes(b"damaged")
    else:
        write(path, constant(7) if case.name in ("sintel", "fsd") else constant(7, 8, 9))
    with pytest.raises(InputError, match=path.name):
        open_one(case.name, root)


RIGHT = {
    "crestereo": ("_left.disp.png", "_right.disp.png", 3.25),
    "instereo2k": ("left_disp.png", "right_disp.png", 42.5),
    "tartanair": ("depth_left/000007_left", "depth_right/000007_right", 16.0),
    "fallingthings": ("left.depth.png", "right.depth.png", 23.04),
    "fsd": ("data/left/disparity", "data/right/disparity", 65.538),
}


@pytest.mark.parametrize("case", [case for case in CASES if case.name in RIGHT], ids=lambda case: case.name)
def test_the_right_view_and_masks_from_both(case: Case, root: Path, caplog: pytest.LogCaptureFixture):
    path = case.write(root)[2]
    old, new, px = RIGHT[case.name]
    other = Path(str(path).replace(old, new))
    other.parent.mkdir(parents=True, exist_ok=True)
    other.write_bytes(path.read_bytes())
    with caplog.at_level(logging.INFO):
        sample = open_one(case.name, root)
    np.testing.assert_allclose(sample.disp_right[sample.valid_right], px, rtol=1e-6)
    assert sample.valid_right.sum() == H * W - 1
    out = np.arange(W) < px  # x - d < 0: the left end of the left view, the right end of the right one
    assert (sample.occluded == out)[sample.valid].all() and (sample.occluded_right == out[::-1])[sample.valid_right].all()
    assert "masks come from the left-right check" in caplog.text


# ---------------------------------------------------------------------------------------------------------------------
# The traps of each


@pytest.mark.parametrize("rgb", [(0, 1, 0), (64, 0, 0), (255, 255, 255), (3, 130, 77)])
def test_digits_do_not_overflow_and_lose_nothing(tmp_path: Path, rgb: tuple[int, int, int]):
    write(tmp_path / "x.png", np.full((H, W, 3), rgb, np.uint8))
    disp, valid = read_coded(tmp_path / "x.png", (H, W), (4, 1 / 64, 1 / 16384))
    assert (disp == np.float32((rgb[0] * 65536 + rgb[1] * 256 + rgb[2]) / 16384)).all()  # 24 bits: exact in float32
    assert valid.all()


def test_sintel_is_occluded_where_either_mask_says_so(root: Path):
    write_sintel(root)
    assert open_one("sintel", root).occluded.sum(axis=0).tolist() == [0, H, 0, 0, H, 0]


@pytest.mark.parametrize(("value", "options"), [(1, ()), (1, (cv2.IMWRITE_PNG_BILEVEL, 1)), (255, ())])
def test_sintel_masks_are_read_whatever_stands_for_one(root: Path, value: int, options: tuple[int, ...]):
    files = write_sintel(root)
    mask = np.zeros((H, W), np.uint8)
    mask[:, 2] = value
    write(files[3], mask, *options)
    assert open_one("sintel", root).occluded.sum(axis=0).tolist() == [0, 0, H, 0, H, 0]


def test_sintel_without_one_of_its_masks(root: Path):
    outside = write_sintel(root)[3]
    outside = outside.parents[2] / "outofframe" / "alley_1" / outside.name
    outside.unlink()
    with pytest.raises(InputError, match=r"outofframe/alley_1/frame_0001.png' is missing; sintel/alley_1/frame_0001 needs it"):
        open_dataset(f"sintel:{root}")


def test_sintel_passes(root: Path):
    write_sintel(root)
    file = "alley_1/frame_0001.png"
    assert len(open_dataset(f"sintel:{root / 'training'}")) == 1
    with pytest.raises(InputError, match="no clean pass of Sintel found"):
        open_dataset(f"sintel:{root}?images=clean")
    write_images(root / "training" / "clean_left" / file, root / "training" / "clean_right" / file)
    write(root / "training" / "clean_left" / file, constant(99, 99, 99))
    assert open_dataset(f"sintel:{root}?images=clean")[0].left.max() == 99
    assert open_one("sintel", root).left.max() == 10
    with pytest.raises(InputError, match="got images 'albedo' for Sintel, expected one of final, clean"):
        open_dataset(f"sintel:{root}?images=albedo")
    for view in ("left", "right"):
        shutil.rmtree(root / "training" / f"final_{view}")
    for folder in (root, root / "training"):
        assert open_one("sintel", folder).left.max() == 99
    with pytest.raises(InputError, match="no final pass of Sintel found"):
        open_dataset(f"sintel:{root}?images=final")


def test_sintel_counts_its_frames(root: Path, caplog: pytest.LogCaptureFixture):
    files = write_sintel(root)
    for path in (*files, root / "training" / "outofframe" / "alley_1" / "frame_0001.png"):
        path.with_name("frame_0002.png").write_bytes(path.read_bytes())
    with caplog.at_level(logging.INFO):
        assert len(open_dataset(f"sintel:{root}")) == 2
    assert "2 frames are here, 1064 were published" in caplog.text


def test_scared_is_occluded_at_128_only(root: Path):
    write_scared(root)
    assert open_one("scared", root).occluded is None
    mask = np.full((H, W), 255, np.uint8)
    mask[:, 2], mask[:, 3] = 128, 0
    write(root / "training" / "occ_left" / "000050.png", mask)
    assert open_one("scared", root).occluded.sum(axis=0).tolist() == [0, 0, H, 0, 0, 0]
    assert len(open_dataset(f"scared:{root / 'training'}")) == 1


def test_scared_of_the_other_sign(root: Path):
    write(write_scared(root)[2], np.full((H, W), -3, np.float32))
    with pytest.raises(InputError, match="flip the sign"):
        open_one("scared", root)


@pytest.mark.parametrize(("part", "name"), [("part1", "000001"), ("train/part1", "part1/000001"), ("", "part1/000001")])
def test_instereo2k_from_other_folders(root: Path, part: str, name: str):
    write_instereo2k(root / "train" if part.startswith("train") else root)
    assert open_dataset(f"instereo2k:{root / part.removesuffix('/part1')}").names == (f"instereo2k/{name}",)


def test_tartanair_knows_what_is_no_depth(root: Path):
    path = write_tartanair(root)[2]
    depth = np.full((H, W), 10_000, np.float32)  # the sky
    depth[0, :4] = (0, -1, np.inf, np.nan)
    write(path, depth)
    sample = open_one("tartanair", root)
    assert sample.valid.sum() == H * W - 4 and not sample.valid[0, :4].any()
    assert (sample.disp[0, :4] == 0).all() and sample.disp[1:] == pytest.approx(0.008)


def test_tartanair_opened_at_one_flight(root: Path):
    write_tartanair(root)
    assert open_dataset(f"tartanair:{root / 'office' / 'Easy' / 'P001'}").names == ("tartanair/000007",)


def test_tartanair_leaves_out_what_is_known_to_be_bad(root: Path, caplog: pytest.LogCaptureFixture):
    """seasonsforest_winter/Easy alone: not its Hard flights, and nothing by a name that only holds these words."""
    kept = ["seasonsforest_winter/Hard", "seasonsforest/Easy", "seasonsforest_winter2/Easy"]
    for folder in ("seasonsforest_winter/Easy", "seasonsforest_winter/seasonsforest_winter/Easy", *kept):
        write_tartanair(root / "one")
        (root / folder).parent.mkdir(parents=True, exist_ok=True)
        (root / "one" / "office" / "Easy").rename(root / folder)
    names = sorted(f"tartanair/{folder}/P001/000007" for folder in kept)
    with caplog.at_level(logging.INFO):
        assert open_dataset(f"tartanair:{root}?unused=keep").names[0] == "tartanair/seasonsforest/Easy/P001/000007"
        assert not caplog.records
        assert list(open_dataset(f"tartanair:{root}").names) == names
    assert "2 of 5 frames are of seasonsforest_winter/Easy, whose depth is bad: left out (unused=keep" in caplog.text
    assert len(open_dataset(f"tartanair:{root}?unused=keep")) == 5


@pytest.mark.parametrize("below", ["", "Easy", "Easy/P001", "Easy/P001/image_left/.."])
def test_tartanair_opened_at_what_is_left_out(root: Path, below: str, monkeypatch: pytest.MonkeyPatch):
    write_tartanair(root)
    winter = (root / "office").rename(root / "seasonsforest_winter")
    monkeypatch.chdir(winter / below)
    for path in (winter / below, "."):
        with pytest.raises(InputError, match=r"is of seasonsforest_winter/Easy only, whose depth is bad; unused=keep reads it"):
            open_dataset(f"tartanair:{path}")
        assert len(open_dataset(f"tartanair:{path}?unused=keep")) == 1
    with pytest.raises(InputError, match="got unused 'no' for TartanAir, expected one of skip, keep"):
        open_dataset(f"tartanair:{winter}?unused=no")


def test_fallingthings_scales_the_focal_length_to_the_image(root: Path):
    write_camera(write_fallingthings(root)[0].parent, resX=4 * W, resY=4 * H)
    sample = open_one("fallingthings", root)
    np.testing.assert_allclose(sample.disp[sample.valid], 768 / 4 * 600 / 20_000, rtol=1e-6)


def test_fallingthings_does_not_believe_the_largest_number(root: Path):
    path = write_fallingthings(root)[2]
    stored = np.full((H, W), 65_534, np.uint16)
    stored[1] = 65_535
    write(path, stored)
    sample = open_one("fallingthings", root)
    assert sample.valid.all(axis=1).tolist() == [True, False, True, True] and not sample.valid[1].any()


def test_fallingthings_with_images_that_lost_nothing(root: Path):
    folder = write_fallingthings(root)[0].parent
    for view, value in (("left", 10), ("right", 20)):
        (folder / f"000003.{view}.jpg").unlink()
        write(folder / f"000003.{view}.png", np.full((H, W, 3), value, np.uint8))
        write(folder / f"000003.{view}.seg.png", np.zeros((H, W), np.uint8))
    sample = open_one("fallingthings", root)
    assert (sample.left == 10).all() and (sample.right == 20).all()


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"camera_settings": []}', '{"camera_settings": [{"intrinsic_settings": {"fx": 1}}]}']
)
def test_fallingthings_with_a_camera_that_cannot_be_read(root: Path, text: str):
    write_fallingthings(root)[0].with_name("_camera_settings.json").write_text(text)
    with pytest.raises(InputError, match=r"camera '.*_camera_settings.json'"):
        open_one("fallingthings", root)


def test_fallingthings_without_its_camera(root: Path):
    write_fallingthings(root)[0].with_name("_camera_settings.json").unlink()
    with pytest.raises(InputError, match=r"_camera_settings.json' is missing; fallingthings/single/011_banana_16k/temple_0/0"):
        open_dataset(f"fallingthings:{root}")


@pytest.mark.parametrize("change", [{"fx": -1}, {"resX": 0}, {"fx": float("nan")}])
def test_fallingthings_with_an_impossible_camera(root: Path, change: dict[str, float]):
    write_camera(write_fallingthings(root)[0].parent, **change)
    with pytest.raises(InputError, match=r"camera '.*_camera_settings.json' is not as expected"):
        open_one("fallingthings", root)


def test_fsd_opened_at_one_scene(root: Path):
    write_fsd(root)
    assert open_dataset(f"fsd:{root / 'kitchen_3'}").names == ("fsd/0042",)


def test_frames_are_sorted(root: Path):
    for folder in ("b/1", "a/2", "a/1"):
        write_images(root / folder / "left.png", root / folder / "right.png")
        write(root / folder / "left_disp.png", constant(100, dtype=np.uint16))
    dataset = open_dataset(f"instereo2k:{root}")
    assert isinstance(dataset, FrameDataset)
    assert dataset.names == ("instereo2k/a/1", "instereo2k/a/2", "instereo2k/b/1")
