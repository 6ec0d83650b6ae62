"""Options that say where pairs come from and what becomes of a sequence of them; shared by the verbs that take any source."""

from __future__ import annotations

import argparse
import logging
import math
from pathlib import Path

from stereo.cli.calibration_options import is_calibrated
from stereo.cli.shared import positive
from stereo.config import near_matches
from stereo.inference.film import ASSUMED_RATE, STYLES, DisparityFilm
from stereo.inference.outputs import MAPS
from stereo.inference.window import Window, window_problem
from stereo.sources.capture import HIGHEST_RATE
from stereo.sources.frame import Selection, Source
from stereo.sources.layout import LAYOUTS
from stereo.sources.opening import open_source
from stereo.types import InputError

log = logging.getLogger(__name__)


def add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("left", help="left image, folder, video, \"glob*.png\" in quotes, or camera:N; or one that holds both "
                        "views: MPO, JPS, or any with --layout")  # fmt: skip
    parser.add_argument("right", nargs="?", help="the same for the right view; files of folders pair by their names, those of "
                        "globs by what the stars stand for")  # fmt: skip
    parser.add_argument("--layout", choices=LAYOUTS, help="LEFT holds both views: sbs, side by side, left view at the left; "
                        "ou, over-under, left view above")  # fmt: skip
    parser.add_argument("--swap", action="store_true", help="exchange left and right, for views given in the wrong order")
    parser.add_argument("--frames", metavar="A:B:STEP",
                        help="of a sequence, only every STEPth frame from A to before B, counted "
                        "from 0; each may be left out, as in 100: or ::5")  # fmt: skip
    parser.add_argument("--max-frames", type=count, metavar="N", help="stop after so many frames")


def add_film(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--video", choices=(*STYLES, "none"), help="write STEM.disp.mp4: disparity in colours, or the left "
                        "image beside it (default: disp for videos and cameras, none for images)")  # fmt: skip
    parser.add_argument("--fps", type=positive, metavar="RATE", help="frames per second of the written video (default: those "
                        "of the source, 10 for images)")  # fmt: skip
    parser.add_argument("--range", type=float, nargs=2, metavar=("LOW", "HIGH"), help="px: fixed range of the colours "
                        "(default: of a video once from its first frames, else of each image)")  # fmt: skip
    parser.add_argument("--smooth", type=float, default=0.0, metavar="S", help="0 to 1: average over time what stands still, "
                        "weighted with the confidence (default: 0, off)")  # fmt: skip
    parser.add_argument("--show", action="store_true", help="show the disparities in a window while they come; q ends")
    parser.add_argument("--save", metavar="KINDS", help=f"maps to write of each frame: {','.join(MAPS)}, or all or none "
                        "(default: all for images, none for videos and cameras)")  # fmt: skip


def count(text: str) -> int:
    """A whole number from 1 on. Raises ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got '{text}', expected a whole number above 0")
    return int(text)


def check_film(args: argparse.Namespace) -> None:
    """Raise InputError for values that argparse lets pass; called before anything is opened."""
    if args.range and not (all(map(math.isfinite, args.range)) and args.range[0] < args.range[1]):
        raise InputError(f"got --range {args.range[0]:g} {args.range[1]:g}, expected two finite numbers, the smaller one first")
    if args.fps and args.fps > HIGHEST_RATE:
        raise InputError(f"got --fps {args.fps:g}, expected at most {HIGHEST_RATE:g} frames per second")
    if not 0 <= args.smooth <= 1:
        raise InputError(f"got --smooth {args.smooth:g}, expected 0 (off) to 1 (the mean over all that has not changed)")
    saved_kinds(args, "all")


def source_of(args: argparse.Namespace) -> Source:
    """The source that the arguments name. Raises InputError as open_source does, and when nothing would come of it."""
    selection = Selection.parse(args.frames) if args.frames else None
    source = open_source(args.left, args.right, args.layout, args.swap, selection)
    try:
        if not source.moving and source.length == 1 and (args.video not in (None, "none") or args.smooth):
            option = "--smooth" if args.smooth else "--video"
            raise InputError(f"got {option} and one pair, {source.name}; it needs folders, globs, a video or a camera")
        saved = saved_kinds(args, "none" if source.moving else "all") or is_calibrated(args)
        if film_style(args, source) is None and not saved and not args.show:
            raise InputError("got neither a video nor maps to write; give --save, --video or --show")
    except InputError:
        source.close()
        raise
    return source


def film_style(args: argparse.Namespace, source: Source) -> str | None:
    """One of STYLES, or None where no film is written."""
    style = args.video or ("disp" if source.moving else "none")
    return None if style == "none" else style


def saved_kinds(args: argparse.Namespace, default: str) -> list[str]:
    """The kinds of MAPS that are written of each frame. Raises InputError for an unknown one."""
    wanted = args.save if args.save is not None else default
    if wanted in ("all", "none"):
        return list(MAPS) if wanted == "all" else []
    kinds = [kind.strip() for kind in wanted.split(",")]
    for kind in kinds:
        if kind not in MAPS:
            raise InputError(f"got --save '{wanted}': unknown kind '{kind}', {near_matches(kind, [*MAPS, 'all', 'none'])}")
    return list(dict.fromkeys(kinds))


def open_film(args: argparse.Namespace, source: Source, folder: Path) -> DisparityFilm | None:
    """The film that is wanted, on the disk, in a window, or both; None for neither. Says so where there is no display."""
    style = film_style(args, source)
    window = None
    if args.show and (problem := window_problem()) is not None:
        log.warning("--show: %s; going on without a window", problem)
    elif args.show:
        window = Window(source.name)
    if style is None and window is None:
        return None
    rate = args.fps or (None if source.live else source.fps or ASSUMED_RATE)
    return DisparityFilm(folder, source.stem, rate, tuple(args.range) if args.range else None, style, window)
