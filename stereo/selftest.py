"""Is every fast path right on this machine? Each against the reference, on one generated pair with one stored answer.

The reference is the network in float32 on the CPU, in plain PyTorch, on the whole image. It is itself held against disparities
that are stored for the shipped weights, so that a machine on which even the reference is wrong is found.

A path passes where at most a stated share of the pixels lies further than a stated distance from the reference. Not the largest
deviation decides, though it is printed: choosing the K best keys is a comparison, and where two scores differ by less than
rounding, one token is matched to another surface, in every correct implementation.
"""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datasets.procedural.dataset import render_sample
from stereo.checkpoint import WEIGHTS_DIR
from stereo.export import FORMATS, export, inputs_of, need, open_onnx, open_torch
from stereo.inference.planning import HELD_BYTES, plan_bands
from stereo.inference.predictor import StereoPredictor, computes_bf16
from stereo.kernels import cpp, triton_backend
from stereo.model.build import Network, copy_with
from stereo.model.stereo_model import StereoModel
from stereo.types import InputError, Sample

SEED, SIZE, MAX_DISPARITY = 5, (320, 512), 0.15  # of the pair: high enough for two bands, wide enough for blocks
AMPLE = 2**50  # bytes: never cut into tiles
GRID = 16  # px between two stored disparities

# Of each path: px, and the share of pixels that may lie further off. Measured: docs/selftest.md.
LIMITS: dict[str, tuple[float, float]] = {
    "golden": (0.05, 0.02),  # other processors add up in another order
    "cpp": (0.05, 0.002),
    "matmul": (0.05, 0.002),
    "triton": (0.05, 0.002),
    "bf16": (1.0, 0.02),  # eight bits of mantissa choose other keys: the EPE changes by under 1 %, single pixels by more
    "bands": (0.1, 0.01),  # what the README promises
    "blocks": (1.0, 0.05),  # the largest disparity is assumed, and what lies beyond a block's edge is not seen
    "compiled": (0.05, 0.002),
    "onnx": (0.05, 0.001),
    "torch.export": (0.05, 0.001),
}

Disparity = Callable[[], np.ndarray]  # -> (H, W) px


@dataclass(frozen=True)
class Verdict:
    """What became of one path. why_not: empty where it ran, else why it did not; failed: it could run and is wrong.

    mean_px, largest_px: from the reference, over all pixels; over_share: of pixels further off than limit_px.
    """

    path: str
    why_not: str
    failed: bool
    mean_px: float | None = None
    largest_px: float | None = None
    over_share: float | None = None
    limit_px: float | None = None
    limit_share: float | None = None
    seconds: float | None = None


def golden_pair() -> Sample:
    return render_sample(SEED, 0, *SIZE, max_disparity=MAX_DISPARITY)


def golden_file(weights: str) -> Path:
    """Where the disparities of weights of that file name are stored, if they are."""
    return WEIGHTS_DIR / f"{Path(weights).stem}.golden.json"


def golden_facts(network: Network, weights: str) -> dict[str, Any]:
    """What ``golden_file`` holds: the reference's disparities at every GRID-th pixel of every GRID-th row."""
    sample = golden_pair()
    disparity = reference(network)(sample.left, sample.right)[::GRID, ::GRID]
    return {
        "weights": weights,
        "pair": {"seed": SEED, "size": SIZE, "max_disparity": MAX_DISPARITY, "sha256": pair_sha256(sample)},
        "grid": GRID,
        "disparity_px": [[round(float(value), 3) for value in row] for row in disparity],
    }


def pair_sha256(sample: Sample) -> str:
    return hashlib.sha256(sample.left.tobytes() + sample.right.tobytes()).hexdigest()


def reference(network: Network) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """left, right (H, W, 3) uint8 -> disparity (H, W) px, by the path that all others are held against."""
    run = StereoPredictor(copy_with(network, "reference"), max_memory_bytes=AMPLE, precision="fp32")
    return lambda left, right: run.predict(left, right).disp


def selftest(
    network: Network, weights: dict[str, Any], everything: bool = False, onnx: Path | None = None
) -> Iterator[Verdict]:
    """One verdict after the other. network: on the device whose paths are tested. weights: name, sha256, preset.

    everything: also what takes minutes on a CPU. onnx: an exported file to test.
    """
    sample = golden_pair()
    start = time.perf_counter()
    wanted = reference(network)(sample.left, sample.right)
    yield Verdict("reference", "", not bool(np.isfinite(wanted).all()), seconds=time.perf_counter() - start)
    yield _golden_verdict(wanted, weights["name"])
    with tempfile.TemporaryDirectory() as folder:
        for name, why_not, prepare in _paths(network, weights, sample, everything, onnx, Path(folder)):
            yield Verdict(name, why_not, False) if why_not else _run(name, prepare, wanted)


def _golden_verdict(disparity: np.ndarray, weights: str) -> Verdict:
    file = golden_file(weights)
    if not file.is_file():
        return Verdict("golden", "no disparities are stored for these weights", False)
    stored = np.asarray(json.loads(file.read_text(encoding="utf-8"))["disparity_px"])
    return _compare("golden", disparity[::GRID, ::GRID], stored, None)


