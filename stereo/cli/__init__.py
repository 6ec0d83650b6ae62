"""The command line: parse, compose, print. The only place that joins the rooms; one file per verb.

A verb's file has ``add_arguments(parser)`` and ``run(args) -> result``, the object that --json prints.
Exit codes: 0 done, 2 the input cannot work (one line on stderr says why and what to do) or check --strict found something
wrong, 1 our fault.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from stereo.cli import (
    bench,
    check,
    compare,
    convert,
    demo,
    depth,
    evaluate,
    explain,
    export,
    generate,
    infer,
    preview,
    rectify,
    report,
    selftest,
    submit,
    train,
)
from stereo.cli.examples import epilog
from stereo.types import InputError, StoppedError
from stereo.version import __version__

PIPE_CLOSED = 141  # the exit code of a shell for a closed pipe


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line, and which finds a RIGHT wherever it stands."""

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def, override]
        """As the base class; but older versions of it give an optional RIGHT up as soon as LEFT is followed by an option."""
        known, rest = super().parse_known_args(args, namespace)
        if hasattr(known, "right") and not any(text.startswith("-") for text in rest):
            if known.right is None and rest:
                known.right = rest.pop(0)
            if rest:
                self.error(f"got {len(rest) + 2} paths, expected one or two: put globs in quotes, or the shell replaces them")
        return known, rest

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see '{self.prog} --help'")


VERBS: dict[str, tuple[ModuleType, str]] = {
    "infer": (infer, "disparity, occlusion and confidence of pairs: images, folders, stereo pictures, videos, cameras"),
    "rectify": (rectify, "straighten images of two calibrated cameras so that their rows agree, and say how well they do"),
    "depth": (depth, "metres and a point cloud from a disparity map and a calibration; needs no network"),
    "check": (check, "what is wrong with a pair of images, or with a data set, and how to mend it"),
    "demo": (demo, "generate a pair, run the shipped weights on it, compare with the exact truth"),
    "explain": (explain, "what the network looked at to find the disparity of one pixel, as a page and as a picture"),
    "train": (train, "train a network from a recipe (a TOML file in experiments/)"),
    "evaluate": (evaluate, "score a network, and OpenCV's SGBM beside it, on a data set with ground truth"),
    "compare": (compare, "compare two evaluations of the same images: difference of the means, and how sure it is"),
    "submit": (submit, "write what KITTI, Middlebury or ETH3D want uploaded, and check it first"),
    "report": (report, "a page of a training run: curves, samples, recipe, versions; needs no server"),
    "generate": (generate, "write a procedural data set to disk in the FlyingThings3D layout"),
    "preview": (preview, "a contact sheet of a data set, or of the generator: images, disparity, occlusion"),
    "convert": (convert, "turn a checkpoint of the public STTR code into weights of this program"),
    "export": (export, "write the network as ONNX, or for torch.export, and prove the file equal at two sizes"),
    "selftest": (selftest, "is every fast path right on this machine? each against the reference on one pair"),
    "bench": (bench, "parameters, multiply-adds, memory and time of networks and of attention operators, over sizes"),
}


SCRIPT, COMMAND = "run_stereo.py", "stereo"  # what the program is called in the repository, and once it is installed


def build_parser(prog: str = SCRIPT) -> argparse.ArgumentParser:
    """prog: SCRIPT or COMMAND, what the program is called in usage and examples."""
    called = f"python {prog}" if prog == SCRIPT else prog
    parser = Parser(
        prog=prog,
        description="Disparity, occlusion and confidence from two rectified photographs.",
        epilog=f"Begin with '{called} demo'; '{called} VERB --help' explains a verb, with examples.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for name, (verb, text) in VERBS.items():
        own = verbs.add_parser(
            name,
            help=text,
            description=textwrap.fill(text[0].upper() + text[1:] + ".", 100),
            epilog=epilog(called, name),
            formatter_class=argparse.RawDescriptionHelpFormatter,  # the examples stay as they are
        )
        own.set_defaults(run=verb.run)
        own.add_argument("--json", action="store_true", help="print one JSON object to stdout, the rest to stderr")
        verb.add_arguments(own)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # who reads the output, `head` for example, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
        return PIPE_CLOSED


def _run(argv: Sequence[str] | None) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # to stderr: what was chosen, derived or built
    try:
        prog = COMMAND if Path(sys.argv[0]).stem == COMMAND else SCRIPT
        args = build_parser(prog).parse_args(argv)
        result = args.run(args)
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except StoppedError as error:
        print(f"stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    if args.json and result:  # of several processes only the first has one
        print(json.dumps(result))
    return result.get("exit_code", 0)
