"""Options about calibration and depth that several verbs have, and what they come to for images of a size."""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stereo.calibration.fit import Numbers, doubts, fit_to_size
from stereo.calibration.read import READERS, read_calibration
from stereo.calibration.rig import METRES, CalibrationFile, Size
from stereo.cli.shared import number_that, positive
from stereo.config import near_matches
from stereo.geometry import Calibration
from stereo.inference.depth import DEPTH_FILES, DepthOptions, Measured, plausibility_line, write_depth
from stereo.types import DisparityMap, InputError

NUMBERS = {  # option -> help
    "fx": "focal length, px; instead of a file with --baseline, or in place of the file's",
    "fy": "vertical focal length, px (default: as fx)",
    "cx": "column of the left camera's principal point, px (default: the middle)",
    "cy": "row of the left camera's principal point, px (default: the middle)",
    "baseline": "distance between the two cameras, in --unit (default: metres)",
    "doffs": "column of the right camera's principal point minus that of the left one, px (default: 0)",
}
HOW_TO_CALIBRATE = "give one with --calib FILE, or --fx and --baseline"
DEPTH_DEFAULTS: dict[str, Any] = {
    "save_depth": DepthOptions.files,
    "min_depth": DepthOptions.near_m,
    "max_depth": DepthOptions.far_m,
    "min_confidence": DepthOptions.min_confidence,
    "keep_occluded": DepthOptions.keep_occluded,
}


def add_calibration_file(parser: argparse._ActionsContainer, required: bool = False) -> None:
    known = "; ".join(reader.LAYOUT for reader in READERS)
    parser.add_argument("--calib", metavar="FILE", required=required, help=f"calibration of the cameras: {known}")
    text = "second file of a calibration: the right camera's of ROS, or OpenCV's intrinsics.yml beside extrinsics.yml"
    parser.add_argument("--calib2", metavar="FILE", help=text)
    text = "size in px of the images that the calibration is of (default: what its file says, else the size of the images)"
    parser.add_argument("--calib-size", type=size_of, metavar="WxH", help=text)
    text = "which of KITTI's cameras are left and right (default: 2,3, the colour ones)"
    parser.add_argument("--cameras", type=cameras_of, default=(2, 3), metavar="L,R", help=text)
    text = "unit of the calibration's lengths and of --baseline (default: the layout's own; m where it has none, as OpenCV's)"
    parser.add_argument("--unit", choices=METRES, help=text)


