"""What several verbs do alike: printing, output folders, opening weights."""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from stereo.checkpoint import default_weights, load_model
from stereo.engine.memory import keep_freed_memory
from stereo.inference.predictor import PRECISIONS, StereoPredictor
from stereo.model.build import Network
from stereo.quiet import STDERR
from stereo.types import InputError


def say(args: argparse.Namespace, text: str) -> None:
    """Print for people; with --json stdout belongs to the one JSON object."""
    if args.json:
        with STDERR:  # a thread may be decoding an image, with stderr turned away from the terminal
            print(text, file=sys.stderr)
    else:
        print(text)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C is not heard inside the block, where that can be had: in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def make_folder(path: Path) -> Path:
    """Create an output folder. Raises InputError when it cannot be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot create the output folder '{path}': {error.strerror}; choose another with -o") from None
    return path


@contextmanager
def output_folder(path: Path) -> Iterator[Path]:
    """``make_folder``; what fails or is stopped inside the block, before a file is there, takes the folder away again."""
    made = [folder for folder in (path, *path.parents) if not os.path.exists(folder)]
    make_folder(path)
    try:
        yield path
    except BaseException:
        with suppress(OSError):  # it holds something by now
            for folder in made:
                folder.rmdir()
        raise


def page_target(path: str | Path) -> Path:
    """Where a page goes, with its folder made: refused before the work that it shows, not after. Raises InputError."""
    target = Path(path)
    if target.is_dir():
        raise InputError(f"cannot write the page '{target}': that is a folder; name a file, for example '{target}/report.html'")
    make_folder(target.parent)
    return target


def add_weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights",
                        help="the trained network: a .safetensors file or a run's checkpoint.pt (default: the one "
                        "that comes with the program)")  # fmt: skip


def add_precision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--precision", choices=PRECISIONS, default="auto",
                        help="number format of the network's multiplications (default: bf16 where that is fast and "
                        "harmless, else fp32)")  # fmt: skip
    parser.add_argument("--compile", action="store_true",
                        help="let torch.compile translate the network first: for many pairs on a GPU")  # fmt: skip


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="cpu or cuda (default: a GPU when there is one)")


def add_memory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--max-memory", type=memory_size, metavar="SIZE",
                        help="memory that a prediction may take, for example 2G; "
                        "pairs that need more are matched in parts (default: what is free)")  # fmt: skip
    parser.add_argument("--max-disparity", type=positive, metavar="PX",
                        help="no disparity of the pair is larger; used only where "
                        "parts must be narrower than the image (default: found on a smaller copy of the pair)")  # fmt: skip


def add_sizes(parser: argparse.ArgumentParser, finer: bool) -> None:
    """finer: by default a small pair is matched at more than its own size."""
    usual = "0.5 1 2 for pairs of up to a megapixel, 1 for larger ones" if finer else "1"
    parser.add_argument("--sizes", type=positive, nargs="+", metavar="FACTOR", default=None if finer else [1.0],
                        help="run the network on the pair at so many times its size, and merge: '0.5 1 2' is more accurate "
                        f"and takes five times as long as '1' (default: {usual})")  # fmt: skip


def memory_size(text: str) -> int:
    """'2G' -> 2 * 2**30 bytes; K, M, G or T, also as GB or GiB. Raises ArgumentTypeError."""
    given = re.fullmatch(r"(\d+\.?\d*|\.\d+)([KMGT])(i?B)?", text.strip(), re.IGNORECASE)
    size = int(float(given[1]) * 1024 ** ("KMGT".index(given[2].upper()) + 1)) if given else 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"got '{text}', expected a size above 0 with its unit K, M, G or T, for example 2G")
    return size


def positive(text: str) -> float:
    """A finite number above 0. Raises ArgumentTypeError."""
    return number_that(text, lambda value: 0 < value < math.inf, "a number above 0")


def number_that(text: str, suits: Callable[[float], bool], expected: str) -> float:
    """The number that ``text`` is. Raises ArgumentTypeError when it is none, or ``suits``, which NaN must not, says no."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not suits(value):
        raise argparse.ArgumentTypeError(f"got '{text}', expected {expected}")
    return value


def load_predictor(args: argparse.Namespace) -> tuple[StereoPredictor, dict[str, Any]]:
    """The predictor that the options ask for, those of ``add_memory`` and ``add_sizes`` if there; what a card says."""
    keep_freed_memory()
    model, facts = load_weights(args.weights, args.device)
    limits = getattr(args, "max_memory", None), getattr(args, "max_disparity", None)
    sizes = getattr(args, "sizes", [1.0])
    return StereoPredictor(model, *limits, precision=args.precision, compiled=args.compile, sizes=sizes), facts


def load_weights(weights: str | None, device: str | None) -> tuple[Network, dict[str, Any]]:
    """The network of a file, the shipped one by default, and what identifies its weights: name, sha256, preset."""
    path = Path(weights) if weights else default_weights()
    model = load_model(path, device)
    return model, {"name": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "preset": model.config.preset}
