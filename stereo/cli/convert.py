"""``convert``: a published STTR checkpoint becomes weights of this program."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stereo.checkpoint import load_published, save_weights
from stereo.cli.shared import make_folder, say
from stereo.config import to_dict


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="the file, for example sceneflow_pretrained_model.pth.tar of STTR or of "
                        "STTR-light; nothing in it is executed")  # fmt: skip
    parser.add_argument("-o", "--output", required=True, metavar="FILE",
                         help="file to write, for example weights/sttr.safetensors; a part of its checksum is "
                         "added to the name")  # fmt: skip


def run(args: argparse.Namespace) -> dict[str, Any]:
    model = load_published(args.checkpoint)
    target = Path(args.output)
    card = {"converted_from": Path(args.checkpoint).name}
    weights = save_weights(model, make_folder(target.parent), target.name.removesuffix(".safetensors"), card)
    c = model.config
    say(args, f"{args.checkpoint}: {c.preset}, {c.layers} layers of {c.heads} heads, faithful -> {weights}")
    return {"weights": str(weights), "config": to_dict(c)}
