"""``rectify`` on cameras that are known: points projected by OpenCV, a scene traced ray by ray, and input that cannot work."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import calibration_files as files
import cv2
import numpy as np
import pytest

from stereo.calibration.fit import fit_to_size
from stereo.calibration.middlebury import read_middlebury_calib
from stereo.calibration.read import read_calibration
from stereo.calibration.rectification import plan_rectification
from stereo.calibration.rig import RawRig
from stereo.cli import main
from stereo.geometry import points_from_disparity
from stereo.image_io import read_image, write_image
from stereo.inference.row_errors import BORDER, RowErrors, row_errors
from stereo.sources.opening import paired_files

SIZE = (384, 288)
TURN = cv2.Rodrigues(np.array([0.02, -0.015, 0.03]))[0]
CENTRE = np.array([0.12, 0.006, -0.004])  # of the right camera, m, seen from the left one
RIG = RawRig(
    camera_left=np.array([[350.0, 0, 190], [0, 352, 146], [0, 0, 1]]),
    distortion_left=np.array([-0.12, 0.03, 0.001, -0.0005, 0.0]),
    camera_right=np.array([[355.0, 0, 196], [0, 354, 140], [0, 0, 1]]),
    distortion_right=np.array([-0.10, 0.02, -0.001, 0.0005, 0.0]),
    rotation=TURN,
    translation_m=-TURN @ CENTRE,
    size=SIZE,
)
BASELINE = float(np.linalg.norm(CENTRE))


def rig_file(path: Path, rig: RawRig = RIG) -> str:
    """The rig as OpenCV's programs write it."""
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    named = {"M1": rig.camera_left, "D1": rig.distortion_left, "M2": rig.camera_right, "D2": rig.distortion_right}
    for name, value in (named | {"R": rig.rotation, "T": rig.translation_m}).items():
        storage.write(name, np.atleast_2d(value))
    storage.release()
    return str(path)


def seen(points: np.ndarray, rig: RawRig = RIG) -> list[np.ndarray]:
    """Where (N, 3) m of the left camera's frame are in the raw left and right image, (N, 2) px."""
    nothing = np.zeros(3)
    turn, shift = cv2.Rodrigues(rig.rotation)[0], rig.translation_m
    left = cv2.projectPoints(points, nothing, nothing, rig.camera_left, rig.distortion_left)[0]
    right = cv2.projectPoints(points, turn, shift, rig.camera_right, rig.distortion_right)[0]
    return [left[:, 0], right[:, 0]]


