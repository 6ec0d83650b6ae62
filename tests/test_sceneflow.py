"""FlyingThings3D's own layout on a fake tree, genuine files, and the writer of generated scenes, which it reads back.

The other layouts of the family, and their traps: tests/test_sceneflow_layouts.py and tests/test_sceneflow_traps.py.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from sceneflow_trees import H, W, disparity, frame, mask, picture

from datasets.frames import FrameDataset
from datasets.pairs import PairsDataset
from datasets.procedural import write
from datasets.procedural.dataset import GeneratedDataset
from datasets.procedural.write import write_dataset
from datasets.sceneflow import FlyingThings3D, Monkaa, SceneFlow
from stereo.image_io import write_image, write_pfm
from stereo.types import InputError

SHARED = Path(__file__).resolve().parents[2] / "shared"
GENUINE = SHARED / "layouts" / "sceneflow"
COPIES = SHARED / "data" / "flyingthings3d"
FRAMES = ("TEST/A/0000/0006", "TEST/A/0000/0007", "TEST/C/0002/0006", "TRAIN/B/0001/0015")
A = "TEST/A/0000"  # the sequence of the first two


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The word "left" stands in folders above the data, where replacing it by "right" would lead nowhere."""
    root = tmp_path / "left" / "leftovers" / "FlyingThings3D"
    for number, name in enumerate(FRAMES):
        group, _, stem = name.rpartition("/")
        frame(root / "frames_cleanpass", root / "disparity", group, stem, number)
    (root / "frames_cleanpass" / "TEST" / "A" / "0000" / "left" / "._0006.png").write_bytes(b"what macOS leaves behind")
    (root / "README").write_text("not data")
    return root


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def test_names_and_splits(root: Path):
    assert FlyingThings3D(root).names == tuple(f"flyingthings3d/{frame}" for frame in FRAMES)
    assert FlyingThings3D(root, "TEST").names == tuple(f"flyingthings3d/{frame}" for frame in FRAMES[:3])
    assert FlyingThings3D(str(root), split="TRAIN").names == (f"flyingthings3d/{FRAMES[3]}",)
    assert FlyingThings3D(root.parent).names == FlyingThings3D(root).names


def test_is_a_sequence(root: Path):
    dataset = FlyingThings3D(root)
    assert len(dataset) == 4
    assert [sample.name for sample in dataset] == list(dataset.names)
    with pytest.raises(IndexError):
        dataset[4]


def test_every_part_comes_from_its_own_frame(root: Path):
    for number, sample in enumerate(FlyingThings3D(root)):
        assert (sample.left == number).all()
        assert (sample.right == 100 + number).all()
        assert (sample.disp == number).all() and sample.valid.all()
        assert sample.disp.dtype == np.float32
        assert sample.occluded is sample.disp_right is sample.valid_right is sample.occluded_right is None


def test_what_is_not_finite_is_unknown(root: Path):
    disparity(root / "disparity" / A / "left" / "0007.pfm", np.array([np.nan, np.inf, -np.inf, 7]))
    _, sample, *_ = FlyingThings3D(root)
    assert (sample.valid == [False, False, False, True]).all()
    assert (sample.disp == [0, 0, 0, 7]).all()


def test_options_are_read_where_they_are_there(root: Path):
    disparity(root / "disparity" / A / "right" / "0007.pfm", np.array([2.5, 2.5, np.inf, 2.5]))
    for view, column in (("left", 1), ("right", 3)):
        mask(root / "occlusion" / A / view / "0007.png", column)
    other, sample, *_ = FlyingThings3D(root)
    assert (sample.valid_right == [True, True, False, True]).all()
    assert (sample.disp_right[sample.valid_right] == 2.5).all()
    assert sample.occluded.sum(axis=0).tolist() == [0, H, 0, 0]
    assert sample.occluded_right.sum(axis=0).tolist() == [0, 0, 0, H]
    assert other.occluded is other.disp_right is None


def test_the_pass_that_is_there(root: Path):
    for name in FRAMES:
        for view in ("left", "right"):
            group, _, stem = name.rpartition("/")
            picture(root / "frames_finalpass" / group / view / f"{stem}.png", 55)
    assert (FlyingThings3D(root)[0].left == 0).all()
    assert (FlyingThings3D(root, images="frames_finalpass")[0].left == 55).all()
    shutil.rmtree(root / "frames_cleanpass")
    assert (FlyingThings3D(root)[0].left == 55).all()
    with pytest.raises(InputError, match=r"got images 'frames_cleanpass', but there is only '.*frames_finalpass'; leave"):
        FlyingThings3D(root, images="frames_cleanpass")


