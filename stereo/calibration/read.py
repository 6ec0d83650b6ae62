"""Which layout a calibration file has, told by what is in it and not by its name."""

from __future__ import annotations

import os
from pathlib import Path

from stereo.calibration import foundation_stereo, kitti, middlebury, opencv, realsense, ros, zed
from stereo.calibration.parsing import read_text
from stereo.calibration.rig import METRES, CalibrationFile, Choice, Size
from stereo.config import near_matches
from stereo.types import InputError

READERS = (middlebury, zed, opencv, ros, kitti, realsense, foundation_stereo)  # the first that recognises a text reads it
IN_TWO_FILES = (opencv, ros)


def read_calibration(
    path: str | os.PathLike[str],
    size: Size | None = None,
    *,
    second: str | os.PathLike[str] | None = None,
    unit: str | None = None,
    cameras: tuple[int, int] = (2, 3),
) -> CalibrationFile:
    """Read a calibration file in any layout of READERS.

    size:    (width, height) px of the images, for layouts that hold several sizes.
    second:  a second file: the right camera of ROS, or OpenCV's intrinsics.yml beside its extrinsics.yml.
    unit:    "m", "cm" or "mm": overrules the unit of the layout's lengths (m where the layout leaves it open, as OpenCV's).
    cameras: which of KITTI's four are left and right.
    Raises InputError when a file cannot be read, is in no layout known here, or does not hold what its layout promises.
    """
    path = Path(path)
    if unit is not None and unit not in METRES:
        raise InputError(f"got the unit '{unit}', {near_matches(unit, METRES)}")
    text = read_text(path)
    reader = next((reader for reader in READERS if reader.recognises(text)), None)
    if reader is None:
        known = "; ".join(reader.LAYOUT for reader in READERS)
        raise InputError(f"calibration '{path}' has no layout that is known here ({known}); give --fx and --baseline instead")
    if second is not None and reader not in IN_TWO_FILES:
        raise InputError(f"calibration '{path}' is a {reader.LAYOUT}, which is one file; leave out --calib2 '{second}'")
    other = None if second is None else read_text(Path(second))
    if other is not None and not reader.recognises(other):
        raise InputError(f"calibration '{second}' is no {reader.LAYOUT} as '{path}' is; expected two of one kind")
    try:
        found = reader.parse(text, Choice(size, cameras, other))
        return found if unit is None else found.in_unit(unit)
    except InputError as error:
        raise InputError(f"calibration '{path}' ({reader.LAYOUT}): {error}") from None