def dots(places: np.ndarray) -> np.ndarray:
    """A dark picture with a soft dot of 2 px at each of (N, 2) px."""
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    picture = np.zeros((SIZE[1], SIZE[0]))
    for px, py in places:
        picture += 200 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * 2**2))
    return np.repeat(picture.round().clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def centres(image: np.ndarray) -> np.ndarray:
    """(N, 2) px, the centres of gravity of the dots, from top to bottom."""
    grey = image[..., 0].astype(np.float64)
    count, labels = cv2.connectedComponents((grey > 20).astype(np.uint8))
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    found = [[np.average(c[labels == i], weights=grey[labels == i]) for c in (x, y)] for i in range(1, count)]
    return np.array(sorted(found, key=lambda place: place[1]))


def world() -> np.ndarray:
    """Eight points (N, 3) m at depths from 1.2 to 3 m, each on rows of its own."""
    rng = np.random.default_rng(4)
    z = rng.permutation(np.linspace(1.2, 3.0, 8))
    columns, rows = rng.permutation(np.linspace(140, 300, 8)), np.linspace(50, 240, 8)
    return np.stack([(columns - 190) / 350 * z, (rows - 146) / 352 * z, z], axis=1)


@pytest.fixture
def pair(tmp_path) -> list[str]:
    paths = [str(tmp_path / f"raw_{side}.png") for side in ("l", "r")]
    for path, places in zip(paths, seen(world()), strict=True):
        write_image(path, dots(places))
    return paths


def traced() -> list[np.ndarray]:
    """Raw images (H, W, 3) of two textured walls, a far one and a near one before its left half, traced ray by ray."""
    rng = np.random.default_rng(0)
    texture = sum(cv2.resize(rng.normal(size=(n, n)), (512, 512), interpolation=cv2.INTER_CUBIC) for n in (16, 48, 128, 256))
    texture = (127 + 30 * texture).clip(0, 255).astype(np.float32)
    images = []
    for camera, distortion, turn, centre in (
        (RIG.camera_left, RIG.distortion_left, np.eye(3), np.zeros(3)),
        (RIG.camera_right, RIG.distortion_right, TURN, CENTRE),
    ):
        y, x = np.mgrid[: SIZE[1], : SIZE[0]].astype(np.float64)
        straight = cv2.undistortPoints(np.stack([x, y], -1).reshape(-1, 1, 2), camera, distortion)[:, 0]
        rays = np.column_stack([straight, np.ones(len(straight))]) @ turn  # turn.T applied to each, in the left frame
        picture = np.zeros(len(rays), np.float32)
        for depth, slant, right_end in ((2.5, 0.2, np.inf), (1.5, 0.0, 0.0)):  # the near one last: it covers the other
            t = (depth + slant * centre[0] - centre[2]) / (rays[:, 2] - slant * rays[:, 0])  # the wall z = depth + slant x
            place = centre + t[:, None] * rays
            u, v = (place[:, 0] * 150 + 256).astype(np.float32), (place[:, 1] * 150 + 256 + 40 * depth).astype(np.float32)
            colour = cv2.remap(texture, u.reshape(x.shape), v.reshape(x.shape), cv2.INTER_CUBIC, borderMode=cv2.BORDER_WRAP)
            here = place[:, 0] < right_end
            picture[here] = colour.ravel()[here]
        image = picture.reshape(x.shape).round().clip(0, 255).astype(np.uint8)
        images.append(np.repeat(image[..., None], 3, axis=2))
    return images


# ---------------------------------------------------------------------------------------------------------------------
# What comes out is right


def test_known_points_come_out_on_common_rows_and_at_their_distances(tmp_path, pair, capsys):
    """Rectifying turns the frame, so distances between points, which no turn changes, are compared: all 28 of them."""
    out = tmp_path / "new" / "out"
    assert main(["rectify", *pair, "--calib", rig_file(tmp_path / "rig.yml"), "-o", str(out), "--json"]) == 0
    assert {path.name for path in out.iterdir()} == {"left.png", "right.png", "calib.txt"}
    raw = np.abs(np.subtract(*seen(world()))[:, 1])
    assert raw.min() > 3  # px: before
    left, right = (centres(read_image(out / f"{side}.png")) for side in ("left", "right"))
    assert len(left) == len(right) == 8
    assert np.abs(left[:, 1] - right[:, 1]).max() < 0.15
    rig = read_middlebury_calib(out / "calib.txt")
    assert rig.baseline_m == pytest.approx(BASELINE, rel=1e-9)
    assert rig.doffs_px == 0
    disparity = left[:, 0] - right[:, 0]
    z = rig.baseline_m * rig.focal_px / disparity
    found = np.stack([(left[:, 0] - rig.cx) / rig.focal_px * z, (left[:, 1] - rig.cy) / rig.focal_px * z, z], axis=1)
    order = np.argsort(world()[:, 1] / world()[:, 2])  # as centres() sorts
    pairs = np.triu_indices(8, 1)
    expected, measured = (np.linalg.norm(x[pairs[0]] - x[pairs[1]], axis=1) for x in (world()[order], found))
    # 0.1 px of a disparity of at least 14 px is 0.7 % of a depth of 3 m
    np.testing.assert_allclose(measured, expected, atol=0.02)
    facts = json.loads(capsys.readouterr().out)
    assert facts["baseline_m"] == pytest.approx(BASELINE)
    assert facts["verdict"].startswith("unknown: only")  # dots are nothing to match


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_maps_take_known_points_to_known_points(alpha):
    """Without images: the rectified pixel whose map names a raw place is found by inverting the map; 1000 points."""
    rng = np.random.default_rng(1)
    points = np.column_stack([rng.uniform(-0.3, 0.3, 1000), rng.uniform(-0.2, 0.2, 1000), rng.uniform(1, 4, 1000)])
    plan = plan_rectification(RIG, SIZE, alpha)
    places = []
    for view, raw in enumerate(seen(points)):
        x, y = plan.maps[view]
        found = np.full((len(raw), 2), np.nan)
        for i, (u, v) in enumerate(raw):
            row, column = np.unravel_index(np.argmin((x - u) ** 2 + (y - v) ** 2), x.shape)
            if 0 < row < SIZE[1] - 1 and 0 < column < SIZE[0] - 1:
                slopes = [
                    [(m[row, column + 1] - m[row, column - 1]) / 2, (m[row + 1, column] - m[row - 1, column]) / 2]
                    for m in (x, y)
                ]
                found[i] = np.array([column, row]) + np.linalg.solve(slopes, (u - x[row, column], v - y[row, column]))
        places.append(found)
    both = np.isfinite(places[0]).all(1) & np.isfinite(places[1]).all(1)
    assert both.sum() > 500
    left, right = places[0][both], places[1][both]
    assert np.abs(left[:, 1] - right[:, 1]).max() < 0.01
    rig = plan.calibration
    z = rig.baseline_m * rig.focal_px / (left[:, 0] - right[:, 0])
    found = np.stack([(left[:, 0] - rig.cx) / rig.focal_px * z, (left[:, 1] - rig.cy) / rig.focal_px * z, z], axis=1)
    distances = [np.linalg.norm(np.diff(x, axis=0), axis=1) for x in (points[both], found)]
    np.testing.assert_allclose(distances[1], distances[0], rtol=0.01, atol=0.005)


def test_a_traced_pair_is_straightened_and_judged(tmp_path, capsys):
    for name, image in zip("lr", traced(), strict=True):
        (tmp_path / name).mkdir()
        write_image(tmp_path / name / "a.png", image)
        write_image(tmp_path / name / "b.bmp", image)
    rig, out = rig_file(tmp_path / "rig.xml"), tmp_path / "out"
    assert main(["rectify", str(tmp_path / "l"), str(tmp_path / "r"), "--calib", rig, "-o", str(out), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["matches"] > 200
    assert facts["vertical_error_before_median_px"] > 3
    assert facts["vertical_error_after_median_px"] < 0.3
    assert facts["vertical_error_after_95_percent_px"] < 1
    assert facts["verdict"].startswith("good")
    assert facts["black_left"] == facts["black_right"] == 0
    written = sorted(str(path.relative_to(out)) for path in out.rglob("*.*"))
    assert written == ["calib.txt", "left/a.png", "left/b.png", "right/a.png", "right/b.png"]

    keep_all = [
        "rectify",
        str(tmp_path / "l" / "a.png"),
        str(tmp_path / "r" / "a.png"),
        "--alpha",
        "1",
        "-o",
        str(tmp_path / "all"),
    ]
    assert main([*keep_all, "--calib", rig]) == 0
    printed = capsys.readouterr().out
    assert "verdict: good" in printed and "px median" in printed and "infer " in printed
    black = read_image(tmp_path / "all" / "left.png").max(axis=2) == 0
    share = float(printed.split("black: ")[1].split("%")[0]) / 100
    assert share == pytest.approx(black.mean(), abs=0.01)
    assert share > 0.02

    wrong = RawRig(**{**vars(RIG), "rotation": TURN.T, "translation_m": -TURN.T @ CENTRE})
    again = ["rectify", str(tmp_path / "l" / "a.png"), str(tmp_path / "r" / "a.png"), "-o", str(tmp_path / "w")]
    assert main([*again, "--calib", rig_file(tmp_path / "wrong.yml", wrong), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"].startswith("bad: rows")
    straight = [str(out / side / "a.png") for side in ("left", "right")]
    assert main(["rectify", *straight, "--calib", rig, "-o", str(tmp_path / "twice"), "--json"]) == 0
    assert "rectified already" in json.loads(capsys.readouterr().out)["verdict"]


def test_row_errors_before_are_those_of_the_raw_images():
    """At matches found in the rectified images, the raw rows must differ as the walls' points do, projected by OpenCV."""
    left, right = traced()
    plan = plan_rectification(RIG, SIZE)
    errors = row_errors(plan.apply(left, 0), plan.apply(right, 1), plan)
    y, x = np.mgrid[20 : SIZE[1] - 20 : 8, 60 : SIZE[0] - 20 : 8].astype(np.float64)
    rays = cv2.undistortPoints(np.stack([x, y], -1).reshape(-1, 1, 2), RIG.camera_left, RIG.distortion_left)[:, 0]
    z = 2.5 / (1 - 0.2 * rays[:, 0])
    far = np.column_stack([rays * z[:, None], z])[rays[:, 0] > 0.1]
    expected = np.abs(np.subtract(*seen(far))[:, 1])
    assert expected.min() - 1 < np.median(errors.before) < expected.max() + 1


def test_matches_at_the_edge_of_what_is_black_do_not_count(monkeypatch):
    """The edge is of the picture, not of the scene, and lies where the calibration puts it, right or wrong."""
    plan = plan_rectification(RIG, SIZE, alpha=1.0)
    black = [plan.black(view) for view in (0, 1)]
    assert min(mask.mean() for mask in black) > 0.02
    y, x = np.mgrid[4 : SIZE[1] : 9, 10 : SIZE[0] : 11].astype(np.float64)
    left = np.column_stack([x.ravel(), y.ravel()])
    points = (left, left - (6, 0))
    monkeypatch.setattr("stereo.inference.row_errors.match_points", lambda *_: points)
    dark = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    inside = [
        not any(mask[max(0, v - BORDER) : v + BORDER + 1, max(0, u - BORDER) : u + BORDER + 1].any() for mask, (u, v) in both)
        for both in (((black[0], a), (black[1], b)) for a, b in zip(*(p.astype(int).tolist() for p in points), strict=True))
    ]
    assert 100 < sum(inside) < 0.8 * len(left)
    errors = row_errors(dark, dark, plan)
    assert len(errors.after) == sum(inside)
    assert not errors.after.any()


def test_verdicts():
    ok = np.full(100, 0.2)
    assert RowErrors(np.full(100, 5.0), ok).verdict() == "good: rows differ by 0.20 px"
    assert RowErrors(np.full(100, 5.0), np.full(100, 0.7)).verdict() == "usable: rows differ by 0.70 px"
    assert "calibrate again" in RowErrors(np.full(100, 5.0), np.full(100, 3.0)).verdict()
    assert "rectified already" in RowErrors(ok, np.full(100, 3.0)).verdict()
    assert RowErrors(ok[:3], ok[:3]).numbers() == {"matches": 3}


def test_a_raw_rig_scales_with_its_images():
    """At half the size, the same points are at half the place, pixel centres being at whole numbers."""
    scaled, told = fit_to_size(RIG, SIZE, (192, 144))
    assert scaled.size == (192, 144) and "scaled by 0.5" in told[0]
    for at, half in zip(seen(world()), seen(world(), scaled), strict=True):
        np.testing.assert_allclose(half, (at + 0.5) / 2 - 0.5, atol=1e-9)


def test_ros_files_of_a_rig_hold_the_rig_before_rectification(tmp_path):
    """What OpenCV makes of the rig is written as ROS does; the rotation and translation come back from its matrices."""
    optics = (RIG.camera_left, RIG.distortion_left[None], RIG.camera_right, RIG.distortion_right[None])
    turns = cv2.stereoRectify(*optics, SIZE, RIG.rotation, RIG.translation_m[:, None], alpha=0)[:4]
    paths = []
    for view, (camera, distortion) in enumerate((optics[:2], optics[2:])):
        matrices = {"camera_matrix": camera, "distortion_coefficients": distortion, "rectification_matrix": turns[view]}
        text = f"image_width: {SIZE[0]}\nimage_height: {SIZE[1]}\ndistortion_model: plumb_bob\n"
        for name, matrix in (matrices | {"projection_matrix": turns[2 + view]}).items():
            rows, cols = matrix.shape
            text += f"{name}:\n  rows: {rows}\n  cols: {cols}\n  data: {matrix.ravel().tolist()}\n"
        paths.append(tmp_path / f"{view}.yaml")
        paths[-1].write_text(text)
    file = read_calibration(paths[0], second=paths[1])
    assert file.rectified == plan_rectification(RIG, SIZE).calibration
    for name in ("camera_right", "distortion_left", "rotation", "translation_m"):
        np.testing.assert_allclose(getattr(file.raw, name), getattr(RIG, name), atol=1e-9)


# ---------------------------------------------------------------------------------------------------------------------
# What is refused


def variant(**changes) -> RawRig:
    return RawRig(**{**vars(RIG), **changes})


BELOW = {"translation_m": np.array([0.01, -0.12, 0.0])}
BAD = [
    (["--calib", "{tmp}/none.yml"], "none.yml"),
    ([], "required: --calib"),
    (["--calib", "{rig}", "--alpha", "2"], "got '2', expected a number from 0 to 1"),
    (["--calib", "{rig}", "--calib-size", "big"], "got 'big', expected WIDTHxHEIGHT"),
    (["--calib", "{rig}", "--calib-size", "640x288"], "another shape"),
    (["--calib", "{rig}", "--cameras", "2"], "expected two of the cameras 0 to 3"),
    (["--calib", "{rig}", "--cameras", "2,2"], "expected two of the cameras 0 to 3"),
    (["--calib", "{rig}", "--unit", "inch"], "invalid choice: 'inch'"),
    (["--calib", "{rig}", "--calib2", "{rig}"], "both files hold"),
    (["--calib", "{middlebury}"], "nothing about the cameras before rectification"),
    (["--calib", "{left}"], "no text"),
    (["--calib", "{below}"], "expected them side by side"),
    (["--calib", "{swapped}"], "exchange the images"),
    (["--calib", "{zed}"], "no image size 384x288"),
    (["--calib", "{rig}", "-o", "{rig}"], "cannot create the output folder"),
    (["--calib", "{rig}", "-o", "{tmp}/rig.yml/out"], "cannot create the output folder"),
]


@pytest.mark.parametrize(("options", "blamed"), BAD, ids=[f"{i} {blamed}" for i, (_, blamed) in enumerate(BAD)])
def test_bad_input_gets_one_line_and_leaves_nothing(tmp_path, pair, capsys, options, blamed):
    (tmp_path / "calib.txt").write_text(files.MIDDLEBURY)
    (tmp_path / "zed.conf").write_text(files.ZED)
    names = {"tmp": tmp_path, "rig": rig_file(tmp_path / "rig.yml"), "middlebury": tmp_path / "calib.txt", "left": pair[0]}
    names |= {"zed": tmp_path / "zed.conf", "below": rig_file(tmp_path / "below.yml", variant(**BELOW))}
    names["swapped"] = rig_file(tmp_path / "swapped.yml", variant(translation_m=-RIG.translation_m))
    before = sorted(tmp_path.rglob("*"))
    given = [option.format(**names) for option in options]
    out = [] if "-o" in given else ["-o", str(tmp_path / "out")]
    line = refused(capsys, "rectify", *pair, *out, *given)
    assert blamed.replace("no text", "is not a text file") in line
    assert sorted(tmp_path.rglob("*")) == before


def refused(capsys, *argv: str) -> str:
    """Run and expect exit code 2 with exactly one line on stderr, which is returned."""
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


def test_images_that_do_not_fit_are_refused(tmp_path, pair, capsys):
    rig = ["--calib", rig_file(tmp_path / "rig.yml"), "-o", str(tmp_path / "out")]
    (tmp_path / "text.png").write_text("no image")
    write_image(tmp_path / "small.png", np.zeros((40, 50, 3), np.uint8))
    assert "text.png" in refused(capsys, "rectify", pair[0], str(tmp_path / "text.png"), *rig)
    assert "50x40" in refused(capsys, "rectify", pair[0], str(tmp_path / "small.png"), *rig)
    assert "two folders" in refused(capsys, "rectify", pair[0], str(tmp_path), *rig)
    for side in ("l", "r"):
        (tmp_path / side).mkdir()
        write_image(tmp_path / side / "a.png", read_image(pair[0]))
        write_image(tmp_path / side / "b.png", np.zeros((40, 50, 3), np.uint8))
    sides = [str(tmp_path / "l"), str(tmp_path / "r")]
    assert "one calibration is of one size" in refused(capsys, "rectify", *sides, *rig)
    (tmp_path / "r" / "b.png").write_bytes(b"")
    assert "b.png" in refused(capsys, "rectify", *sides, *rig)  # the last image, and yet nothing is written
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("file", "given", "names"),
    [("scene{n}/{side}.png", "scene*/{side}.png", ["1", "2", "3"]), ("{side}/{n}_{side}.png", "{side}", ["1_l", "2_l", "3_l"])],
)
def test_every_pair_is_written_under_its_own_name(tmp_path, pair, capsys, file, given, names):
    """Brightness tells which pair a result comes from."""
    folder, out = tmp_path / "with blanks", tmp_path / "with blanks" / "out"
    for n in (1, 2, 3):
        for side, path in zip("lr", pair, strict=True):
            target = folder / file.format(n=n, side=side)
            target.parent.mkdir(parents=True, exist_ok=True)
            write_image(target, read_image(path) // n)
    sides = [str(folder / given.format(side=side)) for side in "lr"]
    assert main(["rectify", *sides, "--calib", rig_file(tmp_path / "rig.yml"), "-o", str(out)]) == 0
    following = shlex.split(capsys.readouterr().out.rpartition("next: ")[2])
    assert following == ["infer", str(out / "left"), str(out / "right"), "--calib", str(out / "calib.txt")]
    assert [stem for stem, *_ in paired_files(*following[1:3])] == names
    for side in ("left", "right"):
        means = [read_image(out / side / f"{name}.png").mean() for name in names]
        np.testing.assert_allclose(means, means[0] / np.array([1, 2, 3]), rtol=0.05)


def test_what_is_given_is_never_overwritten(tmp_path, pair, capsys):
    images = [tmp_path / f"{side}.png" for side in ("left", "right")]
    for path, given in zip(images, pair, strict=True):
        write_image(path, read_image(given))
    rig = rig_file(tmp_path / "rig.yml")
    assert "would be overwritten" in refused(capsys, "rectify", *map(str, images), "--calib", rig, "-o", str(tmp_path))
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "calib.txt").write_text(Path(rig).read_text())
    own = str(tmp_path / "o" / "calib.txt")
    for calibration in (["--calib", own], ["--calib", rig, "--calib2", own]):
        line = refused(capsys, "rectify", *pair, *calibration, "-o", str(tmp_path / "o"))
        assert "calib.txt' would be overwritten" in line


def test_points_from_disparity_agrees_with_the_distances_used_here():
    rig = plan_rectification(RIG, SIZE).calibration
    z = rig.baseline_m * rig.focal_px / 20
    point = points_from_disparity(np.full((12, 34), 20.0), rig)[11, 33]
    np.testing.assert_allclose(point, [(33 - rig.cx) / rig.focal_px * z, (11 - rig.cy) / rig.focal_px * z, z], rtol=1e-5)
