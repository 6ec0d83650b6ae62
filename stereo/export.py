"""A network as one file for other programs: ONNX, or a program of torch.export. Both take any height and width that fit.

What is written is the network on its reference path (plain operators: top-K, gather, scatter; none of ours), in float32:
``left, right`` (1, 3, H, W) float32 in [0, 1] -> ``disparity, occlusion, confidence`` (1, H, W). Normalisation is inside.
Padding is not: H and W must be multiples of ``granularity``, H at least ``min_height`` and W at least ``min_width`` px, all of
them in the file with the units, the sign and what the weights are. docs/export.md says how to pad.

No file is written unless it computes on a generated pair what the network computes, at a size that it was not traced at, too.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from datasets.procedural.dataset import render_sample
from stereo.config import ModelConfig, near_matches
from stereo.files import atomic_write
from stereo.model.backbone import STRIDE
from stereo.model.build import Network, copy_with
from stereo.types import InputError, Sample, StoppedError
from stereo.version import __version__

FORMATS = {"onnx": ".onnx", "torch": ".pt2"}
OPSET = 18
TRACED = (112, 336)  # px: odd multiples of 16, so that the coarsest grid has a node without a partner and its pooling is traced
CHECKED = (256, 512)  # px: what else the parity run takes by default
LARGEST = 8192  # px of a side that torch.export is told of
LIMIT_PX = 0.05
SEED = 11  # of the parity run's pairs
INSTALL = 'pip install "quadtree-stereo[export]"'
INPUTS, OUTPUTS = ("left", "right"), ("disparity", "occlusion", "confidence")

logger = logging.getLogger(__name__)


class Maps(nn.Module):
    """left, right (1, 3, H, W) in [0, 1] -> disparity px, occlusion and confidence in [0, 1], (1, H, W) each."""

    network: Network

    def __init__(self, network: Network):
        super().__init__()
        self.network = network

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        prediction = self.network(left, right)
        return prediction.disp, prediction.occlusion, prediction.confidence


@dataclass(frozen=True)
class Parity:
    """How far the file's disparities lie from the network's, over all pixels. traced: whether at the size that was traced."""

    height: int
    width: int
    traced: bool
    mean_px: float
    largest_px: float


Run = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, ...]]  # left, right (1, 3, H, W) float32 -> the three maps (1, H, W)


def reference_maps(network: Network) -> Maps:
    """A copy of the network on the CPU in float32, every operator of it in plain PyTorch."""
    return Maps(copy_with(network, "reference")).eval()


def least_width(network: Network) -> int:
    """px: the least width at which every level of the tree exists and holds its K keys, as it did where it was traced."""
    config = network.config
    assert isinstance(config, ModelConfig)
    trees = [(config.levels, config.topk)]
    if config.matching == "sparse":
        trees.append((config.match_levels, config.match_topk))
    width = network.min_side
    while any(-(-width // STRIDE // 2 ** (levels - 1)) < max(keys, 2) for levels, keys in trees):
        width += network.granularity
    return width


def step_of(network: Network, kind: str) -> int:
    """px: sides of the file's images are multiples of it.

    torch.export takes what held of the traced size for true of all: in its file no grid has a node without a partner.
    """
    return network.tile_step if kind == "torch" else network.granularity


def traced_size(network: Network, kind: str) -> tuple[int, int]:
    """Height and width px of the pair that is traced."""
    step, least = step_of(network, kind), least_width(network)
    first = TRACED if kind == "onnx" else (-(-TRACED[0] // step) * step, -(-TRACED[1] // step) * step)
    return first[0], next(w for w in range(first[1], first[1] + 2 * least + 2 * step, 2 * step) if w >= least)


def check_export(network: Network, kind: str, sizes: Sequence[tuple[int, int]], check: bool) -> None:
    """What ``export`` refuses, before anything is made. Raises InputError."""
    if kind not in FORMATS:
        raise InputError(f"got format '{kind}', {near_matches(kind, FORMATS)}")
    config = network.config
    if not isinstance(config, ModelConfig) or config.position == "relative":
        what = "position 'relative' reads" if isinstance(config, ModelConfig) else "networks of STTR read"
        raise InputError(f"preset '{config.preset}' cannot be exported: {what} tables as wide as the image; use small")
    step = step_of(network, kind)
    least = -(-network.min_side // step) * step, -(-least_width(network) // step) * step
    for height, width in sizes:
        if height % step or width % step or height < least[0] or width < least[1] or max(height, width) > LARGEST:
            raise InputError(f"got size {height}x{width}, expected HxW in multiples of {step} px from {least[0]}x{least[1]} to "
                             f"{LARGEST}x{LARGEST}, for example {CHECKED[0]}x{CHECKED[1]}")  # fmt: skip
    if kind == "onnx":
        need("onnx", *(["onnxruntime"] if check else []))


def facts_of(network: Network, weights: dict[str, Any], kind: str) -> dict[str, str]:
    """What the file says about itself. weights: name, sha256 and preset of what was loaded."""
    step = step_of(network, kind)
    return {
        "format": "left, right (1,3,H,W) float32 RGB in [0,1], rectified -> disparity, occlusion, confidence (1,H,W) float32",
        "disparity_unit": "px of the image that is given",
        "disparity_sign": "x_right = x_left - disparity, disparity >= 0",
        "occlusion": "probability that the right camera does not see the pixel",
        "confidence": "probability that the disparity is within 1 px",
        "granularity": str(step),
        "min_height": str(-(-network.min_side // step) * step),
        "min_width": str(-(-least_width(network) // step) * step),
        "padding": "below and to the right by repeating the border; cut the maps back",
        "precision": "fp32",
        "weights": weights["name"],
        "weights_sha256": weights["sha256"],
        "preset": weights["preset"],
        "version": __version__,
    }


# ---------------------------------------------------------------------------------------------------------------------
# Writing


def need(*modules: str) -> None:
    """Raise InputError unless all of these can be imported."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"{' and '.join(missing)} cannot be imported; install what export needs: {INSTALL}")


