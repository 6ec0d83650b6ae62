"""Metres, their standard deviation and clouds: arithmetic by hand, files by their formats, Motorcycle by its calib.txt."""

from __future__ import annotations

import json
import math
import re
import struct
from pathlib import Path

import calibration_files as files
import cv2
import numpy as np
import pytest
import torch

from stereo.calibration.fit import Numbers, doubts, field_of_view, fit_to_size
from stereo.checkpoint import save_weights
from stereo.cli import main
from stereo.geometry import Calibration
from stereo.image_io import (
    read_depth_png16,
    read_disparity,
    read_image,
    read_ply,
    read_ply_confidence,
    read_tiff_bands,
    write_depth_png16,
    write_image,
    write_pfm,
    write_ply,
    write_tiff_bands,
)
from stereo.inference.depth import (
    DepthOptions,
    Measured,
    depth_map,
    depth_sigma,
    disparity_sigma,
    plausibility,
    plausibility_line,
)
from stereo.model.build import build_model
from stereo.types import InputError

SHARED = Path(__file__).resolve().parents[2] / "shared"
RIG = Calibration(focal_px=100.0, cx=3.5, cy=1.0, baseline_m=0.2, doffs_px=5.0)  # 20 px m


def measured(disp: list, occlusion: list | None = None, known: list | None = None, confidence: list | None = None) -> Measured:
    array = np.array([disp], np.float32)
    zeros = np.zeros(array.shape, np.float32)
    return Measured(
        array,
        np.ones(array.shape, bool) if known is None else np.array([known], bool),
        zeros if occlusion is None else np.array([occlusion], np.float32),
        None if confidence is None else np.array([confidence], np.float32),
    )


# ---------------------------------------------------------------------------------------------------------------------
# Arithmetic


def test_depth_has_three_codes():
    #            4 m  2 m  1 m  infinity  beyond  occluded    unknown  0.5 m
    maps = measured([0, 5, 15, -5, -9, 5, 5, 35], [0, 0.5, 0, 0, 0, 0.51, 0, 0], [1, 1, 1, 1, 1, 1, 0, 1])
    depth = depth_map(maps, RIG, DepthOptions())
    np.testing.assert_allclose(depth, [[4, 2, 1, np.inf, np.inf, np.nan, np.nan, 0.5]], rtol=1e-6)
    depth = depth_map(maps, RIG, DepthOptions(near_m=1.0, far_m=2.0))
    np.testing.assert_allclose(depth, [[np.inf, 2, 1, np.inf, np.inf, np.nan, np.nan, -np.inf]], rtol=1e-6)
    depth = depth_map(maps, RIG, DepthOptions(keep_occluded=True))
    np.testing.assert_allclose(depth, [[4, 2, 1, np.inf, np.inf, 2, np.nan, 0.5]], rtol=1e-6)


def test_sigma_of_the_disparity_is_that_of_drawn_errors():
    """Draw Laplace errors, count how many are within 1 px, and ask for their standard deviation back."""
    rng = np.random.default_rng(0)
    for sigma in (0.3, 1.0, 4.0):
        errors = rng.laplace(scale=sigma / math.sqrt(2), size=400_000)
        share = (np.abs(errors) <= 1).mean()
        # the share of 400000 is known to 8e-4 at most, sigma to about 1 % then
        assert disparity_sigma(np.array(share)) == pytest.approx(sigma, rel=0.03)
    assert disparity_sigma(np.array(1 - math.exp(-1))) == pytest.approx(math.sqrt(2), rel=1e-12)  # b = 1
    assert disparity_sigma(np.array([0.0, 0.05, 0.12])).tolist() == [10, 10, 10]  # capped
    assert disparity_sigma(np.array(0.14)) < 10
    most = disparity_sigma(np.array([1.0, 0.999]))
    assert most[0] == most[1] == pytest.approx(math.sqrt(2) / math.log(512))  # no confidence is certainty


def test_sigma_of_the_depth_by_hand():
    """Z = 2 m, f B = 20 px m: one px of disparity is 4 / 20 = 0.2 m of depth."""
    depth = np.array([[2.0, 4.0, np.nan, np.inf, -np.inf]], np.float32)
    confidence = np.full((1, 5), 1 - math.exp(-1))
    sigma = depth_sigma(depth, confidence, RIG)
    np.testing.assert_allclose(sigma, [[0.2 * math.sqrt(2), 0.8 * math.sqrt(2), np.nan, np.nan, np.nan]], rtol=1e-6)
    assert np.isnan(depth_sigma(depth, None, RIG)).all()


