"""The traps of the Scene Flow family: the sign, unused frames, lost partners, masks of another numbering, counts."""

from __future__ import annotations

import logging
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from sceneflow_trees import (
    FAMILY,
    FLYING,
    SCENE,
    SUBSET,
    H,
    W,
    disparity,
    frame,
    mask,
    merged,
    messages,
    picture,
    separate,
    subset,
    values,
)

from datasets import sceneflow, sceneflow_layouts
from datasets.base import open_dataset
from datasets.frames import MissingFilesError
from datasets.sceneflow import FlyingThings3D, FlyingThings3DSubset, Monkaa, SceneFlow
from stereo.image_io import write_pfm
from stereo.types import InputError


@pytest.fixture(autouse=True)
def info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


# ---------------------------------------------------------------------------------------------------------------------
# Sign


def test_the_sign_can_be_forced(tmp_path: Path):
    subset(tmp_path, sign=1)
    assert values(open_dataset(f"flyingthings3d-subset:{tmp_path}?sign=keep")) == SUBSET
    with pytest.raises(InputError, match=r"train/disparity/left/0000000.pfm' holds 1 px; .* keep the sign; the option sign"):
        FlyingThings3DSubset(tmp_path, sign="flip")[0]
    shutil.rmtree(tmp_path)
    subset(tmp_path)
    for path in tmp_path.glob("*/disparity/right/*"):
        path.unlink()
    assert values(FlyingThings3DSubset(tmp_path, sign="flip")) == SUBSET
    with pytest.raises(InputError, match=r"holds -1 px; .* flip the sign; the option sign says otherwise"):
        FlyingThings3DSubset(tmp_path, sign="keep")[0]


