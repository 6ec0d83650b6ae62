"""Middlebury's layouts on fake trees; tests/test_middlebury_genuine.py has the genuine files."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets.base import open_dataset
from stereo.geometry import left_right_check
from stereo.image_io import write_pfm
from stereo.types import InputError, Sample

H, W = 5, 12


def write_bytes(path: Path, values: np.ndarray) -> None:
    """uint8 numbers as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, values.astype(np.uint8))[1].tobytes())


def write_views(folder: Path, left: str, right: str, height: int = H, width: int = W) -> None:
    """A left view of 10 and a right view of 20, in colour where the suffix can hold it."""
    for name, value in ((left, 10), (right, 20)):
        write_bytes(folder / name, np.full((height, width) if name.endswith(".pgm") else (height, width, 3), value))


def bytes_of_truth(height: int = H, width: int = W) -> np.ndarray:
    """Row 0 unknown; below, column x holds x + 1."""
    stored = np.tile(np.arange(1, width + 1), (height, 1))
    stored[0] = 0
    return stored


def assert_scaled(sample: Sample, factor: int) -> None:
    """What bytes_of_truth means when px are stored ``factor`` times."""
    height, width = sample.valid.shape
    assert (sample.left == 10).all() and (sample.right == 20).all()
    assert not sample.valid[0].any() and sample.valid[1:].all()
    assert sample.disp.dtype == np.float32
    expected = (np.arange(1, width + 1) / factor).astype(np.float32)
    assert np.array_equal(sample.disp, np.vstack([np.zeros((1, width)), np.tile(expected, (height - 1, 1))]))


# Set, files of a scene (left, right, truth, truth of the right view), scene, height, factor.
SCALED = [
    ("middlebury2001", ("im2.ppm", "im6.ppm", "disp2.pgm", "disp6.pgm"), "venus", H, 8),
    ("middlebury2001", ("im2.png", "im6.png", "disp2.png", "disp6.png"), "Venus", H, 8),
    ("middlebury2001", ("im0.pgm", "im1.pgm", "disp0.pgm", "disp1.pgm"), "map", H, 8),
    ("middlebury2001", ("scene1.row3.col3.ppm", "scene1.row3.col4.ppm", "truedisp.row3.col3.pgm", None), "tsukuba", H, 16),
    ("middlebury2001", ("im3.png", "im4.png", "disp3.pgm", None), "tsukuba", H, 16),
    ("middlebury2003", ("im2.png", "im6.png", "disp2.png", "disp6.png"), "cones", 375, 4),
    ("middlebury2003", ("im2.ppm", "im6.ppm", "disp2.pgm", "disp6.pgm"), "conesH", 750, 2),
    ("middlebury2003", ("im2.ppm", "im6.ppm", "disp2.pgm", "disp6.pgm"), "conesF", 1500, 1),
    ("middlebury2005", ("view1.png", "view5.png", "disp1.png", "disp5.png"), "Art", 370, 3),
    ("middlebury2005", ("view1.png", "view5.png", "disp1.png", "disp5.png"), "Art", 555, 2),
    ("middlebury2005", ("view1.png", "view5.png", "disp1.png", "disp5.png"), "Art", 1110, 1),
    ("middlebury2006", ("view1.png", "view5.png", "disp1.png", "disp5.png"), "Aloe", 370, 3),
    ("middlebury2006", ("view1.png", "view5.png", "disp1.png", "disp5.png"), "Aloe", 555, 2),
    ("middlebury2006", ("view1.png", "view5.png", "disp1.png", "disp5.png"), "Aloe", 1110, 1),
]
each_scaled = pytest.mark.parametrize(("dataset", "files", "scene", "height", "factor"), SCALED)


def write_scaled(folder: Path, files: Sequence[str | None], height: int = H) -> None:
    left, right, *truths = files
    write_views(folder, left, right, height)
    for truth in filter(None, truths):
        write_bytes(folder / truth, bytes_of_truth(height))


