"""Warping, left-right check and metres against rows worked out by hand, planes with a formula, and Middlebury's Motorcycle."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest

from stereo.geometry import (
    Calibration,
    depth_to_disparity,
    disparity_to_depth,
    left_right_check,
    points_from_disparity,
    warp_right_to_left,
)
from stereo.image_io import read_disparity, read_image
from stereo.types import InputError

SHARED = Path(__file__).resolve().parents[2] / "shared"
RIG = Calibration(focal_px=100.0, cx=3.5, cy=1.0, baseline_m=0.2, doffs_px=5.0)


def shared(*parts: str) -> Path:
    if not SHARED.is_dir():
        pytest.skip("../shared is absent")
    return SHARED.joinpath(*parts)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 255, shape).astype(np.float32)


# ---------------------------------------------------------------------------------------------------------------------
# Warping


@pytest.mark.parametrize(
    ("disp", "expected", "inside"),
    [
        ([0, 0, 0, 0, 0, 0, 0, 0], [0, 10, 20, 30, 40, 50, 60, 70], "11111111"),
        ([2, 2, 2, 2, 2, 2, 2, 2], [0, 0, 0, 10, 20, 30, 40, 50], "00111111"),
        ([0.5] * 8, [0, 5, 15, 25, 35, 45, 55, 65], "01111111"),
        ([0.25, 1, 2.5, 3.01, 1.75, 5, 5.9, 0], [0, 0, 0, 0, 22.5, 0, 1, 70], "01001111"),
        ([0, 0, 0, 0, 0, 0, 0, -0.5], [0, 10, 20, 30, 40, 50, 60, 0], "11111110"),  # right of the last column
        ([np.nan, np.inf, -np.inf, 3, 4, 5, 6, 7], [0] * 8, "00011111"),  # unknown is out of frame
    ],
)
def test_warp_of_a_row_by_hand(disp: list, expected: list, inside: str):
    right = np.arange(0, 80, 10, dtype=np.uint8)[None]
    warped, seen = warp_right_to_left(right, np.array([disp], np.float32))
    assert warped.dtype == np.float32
    assert seen.dtype == bool
    assert seen[0].tolist() == [digit == "1" for digit in inside]
    # 3.01 and 5.9 are no float32 numbers: one unit in the last place of x - d times the step of 10.
    np.testing.assert_allclose(warped[0], expected, atol=1e-5)


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_warp_by_whole_pixels_copies_exactly(channels: tuple[int, ...]):
    right = noise(5, 40, *channels)
    warped, inside = warp_right_to_left(right, np.full((5, 40), 7.0, np.float32))
    assert warped.shape == right.shape
    assert np.array_equal(warped[:, 7:], right[:, :-7])
    assert not warped[:, :7].any()
    assert np.array_equal(inside, np.tile(np.arange(40) >= 7, (5, 1)))


def test_warp_of_a_slanted_plane_is_exact_where_the_view_is_linear():
    """right = 3 x - 2 y is sampled without error by linear interpolation: left(x, y) = 3 (x - d) - 2 y."""
    y, x = np.mgrid[0:20, 0:60].astype(np.float64)
    disp = 4 + 0.1 * x + 0.05 * y
    warped, inside = warp_right_to_left(3 * x - 2 * y, disp)
    assert 0.9 < inside.mean() < 1
    # float32 values up to 180: half a unit in the last place is 8e-6, three roundings
    np.testing.assert_allclose(warped[inside], (3 * (x - disp) - 2 * y)[inside], atol=3e-5)


def test_warp_resolves_less_than_a_32nd_of_a_pixel():
    """cv2.remap rounds coordinates to 1/32 px: over a step of 1000 it could not tell these disparities apart."""
    right = np.array([[0, 1000, 0, 0]], np.float32)
    for disp in (0.001, 0.002, 0.0155):
        warped, _ = warp_right_to_left(right, np.full((1, 4), disp))
        assert warped[0, 1] == pytest.approx(1000 * (1 - disp), abs=1e-3)


def test_warp_does_not_mix_in_an_unknown_neighbour():
    right = np.array([[1, np.inf, 3, np.nan]], np.float32)
    warped, inside = warp_right_to_left(right, np.array([[0, 1, 0, 1]], np.float32))
    assert inside.all()
    assert warped.tolist() == [[1, 1, 3, 3]]


@pytest.mark.parametrize("shapes", [((4, 8), (4, 9)), ((4, 8, 3), (4, 8, 3)), ((8,), (8,)), ((1, 4, 8, 3), (4, 8))])
def test_warp_refuses_other_shapes(shapes: tuple):
    with pytest.raises(ValueError, match="expected"):
        warp_right_to_left(np.zeros(shapes[0]), np.zeros(shapes[1]))


# ---------------------------------------------------------------------------------------------------------------------
# Left-right check


def check(left: list, right: list, **options) -> str:
    masks = {k: np.array([[digit == "1" for digit in v]]) if isinstance(v, str) else v for k, v in options.items()}
    occluded = left_right_check(np.array([left], np.float32), np.array([right], np.float32), **masks)
    assert occluded.dtype == bool
    return "".join(str(int(value)) for value in occluded[0])


# A wall at disparity 1 behind a post at disparity 3 that covers columns 4, 5 of the left view and 1, 2 of the right one.
POST_LEFT = [1, 1, 1, 1, 3, 3, 1, 1]
POST_RIGHT = [1, 3, 3, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("left", "right", "options", "occluded"),
    [
        ([2] * 8, [2] * 8, {}, "11000000"),  # two columns leave the frame
        ([0] * 8, [0] * 8, {}, "00000000"),
        (POST_LEFT, POST_RIGHT, {}, "10110000"),  # column 0 out of frame, 2 and 3 behind the post
        (POST_LEFT, POST_RIGHT, {"limit": 2.0}, "10000000"),  # a difference of exactly the limit agrees
        (POST_LEFT, POST_RIGHT, {"limit": 1.99}, "10110000"),
        (POST_LEFT, POST_RIGHT, {"valid_left": "01101111"}, "00100000"),  # unknown here: not called occluded
        (POST_LEFT, POST_RIGHT, {"valid_right": "11011111"}, "10100000"),  # the match of column 3 is unknown
        ([0, 0, 0, 0, 0, 0, 0, -1], [0] * 8, {"limit": 5.0}, "00000001"),  # out of frame on the right
        # nearest, not linear: the match of column 4 lies 0.4 px beside the jump from 1 to 9
        ([0, 0, 0, 0, 1.4, 0, 0, 0], [0, 0, 9, 1, 0, 0, 0, 0], {}, "00100000"),
    ],
)
def test_left_right_check_of_a_row_by_hand(left: list, right: list, options: dict, occluded: str):
    assert check(left, right, **options) == occluded


@pytest.mark.parametrize("slope", [-0.3, 0.0, 0.3, 0.6])
def test_a_slanted_plane_hides_nothing_of_itself(slope: float):
    """d_left = a + s x is, seen from the right, d_right(u) = (a + s u) / (1 - s)."""
    x = np.tile(np.arange(80.0), (3, 1))
    left, right = 30 + slope * x, (30 + slope * x) / (1 - slope)
    assert np.array_equal(left_right_check(left, right), x - left < 0)


def test_left_right_check_refuses_other_shapes():
    with pytest.raises(ValueError, match="expected one"):
        left_right_check(np.zeros((4, 8)), np.zeros((4, 9)))
    with pytest.raises(ValueError, match="expected one"):
        left_right_check(np.zeros((4, 8)), np.zeros((4, 8)), valid_right=np.zeros((4, 9), bool))


def test_motorcycle_occlusion_and_warp():
    folder = shared("data", "middlebury2014", "Motorcycle_Q")
    left, valid_left = read_disparity(folder / "disp_left.pfm")
    right, valid_right = read_disparity(folder / "disp_right.pfm")
    derived = read_image(folder / "occ_left_derived.png")[..., 0] > 0
    occluded = left_right_check(left, right, 1.0, valid_left, valid_right)
    # 0.907; not 1, because the data set's own derivation interpolated: the rim of the difference is one pixel wide
    assert (occluded & derived).sum() / (occluded | derived).sum() > 0.9

    image, view = (read_image(folder / f"{side}.png").astype(np.float32) for side in ("left", "right"))
    warped, inside = warp_right_to_left(view, left)
    seen = inside & valid_left & ~occluded
    assert np.abs(warped - image)[seen].mean() < 6.5  # grey levels; meta.json has 5.6 on about the same pixels, 18 at +-3 px


# ---------------------------------------------------------------------------------------------------------------------
# Metres


def test_depth_by_hand():
    disp = np.array([[5.0, 0, -5, -6, np.inf, np.nan, 15, 1e9]])  # baseline * f = 20 px m, doffs 5 px
    depth = disparity_to_depth(disp, RIG)
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, [[2, 4, np.inf, np.inf, np.inf, np.inf, 1, 2e-8]], rtol=1e-6)


def test_a_denormal_disparity_is_infinitely_far_without_a_warning():
    with np.errstate(all="raise"):
        assert np.isinf(disparity_to_depth(np.float64(1e-45), replace(RIG, doffs_px=0.0)))


def test_both_views_see_the_same_points_a_baseline_apart():
    """Points thrown into both cameras by the pinhole formula, the right one with its principal point doffs further right."""
    rng = np.random.default_rng(2)
    x, z = rng.uniform([[-1], [2]], [[1], [9]], (2, 50))
    columns = np.arange(50)
    left, right = (RIG.cx + RIG.focal_px * x / z, RIG.cx + RIG.doffs_px + RIG.focal_px * (x - RIG.baseline_m) / z)
    disp = (left - right)[None]
    at_left, at_right = (points_from_disparity(disp, rig)[0] for rig in (RIG, RIG.of_right_view()))
    np.testing.assert_allclose(at_left[:, 2], z, rtol=1e-5)
    np.testing.assert_allclose(at_right[:, 2], z, rtol=1e-5)
    # What points_from_disparity takes for columns are 0 .. 49: moved to where the points are seen.
    seen_left = at_left[:, 0] + (left - columns) * z / RIG.focal_px
    seen_right = at_right[:, 0] + (right - columns) * z / RIG.focal_px
    np.testing.assert_allclose(seen_left, x, atol=1e-5)
    np.testing.assert_allclose(seen_right, x - RIG.baseline_m, atol=1e-5)


@pytest.mark.parametrize("doffs", [0.0, 32.778, -3.0])
def test_depth_and_disparity_are_inverse(doffs: float):
    rig = replace(RIG, doffs_px=doffs)
    disp = noise(6, 9) + np.float32(3.5)
    # Two roundings to float32 of numbers up to |d| + |doffs| < 300.
    np.testing.assert_allclose(depth_to_disparity(disparity_to_depth(disp, rig), rig), disp, atol=300 * 2**-22)
    depth = noise(6, 9, seed=1) / 10 + np.float32(0.1)
    # d = b f / z - doffs in float32 loses where it is small beside doffs: an error of 2^-22 * 36 px of z / (b f) per metre.
    np.testing.assert_allclose(disparity_to_depth(depth_to_disparity(depth, rig), rig), depth, rtol=3e-5)
    assert depth_to_disparity(np.inf, rig) == np.float32(-doffs)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan])
def test_depth_to_disparity_refuses_what_is_no_distance(bad: float):
    with pytest.raises(ValueError, match="1 of 3 depths are not above 0"):
        depth_to_disparity(np.array([1.0, bad, np.inf]), RIG)


def test_points_by_hand():
    disp = np.full((3, 8), 15.0)  # 1 m away, where one pixel is 1 cm
    disp[0, 0] = -5
    points = points_from_disparity(disp, RIG)
    assert points.shape == (3, 8, 3)
    assert points.dtype == np.float32
    assert np.isinf(points[0, 0]).all()
    assert np.isfinite(points).sum() == 3 * 23
    np.testing.assert_allclose(points[0, 7], [0.035, -0.01, 1], rtol=1e-6)  # right of and above the axis
    np.testing.assert_allclose(points[2, 3], [-0.005, 0.01, 1], rtol=1e-6)  # left of and below it


def test_points_of_a_plane_lie_on_it():
    """A plane n.X = 1 in space is the disparity plane d + doffs = b (n_x (x - cx) + n_y (y - cy) + n_z f)."""
    n = np.array([0.3, -0.2, 0.5])
    y, x = np.mgrid[0:12, 0:16].astype(np.float64)
    disp = RIG.baseline_m * (n[0] * (x - RIG.cx) + n[1] * (y - RIG.cy) + n[2] * RIG.focal_px) - RIG.doffs_px
    np.testing.assert_allclose(points_from_disparity(disp, RIG) @ n, 1, atol=1e-6)  # a few roundings to float32


@pytest.mark.parametrize("factors", [(0.5, 0.5), (2.0, 2.0), (0.25, 0.5), (1.7, 0.9)])
def test_scaling_images_moves_no_point(factors: tuple[float, float]):
    """Place (x, y) of the picture becomes ((x + 0.5) fx - 0.5, ...), its disparity fx times as large, its point stays."""
    x, y, d = 10, 6, 8.0
    scaled = RIG.scaled(*factors)
    new_x, new_y = ((at + 0.5) * factor - 0.5 for at, factor in zip((x, y), factors, strict=True))
    shifted = replace(scaled, cx=scaled.cx - new_x, cy=scaled.cy - new_y)  # so that the place is pixel (0, 0)
    expected = points_from_disparity(np.full((y + 1, x + 1), d), RIG)[y, x]
    np.testing.assert_allclose(points_from_disparity(np.array([[d * factors[0]]]), shifted)[0, 0], expected, rtol=1e-6)


def test_scaling_there_and_back_is_the_identity():
    back = RIG.scaled(0.25, 0.5).scaled(4, 2)
    for name in ("focal_px", "cx", "cy", "baseline_m", "doffs_px", "aspect"):
        assert getattr(back, name) == pytest.approx(getattr(RIG, name), rel=1e-12)


@pytest.mark.parametrize(
    ("change", "blamed"),
    [
        ({"focal_px": 0.0}, "focal_px"),
        ({"baseline_m": -0.1}, "baseline_m"),
        ({"cx": np.nan}, "cx"),
        ({"doffs_px": np.inf}, "doffs_px"),
        ({"aspect": 0.0}, "aspect"),
    ],
)
def test_impossible_calibrations_are_refused(change: dict, blamed: str):
    with pytest.raises(InputError, match=blamed):
        replace(RIG, **change)


def test_a_calibration_is_frozen_and_its_factors_are_checked():
    with pytest.raises(FrozenInstanceError):
        RIG.cx = 1.0
    for factors in ((0, 1), (1, -1), (np.nan, 1)):
        with pytest.raises(InputError, match="factors"):
            RIG.scaled(*factors)