def test_a_few_outliers_decide_no_sign(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The median counts, over finite values; unknown pixels stay unknown and 0 when the rest is negated."""
    frame(tmp_path / "frames_cleanpass", tmp_path / "disparity", FLYING, "0006", 3)
    stored = np.full((H, W), -3, np.float32)
    stored[0] = (np.nan, np.inf, np.inf, -np.inf)
    stored[1] = np.inf
    write_pfm(tmp_path / "disparity" / FLYING / "left" / "0006.pfm", stored)
    sample = FlyingThings3D(tmp_path)[0]
    assert messages(caplog, "negated")
    assert not sample.valid[:2].any() and sample.valid[2].all()
    assert (sample.disp[2] == 3).all()
    assert (sample.disp[:2] == 0).all() and not np.signbit(sample.disp).any()
    stored[2] = (3, 3, 3, -1)
    write_pfm(tmp_path / "disparity" / FLYING / "left" / "0006.pfm", stored)
    with pytest.raises(InputError, match=r"holds -1 px; .* flip the sign"):
        FlyingThings3D(tmp_path)[0]


def test_files_that_disagree_on_the_sign(tmp_path: Path):
    """Where the first, middle and last map show it, when opened; else when the file is read."""
    for number in range(6, 16):
        frame(tmp_path / "frames_cleanpass", tmp_path / "disparity", FLYING, f"{number:04d}", number)
    folder = tmp_path / "disparity" / FLYING / "left"
    disparity(folder / "0008.pfm", -8)
    dataset = FlyingThings3D(tmp_path)
    assert (dataset[0].disp == 6).all()
    with pytest.raises(InputError, match=r"0008.pfm' holds -8 px; .*compare '.*0006.pfm'"):
        dataset[2]
    for name, other in (("0006", "0011"), ("0011", "0006"), ("0015", "0006")):
        disparity(folder / f"{name}.pfm", -int(name))
        with pytest.raises(InputError, match=rf"/{name}.pfm' holds disparities below 0, '.*/{other}.pfm' above; expected"):
            FlyingThings3D(tmp_path)
        disparity(folder / f"{name}.pfm", int(name))


@pytest.mark.parametrize("damaged", [(1, 10), (1, 2, 3, 10), (1, 5, 6, 10), (1, 2, 9, 10), (6,)])
def test_maps_that_cannot_tell_the_sign_are_passed_over(tmp_path: Path, damaged: tuple[int, ...]):
    """Each of them alone is refused when it is read; the others are read with the sign of the rest."""
    for number in range(1, 11):
        frame(tmp_path / "frames_cleanpass", tmp_path / "disparity", FLYING, f"{number:04d}", number)
        disparity(tmp_path / "disparity" / FLYING / "left" / f"{number:04d}.pfm", -number)
    for number in damaged:
        path = tmp_path / "disparity" / FLYING / "left" / f"{number:04d}.pfm"
        if number % 2:
            path.write_bytes(path.read_bytes()[:-4])
        else:
            disparity(path, np.nan)  # a map that knows no pixel is refused too
    dataset = FlyingThings3D(tmp_path)
    for number in range(1, 11):
        if number in damaged:
            with pytest.raises(InputError, match=rf"{number:04d}.pfm'.* (truncated or damaged|no known value)"):
                dataset[number - 1]
        else:
            assert (dataset[number - 1].disp == number).all()


# ---------------------------------------------------------------------------------------------------------------------
# Unused frames, partners, counts


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """Two frames of FAMILY are on the list, one of them by both views; a third line is of a frame that is not there."""
    separate(tmp_path)
    path = tmp_path / "lists" / "mine.txt"
    path.parent.mkdir()
    lines = ["TEST/C/0012/left/0006.png", "", "TRAIN/B/0001/left/0007.png"]
    lines += [f"TRAIN/A/0000/{view}/0006.png" for view in ("left", "right")]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())  # as an editor on Windows leaves it
    return path


@pytest.mark.parametrize("place", ["", "FlyingThings3D", "FlyingThings3D/frames_cleanpass"])
def test_the_unused_list_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture, listed: Path, place: str):
    shutil.copy(listed, tmp_path / place / sceneflow.UNUSED)
    before = sorted(tmp_path.rglob("*"))
    assert values(FlyingThings3D(tmp_path)) == {"flyingthings3d/TRAIN/A/0000/0007": 4}
    assert len(messages(caplog, "leaves out 2 of 3 frames")) == 1
    assert len(SceneFlow(tmp_path)) == 3
    assert len(FlyingThings3D(tmp_path, unused="skip")) == 1
    assert len(FlyingThings3D(tmp_path, unused="keep")) == 3
    assert len(FlyingThings3D(tmp_path / "FlyingThings3D" / "disparity" / "TRAIN" / "A")) == 1
    assert len(Monkaa(tmp_path)) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_list_that_is_given(tmp_path: Path, listed: Path):
    assert len(FlyingThings3D(tmp_path)) == 3
    assert len(open_dataset(f"flyingthings3d:{tmp_path}?unused={listed}")) == 1
    with pytest.raises(InputError, match=r"got unused=skip, but no all_unused_files.txt lies in '.*cleanpass', .*unused=FILE"):
        FlyingThings3D(tmp_path, unused="skip")
    with pytest.raises(InputError, match=r"cannot read unused='.*absent.txt': .*; expected skip, keep or the path"):
        FlyingThings3D(tmp_path, unused=str(tmp_path / "absent.txt"))
    with pytest.raises(InputError, match=r"cannot read unused='.*0006.png': not a text file"):
        FlyingThings3D(tmp_path, unused=str(tmp_path / "FlyingThings3D" / "frames_cleanpass" / FLYING / "left" / "0006.png"))
    with pytest.raises(InputError, match=r"'.*mine.txt' leaves out all 1 frames of FlyingThings3D; unused=keep"):
        FlyingThings3D(tmp_path, "TEST", unused=str(listed))
    listed.write_text("TRAIN/A/0000/left/0006.png\nsomething else\n")
    with pytest.raises(InputError, match=r"line 2 of '.*mine.txt' is 'something else', expected the form TRAIN/A/0000/left"):
        FlyingThings3D(tmp_path, unused=str(listed))


def test_an_unused_frame_needs_no_partner(tmp_path: Path, listed: Path):
    (tmp_path / "FlyingThings3D" / "disparity" / FLYING / "left" / "0006.pfm").unlink()
    with pytest.raises(InputError, match="is missing"):
        FlyingThings3D(tmp_path)
    assert len(FlyingThings3D(tmp_path, unused=str(listed))) == 1


def test_missing_partners_are_counted(tmp_path: Path):
    separate(tmp_path)
    for path in (tmp_path / "FlyingThings3D" / "disparity").rglob("*.pfm"):
        path.unlink()
    (tmp_path / "FlyingThings3D" / "frames_cleanpass" / FLYING / "left" / "0006.png").unlink()
    with pytest.raises(InputError, match=r"TEST/C/0012/left/0006.pfm' is missing; fly.* \(4 such files are missing, the verb"):
        FlyingThings3D(tmp_path)
    assert len(Monkaa(tmp_path)) == 1  # what is not asked for need not be whole
    with pytest.raises(MissingFilesError) as caught:
        SceneFlow(tmp_path)
    assert len(caught.value.files) == 4
    assert values(caught.value.rest) == {name: FAMILY[name] for name in FAMILY if not name.startswith("flying")}
    shutil.rmtree(tmp_path / "Monkaa" / "disparity")
    with pytest.raises(InputError, match=r"Monkaa/disparity/funnyworld_x2/left/0001.pfm' is missing; monkaa/fun[^(]*$"):
        Monkaa(tmp_path)


def test_files_without_an_image_shift_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """STTR puts the subset's masks, flat and numbered, beside the full release, to be matched by rank. Here names decide."""
    root = tmp_path / "SCENE_FLOW"
    for number in (6, 7):
        frame(root / "frame_finalpass", root / "disparity", FLYING, f"{number:04d}", number)
        disparity(root / "disparity" / FLYING / "right" / f"{number:04d}.pfm", number)
        mask(root / "occlusion" / "TRAIN" / "left" / f"{number - 6:07d}.png", 2)
    disparity(root / "disparity" / FLYING / "left" / "0001.pfm", 99)
    (root / "disparity" / FLYING / "left" / "0006_nocc.png").write_bytes(b"a mask that some programs leave there")
    picture(root / "frame_finalpass" / FLYING / "left_small" / "0009.png", 0)
    picture(root / "frame_finalpass" / "a" / "b" / "c" / "d" / "left" / "1.png", 0)
    dataset = FlyingThings3D(root)
    (line,) = messages(caplog, "without an image")
    assert "1 of images, 1 of disparity, 2 of occlusion, for example" in line
    assert values(dataset) == {"flyingthings3d/TRAIN/A/0000/0006": 6, "flyingthings3d/TRAIN/A/0000/0007": 7}
    # All disparities are beyond the image's width: out of frame, so not the mask of the file.
    assert dataset[0].occluded.all() and dataset[0].occluded_right.all()
    assert messages(caplog, "left-right check")


def test_a_right_disparity_is_optional(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    separate(tmp_path)
    SceneFlow(tmp_path)
    assert not messages(caplog, "right disparity")
    disparity(tmp_path / "Monkaa" / "disparity" / SCENE / "right" / "0001.pfm", 5)
    dataset = SceneFlow(tmp_path)
    assert messages(caplog, "4 of 5 frames have no right disparity")
    assert [sample.occluded is None for sample in dataset] == [True] * 4 + [False]


def test_a_frame_that_is_there_twice(tmp_path: Path):
    separate(tmp_path / "a")
    merged(tmp_path / "b")
    with pytest.raises(InputError, match=r"is there twice, in '.*/a/.*' and in '.*/b/.*'; name one folder only"):
        SceneFlow(tmp_path)


def test_counts_differ_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    separate(tmp_path)
    SceneFlow(tmp_path)
    (line,) = messages(caplog, "found ")
    assert "found 2 of 22390 TRAIN frames of flyingthings3d, 1 of 4370 TEST frames of flyingthings3d, 1 of 8664 TRAIN" in line
    caplog.clear()
    shutil.rmtree(tmp_path / "FlyingThings3D" / "frames_cleanpass" / "TRAIN")
    FlyingThings3D(tmp_path)
    assert "found 0 of 22390 TRAIN frames of flyingthings3d, 1 of" in messages(caplog, "found ")[0]
    caplog.clear()
    FlyingThings3D(tmp_path, split="TEST")
    FlyingThings3D(tmp_path / "FlyingThings3D" / "frames_cleanpass" / "TEST")
    assert all("TRAIN" not in line for line in messages(caplog, "found "))
    caplog.clear()
    monkeypatch.setitem(sceneflow.COUNTS, ("flyingthings3d", "TEST"), 1)
    FlyingThings3D(tmp_path, split="TEST")
    assert not messages(caplog, "found ")


def test_a_sample_is_not_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """It has no split, and is not meant to be the whole."""
    frame(tmp_path / "RGB_cleanpass", tmp_path / "disparity", "", "A-0032-0006", 3)
    assert FlyingThings3D(tmp_path).names == ("flyingthings3d/A-0032-0006",)
    assert not messages(caplog, "found ")


def test_published_counts():
    assert sum(n for (member, split), n in sceneflow.COUNTS.items() if split == "TRAIN" and "subset" not in member) == 35454


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Where frames must be, silence would lose some of them."""
    separate(tmp_path)
    real = sceneflow_layouts.os.walk

    def walk(top, onerror, **options):
        onerror(PermissionError(13, "Permission denied", str(top)))
        yield from real(top, **options)

    monkeypatch.setattr(sceneflow_layouts.os, "walk", walk)
    with pytest.raises(InputError, match=r"cannot list '.*frames_cleanpass': Permission denied"):
        Monkaa(tmp_path)


def test_names_pair_whatever_is_lost(tmp_path: Path):
    """Brute force: some frames lose optional files or whole partners; those that remain have each their own."""
    generator = random.Random(0)
    stems = [f"{number:04d}" for number in range(1, 13)]
    frames = {(group, stem): n for n, (group, stem) in enumerate(((g, s) for g in ("a_x2", "left", "right") for s in stems), 1)}
    optional = []
    for (group, stem), value in frames.items():
        frame(tmp_path / "frames_cleanpass", tmp_path / "disparity", group, stem, value)
        disparity(tmp_path / "disparity" / group / "right" / f"{stem}.pfm", value)
        mask(tmp_path / "occlusion" / group / "left" / f"{stem}.png", value % W)
        optional += [
            tmp_path / "disparity" / group / "right" / f"{stem}.pfm",
            tmp_path / "occlusion" / group / "left" / f"{stem}.png",
        ]
    for path in generator.sample(optional, 20):
        path.unlink()
    lost = generator.sample(sorted(frames), 5)
    for group, stem in lost:
        for view in ("left", "right"):
            (tmp_path / "frames_cleanpass" / group / view / f"{stem}.png").unlink()
    dataset = Monkaa(tmp_path)
    assert values(dataset) == {f"monkaa/{g}/{s}": value for (g, s), value in sorted(frames.items()) if (g, s) not in lost}
    for sample in dataset:
        value = int(sample.left[0, 0, 0])
        group, stem = sample.name.split("/")[1:]
        right = (tmp_path / "disparity" / group / "right" / f"{stem}.pfm").is_file()
        assert (sample.disp_right is not None) == right
        assert not right or (sample.disp_right == value).all()
        if (tmp_path / "occlusion" / group / "left" / f"{stem}.png").is_file():
            assert np.flatnonzero(sample.occluded[0]).tolist() == [value % W]