@each_scaled
def test_bytes_are_scaled_px_and_0_is_unknown(tmp_path: Path, dataset: str, files: tuple, scene: str, height: int, factor: int):
    write_scaled(tmp_path / scene, files, height)
    sample = open_dataset(f"{dataset}:{tmp_path}")[0]
    assert sample.name == f"{dataset}/{scene}"
    assert_scaled(sample, factor)


@each_scaled
def test_masks_come_from_both_views(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, dataset: str, files: tuple, scene: str, height: int, factor: int
):
    write_scaled(tmp_path / scene, files, height)
    with caplog.at_level(logging.INFO):
        sample = open_dataset(f"{dataset}:{tmp_path}")[0]
    if files[3] is None:  # one view is no evidence
        assert sample.disp_right is sample.occluded is sample.occluded_right is None
        return
    assert np.array_equal(sample.disp_right, sample.disp)
    expected = left_right_check(sample.disp, sample.disp_right, 1.0, sample.valid, sample.valid_right)
    assert expected.any() and np.array_equal(sample.occluded, expected)
    assert sample.occluded_right is not None
    assert "left-right check" in caplog.text


@each_scaled
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_view(tmp_path: Path, dataset: str, files: tuple, scene: str, height: int, factor: int, lost: int):
    write_scaled(tmp_path / scene, files, height)
    (tmp_path / scene / files[lost]).unlink()
    stem = files[lost].rpartition(".")[0]
    with pytest.raises(InputError, match=rf"{scene}/{stem}\.png' is missing; {dataset}/{scene} needs it"):
        open_dataset(f"{dataset}:{tmp_path}")


def test_2001_refuses_the_scenes_of_2003(tmp_path: Path):
    write_scaled(tmp_path / "teddy", SCALED[1][1])
    with pytest.raises(InputError, match=r"teddy' is no scene of Middlebury 2001; expected a folder called barn1, .*venus"):
        open_dataset(f"middlebury2001:{tmp_path}")


@pytest.mark.parametrize("dataset", ["middlebury2003", "middlebury2005"])
def test_a_resized_copy_is_refused(tmp_path: Path, dataset: str):
    files = {"middlebury2003": SCALED[5][1], "middlebury2005": SCALED[8][1]}[dataset]
    write_scaled(tmp_path / "Art", files, height=400)
    heights = {"middlebury2003": "1500, 750, 375", "middlebury2005": "1110, 555, 370"}[dataset]
    with pytest.raises(InputError, match=rf"Art/disp..png' is {W}x400; expected a height of {heights} px"):
        open_dataset(f"{dataset}:{tmp_path}")[0]


def test_truth_in_colours_or_of_another_depth(tmp_path: Path):
    write_scaled(tmp_path / "venus", SCALED[1][1])
    truth = tmp_path / "venus" / "disp2.png"
    write_bytes(truth, np.repeat(bytes_of_truth()[..., None], 3, axis=2))  # re-saved as RGB, all channels equal
    assert_scaled(open_dataset(f"middlebury2001:{tmp_path}")[0], 8)
    write_bytes(truth, np.dstack([bytes_of_truth()] * 2 + [bytes_of_truth() + 1]))
    with pytest.raises(InputError, match=r"disp2.png' holds uint8 colours; expected one uint8 number per pixel"):
        open_dataset(f"middlebury2001:{tmp_path}")[0]
    truth.write_bytes(cv2.imencode(".png", bytes_of_truth().astype(np.uint16))[1].tobytes())
    with pytest.raises(InputError, match=r"disp2.png' holds uint16 numbers; expected one uint8 number per pixel"):
        open_dataset(f"middlebury2001:{tmp_path}")[0]


