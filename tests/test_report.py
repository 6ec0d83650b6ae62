"""stereo.report: colours mean what the legend says, and nothing is cut, covered or changed by being framed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stereo.image_io import read_disparity, read_image
from stereo.report import colour
from stereo.report.colour import colour_disparity, colour_error, gray, robust_range, with_legend
from stereo.report.figures import contact_sheet, pair_figure, panel
from stereo.types import DisparityMap, Sample

SHARED = Path(__file__).resolve().parents[2] / "shared"


def flat(height: int, width: int, rgb: tuple[int, int, int]) -> np.ndarray:
    return np.full((height, width, 3), rgb, np.uint8)


def contains(canvas: np.ndarray, picture: np.ndarray) -> bool:
    """Whether ``picture`` stands somewhere in ``canvas``, every pixel of it."""
    windows = np.lib.stride_tricks.sliding_window_view(canvas, picture.shape)[:, :, 0]
    corners = (windows[:, :, 0, 0] == picture[0, 0]).all(axis=2)
    return any(np.array_equal(windows[y, x], picture) for y, x in zip(*np.nonzero(corners), strict=True))


def result_of(disp: np.ndarray) -> DisparityMap:
    return DisparityMap(disp.astype(np.float32), np.full(disp.shape, 0.25, np.float32), np.full(disp.shape, 0.75, np.float32))


def test_disparity_colours_end_where_the_range_ends():
    disp = np.array([[-5.0, 0.0, 10.0, 20.0, 99.0, np.nan, np.inf]])
    picture = colour_disparity(disp, 0, 20)
    assert picture.shape == (1, 7, 3)
    assert picture.dtype == np.uint8
    expected = [
        colour.TURBO[0],
        colour.TURBO[0],
        colour.TURBO[128],
        colour.TURBO[255],
        colour.TURBO[255],
        *[colour.UNKNOWN] * 2,
    ]
    np.testing.assert_array_equal(picture[0], expected)


@pytest.mark.parametrize("table", [colour.TURBO, colour.INFERNO])
def test_colours_are_distinct_and_none_looks_unknown(table):
    assert len(np.unique(table, axis=0)) > 250
    assert np.abs(table.astype(int) - colour.UNKNOWN).max(axis=1).min() > 40


def test_disparity_runs_from_blue_to_red_and_error_from_dark_to_bright():
    far, near = colour_disparity(np.array([[1.0, 9.0]]), 0, 10)[0].astype(int)
    assert far[2] > far[0]
    assert near[0] > near[2]
    assert (np.diff(colour.INFERNO.astype(int).sum(axis=1)) >= -2).all()


@pytest.mark.parametrize(("vmin", "vmax"), [(1, 1), (2, 1), (0, np.inf), (np.nan, 1)])
def test_senseless_range_is_refused(vmin, vmax):
    with pytest.raises(ValueError, match="colour range"):
        colour_disparity(np.ones((2, 2)), vmin, vmax)


def test_gray_is_linear_and_clipped():
    picture = gray(np.array([[-1.0, 0.0, 0.5, 1.0, 2.0, np.nan]]))
    np.testing.assert_array_equal(picture[0], np.repeat([[0], [0], [128], [255], [255], [0]], 3, axis=1))


def test_error_colours():
    truth = np.array([[5.0, 5.0, 5.0, 5.0, np.nan, 5.0]])
    pred = np.array([[5.0, 3.5, 90.0, np.nan, 5.0, 5.0]])
    valid = np.array([[True, True, True, True, False, False]])
    picture = colour_error(pred, truth, valid, 3.0, legend=False)
    expected = [colour.INFERNO[i] for i in (0, 128, 255, 255)] + [colour.UNKNOWN] * 2
    np.testing.assert_array_equal(picture[0], expected)
    with_strip = colour_error(pred, truth, valid, 3.0)
    np.testing.assert_array_equal(with_strip[:1, :6], picture)
    assert with_strip.shape[0] > 10


def test_robust_range_ignores_wild_and_unknown_values():
    disp = np.full((100, 100), 20.0)
    disp[0, :50] = 1e6
    disp[1, :2] = np.nan, np.inf
    assert robust_range(disp) == (0.0, 20.0)
    assert robust_range(disp, np.zeros(disp.shape, bool)) == (0.0, 1.0)
    assert robust_range(np.zeros((3, 3))) == (0.0, 1.0)


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (48, 65), (375, 1242), (1000, 64), (2, 4000)])
@pytest.mark.parametrize("limits", [(0, 62.9), (0, 1), (-3, 250), (0, 0.02), (0, 99999)])
def test_legend_neither_crops_nor_changes_the_picture(size, limits):
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    before = picture.copy()
    framed = with_legend(picture, *limits)
    np.testing.assert_array_equal(picture, before)
    np.testing.assert_array_equal(framed[: size[0], : size[1]], picture)
    assert framed.shape[1] == max(size[1], 64)
    assert framed.shape[0] - size[0] <= max(40, framed.shape[1] // 12)
    strip = framed[size[0] :]
    assert (strip[-1] == 255).all()  # no text runs over the lower edge
    assert (strip[-len(strip) // 2 :] < 100).all(axis=2).any()  # there is text


@pytest.mark.parametrize("width", [64, 65, 100, 320, 741, 1242, 4000])
@pytest.mark.parametrize(("vmin", "vmax"), [(0, 62.9), (0, 3), (0, 1), (-3, 250), (0, 0.02), (17.2, 17.9), (0, 123456)])
def test_ticks_are_round_in_order_and_apart(width, vmin, vmax):
    height = int(np.clip(width / 55, 8, 40))
    ticks = colour._place_ticks(vmin, vmax, "px", height, width - height - 1, width, height)
    assert ticks
    end = 0
    for column, start, text in ticks:
        assert start > end
        end = start + colour.text_width(text, height)
        assert end < width
        value = float(text.removesuffix(" px"))
        assert height + (value - vmin) / (vmax - vmin) * (width - 2 * height - 1) == pytest.approx(column, abs=0.51)
    assert ticks[-1][2].endswith(" px")


def test_legend_bar_runs_through_the_whole_table():
    strip = with_legend(flat(4, 600, (255, 255, 255)), 0, 10)[4:]
    np.testing.assert_array_equal(strip[10, 10:590][[0, -1]], colour.TURBO[[0, 255]])


@pytest.mark.parametrize("columns", [1, 2, 3, 7])
def test_panel_keeps_unequal_pictures_whole_and_apart(columns):
    sizes, colours = [(20, 90), (64, 64), (5, 200), (33, 7)], [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]
    pictures = [flat(*size, rgb) for size, rgb in zip(sizes, colours, strict=True)]
    canvas = panel([(f"picture {i}", picture) for i, picture in enumerate(pictures)], columns)
    for picture in pictures:
        mask = (canvas == picture[0, 0]).all(axis=2)
        rows, cols = np.nonzero(mask)
        assert (np.ptp(rows) + 1, np.ptp(cols) + 1) == picture.shape[:2]
        assert mask.sum() == picture.shape[0] * picture.shape[1]
    assert all((edge == 255).all() for edge in (canvas[0], canvas[-1], canvas[:, 0], canvas[:, -1]))


@pytest.mark.parametrize("caption", ["x", "a caption that is far longer than the picture below it is wide"])
def test_caption_is_inside_the_panel_and_above_the_picture(caption):
    picture = flat(40, 80, (255, 0, 0))
    canvas = panel([(caption, picture), (caption, picture)], 2)
    dark = (canvas < 100).all(axis=2)
    rows, cols = np.nonzero(dark)
    first_picture_row = np.nonzero((canvas == (255, 0, 0)).all(axis=2))[0].min()
    assert 0 < rows.min() < rows.max() < first_picture_row - 1
    assert cols.max() < canvas.shape[1] - 2
    middle = canvas.shape[1] // 2
    assert not dark[:, middle - 2 : middle + 2].any()  # the two captions do not touch


@pytest.mark.parametrize(("images", "columns"), [([], 1), ([("a", flat(2, 2, (0, 0, 0)))], 0)])
def test_panel_without_picture_or_column_is_refused(images, columns):
    with pytest.raises(ValueError, match="at least one"):
        panel(images, columns)


@pytest.mark.parametrize("picture", [np.zeros((3, 4), np.uint8), np.zeros((3, 4, 3)), np.zeros((3, 4, 4), np.uint8)])
def test_panel_refuses_other_pictures(picture):
    with pytest.raises(ValueError, match=r"'depth': got .* expected uint8"):
        panel([("depth", picture)], 1)


@pytest.mark.parametrize("size", [(64, 64), (48, 160), (90, 70)])
def test_pair_figure_shows_prediction_and_truth_in_one_range(size):
    left = flat(*size, (12, 200, 34))
    truth_disp = np.tile(np.linspace(1, 10, size[1], dtype=np.float32), (size[0], 1))
    valid = np.ones(size, bool)
    valid[:9] = False
    truth = Sample(left, left, truth_disp, valid)
    result = result_of(truth_disp + 1.5)
    canvas = pair_figure(left, result, truth, error_limit=3.0)
    low, high = robust_range(truth_disp, valid)
    assert contains(canvas, left)
    assert contains(canvas, colour_disparity(result.disp, low, high))
    assert contains(canvas, colour_disparity(np.where(valid, truth_disp, np.nan), low, high))
    assert contains(canvas, colour_error(result.disp, truth_disp, valid, 3.0))
    assert contains(canvas, gray(result.occlusion))
    assert contains(canvas, gray(result.confidence))


@pytest.mark.parametrize("truth", [None, Sample(flat(50, 70, (1, 2, 3)), flat(50, 70, (1, 2, 3)))])
def test_pair_figure_without_truth(truth):
    left = flat(50, 70, (12, 200, 34))
    result = result_of(np.random.default_rng(0).uniform(0, 30, (50, 70)))
    canvas = pair_figure(left, result, truth)
    assert contains(canvas, left)
    assert contains(canvas, colour_disparity(result.disp, *robust_range(result.disp)))


def test_pair_figure_refuses_unequal_sizes():
    left = flat(50, 70, (1, 2, 3))
    with pytest.raises(ValueError, match=r"disparity: got shape \(50, 71\)"):
        pair_figure(left, result_of(np.ones((50, 71))))
    truth = Sample(left, left, np.ones((49, 70), np.float32), np.ones((49, 70), bool))
    with pytest.raises(ValueError, match=r"ground truth: got shape \(49, 70\)"):
        pair_figure(left, result_of(np.ones((50, 70))), truth)


def test_pair_figure_of_a_genuine_pair():
    if not SHARED.is_dir():
        pytest.skip("../shared is absent")
    folder = SHARED / "data" / "middlebury2014" / "Motorcycle_Q"
    left = read_image(folder / "left.png")
    disp, valid = read_disparity(folder / "disp_left.pfm")
    canvas = pair_figure(left, result_of(disp), Sample(left, left, disp, valid))
    assert canvas.dtype == np.uint8
    assert canvas.shape[1] > 3 * left.shape[1]
    assert canvas.shape[0] > 2 * left.shape[0]


def test_contact_sheet_has_a_row_per_sample_and_shows_what_is_unknown():
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 256, (2, 60, 140, 3), dtype=np.uint8)
    disp = np.tile(np.linspace(1, 9, 140, dtype=np.float32), (60, 1))
    valid = np.ones((60, 140), bool)
    valid[:, :70] = False
    known = Sample(left, right, disp, valid, occluded=disp > 5, name="known")
    sheet = contact_sheet([known, Sample(left, right, name="unknown")], width=140)
    one = contact_sheet([known], width=140)
    assert sheet.shape[1] == one.shape[1]
    assert 1.7 * one.shape[0] < sheet.shape[0] < 2.1 * one.shape[0]
    # Pictures as they are, at the size they have; no truth is a field of one grey.
    found = [[(y, x) for y in range(sheet.shape[0] - 60) for x in range(sheet.shape[1] - 140)
              if sheet[y, x].tolist() == image[0, 0].tolist() and np.array_equal(sheet[y : y + 60, x : x + 140], image)]
             for image in (left, right)]  # fmt: skip
    assert [len(places) for places in found] == [2, 2]
    grey = [int((x == 215).all(axis=2).sum()) for x in (sheet, one)]
    assert grey[0] - grey[1] > 2 * 60 * 140


def test_contact_sheet_of_nothing_is_refused():
    with pytest.raises(ValueError, match="got 0 pictures"):
        contact_sheet([])
