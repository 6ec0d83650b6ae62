"""The page of a pair without a browser: the numbers in it, what it says about them, its size, and who writes it."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from page_cases import check_self_contained
from viewer_case import FACTS, RIG, H, W, viewed

from stereo.checkpoint import save_weights
from stereo.cli import main
from stereo.image_io import read_pfm, write_image
from stereo.model.build import build_model
from stereo.report.packed import packed_png, quantum_for
from stereo.report.viewer_page import MOST_PIXELS, sampling_step, viewer_page
from stereo.types import DisparityMap


def decoded(html: str, name: str) -> np.ndarray:
    """(H, W, 3) uint8 RGB of the picture that the page holds under that id."""
    data = base64.b64decode(re.search(rf'<img id="{name}" src="data:image/png;base64,([^"]+)"', html)[1])
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def embedded(html: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="viewer">(.*?)</script>', html)[1])


def unpacked(picture: np.ndarray, quantum: float) -> np.ndarray:
    """The definition of stereo.report.packed, read backwards."""
    code = 256 * picture[..., 0].astype(np.int64) + picture[..., 1]
    return np.where(code == 0, np.nan, (code - 1) * quantum)


def text_of(html: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", html.split("<body>")[1]).split())


@pytest.mark.parametrize("greatest", [0.2, 1.0, 63.0, 4000.0])
def test_packed_values_are_within_half_a_quantum(greatest):
    rng = np.random.default_rng(0)
    values = rng.uniform(0, greatest, (40, 50))
    values[0, :3] = 0, greatest, np.nan
    values[1, 0] = np.inf
    shares = rng.uniform(0, 1, (40, 50))
    quantum = quantum_for(values, None)
    assert quantum == pytest.approx(max(greatest, 1) / 65534)
    picture = cv2.imdecode(np.frombuffer(packed_png(values, quantum, shares), np.uint8), cv2.IMREAD_UNCHANGED)[..., ::-1]
    back = unpacked(picture, quantum)
    np.testing.assert_array_equal(np.isnan(back), ~np.isfinite(values))
    known = np.isfinite(values)
    assert np.abs(back - values)[known].max() <= quantum / 2 * (1 + 1e-9)
    assert back[0, 0] == 0  # 0 px is a disparity, not an unknown one
    assert np.abs(picture[..., 2] / 255 - shares).max() <= 1 / 510 + 1e-9


def test_a_map_without_any_known_value_is_packed_as_unknown():
    nothing = np.full((3, 4), np.nan)
    assert quantum_for(nothing, None) == 1 / 65534
    picture = cv2.imdecode(np.frombuffer(packed_png(nothing, 1.0, np.zeros((3, 4))), np.uint8), cv2.IMREAD_UNCHANGED)
    assert not picture.any()


def test_the_page_holds_the_maps_as_numbers():
    left, result, truth = viewed()
    html = viewer_page("a pair", left, result, FACTS, RIG, truth)
    quantum = embedded(html)["quantum"]
    values, more = decoded(html, "values"), decoded(html, "more")
    assert np.abs(unpacked(values, quantum) - result.disp).max() <= quantum / 2 * 1.001
    back = unpacked(more, quantum)
    np.testing.assert_array_equal(np.isnan(back), ~truth.valid)
    assert np.abs(back - truth.disp)[truth.valid].max() <= quantum / 2 * 1.001
    assert np.abs(values[..., 2] / 255 - result.confidence).max() <= 1 / 510 + 1e-6
    assert np.abs(more[..., 2] / 255 - result.occlusion).max() <= 1 / 510 + 1e-6


def test_the_page_is_complete_and_says_what_it_shows():
    left, result, truth = viewed()
    html = viewer_page("<i>a pair</i>", left, result, FACTS, RIG, truth)
    page = check_self_contained(html)
    assert [o["value"] for o in page.all("option")] == ["left", "disparity", "occlusion", "confidence", "truth", "error"] * 2
    text = text_of(html)
    for told in ("x_right = x_left - disparity", "within 1 px of the truth", "focal length 80 px, baseline 0.25 m",
                 "offset of the principal points 1.5 px", "0.12 s", "64 x 32 px", "the whole image", "00ff"):  # fmt: skip
        assert told in text, told
    assert "baselines" not in text
    assert not page.all("b"), "a name of weights became an element"


def test_without_calibration_and_truth_the_page_says_so():
    left, result, _ = viewed()
    html = viewer_page("a pair", left, result, {})
    check_self_contained(html)
    text, data = text_of(html), embedded(html)
    assert "the cloud's shape is a guess" in text.replace("&#x27;", "'")
    assert data["unit"] == "baselines" and data["rig"]["focal_px"] == W and data["rig"]["baseline_m"] == 1
    assert [shown["key"] for shown in data["maps"]] == ["left", "disparity", "occlusion", "confidence"]
    assert (decoded(html, "more")[..., :2] == 0).all()


def test_a_page_of_a_megapixel_of_noise_stays_below_ten_megabytes():
    rng = np.random.default_rng(0)
    left = rng.integers(0, 256, (1000, 1000, 3), dtype=np.uint8)
    maps = DisparityMap(*rng.uniform(0, 1, (3, 1000, 1000)).astype(np.float32))
    assert len(viewer_page("noise", left, replace(maps, disp=maps.disp * 200), {})) < 10 * 10**6


def test_of_a_large_pair_whole_pixels_are_left_out():
    assert sampling_step(1000, 1500) == 1 and sampling_step(1000, 1501) == 2
    assert sampling_step(6000, 8000) ** 2 * MOST_PIXELS >= 6000 * 8000
    height, width = 1205, 1251  # just above
    disp = np.arange(height * width, dtype=np.float32).reshape(height, width) / 1000
    share = (disp / disp.max()).astype(np.float32)
    html = viewer_page("large", np.zeros((height, width, 3), np.uint8), DisparityMap(disp, share, share), {})
    data = embedded(html)
    assert (data["step"], data["first"], data["size"]) == (2, 1, [width, height])
    back = unpacked(decoded(html, "values"), data["quantum"])
    np.testing.assert_allclose(back, disp[1::2, 1::2], rtol=0, atol=data["quantum"] / 2 * 1.001)
    assert "every 2 px in x and y" in text_of(html)


def test_maps_of_another_size_are_refused():
    left, result, _ = viewed()
    with pytest.raises(ValueError, match=r"occlusion: got shape \(3, 3\)"):
        viewer_page("a pair", left, replace(result, occlusion=np.zeros((3, 3), np.float32)), {})


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    torch.manual_seed(0)
    return str(save_weights(build_model("tiny"), tmp_path_factory.mktemp("weights"), "tiny"))


def test_infer_writes_the_page_when_asked(tmp_path, weights, capsys):
    rng = np.random.default_rng(0)
    for name in ("left.png", "right.png"):
        write_image(tmp_path / name, rng.integers(0, 256, (H, W, 3), dtype=np.uint8))
    pair = [str(tmp_path / name) for name in ("left.png", "right.png")]
    out = tmp_path / "out"
    assert main(["infer", *pair, "-o", str(out), "--weights", weights]) == 0
    assert not (out / "left.html").exists()
    capsys.readouterr()
    assert main(["infer", *pair, "-o", str(out), "--weights", weights, "--html", "--json"]) == 0
    assert str(out / "left.html") in json.loads(capsys.readouterr().out)["pairs"][0]["files"]
    html = (out / "left.html").read_text(encoding="utf-8")
    check_self_contained(html)
    quantum = embedded(html)["quantum"]
    assert np.abs(unpacked(decoded(html, "values"), quantum) - read_pfm(out / "left.disp.pfm")).max() <= quantum / 2 * 1.001


def test_demo_writes_the_page_and_says_where(tmp_path, weights, capsys):
    assert main(["demo", "-o", str(tmp_path / "demo"), "--weights", weights]) == 0
    said = capsys.readouterr().out.splitlines()
    assert f"open {tmp_path / 'demo' / 'demo.html'} in a browser" in said[-2]
    assert said[-1].startswith("EPE")
    html = (tmp_path / "demo" / "demo.html").read_text(encoding="utf-8")
    check_self_contained(html)
    assert [shown["key"] for shown in embedded(html)["maps"]][-2:] == ["truth", "error"]
