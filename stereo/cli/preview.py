"""``preview``: a contact sheet of a data set, to be looked at before training on it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tqdm import tqdm

from datasets.base import DATASETS, open_dataset
from stereo.cli.shared import make_folder, say
from stereo.image_io import write_image
from stereo.report.figures import contact_sheet
from stereo.types import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", nargs="?", default="generated:0", metavar="NAME:PATH",
                        help=f"NAME is one of {', '.join(DATASETS)} (default: generated:0, the generator)")  # fmt: skip
    parser.add_argument("-n", "--frames", type=int, default=8, help="how many, spread evenly over the data set (default: 8)")
    parser.add_argument("--width", type=int, default=320, help="px of each picture (default: 320)")
    parser.add_argument("-o", "--output", default="preview.png", metavar="FILE", help="picture (default: preview.png)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    if args.frames < 1 or args.width < 16:
        raise InputError(f"got {args.frames} frames {args.width} px wide, expected at least 1 frame of 16 px")
    dataset = open_dataset(args.data)
    count = min(args.frames, len(dataset))
    chosen = sorted({round(i * (len(dataset) - 1) / max(count - 1, 1)) for i in range(count)})
    samples = [dataset[i] for i in tqdm(chosen, desc="preview", unit="frame", disable=True if args.json else None)]
    target = Path(args.output)
    make_folder(target.parent)
    write_image(target, contact_sheet(samples, args.width))
    say(args, f"{args.data}: {len(chosen)} of {len(dataset)} frames -> {target}")
    return {"output": str(target), "frames": [dataset.names[i] for i in chosen], "of": len(dataset)}