def write_onnx(maps: Maps, size: tuple[int, int], facts: dict[str, str], path: Path) -> None:
    """Trace at ``size`` and write one ONNX file with ``facts`` as its metadata."""
    import onnx
    from torch.onnx import register_custom_op_symbolic, unregister_custom_op_symbolic

    own: dict[str, Callable[..., Any]] = {"aten::asinh": _asinh, "aten::unflatten": _unflatten}
    own |= {"aten::mean": _mean, "aten::var": _var}
    for name, symbolic in own.items():
        register_custom_op_symbolic(name, symbolic, OPSET)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of sizes that tracing takes for constants: the parity run finds those that matter
            torch.onnx.export(
                maps,
                _example(size),
                str(path),
                dynamo=False,
                opset_version=OPSET,
                input_names=list(INPUTS),
                output_names=list(OUTPUTS),
                dynamic_axes={name: {2: "height", 3: "width"} for name in INPUTS}
                | {name: {1: "height", 2: "width"} for name in OUTPUTS},
            )
    finally:
        for name in own:
            unregister_custom_op_symbolic(name, OPSET)
    file = onnx.load(str(path))
    file.producer_name, file.producer_version = "quadtree-stereo", __version__
    onnx.helper.set_model_props(file, facts)
    onnx.checker.check_model(file)
    onnx.save(file, str(path))


def _asinh(g: Any, x: Any) -> Any:
    """An operator of ONNX since opset 9 that PyTorch's tracing exporter does not know of."""
    return g.op("Asinh", x)


def _means(g: Any, x: Any, axes: Sequence[int]) -> Any:
    """One axis after the other: onnxruntime adds up all of them in one float32, which loses digits on larger images."""
    for axis in sorted(axes, reverse=True):
        x = g.op("ReduceMean", x, g.op("Constant", value_t=torch.tensor([axis])), keepdims_i=1)
    return x


def _mean(g: Any, x: Any, dim: Any, keepdim: Any, _dtype: Any) -> Any:
    from torch.onnx import symbolic_helper as helper

    assert helper._get_const(keepdim, "i", "keepdim")
    return _means(g, x, helper._get_const(dim, "is", "dim"))


def _var(g: Any, x: Any, dim: Any, unbiased: Any, keepdim: Any) -> Any:
    from torch.onnx import symbolic_helper as helper

    assert not helper._get_const(unbiased, "i", "unbiased") and helper._get_const(keepdim, "i", "keepdim")
    axes = helper._get_const(dim, "is", "dim")
    off = g.op("Sub", x, _means(g, x, axes))
    return _means(g, g.op("Mul", off, off), axes)


def _unflatten(g: Any, x: Any, dim: Any, sizes: Any) -> Any:
    """As PyTorch's own, which however takes the other dimensions for those of the traced size."""
    from torch.onnx import symbolic_helper as helper

    def numbers(values: Sequence[int]) -> Any:
        return g.op("Constant", value_t=torch.tensor(values, dtype=torch.int64))

    rank = helper._get_tensor_rank(x)
    assert rank is not None
    dim = helper._get_const(dim, "i", "dim") % rank
    if helper._is_packed_list(sizes):
        parts = [g.op("Reshape", size, numbers([1])) for size in helper._unpack_list(sizes)]
    else:
        parts = [numbers([size]) for size in helper._get_const(sizes, "is", "sizes")]
    if dim < rank - 1:
        parts.append(g.op("Slice", g.op("Shape", x), numbers([dim + 1]), numbers([rank])))
    else:
        parts[-1] = numbers([-1])
    return g.op("Reshape", x, g.op("Concat", numbers([0] * dim), *parts, axis_i=0))


