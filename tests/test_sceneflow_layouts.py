"""Every layout of the Scene Flow family on fake trees gives the same frames, from whichever folder it is opened."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from sceneflow_trees import (
    DRIVE,
    FAMILY,
    FLYING,
    LAYOUTS,
    SCENE,
    SUBSET,
    H,
    archives,
    frame,
    messages,
    picture,
    separate,
    subset,
    values,
)

from datasets import sceneflow
from datasets.base import open_dataset
from datasets.sceneflow import Driving, FlyingThings3D, FlyingThings3DSubset, Monkaa, SceneFlow
from datasets.sceneflow_layouts import EXPECTED_TREE, KINDS, kind_of
from stereo.types import InputError


@pytest.fixture(autouse=True)
def info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


# ---------------------------------------------------------------------------------------------------------------------
# Layouts


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_frames(tmp_path: Path, layout):
    layout(tmp_path / "data")
    for root in (tmp_path, tmp_path / "data"):
        assert values(SceneFlow(root)) == FAMILY
    for name, builder in (("flyingthings3d", FlyingThings3D), ("monkaa", Monkaa), ("driving", Driving)):
        assert values(builder(tmp_path / "data")) == {key: FAMILY[key] for key in FAMILY if key.startswith(name)}
    assert list(values(SceneFlow(tmp_path, split="TEST"))) == ["flyingthings3d/TEST/C/0012/0006"]
    assert len(SceneFlow(tmp_path, split="train")) == 4
    with pytest.raises(InputError, match=r"no TEST frame of Monkaa in '.*', only monkaa TRAIN; choose another split"):
        Monkaa(tmp_path, split="TEST")


@pytest.mark.parametrize("images", [*KINDS["clean"], *KINDS["final"], "frames_cleanpass_webp"])
def test_every_spelling_of_the_images(tmp_path: Path, images: str):
    """Among them STTR's: RGB_finalpass in its read-me, frame_finalpass in its code."""
    extension = ".webp" if images.endswith("webp") else ".png"
    frame(tmp_path / "SCENE_FLOW" / images, tmp_path / "SCENE_FLOW" / "disparity", FLYING, "0006", 3, extension)
    dataset = FlyingThings3D(tmp_path)
    assert dataset.names == ("flyingthings3d/TRAIN/A/0000/0006",)
    assert dataset.frames[0].left == tmp_path / "SCENE_FLOW" / images / FLYING / "left" / f"0006{extension}"
    assert len(FlyingThings3D(tmp_path, images=kind_of(images))) == len(FlyingThings3D(tmp_path, images=images)) == 1


def test_webp_is_decoded(tmp_path: Path):
    frame(tmp_path / "frames_cleanpass_webp", tmp_path / "disparity", FLYING, "0006", 3, ".webp")
    assert abs(FlyingThings3D(tmp_path)[0].right.astype(int) - 103).max() <= 2  # WebP is lossy


def test_names_of_kinds():
    assert [kind_of(name) for name in ("disparity_occlusions", "DISPARITY", "driving__frames_finalpass_webp")] == [
        "occlusion",
        "disparity",
        "final",
    ]
    for name in ("disparity_change", "occlusions", "image_left", "my_frames_cleanpass", "frames_cleanpass_old", ""):
        assert kind_of(name) is None
    assert all(name in EXPECTED_TREE for name in ("frames_cleanpass", "image_clean", "disparity_occlusions", sceneflow.UNUSED))


@pytest.mark.parametrize(
    ("below", "expected"),
    [
        (".", [2, 3, 4]),
        ("FlyingThings3D", [2, 3, 4]),
        ("FlyingThings3D/frames_cleanpass", [2, 3, 4]),
        ("FlyingThings3D/disparity", [2, 3, 4]),
        ("FlyingThings3D/frames_cleanpass/TRAIN", [3, 4]),
        ("FlyingThings3D/disparity/TRAIN/A", [3, 4]),
        ("FlyingThings3D/frames_cleanpass/TEST/C/0012", [2]),
        ("FlyingThings3D/disparity/TRAIN/A/0000/left", [3, 4]),
        ("FlyingThings3D/frames_cleanpass/TRAIN/A/0000/right", [3, 4]),
    ],
)
def test_any_folder_of_the_tree_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str, expected: list[int]):
    """The names stay what they are; above the data stand folders whose names are traps."""
    root = tmp_path / "frames_cleanpass" / "left" / "TRAIN"
    separate(root)
    dataset = open_dataset(f"flyingthings3d:{root / below}")
    assert values(dataset) == {name: v for name, v in FAMILY.items() if v in expected and name.startswith("flying")}
    monkeypatch.chdir(root / below)
    assert open_dataset("flyingthings3d:.").names == dataset.names