def _run(name: str, prepare: Callable[[], Disparity], wanted: np.ndarray) -> Verdict:
    """The second of two runs is timed: the first one builds, plans, and fills memory."""
    try:
        disparity = prepare()
        disparity()
        start = time.perf_counter()
        found = disparity()
        seconds = time.perf_counter() - start
    except Exception as error:  # whatever a path raises: it could be had, and it does not work
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        return Verdict(name, f"failed: {reason}", True)
    return _compare(name, found, wanted, seconds)


def _compare(name: str, found: np.ndarray, wanted: np.ndarray, seconds: float | None) -> Verdict:
    limit, share = LIMITS[name]
    if found.shape != wanted.shape:
        return Verdict(name, f"failed: it gives a map of {found.shape} instead of {wanted.shape}", True)
    off = np.abs(found.astype(np.float64) - wanted)
    over = float((~(off <= limit)).mean())  # NaN counts
    return Verdict(name, "", over > share, float(off.mean()), float(off.max()), over, limit, share, seconds)


# ---------------------------------------------------------------------------------------------------------------------
# The paths


def _paths(
    network: Network, weights: dict[str, Any], sample: Sample, everything: bool, onnx: Path | None, folder: Path
) -> Iterator[tuple[str, str, Callable[[], Disparity]]]:
    """(name, why it is not to be had here, what makes it ready)."""
    device = next(network.parameters()).device
    on_cpu = device.type == "cpu"
    slow = "" if everything or not on_cpu else "takes minutes on a CPU; add --all"

    def predictor(kernel: str = "auto", **options: Any) -> Disparity:
        given: dict[str, Any] = {"precision": "fp32", "max_memory_bytes": AMPLE} | options
        run = StereoPredictor(copy_with(network, kernel).to(device), **given)
        return lambda: run.predict(sample.left, sample.right).disp

    no_cpp = cpp.available() if on_cpu else f"it is for CPUs, this is {device}"
    no_triton = "it is for CUDA devices" if on_cpu else triton_backend.available()
    no_bf16 = "" if everything or computes_bf16(device) else "this device has no instructions for it; --all runs it anyway"
    if not network.bears_bf16:
        no_bf16 = "these weights are not run in it"
    yield "cpp", no_cpp, functools.partial(predictor, "cpp")
    yield "matmul", "", functools.partial(predictor, "matmul")
    yield "triton", no_triton, functools.partial(predictor, "triton")
    yield "bf16", no_bf16, functools.partial(predictor, precision="bf16")
    yield "bands", "", functools.partial(_bands, predictor, network)
    yield "blocks", "", functools.partial(_blocks, predictor, network)
    yield "compiled", slow, functools.partial(predictor, compiled=True)
    yield "onnx", _no_onnx(network, everything, onnx), functools.partial(_onnx, network, weights, sample, onnx, folder)
    exported = functools.partial(_exported, network, weights, sample, "torch", folder)
    yield "torch.export", _no_export(network) or ("" if everything else "takes minutes; add --all"), exported


def _bands(predictor: Callable[..., Disparity], network: Network) -> Disparity:
    """With a byte less than the whole pair needs."""
    whole = StereoPredictor(network, precision="fp32").estimate(*SIZE)
    return predictor(max_memory_bytes=whole + SIZE[0] * SIZE[1] * HELD_BYTES - 1)


def _blocks(predictor: Callable[..., Disparity], network: Network) -> Disparity:
    """With a byte less than the thinnest bands need."""
    estimate = StereoPredictor(network, precision="fp32").estimate
    thinnest = plan_bands(SIZE, 0, estimate, network.row_margin, network.tile_step).bytes
    return predictor(max_memory_bytes=thinnest - 1, max_disparity=MAX_DISPARITY * SIZE[1])


def _no_export(network: Network) -> str:
    return "" if isinstance(network, StereoModel) else "networks of STTR are not exported"


def _no_onnx(network: Network, everything: bool, file: Path | None) -> str:
    try:
        need("onnxruntime") if file else need("onnx", "onnxruntime")
    except InputError as error:
        return str(error)
    return _no_export(network) or ("" if file or everything else "name an exported file with --onnx FILE, or add --all")


def _onnx(network: Network, weights: dict[str, Any], sample: Sample, file: Path | None, folder: Path) -> Disparity:
    return _disparity(open_onnx(file), sample) if file else _exported(network, weights, sample, "onnx", folder)


def _exported(network: Network, weights: dict[str, Any], sample: Sample, kind: str, folder: Path) -> Disparity:
    target = folder / f"exported{FORMATS[kind]}"
    export(network, weights, target, kind, check=False)
    return _disparity((open_onnx if kind == "onnx" else open_torch)(target), sample)


def _disparity(run: Callable[..., tuple[np.ndarray, ...]], sample: Sample) -> Disparity:
    pair = inputs_of(sample)
    return lambda: run(*pair)[0][0]