def test_truth_or_mask_of_another_size(tmp_path: Path):
    write_scaled(tmp_path / "venus", SCALED[1][1])
    write_bytes(tmp_path / "venus" / "disp2.png", bytes_of_truth(width=W + 1))
    with pytest.raises(InputError, match=rf"disp2.png' is {W + 1}x{H}, its image is {W}x{H}; expected equal sizes"):
        open_dataset(f"middlebury2001:{tmp_path}")[0]
    write_v3(tmp_path / "trainingQ" / "Piano")
    write_bytes(tmp_path / "trainingQ" / "Piano" / "mask0nocc.png", np.full((H + 1, W), 255))
    with pytest.raises(InputError, match=rf"mask0nocc.png' is {W}x{H + 1}, its image is {W}x{H}; expected equal sizes"):
        open_dataset(f"middlebury:{tmp_path}")[0]


@pytest.mark.parametrize("year", [2005, 2006])
def test_sizes_of_2005(tmp_path: Path, caplog: pytest.LogCaptureFixture, year: int):
    root = tmp_path / f"scenes{year}"
    for folder, height in (("HalfSize", 555), ("ThirdSize", 370)):
        write_scaled(root / folder / "Art", SCALED[8][1], height)
    for path in (tmp_path, root):
        assert open_dataset(f"middlebury{year}:{path}?size=third")[0].left.shape[0] == 370
    for path in ("ThirdSize", "ThirdSize/Art"):
        for option in ("", "?size=third"):
            assert open_dataset(f"middlebury{year}:{root / path}{option}")[0].left.shape[0] == 370
        with pytest.raises(InputError, match=r"no scene found; looked for .*\[FullSize/\]SCENE/disp1"):
            open_dataset(f"middlebury{year}:{root / path}?size=full")
    assert not caplog.records
    with caplog.at_level(logging.INFO):
        assert open_dataset(f"middlebury{year}:{root}")[0].left.shape[0] == 555
    assert f"reading the scenes of {root / 'HalfSize'}; there are more in {root / 'ThirdSize'}" in caplog.text
    with pytest.raises(InputError, match=f"got size 'quarter' for Middlebury {year}, expected one of full, half, third"):
        open_dataset(f"middlebury{year}:{root}?size=quarter")


@pytest.mark.parametrize("year", [2005, 2006])
def test_lights_and_exposures_of_2005(tmp_path: Path, year: int):
    """All nine are there, each with its own values; both views come from the same one, the truth from the scene."""
    scene = tmp_path / "ThirdSize" / "Art"
    write_scaled(scene, SCALED[8][1], 370)
    for light in (1, 2, 3):
        for exposure in (0, 1, 2):
            for view, value in ((1, 10), (5, 20)):
                colour = np.full((370, W, 3), value + 30 * light + exposure)
                write_bytes(scene / f"Illum{light}" / f"Exp{exposure}" / f"view{view}.png", colour)
    assert open_dataset(f"middlebury{year}:{tmp_path}").names == (f"middlebury{year}/Art",)
    assert_scaled(open_dataset(f"middlebury{year}:{tmp_path}")[0], 3)
    for light in (1, 2, 3):
        for exposure in (0, 1, 2):
            for root in (tmp_path, scene):
                dataset = open_dataset(f"middlebury{year}:{root}?illumination={light}&exposure={exposure}&size=third")
                assert dataset.names == (f"middlebury{year}/Art/Illum{light}/Exp{exposure}",)
                sample = dataset[0]
                assert (sample.left == 10 + 30 * light + exposure).all()
                assert (sample.right == 20 + 30 * light + exposure).all()
                assert np.array_equal(sample.disp, open_dataset(f"middlebury{year}:{tmp_path}")[0].disp)


