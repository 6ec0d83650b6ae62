"""The verbs ``depth`` and ``infer`` in metres: maps by hand, the same from both, bad input, and Motorcycle by its calib.txt."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import calibration_files as files
import numpy as np
import pytest
import torch

from stereo.checkpoint import save_weights
from stereo.cli import main
from stereo.image_io import (
    read_depth_png16,
    read_disparity,
    read_image,
    read_ply,
    read_ply_confidence,
    read_tiff_bands,
    write_image,
    write_pfm,
)
from stereo.model.build import build_model

SHARED = Path(__file__).resolve().parents[2] / "shared"


# ---------------------------------------------------------------------------------------------------------------------
# The verb


@pytest.fixture
def given(tmp_path) -> dict[str, str]:
    """A disparity of 8 px with an unknown column, an image, and maps, of 40x32 px."""
    disp = np.full((32, 40), 8, np.float32)
    disp[:, 3] = np.inf
    disp[:, 4] = 40
    paths = {name: str(tmp_path / name) for name in ("a.disp.pfm", "left.png", "occ.png", "conf.png", "calib.txt", "int.npy")}
    write_pfm(paths["a.disp.pfm"], disp)
    write_image(paths["left.png"], np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8))
    occlusion = np.zeros((32, 40), np.uint8)
    occlusion[:, :2] = 255
    write_image(paths["occ.png"], occlusion)
    confidence = np.full((32, 40), 255, np.uint8)
    confidence[:, 20:] = 51  # 0.2
    write_image(paths["conf.png"], confidence)
    np.save(paths["int.npy"], np.where(np.isfinite(disp), disp * 16, -16).astype(np.int16))
    Path(paths["calib.txt"]).write_text(
        "cam0=[100 0 20; 0 100 16; 0 0 1]\ndoffs=2\nbaseline=100\nwidth=40\nheight=32\n", encoding="utf-8"
    )
    return paths


def test_depth_of_a_map_by_hand(tmp_path, given, capsys):
    """f B = 10 px m, doffs 2 px: 8 px is 1 m, 40 px is 0.238 m."""
    out = tmp_path / "new" / "out"
    argv = ["depth", given["a.disp.pfm"], given["left.png"], "--calib", given["calib.txt"], "-o", str(out), "--json"]
    argv += ["--occlusion", given["occ.png"], "--confidence", given["conf.png"], "--min-depth", "0.5"]
    assert main([*argv, "--save-depth", "npy,png,tiff,ply", "--min-confidence", "0.5"]) == 0
    names = ["a.depth.json", "a.depth.npy", "a.depth.png", "a.depth.tiff", "a.ply"]
    assert sorted(path.name for path in out.iterdir()) == names
    row = np.array([np.nan, np.nan, 1, np.nan, -np.inf] + [1] * 35)
    depth = np.load(out / "a.depth.npy")
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, np.tile(row, (32, 1)), rtol=1e-6)
    np.testing.assert_allclose(read_depth_png16(out / "a.depth.png"), depth, rtol=1e-6)
    bands = read_tiff_bands(out / "a.depth.tiff")
    np.testing.assert_array_equal(bands[..., 0], depth)
    # Z^2 / (f B) = 0.1 m for each px
    np.testing.assert_allclose(bands[0, 2, 1], 0.1 * math.sqrt(2) / math.log(512), rtol=1e-5)
    np.testing.assert_allclose(bands[0, 20, 1], -0.1 * math.sqrt(2) / math.log(0.8), rtol=1e-5)
    assert np.isnan(bands[0, :2, 1]).all() and np.isnan(bands[0, 3:5, 1]).all()
    points, colours = read_ply(out / "a.ply")
    assert len(points) == 32 * 16  # columns 2 and 5 to 19
    np.testing.assert_allclose(points[0], [(2 - 20) / 100, (0 - 16) / 100, 1], rtol=1e-5)
    np.testing.assert_array_equal(colours[0], read_image(given["left.png"])[0, 2])
    assert read_ply_confidence(out / "a.ply").tolist() == [1.0] * len(points)
    facts = json.loads((out / "a.depth.json").read_text())
    assert (facts["nearest_m"], facts["median_m"], facts["farthest_m"]) == pytest.approx((1, 1, 1))
    assert facts["cloud_points"] == len(points)
    assert "nan = occluded" in facts["depth_codes"] and "65535" in facts["depth_png"]
    assert json.loads(capsys.readouterr().out)["files"]


def test_occluded_pixels_are_kept_on_request(tmp_path, given, capsys):
    argv = ["depth", given["a.disp.pfm"], given["left.png"], "--calib", given["calib.txt"], "--occlusion", given["occ.png"]]
    for option, points in (([], 32 * 37), (["--keep-occluded"], 32 * 39)):
        assert main([*argv, *option, "-o", str(tmp_path / "out"), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["cloud_points"] == points
    assert read_ply_confidence(tmp_path / "out" / "a.ply") is None


def test_integers_of_sgbm_are_scaled(tmp_path, given, capsys):
    argv = ["--calib", given["calib.txt"], "-o", str(tmp_path / "out"), "--save-depth", "npy", "--json"]
    assert main(["depth", given["int.npy"], given["left.png"], "--scale", "0.0625", *argv]) == 0
    depth = np.load(tmp_path / "out" / "int.depth.npy")
    np.testing.assert_allclose(depth[0, :6], [1, 1, 1, np.nan, 10 / 42, 1], rtol=1e-6)
    write_pfm(tmp_path / "negative.pfm", -np.full((32, 40), 8, np.float32))
    assert main(["depth", str(tmp_path / "negative.pfm"), given["left.png"], "--scale", "-1", *argv]) == 0
    np.testing.assert_allclose(np.load(tmp_path / "out" / "negative.depth.npy"), 1, rtol=1e-6)
    captured = capsys.readouterr()
    assert "negative;" not in captured.out + captured.err
    for path, scale in ((tmp_path / "negative.pfm", []), (Path(given["int.npy"]), ["--scale", "0.0625"])):
        assert main(["depth", str(path), given["left.png"], *scale, *argv]) == 0
        captured = capsys.readouterr()
        line = "warning: 100% of the disparities are negative"
        assert (line in captured.err, line in str(json.loads(captured.out)["notes"])) == ((not scale,) * 2)


def test_what_was_assumed_is_said(tmp_path, given, capsys):
    calib = Path(given["calib.txt"])
    calib.write_text(calib.read_text().replace("width=40\nheight=32", "width=80\nheight=64"))
    argv = ["depth", given["a.disp.pfm"], given["left.png"], "-o", str(tmp_path / "out")]
    assert main([*argv, "--calib", str(calib), "--fx", "200", "--unit", "m"]) == 0
    printed = capsys.readouterr().out
    assert "--fx 200 (the file has 100)" in printed
    assert "of 80x64 px, the images are 40x32 px: scaled by 0.5" in printed
    assert "warning: a baseline of 100 m looks like millimetres" in printed
    assert "median 1111 m" in printed  # 200 / 2 px * 100 m / (8 + 2 / 2 px)
    assert main([*argv, "--fx", "100", "--baseline", "0.1", "--doffs", "2"]) == 0
    printed = capsys.readouterr().out
    assert "cx and cy not given" in printed and "median 1 m" in printed
    assert main([*argv, "--calib", str(calib), "--calib-size", "40x32"]) == 0
    assert "--calib-size wins" in capsys.readouterr().out


def test_python_of_the_documentation_runs(tmp_path, given, monkeypatch):
    text = (Path(__file__).resolve().parents[1] / "docs" / "calibration.md").read_text(encoding="utf-8")
    block = next(
        code for code in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL) if "read_calibration" in code
    )
    monkeypatch.chdir(tmp_path)
    Path(given["a.disp.pfm"]).rename(tmp_path / "disparity.pfm")
    names: dict = {}
    exec(compile(block, "calibration.md", "exec"), names)
    assert names["points"].shape == (32 * 39, 3)
    assert np.median(names["points"][:, 2]) == 1


BAD = [
    (["none.pfm", "{left.png}", "--calib", "{calib.txt}"], "none.pfm"),
    (["{left.png}", "{left.png}", "--calib", "{calib.txt}"], "8-bit colour PNG"),
    (["{int.npy}", "{left.png}", "--calib", "{calib.txt}"], "int16"),
    (["{int.npy}", "{left.png}", "--calib", "{calib.txt}", "--scale", "0"], "got --scale 0"),
    (["{int.npy}", "{left.png}", "--calib", "{calib.txt}", "--scale=1e-60"], "no known value once scaled"),
    (["{int.npy}", "{left.png}", "--calib", "{calib.txt}", "--scale", "x"], "got 'x', expected a number"),
    (["{a.disp.pfm}", "{small.png}", "--calib", "{calib.txt}"], "40x32 px and the image 20x16 px"),
    (["{a.depth.npy}", "{left.png}", "--calib", "{calib.txt}"], "called like a depth map"),
    (["{a.disp.pfm}", "{left.png}"], "metres need a calibration"),
    (["{a.disp.pfm}", "{left.png}", "--calib", "{left.png}"], "is not a text file"),
    (["{a.disp.pfm}", "{left.png}", "--calib", "{raw.json}"], "run 'rectify LEFT RIGHT"),
    (["{a.disp.pfm}", "{left.png}", "--calib", "{raw.json}", "--calib-size", "1x1"], "no image size 1x1"),
    (["{a.disp.pfm}", "{left.png}", "--calib", "{motorcycle.txt}"], "another shape"),
    (["{a.disp.pfm}", "{left.png}", "--calib", "{calib.txt}", "--calib2", "{calib.txt}"], "leave out --calib2"),
    (["{a.disp.pfm}", "{left.png}", "--calib2", "{calib.txt}", "--fx", "1", "--baseline", "1"], "without --calib"),
    (["{a.disp.pfm}", "{left.png}", "--fx", "100"], "got --fx without --baseline"),
    (["{a.disp.pfm}", "{left.png}", "--doffs", "1"], "got --doffs without --fx and --baseline"),
    (["{a.disp.pfm}", "{left.png}", "--fx", "-100", "--baseline", "1"], "focal_px = -100"),
    (["{a.disp.pfm}", "{left.png}", "--fx", "100", "--baseline", "0"], "baseline_m = 0"),
    (["{a.disp.pfm}", "{left.png}", "--fx", "inf", "--baseline", "1"], "got 'inf', expected a number"),
    (["{a.disp.pfm}", "{left.png}", "--unit", "m"], "got --unit without a calibration"),
    (["{a.disp.pfm}", "{left.png}", "--max-depth", "3"], "got --max-depth without a calibration"),
    (
        ["{a.disp.pfm}", "{left.png}", "--calib", "{calib.txt}", "--min-depth", "3", "--max-depth", "2"],
        "expected the first to be less",
    ),
    (["{a.disp.pfm}", "{left.png}", "--calib", "{calib.txt}", "--min-depth", "0"], "got '0', expected a number above 0"),
    (["{a.disp.pfm}", "{left.png}", "--calib", "{calib.txt}", "--min-confidence", "0.5"], "name its map with --confidence"),
    (["{a.disp.pfm}", "{left.png}", "--calib", "{calib.txt}", "--min-confidence", "50"], "expected a number from 0 to 1"),
    (["{a.disp.pfm}", "{left.png}", "--calib", "{calib.txt}", "--confidence", "{small.png}"], "expected (32, 40)"),
    (["{a.disp.pfm}", "{left.png}", "--calib", "{calib.txt}", "--occlusion", "{a.disp.pfm}"], "no probabilities"),
    (["{a.disp.pfm}", "{left.png}", "--calib", "{calib.txt}", "--save-depth", "npy,exr"], "got 'exr'"),
    (["{a.disp.pfm}", "{left.png}", "--calib", "{calib.txt}", "-o", "{calib.txt}"], "cannot create the output folder"),
]


@pytest.mark.parametrize(("options", "blamed"), BAD, ids=[f"{i} {blamed}" for i, (_, blamed) in enumerate(BAD)])
def test_bad_input_gets_one_line_and_leaves_nothing(tmp_path, given, capsys, monkeypatch, options, blamed):
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "small.png", np.zeros((16, 20), np.uint8))
    (tmp_path / "raw.json").write_text(files.REALSENSE_JSON.replace("1280", "40").replace("800", "32"))
    (tmp_path / "motorcycle.txt").write_text(files.MIDDLEBURY)
    before = sorted(tmp_path.rglob("*"))
    argv = [str(tmp_path / option[1:-1]) if option.startswith("{") else option for option in options]
    assert main(["depth", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert blamed in captured.err
    assert sorted(tmp_path.rglob("*")) == before


# ---------------------------------------------------------------------------------------------------------------------
# infer


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    torch.manual_seed(0)
    return str(save_weights(build_model("tiny"), tmp_path_factory.mktemp("weights"), "tiny"))


@pytest.fixture
def pair(tmp_path) -> list[str]:
    paths = [str(tmp_path / f"{side}.png") for side in ("left", "right")]
    for seed, path in enumerate(paths):
        write_image(path, np.random.default_rng(seed).integers(0, 256, (32, 64, 3), dtype=np.uint8))
    return paths


def test_infer_writes_what_depth_would(tmp_path, pair, weights, capsys):
    """From the maps that infer writes, ``depth`` makes the same files, up to the 8 bits of occlusion and confidence."""
    out, again = tmp_path / "out", tmp_path / "again"
    options = [
        "--fx",
        "100",
        "--baseline",
        "20",
        "--unit",
        "cm",
        "--doffs",
        "1",
        "--save-depth",
        "npy,tiff,ply",
        "--max-depth",
        "9",
    ]
    assert main(["infer", *pair, "-o", str(out), "--weights", weights, "--device", "cpu", *options]) == 0
    assert "cx and cy not given" in (printed := capsys.readouterr().out) and "depth: nearest" in printed
    facts = json.loads((out / "left.json").read_text())["depth"]
    depth = np.load(out / "left.depth.npy")
    assert facts["baseline_m"] == 0.2 and facts["far_m"] == 9
    assert facts["median_m"] == pytest.approx(np.median(depth[np.isfinite(depth)]))
    assert len(read_ply(out / "left.ply")[0]) == facts["cloud_points"] == np.isfinite(depth).sum()
    maps = ["--occlusion", str(out / "left.occ.png"), "--confidence", str(out / "left.conf.png"), "-o", str(again)]
    assert main(["depth", str(out / "left.disp.pfm"), pair[0], *maps, *options]) == 0
    capsys.readouterr()
    both = np.isfinite(depth) & np.isfinite(np.load(again / "left.depth.npy"))
    assert both.sum() > 0.9 * np.isfinite(depth).sum()  # an occlusion of about 0.5 may be rounded to the other side
    np.testing.assert_array_equal(np.load(again / "left.depth.npy")[both], depth[both])
    sigma = [read_tiff_bands(folder / "left.depth.tiff")[both][:, 1] for folder in (out, again)]
    np.testing.assert_allclose(sigma[0], sigma[1], rtol=0.2)


@pytest.mark.parametrize(
    ("options", "blamed"),
    [
        (["--calib", "none.txt"], "none.txt"),
        (["--fx", "100"], "without --baseline"),
        (["--baseline", "0.1"], "without --fx"),
        (["--cx", "3"], "without --fx and --baseline"),
        (["--min-confidence", "0.5"], "got --min-confidence without a calibration"),
        (["--save-depth", "ply"], "got --save-depth without a calibration"),
        (["--keep-occluded"], "got --keep-occluded without a calibration"),
        (["--calib-size", "64x32"], "got --calib-size without a calibration"),
        (["--fx", "100", "--baseline", "0.1", "--calib-size", "64x64"], "another shape"),
        (["--fx", "100", "--baseline", "0.1", "--min-depth", "2", "--max-depth", "1"], "expected the first to be less"),
        (["--fx", "wide", "--baseline", "0.1"], "got 'wide', expected a number"),
        (["--fx", "100", "--baseline", "-0.1"], "baseline_m = -0.1"),
    ],
)
def test_infer_refuses_calibrations_before_the_network_is_loaded(tmp_path, pair, capsys, options, blamed):
    before = sorted(tmp_path.rglob("*"))
    assert main(["infer", *pair, "-o", str(tmp_path / "out"), "--weights", "none", *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert blamed in captured.err
    assert sorted(tmp_path.rglob("*")) == before


# ---------------------------------------------------------------------------------------------------------------------
# Motorcycle


@pytest.fixture
def motorcycle() -> tuple[Path, Path]:
    if not SHARED.is_dir():
        pytest.skip("../shared is absent")
    scene = SHARED / "data" / "middlebury2014" / "Motorcycle_Q"
    return scene, SHARED / "layouts" / "middlebury" / "MiddEval3" / "trainingQ" / "Motorcycle" / "calib.txt"


def true_depth(scene: Path) -> np.ndarray:
    """(H, W) m by the numbers of calib.txt as they are written there, NaN where nothing is known."""
    disp, known = read_disparity(scene / "disp_left.pfm")
    return np.where(known, 0.193001 * 999.421 / (disp.astype(np.float64) + 32.778), np.nan)


def test_motorcycle_in_metres(tmp_path, motorcycle, capsys):
    scene, calib = motorcycle
    argv = [
        "depth",
        str(scene / "disp_left.pfm"),
        str(scene / "left.png"),
        "--calib",
        str(calib),
        "-o",
        str(tmp_path),
        "--json",
    ]
    assert main([*argv, "--occlusion", str(scene / "occ_left.png")]) == 0
    truth = true_depth(scene)
    visible = np.isfinite(truth) & ~(read_image(scene / "occ_left.png")[..., 0] > 127)
    points, colours = read_ply(tmp_path / "disp_left.ply")
    assert len(points) == visible.sum()
    np.testing.assert_allclose(points[:, 2], truth[visible], rtol=1e-5)
    assert np.median(points[:, 2]) == pytest.approx(np.median(truth[visible]), rel=1e-6)
    # The image of a point is where it came from: x = f X / Z + cx of calib.txt.
    rows, columns = np.nonzero(visible)
    np.testing.assert_allclose(points[:, 0] / points[:, 2] * 999.421 + 294.182, columns, atol=1e-3)
    np.testing.assert_allclose(points[:, 1] / points[:, 2] * 999.421 + 252.932, rows, atol=1e-3)
    np.testing.assert_array_equal(colours, read_image(scene / "left.png")[visible])
    facts = json.loads(capsys.readouterr().out)
    assert facts["median_m"] == pytest.approx(np.median(truth[visible]), rel=1e-5)
    assert facts["view_horizontal_degrees"] == pytest.approx(
        40.49, abs=0.01
    )  # atan(446.318 / 999.421) + atan(294.682 / 999.421)


@pytest.mark.slow
def test_motorcycle_with_the_shipped_weights(tmp_path, motorcycle, capsys):
    """The median depth is that of the truth at the same visible pixels, within what the median disparity error makes of it."""
    scene, calib = motorcycle
    argv = [
        "infer",
        str(scene / "left.png"),
        str(scene / "right.png"),
        "--calib",
        str(calib),
        "-o",
        str(tmp_path),
        "--device",
        "cpu",
    ]
    assert main(argv) == 0
    capsys.readouterr()
    truth, depth = true_depth(scene), np.load(tmp_path / "left.depth.npy")
    points, _ = read_ply(tmp_path / "left.ply")
    np.testing.assert_array_equal(points[:, 2], depth[np.isfinite(depth)])
    hidden = read_image(scene / "occ_left.png")[..., 0] > 127
    both = np.isfinite(depth) & np.isfinite(truth) & ~hidden
    assert both.mean() > 0.8
    disp, _ = read_disparity(tmp_path / "left.disp.pfm")
    error = np.median(np.abs(disp - read_disparity(scene / "disp_left.pfm")[0])[both])  # px
    median = np.median(truth[both])
    allowed = median**2 / (0.193001 * 999.421) * error
    assert allowed < 0.015
    assert np.median(depth[both]) == pytest.approx(median, abs=allowed)
    assert abs(np.median((depth - truth)[both])) < allowed / 5  # pixel by pixel there is no bias
    # The cloud also holds points that have no truth, or are hidden and not known to be: within the mean error.
    visible = np.isfinite(truth) & ~hidden
    mean_error = np.abs(disp - read_disparity(scene / "disp_left.pfm")[0])[both].mean()
    assert np.median(points[:, 2]) == pytest.approx(np.median(truth[visible]), abs=allowed * mean_error / error)
