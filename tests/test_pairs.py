"""The plain layout on a fake tree, its negative cases, the registry, and the real pairs when they are there."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from datasets.base import DATASETS, open_dataset
from datasets.pairs import PairsDataset
from stereo.image_io import write_image, write_pfm
from stereo.types import InputError

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
H, W = 4, 6


def write_scene(folder: Path, height: int = H, width: int = W) -> None:
    """A pair of constant images, 10 and 20, and disparity = column, unknown in the first row."""
    folder.mkdir(parents=True)
    disp = np.tile(np.arange(width, dtype=np.float32), (height, 1))
    disp[0] = np.inf
    for name, value in (("left", 10), ("right", 20)):
        write_image(folder / f"{name}.png", np.full((height, width, 3), value, np.uint8))
    write_pfm(folder / "disp_left.pfm", disp)


def write_mask(path: Path, column: int, value: int = 255) -> None:
    mask = np.zeros((H, W), np.uint8)
    mask[:, column] = value
    write_image(path, mask)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for scene in ("house/attic", "house/cellar", "garden/pond"):
        write_scene(root / scene)
    (root / "README.md").write_text("not a scene")
    (root / "house" / "notes").mkdir()
    return root


def test_names_are_sorted_and_the_same_at_every_level(root: Path, monkeypatch: pytest.MonkeyPatch):
    assert PairsDataset(root).names == ("garden/pond", "house/attic", "house/cellar")
    assert PairsDataset(str(root / "house")).names == ("house/attic", "house/cellar")
    assert PairsDataset(root / "house" / "attic").names == ("house/attic",)
    monkeypatch.chdir(root / "house" / "attic")
    assert PairsDataset(".").names == ("house/attic",)


def test_is_a_sequence(root: Path):
    dataset = PairsDataset(root)
    assert len(dataset) == 3
    assert [sample.name for sample in dataset] == list(dataset.names)
    with pytest.raises(IndexError):
        dataset[3]


def test_a_sample_without_options(root: Path):
    sample = PairsDataset(root)[0]
    assert sample.left.shape == sample.right.shape == (H, W, 3)
    assert sample.left.dtype == np.uint8
    assert (sample.left == 10).all()
    assert (sample.right == 20).all()
    assert sample.disp.dtype == np.float32
    assert not sample.valid[0].any()
    assert sample.valid[1:].all()
    assert (sample.disp[0] == 0).all()
    assert (sample.disp[1:] == np.arange(W)).all()
    assert sample.occluded is None
    assert sample.disp_right is sample.valid_right is sample.occluded_right is None


def test_the_data_sets_own_mask_goes_first(root: Path):
    folder = root / "garden" / "pond"
    write_mask(folder / "occ_left_derived.png", column=1)
    assert PairsDataset(root)[0].occluded.sum(axis=0).tolist() == [0, H, 0, 0, 0, 0]
    write_mask(folder / "occ_left.png", column=4)
    assert PairsDataset(root)[0].occluded.sum(axis=0).tolist() == [0, 0, 0, 0, H, 0]


def test_right_view(root: Path):
    disp = np.full((H, W), 2.5, np.float32)
    disp[:, 5] = np.inf
    write_pfm(root / "garden" / "pond" / "disp_right.pfm", disp)
    sample = PairsDataset(root)[0]
    assert sample.valid_right.sum() == H * (W - 1)
    assert (sample.disp_right[sample.valid_right] == 2.5).all()


def test_nothing_found_says_what_was_looked_for(tmp_path: Path):
    with pytest.raises(InputError, match=r"no stereo pair found; looked for .*left.png.*right.png and disp_left.pfm"):
        PairsDataset(tmp_path)
    with pytest.raises(InputError, match=r"absent' is not a folder; expected .*<set>/<scene>"):
        PairsDataset(tmp_path / "absent")


@pytest.mark.parametrize("name", ["left.png", "right.png", "disp_left.pfm"])
def test_missing_file(root: Path, name: str):
    (root / "house" / "attic" / name).unlink()
    with pytest.raises(InputError, match=f"attic/{name}' is missing; house/attic needs it"):
        PairsDataset(root)


@pytest.mark.parametrize("name", ["right.png", "disp_left.pfm", "disp_right.pfm", "occ_left.png", "occ_left_derived.png"])
def test_unequal_sizes(root: Path, tmp_path: Path, name: str):
    write_scene(tmp_path / "other", H, W + 1)
    source = {"disp_right.pfm": "disp_left.pfm"}.get(name, name if name in ("right.png", "disp_left.pfm") else "left.png")
    shutil.copy(tmp_path / "other" / source, root / "garden" / "pond" / name)
    with pytest.raises(InputError, match=rf"{name}.* is {W + 1}x{H}.*equal sizes"):
        PairsDataset(root)[0]


def test_damaged_image(root: Path):
    (root / "garden" / "pond" / "left.png").write_bytes(b"not a picture")
    dataset = PairsDataset(root)
    with pytest.raises(InputError, match=r"left\.png"):
        dataset[0]


def test_wrong_sign(root: Path):
    write_pfm(root / "garden" / "pond" / "disp_left.pfm", np.full((H, W), -3.0))
    with pytest.raises(InputError, match=r"disp_left.pfm' holds -3 px; .*flip the sign"):
        PairsDataset(root)[0]


def test_mask_of_another_convention(root: Path):
    write_mask(root / "garden" / "pond" / "occ_left.png", column=2, value=128)
    with pytest.raises(InputError, match=r"occ_left.png' holds the value 128; expected only 0 .* and 255"):
        PairsDataset(root)[0]


def test_registry(root: Path):
    assert open_dataset(f"pairs:{root}").names == PairsDataset(root).names
    for spec in ("pairs", "pairs:", str(root)):
        with pytest.raises(InputError, match="expected NAME:PATH, for example pairs:"):
            open_dataset(spec)
    with pytest.raises(InputError, match=r"unknown data set 'pair': expected one of .*did you mean pairs"):
        open_dataset(f"pair:{root}")


def test_the_rest_may_hold_colons(monkeypatch: pytest.MonkeyPatch):
    given = []
    monkeypatch.setitem(DATASETS, "seeded", lambda rest: given.append(rest) or [])
    open_dataset("seeded:7:100")
    assert given == ["7:100"]


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is absent: it holds the real pairs")
def test_real_pairs():
    dataset = PairsDataset(SHARED)
    assert len(dataset) == 11
    samples = {sample.name: sample for sample in dataset}
    without_mask = {name for name, sample in samples.items() if sample.occluded is None}
    assert without_mask == {"kitti2012/000000_10", "kitti2015/000046_10", "eth3d/playground"}
    with_right = {name for name, sample in samples.items() if sample.disp_right is not None}
    assert len(with_right) == 6
    # From the meta.json files: 0.1151 of the valid pixels of the data set's own mask, 0.1030 of the derived one.
    motorcycle = samples["middlebury2014/Motorcycle_Q"]
    assert motorcycle.occluded[motorcycle.valid].mean() == pytest.approx(0.11513, abs=1e-5)
    assert samples["kitti2015/000046_10"].valid.mean() == pytest.approx(0.118235, abs=1e-6)
    for sample in samples.values():
        assert np.isfinite(sample.disp).all()
        assert sample.disp.min() >= 0
