"""``generate``: the procedural data set on disk."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from datasets.procedural.write import write_dataset
from stereo.cli.shared import say
from stereo.config import ContentConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", required=True, help="an empty or new folder")
    parser.add_argument("--scenes", type=int, required=True, help="how many pairs")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same bytes (default: 0)")
    parser.add_argument("--height", type=int, default=540, help="of the images, px (default: 540)")
    parser.add_argument("--width", type=int, default=960, help="of the images, px (default: 960)")
    parser.add_argument("--textures", default="", metavar="DIR", help="a folder of photographs for half of the textures")


def run(args: argparse.Namespace) -> dict[str, Any]:
    content = ContentConfig(textures=args.textures)
    write_dataset(Path(args.output), args.scenes, args.seed, args.height, args.width, content=content, progress=not args.json)
    say(args, f"wrote {args.scenes} scenes of {args.width}x{args.height} px to {args.output}; "
              f"use them with --data flyingthings3d:{args.output}")  # fmt: skip
    return {"folder": args.output, "scenes": args.scenes, "seed": args.seed}
