"""Figures against maps small enough to count by hand, and against the public STTR's own metric code."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from stereo.metrics import aggregate, disparity_errors, occlusion_scores, region_masks
from stereo.types import InputError, Sample

ORACLE = Path(__file__).resolve().parents[2] / "shared" / "oracles" / "metrics.npz"

TRUTH = np.array([[10, 10, 10, 10], [100, 100, 100, 100]], np.float32)
# Errors: 0, 1, 1.5, 2 and 3, 4, 5, 6. Of the second row only 6 is above 5 % of 100 px.
PRED = np.array([[10, 9, 11.5, 12], [103, 96, 105, 94]], np.float32)
ALL = np.ones((2, 4), bool)


def test_errors_counted_by_hand():
    assert disparity_errors(PRED, TRUTH, ALL) == {
        "epe": 22.5 / 8,
        "bad1": 100 * 6 / 8,  # an error of exactly 1 px is not above 1 px
        "bad2": 100 * 4 / 8,
        "bad3": 100 * 3 / 8,  # nor is 3 above 3
        "d1": 100 * 1 / 8,
        "count": 8,
    }


def test_only_the_mask_is_scored():
    mask = np.zeros((2, 4), bool)
    mask[0, 3] = mask[1, 3] = True
    pred = np.where(mask, PRED, np.nan)
    assert disparity_errors(pred, TRUTH, mask) == {
        "epe": 4.0, "bad1": 100.0, "bad2": 50.0, "bad3": 50.0, "d1": 50.0, "count": 2,
    }  # fmt: skip


def test_d1_needs_both_conditions():
    truth = np.array([[20.0, 200.0, 60.0, 60.0]])
    pred = truth + np.array([[2.0, 9.0, 3.0, -3.5]])  # 10 % but 2 px; 9 px but 4.5 %; exactly 3 px; 3.5 px and 5.8 %
    assert disparity_errors(pred, truth, np.ones_like(truth, bool))["d1"] == 25.0


def test_empty_mask_is_nan_never_zero():
    errors = disparity_errors(PRED, TRUTH, ~ALL)
    assert errors.pop("count") == 0
    assert all(math.isnan(value) for value in errors.values())
    scores = occlusion_scores(np.ones((2, 4)), ALL, ~ALL)
    assert all(math.isnan(scores[key]) for key in ("iou_pooled", "iou_occluded", "iou_visible", "iou_mean", "f1"))
    assert scores["count"] == 0


def test_not_finite_predictions_are_refused():
    for value in (np.nan, np.inf):
        with pytest.raises(InputError, match="1 of 8 scored pixels are not finite"):
            disparity_errors(np.where(np.arange(8).reshape(2, 4) == 5, value, PRED), TRUTH, ALL)
    for value in (np.nan, -0.1, 1.5):
        with pytest.raises(InputError, match=r"8 of 8 .* not in \[0, 1\]"):
            occlusion_scores(np.full((2, 4), value), ALL, ALL)


def test_unequal_sizes_are_refused():
    with pytest.raises(InputError, match=r"pred \(2, 3\), truth \(2, 4\)"):
        disparity_errors(PRED[:, :3], TRUTH, ALL)
    with pytest.raises(InputError, match="sizes differ"):
        occlusion_scores(PRED[:, :3], ALL, ALL)


def test_occlusion_counted_by_hand():
    occluded = np.array([[1, 1, 1, 0], [0, 0, 0, 1]], bool)
    prob = np.array([[0.9, 0.51, 0.5, 0.6], [0.1, 0.2, 0.5, 0.3]])  # 0.5 is not above 0.5
    known = np.ones((2, 4), bool)
    known[1, 3] = False
    scores = occlusion_scores(prob, occluded, known)
    assert [scores[f"count_{key}"] for key in ("tp", "fp", "fn", "tn")] == [2, 1, 1, 3]
    assert scores["count"] == 7
    assert scores["iou_occluded"] == 2 / 4
    assert scores["iou_visible"] == 3 / 5
    assert scores["iou_mean"] == pytest.approx(0.55)
    assert scores["iou_pooled"] == 5 / 9
    assert scores["f1"] == 4 / 6


@pytest.mark.parametrize("share", [1, 3, 7])
def test_never_occluded_scores_what_its_algebra_says(share: int):
    occluded = (np.arange(8) < share).reshape(2, 4)
    scores = occlusion_scores(np.zeros((2, 4)), occluded, ALL)
    p = share / 8
    assert scores["iou_pooled"] == pytest.approx((1 - p) / (1 + p))
    assert scores["iou_occluded"] == scores["f1"] == 0.0


def test_occluded_class_is_undefined_when_there_is_none():
    scores = occlusion_scores(np.zeros((2, 4)), ~ALL, ALL)
    assert scores["iou_visible"] == scores["iou_pooled"] == 1.0
    assert all(math.isnan(scores[key]) for key in ("iou_occluded", "iou_mean", "f1"))


def test_regions():
    image = np.zeros((2, 4, 3), np.uint8)
    valid = np.array([[1, 1, 0, 0], [1, 1, 1, 1]], bool)
    occluded = np.array([[1, 0, 1, 0], [0, 0, 0, 1]], bool)
    masks = region_masks(Sample(image, image, disp=TRUTH, valid=valid, occluded=occluded))
    assert {name: int(masks[name].sum()) for name in ("all", "noc", "occ")} == {"all": 6, "noc": 4, "occ": 2}
    assert not (masks["noc"] & masks["occ"]).any()

    unknown = region_masks(Sample(image, image, disp=TRUTH, valid=valid))
    assert np.array_equal(unknown["noc"], valid)
    assert not unknown["occ"].any()
    with pytest.raises(InputError, match="'scene' has no ground-truth disparity"):
        region_masks(Sample(image, image, name="scene"))


def test_aggregate_skips_and_counts_nan():
    rows = [
        {"name": "a", "height": 5, "flag": True, "epe_noc": 1.0, "bad1_noc": 10.0, "count_noc": 30},
        {"name": "b", "height": 5, "flag": True, "epe_noc": math.nan, "bad1_noc": math.nan, "count_noc": 0},
        {"name": "c", "height": 5, "flag": True, "epe_noc": 3.0, "bad1_noc": 50.0, "count_noc": 10},
    ]
    assert aggregate(rows) == {
        "images": 3,
        "epe_noc": 2.0,
        "epe_noc_skipped": 1,
        "epe_noc_pooled": 1.5,
        "bad1_noc": 30.0,
        "bad1_noc_skipped": 1,
        "bad1_noc_pooled": 20.0,
        "count_noc": 40,
    }


def test_aggregate_of_one_region_without_suffix():
    masks = (ALL, TRUTH > 50)
    summary = aggregate([disparity_errors(PRED, TRUTH, mask) for mask in masks])
    assert summary["count"] == 12
    assert summary["epe"] == pytest.approx((22.5 / 8 + 18 / 4) / 2)
    assert summary["epe_pooled"] == pytest.approx((22.5 + 18) / 12)
    assert summary["bad3_pooled"] == pytest.approx(100 * 6 / 12)


def test_aggregate_pools_occlusion_by_its_counts():
    occluded = np.array([[1, 1, 0, 0]], bool)
    known = np.ones_like(occluded)
    halves = [occlusion_scores(np.array([[1, 0, 0, 0]]), occluded, known), occlusion_scores(np.zeros((1, 4)), ~known, known)]
    summary = aggregate(halves)
    assert summary["iou_occluded"] == 0.5
    assert summary["iou_occluded_skipped"] == 1
    assert summary["iou_visible_pooled"] == 6 / 7
    assert summary["iou_occluded_pooled"] == 1 / 2


def test_aggregate_of_nothing_but_nan_is_nan():
    summary = aggregate([disparity_errors(PRED, TRUTH, ~ALL)])
    assert math.isnan(summary["epe"])
    assert math.isnan(summary["epe_pooled"])
    assert summary["epe_skipped"] == 1
    assert aggregate([]) == {"images": 0}


@pytest.mark.skipif(not ORACLE.exists(), reason=f"{ORACLE} is absent: it holds what the public STTR's metric code gave")
@pytest.mark.parametrize("case", ["a", "b", "c", "d", "e", "int"])
def test_equals_the_public_sttr(case: str):
    stored = np.load(ORACLE)
    of = {key.removeprefix(f"{case}."): stored[key] for key in stored.files if key.startswith(f"{case}.")}
    valid, occluded = ~of["invalid_mask"], of["occ_mask"]

    errors = disparity_errors(of["pred"], of["disp"], valid)
    bad = errors[f"bad{int(of['px_threshold'])}"]
    assert errors["count"] == of["total_px"]
    assert errors["epe"] == pytest.approx(float(of["epe"]), rel=1e-6)
    assert bad / 100 == pytest.approx(float(of["px_error_rate"]), abs=1e-6)
    assert round(bad * errors["count"] / 100) == of["error_px"]

    scores = occlusion_scores(of["occ_pred"], occluded, valid | occluded)
    intersection = scores["count_tp"] + scores["count_tn"]
    union = intersection + 2 * (scores["count_fp"] + scores["count_fn"])
    assert scores["iou_pooled"] == pytest.approx(intersection / union)
    # In three cases (b, e, int) STTR was fed occluded pixels that are not in its invalid mask. It then takes such a pixel for a
    # member of both classes: a right answer enlarges the visible union, a wrong one is a visible hit.
    both = occlusion_scores(of["occ_pred"], occluded, valid & occluded)
    sttr = (intersection + both["count_fn"]) / (union + both["count_tp"])
    assert sttr == pytest.approx(float(of["iou"]), abs=1e-6)
    assert (both["count"] > 0) == (case in ("b", "e", "int"))
