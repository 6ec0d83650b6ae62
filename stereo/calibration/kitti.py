"""KITTI's calibration files: www.cvlibs.net/datasets/kitti/raw_data.php and its development kits. Lengths are metres.

Raw data and stereo 2015, calib_cam_to_cam.txt: P_rect_00 .. P_rect_03 of the rectified images, S_rect_0i their size; and of the
cameras as they are S_0i, K_0i, D_0i, and R_0i, T_0i, which take points of camera 0 to camera i.
Stereo 2012, object detection, odometry: P0 .. P3 only. Each is [f 0 cx f*Tx; 0 f cy *; 0 0 1 *] in the frame of camera 0;
0 and 1 are grey, 2 and 3 colour, the even ones left.
"""

from __future__ import annotations

import re

from stereo.calibration.parsing import need, take
from stereo.calibration.rig import CalibrationFile, Choice, RawRig, Size, from_projections
from stereo.types import InputError

LAYOUT = "KITTI calib_cam_to_cam.txt or P0 .. P3"


def recognises(text: str) -> bool:
    return re.search(r"^(P_rect_0\d|P[0-3]):", text, re.MULTILINE) is not None


def parse(text: str, choice: Choice) -> CalibrationFile:
    entries: dict[str, str] = {}
    for name, colon, value in (line.partition(":") for line in text.splitlines()):
        if colon and name.strip() in entries:
            raise InputError(f"it has two lines '{name.strip()[:20]}:', expected one")
        entries[name.strip()] = value
    left, right = (
        need(take(entries, (f"P_rect_0{i}", f"P{i}"), 12), f"P_rect_0{i} and no P{i}").reshape(3, 4) for i in choice.cameras
    )
    return CalibrationFile(
        LAYOUT, "m", from_projections(left, right), _raw(entries, choice.cameras), _size(entries, "S_rect", choice.cameras)
    )


def _size(entries: dict[str, str], name: str, cameras: tuple[int, int]) -> Size | None:
    left, right = (take(entries, [f"{name}_0{i}"], 2) for i in cameras)
    if left is None or right is None or (left != right).any() or (left < 1).any() or (left % 1).any():
        return None
    return int(left[0]), int(left[1])


def _raw(entries: dict[str, str], cameras: tuple[int, int]) -> RawRig | None:
    """The cameras before rectification; None where the file is about rectified images only."""
    if any(f"{name}_0{i}" not in entries for name in "KDRT" for i in cameras):
        return None
    found = {}
    for name, count in (("K", 9), ("D", 5), ("R", 9), ("T", 3)):
        values = [need(take(entries, [f"{name}_0{i}"], count), name) for i in cameras]
        found[name] = [value.reshape(3, 3) if count == 9 else value for value in values]
    turn = found["R"][1] @ found["R"][0].T
    shift = found["T"][1] - turn @ found["T"][0]
    (k_left, k_right), (d_left, d_right) = found["K"], found["D"]
    return RawRig(k_left, d_left, k_right, d_right, turn, shift, _size(entries, "S", cameras))
