"""Folders and globs paired by name: every spelling, every refusal, and the pairing rule against its definition."""

from __future__ import annotations

import itertools
import logging
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets.base import open_dataset
from datasets.folders import LAYOUTS, SIDES, Folders, pair_names
from datasets.frames import MissingFilesError
from datasets.manifest import Manifest, write_manifest
from stereo.types import InputError

GENUINE = Path(__file__).resolve().parents[2] / "shared" / "layouts"
H, W = 4, 6


def touch(root: Path, *files: str) -> Path:
    """Empty files: opening a data set looks at names alone."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def pairs(dataset: Folders, root: Path) -> list[tuple[str, str, str]]:
    return [(f.name, f.left.relative_to(root).as_posix(), f.right.relative_to(root).as_posix()) for f in dataset.frames]


# ---------------------------------------------------------------------------------------------------------------------
# Folders


@pytest.mark.parametrize(("left", "right"), LAYOUTS)
def test_known_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture, left: str, right: str):
    touch(tmp_path, f"{left}/b.png", f"{left}/a.JPG", f"{right}/a.png", f"{right}/b.png", "notes/a.png", f"{left}/._b.png")
    touch(tmp_path, f"{left}/Thumbs.db", f"{right}/list.txt")
    with caplog.at_level(logging.INFO):
        dataset = open_dataset(f"folders:{tmp_path}")
    assert pairs(dataset, tmp_path) == [("a", f"{left}/a.JPG", f"{right}/a.png"), ("b", f"{left}/b.png", f"{right}/b.png")]
    assert f"left is '{left}', right is '{right}'" in caplog.text


def test_folders_that_do_not_tell_left_from_right(tmp_path: Path):
    with pytest.raises(InputError, match="absent' is not a folder; expected one that holds the folders left and right"):
        Folders(tmp_path / "absent")
    touch(tmp_path, "image_2/a.png", "image_1/a.png")
    with pytest.raises(InputError, match=r"left from right: expected one of left/right, .*image_2/image_3.*; say which"):
        Folders(tmp_path)
    touch(tmp_path, "image_0/a.png", "image_3/a.png")
    with pytest.raises(InputError, match="left from right: found image_2/image_3, image_0/image_1; say which with left=FOLDER"):
        Folders(tmp_path)
    assert len(Folders(tmp_path, "image_2", "image_3")) == 1


def test_both_or_neither(tmp_path: Path):
    touch(tmp_path, "left/a.png", "right/a.png", "other/a.png")
    for options in ("left=other", "right=other"):
        with pytest.raises(InputError, match="expected both or neither"):
            open_dataset(f"folders:{tmp_path}?{options}")


def test_one_folder_is_not_two(tmp_path: Path):
    """A pair of an image with itself would have disparity 0 everywhere."""
    touch(tmp_path, "left/a.png")
    for options in ("left=left&right=left", "left=left&right=left/*.png", "left=*/a.png&right=left/a.*"):
        with pytest.raises(InputError, match=r"a.png' is selected by left=.* and by right=.*; expected different files"):
            open_dataset(f"folders:{tmp_path}?{options}")


def test_nothing_to_read(tmp_path: Path):
    touch(tmp_path, "left/a.txt", "right/a.png")
    with pytest.raises(InputError, match=r"left' has no file of a kind that is read here; expected .*\.png"):
        Folders(tmp_path)
    for option in ("absent", "absent/*.png"):
        with pytest.raises(InputError, match=r"no folder or file found; looked for .*absent"):
            Folders(tmp_path, option, "right")
    for option in ("/absent/*", "left/[9-0].png"):
        with pytest.raises(InputError, match=r"got '.*', expected a folder or a glob below '|no folder or file found"):
            Folders(tmp_path, option, "right")


def test_two_files_of_one_name(tmp_path: Path):
    touch(tmp_path, "left/a.png", "left/a.jpg", "right/a.png")
    with pytest.raises(InputError, match=r"a.jpg' and '.*a.png' are both called 'a'; keep one"):
        Folders(tmp_path)
    assert pairs(Folders(tmp_path, "left/*.png", "right"), tmp_path) == [("a", "left/a.png", "right/a.png")]


# ---------------------------------------------------------------------------------------------------------------------
# Globs


@pytest.mark.parametrize(
    ("files", "left", "right", "name"),
    [
        (("s1/im0.png", "s1/im1.png"), "*/im0.png", "*/im1.png", "s1"),
        (("s1/im0.png", "s1/im1.png"), "./*/im0.*", "*//im1.*", "s1"),
        (("s1/a/im0.png", "s1/a/im1.png"), "**/im0.png", "**/im1.png", "s1/a"),
        (("im0.png", "im1.png"), "**/im0.png", "**/im1.png", "im0"),
        (("im0.png", "im1.png"), "im0.png", "im1.png", "im0"),
        (("s1/left/01.png", "s1/right/01.png"), "*/left/*.png", "*/right/*.png", "s1/01"),
        (("x/v1.2_l.png", "x/v1.2_r.jpg"), "x/*_l.png", "x/*_r.jpg", "v1.2"),
        (("x/v1.2_l.png", "x/v1.2_r.jpg"), "x/*_l.*", "x/*_r*", "v1.2"),
        (("x/v1.2_l.png", "y/v1.2_r.jpg"), "x/*", "y/*.*", "v1.2_l"),
        (("x/7a.png", "y/7a.png"), "x/?[abc].png", "y/[0-9][!b]*", "7/a"),
        (("x/a(1)_l.png", "x/a(1)_r.png"), "x/a(*)_l.png", "x/a(*)_r.png", "1"),
    ],
)
def test_the_name_is_what_the_wildcards_stand_for(tmp_path: Path, files: tuple[str, str], left: str, right: str, name: str):
    touch(tmp_path, *files)
    assert pairs(Folders(tmp_path, left, right), tmp_path) == [(name, *files)]


def test_options_in_a_spec_may_hold_question_marks(tmp_path: Path):
    touch(tmp_path, "s1/im0.png", "s1/im1.png", "s22/im0.png")
    assert open_dataset(f"folders:{tmp_path}?left=s?/im0.png&right=s?/im1.png").names == ("1",)


def test_a_wildcard_that_is_not_known(tmp_path: Path):
    touch(tmp_path, "left/].png", "right/].png")
    with pytest.raises(InputError, match=r"cannot tell what 'left/\[\]\]\.png' stands for .* expected the wildcards"):
        Folders(tmp_path, "left/[]].png", "right")


# ---------------------------------------------------------------------------------------------------------------------
# Names


@pytest.mark.parametrize(
    ("left", "right"),
    [("a", "a"), ("a_left", "a_right"), ("left_07", "right_07"), ("a_l", "a_r"), ("L12", "R12"), ("imgL", "imgR"),
     ("im0", "im1"), ("0001_0", "0001_1"), ("cam0_0001", "cam1_0001"), ("leftImg8bit", "rightImg8bit"), ("LEFT-1", "RIGHT-1"),
     ("IMLeft", "IMRight"), ("0_l", "0_r"), ("left_0", "right_0"), ("é_l", "é_r"), ("l", "r"), ("a/0", "a/1")],
)  # fmt: skip
def test_names_that_are_partners(left: str, right: str):
    assert pair_names([left], [right]) == {left: right}


@pytest.mark.parametrize(
    ("left", "right"),
    [("a", "b"), ("a_r", "a_l"), ("im1", "im0"), ("left", "Right"), ("a_l_l", "a_r_r"), ("10", "11"), ("al", "ar"),
     ("a_l", "a_R"), ("leftover", "rightover"), ("a_2", "a_3"), ("a_l", "b_r"), ("a0", "a_1"), ("00", "01")],
)  # fmt: skip
def test_names_that_are_none(left: str, right: str):
    first, second = sorted((left, right))
    with pytest.raises(InputError, match=rf"2 of 2 images have no partner: '{first}', '{second}'; expected equal"):
        pair_names([left], [right])


def test_frame_numbers_are_not_sides():
    numbers = [f"im_{number}" for number in range(3)]
    assert pair_names(numbers, numbers) == dict(zip(numbers, numbers, strict=True))
    lefts, rights = ([f"{side}_{number}" for number in range(3)] for side in ("left", "right"))
    assert pair_names(lefts, reversed(rights)) == dict(zip(lefts, rights, strict=True))
    with pytest.raises(InputError, match="1 of 5 images have no partner: 'im_2'"):  # not: im_0 belongs to im_1
        pair_names(numbers, numbers[:2])


def test_names_with_two_partners():
    with pytest.raises(InputError, match="1 images have two partners or more: '0_0'; expected equal names"):
        pair_names(["0_0"], ["0_1", "1_0"])
    with pytest.raises(InputError, match="1 images have two partners or more: '1_1'"):
        pair_names(["0_1", "1_0"], ["1_1"])


def test_only_the_first_few_names_are_listed():
    with pytest.raises(InputError, match=r"200 of 200 images have no partner: 'a00', 'a01', 'a02', \.\.\.; expected"):
        pair_names([f"a{i:02d}" for i in range(100)], [f"b{i:02d}" for i in range(100)])


def partners_by_definition(left: list[str], right: list[str]) -> dict[str, str] | None:
    """The rule as it is told, word by word over all pairs; None where it refuses."""

    def are_partners(a: str, b: str) -> bool:
        if set(left) & set(right):
            return a == b
        words = [re.findall(r"[a-z]+|[0-9]+|_", name) for name in (a, b)]
        if len(words[0]) != len(words[1]):
            return False
        different = [(x, y) for x, y in zip(*words, strict=True) if x != y]
        return len(different) == 1 and SIDES.get(different[0][0]) == different[0][1]

    found = [(a, b) for a in left for b in right if are_partners(a, b)]
    one_to_one = sorted(a for a, _ in found) == sorted(left) and sorted(b for _, b in found) == sorted(right)
    return dict(found) if one_to_one else None


def test_pairing_against_its_definition():
    random = np.random.default_rng(5)
    words = ["l", "r", "left", "right", "0", "1", "2", "_"]
    names = sorted({"".join(parts) for n in (1, 2, 3) for parts in itertools.product(words, repeat=n)})
    side = re.compile(r"(?<![a-z])(l|left)(?![a-z])|(?<![0-9])0(?![0-9])")
    sided = [name for name in names if side.search(name)]
    paired = 0
    for _ in range(1500):
        left = [str(name) for name in random.choice(sided, size=random.integers(1, 4), replace=False)]
        turned = [side.sub(lambda match: SIDES[match[0]], name, count=1) for name in left]
        right = list(dict.fromkeys(str(random.choice(names)) if random.random() < 0.05 else name for name in turned))
        expected = partners_by_definition(left, right)
        paired += expected is not None
        if expected is None:
            with pytest.raises(InputError, match="partner"):
                pair_names(left, right)
        else:
            assert pair_names(left, right) == expected
    assert 300 < paired < 1400


# ---------------------------------------------------------------------------------------------------------------------
# Truth


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder, value in (("left", 10), ("right", 20), ("disp", 512), ("occ", 255)):
        (tmp_path / folder).mkdir()
        for number, name in enumerate(("a_l", "b_l")):
            file = name.replace("_l", "_r") if folder == "right" else name
            array = np.full((H, W), value, np.uint16 if folder == "disp" else np.uint8)
            if folder == "occ":
                array[:, number:] = 0
            assert cv2.imwrite(str(tmp_path / folder / f"{file}.png"), array)
    return tmp_path


def test_truth(root: Path):
    dataset = open_dataset(f"folders:{root}?left=left&right=right&disp=disp&occluded=occ")
    assert dataset.names == ("a_l", "b_l")
    for number, sample in enumerate(dataset):
        assert (sample.left == 10).all() and (sample.right == 20).all()
        assert (sample.disp == 2).all() and sample.valid.all()
        assert sample.occluded.sum(axis=0).tolist() == [H] * number + [0] * (W - number)
    assert Folders(root)[0].disp is None


def test_truth_by_globs_and_its_manifest(root: Path):
    np.save(root / "disp" / "a_d.npy", np.full((H, W), 7, np.float32))
    np.save(root / "disp" / "b_d.npy", np.full((H, W), 8, np.float32))
    dataset = open_dataset(f"folders:{root}?left=left/*_l.png&right=right/*_r.png&disp=disp/*_d.npy")
    assert dataset.names == ("a", "b")
    assert [sample.disp.max() for sample in dataset] == [7, 8]
    write_manifest(dataset, root / "m.csv")
    assert Manifest(root / "m.csv").frames == dataset.frames


@pytest.mark.skipif(not GENUINE.is_dir(), reason=f"{GENUINE} is absent: it holds genuine files")
def test_genuine_files_in_the_folders_of_their_data_set():
    (kitti,) = open_dataset(f"folders:{GENUINE / 'kitti2015' / 'training'}?left=image_2&right=image_3&disp=disp_occ_0")
    assert kitti.name == "000046_10" and kitti.left.shape == (375, 1242, 3)
    assert kitti.valid.mean() == pytest.approx(0.118235, abs=1e-6)  # as in the copy among the plain pairs
    scenes = GENUINE / "middlebury" / "MiddEval3" / "trainingQ"
    (motorcycle,) = open_dataset(f"folders:{scenes}?left=*/im0.png&right=*/im1.png&disp=*/disp0GT.pfm")
    assert motorcycle.name == "Motorcycle" and motorcycle.disp.shape == (497, 741)


def test_lost_files_of_folders_with_equal_names(tmp_path: Path):
    kinds = {"left": ".png", "right": ".jpg", "disp": ".pfm", "occ": ".png"}
    touch(tmp_path, *(f"{kind}/{name}{suffix}" for kind, suffix in kinds.items() for name in "abcdef"))
    lost = [("a", "left/a.png"), ("b", "right/b.jpg"), ("c", "disp/c.pfm"), ("d", "occ/d.png"), ("e", "right/e.jpg")]
    for _, file in lost:
        (tmp_path / file).unlink()
    with pytest.raises(MissingFilesError, match=r"is missing; a needs it, copy it again, .* \(5 such") as caught:
        open_dataset(f"folders:{tmp_path}?disp=disp&occluded=occ")
    assert sorted(caught.value.files) == [(name, tmp_path / file) for name, file in lost]
    assert caught.value.rest.names == ("f",)
    with pytest.raises(InputError, match="3 of 9 images have no partner: 'a', 'b', 'e'"):  # what a glob lacks has no place
        Folders(tmp_path, "left/*", "right/*.jpg")


@pytest.mark.parametrize("option", ["disp", "occluded"])
def test_truth_of_other_images(root: Path, option: str):
    folder = {"disp": "disp", "occluded": "occ"}[option]
    (root / folder / "b_l.png").rename(root / folder / "c_l.png")
    expected = rf"2 names are of left images only or of {option}={folder} only: 'b_l', 'c_l'; expected one file for each"
    with pytest.raises(InputError, match=expected):
        Folders(root, **{option: folder})
    with pytest.raises(InputError, match="4 names are of left images only or of"):
        Folders(root, "left/*_l.png", "right/*_r.png", **{option: f"{folder}/*"})