def test_sigma_of_the_depth_is_the_spread_of_depths():
    """To first order: draw disparities around one, and compare the spread of 20 / (d + 5)."""
    rng = np.random.default_rng(1)
    disp = 35 + rng.laplace(scale=0.5, size=200_000)
    spread = (20 / (disp + 5)).std()
    confidence = np.array([[1 - math.exp(-2)]])
    assert depth_sigma(np.array([[0.5]], np.float32), confidence, RIG)[0, 0] == pytest.approx(spread, rel=0.02)


def test_plausibility_by_hand():
    facts = plausibility(np.array([[1, 2, 4, np.nan], [8, -np.inf, np.inf, np.inf]], np.float32), RIG)
    assert (facts["nearest_m"], facts["median_m"], facts["farthest_m"]) == (1, 3, 8)
    shares = [facts[f"{name}_share"] for name in ("known", "no_depth", "too_near", "too_far")]
    assert shares == [0.5, 0.125, 0.125, 0.25]
    assert "nearest 1 m, median 3 m, farthest 8 m" in plausibility_line(facts)
    assert "no pixel has one" in plausibility_line(plausibility(np.full((2, 2), np.nan, np.float32), RIG))


def test_field_of_view_by_hand():
    """100 px of focal length and 200 px of width centred: twice atan(1) from border to border."""
    assert field_of_view(Calibration(100, 99.5, 49.5, 0.1), (200, 100)) == pytest.approx((90, 2 * math.degrees(math.atan(0.5))))
    assert field_of_view(Calibration(100, 199.5, 49.5, 0.1, 0, 0.5), (200, 100)) == pytest.approx(
        (math.degrees(math.atan(2)), 90)
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"baseline_m": 193.001}, "millimetres taken for metres: if so, give --unit mm"),
        ({"baseline_m": 0.000193}, "metres taken for millimetres: if so, give --unit m"),
        ({"cx": 1176.7, "cy": 1011.7}, "give that with --calib-size"),  # the full-size calibration of a quarter
        ({"focal_px": 39.0}, "degrees: is it in px of these images?"),
    ],
)
def test_what_looks_wrong_is_said_with_the_fix(change, words):
    numbers = {"focal_px": 999.421, "cx": 294.182, "cy": 252.932, "baseline_m": 0.193001, "doffs_px": 32.778} | change
    found = doubts(Calibration(**numbers), (741, 497))
    assert [words in line for line in found] == ([] if words is None else [True])


def test_a_calibration_is_scaled_with_the_images_or_refused():
    full = Calibration(3997.684, 1176.728, 1011.728, 0.193001, 131.111)
    quarter, told = fit_to_size(full, (2964, 1988), (741, 497))
    assert quarter.focal_px == pytest.approx(999.421)
    assert quarter.doffs_px == pytest.approx(32.77775)
    assert told == ["the calibration is of 2964x1988 px, the images are 741x497 px: scaled by 0.25"]
    assert fit_to_size(full, None, (741, 497)) == (full, [])
    assert fit_to_size(full, (741, 496), (740, 496))[1]  # a rounded side is no other shape
    with pytest.raises(InputError, match="another shape"):
        fit_to_size(full, (2964, 1988), (741, 741))


def test_numbers_by_hand_alone_and_over_a_file():
    rig, told = Numbers(fx=700, baseline=120, doffs=2, unit="mm").alone((640, 480))
    assert rig == Calibration(700, 319.5, 239.5, 0.12, 2)
    assert "taken in the middle" in told[0]
    assert Numbers(fx=700, fy=350, cx=1, cy=2, baseline=0.1).alone((640, 480)) == (Calibration(700, 1, 2, 0.1, 0, 0.5), [])
    rig, told = Numbers(fx=50, baseline=0.4).over(RIG)
    assert rig == Calibration(50, 3.5, 1, 0.4, 5)
    assert told == ["numbers given by hand win: --fx 50 (the file has 100), --baseline 0.4 (the file has 0.2)"]
    assert Numbers(fy=150).over(RIG)[0].aspect == 1.5
    assert Numbers().over(RIG) == (RIG, [])


# ---------------------------------------------------------------------------------------------------------------------
# Files

CODES = np.array([[1.5, np.nan, -np.inf, np.inf, 65.534, 65.5346, 1e9, 0.0001, 0.002, 3.0004]], np.float32)


def test_depth_png_by_its_format_and_back(tmp_path):
    path = tmp_path / "a.png"
    write_depth_png16(path, CODES)
    stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert stored.dtype == np.uint16
    assert stored.tolist() == [[1500, 0, 1, 65535, 65534, 65535, 65535, 2, 2, 3000]]
    assert b"Unit\x00mm" in path.read_bytes()
    back = read_depth_png16(path)
    expected = [[1.5, np.nan, -np.inf, np.inf, 65.534, np.inf, np.inf, 0.002, 0.002, 3.0]]
    np.testing.assert_allclose(back, expected, rtol=1e-6)
    for content in (b"", b"x" * 99, path.read_bytes()[:60], path.read_bytes().replace(b"Unit\x00mm", b"Unit\x00px")):
        (tmp_path / "b.png").write_bytes(content)
        with pytest.raises(InputError, match=r"b\.png"):
            read_depth_png16(tmp_path / "b.png")


