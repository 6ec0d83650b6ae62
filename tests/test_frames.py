"""What every reader of files shares: reading a frame, masks that are derived, spec options, stored numbers."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets.base import DATASETS, open_dataset
from datasets.frames import Frame, FrameDataset, MissingFilesError
from stereo.image_io import read_stored, write_image, write_pfm
from stereo.types import InputError

H, W, SHIFT = 4, 16, 3


def write_step(folder: Path) -> Frame:
    """A plane at disparity 0 and, in front of it, a block of left columns 8 .. 11 at disparity SHIFT."""
    left, right = np.zeros((H, W), np.float32), np.zeros((H, W), np.float32)
    left[:, 8:12] = SHIFT
    right[:, 8 - SHIFT : 12 - SHIFT] = SHIFT
    for name in ("left", "right"):
        write_image(folder / f"{name}.png", np.zeros((H, W, 3), np.uint8))
    write_pfm(folder / "dl.pfm", left)
    write_pfm(folder / "dr.pfm", right)
    return Frame("step", folder / "left.png", folder / "right.png", folder / "dl.pfm", folder / "dr.pfm")


def test_masks_of_both_views_are_derived_and_the_log_says_so_once(tmp_path, caplog):
    dataset = FrameDataset([write_step(tmp_path)] * 2)
    with caplog.at_level(logging.INFO):
        sample = dataset[0]
        _ = dataset[1]
    hidden_left, hidden_right = np.zeros((H, W), bool), np.zeros((H, W), bool)
    hidden_left[:, 8 - SHIFT : 8] = True  # plane left of the block, covered by it in the right view
    hidden_right[:, 12 - SHIFT : 12] = True
    assert np.array_equal(sample.occluded, hidden_left)
    assert np.array_equal(sample.occluded_right, hidden_right)
    assert len(caplog.records) == 1 and "left-right check" in caplog.text


def test_a_file_goes_before_the_check(tmp_path):
    frame = write_step(tmp_path)
    mask = np.zeros((H, W), np.uint8)
    mask[0, 0] = 255
    write_image(tmp_path / "occ.png", mask)
    sample = FrameDataset([Frame(frame.name, frame.left, frame.right, frame.disp, frame.disp_right, tmp_path / "occ.png")])[0]
    assert np.array_equal(sample.occluded, mask == 255)
    assert sample.occluded_right.any()


@pytest.mark.parametrize("listed", [False, True])
def test_the_frames_that_are_complete_are_left(tmp_path, listed: bool):
    """Brute force: some of five kinds of files of 40 frames are lost."""
    draw, frames, expected = np.random.default_rng(0), [], []
    for number in range(40):
        files = [tmp_path / f"{number}.{kind}" for kind in ("left", "right", "disp", "occluded", "also")]
        frames.append(Frame(str(number), *files[:3], occluded=files[3], also=(files[4],)))
        for path in files:
            if draw.random() < 0.1:
                expected.append((str(number), path))
            else:
                path.touch()
    with pytest.raises(MissingFilesError, match=rf"'{expected[0][1]}' is missing; .*\({len(expected)} such files") as caught:
        FrameDataset(frames, listed=set(tmp_path.iterdir()) if listed else None)
    assert sorted(caught.value.files) == sorted(expected)
    rest, broken = caught.value.rest, {name for name, _ in expected}
    assert 0 < len(rest) < 40
    assert rest.names == tuple(frame.name for frame in frames if frame.name not in broken)


def test_what_is_left_can_be_read(tmp_path):
    """A reader that goes on working after ``FrameDataset.__init__`` would be half made here."""
    write_step(tmp_path)
    lines = ["left,right,disp,name", "left.png,right.png,dl.pfm,whole", "left.png,right.png,lost.pfm,broken"]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    with pytest.raises(MissingFilesError) as caught:
        open_dataset(f"manifest:{tmp_path / 'list.csv'}")
    (sample,) = caught.value.rest
    assert sample.name == "whole" and sample.disp.max() == SHIFT


def test_options_reach_the_builder(monkeypatch):
    seen = {}
    monkeypatch.setitem(DATASETS, "fake", lambda path, split="a", sign="b": seen.update(path=path, split=split, sign=sign))
    open_dataset("fake:some:where?split=TEST&sign=keep")
    assert seen == {"path": "some:where", "split": "TEST", "sign": "keep"}
    with pytest.raises(InputError, match=r"unknown option 'spilt'.*did you mean split"):
        open_dataset("fake:x?spilt=TEST")
    with pytest.raises(InputError, match="it has none"):
        open_dataset("pairs:x?split=TEST")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_stored_numbers_are_not_touched(tmp_path, dtype, channels):
    values = np.arange(H * W * channels, dtype=dtype).reshape(H, W, channels) + dtype(np.iinfo(dtype).max - H * W * channels)
    assert cv2.imwrite(str(tmp_path / "x.png"), values[..., ::-1])
    found = read_stored(tmp_path / "x.png")
    assert found.dtype == dtype
    assert np.array_equal(found, values if channels == 3 else values[..., 0])
