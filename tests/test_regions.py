"""Regions and bins on maps small enough to draw, and against their definitions as loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stereo.metrics import BINS, aggregate, bin_errors, disparity_errors, region_errors, region_masks
from stereo.metrics.errors import absolute_errors
from stereo.metrics.regions import near_edges, textureless
from stereo.types import Sample

WIDE = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)


def draw(mask: np.ndarray) -> list[str]:
    return ["".join("x" if value else "." for value in row) for row in mask]


def test_out_of_frame():
    disp = np.array([[0, 1, 3, 2.5, 4.5], [1, 1, 2, 3, -1]], np.float32)
    valid = np.ones((2, 5), bool)
    valid[0, 2] = False
    masks = region_masks(Sample(WIDE[:2, :5], WIDE[:2, :5], disp=disp, valid=valid))
    # A match in column 0 is inside; column -1 of the second row's first pixel is not, nor is column 5 of its last one.
    assert draw(masks["oof"]) == ["....x", "x...x"]


def test_edges():
    disp, valid = np.full((9, 12), 5, np.float32), np.ones((9, 12), bool)
    disp[:, 7:] = 7  # 2 px apart is not more than 2 px
    assert not near_edges(disp, valid).any()
    disp[:, 7:] = 7.5
    assert draw(near_edges(disp, valid)) == ["....xxxxxx.."] * 9  # columns 6 and 7, and 2 px around
    valid[:, 6] = False  # the near side is not known: no neighbours left to compare
    assert not near_edges(disp, valid).any()


def test_edges_between_rows_and_at_corners():
    disp, valid = np.zeros((9, 12), np.float32), np.ones((9, 12), bool)
    disp[8, 11] = 9
    around = np.zeros((9, 12), bool)
    around[6:, 8:], around[5:, 9:] = True, True  # around (8, 10), (8, 11) and (7, 11)
    assert draw(near_edges(disp, valid)) == draw(around)
    masks = region_masks(Sample(WIDE, WIDE, disp=disp, valid=valid & (np.arange(12) != 10)))
    assert not masks["edge"][:, 10].any() and masks["edge"][5, 9]  # scored only where the truth is known


def test_textureless_is_the_definition():
    rng = np.random.default_rng(3)
    image = np.repeat(rng.integers(0, 12, (20, 30, 1), dtype=np.uint8), 3, axis=2)
    image[:, 12:20] = 7
    grey = image[..., 0].astype(int)
    found = textureless(image)
    assert 0 < found.sum() < found.size
    for y in range(20):
        for x in range(30):
            squares = []
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    row, column = min(max(y + dy, 0), 19), min(max(x + dx, 0), 29)
                    squares.append((grey[row, column + 1] - grey[row, column]) ** 2 if column < 29 else 0)
            assert found[y, x] == (sum(squares) / 9 < 4), (y, x)


def test_an_image_of_one_colour_stands_for_no_image():
    assert not textureless(np.full((5, 5, 3), 9, np.uint8)).any()


def test_regions_are_scored_like_masks():
    rng = np.random.default_rng(1)
    truth = rng.uniform(0, 300, (9, 12)).astype(np.float32)
    pred = truth + rng.normal(0, 4, (9, 12)).astype(np.float32)
    sample = Sample(WIDE, WIDE, disp=truth, valid=rng.random((9, 12)) < 0.8, occluded=rng.random((9, 12)) < 0.3)
    masks = region_masks(sample)
    everything = masks["all"]
    error, reference = absolute_errors(pred, truth, everything)
    row = region_errors(error, reference, {name: mask[everything] for name, mask in masks.items()}, (0.5, 4), True)
    for region, mask in masks.items():
        for figure, value in disparity_errors(pred, truth, mask, (0.5, 4), True).items():
            assert repr(row[f"{figure}_{region}"]) == repr(value), (figure, region)  # NaN, too, where a region is empty
    assert sum(mask.any() for mask in masks.values()) == 5  # random pixels leave nothing without texture
    bins = bin_errors(error, reference)
    for name, (low, high) in BINS.items():
        expected = disparity_errors(pred, truth, everything & (truth >= low) & (truth < high))
        assert bins[f"count_{name}"] == expected["count"] > 0
        assert bins[f"epe_{name}"] == pytest.approx(expected["epe"], rel=1e-12)
        assert bins[f"bad3_{name}"] == pytest.approx(expected["bad3"], rel=1e-12)
    assert sum(bins[f"count_{name}"] for name in BINS) == everything.sum()


def test_a_bin_without_pixels_is_nan():
    bins = bin_errors(np.array([4.0, 1.0]), np.array([15.99, 16.0]))
    assert (bins["count_d0to16"], bins["epe_d0to16"], bins["bad3_d0to16"]) == (1, 4.0, 100.0)
    assert (bins["count_d16to32"], bins["epe_d16to32"], bins["bad3_d16to32"]) == (1, 1.0, 0.0)
    assert bins["count_d192up"] == 0 and math.isnan(bins["epe_d192up"]) and math.isnan(bins["bad3_d192up"])


def test_distribution_by_hand():
    truth = np.zeros(10)
    errors = disparity_errors(np.arange(10.0), truth, np.ones(10, bool), (0.5, 4), distribution=True)
    assert errors["rms"] == pytest.approx(math.sqrt(28.5))
    # The 5th, 9th, 10th and 10th of ten: the least error that 50, 90, 95 and 99 percent do not exceed.
    assert [errors[f"a{q}"] for q in (50, 90, 95, 99)] == [4, 8, 9, 9]
    assert (errors["bad0.5"], errors["bad4"], "bad3" in errors) == (90.0, 50.0, False)
    empty = disparity_errors(truth, truth, np.zeros(10, bool), (0.5,), distribution=True)
    assert math.isnan(empty["a50"]) and math.isnan(empty["rms"]) and math.isnan(empty["bad0.5"])


def test_images_weigh_what_they_are_said_to():
    rows = [{"epe_noc": 1.0, "rms_noc": 3.0, "count_noc": 1}, {"epe_noc": 4.0, "rms_noc": 5.0, "count_noc": 3}]
    summary = aggregate([*rows, {"epe_noc": math.nan, "rms_noc": math.nan, "count_noc": 0}], [1.0, 0.5, 0.5])
    assert summary["epe_noc"] == 2.0  # (1 + 4 / 2) / 1.5
    assert summary["epe_noc_pooled"] == 13 / 4
    assert summary["rms_noc_pooled"] == pytest.approx(math.sqrt((9 + 3 * 25) / 4))
    assert summary["epe_noc_skipped"] == 1