def test_alpha_is_dropped(root: Path):
    rgba = np.zeros((H, W, 4), np.uint8)
    rgba[...] = (30, 20, 10, 0)  # BGRA, fully transparent
    path = root / "frames_cleanpass" / A / "left" / "0006.png"
    path.write_bytes(cv2.imencode(".png", rgba)[1].tobytes())
    sample = FlyingThings3D(root)[0]
    assert sample.left.shape == (H, W, 3)
    assert (sample.left == (10, 20, 30)).all()


def test_nothing_found_says_what_was_looked_for(root: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "absent"):
        with pytest.raises(InputError, match=r"no FlyingThings3D found in '.*'; looked .*frames_cleanpass with .*left/FFFF"):
            FlyingThings3D(folder)
    with pytest.raises(InputError, match=r"no Monkaa found in '.*', only flyingthings3d; looked"):
        Monkaa(root)
    shutil.rmtree(root / "frames_cleanpass" / "TRAIN")
    with pytest.raises(InputError, match=r"no TRAIN frame of FlyingThings3D in '.*', only flyingthings3d TEST; choose"):
        FlyingThings3D(root, "TRAIN")


@pytest.mark.parametrize(
    "name",
    [
        "frames_cleanpass/TEST/A/0000/left/0007.png",
        "frames_cleanpass/TEST/A/0000/right/0007.png",
        "disparity/TEST/A/0000/left/0007.pfm",
    ],
)
def test_missing_partner(root: Path, name: str):
    (root / name).unlink()
    with pytest.raises(InputError, match=f"{name}' is missing; flyingthings3d/TEST/A/0000/0007 needs it"):
        FlyingThings3D(root)


def test_unknown_choices(root: Path):
    with pytest.raises(InputError, match="got split 'TESTS' for FlyingThings3D, expected one of TRAIN, TEST, VAL"):
        FlyingThings3D(root, "TESTS")
    with pytest.raises(InputError, match=r"unknown images 'cleanpass' of FlyingThings3D: expected one of .*frames_cleanpass"):
        FlyingThings3D(root, images="cleanpass")
    with pytest.raises(InputError, match="unknown images 'disparity' of FlyingThings3D"):
        FlyingThings3D(root, images="disparity")
    with pytest.raises(InputError, match="got sign 'minus' for FlyingThings3D, expected one of auto, keep, flip"):
        FlyingThings3D(root, sign="minus")


@pytest.mark.parametrize("kind", ["image right", "disparity left", "disparity right", "occlusion left", "occlusion right"])
def test_unequal_sizes(root: Path, kind: str):
    name, view = kind.split()
    folder = "frames_cleanpass" if name == "image" else name
    write = {"image": picture, "disparity": disparity, "occlusion": mask}[name]
    write(root / folder / A / view / f"0006.{'pfm' if name == 'disparity' else 'png'}", 0, W + 1)
    with pytest.raises(InputError, match=rf"is {W + 1}x{H}.*equal sizes"):
        FlyingThings3D(root)[0]


def test_values_of_another_convention(root: Path):
    picture(root / "occlusion" / A / "right" / "0006.png", 1)
    with pytest.raises(InputError, match=r"0006.png' holds the value 1; expected only 0 .* and 255"):
        FlyingThings3D(root)[0]
    disparity(root / "disparity" / A / "right" / "0007.pfm", -3)
    with pytest.raises(InputError, match=r"holds -3 px; .*flip the sign; the option sign says otherwise"):
        FlyingThings3D(root, sign="keep")[1]


@pytest.mark.skipif(not (GENUINE.is_dir() and COPIES.is_dir()), reason=f"{SHARED} is absent: it holds genuine frames")
def test_a_genuine_frame():
    dataset = FlyingThings3D(GENUINE / "FlyingThings3D")
    assert dataset.names == ("flyingthings3d/TEST/A/0000/0006",)
    sample, copy = dataset[0], PairsDataset(COPIES / "TEST_A_0000_0006")[0]
    for name in ("left", "right", "disp", "valid"):
        assert (getattr(sample, name) == getattr(copy, name)).all(), name
    assert sample.left.shape == (540, 960, 3)
    assert sample.valid.all()
    assert sample.disp.max() == pytest.approx(99.3913, abs=1e-4)  # from its meta.json, as the next two
    assert sample.disp.min() == pytest.approx(1.17452, abs=1e-5)
    assert np.median(sample.disp) == pytest.approx(21.9918, abs=1e-4)
    assert sample.occluded is sample.disp_right is None
    with pytest.raises(InputError, match="no TRAIN frame"):
        FlyingThings3D(GENUINE, "TRAIN")


