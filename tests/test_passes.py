"""One network at several sizes of a pair: resizing, bringing back, merging."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import stereo
from stereo.inference.passes import AROUND, NEAR, brought_back, merged, resized
from stereo.types import DisparityMap, InputError


def maps(disp: float, occlusion: float = 0.0, confidence: float = 0.5, size: tuple[int, int] = (4, 6)) -> DisparityMap:
    return DisparityMap(*(np.full(size, x, np.float32) for x in (disp, occlusion, confidence)))


def ramp(height: int, width: int, slope: float) -> np.ndarray:
    """Its value at the middle of a picture is the same at every size."""
    return np.broadcast_to(slope * ((np.arange(width, dtype=np.float32) + 0.5) / width - 0.5), (height, width)).copy()


@pytest.mark.parametrize("factor", [0.5, 1.5, 2.0])
def test_disparities_come_back_in_px_of_the_pair(factor):
    """A slanted plane seen at another size: away from the border the disparities are those of the plane.

    The mean over an area takes each pixel of the copy as flat: at 1.5 times the size it is off by 1/18 of the 0.2 px a column.
    """
    height, width = 20, 60
    large = 100 + ramp(round(height * factor), round(width * factor), 12.0)
    back = brought_back(DisparityMap(large * np.float32(factor), 0 * large, 0 * large), height, width)
    assert back.disp.shape == (height, width)
    np.testing.assert_allclose(back.disp[:, 3:-3], (100 + ramp(height, width, 12.0))[:, 3:-3], atol=0.2 / 18 + 1e-4)


def test_confidence_is_about_px_of_the_pair():
    """Errors drawn from Laplace's distribution at twice the size: how many are below 1 px here."""
    rng = np.random.default_rng(3)
    errors = np.abs(rng.laplace(scale=1.7, size=200_000))  # px of the large copy
    there = maps(0, confidence=float((errors < 1).mean()), size=(8, 12))
    assert brought_back(there, 4, 6).confidence == pytest.approx((errors / 2 < 1).mean(), abs=5e-3)
    assert there.confidence[0, 0] == pytest.approx(1 - math.exp(-1 / 1.7), abs=5e-3)


def test_passes_that_agree_are_averaged_by_confidence():
    result = merged({1.0: maps(10, 0.2, 0.6), 3.0: maps(10 + 0.5, 0.4, 0.2)})
    np.testing.assert_allclose(result.disp, (0.6 * 10 + 0.2 * 10.5) / 0.8, rtol=1e-6)
    np.testing.assert_allclose(result.occlusion, (0.2 + 3 * 0.4) / 4, rtol=1e-6)
    np.testing.assert_allclose(result.confidence, 0.4, rtol=1e-6)  # both lie within 1 px of the result
    assert result.disp.dtype == result.occlusion.dtype == result.confidence.dtype == np.float32


def test_where_passes_differ_the_surest_wins_and_is_trusted_less():
    result = merged({1: maps(10, confidence=0.6), 2: maps(10 + 2 * NEAR, confidence=0.7), 3: maps(10.5, confidence=0.1)})
    np.testing.assert_allclose(result.disp, 10 + 2 * NEAR, rtol=1e-6)
    np.testing.assert_allclose(result.confidence, 0.7 / 3, rtol=1e-5)


def test_the_surest_is_the_one_whose_neighbourhood_is():
    """By a slow loop over all pixels whose square lies inside: single pixels of high confidence change nothing."""
    rng = np.random.default_rng(5)
    confidence = rng.random((2, 30, 60)).astype(np.float32)
    confidence[0, :, :30] += 0.1
    confidence[1, :, 30:] += 0.1
    passes = {k: DisparityMap(np.full((30, 60), 20.0 * k, np.float32), 0 * c, c) for k, c in enumerate(confidence, start=1)}
    result = merged(passes).disp
    half = AROUND // 2
    for y in range(half, 30 - half):
        for x in range(half, 60 - half):
            means = confidence[:, y - half : y + half + 1, x - half : x + half + 1].mean(axis=(1, 2))
            assert result[y, x] == pytest.approx(20.0 * (1 + means.argmax()))
    assert (result != 20.0 * (1 + confidence.argmax(axis=0))).mean() > 0.1