def test_tiff_by_its_format_and_back(tmp_path):
    """The tags are read as TIFF 6.0 lays them out; a band is a sample of each pixel."""
    path = tmp_path / "a.tiff"
    bands = np.random.default_rng(0).normal(size=(5, 7, 2)).astype(np.float32)
    bands[0, 0], bands[1, 1] = (np.nan, np.inf), (-np.inf, 0)
    write_tiff_bands(path, bands)
    data = path.read_bytes()
    order, magic, directory = struct.unpack_from("<2sHI", data)
    assert (order, magic) == (b"II", 42)
    (count,) = struct.unpack_from("<H", data, directory)
    tags = {}
    for i in range(count):
        tag, kind, values, value = struct.unpack_from("<HHI4s", data, directory + 2 + 12 * i)
        size = {2: 1, 3: 2, 4: 4}[kind] * values
        raw = value[:size] if size <= 4 else data[(at := struct.unpack("<I", value)[0]) : at + size]
        tags[tag] = raw if kind == 2 else struct.unpack(f"<{values}{'H' if kind == 3 else 'I'}", raw)
    assert list(tags) == sorted(tags)
    assert struct.unpack_from("<I", data, directory + 2 + 12 * count) == (0,)  # no second picture
    expected = {256: (7,), 257: (5,), 258: (32, 32), 259: (1,), 277: (2,), 278: (5,), 279: (280,), 284: (1,), 339: (3, 3)}
    assert {tag: tags[tag] for tag in expected} == expected
    assert tags[270].endswith(b"\0") and b"standard deviation" in tags[270]
    start = tags[273][0]
    assert start % 2 == 0 and len(data) == start + 280
    np.testing.assert_array_equal(np.frombuffer(data[start:], "<f4").reshape(5, 7, 2), bands)
    np.testing.assert_array_equal(read_tiff_bands(path), bands, strict=True)
    for content in (
        b"",
        data[:100],
        data[:-1],
        data + b"x",
        b"MM" + data[2:],
        data.replace(b"\x02\x00\x00\x00", b"\x03\x00\x00\x00"),
    ):
        (tmp_path / "b.tiff").write_bytes(content)
        with pytest.raises(InputError, match=r"b\.tiff"):
            read_tiff_bands(tmp_path / "b.tiff")
    for shape in ((5, 7), (5, 7, 3), (0, 7, 2)):
        with pytest.raises(InputError, match="expected"):
            write_tiff_bands(tmp_path / "c.tiff", np.zeros(shape))
    assert not (tmp_path / "c.tiff").exists()


@pytest.mark.parametrize("count", [0, 1, 257])
def test_ply_with_confidence_by_its_format_and_back(tmp_path, count):
    rng = np.random.default_rng(3)
    points, colours = rng.normal(size=(count, 3)).astype(np.float32), rng.integers(0, 256, (count, 3), dtype=np.uint8)
    confidence = rng.uniform(size=count).astype(np.float32)
    write_ply(tmp_path / "a.ply", points, colours, confidence)
    header, _, body = (tmp_path / "a.ply").read_bytes().partition(b"end_header\n")
    properties = [line.split()[1:] for line in header.decode().splitlines() if line.startswith("property")]
    names = [name for _, name in properties]
    assert names == ["x", "y", "z", "red", "green", "blue", "confidence"]
    layout = "<" + "".join({"float": "f", "uchar": "B"}[kind] for kind, _ in properties)
    assert len(body) == count * struct.calcsize(layout)
    for i, vertex in enumerate(struct.iter_unpack(layout, body)):
        assert vertex == (*points[i].tolist(), *colours[i].tolist(), float(confidence[i]))
    for found, expected in zip(read_ply(tmp_path / "a.ply"), (points, colours), strict=True):
        np.testing.assert_array_equal(found, expected, strict=True)
    np.testing.assert_array_equal(read_ply_confidence(tmp_path / "a.ply"), confidence, strict=True)
    write_ply(tmp_path / "b.ply", points, colours)
    assert read_ply_confidence(tmp_path / "b.ply") is None
    with pytest.raises(InputError, match="confidence"):
        write_ply(tmp_path / "c.ply", points, colours, np.zeros(count + 1, np.float32))


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
    capsys.readouterr()


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
