"""Middlebury's calib.txt: the genuine one of Motorcycle, hand-made ones, and those that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from stereo.calibration.middlebury import read_middlebury_calib
from stereo.geometry import Calibration, disparity_to_depth
from stereo.image_io import read_disparity
from stereo.types import InputError

SHARED = Path(__file__).resolve().parents[2] / "shared"
GOOD_CALIB = "cam0=[999.421 0 294.182; 0 999.421 252.932; 0 0 1]\ndoffs=32.778\nbaseline=193.001\n"


def shared(*parts: str) -> Path:
    if not SHARED.is_dir():
        pytest.skip("../shared is absent")
    return SHARED.joinpath(*parts)


# ---------------------------------------------------------------------------------------------------------------------
# Middlebury


def test_motorcycle_calibration():
    rig = read_middlebury_calib(shared("layouts", "middlebury", "MiddEval3", "trainingQ", "Motorcycle", "calib.txt"))
    assert rig == Calibration(999.421, 294.182, 252.932, 193.001 / 1000, 32.778)
    disp, valid = read_disparity(shared("data", "middlebury2014", "Motorcycle_Q", "disp_left.pfm"))
    depth = disparity_to_depth(disp, rig)[valid]
    # b f / (d + doffs) at the extremes 62.877 and 9.178 px of meta.json
    assert depth.min() == pytest.approx(2.01650, abs=1e-4)
    assert depth.max() == pytest.approx(4.59747, abs=1e-4)


@pytest.mark.parametrize(
    "text",
    [
        GOOD_CALIB,
        "\ufeff" + GOOD_CALIB.replace("\n", "\r\n"),
        "width=741\nnonsense\n\n" + GOOD_CALIB + "cam1=[1 0 1; 0 1 1; 0 0 1]\nvmin=x\n",
        "baseline = 193.001\ncam0 = [ 999.421 0 294.182 ; 0 999.421 252.932;0 0 1 ]\ndoffs = 3.2778e1\n",
    ],
    ids=["plain", "BOM and CRLF", "other keys", "spaces, order and exponent"],
)
def test_calib_files_that_are_read(tmp_path: Path, text: str):
    path = tmp_path / "calib.txt"
    path.write_bytes(text.encode())
    assert read_middlebury_calib(path) == Calibration(999.421, 294.182, 252.932, 193.001 / 1000, 32.778)


@pytest.mark.parametrize(
    ("old", "new", "blamed"),
    [
        ("cam0", "camera0", "0 lines 'cam0='"),
        ("doffs=32.778\n", "", "0 lines 'doffs='"),
        ("baseline", "Baseline", "0 lines 'baseline='"),
        ("doffs=", "doffs=1\ndoffs=", "2 lines 'doffs='"),
        ("32.778", "much", "got doffs=much"),
        ("32.778", "nan", "got doffs=nan"),
        ("193.001", "", "got baseline="),
        ("193.001", "0", "baseline_m = 0.0"),
        ("193.001", "-193.001", "baseline_m = -0.193"),
        ("193.001", "1e999", "baseline_m = inf"),
        ("[999.421 0 ", "[0 0 ", "focal_px = 0.0"),
        ("999.421 0 294.182", "999.421 0", "got cam0="),
        ("0 0 1]", "0 0 2]", "got cam0="),
        ("[999.421 0 ", "[999.421 0.5 ", "got cam0="),  # skew
        ("; 0 0 1]", "]", "got cam0="),
        # one way to read it as a number, not thirty thousand times thirty thousand
        pytest.param("32.778", "1" * 60000 + "x", "got doffs=111", id="a long number"),
        pytest.param("doffs", "\n" * 1_100_000 + "doffs", "0 lines 'doffs='", id="a key far behind"),
    ],
)
def test_calib_files_that_are_refused(tmp_path: Path, old: str, new: str, blamed: str):
    assert GOOD_CALIB.count(old) == 1
    path = tmp_path / "calib.txt"
    path.write_text(GOOD_CALIB.replace(old, new))
    with pytest.raises(InputError) as caught:
        read_middlebury_calib(path)
    message = str(caught.value)
    assert blamed in message
    assert str(path) in message
    assert "\n" not in message


@pytest.mark.parametrize("content", [None, b"", b"\x89PNG\r\n\xff\xfe"], ids=["missing", "empty", "binary"])
def test_files_that_are_no_calibration(tmp_path: Path, content: bytes | None):
    path = tmp_path / "calib.txt"
    if content is not None:
        path.write_bytes(content)
    for given in (path, tmp_path):
        with pytest.raises(InputError, match="calibration") as caught:
            read_middlebury_calib(given)
        assert "\n" not in str(caught.value)