def write_torch(maps: Maps, size: tuple[int, int], facts: dict[str, str], path: Path) -> None:
    """Export with symbolic sizes, which PyTorch proves to fit, and write a .pt2 file with ``facts`` as ``facts.json`` in it."""
    network = maps.network
    step = step_of(network, "torch")
    height = step * torch.export.Dim("height", min=max(2, network.min_side // step), max=LARGEST // step)
    width = step * torch.export.Dim("width", min=-(-least_width(network) // step), max=LARGEST // step)
    shape = {2: height, 3: width}
    with torch.no_grad():
        program = torch.export.export(maps, _example(size), dynamic_shapes=dict.fromkeys(INPUTS, shape), strict=False)
    torch.export.save(program, str(path), extra_files={"facts.json": json.dumps(facts, indent=1)})


def _example(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    left, right = pair_of(size)
    return torch.from_numpy(left), torch.from_numpy(right)


# ---------------------------------------------------------------------------------------------------------------------
# Running, and the parity of both


def pair_of(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A generated pair of the parity run, as ``inputs_of``."""
    return inputs_of(render_sample(SEED, 0, *size))


def inputs_of(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """The images of a pair as the file takes them: (1, 3, H, W) float32 in [0, 1] each."""
    left, right = (np.ascontiguousarray(x.transpose(2, 0, 1)[None], np.float32) / 255 for x in (sample.left, sample.right))
    return left, right


def open_onnx(path: Path) -> Run:
    """Raises InputError when onnxruntime is missing or does not take the file."""
    need("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base
        raise InputError(f"onnxruntime cannot read '{path}': {str(error).splitlines()[0]}") from None
    return lambda left, right: tuple(session.run(list(OUTPUTS), dict(zip(INPUTS, (left, right), strict=True))))


def open_torch(path: Path) -> Run:
    module = torch.export.load(str(path)).module()

    def run(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, ...]:
        with torch.no_grad():
            return tuple(x.numpy() for x in module(torch.from_numpy(left), torch.from_numpy(right)))

    return run


def parity(maps: Maps, run: Run, sizes: Sequence[tuple[int, int]], traced: tuple[int, int]) -> list[Parity]:
    """Raises StoppedError where the file fails at a size, or is further than LIMIT_PX from the network at any pixel."""
    found = []
    for size in sizes:
        left, right = pair_of(size)
        with torch.no_grad():
            wanted = maps(torch.from_numpy(left), torch.from_numpy(right))[0].numpy()
        try:
            disparity = run(left, right)[0]
        except Exception as error:  # whatever a runtime raises
            reason = str(error).splitlines()[0]
            raise StoppedError(f"the file does not run at {size[0]}x{size[1]} px ({reason}); nothing was kept") from None
        if disparity.shape != wanted.shape:
            given = f"{disparity.shape} instead of {wanted.shape}"
            raise StoppedError(f"the exported file gives a disparity of shape {given}; nothing was kept")
        off = np.abs(disparity.astype(np.float64) - wanted)
        found.append(Parity(*size, size == traced, float(off.mean()), float(off.max())))
        if not off.max() <= LIMIT_PX:  # also where it is NaN
            raise StoppedError(f"at {size[0]}x{size[1]} px the exported file is {off.max():.3g} px from the network (mean "
                               f"{off.mean():.3g}), allowed are {LIMIT_PX} px; nothing was kept, please report it")  # fmt: skip
    return found


def export(
    network: Network,
    weights: dict[str, Any],
    path: Path,
    kind: str = "onnx",
    sizes: Sequence[tuple[int, int]] = (CHECKED,),
    check: bool = True,
) -> dict[str, Any]:
    """Write ``path`` and return what it says about itself and how near it came to the network.

    weights: name, sha256, preset. kind: a key of FORMATS. sizes: (height, width) px of the parity run beside the traced size.
    Raises InputError for an unknown kind, a network or a size that does not fit, and packages that are missing; StoppedError
    when the file is not equal to the network. Nothing is written then.
    """
    check_export(network, kind, sizes, check)
    maps = reference_maps(network)
    traced = traced_size(network, kind)
    facts = facts_of(network, weights, kind) | ({"opset": str(OPSET)} if kind == "onnx" else {"torch": torch.__version__})
    write, open_file = (write_onnx, open_onnx) if kind == "onnx" else (write_torch, open_torch)
    start = time.perf_counter()
    with atomic_write(path) as temporary:
        write(maps, traced, facts, temporary)
        seconds = time.perf_counter() - start
        others = [size for size in sizes if size != traced] or [CHECKED]
        found = parity(maps, open_file(temporary), [traced, *others], traced) if check else []
    return {"file": str(path), "facts": facts, "parity": [asdict(x) for x in found], "seconds": seconds}
