"""What ``NAME:REST`` opens, data set by data set; tests/test_pairs.py has the rules for the text itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datasets.base import DATASETS, open_dataset
from datasets.procedural.dataset import GeneratedDataset
from datasets.procedural.write import write_dataset
from datasets.sceneflow import FlyingThings3D
from stereo.types import InputError


def test_the_data_sets_that_are_there():
    assert {"flyingthings3d", "generated", "pairs"} <= set(DATASETS)
    assert list(DATASETS) == sorted(DATASETS)


def test_flyingthings3d(tmp_path: Path):
    write_dataset(tmp_path, 2, seed=3, height=32, width=48, progress=False)
    dataset = open_dataset(f"flyingthings3d:{tmp_path}")
    assert isinstance(dataset, FlyingThings3D)
    assert len(dataset) == len(dataset.names) == 2
    assert dataset[1].name == dataset.names[1]
    with pytest.raises(InputError, match="no FlyingThings3D found"):
        open_dataset(f"flyingthings3d:{tmp_path / 'absent'}")


@pytest.mark.parametrize(
    ("spec", "seed", "count", "size"),
    [
        ("generated:7", 7, 50, (288, 576)),
        ("generated:7:3", 7, 3, (288, 576)),
        ("generated:0:2:40x64", 0, 2, (40, 64)),
        ("generated:10000019:016:0096x640", 10_000_019, 16, (96, 640)),
    ],
)
def test_generated(spec: str, seed: int, count: int, size: tuple[int, int]):
    dataset = open_dataset(spec)
    assert isinstance(dataset, GeneratedDataset)
    assert (dataset.seed, dataset.count, dataset.size) == (seed, count, size)
    assert len(dataset) == len(dataset.names) == count
    assert dataset.names[-1] == f"generated:{seed}/{count - 1:06d}"


def test_generated_scenes_are_those_of_their_seed():
    first, second = open_dataset("generated:5:2:40x64")
    assert first.disp.shape == (40, 64)
    assert (second.name, second.valid.all()) == ("generated:5/000001", True)
    assert np.array_equal(second.left, GeneratedDataset(5, 2, 40, 64)[1].left)


@pytest.mark.parametrize(
    "text",
    ["x", "-1", "1.5", " 7", "7:", "7:2:", ":7", "7:x", "7:-2", "7:2:40", "7:2:40x", "7:2:40x64:1", "7:2:40X64", "7::40x64",
     "7:2:40x64\n", "\u0667", "9" * 19, "7:2:123456x64"],
)  # fmt: skip
def test_generated_refuses_other_text(text: str):
    with pytest.raises(InputError, match=r"expected SEED, SEED:COUNT or SEED:COUNT:HEIGHTxWIDTH"):
        open_dataset(f"generated:{text}")


@pytest.mark.parametrize("text", ["7:0", "7:1:31x64", "7:1:64x31"])
def test_generated_refuses_impossible_numbers(text: str):
    with pytest.raises(InputError, match="expected at least 1 scene of at least 32x32 px"):
        open_dataset(f"generated:{text}")


def test_generated_data_set_guards_itself():
    """Whoever builds it in Python passes no pattern first."""
    for seed, count, height, width in ((0, 0, 64, 64), (0, 1, 31, 64), (0, 1, 64, 31), (-1, 1, 64, 64)):
        with pytest.raises(InputError, match="expected"):
            GeneratedDataset(seed, count, height, width)
    for index in (2, -1):
        with pytest.raises(IndexError):
            GeneratedDataset(0, 2, 64, 64)[index]
