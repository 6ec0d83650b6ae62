"""What several verbs do alike: printing, output folders, opening weights."""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path
from typing import Any

from stereo.checkpoint import default_weights, load_model
from stereo.engine.memory import keep_freed_memory
from stereo.inference.predictor import PRECISIONS, StereoPredictor
from stereo.types import InputError


def say(args: argparse.Namespace, text: str) -> None:
    """Print for people; with --json stdout belongs to the one JSON object."""
    print(text, file=sys.stderr if args.json else sys.stdout)


def make_folder(path: Path) -> Path:
    """Create an output folder. Raises InputError when it cannot be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot create the output folder '{path}': {error.strerror}; choose another with -o") from None
    return path


def add_weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", help="a .safetensors file or a run's checkpoint.pt (default: the shipped)")


def add_precision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--precision", choices=PRECISIONS, default="auto",
                        help="of the network's products (default: bf16 where it is fast and harmless, else fp32)")  # fmt: skip


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="cpu or cuda (default: a GPU when there is one)")


def load_predictor(args: argparse.Namespace) -> tuple[StereoPredictor, dict[str, Any]]:
    """The predictor that --weights, --device and --precision ask for, and what a result card says about it."""
    keep_freed_memory()
    path = Path(args.weights) if args.weights else default_weights()
    model = load_model(path, args.device)
    facts = {"name": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "preset": model.config.preset}
    return StereoPredictor(model, args.precision), facts
