"""Submissions on fake trees of the benchmarks: the exact files, what is in them, and what is refused without a trace."""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stereo.cli import main
from stereo.engine.submission import BENCHMARKS, check_map, check_method, check_names
from stereo.image_io import read_disparity, read_pfm, read_stored, write_image, write_pfm
from stereo.inference.stored import StoredMap
from stereo.types import InputError

SIZE = (32, 48)
SMALL = {  # as many images as a test can have
    "kitti2012": (("testing", 3),),
    "kitti2015": (("testing", 2),),
    "middlebury": (("training", 2), ("test", 1)),
    "middlebury-training": (("training", 2),),
    "eth3d": (("training", 2), ("testing", 1)),
}
IMAGES = {
    "kitti2012": [f"testing/colored_{view}/{i:06d}_10.png" for i in range(3) for view in "01"],
    "kitti2015": [f"testing/image_{view}/{i:06d}_10.png" for i in range(2) for view in "23"],
    "middlebury": [f"{s}/im{view}.png" for s in ("trainingQ/A", "trainingQ/B", "testQ/C") for view in "01"],
    "eth3d": [f"two_view_{s}/im{view}.png" for s in ("training/a", "training/b", "testing/c") for view in "01"],
}
IMAGES["middlebury-training"] = IMAGES["middlebury"]
FILES = {
    "kitti2012": {"000000_10.png", "000001_10.png", "000002_10.png"},
    "kitti2015": {"disp_0/000000_10.png", "disp_0/000001_10.png"},
    "middlebury": {f"{s}/{f}" for s in ("trainingQ/A", "trainingQ/B", "testQ/C") for f in ("disp0Ours.pfm", "timeOurs.txt")},
    "middlebury-training": {f"{s}/{f}" for s in ("trainingQ/A", "trainingQ/B") for f in ("disp0Ours.pfm", "timeOurs.txt")},
    "eth3d": {f"low_res_two_view/{s}.{e}" for s in "abc" for e in ("pfm", "txt")},
}
EACH = pytest.mark.parametrize("name", list(BENCHMARKS))


@pytest.fixture
def tree(tmp_path: Path, monkeypatch) -> dict[str, Path]:
    """A fake data set of each benchmark, and predictions called like the scenes: disparity 7.25 px."""
    for name, benchmark in list(BENCHMARKS.items()):
        monkeypatch.setitem(BENCHMARKS, name, replace(benchmark, splits=SMALL[name]))
        root = tmp_path / name
        for file in IMAGES[name]:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            write_image(root / file, np.random.default_rng(len(file)).integers(0, 256, (*SIZE, 3), dtype=np.uint8))
        for scene in {Path(file).parent.name if "im0" in file else Path(file).stem for file in IMAGES[name]} - {"im1"}:
            (root / "pred").mkdir(exist_ok=True)
            write_pfm(root / "pred" / f"{scene}.pfm", np.full(SIZE, 7.25, np.float32))
        for folder in root.glob("*raining*/*"):  # the training splits of these two have truth
            write_pfm(folder / "disp0GT.pfm", np.ones(SIZE, np.float32))
    return {name: tmp_path / name for name in BENCHMARKS}


def submit(tree: dict[str, Path], name: str, *more: str) -> int:
    root = tree[name]
    argv = ["submit", name, str(root), "-o", str(root / "out"), "--method", "Ours", "--pred", str(root / "pred")]
    return main([*argv, "--seconds", "0.125", *more])


def refused(tree: dict[str, Path], name: str, capsys, *more: str) -> str:
    assert submit(tree, name, *more) == 2
    assert not (tree[name] / "out").exists()
    assert not [path for path in tree[name].iterdir() if path.name.startswith(".")], "nothing half-written is left"
    said = capsys.readouterr().err.splitlines()
    return said[-1]


@EACH
def test_the_files_are_exactly_those_asked_for(tree: dict[str, Path], name: str, capsys):
    assert submit(tree, name) == 0
    out = tree[name] / "out"
    archive = out / f"{BENCHMARKS[name].data}.zip"
    assert f"upload {archive}" in capsys.readouterr().out
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert found == FILES[name] | {archive.name}
    with zipfile.ZipFile(archive) as zipped:
        assert set(zipped.namelist()) == FILES[name]
        assert all(zipped.read(file) == (out / file).read_bytes() for file in FILES[name])
    for file in FILES[name]:
        if file.endswith(".png"):
            stored = read_stored(out / file)
            assert stored.dtype == np.uint16 and stored.shape == SIZE and np.all(stored == 7.25 * 256)
        elif file.endswith(".pfm"):
            assert np.array_equal(read_pfm(out / file), np.full(SIZE, 7.25, np.float32))
        else:
            assert (out / file).read_text() == ("runtime 0.125000\n" if name == "eth3d" else "0.125000\n")


def test_published_counts():
    assert {name: dict(benchmark.splits) for name, benchmark in BENCHMARKS.items()} == {
        "kitti2012": {"testing": 195},
        "kitti2015": {"testing": 200},
        "middlebury": {"training": 15, "test": 15},
        "middlebury-training": {"training": 15},
        "eth3d": {"training": 27, "testing": 20},
    }


def test_equal_maps_make_equal_archives(tree: dict[str, Path]):
    archives = []
    for _ in range(2):
        assert submit(tree, "eth3d") == 0
        archives.append((tree["eth3d"] / "out" / "eth3d.zip").read_bytes())
        shutil.rmtree(tree["eth3d"] / "out")
    assert archives[0] == archives[1]


