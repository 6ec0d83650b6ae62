"""``selftest``: every fast path of this machine against the reference."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from stereo.cli.shared import add_device, add_weights, load_weights, say
from stereo.engine.machine import cpu_name
from stereo.export import need, open_onnx
from stereo.selftest import MAX_DISPARITY, SEED, SIZE, Verdict, selftest
from stereo.types import InputError
from stereo.version import __version__


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_weights(parser)
    add_device(parser)
    parser.add_argument("--all", action="store_true", help="also what takes minutes on a CPU: compiled, ONNX, torch.export")
    parser.add_argument("--onnx", metavar="FILE", help="an exported ONNX file of the same weights, to be tested, too")


def run(args: argparse.Namespace) -> dict[str, Any]:
    file = Path(args.onnx) if args.onnx else None
    if file:
        _check_file(file)
    network, weights = load_weights(args.weights, args.device)
    if file:
        _check_weights(file, weights)
    device = next(network.parameters()).device
    name = cpu_name() if device.type == "cpu" else torch.cuda.get_device_name(device)
    say(args, f"{weights['name']} on {name}, PyTorch {torch.__version__}; generated pair of seed {SEED}, "
              f"{SIZE[0]}x{SIZE[1]} px, disparities to {MAX_DISPARITY * SIZE[1]:.0f} px")  # fmt: skip
    say(args, f"{'path':14s}{'verdict':10s}{'mean px':>9s}{'largest':>9s}{'over the limit':>34s}{'s':>8s}")
    verdicts = []
    for verdict in selftest(network, weights, args.all, file):
        verdicts.append(verdict)
        say(args, _line(verdict))
    failed = [verdict.path for verdict in verdicts if verdict.failed]
    wrong = f"FAILED: {', '.join(failed)}: do not use these here, and report them"
    say(args, wrong if failed else "all paths that ran are right")
    facts = {"version": __version__, "torch": torch.__version__, "device": str(device), "machine": name, "weights": weights}
    return facts | {"paths": [asdict(x) for x in verdicts], "failed": failed, "exit_code": 1 if failed else 0}


def _check_file(file: Path) -> None:
    """Before the network is loaded. Raises InputError."""
    if not file.is_file():
        raise InputError(f"'{file}' does not exist or is no file; expected an ONNX file that 'export' wrote")
    need("onnxruntime")
    open_onnx(file)


def _check_weights(file: Path, weights: dict[str, Any]) -> None:
    """Raises InputError for a file of other weights: it may be right, and differs all the same."""
    import onnxruntime

    facts = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"]).get_modelmeta().custom_metadata_map
    if facts.get("weights_sha256") != weights["sha256"]:
        made_of = facts.get("weights", "weights that it does not name")
        raise InputError(f"'{file}' was made of {made_of}, the test is of {weights['name']}; name the same file with --weights")


def _line(verdict: Verdict) -> str:
    word = "FAILED" if verdict.failed else "not run" if verdict.why_not else "ok"
    if verdict.why_not:
        return f"{verdict.path:14s}{word:10s}{verdict.why_not}"
    seconds = "" if verdict.seconds is None else f"{verdict.seconds:.2f}"
    if verdict.mean_px is None or verdict.over_share is None or verdict.limit_share is None:
        return f"{verdict.path:14s}{word:10s}{seconds:>60s}"
    over = f"{100 * verdict.over_share:.3f} % > {verdict.limit_px} px (allowed {100 * verdict.limit_share:g} %)"
    return f"{verdict.path:14s}{word:10s}{verdict.mean_px:9.2g}{verdict.largest_px:9.2g}{over:>34s}{seconds:>8s}"