def test_lights_and_exposures_that_are_not_there(tmp_path: Path):
    write_scaled(tmp_path / "Art", SCALED[8][1], 370)
    for options, message in (
        ("illumination=4&exposure=0", "got illumination '4' for Middlebury 2005, expected one of 1, 2, 3"),
        ("illumination=1&exposure=3", "got exposure '3' for Middlebury 2005, expected one of 0, 1, 2"),
        ("illumination=1", "got illumination 1 and exposure None for Middlebury 2005, expected both or neither"),
        ("exposure=1", "got illumination None and exposure 1"),
        ("illumination=2&exposure=1", r"Art/Illum2/Exp1/view1.png' is missing; middlebury2005/Art/Illum2/Exp1 needs it"),
    ):
        with pytest.raises(InputError, match=message):
            open_dataset(f"middlebury2005:{tmp_path}?{options}")
    with pytest.raises(InputError, match="unknown option 'exposure' of data set 'middlebury2003': it has none"):
        open_dataset(f"middlebury2003:{tmp_path}?exposure=1")


def test_scenes_of_2005_without_truth_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    for scene in ("Art", "Books", "Dwarves"):
        write_scaled(tmp_path / scene, SCALED[8][1], 370)
    (tmp_path / "Dwarves" / "disp1.png").unlink()
    with caplog.at_level(logging.INFO):
        assert open_dataset(f"middlebury2005:{tmp_path}").names == ("middlebury2005/Art", "middlebury2005/Books")
    assert "2 frames are here, 6 were published" in caplog.text


def write_v2(folder: Path, factor: str = "16\n15\n") -> None:
    write_views(folder, "imL.png", "imR.png")
    write_bytes(folder / "groundtruth.png", bytes_of_truth())
    mask = np.full((H, W), 255)
    mask[:2] = 0
    write_bytes(folder / "nonocc.png", np.dstack([mask] * 3))
    (folder / "info.txt").write_text(factor)


def test_v2_has_its_factor_and_mask_in_files(tmp_path: Path):
    write_v2(tmp_path / "MiddV2" / "teddy", "4\n59")
    write_v2(tmp_path / "MiddV2" / "tsukuba")
    for path in ("", "MiddV2"):
        dataset = open_dataset(f"middlebury_v2:{tmp_path / path}")
        assert dataset.names == ("middlebury_v2/teddy", "middlebury_v2/tsukuba")
    assert_scaled(dataset[0], 4)
    assert_scaled(dataset[1], 16)
    expected = np.zeros((H, W), bool)
    expected[1] = True  # row 0 is not marked either, but not known
    assert np.array_equal(dataset[0].occluded, expected)
    assert open_dataset(f"middlebury_v2:{tmp_path / 'MiddV2' / 'teddy'}").names == ("middlebury_v2/teddy",)


@pytest.mark.parametrize("text", ["", "x\n", "0\n", "256\n", "9" * 5000, "-4\n", "4.5\n", "\u0664\n"])
def test_v2_refuses_another_info(tmp_path: Path, text: str):
    write_v2(tmp_path / "teddy", "")
    (tmp_path / "teddy" / "info.txt").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"teddy/info.txt' starts with '.*', expected the factor of groundtruth.png"):
        open_dataset(f"middlebury_v2:{tmp_path}")[0]


@pytest.mark.parametrize("name", ["imL.png", "imR.png", "nonocc.png", "info.txt"])
def test_v2_needs_all_its_files(tmp_path: Path, name: str):
    write_v2(tmp_path / "teddy")
    (tmp_path / "teddy" / name).unlink()
    with pytest.raises(InputError, match=rf"teddy/{name}' is missing; middlebury_v2/teddy needs it"):
        open_dataset(f"middlebury_v2:{tmp_path}")


def float_truth(height: int = H, width: int = W) -> np.ndarray:
    """Row 0 unknown; below, column x has disparity x."""
    disp = np.tile(np.arange(width, dtype=np.float32), (height, 1))
    disp[0] = np.inf
    return disp


def write_pfm_with_scale(path: Path, array: np.ndarray, scale: str) -> None:
    path.write_bytes(f"Pf\n{array.shape[1]} {array.shape[0]}\n{scale}\n".encode() + array[::-1].astype("<f4").tobytes())


