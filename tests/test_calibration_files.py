"""Calibration files of every layout against numbers worked out by hand; OpenCV's own are written by OpenCV. The wrong ones."""

from __future__ import annotations

import json
from pathlib import Path

import calibration_files as files
import cv2
import numpy as np
import pytest

from stereo.calibration.middlebury import read_middlebury_calib, write_middlebury_calib
from stereo.calibration.read import READERS, read_calibration
from stereo.geometry import Calibration
from stereo.types import InputError

EYE = np.eye(3)


def read(tmp_path: Path, text: str, *args, second: str | None = None, **options):
    path = tmp_path / "camera.dat"  # no layout is told by a name
    path.write_text(text, encoding="utf-8")
    if second is not None:
        options["second"] = tmp_path / "second.dat"
        options["second"].write_text(second, encoding="utf-8")
    return read_calibration(path, *args, **options)


def close(found: Calibration, *expected: float) -> None:
    values = (found.focal_px, found.cx, found.cy, found.baseline_m, found.doffs_px, found.aspect)
    np.testing.assert_allclose(values, expected, rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------------------------------------------------------------
# What is read


def test_middlebury_knows_its_size(tmp_path):
    file = read(tmp_path, files.MIDDLEBURY)
    close(file.rectified, 999.421, 294.182, 252.932, 0.193001, 32.778, 1.0)
    assert (file.size, file.unit, file.raw) == ((741, 497), "mm", None)


@pytest.mark.parametrize("aspect", [1.0, 1.25])
def test_middlebury_is_written_as_it_is_read(tmp_path, aspect):
    rig = Calibration(712.3456789, 301.25, 222.5, 0.1200091, -3.75, aspect)
    write_middlebury_calib(tmp_path / "calib.txt", rig, (640, 480))
    found = read_middlebury_calib(tmp_path / "calib.txt")
    close(found, rig.focal_px, rig.cx, rig.cy, rig.baseline_m, rig.doffs_px, aspect)
    assert read_calibration(tmp_path / "calib.txt").size == (640, 480)


@pytest.mark.parametrize("text", [files.KITTI_RECT, files.KITTI_SHORT], ids=["raw data", "2012, object, odometry"])
@pytest.mark.parametrize(("cameras", "baseline"), [((2, 3), 0.54), ((0, 1), 0.54), ((0, 3), 0.48), ((2, 1), 0.6)])
def test_kitti(tmp_path, text, cameras, baseline):
    file = read(tmp_path, text, cameras=cameras)
    close(file.rectified, 720, 610, 173, baseline, 0, 1)
    assert (file.raw, file.size) == (None, None)


def test_kitti_before_rectification(tmp_path):
    """X2 = (-y, x + 0.06, z) and X3 = (x - 0.48, y, z) of camera 0, so X3 = (y2 - 0.54, -x2, z2)."""
    file = read(tmp_path, files.KITTI_RAW)
    assert file.size == (1242, 375)
    assert file.raw.size == (1392, 512)
    np.testing.assert_allclose(file.raw.rotation, [[0, 1, 0], [-1, 0, 0], [0, 0, 1]], atol=1e-12)
    np.testing.assert_allclose(file.raw.translation_m, [-0.54, 0, 0], atol=1e-12)
    assert file.raw.camera_left.tolist() == [[920, 0, 690], [0, 920, 230], [0, 0, 1]]
    assert file.raw.camera_right[0, 0] == 930
    assert file.raw.distortion_right.tolist() == [-0.37, 0.2, 0.001, 0.002, -0.07]


def test_zed_takes_the_section_of_the_images_size(tmp_path):
    raw = read(tmp_path, files.ZED, (2208, 1242)).raw
    assert raw.camera_left.tolist() == [[1400.5, 0, 1103.25], [0, 1401.5, 620.75], [0, 0, 1]]
    assert raw.distortion_left.tolist() == [-0.17, 0.028, 0.0003, -0.0005, 0.001]
    assert raw.distortion_right.tolist() == [-0.16, 0.027, -0.0001, -0.0008, 0]
    np.testing.assert_allclose(raw.translation_m, [-0.120009, -0.0005, 0.00025], atol=1e-15)
    # a small rotation vector (a, b, c) is the matrix 1 + [0 -c b; c 0 -a; -b a 0] to second order, here 8e-5
    small = [[1, 0.0004, 0.0123], [-0.0004, 1, -0.0017], [-0.0123, 0.0017, 1]]
    np.testing.assert_allclose(raw.rotation, small, atol=1e-4)
    hd = read(tmp_path, files.ZED.replace("Baseline", "BaseLine"), (1280, 720)).raw
    assert hd.camera_left[0, 0] == 700.25
    np.testing.assert_allclose(hd.rotation, [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-12)  # a quarter turn about z
    assert read(tmp_path, files.ZED, (1280, 720)).rectified is None


def test_zed_is_rectified_as_its_makers_rectify_it(tmp_path):
    """Their sample hands Baseline, TY, TZ to stereoRectify as they are, in mm: only the side of the cameras differs."""
    raw = read(tmp_path, files.ZED, (2208, 1242)).raw
    optics = (
        raw.camera_left,
        raw.distortion_left[None],
        raw.camera_right,
        raw.distortion_right[None],
        (2208, 1242),
        raw.rotation,
    )
    theirs = cv2.stereoRectify(*optics, np.array([[120.009], [0.5], [-0.25]]), alpha=0)
    ours = cv2.stereoRectify(*optics, raw.translation_m[:, None], alpha=0)
    for found, expected in zip(ours[:3], theirs[:3], strict=True):  # both rotations and the left camera
        np.testing.assert_allclose(found, expected, atol=1e-9)
    assert ours[3][0, 3] == pytest.approx(-theirs[3][0, 3] / 1000)


@pytest.mark.parametrize("size", [(848, 480), (640, 480)])
def test_realsense_listing(tmp_path, size):
    file = read(tmp_path, files.REALSENSE, size)
    expected = (421.75, 423.5) if size[0] == 848 else (380.5, 319.5)
    close(file.rectified, *expected, 239.25, 0.0499585770070553, 0, 1)
    assert file.size == size


def test_realsense_listing_from_windows(tmp_path):
    path = tmp_path / "listing.txt"
    path.write_bytes(files.REALSENSE.replace("\n", "\r\n").encode("utf-16"))  # what > does in its shell
    assert read_calibration(path, (848, 480)).rectified.focal_px == 421.75


def test_realsense_json_of_unrectified_streams(tmp_path):
    file = read(tmp_path, files.REALSENSE_JSON)
    assert file.rectified is None
    assert file.raw.size == (1280, 800)
    np.testing.assert_array_equal(file.raw.rotation, [[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    assert file.raw.translation_m.tolist() == [-0.05, 0.001, 0.002]
    assert file.raw.camera_right.tolist() == [[640.5, 0, 641], [0, 641.5, 401], [0, 0, 1]]


def test_realsense_json_of_rectified_streams(tmp_path):
    given = json.loads(files.REALSENSE_JSON)
    for side in ("left", "right"):
        given[side]["coeffs"] = [0.0] * 5
    given["extrinsics"] = {"rotation": [1, 0, 0, 0, 1, 0, 0, 0, 1], "translation": [-0.05, 0, 0]}
    close(read(tmp_path, json.dumps(given)).rectified, 640.5, 638, 401, 0.05, 3, 641.5 / 640.5)


def check_ros(file) -> None:
    close(file.rectified, 400, 320.5, 240.5, 0.12, 0, 1)
    assert file.size == (640, 480)
    assert file.raw.camera_left.tolist() == [[430.25, 0, 310.5], [0, 431.25, 230.5], [0, 0, 1]]
    assert file.raw.distortion_right.tolist() == [-0.36, 0.12, 0.001, 0.002, 0]


def test_ros_in_two_files_and_in_one(tmp_path):
    for text, second in (
        (files.ros("left", 0), files.ros("right", -48)),
        (files.ros("left", 0) + "---\n" + files.ros("right", -48), None),
    ):
        file = read(tmp_path, text, second=second)
        check_ros(file)
        # The right camera's y is its rectified z, its z the rectified -y: a point X of the left one is (x - 0.12, z, -y) there.
        np.testing.assert_allclose(file.raw.rotation @ [1, 2, 3] + file.raw.translation_m, [0.88, 3, -2], atol=1e-12)


def test_ros_as_its_tools_print_it(tmp_path):
    check_ros(read(tmp_path, files.ros_echo(0.0) + files.ros_echo(-48.0)))


def test_ros_with_a_lens_that_is_not_understood_is_of_use_when_rectified(tmp_path):
    fisheye = [files.ros(*of).replace("plumb_bob", "equidistant") for of in (("left", 0), ("right", -48))]
    file = read(tmp_path, fisheye[0], second=fisheye[1])
    close(file.rectified, 400, 320.5, 240.5, 0.12, 0, 1)
    assert file.raw is None


def test_foundation_stereo(tmp_path):
    close(read(tmp_path, files.FOUNDATION_STEREO).rectified, 754.6680908203125, 489.3794860839844, 265.16162109375, 0.063, 0, 1)


M1 = np.array([[700.5, 0, 320.25], [0, 701.5, 240.75], [0, 0, 1]])
M2 = np.array([[702.5, 0, 318.25], [0, 703.5, 243.75], [0, 0, 1]])
D1, D2 = np.array([[-0.28, 0.07, 0.001, 0.002, 0.05]]), np.array([[-0.27, 0.06, 0.0, 0.0, 0.04, 0.1, 0.2, 0.3]])
TURN = cv2.Rodrigues(np.array([0.01, -0.02, 0.03]))[0]
SHIFT = np.array([[-2.5], [0.02], [0.01]])  # in squares of a chessboard
INTRINSICS = {"M1": M1, "D1": D1, "M2": M2, "D2": D2}
EXTRINSICS = {"R": TURN, "T": SHIFT}
P1 = np.array([[650.0, 0, 331.5, 0], [0, 650, 243.5, 0], [0, 0, 1, 0]])
P2 = np.array([[650.0, 0, 343.5, -650 * 2.5], [0, 650, 243.5, 0], [0, 0, 1, 0]])


def opencv(form: str, values: dict) -> str:
    """What OpenCV itself writes of matrices."""
    storage = cv2.FileStorage(f"x.{form}", cv2.FILE_STORAGE_WRITE | cv2.FILE_STORAGE_MEMORY)
    storage.write("nframes", 13)
    storage.write("calibration_time", "Tue 21 Nov 10:00:00 2026")
    for name, value in values.items():
        storage.write(name, value)
    return storage.releaseAndGetString()


@pytest.mark.parametrize("form", ["yml", "xml"])
def test_opencv_raw(tmp_path, form):
    names = {"M1": "cameraMatrix1", "D1": "distCoeffs1", "M2": "cameraMatrix2", "D2": "distCoeffs2"}
    renamed = {names[name]: value for name, value in INTRINSICS.items()}
    whole = INTRINSICS | EXTRINSICS
    texts = [(opencv(form, whole), None), (opencv(form, renamed | EXTRINSICS), None)]
    flat = {name: value.ravel() for name, value in whole.items() if name in ("D1", "D2", "T")}
    texts.append((opencv(form, whole | flat), None))  # one dimension, which OpenCV 5 writes in another way
    texts.append((opencv(form, EXTRINSICS | {"R1": EYE}), opencv(form, INTRINSICS)))
    for text, second in texts:
        file = read(tmp_path, text, second=second, unit="cm")
        raw = file.raw
        for found, expected in ((raw.camera_left, M1), (raw.camera_right, M2), (raw.rotation, TURN)):
            np.testing.assert_array_equal(found, expected)
        assert raw.distortion_right.tolist() == D2[0].tolist()
        np.testing.assert_allclose(raw.translation_m, [-0.025, 0.0002, 0.0001], rtol=1e-12)
        assert file.rectified is None
    old = opencv("yml", whole).replace("%YAML 1.2", "%YAML:1.0")  # OpenCV before version 5
    assert read(tmp_path, old).raw.camera_left.tolist() == M1.tolist()


@pytest.mark.parametrize("form", ["yml", "xml"])
def test_opencv_rectified(tmp_path, form):
    close(read(tmp_path, opencv(form, {"P1": P1, "P2": P2}), unit="mm").rectified, 650, 331.5, 243.5, 0.0025, 12, 1)
    # Q as in the documentation of stereoRectify: Tx = -2.5, the last entry (cx - cx') / Tx
    q = np.array([[1, 0, 0, -331.5], [0, 1, 0, -243.5], [0, 0, 0, 650.0], [0, 0, 1 / 2.5, (331.5 - 343.5) / -2.5]])
    close(read(tmp_path, opencv(form, {"Q": q})).rectified, 650, 331.5, 243.5, 2.5, 12, 1)


def test_opencv_rectification_of_its_own(tmp_path):
    """P1, P2 and Q that cv2.stereoRectify makes of one rig are one rig, with and without a common principal point."""
    for flags in (cv2.CALIB_ZERO_DISPARITY, 0):
        _, _, p1, p2, q, *_ = cv2.stereoRectify(M1, D1, M2, D2, (640, 480), TURN, SHIFT, flags=flags)
        found = [read(tmp_path, opencv("yml", values)).rectified for values in ({"P1": p1, "P2": p2}, {"Q": q})]
        assert found[0].baseline_m == pytest.approx(np.linalg.norm(SHIFT), rel=1e-9)
        assert (found[0].doffs_px == 0) == bool(flags)
        for name in ("focal_px", "cx", "cy", "baseline_m", "doffs_px"):
            assert getattr(found[0], name) == pytest.approx(getattr(found[1], name), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("extra", "size"),
    [("image_width: 640\nimage_height: 480\n", (640, 480)), ("imageSize: [ 640, 480 ]\n", (640, 480)), ("", None)],
)
def test_opencv_size(tmp_path, extra, size):
    assert read(tmp_path, opencv("yml", {"P1": P1, "P2": P2}) + extra).size == size


def test_a_unit_overrules_that_of_the_layout(tmp_path):
    assert read(tmp_path, files.MIDDLEBURY, unit="m").rectified.baseline_m == pytest.approx(193.001)
    assert read(tmp_path, files.FOUNDATION_STEREO.replace("0.063", "63"), unit="mm").rectified.baseline_m == pytest.approx(
        0.063
    )
    zed = read(tmp_path, files.ZED, (1280, 720), unit="cm").raw
    np.testing.assert_allclose(zed.translation_m, [-1.20009, -0.005, 0.0025], rtol=1e-12)


# ---------------------------------------------------------------------------------------------------------------------
# What is refused

OPENCV = opencv("yml", INTRINSICS | EXTRINSICS)
BELOW = np.array([[650.0, 0, 331.5, 0], [0, 650, 243.5, -1625], [0, 0, 1, 0]])
LEFT, RIGHT = files.ros("left", 0), files.ros("right", -48)
BAD = [
    # KITTI
    (files.KITTI_RECT.replace("P_rect_03", "P_rect_04"), {}, "no P_rect_03"),
    (files.KITTI_RECT.replace("-3.456000e+02", "much"), {}, "expected 12 numbers"),
    (files.KITTI_RECT.replace("2.7e-03", ""), {}, "expected 12 numbers"),
    (files.KITTI_RECT, {"cameras": (3, 2)}, "exchanged"),
    (files.KITTI_RECT + files.KITTI_RECT, {}, "two lines 'P_rect_00:'"),
    (files.KITTI_RECT.replace("P_rect_02: 7.2", "P_rect_02: 7.3"), {}, "focal lengths of 730 and 720 px differ"),
    (files.KITTI_RAW.replace("T_03: -0.48", "T_03: x"), {}, "T_03"),
    (files.KITTI_RAW.replace("R_03: 1 0 0", "R_03: 2 0 0"), {}, "no rotation matrix"),
    # ZED
    (files.ZED, {}, "it holds image sizes 2208x1242, 1280x720"),
    (files.ZED, {"size": (640, 480)}, "no image size 640x480"),
    (files.ZED.replace("Baseline", "Base"), {"size": (1280, 720)}, "there is no baseline"),
    (files.ZED.replace("fx=700.25", "fx=wide"), {"size": (1280, 720)}, "[LEFT_CAM_HD]: got fx = 'wide'"),
    (files.ZED.replace("fx=700.25", "fx=0"), {"size": (1280, 720)}, "focal lengths above 0"),
    (files.ZED + "[STEREO]\n", {"size": (1280, 720)}, "no INI file"),
    (files.ZED.replace("[RIGHT_CAM", "[MIDDLE_CAM"), {"size": (1280, 720)}, "no camera of both sides"),
    # RealSense
    (files.REALSENSE, {}, "it holds image sizes 848x480, 640x480"),
    (files.REALSENSE.split("Extrinsic")[0], {"size": (848, 480)}, "rs-enumerate-devices with -c"),
    (files.REALSENSE.replace("421.75", "?"), {"size": (848, 480)}, "no number fx"),
    (files.REALSENSE.replace("-0.0499585770070553  0  0", "-0.05"), {"size": (848, 480)}, "translation of 3"),
    (files.REALSENSE.replace("-0.04995", "0.04995"), {"size": (848, 480)}, "exchanged"),
    (files.REALSENSE_JSON[:-3], {}, "starts like JSON"),
    (files.REALSENSE_JSON.replace('"left"', '"one"'), {}, "expected objects left, right and extrinsics"),
    (files.REALSENSE_JSON.replace('"rotation"', '"turn"'), {}, "rotation of 9"),
    (files.REALSENSE_JSON.replace("640.5", "NaN"), {}, "no number fx"),
    (files.REALSENSE_JSON.replace('"width": 1280', '"width": 0'), {}, "0x800 px"),
    (files.REALSENSE_JSON.replace("brown_conrady", "inverse_brown_conrady"), {}, "expected Brown Conrady"),
    ("[" * 100_000, {}, "no layout that is known"),
    ("{" * 100_000, {}, "starts like JSON"),
    # ROS
    (LEFT, {}, "--calib2"),
    (LEFT, {"second": LEFT}, "file of a single one"),
    (RIGHT, {"second": LEFT}, "exchanged"),
    (LEFT, {"second": RIGHT.replace("640", "320")}, "expected one size"),
    (LEFT, {"second": RIGHT + "---\n" + LEFT}, "3 camera(s)"),
    (LEFT.replace("400.0", "0.0"), {"second": RIGHT}, "is the camera calibrated?"),
    (LEFT.replace("400.0", ".nan"), {"second": RIGHT}, "expected 12 numbers"),
    (
        LEFT.replace("  data: [400.0", "  deta: [400.0"),
        {"second": RIGHT},
        "no projection_matrix",
    ),
    (LEFT + "image_width: 3\n", {"second": RIGHT}, "two entries 'image_width'"),
    (LEFT, {"second": files.FOUNDATION_STEREO}, "expected two of one kind"),
    # OpenCV
    (opencv("yml", INTRINSICS), {}, "it holds D1, D2, M1, M2, expected"),
    (opencv("xml", EXTRINSICS), {}, "it holds R, T, expected"),
    (opencv("yml", {"P1": P1, "P2": P1}), {}, "file of a single one"),
    (
        opencv("yml", {"P1": P1, "P2": BELOW}),
        {},
        "below the other",
    ),
    (opencv("yml", {"Q": np.zeros((4, 4))}), {}, "got Q with f = 0"),
    (OPENCV.replace("rows: 3", "rows: 2", 1), {}, "M1 of 2x3, expected 3x3"),
    (OPENCV.replace("700.5", ".Nan"), {}, "M1.data"),
    (OPENCV.replace("700.5", "-700.5"), {}, "camera_left"),
    (OPENCV, {"second": OPENCV}, "both files hold D1"),
    (opencv("yml", INTRINSICS | EXTRINSICS | {"D1": np.zeros((1, 6))}), {}, "got 6 values in distortion_left"),
    (opencv("yml", INTRINSICS | EXTRINSICS | {"T": np.zeros((3, 1))}), {}, "not all 0"),
    # FoundationStereo
    (files.FOUNDATION_STEREO.splitlines()[0], {}, "expected two lines"),
    (files.FOUNDATION_STEREO.replace("0.063", "0"), {}, "baseline_m = 0.0"),
    (files.FOUNDATION_STEREO.replace("0.063", "-0.063"), {}, "baseline_m = -0.063"),
    (files.FOUNDATION_STEREO.replace("1.0\n", "2.0\n"), {}, "expected [fx 0 cx; 0 fy cy; 0 0 1]"),
    (files.FOUNDATION_STEREO + "3\n", {}, "expected two lines"),
    # none of them
    ("Dear diary\n", {}, "no layout that is known here"),
    ("fx=700\nfy=700\n", {}, "give --fx and --baseline instead"),
    (files.MIDDLEBURY, {"second": files.MIDDLEBURY}, "leave out --calib2"),
    (files.MIDDLEBURY, {"unit": "inch"}, "got the unit 'inch'"),
]


@pytest.mark.parametrize(("text", "options", "blamed"), BAD, ids=[blamed for *_, blamed in BAD])
def test_one_clear_line_about_what_is_wrong(tmp_path, capfd, text, options, blamed):
    with pytest.raises(InputError) as caught:
        read(tmp_path, text, **options)
    message = str(caught.value)
    assert blamed in message
    assert "\n" not in message and len(message) < 500
    assert str(tmp_path) in message or "unit" in message
    assert capfd.readouterr() == ("", "")


def test_an_unknown_layout_lists_all_that_are_known(tmp_path):
    with pytest.raises(InputError) as caught:
        read(tmp_path, "nothing")
    assert len(READERS) == 7
    for reader in READERS:
        assert reader.LAYOUT in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"\x89PNG\r\n\xff\xfe", b"\xff\xfe\x00"])
def test_files_that_are_no_text(tmp_path, content):
    path = tmp_path / "calib"
    if content is not None:
        path.write_bytes(content)
    for given in (path, tmp_path):
        with pytest.raises(InputError, match="calib") as caught:
            read_calibration(given)
        assert "\n" not in str(caught.value)


NASTY = [  # how a file starts, and what it then repeats
    *(("", piece) for piece in ("\n", " ", "1", "1 ", "cam0\n", "P0:", '{"left": ', "[LEFT_CAM_HD]\n", "doffs= ")),
    *(("opencv-matrix:\n", piece) for piece in ("a\n", "a:\n---\n", " a:\n b:\n", "# ", "M1: !!opencv-matrix\n")),
    *(("<opencv_storage>", piece) for piece in ("<a>", "<M1 type_id=")),
    *(("P:\n", piece) for piece in ("- 1\n", "[\n", "\n \n")),
    *(('Extrinsic from "Infrared 1" To "Infrared 2":', piece) for piece in (" ", 'Intrinsic of "Infrared 1" / x\n')),
]


@pytest.mark.parametrize(("start", "piece"), NASTY)
def test_a_megabyte_of_anything_takes_no_time(tmp_path, start, piece):
    """Much more than any calibration holds, of what makes careless parsers quadratic: that would not end today."""
    with pytest.raises(InputError) as caught:
        read(tmp_path, start + piece * (2**20 // len(piece)), (1280, 720))
    assert len(str(caught.value)) < 600


def test_every_cut_of_every_sample_is_read_or_refused(tmp_path):
    """Truncated anywhere, a file gives an InputError or a rig; never another error."""
    samples = [
        files.MIDDLEBURY,
        files.KITTI_RAW,
        files.ZED,
        files.REALSENSE,
        files.REALSENSE_JSON,
        files.FOUNDATION_STEREO,
        OPENCV,
    ]
    samples += [opencv("xml", INTRINSICS | EXTRINSICS), LEFT + "---\n" + RIGHT]
    read_count = 0
    for text in samples:
        for end in range(0, len(text), 1 + len(text) // 60):
            try:
                found = read(tmp_path, text[:end] or " ", (1280, 720))
            except InputError:
                continue
            read_count += 1
            assert found.rectified or found.raw
    assert read_count < len(samples) * 30  # most cuts take something away
