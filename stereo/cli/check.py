"""The verb ``check``: is a pair, or a data set, what it claims to be? One screen for people, one object for machines."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datasets.base import open_dataset
from datasets.doctor import (
    AS_STATED,
    TRUTHS,
    TURNED,
    ZERO,
    Diagnosis,
    Opened,
    examine,
    open_what_is_there,
    recognise,
    some,
    spread,
)
from datasets.folders import Folders
from stereo.cli.shared import say
from stereo.image_io import read_image
from stereo.inference.pair_check import examine_pair
from stereo.types import InputError

BARS = 10  # at most so many
BAR_WIDTH = 40  # characters
MISSING_LINES = 20  # at most; --json has all
REASON = 110  # characters of why a folder is not some data set, at most


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", help="a left image, a data set NAME:PATH, or a folder: which data set is it?")
    parser.add_argument("right", nargs="?", help="the right image; or two folders of images")
    parser.add_argument("--frames", type=int, default=8,
                        help="how many of a data set to examine, spread evenly over it (default: 8)")  # fmt: skip
    parser.add_argument("--all", action="store_true", help="examine every frame of a data set")
    parser.add_argument("--strict", action="store_true", help="exit code 2 when something is wrong")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Check what the arguments name, and print it. "wrong" of the result: how many findings need a repair.

    Raises InputError for a path that does not exist, a single image, and whatever opening and reading raise.
    """
    if args.frames < 1:
        raise InputError(f"got --frames {args.frames}, expected at least 1; --all examines every frame")
    path = Path(args.what)
    if args.right is not None and path.is_dir() and Path(args.right).is_dir():
        build = partial(Folders, ".", str(path.absolute()), str(Path(args.right).absolute()))
        lines, result = check_dataset(f"{args.what} | {args.right}", open_what_is_there(build), args)
    elif args.right is not None:
        lines, result = check_pair(args.what, args.right)
    elif path.is_dir():
        lines, result = check_folder(path, args)
    elif path.is_file():
        expected = f"a left and a right image, a folder, NAME:PATH of a data set, or a list of pairs as manifest:{path}"
        raise InputError(f"got one file, '{path}'; expected {expected}")
    else:
        lines, result = check_dataset(args.what, open_what_is_there(partial(open_dataset, args.what)), args)
    say(args, "\n".join([*lines, f"verdict: {result['wrong'] or 'nothing'} wrong"]))
    return result | {"exit_code": 2 if args.strict and result["wrong"] else 0}


def check_pair(left: str, right: str) -> tuple[list[str], dict[str, Any]]:
    """The lines to print about two image files, and the result."""
    images = [read_image(path) for path in (left, right)]
    report = examine_pair(*images)
    wrong = sum(finding.wrong for finding in report.findings)
    lines = [f"{left} | {right}: {images[0].shape[1]}x{images[0].shape[0]} px"]
    lines += [f"  {name:20} {value:{'7d' if isinstance(value, int) else '10.2f'}}" for name, value in report.numbers.items()]
    lines += [f"{'WRONG' if finding.wrong else 'note'}: {finding.text}" for finding in report.findings]
    return lines, {"left": left, "right": right, "wrong": wrong} | asdict(report)


