"""Confidence scores against the definition written as loops, by hand, and against every order of the pixels that tie."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from stereo.metrics import aggregate, confidence_scores
from stereo.types import InputError


def risks_by_loop(error: list[float], confidence: list[float]) -> list[float]:
    """Mean error of the ceil(c N / 100) most confident pixels for c = 1 .. 100; no two confidences are equal."""
    ranked = [e for _, e in sorted(zip(confidence, error, strict=True), reverse=True)]
    risks = []
    for coverage in range(1, 101):
        kept = math.ceil(coverage * len(ranked) / 100)
        total = 0.0
        for value in ranked[:kept]:
            total += value
        risks.append(total / kept)
    return risks


def area_by_loop(error: list[float], confidence: list[float]) -> float:
    ours, best = risks_by_loop(error, confidence), risks_by_loop(error, [-e for e in error])
    return sum(a - b for a, b in zip(ours, best, strict=True)) / 100


@pytest.mark.parametrize("count", [1, 2, 7, 99, 100, 101, 1234])
def test_equals_the_definition_as_a_loop(count: int):
    rng = np.random.default_rng(count)
    error = rng.gamma(0.5, 4.0, count)
    confidence = rng.permutation(count).astype(np.float32) / 2048  # exact and different in float32
    scores = confidence_scores(error, confidence)
    risks = risks_by_loop(error.tolist(), confidence.tolist())
    for coverage in range(10, 101, 10):
        assert scores[f"risk_{coverage}"] == pytest.approx(risks[coverage - 1], rel=1e-12)
    area = area_by_loop(error.tolist(), confidence.tolist())
    assert scores["ause"] == pytest.approx(area, rel=1e-5, abs=1e-7 * error.max())  # the oracle's errors are float32
    assert scores["ause_relative"] == pytest.approx(scores["ause"] / error.mean(), rel=1e-9)
    kept = math.ceil(0.8 * count)
    surest = sorted(zip(confidence.tolist(), error.tolist(), strict=True), reverse=True)[:kept]
    assert scores["count_kept80"] == kept
    assert scores["bad3_kept80"] == pytest.approx(100 * sum(e > 3 for _, e in surest) / kept, abs=1e-9)


def test_confidences_that_differ_in_their_last_bits_only():
    rng = np.random.default_rng(5)
    error, last = rng.gamma(0.5, 4.0, 5000), rng.permutation(5000).astype(np.uint32)
    confidence = (np.float32(0.5).view(np.uint32) + last).view(np.float32)
    scores = confidence_scores(error, confidence)
    risks = risks_by_loop(error.tolist(), confidence.tolist())
    for coverage in range(10, 101, 10):
        assert scores[f"risk_{coverage}"] == pytest.approx(risks[coverage - 1], rel=1e-12)
    assert scores["bad3_kept80"] == pytest.approx(100 * np.mean(error[last >= 1000] > 3), rel=1e-12)


def test_counted_by_hand():
    scores = confidence_scores(np.array([0.0, 8.0, 4.0, 0.0, 2.0]), np.array([0.9, 0.8, 0.3, 0.2, 0.1], np.float32))
    # One to five pixels kept: 0, 4, 4, 3, 2.8 px; the oracle keeps 0, 0, 2, 4, 8: 0, 0, 2/3, 1.5, 2.8. Each for 20 coverages.
    assert [scores[f"risk_{c}"] for c in (20, 40, 60, 80, 100)] == [0, 4, 4, 3, 2.8]
    assert scores["risk_30"] == 4  # 1.5 pixels are two
    assert scores["ause"] == pytest.approx((0 + 4 + 10 / 3 + 1.5 + 0) / 5)
    assert scores["ause_relative"] == pytest.approx(scores["ause"] / 2.8)
    assert (scores["bad3_kept80"], scores["count_kept80"]) == (50.0, 4)
    assert confidence_scores(np.array([3.0, 3.5]), np.zeros(2))["bad3_kept80"] == 50.0  # exactly 3 px is not above 3 px


def test_ties_count_like_the_mean_of_all_their_orders():
    error, confidence = np.array([5.0, 1.0, 0.0, 7.0, 2.0]), np.array([0.5, 0.9, 0.5, 0.5, 0.1], np.float32)
    tied = [0, 2, 3]
    orders = []
    for order in itertools.permutations(tied):
        different = confidence.astype(np.float64)
        different[list(order)] += [2e-3, 1e-3, 0]  # one of the ways to tell them apart
        orders.append(confidence_scores(error, different))
    scores = confidence_scores(error, confidence)
    for key in ("risk_20", "risk_40", "risk_60", "risk_80", "risk_100", "ause", "bad3_kept80"):
        assert scores[key] == pytest.approx(np.mean([one[key] for one in orders]), rel=1e-9), key


def test_the_order_of_the_pixels_does_not_matter():
    rng = np.random.default_rng(0)
    error, confidence = rng.gamma(1.0, 2.0, 500), rng.integers(-3, 4, 500) / 8  # below 0 too, and many ties
    shuffled = rng.permutation(500)
    first, second = (confidence_scores(error[i], confidence[i]) for i in (np.arange(500), shuffled))
    assert first == pytest.approx(second, rel=1e-9)
    assert first["risk_10"] == pytest.approx(error[confidence == 0.375].mean(), rel=1e-9)  # more than 50 pixels are as sure


def test_an_oracle_and_a_constant():
    error = np.random.default_rng(1).gamma(1.0, 2.0, 1000)
    best = confidence_scores(error, -error)
    assert best["ause"] == pytest.approx(0, abs=1e-6) and best["ause"] >= 0
    worst, constant = (confidence_scores(error, c) for c in (error, np.zeros(1000)))
    assert worst["ause"] > constant["ause"] > 0.5
    assert [constant[f"risk_{c}"] for c in (10, 50, 100)] == pytest.approx([error.mean()] * 3)


def test_without_pixels_or_confidence_it_is_nan():
    for error, confidence in ((np.zeros(0), np.zeros(0)), (np.ones(4), None)):
        scores = confidence_scores(error, confidence)
        assert scores.pop("count_kept80") == 0
        assert all(math.isnan(value) for value in scores.values())
    perfect = confidence_scores(np.zeros(4), np.ones(4))
    assert perfect["ause"] == 0 and math.isnan(perfect["ause_relative"])


def test_what_cannot_be_sorted_is_refused():
    with pytest.raises(InputError, match="got 1 NaN among confidences"):
        confidence_scores(np.ones(3), np.array([0.1, np.nan, 0.2]))
    with pytest.raises(InputError, match=r"confidences \(2,\) for errors \(3,\)"):
        confidence_scores(np.ones(3), np.ones(2))


def test_images_are_pooled_by_what_is_kept():
    images = [np.full(5, 9.0), np.full(10, 9.0), np.zeros(5)]
    rows = [confidence_scores(error, np.zeros(error.size)) for error in images]
    summary = aggregate(rows)
    assert summary["bad3_kept80"] == pytest.approx(200 / 3)
    assert summary["bad3_kept80_pooled"] == pytest.approx(100 * 12 / 16)
    assert "ause_pooled" not in summary and "risk_50_pooled" not in summary