def add_calibration(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("calibration of the rectified pair, for depth in metres")
    add_calibration_file(group)
    for name, text in NUMBERS.items():
        group.add_argument(f"--{name}", type=number, metavar="B" if name == "baseline" else "PX", help=text)


def add_depth(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("depth")
    text = "files to write: npy metres, png 16-bit millimetres, tiff metres and their standard deviation, ply a point cloud"
    kinds = ",".join(DEPTH_DEFAULTS["save_depth"])
    group.add_argument("--save-depth", type=depth_files, metavar="KINDS", help=f"{text} (default: {kinds})")
    group.add_argument("--min-depth", type=positive, metavar="M", help="what is nearer counts as too near (default: nothing)")
    text = "what is farther counts as too far (default: only what is at infinity)"
    group.add_argument("--max-depth", type=positive, metavar="M", help=text)
    text = "0 to 1: points of the cloud are at least so certain (default: 0, all of them)"
    group.add_argument("--min-confidence", type=share, metavar="P", help=text)
    text = "keep the guessed depth of pixels that the other camera does not see, in maps and cloud (default: they have none)"
    group.add_argument("--keep-occluded", action="store_true", help=text)
    parser.set_defaults(**DEPTH_DEFAULTS)


def size_of(text: str) -> Size:
    """'741x497' -> (741, 497). Raises ArgumentTypeError."""
    match = re.fullmatch(r"([1-9]\d{0,5})[xX]([1-9]\d{0,5})", text.strip())
    if not match:
        raise argparse.ArgumentTypeError(f"got '{text}', expected WIDTHxHEIGHT in px, for example 1280x720")
    return int(match[1]), int(match[2])


def cameras_of(text: str) -> tuple[int, int]:
    """'2,3' -> (2, 3). Raises ArgumentTypeError."""
    match = re.fullmatch(r"([0-3]),([0-3])", text.strip())
    if not match or match[1] == match[2]:
        raise argparse.ArgumentTypeError(f"got '{text}', expected two of the cameras 0 to 3, left and right, for example 2,3")
    return int(match[1]), int(match[2])


def number(text: str) -> float:
    """A finite number. Raises ArgumentTypeError."""
    return number_that(text, math.isfinite, "a number")


def share(text: str) -> float:
    """A number in 0 .. 1. Raises ArgumentTypeError."""
    return number_that(text, lambda value: 0 <= value <= 1, "a number from 0 to 1")


def depth_files(text: str) -> tuple[str, ...]:
    """'npy,ply' -> ("npy", "ply"), each once. Raises ArgumentTypeError."""
    kinds = tuple(dict.fromkeys(kind.strip() for kind in text.split(",")))
    for kind in kinds:
        if kind not in DEPTH_FILES:
            raise argparse.ArgumentTypeError(f"got '{kind}', {near_matches(kind, DEPTH_FILES)}")
    return kinds


def read_calibration_file(args: argparse.Namespace, size: Size) -> CalibrationFile:
    """The file that --calib names, for images of ``size``. Raises InputError."""
    unit, second = args.unit, args.calib2
    return read_calibration(args.calib, args.calib_size or size, second=second, unit=unit, cameras=args.cameras)


def numbers_given(args: argparse.Namespace) -> Numbers:
    return Numbers(**{name: getattr(args, name) for name in NUMBERS}, unit=args.unit or "m")


def own_size(args: argparse.Namespace, told: Size | None) -> tuple[Size | None, list[str]]:
    """The size that a calibration is of, --calib-size before what its file has ``told``, and a line where they differ."""
    if args.calib_size is None or told in (None, args.calib_size):
        return args.calib_size or told, []
    return args.calib_size, [f"the calibration says it is of {told[0]}x{told[1]} px: --calib-size wins"]


def rectified_rig(args: argparse.Namespace, size: Size) -> tuple[Calibration, list[str]]:
    """The rectified rig of the options for images of ``size``, and lines that say what was done and what looks wrong.

    Raises InputError when options or file are no rectified rig, or one of images of another shape.
    """
    numbers = numbers_given(args)
    if args.calib is None:
        own: Size | None = args.calib_size
        told: list[str] = []
        rig, notes = numbers.alone(own or size)
    else:
        file = read_calibration_file(args, size)
        if file.rectified is None:
            fix = f"run 'rectify LEFT RIGHT --calib {args.calib} -o DIR' first, and give the calib.txt that it writes"
            raise InputError(f"calibration '{args.calib}' ({file.layout}) is of cameras before rectification: {fix}")
        own, told = own_size(args, file.size)
        rig, notes = numbers.over(file.rectified)
    rig, scaled = fit_to_size(rig, own, size)
    return rig, [*told, *notes, *scaled, *(f"warning: {doubt}" for doubt in doubts(rig, size))]


@dataclass(frozen=True)
class Written:
    """What was written of one image: the files, what their sidecar says (stereo.inference.depth), and lines for people."""

    files: list[Path]
    facts: dict[str, Any]
    lines: list[str]


class DepthWriter:
    """Writes depth and clouds as the options ask, for images of any size; tells once for each size what was assumed.

    Raises InputError where ``rectified_rig`` does, at once for images of ``size``, later for other ones.
    """

    def __init__(self, args: argparse.Namespace, size: Size) -> None:
        near, far = args.min_depth, args.max_depth
        if near >= far:
            raise InputError(f"got --min-depth {near:g} and --max-depth {far:g}, expected the first to be less")
        self._args = args
        self._rigs: dict[Size, tuple[Calibration, list[str]]] = {}
        self._unsaid: list[str] = []  # until something is written: input that is refused gets one line
        self.options = DepthOptions(near, far, args.min_confidence, args.keep_occluded, args.save_depth)
        self.calibration(size)

    def calibration(self, size: Size) -> Calibration:
        """The rig for images of ``size`` (width, height)."""
        if size not in self._rigs:
            self._rigs[size] = rectified_rig(self._args, size)
            self._unsaid += self._rigs[size][1]
        return self._rigs[size][0]

    def write(self, folder: Path, stem: str, image: np.ndarray, measured: Measured, right: bool = False) -> Written:
        """The files of one image, the left one or the right one, which ``measured`` is of."""
        size = (image.shape[1], image.shape[0])
        calibration = self.calibration(size)
        if right:
            calibration = calibration.of_right_view()
        paths, facts = write_depth(folder, stem, image, measured, calibration, self.options)
        lines, self._unsaid = [*self._unsaid, plausibility_line(facts)], []
        return Written(paths, facts | {"notes": self._rigs[size][1]}, lines)

    def write_map(self, folder: Path, stem: str, image: np.ndarray, result: DisparityMap, right: bool = False) -> Written:
        """``write`` of what a network predicted."""
        known = np.ones(result.disp.shape, bool)
        return self.write(folder, stem, image, Measured(result.disp, known, result.occlusion, result.confidence), right)


def is_calibrated(args: argparse.Namespace) -> bool:
    """Whether the options name a calibration, as a file or by numbers."""
    return args.calib is not None or bool(numbers_given(args).given)


def depth_writer(args: argparse.Namespace, size: Size) -> DepthWriter | None:
    """For images of ``size`` to begin with; None when no calibration is asked for.

    Raises InputError where DepthWriter does, and for options that mean nothing without a calibration.
    """
    if is_calibrated(args):
        if args.calib is None and args.calib2 is not None:
            raise InputError(f"got --calib2 '{args.calib2}' without --calib; name the first file with --calib")
        return DepthWriter(args, size)
    idle = [name for name in ("calib2", "calib_size", "unit") if getattr(args, name) is not None]
    idle += [name for name, value in DEPTH_DEFAULTS.items() if getattr(args, name) != value]
    if idle:
        raise InputError(f"got --{idle[0].replace('_', '-')} without a calibration; {HOW_TO_CALIBRATE}")
    return None
