"""``rectify``: images of two calibrated cameras as they are -> images whose rows agree, and how well they do."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from stereo.calibration.fit import doubts, fit_to_size
from stereo.calibration.middlebury import write_middlebury_calib
from stereo.calibration.rectification import Rectification, plan_rectification
from stereo.calibration.rig import Size
from stereo.cli.calibration_options import add_calibration_file, own_size, read_calibration_file, share
from stereo.cli.shared import make_folder, say
from stereo.image_io import read_image, write_image
from stereo.inference.predictor import check_pair
from stereo.inference.row_errors import RowErrors, pooled, row_errors
from stereo.sources.opening import kind_of, paired_files
from stereo.types import InputError

EXAMINED = 10  # pairs of a folder, spread evenly over it, that are matched to see how good it is
NAMES = ("left", "right")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("left", help="left image as its camera took it, or a folder or glob of left images")
    parser.add_argument("right", help="right image, or a folder or glob of right images")
    add_calibration_file(parser, required=True)
    text = "0 enlarges until nothing is black, 1 keeps every pixel of the raw images (default: 0)"
    parser.add_argument("--alpha", type=share, default=0.0, help=text)
    parser.add_argument("-o", "--output", default="rectified", help="folder for the results (default: rectified)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Rectify what the arguments name, and say how good it is. Nothing is written before every image has been read."""
    found = paired_files(args.left, args.right)
    pairs = [(left, right) for _, left, right in found]
    output = Path(args.output)
    single = kind_of(args.left) == "image"
    targets = [tuple(target(output, name, stem, single) for name in NAMES) for stem, _, _ in found]
    calibrations = [Path(path) for path in (args.calib, args.calib2) if path is not None]
    refuse_overwriting([*(path for pair in pairs for path in pair), *calibrations], targets, output / "calib.txt")
    size = size_of_all(pairs)
    rectification, notes = plan(args, size)
    for folder in {path.parent for pair in targets for path in pair} | {output}:
        make_folder(folder)
    for line in notes:
        say(args, line)
    examined = set(np.linspace(0, len(pairs) - 1, min(EXAMINED, len(pairs))).round().astype(int).tolist())
    errors = []
    for number, (pair, written) in enumerate(
        zip(tqdm(pairs, desc="rectify", unit="pair", delay=2, disable=None), targets, strict=True)
    ):
        straight = [rectification.apply(image, view) for view, image in enumerate(read_pair(pair))]
        for path, image in zip(written, straight, strict=True):
            write_image(path, image)
        if number in examined:
            errors.append(row_errors(straight[0], straight[1], rectification))
    write_middlebury_calib(output / "calib.txt", rectification.calibration, size)
    result = judge(args, pooled(errors), rectification)
    sides = targets[0] if single else [path.parent for path in targets[0]]
    following = shlex.join(["infer", *map(str, sides), "--calib", str(output / "calib.txt")])
    say(args, f"wrote {len(pairs)} pair(s); next: {following}")
    files = [str(path) for path in (*(path for pair in targets for path in pair), output / "calib.txt")]
    return result | {"notes": notes, "pairs": len(pairs), "files": files}


def target(output: Path, name: str, stem: str, single: bool) -> Path:
    """Where a rectified image goes: left.png of a single pair, left/STEM.png of several."""
    return output / f"{name}.png" if single else output / name / f"{stem}.png"


def refuse_overwriting(given: list[Path], targets: list[tuple[Path, ...]], calib: Path) -> None:
    """Raise InputError when a file to be written is one of the ``given``, which would be lost."""
    names = {path.resolve(): path for path in given}
    for path in (*(path for pair in targets for path in pair), calib):
        if path.resolve() in names:
            raise InputError(f"'{names[path.resolve()]}' would be overwritten; choose another folder with -o")


def read_pair(pair: tuple[Path, Path]) -> tuple[np.ndarray, np.ndarray]:
    """Two images (H, W, 3) uint8 RGB. Raises InputError when they are not of one size, or smaller than a network takes."""
    images = read_image(pair[0]), read_image(pair[1])
    check_pair(*images)
    return images


def size_of_all(pairs: list[tuple[Path, Path]]) -> Size:
    """The one size of all images, each of which is read. Raises InputError when one cannot be, or is of another size."""
    sizes: dict[Size, Path] = {}
    for pair in tqdm(pairs, desc="read", unit="pair", delay=2, disable=None):
        height, width = read_pair(pair)[0].shape[:2]
        sizes.setdefault((width, height), pair[0])
        if len(sizes) > 1:
            told = " and ".join(f"'{path}' of {width}x{height} px" for (width, height), path in sizes.items())
            raise InputError(f"got {told}; one calibration is of one size, give a folder for each")
    return next(iter(sizes))


def plan(args: argparse.Namespace, size: Size) -> tuple[Rectification, list[str]]:
    """How to rectify images of ``size``, and lines that say what was assumed. Raises InputError."""
    file = read_calibration_file(args, size)
    if file.raw is None:
        why = "has nothing about the cameras before rectification, or a distortion that is not understood here"
        fix = "if the images are rectified, 'infer --calib' takes the file as it is"
        raise InputError(f"calibration '{args.calib}' ({file.layout}) {why}; {fix}")
    own, told = own_size(args, file.raw.size)
    rig, notes = fit_to_size(file.raw, own, size)
    try:
        rectification = plan_rectification(rig, size, args.alpha)
    except InputError as error:
        raise InputError(f"calibration '{args.calib}' ({file.layout}): {error}") from None
    return rectification, [*told, *notes, *(f"warning: {doubt}" for doubt in doubts(rectification.calibration, size))]


def judge(args: argparse.Namespace, errors: RowErrors, rectification: Rectification) -> dict[str, Any]:
    """Print how good it is; the same as one object."""
    numbers = errors.numbers()
    black = [float(rectification.black(view).mean()) for view in (0, 1)]
    if len(numbers) > 1:
        told = []
        for when in ("before", "after"):
            median, high = (numbers[f"vertical_error_{when}_{part}_px"] for part in ("median", "95_percent"))
            told.append(f"{median:.2f} px median, {high:.2f} px at 95 % {when}")
        say(args, f"vertical error over {numbers['matches']} matches: {'; '.join(told)}")
    rig = rectification.calibration
    say(args, f"black: {black[0]:.1%} of the left, {black[1]:.1%} of the right image; f {rig.focal_px:.6g} px, baseline "
              f"{rig.baseline_m:.4g} m, doffs {rig.doffs_px:g} px")  # fmt: skip
    verdict = errors.verdict()
    say(args, f"verdict: {verdict}")
    return numbers | {
        "verdict": verdict,
        "black_left": black[0],
        "black_right": black[1],
        "focal_px": rig.focal_px,
        "baseline_m": rig.baseline_m,
        "doffs_px": rig.doffs_px,
    }
