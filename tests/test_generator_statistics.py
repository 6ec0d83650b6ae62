"""The statistics that the generator is compared by, on images of which they are known."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.generator_statistics import DISPARITY_EDGES, STEP_EDGES, chart, describe
from stereo.types import Sample

H, W = 20, 40


def sample(occluded_columns: int | None, step: int) -> Sample:
    """Grey columns that rise by ``step``, and in the right half not at all; disparity is 4 px, a tenth of the width."""
    grey = np.minimum(np.arange(W), W // 2) * step
    image = np.broadcast_to(grey[None, :, None], (H, W, 3)).astype(np.uint8)
    occluded = None if occluded_columns is None else np.broadcast_to(np.arange(W) < occluded_columns, (H, W))
    return Sample(image, image, np.full((H, W), 4, np.float32), np.ones((H, W), bool), occluded, name="x")


def test_the_numbers_of_known_images():
    found = describe([sample(10, 3), sample(20, 5), sample(None, 0)])
    assert found["pairs"] == 3
    # Of the two that know their mask: a third would make them 25 and 6.67.
    assert found["occluded_percent"] == pytest.approx(100 * 15 / 40)
    assert found["outside_percent"] == pytest.approx(100 * 4 / 40)
    assert set(found["disparity_percent_of_width"].values()) == {10.0}
    assert found["median_disparity_least_middle_most"] == [10, 10, 10]
    assert found["saturation_percent"] == 0
    brightness = [np.minimum(np.arange(W), W // 2).mean() * step for step in (3, 5, 0)]
    assert found["brightness_grey_levels"] == pytest.approx(np.mean(brightness), abs=0.01)


def test_the_histograms_sum_to_100_and_count_where_they_should():
    found = describe([sample(10, 3), sample(20, 5)])
    for name, edges, expected in (
        ("disparity_histogram", DISPARITY_EDGES, {10.0: 100}),
        ("step_histogram", STEP_EDGES, {0: 100 * 19 / 39, 3: 50 * 20 / 39, 5: 50 * 20 / 39}),
    ):
        bins = dict.fromkeys(range(len(edges) - 1), 0.0)
        for value, share in expected.items():
            bins[int(np.searchsorted(edges, value, side="right")) - 1] += share
        assert found[name] == pytest.approx(list(bins.values()), abs=0.01)
        assert sum(found[name]) == pytest.approx(100, abs=0.05)


def test_the_chart_has_a_line_for_each_set_and_histogram():
    found = describe([sample(10, 3)])
    text = chart({"one": found, "two": found, "three": found})
    assert text.count("<polyline") == 6
    assert all(f">{name}</text>" in text for name in ("one", "two", "three"))