def write_v3(folder: Path, truth: bool = True, height: int = H) -> None:
    """Row 0 of the left view is unknown, row 1 occluded; of the right view row 0 and row 2."""
    write_views(folder, "im0.png", "im1.png", height)
    if truth:
        for view, row in ((0, 1), (1, 2)):
            write_pfm_with_scale(folder / f"disp{view}GT.pfm", float_truth(height), "-0.003922")
            mask = np.full((height, W), 255)
            mask[0], mask[row] = 0, 128
            write_bytes(folder / f"mask{view}nocc.png", mask)


def test_v3_decodes(tmp_path: Path):
    write_v3(tmp_path / "trainingQ" / "Piano")
    sample = open_dataset(f"middlebury:{tmp_path}")[0]
    assert sample.name == "middlebury/trainingQ/Piano"
    for disp, valid, occluded, row in (
        (sample.disp, sample.valid, sample.occluded, 1),
        (sample.disp_right, sample.valid_right, sample.occluded_right, 2),
    ):
        assert not valid[0].any() and valid[1:].all()  # +inf is unknown, disparity 0 is not
        assert np.array_equal(disp[1:], float_truth()[1:])  # the header's 0.003922 is no factor
        assert (disp[0] == 0).all()
        expected = np.zeros((H, W), bool)
        expected[row] = True
        assert np.array_equal(occluded, expected)


def test_v3_without_masks_or_without_the_right_view(tmp_path: Path):
    scene = tmp_path / "trainingQ" / "Piano"
    write_v3(scene)
    (scene / "mask1nocc.png").unlink()
    sample = open_dataset(f"middlebury:{scene}")[0]
    assert sample.occluded[1].all() and sample.occluded_right.any()
    (scene / "mask0nocc.png").unlink()
    sample = open_dataset(f"middlebury:{scene}")[0]
    assert np.array_equal(
        sample.occluded, left_right_check(sample.disp, sample.disp_right, 1.0, sample.valid, sample.valid_right)
    )
    (scene / "disp1GT.pfm").unlink()
    sample = open_dataset(f"middlebury:{scene}")[0]
    assert sample.disp_right is sample.occluded is sample.occluded_right is None


def test_v3_mask_without_its_truth(tmp_path: Path):
    write_v3(tmp_path / "trainingQ" / "Piano")
    (tmp_path / "trainingQ" / "Piano" / "disp1GT.pfm").unlink()
    sample = open_dataset(f"middlebury:{tmp_path}")[0]
    assert sample.occluded[1].all()
    assert sample.disp_right is sample.occluded_right is None


def test_v3_mask_of_another_convention(tmp_path: Path):
    write_v3(tmp_path / "trainingQ" / "Piano")
    write_bytes(tmp_path / "trainingQ" / "Piano" / "mask0nocc.png", np.full((H, W), 1))
    with pytest.raises(InputError, match=r"mask0nocc.png' holds the value 1; expected 255 \(seen by both cameras\), 128 and 0"):
        open_dataset(f"middlebury:{tmp_path}")[0]