def test_passes_that_know_nothing_give_numbers():
    result = merged({1: maps(10, confidence=0), 2: maps(20, confidence=0)})
    np.testing.assert_array_equal(result.disp, 10)
    np.testing.assert_array_equal(result.confidence, 0)


def test_one_pass_is_returned_as_it_is():
    only = maps(3)
    assert merged({1: only}) is only
    assert brought_back(only, 4, 6) is only
    image = np.zeros((4, 6, 3), np.uint8)
    assert resized(image, 1.0) is image
    assert resized(image, 1.5).shape == (6, 9, 3)


def test_the_predictor_merges_what_it_gives_at_each_size():
    """Against the same by hand: the network on the pair as it is, and on a copy resized elsewhere."""
    torch.manual_seed(0)
    network = stereo.build_model("tiny")
    rng = np.random.default_rng(1)
    left, right = (rng.integers(0, 256, (40, 72, 3), dtype=np.uint8) for _ in range(2))
    plain = stereo.StereoPredictor(network, precision="fp32")
    large = plain.predict(resized(left, 2), resized(right, 2))
    expected = merged({1: plain.predict(left, right), 2: brought_back(large, 40, 72)})
    result = stereo.StereoPredictor(network, precision="fp32", sizes=(1, 2)).predict(left, right)
    np.testing.assert_array_equal(result.disp, expected.disp)
    assert np.abs(result.disp - plain.predict(left, right).disp).max() > 0.01
    assert np.isfinite(result.disp).all() and result.disp.min() >= 0


def test_by_default_only_small_pairs_are_enlarged(monkeypatch):
    network = stereo.build_model("tiny")
    usual = stereo.StereoPredictor(network, sizes=None)
    assert usual.sizes_for(540, 960) == (1.0, 0.5, 2.0)
    assert usual.sizes_for(60, 960) == (1.0, 2.0), "half of it would be too small"
    assert usual.sizes_for(1080, 1920) == (1.0,)
    assert stereo.StereoPredictor(network).sizes_for(540, 960) == (1.0,)
    sttr = stereo.StereoPredictor(stereo.build_model("sttr-light"), sizes=None)
    assert sttr.sizes_for(540, 960) == (1.0,)


def test_enlarged_disparities_keep_planes_and_edges():
    rows, columns = np.mgrid[:40, :60].astype(np.float32)
    plane = 3 + 0.05 * columns + 0.1 * rows
    disp = np.where(columns < 30, plane, 25).astype(np.float32)
    small = DisparityMap(disp, np.zeros_like(disp), np.full_like(disp, 0.5))
    large = brought_back(small, 80, 120).disp
    y, x = np.mgrid[:80, :120]
    expected = 2 * (3 + 0.05 * ((x + 0.5) / 2 - 0.5) + 0.1 * ((y + 0.5) / 2 - 0.5))
    inner = (slice(2, -2), slice(2, 56))
    np.testing.assert_allclose(large[inner], expected[inner], atol=1e-3)
    np.testing.assert_array_equal(large[:, 64:], 50)
    between = (large > 2 * plane.max() + 1e-3) & (large < 50)
    assert not between.any(), "points between the two surfaces"


@pytest.mark.parametrize("sizes", [(), (0.2,), (1, 4.5), (-1,), (math.nan,)])
def test_sizes_out_of_range_are_refused(sizes):
    with pytest.raises(InputError, match="sizes"):
        stereo.StereoPredictor(stereo.build_model("tiny"), sizes=sizes)


def test_a_copy_that_would_be_too_small_is_refused():
    image = np.zeros((90, 130, 3), np.uint8)
    with pytest.raises(InputError, match=r"size 0\.3 makes 39x27 px of 130x90 px"):
        stereo.StereoPredictor(stereo.build_model("tiny"), sizes=(0.3, 1)).predict(image, image)