def test_a_pass_that_is_pointed_at_is_read(tmp_path: Path):
    frame(tmp_path / "frames_cleanpass", tmp_path / "disparity", FLYING, "0006", 3)
    frame(tmp_path / "frames_finalpass", tmp_path / "disparity", FLYING, "0006", 3)
    picture(tmp_path / "frames_finalpass" / FLYING / "left" / "0006.png", 33)
    for root, images, value in (
        (".", None, 3),
        (".", "final", 33),
        (".", "frames_finalpass", 33),
        ("frames_finalpass", None, 33),
        ("frames_finalpass/TRAIN/A", None, 33),
        ("frames_finalpass/TRAIN/A", "clean", 3),
        ("disparity", None, 3),
    ):
        assert (FlyingThings3D(tmp_path / root, images=images)[0].left == value).all(), (root, images)


def test_a_folders_name_chooses_among_copies_of_one_pass(tmp_path: Path):
    for images, value in (("frames_cleanpass_webp", 7), ("frames_cleanpass", 3)):
        frame(tmp_path / images, tmp_path / "disparity", FLYING, "0006", value)
    assert (FlyingThings3D(tmp_path)[0].left == 3).all()
    assert (FlyingThings3D(tmp_path, images="frames_cleanpass_webp")[0].left == 7).all()


def test_archives_that_are_pointed_at(tmp_path: Path):
    archives(tmp_path)
    assert values(SceneFlow(tmp_path / "monkaa_frames_cleanpass")) == {"monkaa/funnyworld_x2/0001": 5}
    assert values(SceneFlow(tmp_path / "monkaa_disparity" / SCENE)) == {"monkaa/funnyworld_x2/0001": 5}
    assert values(SceneFlow(tmp_path / "driving_disparity" / "15mm_focallength")) == {f"driving/{DRIVE}/0001": 1}
    assert len(SceneFlow(tmp_path / "frames_disparity")) == 3


def test_links_count_with_their_neighbours(tmp_path: Path):
    """Images on one disk, disparities on another."""
    frame(tmp_path / "disk1" / "things", tmp_path / "disk2" / "numbers", FLYING, "0006", 3)
    (tmp_path / "data").mkdir()
    try:
        (tmp_path / "data" / "frames_cleanpass").symlink_to(tmp_path / "disk1" / "things")
    except OSError:
        pytest.skip("this system lets nobody make links")
    (tmp_path / "data" / "disparity" / "TRAIN").parent.mkdir()
    (tmp_path / "data" / "disparity" / "TRAIN").symlink_to(tmp_path / "disk2" / "numbers" / "TRAIN")
    for below in (".", "frames_cleanpass", "frames_cleanpass/TRAIN/A"):
        assert values(FlyingThings3D(tmp_path / "data" / below)) == {"flyingthings3d/TRAIN/A/0000/0006": 3}


# ---------------------------------------------------------------------------------------------------------------------
# The subset


@pytest.mark.parametrize("images", ["image_clean", "image_final", "frames_cleanpass"])
@pytest.mark.parametrize("test", ["val", "test"])
def test_the_subset(tmp_path: Path, caplog: pytest.LogCaptureFixture, images: str, test: str):
    """Left disparities are stored below zero, right ones above: judged apart, said once."""
    subset(tmp_path / "FlyingThings3D_subset", images, test)
    expected = {name.replace("/val/", f"/{test}/"): value for name, value in SUBSET.items()}
    dataset = FlyingThings3DSubset(tmp_path)
    (line,) = messages(caplog, "negated")
    assert line.count("left of ") == 2 and "right of" not in line and "sign=keep" in line
    assert values(dataset) == dict(sorted(expected.items()))
    for sample in dataset:
        assert sample.occluded.sum(axis=0).tolist() == [0, H, 0, 0]
        assert sample.occluded_right.sum(axis=0).tolist() == [0, 0, H, 0]
        assert (sample.disp_right == sample.disp).all()
        assert not np.signbit(sample.disp).any()
    assert FlyingThings3D(tmp_path).names == SceneFlow(tmp_path).names == dataset.names
    for split in ("val", "TEST"):
        assert FlyingThings3DSubset(tmp_path, split=split).names == (f"flyingthings3d-subset/{test}/0000108",)
    for below in ("train", f"train/{images}", "train/disparity/left", "train/disparity_occlusions/right"):
        assert len(FlyingThings3D(tmp_path / "FlyingThings3D_subset" / below)) == 2


def test_the_subset_yields_to_the_full_release(tmp_path: Path):
    separate(tmp_path)
    subset(tmp_path / "FlyingThings3D_subset")
    assert SceneFlow(tmp_path).names == tuple(FAMILY)
    assert len(FlyingThings3D(tmp_path)) == 3
    assert values(FlyingThings3DSubset(tmp_path)) == SUBSET


def test_the_subset_has_no_final_pass(tmp_path: Path):
    subset(tmp_path)
    with pytest.raises(InputError, match=r"got images 'final', but there is only '.*image_clean'; leave the option out"):
        FlyingThings3DSubset(tmp_path, images="final")