def test_v3_sizes_and_splits(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    root = tmp_path / "MiddEval3"
    for letter, height in (("Q", 5), ("H", 6)):
        for scene in ("Piano", "Adirondack"):
            write_v3(root / f"training{letter}" / scene, height=height)
        write_v3(root / f"test{letter}" / "Plants", truth=False, height=height)
    with caplog.at_level(logging.INFO):
        dataset = open_dataset(f"middlebury:{tmp_path}")
    assert dataset.names == ("middlebury/trainingH/Adirondack", "middlebury/trainingH/Piano")
    assert f"reading the scenes of {root / 'trainingH'}; there are more in {root / 'trainingQ'}" in caplog.text
    assert "2 frames are here, 15 were published" in caplog.text
    assert open_dataset(f"middlebury:{root}?size=Q")[0].valid.shape == (5, W)
    test = open_dataset(f"middlebury:{root}?split=test&size=Q")
    assert test.names == ("middlebury/testQ/Plants",)
    assert (test[0].disp, test[0].valid, test[0].occluded) == (None, None, None)
    assert len(open_dataset(f"middlebury:{root / 'trainingQ'}")) == 2
    for path in (root / "trainingQ", root / "trainingQ" / "Piano"):
        with pytest.raises(InputError, match=r"no scene found; looked for .*\[trainingF/\]SCENE/im0.png"):
            open_dataset(f"middlebury:{path}?size=F")
    with pytest.raises(InputError, match="got size 'full' for Middlebury version 3, expected one of F, H, Q"):
        open_dataset(f"middlebury:{root}?size=full")
    with pytest.raises(InputError, match="got split 'testing' for Middlebury version 3, expected one of training, test"):
        open_dataset(f"middlebury:{root}?split=testing")


@pytest.mark.parametrize("lost", ["im1.png", "disp0GT.pfm"])
def test_v3_missing_file(tmp_path: Path, lost: str):
    write_v3(tmp_path / "trainingQ" / "Piano")
    (tmp_path / "trainingQ" / "Piano" / lost).unlink()
    with pytest.raises(InputError, match=rf"Piano/{lost}' is missing; middlebury/trainingQ/Piano needs it"):
        open_dataset(f"middlebury:{tmp_path}")


def write_float_scene(folder: Path, ambient: Sequence[str] = ()) -> None:
    """A scene of 2014 or 2021: views of 10 and 20, im1E of 30, im1L of 40, ambient views of 50."""
    write_views(folder, "im0.png", "im1.png")
    for name, value in (("im1E", 30), ("im1L", 40)):
        write_bytes(folder / f"{name}.png", np.full((H, W, 3), value))
    for variant in ambient:
        light, _, exposure = variant.partition("e")
        for view in (0, 1):
            write_bytes(folder / "ambient" / light / f"im{view}e{exposure}.png", np.full((H, W, 3), 50 + view))
    for view in (0, 1):
        write_pfm(folder / f"disp{view}.pfm", float_truth())


def test_2014_and_2021_have_two_views_of_truth_and_no_masks(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write_float_scene(tmp_path / "Piano-perfect")
    for dataset in ("middlebury2014", "middlebury2021"):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            sample = open_dataset(f"{dataset}:{tmp_path}")[0]
        assert sample.name == f"{dataset}/Piano-perfect"
        assert not sample.valid[0].any() and sample.valid[1:].all()
        assert np.array_equal(sample.disp[1:], float_truth()[1:])
        assert np.array_equal(sample.disp, sample.disp_right)
        assert np.array_equal(
            sample.occluded, left_right_check(sample.disp, sample.disp_right, 1.0, sample.valid, sample.valid_right)
        )
        assert sample.occluded_right.any()
        assert "left-right check" in caplog.text


def test_calibrations_of_2014(tmp_path: Path):
    for scene in ("Piano-perfect", "Piano-imperfect", "Backpack-perfect"):
        write_float_scene(tmp_path / "scenes2014" / scene)
    for path in (tmp_path, tmp_path / "scenes2014"):
        assert len(open_dataset(f"middlebury2014:{path}")) == 3
        assert open_dataset(f"middlebury2014:{path}?calibration=imperfect").names == ("middlebury2014/Piano-imperfect",)
        assert len(open_dataset(f"middlebury2014:{path}?calibration=perfect")) == 2
    scene = tmp_path / "scenes2014" / "Piano-perfect"
    assert open_dataset(f"middlebury2014:{scene}").names == ("middlebury2014/Piano-perfect",)
    with pytest.raises(InputError, match=r"no scene in '.*' is of calibration imperfect; looked for SCENE-imperfect/disp0.pfm"):
        open_dataset(f"middlebury2014:{scene}?calibration=imperfect")
    with pytest.raises(InputError, match="got calibration 'good' for Middlebury 2014, expected one of perfect, imperfect"):
        open_dataset(f"middlebury2014:{scene}?calibration=good")


def test_other_exposures_and_lights_of_2014(tmp_path: Path):
    write_float_scene(tmp_path / "Piano-perfect", ["L2e0", "L1e1", "L1e0"])
    for images, value in (("default", 20), ("E", 30), ("L", 40)):
        sample = open_dataset(f"middlebury2014:{tmp_path}?images={images}")[0]
        assert sample.name == "middlebury2014/Piano-perfect" + ("" if images == "default" else f"/{images}")
        assert (sample.left == 10).all() and (sample.right == value).all()
        assert sample.valid[1:].all()
    with pytest.raises(InputError, match="got images 'X' for Middlebury 2014, expected one of default, E, L, ambient"):
        open_dataset(f"middlebury2014:{tmp_path}?images=X")


@pytest.mark.parametrize(("year", "lights"), [(2014, "L1 L2"), (2021, "F0 L0")])
def test_ambient_images(tmp_path: Path, year: int, lights: str):
    one, two = lights.split()
    scene = f"middlebury{year}/artroom1"
    write_float_scene(tmp_path / "data" / "im0e-artroom1", [f"{two}e0", f"{one}e1", f"{one}e0"])
    (tmp_path / "data" / "im0e-artroom1").rename(tmp_path / "data" / "artroom1")
    dataset = open_dataset(f"middlebury{year}:{tmp_path / 'data'}?images=ambient")
    assert dataset.names == (f"{scene}/{one}e0", f"{scene}/{one}e1", f"{scene}/{two}e0")
    for sample in dataset:
        assert (sample.left == 50).all() and (sample.right == 51).all()
        assert sample.valid[1:].all()
    (tmp_path / "data" / "artroom1" / "ambient" / two / "im1e0.png").unlink()
    with pytest.raises(InputError, match=rf"ambient/{two}/im1e0.png' is missing; {scene}/{two}e0 needs it"):
        open_dataset(f"middlebury{year}:{tmp_path / 'data'}?images=ambient")
    shutil.rmtree(tmp_path / "data" / "artroom1" / "ambient")
    with pytest.raises(InputError, match=r"artroom1' has no ambient/\*/im0e\*.png; ambient images are a download"):
        open_dataset(f"middlebury{year}:{tmp_path / 'data'}?images=ambient")


def test_2021_has_no_exposures_beside_its_views(tmp_path: Path):
    write_float_scene(tmp_path / "data" / "artroom1")
    assert open_dataset(f"middlebury2021:{tmp_path}").names == ("middlebury2021/artroom1",)
    with pytest.raises(InputError, match="got images 'E' for Middlebury 2021, expected one of default, ambient"):
        open_dataset(f"middlebury2021:{tmp_path}?images=E")


@pytest.mark.parametrize(
    ("dataset", "wanted"),
    [
        ("middlebury", r"\[MiddEval3/\]\[trainingF\|trainingH\|trainingQ/\]SCENE/im0.png"),
        ("middlebury2001", r"\[scenes2001\|.*\]SCENE/disp2.* or truedisp.row3.col3"),
        ("middlebury2003", r"\[scenes2003\|.*\]SCENE/disp2"),
        ("middlebury2005", r"\[scenes2005\|.*\]\[FullSize\|HalfSize\|ThirdSize/\]SCENE/disp1"),
        ("middlebury2006", r"\[scenes2006\|.*\]\[FullSize\|HalfSize\|ThirdSize/\]SCENE/disp1"),
        ("middlebury2014", r"\[scenes2014\|.*\]SCENE/disp0.pfm"),
        ("middlebury2021", r"\[data\|.*\]SCENE/disp0.pfm"),
        ("middlebury_v2", r"\[MiddV2/\]SCENE/groundtruth.png"),
    ],
)
def test_nothing_found_says_what_was_looked_for(tmp_path: Path, dataset: str, wanted: str):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match=rf"no scene found; looked for '{path}/{wanted}"):
            open_dataset(f"{dataset}:{path}")