@pytest.mark.skipif(not (GENUINE.is_dir() and COPIES.is_dir()), reason=f"{SHARED} is absent: it holds genuine frames")
def test_the_genuine_sample_of_sttr():
    """RGBA images, both disparities, 1-bit masks, and no split anywhere."""
    dataset = FlyingThings3D(GENUINE / "sttr_sample_layout")
    assert dataset.names == ("flyingthings3d/A-0032-0006",)
    sample, copy = dataset[0], PairsDataset(COPIES / "A-0032-0006")[0]
    for name in ("left", "right", "disp", "valid", "occluded", "disp_right", "valid_right"):
        assert (getattr(sample, name) == getattr(copy, name)).all(), name
    assert sample.occluded[sample.valid].mean() == pytest.approx(0.150334, abs=1e-6)  # from its meta.json
    # The mask of the right view, of which there is no copy, is the one that its disparities speak of, but for edges.
    derived = FrameDataset([replace(dataset.frames[0], occluded=None, occluded_right=None)])[0]
    for name in ("occluded", "occluded_right"):
        given, check = getattr(sample, name), getattr(derived, name)
        assert (given & check).sum() / (given | check).sum() > 0.95
    assert SceneFlow(GENUINE).names == ("flyingthings3d/A-0032-0006", "flyingthings3d/TEST/A/0000/0006")


# ---------------------------------------------------------------------------------------------------------------------
# Writing


def test_written_scenes_read_back_as_they_were_rendered(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "new" / "FlyingThings3D"
    write_dataset(folder, scenes=2, seed=7, height=40, width=64, split="TEST", progress=False)
    assert capsys.readouterr() == ("", "")
    for dataset in (FlyingThings3D(folder), FlyingThings3D(folder.parent, "TEST")):
        assert dataset.names == ("flyingthings3d/TEST/A/0000/0006", "flyingthings3d/TEST/A/0001/0006")
        for read, rendered in zip(dataset, GeneratedDataset(7, 2, 40, 64), strict=False):
            for name in ("left", "right", "disp", "valid", "occluded", "disp_right", "valid_right", "occluded_right"):
                given, wanted = getattr(read, name), getattr(rendered, name)
                assert given.dtype == wanted.dtype, name
                assert (given == wanted).all(), name
    assert len(files(folder)) == 2 * 6


def test_no_bar_outside_a_terminal_and_train_is_the_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_dataset(tmp_path, scenes=1, seed=0, height=32, width=32)
    assert capsys.readouterr() == ("", "")  # a log wants no bar, and an error is to be the only line
    assert FlyingThings3D(tmp_path, "TRAIN").names == ("flyingthings3d/TRAIN/A/0000/0006",)


def test_sequences_go_on_from_letter_to_letter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(write, "PER_LETTER", 2)
    write_dataset(tmp_path, scenes=3, seed=0, height=32, width=32, progress=False)
    assert [name[-11:] for name in FlyingThings3D(tmp_path).names] == ["A/0000/0006", "A/0001/0006", "B/0000/0006"]


def test_only_an_empty_folder_will_do(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"is not empty \(it holds 'notes.txt'\); choose a new one or empty it first"):
        write_dataset(tmp_path, 1, 0, 32, 32, progress=False)
    with pytest.raises(InputError, match=r"cannot write to the folder '.*notes.txt'"):
        write_dataset(tmp_path / "notes.txt", 1, 0, 32, 32, progress=False)
    assert [path.name for path in files(tmp_path)] == ["notes.txt"]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"split": "VAL"}, "unknown split 'VAL': expected one of TEST, TRAIN"),
        ({"scenes": 30_001}, "got 30001 scenes, the layout has room for 30000"),
        ({"scenes": 0}, "got 0 scenes"),
        ({"height": 8}, "expected at least 1 scene of at least 32x32 px"),
        ({"seed": -1}, "got seed -1"),
    ],
)
def test_refuses_before_it_makes_a_folder(tmp_path: Path, given: dict, text: str):
    with pytest.raises(InputError, match=text):
        write_dataset(tmp_path / "new", **{"scenes": 1, "seed": 0, "height": 32, "width": 32} | given)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("last", [1, 2, 3, 4, 5, 6])
def test_an_interrupted_run_leaves_whole_scenes_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int):
    """Ctrl-C in the middle of each of the second scene's six files."""
    written = []

    def interrupted(original):
        def write_one(path: Path, array: np.ndarray) -> None:
            written.append(path)
            if len(written) == 6 + last:
                raise KeyboardInterrupt
            original(path, array)

        return write_one

    monkeypatch.setattr(write, "write_image", interrupted(write_image))
    monkeypatch.setattr(write, "write_pfm", interrupted(write_pfm))
    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path, scenes=3, seed=0, height=32, width=32, progress=False)
    assert len(files(tmp_path)) == 6
    dataset = FlyingThings3D(tmp_path)
    assert len(dataset) == 1
    assert (dataset[0].left == GeneratedDataset(0, 1, 32, 32)[0].left).all()
