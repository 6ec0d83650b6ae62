"""Scoring files: every kind that people have, every name they give them, what is unknown or wrong in them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from datasets.disparities import DisparityFolder
from datasets.pairs import PairsDataset
from stereo.cli import main
from stereo.engine.evaluate import ByName, evaluate
from stereo.image_io import write_disparity_png16, write_image, write_pfm
from stereo.inference.stored import find_stored, read_stored_map, write_stored_map
from stereo.types import DisparityMap, InputError

NAMES = ["set/a", "set/b"]
DISP = np.array([[4, 5, 6, 7], [8, 9, 10, 11]], np.float32)


def write_pairs(root: Path, scenes: tuple[str, ...] = ("a", "b", "c")) -> None:
    rng = np.random.default_rng(0)
    for number, scene in enumerate(scenes):
        folder = root / "set" / scene
        folder.mkdir(parents=True)
        for view in ("left", "right"):
            write_image(folder / f"{view}.png", rng.integers(0, 256, (40, 64, 3), dtype=np.uint8))
        write_pfm(folder / "disp_left.pfm", np.full((40, 64), 5 + number, np.float32))


def write(path: Path, disp: np.ndarray = DISP) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".pfm":
        write_pfm(path, disp)
    elif path.suffix == ".npy":
        np.save(path, disp)
    else:
        write_disparity_png16(path, disp)


@pytest.mark.parametrize(
    "pattern",
    [
        "set/{}.pfm", "set/{}.npy", "set/{}.png", "{}.pfm", "{}.npy", "{}.png", "{}.disp.pfm", "{}.disp16.png", "disp_0/{}.png",
        "low_res_two_view/{}.pfm", "{}/disp0METHOD.pfm",
    ],
)  # fmt: skip
def test_names_that_are_found(tmp_path: Path, pattern: str):
    for scene in "ab":
        write(tmp_path / pattern.format(scene))
    files, missing = find_stored(tmp_path, NAMES)
    assert missing == []
    assert files == {f"set/{scene}": tmp_path / pattern.format(scene) for scene in "ab"}
    assert np.array_equal(read_stored_map(files["set/a"]).disp, DISP)


def test_deep_names(tmp_path: Path):
    names = ["flyingthings3d/TEST/A/0000/0006", "flyingthings3d/TEST/A/0001/0006"]
    write(tmp_path / "0006.pfm")
    with pytest.raises(InputError, match=r"0006\.pfm' would stand for 2 images"):
        find_stored(tmp_path, names)
    for number in "01":
        write(tmp_path / f"TEST-A-000{number}-0006.pfm")
    assert find_stored(tmp_path, names)[0][names[1]].name == "TEST-A-0001-0006.pfm"
    for number in "01":
        write(tmp_path / "TEST" / "A" / f"000{number}" / "0006.npy")
    assert find_stored(tmp_path, names)[0][names[1]] == tmp_path / "TEST" / "A" / "0001" / "0006.npy"


def test_our_own_outputs_beside_pictures(tmp_path: Path):
    write(tmp_path / "a.disp.pfm")
    write_image(tmp_path / "a.png", np.zeros((2, 4, 3), np.uint8))
    write_image(tmp_path / "a.disp.png", np.zeros((2, 4, 3), np.uint8))
    files, missing = find_stored(tmp_path, NAMES)
    assert files == {"set/a": tmp_path / "a.disp.pfm"} and missing == ["set/b"]


def test_nothing_there(tmp_path: Path):
    told = r"no prediction found .*looked for 'set/a\.pfm', 'a\.pfm'.* px \* 256 \(KITTI; unknown: 0"
    with pytest.raises(InputError, match=told):
        find_stored(tmp_path, NAMES)
    with pytest.raises(InputError, match="is not a folder; expected the predictions"):
        find_stored(tmp_path / "absent", NAMES)


def test_unknown_and_negative_are_filled_and_counted(tmp_path: Path):
    stored = np.array([[4, np.nan, 6, 7, np.inf], [-3, 9, 10, np.nan, 2]], np.float32)
    write(tmp_path / "a.pfm", stored)
    found = read_stored_map(tmp_path / "a.pfm")
    assert found.counts == {"count_pred_unknown": 3, "count_pred_negative": 1}
    assert found.disp.tolist() == [[4, 4, 6, 7, 7], [9, 9, 10, 2, 2]]  # the smaller neighbour: the background
    assert found.occlusion is None and found.confidence is None
    write_disparity_png16(tmp_path / "b.png", np.array([[3.0, 1.5]]), np.array([[False, True]]))
    assert read_stored_map(tmp_path / "b.png").counts == {"count_pred_unknown": 1, "count_pred_negative": 0}


def test_another_sign_is_refused(tmp_path: Path):
    write(tmp_path / "a.npy", -DISP)
    with pytest.raises(InputError, match=r"holds 8 of 8 disparities below 0; .* change its sign"):
        read_stored_map(tmp_path / "a.npy")


def test_maps_come_back_as_they_were(tmp_path: Path):
    rng = np.random.default_rng(0)
    result = DisparityMap(*rng.random((3, 5, 7), np.float32))
    write_stored_map(tmp_path, "set/deep/a", result)
    found = read_stored_map(find_stored(tmp_path, ["set/deep/a"])[0]["set/deep/a"])
    for name in ("disp", "occlusion", "confidence"):
        assert np.array_equal(getattr(found, name), getattr(result, name))
    beside = tmp_path / "set" / "deep" / "a.maps.npz"
    beside.write_bytes(beside.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"a\.maps\.npz' is damaged or not ours"):
        read_stored_map(tmp_path / "set" / "deep" / "a.disp.pfm")
    np.savez(beside, occlusion=np.zeros((2, 2)), confidence=np.zeros((2, 2)))
    with pytest.raises(InputError, match="expected two float32 maps of"):
        read_stored_map(tmp_path / "set" / "deep" / "a.disp.pfm")


def test_kept_maps_score_like_the_method_itself(tmp_path: Path, capsys):
    write_pairs(tmp_path / "data")
    data = ["--data", f"pairs:{tmp_path / 'data'}"]
    out = str(tmp_path / "out")
    rng = np.random.default_rng(0)
    samples = PairsDataset(tmp_path / "data")

    def predict(left, right):
        return DisparityMap(*(rng.random((3, 40, 64), np.float32) * np.float32([[[9]], [[1]], [[1]]])))

    keep = tmp_path / "kept"

    def keeper(index, sample, result, row):
        write_stored_map(keep, sample.name, result)

    report = evaluate(predict, samples, progress=False, on_image=keeper)
    again = evaluate(ByName(lambda name: lambda *_: read_stored_map(keep / f"{name}.disp.pfm")), samples, progress=False)
    for row, other in zip(report.rows, again.rows, strict=True):
        assert all(repr(other[key]) == repr(row[key]) for key in row if key != "seconds")
        assert other["count_pred_unknown"] == 0
    assert main(["evaluate", *data, "--pred", str(keep), "-o", out, "--json"]) == 0
    card = json.loads(capsys.readouterr().out)["kept"]
    assert card["summary"]["epe_all"] == report.summary["epe_all"]
    assert card["missing_predictions"] == [] and card["weights"] is None


def test_missing_images_are_an_error_or_listed(tmp_path: Path, capsys):
    write_pairs(tmp_path / "data")
    for scene in "ac":
        write(tmp_path / "pred" / f"{scene}.npy", np.full((40, 64), 7, np.float32))
    argv = ["evaluate", "--gt", f"pairs:{tmp_path / 'data'}", "--pred", str(tmp_path / "pred")]
    assert main(argv) == 2
    assert "1 of 3 images have no prediction in" in (said := capsys.readouterr().err) and "set/b" in said
    assert main([*argv, "--allow-missing", "--json"]) == 0
    captured = capsys.readouterr()
    card = json.loads(captured.out)["pred"]
    assert (card["images"], card["images_available"], card["missing_predictions"]) == (2, 3, ["set/b"])
    assert card["summary"]["epe_all"] == 1.0  # |7 - 5| and |7 - 7|
    assert f"2 files such as '{tmp_path / 'pred' / 'a.npy'}'; .pfm and .npy hold px" in captured.err
    assert "1 of 3 images have no prediction" in captured.err and "1 of 3 images are not scored" in captured.err


def test_what_was_filled_is_printed(tmp_path: Path, capsys):
    write_pairs(tmp_path / "data", ("a",))
    disp = np.full((40, 64), 5, np.float32)
    disp[0, :3], disp[1, 0] = np.nan, -1
    write(tmp_path / "pred" / "a.pfm", disp)
    assert main(["evaluate", "--data", f"pairs:{tmp_path / 'data'}", "--pred", str(tmp_path / "pred")]) == 0
    assert "Filled from the background: 3 px that the files do not know, 1 px below 0." in capsys.readouterr().out


def test_another_size_is_refused(tmp_path: Path, capsys):
    write_pairs(tmp_path / "data", ("a",))
    write(tmp_path / "pred" / "a.pfm", np.ones((20, 32), np.float32))
    assert main(["evaluate", "--data", f"pairs:{tmp_path / 'data'}", "--pred", str(tmp_path / "pred")]) == 2
    assert "set/a: sizes differ: pred (20, 32), truth (40, 64)" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [".pfm", ".png", ".npy"])
def test_two_plain_folders(tmp_path: Path, capsys, kind: str):
    truth = np.full((6, 8), 20, np.float32)
    truth[0, 0] = np.nan
    for name in ("x/1", "x/2"):
        write(tmp_path / "gt" / f"{name}{kind}", truth)
        write(tmp_path / "pred" / f"{name}.pfm", np.full((6, 8), 22, np.float32))
    argv = ["evaluate", "--gt", str(tmp_path / "gt"), "--pred", str(tmp_path / "pred"), "--json", "--thresholds", "1.5", "2.5"]
    assert main(argv) == 0
    card = json.loads(capsys.readouterr().out)["pred"]
    summary = card["summary"]
    assert (summary["epe_all"], summary["bad1.5_all"], summary["bad2.5_all"], summary["count_all"]) == (2, 100, 0, 94)
    assert card["images_without_occlusion"] == 2
    assert summary["count_textureless"] == 0  # nothing is known of the images
    assert summary["iou_pooled"] is None and math.isfinite(summary["seconds"])


def test_folders_of_truth_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(InputError, match="no disparity map found"):
        DisparityFolder(tmp_path)
    write(tmp_path / "a.pfm")
    write(tmp_path / "a.npy")
    with pytest.raises(InputError, match="has a twin of another extension"):
        DisparityFolder(tmp_path)
    (tmp_path / "a.npy").unlink()
    write(tmp_path / "a.pfm", -DISP)
    with pytest.raises(InputError, match="so disp >= 0"):
        DisparityFolder(tmp_path)[0]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--pred", "x", "--weights", "y"], "got --pred and --weights; expected one of them"),
        (["--save-maps"], "--save-maps needs a folder; add -o DIR"),
        (["--workers", "-1"], "got -1 workers, expected 0 or more"),
        (["--protocol", "kiti"], "did you mean kitti?"),
        (["--protocol", "kitti", "--crop", "1", "1", "1", "1"], "'kitti' is fixed, and crop would change it"),
        (["--below", "0", "--above", "3"], "expected a number below the upper limit"),
        (["--pred", "nowhere"], "'nowhere' is not a folder; expected the predictions"),
    ],
)
def test_bad_flags_are_one_line(capsys, argv: list[str], message: str):
    assert main(["evaluate", "--data", "generated:7:1:32x48", *argv]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""
