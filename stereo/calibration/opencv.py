"""What programs around OpenCV's stereoCalibrate and stereoRectify write with cv2.FileStorage, YAML or XML:
docs.opencv.org/4.x/dd/d74/tutorial_file_input_output_with_xml_yml.html, and samples/cpp/stereo_calib.cpp.

Raw rig: M1 D1 M2 D2 R T (or K1 .., or cameraMatrix1 distCoeffs1 ..). Rectified rig: P1 P2, or Q alone. All in one file, or the
sample's two, intrinsics.yml and extrinsics.yml. The unit of T is that of the chessboard's squares: the file does not say.
The size of the images, which the sample leaves out: image_width and image_height, or imageSize or image_size (width, height).
"""

from __future__ import annotations

import re

import numpy as np

from stereo.calibration.parsing import Entries, need, parse_yaml, short, take, take_size
from stereo.calibration.rig import CalibrationFile, Choice, RawRig, Size, check_order, from_projections
from stereo.geometry import Calibration
from stereo.types import InputError

LAYOUT = "OpenCV stereoCalibrate YAML or XML"
_XML_MATRIX = re.compile(
    r'<(\w+) type_id="opencv-(?:nd-)?matrix">\s*'
    r"(?:<sizes>([\d\s]{1,40})</sizes>|<rows>(\d{1,9})</rows>\s*<cols>(\d{1,9})</cols>)\s*"
    r"<dt>[^<]*</dt>\s*<data>([^<]*)</data>\s*</\1>"
)
_XML_VALUE = re.compile(r"<(\w+)>([^<]*)</\1>")
_NAMES = {  # ours -> in files
    "M1": ("M1", "K1", "cameraMatrix1", "camera_matrix1"),
    "M2": ("M2", "K2", "cameraMatrix2", "camera_matrix2"),
    "D1": ("D1", "distCoeffs1", "dist_coeffs1"),
    "D2": ("D2", "distCoeffs2", "dist_coeffs2"),
}


def recognises(text: str) -> bool:
    return "opencv-matrix" in text or "opencv-nd-matrix" in text or "<opencv_storage>" in text


def parse(text: str, choice: Choice) -> CalibrationFile:
    entries = _entries(text)
    if choice.second is not None:
        second = _entries(choice.second)
        if both := sorted(name for name in entries.keys() & second.keys() if "." in name):
            raise InputError(f"both files hold {both[0].partition('.')[0]}; give two files that complete each other, or one")
        entries = second | entries
    size = _size(entries)
    raw, rectified = _raw(entries, size), _rectified(entries)
    if raw is None and rectified is None:
        wanted = "M1 D1 M2 D2 R T of stereoCalibrate, or P1 P2 or Q of stereoRectify"
        held = sorted({name.partition(".")[0] for name in entries if "." in name})
        raise InputError(f"it holds {', '.join(held) or 'no matrix'}, expected {wanted}; --calib2 names a second file")
    return CalibrationFile(LAYOUT, "m", rectified, raw, size)


def _entries(text: str) -> dict[str, str]:
    if "<opencv_storage>" not in text:
        return {name: value for document in parse_yaml(text) for name, value in document.items()}
    entries = {name: value for name, value in _XML_VALUE.findall(text) if name not in ("rows", "cols", "dt", "data")}
    for name, sizes, rows, cols, data in _XML_MATRIX.findall(text):
        entries |= {f"{name}.sizes": sizes} if sizes else {f"{name}.rows": rows, f"{name}.cols": cols}
        entries[f"{name}.data"] = data
    return entries


def _matrix(entries: Entries, name: str, shape: tuple[int, int] | None) -> np.ndarray | None:
    """(rows, cols) of ``shape`` (None: a vector of any length -> (N,)); None when there is none."""
    for key in _NAMES.get(name, (name,)):
        if f"{key}.data" not in entries:
            continue
        rows, cols = _sides(entries, key)
        if (rows, cols) != shape and (shape is not None or 1 not in (rows, cols)):
            expected = f"{shape[0]}x{shape[1]}" if shape else "one row or column"
            raise InputError(f"got {key} of {rows}x{cols}, expected {expected}")
        values = need(take(entries, [f"{key}.data"], rows * cols), f"numbers in {key}")
        return values.reshape(shape) if shape else values
    return None


def _sides(entries: Entries, key: str) -> tuple[int, int]:
    """Rows and columns of a matrix; OpenCV 5 writes an array of one dimension as sizes: [ N ]."""
    sizes = take(entries, [f"{key}.sizes"], None)
    if sizes is None:
        sizes = np.concatenate([need(take(entries, [f"{key}.{side}"], 1), f"{key}.{side}") for side in ("rows", "cols")])
    if len(sizes) not in (1, 2) or (sizes < 0).any() or (sizes > 100).any():
        raise InputError(f"got {key} of sizes {sizes.tolist()}, expected a matrix")
    return int(sizes[0]), int(sizes[-1]) if len(sizes) == 2 else 1


def _size(entries: Entries) -> Size | None:
    for name in ("imageSize", "image_size", "img_size"):
        if name in entries and entries[name].strip():
            width, height = need(take(entries, [name], 2), name).tolist()
            if width < 1 or height < 1 or width % 1 or height % 1:
                raise InputError(f"got {name} = '{short(entries[name])}', expected width and height in px")
            return int(width), int(height)
    return take_size(entries, ["image_width", "image_Width"], ["image_height", "image_Height"])


def _raw(entries: Entries, size: Size | None) -> RawRig | None:
    m1, m2, r = (_matrix(entries, name, (3, 3)) for name in ("M1", "M2", "R"))
    d1, d2, t = (_matrix(entries, name, None) for name in ("D1", "D2", "T"))
    if m1 is None or m2 is None or d1 is None or d2 is None or r is None or t is None:
        return None
    return RawRig(m1, d1, m2, d2, r, t, size)


def _rectified(entries: Entries) -> Calibration | None:
    p1, p2 = (_matrix(entries, name, (3, 4)) for name in ("P1", "P2"))
    if p1 is not None and p2 is not None:
        if p2[1, 3] and abs(p2[1, 3]) > abs(p2[0, 3]):
            raise InputError("P2 is of a camera below the other one; expected two side by side")
        return from_projections(p1, p2)
    q = _matrix(entries, "Q", (4, 4))
    if q is None:
        return None
    if q[2, 3] <= 0 or q[3, 2] == 0:
        raise InputError(f"got Q with f = {q[2, 3]:g} and -1/Tx = {q[3, 2]:g}, expected a focal length above 0 and a baseline")
    check_order(1 / q[3, 2])
    return Calibration(q[2, 3], -q[0, 3], -q[1, 3], 1 / q[3, 2], q[3, 3] / q[3, 2])
