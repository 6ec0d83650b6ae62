"""``depth``: metres and a point cloud from a disparity map, whoever made it; no network."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from stereo.calibration.rig import Size
from stereo.cli.calibration_options import HOW_TO_CALIBRATE, add_calibration, add_depth, depth_writer, number
from stereo.cli.shared import make_folder, say
from stereo.image_io import read_disparity, read_image, read_npy, read_pfm, read_stored
from stereo.inference.depth import Measured, write_depth_sidecar
from stereo.types import InputError
from stereo.version import __version__


def add_arguments(parser: argparse.ArgumentParser) -> None:
    text = "disparity of the left view: .pfm or .npy in px, or 16-bit .png (px * 256, 0 = unknown)"
    parser.add_argument("disparity", help=text)
    parser.add_argument("left", help="the left image, for the colours of the cloud")
    parser.add_argument("-o", "--output", default="out", help="folder for the results (default: out)")
    text = "px for each unit of what the file holds: 0.0625 for the integers of OpenCV's SGBM in a .npy, -1 for the other sign"
    parser.add_argument("--scale", type=number, help=f"{text} (default: 1)")
    text = "probability of being occluded, or a mask: a picture (0 to its largest value = 0 to 1), or .pfm or .npy of 0 to 1"
    parser.add_argument("--occlusion", metavar="FILE", help=text)
    text = "probability that the disparity is within 1 px, in the same kinds of files; the standard deviation follows from it"
    parser.add_argument("--confidence", metavar="FILE", help=text)
    add_calibration(parser)
    add_depth(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    if Path(args.disparity).stem.endswith(".depth"):
        raise InputError(f"got '{args.disparity}', which is called like a depth map; expected a disparity map, STEM.disp.pfm")
    disp, known = read_scaled(Path(args.disparity), args.scale)
    left = read_image(args.left)
    size = (disp.shape[1], disp.shape[0])
    if left.shape[:2] != disp.shape:
        found = f"the disparity map is {size[0]}x{size[1]} px and the image {left.shape[1]}x{left.shape[0]} px"
        raise InputError(f"{found}; give the image that the map is of, resized to its size")
    occlusion = np.zeros(disp.shape, np.float32) if args.occlusion is None else read_shares(Path(args.occlusion), size)
    confidence = None if args.confidence is None else read_shares(Path(args.confidence), size)
    if confidence is None and args.min_confidence > 0:
        raise InputError(f"got --min-confidence {args.min_confidence:g} without a confidence; name its map with --confidence")
    writer = depth_writer(args, size)
    if writer is None:
        raise InputError(f"metres need a calibration; {HOW_TO_CALIBRATE}")
    doubts = sign_doubts(disp, known)
    folder = make_folder(Path(args.output))  # last, so that refused input leaves no empty folder behind
    stem = Path(args.disparity).stem
    stem = stem.removesuffix(".disp").removesuffix(".disp16")  # our own names: STEM.disp.pfm
    written = writer.write(folder, stem, left, Measured(disp, known, occlusion, confidence))
    say(args, "\n".join([*doubts, *written.lines]))
    if confidence is None and "tiff" in args.save_depth:
        say(args, "no --confidence: the second band of the TIFF, the standard deviation, is nan")
    given = {"disparity": args.disparity, "left": args.left, "width": size[0], "height": size[1], "version": __version__}
    facts = given | written.facts | {"notes": [*doubts, *written.facts["notes"]]}
    files = [*written.files, write_depth_sidecar(folder, stem, facts)]
    say(args, "\n".join(f"  wrote {path}" for path in files))
    return facts | {"files": [str(path) for path in files]}


def sign_doubts(disp: np.ndarray, known: np.ndarray) -> list[str]:
    """A line where most of the known disparities (H, W) px are negative, which only doffs or another sign explains."""
    negative = float((disp[known] < 0).mean())
    if negative <= 0.5:
        return []
    return [f"warning: {negative:.0%} of the disparities are negative; expected x_left - x_right: of the other sign? then give "
            "another --scale, for example -1"]  # fmt: skip


def read_scaled(path: Path, scale: float | None) -> tuple[np.ndarray, np.ndarray]:
    """disp (H, W) float32 px, 0 where not known, and known (H, W) bool.

    With a scale a .npy may hold integers, of which those that come out above 0 are known.
    Raises InputError for what read_disparity refuses, and a scale of 0.
    """
    if scale == 0:
        raise InputError("got --scale 0, expected px for each unit of what the file holds, not 0")
    values = read_npy(path) if scale is not None and path.suffix.lower() == ".npy" else None
    whole = values is not None and values.ndim == 2 and values.dtype.kind in "iu" and values.size > 0
    disp, known = (values, np.ones(values.shape, bool)) if values is not None and whole else read_disparity(path)
    with np.errstate(over="ignore"):  # beyond float32: unknown
        disp = (disp * np.float64(1 if scale is None else scale)).astype(np.float32)
    known = known & np.isfinite(disp)
    if whole:
        known &= disp > 0
    if not known.any():
        raise InputError(f"disparity file '{path}' holds no known value once scaled by {scale:g}; check --scale")
    return np.where(known, disp, np.float32(0)), known


def read_shares(path: Path, size: Size) -> np.ndarray:
    """A map of probabilities (H, W) float32 in 0 .. 1, of images of ``size``. Raises InputError for anything else."""
    reader = {".npy": read_npy, ".pfm": read_pfm}.get(path.suffix.lower(), read_stored)
    values = reader(path)
    if values.dtype.kind == "u":
        values = values / np.iinfo(values.dtype).max
    if values.ndim == 3 and (values == values[..., :1]).all():  # grey, stored in colour
        values = values[..., 0]
    if values.shape != size[::-1]:
        raise InputError(f"map '{path}' has shape {values.shape}, expected ({size[1]}, {size[0]}) as the disparity has")
    if values.dtype.kind not in "fb" or not ((values >= 0) & (values <= 1)).all():
        raise InputError(f"map '{path}' holds values that are no probabilities, expected 0 to 1")
    return values.astype(np.float32)