def check_folder(path: Path, args: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    """Which data sets the folder is; when it is just one, or they all read the same files, that is examined."""
    fits, missed = recognise(path)
    if len(fits) > 1:
        fits.pop("folders", None)  # whatever else fits knows more about the same images
    if fits and len({opened.files() for opened in fits.values()}) == 1:
        *others, name = fits
        lines, result = check_dataset(f"{name}:{path}", fits[name], args)
        same = [f"{' and '.join((*others, name))} read the same files here"] if others else []
        return [*same, *lines], result
    counts = {name: len(opened.dataset) for name, opened in fits.items()}
    result = {"folder": str(path), "fits": counts, "missed": missed}
    if fits:
        lines = [f"'{path}' can be opened in {len(fits)} ways; check the one that is meant:"]
        return [*lines, *(f"  {name}:{path}   {count} frames" for name, count in counts.items())], result | {"wrong": 0}
    lines = [f"WRONG: '{path}' is no data set that is known here; what was looked for:"]
    width = max(map(len, missed))
    whys = {name: why.replace(str(path.resolve()), ".") for name, why in missed.items()}
    lines += [f"  {name:{width}} {why if len(why) <= REASON else why[:REASON] + ' ...'}" for name, why in whys.items()]
    return lines, result | {"wrong": 1}


def check_dataset(spec: str, opened: Opened, args: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    """The lines to print about an opened data set, and the result."""
    frames = len(opened.dataset)
    indices = list(range(frames)) if args.all else spread(frames, args.frames)
    diagnosis = examine(opened.dataset, indices, _judge, progress=not args.json)
    missing: dict[str, list[str]] = {}
    for name, file in opened.missing:
        missing.setdefault(name, []).append(str(file))
    problems = list(diagnosis.problems)
    if missing:
        given = f"{some(missing, frames + len(missing))} cannot be read: {len(opened.missing)} missing file(s)"
        problems.insert(0, f"{given}; copy or download them again")
    result = {"data": spec, "examined": len(indices), "wrong": len(problems)} | summarise(diagnosis)
    result |= {"missing": missing, "problems": problems}
    return [*_screen(result), *(f"WRONG: {problem}" for problem in problems)], result


def _judge(left: np.ndarray, right: np.ndarray) -> dict[str, str]:
    return {finding.kind: finding.text for finding in examine_pair(left, right).findings if finding.wrong}


def summarise(diagnosis: Diagnosis) -> dict[str, Any]:
    """A Diagnosis as one object for JSON: counts of frames, and means over the frames that have the truth in question."""
    facts = diagnosis.facts

    def means(rows: Iterable[dict[str, float]]) -> dict[str, float]:
        columns: dict[str, list[float]] = {}
        for key, value in (item for row in rows for item in row.items()):
            columns.setdefault(key, []).append(value)
        return {key: float(np.mean(values)) for key, values in columns.items()}

    consistency = ({k: v for k in ("agreement", "mask_iou") if (v := getattr(f, k)) is not None} for f in facts)
    return {
        "frames": diagnosis.frames,
        "sizes": dict(Counter(f.size for f in facts).most_common()),
        "truths": {truth: sum(truth in f.truths for f in facts) for truth in TRUTHS},
        "corrupt": diagnosis.corrupt,
        "unknown": means(f.unknown for f in facts),
        "occluded": means(f.occluded for f in facts),
        **means(consistency),
        "image_errors": {truth: means(f.errors[truth] for f in facts if truth in f.errors) for truth in TRUTHS[:2]},
        "disparity_histogram": histogram(diagnosis.counts),
        "problems": list(diagnosis.problems),
    }


def histogram(counts: Counter[int]) -> dict[str, float]:
    """Pixels per whole px -> "0 .. 20 px" -> share, in at most BARS + 1 bins whose width is 1, 2 or 5 times a power of ten."""
    if not counts:
        return {}
    low, high, total = min(counts), max(counts) + 1, sum(counts.values())
    width = next(w for power in range(20) for w in (10**power, 2 * 10**power, 5 * 10**power) if w * BARS >= high - low)
    bins: Counter[int] = Counter()
    for px, pixels in counts.items():
        bins[px // width] += pixels
    return {f"{b * width} .. {(b + 1) * width} px": bins[b] / total for b in range(low // width, (high - 1) // width + 1)}


def _screen(result: dict[str, Any]) -> list[str]:
    def shares(name: str) -> str:
        return ", ".join(f"{share:.1%} of {truth}" for truth, share in result[name].items())

    sizes = [f"{size} ({count})" for size, count in result["sizes"].items()]
    if len(sizes) > 4:
        sizes = [*sizes[:4], f"{len(sizes) - 4} more sizes"]
    read = sum(result["sizes"].values())
    counts = f"{result['frames']} frames, {result['examined']} examined, {len(result['corrupt'])} of them corrupt"
    missing = [path for paths in result["missing"].values() for path in paths]
    if missing:
        counts += f"; {len(result['missing'])} more lack files"
    lines = [f"{result['data']}: {counts}", *(f"  missing     {path}" for path in missing[:MISSING_LINES])]
    if len(missing) > MISSING_LINES:
        lines.append(f"  missing     ... and {len(missing) - MISSING_LINES} more, which --json lists")
    if not read:
        return lines
    lines.append(f"  sizes       {', '.join(sizes)}")
    lines.append(f"  truth       {', '.join(f'{truth} in {count} of {read}' for truth, count in result['truths'].items())}")
    lines += [f"  {name:11} {shares(name)}" for name in ("unknown", "occluded") if result[name]]
    if "agreement" in result:
        lines.append(f"  left-right  {result['agreement']:.1%} of the matches in frame agree within 1 px")
    if "mask_iou" in result:
        equal = " (equal to it: derived from it)" if result["mask_iou"] == 1 else ""
        lines.append(f"  masks       IoU {result['mask_iou']:.3f} with the left-right check{equal}")
    for truth, errors in result["image_errors"].items():
        if errors:
            told = ", ".join(f"{errors[way]:.2f} {way}" for way in (AS_STATED, ZERO, TURNED))
            lines.append(f"  images      {told} (0 = exact, 1 = chance; {truth})")
    bars = result["disparity_histogram"]
    unit = BAR_WIDTH / max(bars.values(), default=1.0)
    return [*lines, *(f"  {bounds:>16} {share:6.1%} {'#' * round(unit * share)}" for bounds, share in bars.items())]
