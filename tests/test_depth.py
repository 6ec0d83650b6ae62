"""Metres, their standard deviation and clouds: arithmetic by hand, calibrations made to fit, files by their formats."""

from __future__ import annotations

import math
import struct

import cv2
import numpy as np
import pytest

from stereo.calibration.fit import Numbers, doubts, field_of_view, fit_to_size
from stereo.geometry import Calibration
from stereo.image_io import (
    read_depth_png16,
    read_ply,
    read_ply_confidence,
    read_tiff_bands,
    write_depth_png16,
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
from stereo.types import InputError

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