def test_a_network_is_timed(tree: dict[str, Path], monkeypatch):
    class Fake:
        calls = 0

        def predict(self, left, right):
            Fake.calls += 1
            return StoredMap(np.full(left.shape[:2], 3, np.float32))

    monkeypatch.setattr("stereo.cli.submit.load_predictor", lambda args: (Fake(), {}))
    root = tree["middlebury-training"]
    assert main(["submit", "middlebury-training", str(root), "-o", str(root / "out"), "--size", "Q"]) == 0
    assert Fake.calls == 3  # the first image twice: the first prediction builds and allocates
    assert 0 < float((root / "out" / "trainingQ" / "B" / "timestereo.txt").read_text()) < 60


@EACH
def test_a_lost_image_is_refused(tree: dict[str, Path], name: str, capsys):
    gone = tree[name] / IMAGES[name][-1] if name != "middlebury-training" else tree[name] / "trainingQ" / "B" / "im1.png"
    if gone.name == "im1.png":
        shutil.rmtree(gone.parent)
    else:
        for view in ("colored_0", "colored_1", "image_2", "image_3"):
            (tree[name] / "testing" / view / gone.name).unlink(missing_ok=True)
    said = refused(tree, name, capsys)
    assert "wants all" in said or "no scene found" in said


@EACH
def test_a_lost_prediction_is_refused(tree: dict[str, Path], name: str, capsys):
    sorted((tree[name] / "pred").iterdir())[0].unlink()
    assert "images have no prediction" in refused(tree, name, capsys)


@EACH
@pytest.mark.parametrize(
    ("disp", "message"),
    [
        (np.full((32, 47), 7.0), r"the map is (32, 47), the image (32, 48)"),
        (np.where(np.arange(48) == 5, np.nan, np.full(SIZE, 7.0)), "32 of 1536 pixels are unknown or below 0"),
        (np.where(np.arange(48) == 5, -1, np.full(SIZE, 7.0)), "32 of 1536 pixels are unknown or below 0"),
        (np.where(np.arange(48) == 5, 49, np.full(SIZE, 7.0)), "disparities from 7 to 49 px; expected 0 to 48"),
    ],
)
def test_a_map_that_cannot_be_is_refused(tree: dict[str, Path], name: str, capsys, disp: np.ndarray, message: str):
    last = sorted(path for path in (tree[name] / "pred").iterdir() if not path.stem.startswith("C"))[-1]
    write_pfm(last, disp.astype(np.float32))
    assert message in refused(tree, name, capsys)


def test_what_sixteen_bits_cannot_hold_is_refused():
    wide = StoredMap(np.full((4, 600), 256, np.float32))
    check_map(BENCHMARKS["eth3d"], "x", (4, 600, 3), wide)
    with pytest.raises(InputError, match=r"256 px; expected 0 to 255\.996"):
        check_map(BENCHMARKS["kitti2015"], "x", (4, 600, 3), wide)


def test_other_frames_are_not_kittis():
    names = [f"kitti2015/{number:06d}_10" for number in range(199)]
    check_names(BENCHMARKS["kitti2015"], "testing", [*names, "kitti2015/000199_10"])
    with pytest.raises(InputError, match="'000200_10' is none of KITTI 2015's, 000000_10 to 000199_10"):
        check_names(BENCHMARKS["kitti2015"], "testing", [*names, "kitti2015/000200_10"])
    with pytest.raises(InputError, match="has 199 images here, KITTI 2015 wants all 200"):
        check_names(BENCHMARKS["kitti2015"], "testing", names)
    with pytest.raises(InputError, match="has 199 images here"):
        check_names(BENCHMARKS["kitti2015"], "testing", [*names, names[0]])


@pytest.mark.parametrize("method", ["", "a b", "../x", "a/b", "Ours_s", "x" * 41, "-x"])
def test_methods_that_are_no_part_of_a_file_name(method: str):
    with pytest.raises(InputError, match="expected up to 40 letters"):
        check_method(method)


def test_refuses_flags_that_do_not_fit(tree: dict[str, Path], capsys):
    root = tree["eth3d"]
    argv = ["submit", "eth3d", str(root), "-o", str(root / "out")]
    cases = [
        ([*argv, "--pred", str(root / "pred")], "wants the time of an image; add --seconds S"),
        ([*argv, "--seconds", "1"], "--seconds is for files of --pred"),
        ([*argv, "--pred", "x", "--weights", "y", "--seconds", "1"], "got --pred and --weights"),
        ([*argv, "--size", "Q"], "--size is Middlebury's, and ETH3D two-view has one size"),
        ([*argv, "--method", "no good"], "got method 'no good'"),
    ]
    for given, message in cases:
        assert main(given) == 2
        assert message in capsys.readouterr().err
    (root / "out").mkdir()
    (root / "out" / "mine.txt").write_text("kept")
    assert submit(tree, "eth3d") == 2
    assert "is there already and not empty" in capsys.readouterr().err
    assert (root / "out" / "mine.txt").read_text() == "kept"


def test_an_empty_folder_is_taken(tree: dict[str, Path]):
    (tree["kitti2015"] / "out").mkdir()
    assert submit(tree, "kitti2015") == 0
    assert read_disparity(tree["kitti2015"] / "out" / "disp_0" / "000001_10.png")[1].all()
