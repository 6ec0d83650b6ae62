"""``export``: the network as one file for other programs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stereo.cli.shared import add_weights, load_weights, output_folder, say
from stereo.engine.bench import parse_size
from stereo.export import CHECKED, FORMATS, LIMIT_PX, check_export, export
from stereo.types import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_weights(parser)
    parser.add_argument("-o", "--output", help="file to write (default: stereo.onnx, or stereo.pt2 with --format torch)")
    parser.add_argument("--format", default="onnx", help="onnx, or torch for a program of torch.export (default: onnx)")
    parser.add_argument("--size", nargs="+", metavar="HxW", default=[f"{CHECKED[0]}x{CHECKED[1]}"],
                        help="sizes of the parity run, beside the traced one; the file takes any that fits "
                             f"(default: {CHECKED[0]}x{CHECKED[1]})")  # fmt: skip
    parser.add_argument("--no-check", action="store_true", help="write the file without the parity run (needs no onnxruntime)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    sizes = [parse_size(text) for text in args.size]
    network, weights = load_weights(args.weights, "cpu")
    check_export(network, args.format, sizes, not args.no_check)
    target = Path(args.output or f"stereo{FORMATS[args.format]}")
    if target.suffix != FORMATS[args.format]:
        raise InputError(f"got the file name '{target}', expected one in {FORMATS[args.format]} for --format {args.format}")
    with output_folder(target.parent):
        result = export(network, weights, target, args.format, sizes, not args.no_check)
    facts = result["facts"]
    version = f"opset {facts['opset']}" if "opset" in facts else f"torch {facts['torch']}"
    say(args, f"{weights['name']} -> {target}: {args.format}, {version}, fp32; left, right (1,3,H,W), "
              f"H from {facts['min_height']}, W from {facts['min_width']} px, multiples of {facts['granularity']}")  # fmt: skip
    for row in result["parity"]:
        kind = "traced" if row["traced"] else "not traced"
        say(args, f"parity at {row['height']}x{row['width']} px ({kind}): mean {row['mean_px']:.2g} px, largest "
                  f"{row['largest_px']:.2g} px, allowed {LIMIT_PX} px")  # fmt: skip
    if not result["parity"]:
        say(args, "not checked: no parity run was made (--no-check)")
    return result
