"""What networks and operators cost: parameters, multiply-adds, memory and time, over sizes.

One counter for all of them: stereo.engine.count. Time and memory are measured in a process of their own for each case, so that
none inherits another's peak.
"""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stereo.attention import ATTENTION, build_attention, options_of
from stereo.config import PRESETS, near_matches, preset
from stereo.engine import count
from stereo.engine.count import count_forward
from stereo.engine.machine import cpu_name
from stereo.engine.memory import free_bytes, keep_freed_memory
from stereo.image_io import atomic_write
from stereo.kernels import ON_A_CPU
from stereo.model.build import build_model
from stereo.types import InputError
from stereo.version import __version__

SIZES = ((540, 960), (375, 1242), (1080, 1920), (2160, 3840))  # (height, width) px
WIDTHS = (480, 960, 1440, 1920)  # px, at the height of HEIGHT: growth with the width
HEIGHT = 135

# Operators alone work on the tokens of `sttr`: both views, stride 3, 128 channels in 8 heads, along the row, without positions.
STRIDE, HEADS, HEAD_DIM, VIEWS = 3, 8, 16, 2
OPERATOR_OPTIONS = {"levels": 4, "topk": 6, "pool": "mean", "head_dim": HEAD_DIM}

HEADROOM = 1.25  # of the traced memory: work space of convolutions, fragmentation
PROTOCOL = f"""\
networks: one pair, fp32, no gradient; a side that a network cannot take is rounded up to the next that it can (run_size).
operators: q, k, v -> message alone, for the {VIEWS} views of a pair on sttr's tokens (stride {STRIDE}), {HEADS} heads of
{HEAD_DIM}, scope row, no positions; {OPERATOR_OPTIONS}.
seconds: median of the repeats, after one call that is not timed, freed memory kept in the process.
attention: the part of macs inside the operators of a network, relative positions included, the match not.
""" + (count.__doc__ or "").partition("\n\n")[2]


@dataclass(frozen=True)
class Case:
    """One line of the table: a preset on a pair of height x width px, or an operator on its tokens."""

    kind: str  # preset | operator
    name: str
    height: int
    width: int
    kernel: str = "auto"
    settings: dict[str, Any] = field(default_factory=dict)  # of a preset, where they differ: {"attention": "dense"}

    def build(self) -> tuple[nn.Module, tuple[int, int]]:
        """The module, in evaluation, and the size that it runs on: px of a network, tokens of an operator."""
        if self.kind == "operator":
            offered = OPERATOR_OPTIONS | {"kernel": self.kernel}
            chosen = {key: value for key, value in offered.items() if key in options_of(self.name)}
            rows, columns = (len(range(STRIDE // 2, side, STRIDE)) for side in (self.height, self.width))
            return build_attention(self.name, **chosen).eval(), (rows, columns)
        model = build_model(replace(preset(self.name), **self.settings), self.kernel).eval()
        height, width = (
            -(-max(side, model.min_side) // model.granularity) * model.granularity for side in (self.height, self.width)
        )
        return model, (height, width)

    def inputs(self, size: tuple[int, int], make: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        if self.kind == "operator":
            return tuple(make(VIEWS, *size, HEADS, HEAD_DIM) for _ in "qkv")
        return tuple(make(1, 3, *size) for _ in ("left", "right"))


def plan(
    presets: Sequence[str] | None, operators: Sequence[str] | None, sizes: Sequence[tuple[int, int]], kernel: str
) -> list[Case]:
    """Every case, presets first; None means all of them. Raises InputError for an unknown name or an impossible size."""
    for given, allowed, what in (
        (presets, PRESETS, "preset"), (operators, ATTENTION, "operator"), ((kernel,), ("auto", *ON_A_CPU), "kernel")
    ):  # fmt: skip
        for name in given or ():
            if name not in allowed:
                raise InputError(f"unknown {what} '{name}': {near_matches(name, allowed)}")
    for height, width in sizes:
        if min(height, width) < STRIDE:
            raise InputError(f"got the size {height}x{width}, expected at least {STRIDE}x{STRIDE} px")
    rows = [("preset", name) for name in (PRESETS if presets is None else presets)]
    rows += [("operator", name) for name in (ATTENTION if operators is None else operators)]
    cases = [Case(kind, name, *size, kernel) for size in dict.fromkeys(sizes) for kind, name in rows]
    if not cases:
        raise InputError("nothing to do: name at least one preset or operator, and one of --sizes or --widths")
    return cases


def parse_size(text: str) -> tuple[int, int]:
    """'540x960' -> (540, 960), height first. Raises InputError."""
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise InputError(f"got the size '{text}', expected HEIGHTxWIDTH in px, for example 540x960")
    return int(height), int(width)


@dataclass(frozen=True)
class Limits:
    """How the measuring goes about it. memory_bytes: what a case may need; None means what is free when it starts."""

    repeats: int = 5
    threads: int = 0  # 0 leaves PyTorch's choice
    timeout: float = 900.0  # seconds for one case, all repeats
    memory_bytes: int | None = None


def bench(cases: Sequence[Case], limits: Limits | None, path: Path) -> Iterator[dict[str, Any]]:
    """Count every case, and measure it unless ``limits`` is None; the JSON at ``path`` holds all lines so far at any time.

    A line that could not be measured has its reason in "skipped"; its counts are there all the same.
    """
    rows: list[dict[str, Any]] = []
    facts = {
        "version": __version__,
        "torch": torch.__version__,
        "cpu": cpu_name(),
        "protocol": PROTOCOL,
        "measured": None if limits is None else asdict(limits),
        "planned": len(cases),
    }
    for case in cases:
        row = count_case(case)
        if limits is not None:
            row |= measure_case(case, limits)
        rows.append(row)
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(facts | {"growth": growth(rows), "rows": rows}, indent=1) + "\n", encoding="utf-8")
        yield row


def count_case(case: Case) -> dict[str, Any]:
    """What needs no clock. Parts are the stages of a network; "attention" is inside its transformer."""
    module, size = case.build()
    counted = count_forward(module, *case.inputs(size, torch.empty))
    attention = sum(macs for name, macs in counted.parts.items() if name.endswith(".operator"))
    return asdict(case) | {
        "run_size": list(size),
        "parameters": counted.parameters,
        "macs": counted.macs,
        "attention": counted.macs if case.kind == "operator" else attention,
        "elementwise": counted.elementwise,
        "live_bytes": counted.live_bytes,
        "live_parts": counted.live_parts,
        "parts": {name: macs for name, macs in counted.parts.items() if "." not in name},
        "seconds": None,
        "peak_bytes": None,
        "skipped": None,
    }


def measure_case(case: Case, limits: Limits) -> dict[str, Any]:
    """Median seconds and peak memory of a fresh process, or the reason why there are none."""
    module, size = case.build()
    shapes = case.inputs(size, torch.empty)
    # Traced with the products that will run: matmul's dense rows need other memory than the definition's gathers.
    held = count_forward(module, *shapes, kernel="reference" if case.kernel == "cpp" else case.kernel)
    needed = HEADROOM * (held.live_bytes + sum(x.nbytes for x in (*shapes, *module.parameters())))
    free = limits.memory_bytes if limits.memory_bytes is not None else free_bytes()
    if free is not None and needed > free:
        return {"skipped": f"needs about {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"}
    del module, shapes
    task = json.dumps({"case": asdict(case), "repeats": limits.repeats, "threads": limits.threads})
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", "from stereo.engine.bench import worker; worker()"]
    try:
        done = subprocess.run(
            command, input=task, capture_output=True, text=True, timeout=limits.timeout, env=os.environ | {"PYTHONPATH": paths}
        )
    except subprocess.TimeoutExpired:
        return {"skipped": f"took longer than {limits.timeout:.0f} s"}
    if done.returncode < 0:
        return {"skipped": f"its process was ended by signal {-done.returncode}, most likely for want of memory"}
    if done.returncode:
        return {"skipped": (done.stderr.strip().splitlines() or ["failed without a message"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def worker() -> None:
    """The fresh process: a task on stdin, its measurements on stdout."""
    task = json.load(sys.stdin)
    case = Case(**task["case"])
    if task["threads"]:
        torch.set_num_threads(task["threads"])
    torch.manual_seed(0)
    module, size = case.build()
    inputs = case.inputs(size, torch.rand)
    before = peak_bytes(reset=True)
    seconds = []
    with torch.no_grad():
        module(*inputs)  # warms up
        peak = peak_bytes() - before
        keep_freed_memory()  # after the peak, which is that of the allocator as it comes
        for _ in range(task["repeats"]):
            start = time.perf_counter()
            module(*inputs)
            seconds.append(time.perf_counter() - start)
    print(json.dumps({
        "seconds": statistics.median(seconds), "all_seconds": seconds, "peak_bytes": peak, "threads": torch.get_num_threads()
    }))  # fmt: skip


def peak_bytes(reset: bool = False) -> int:
    """Most memory that this process has held. ``reset`` forgets what it held before, where the system can.

    Linux's VmHWM and not ru_maxrss where there is the choice: a new process inherits the latter from the one that started it.
    """
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except (OSError, IndexError):
        import resource  # Windows has none

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def growth(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """How time and peak memory grow with the width: the slopes of least-squares lines through their logarithms.

    One entry for each network or operator that was measured at three widths or more of one height; 1 is linear, 2 quadratic.
    """
    groups: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for row in rows:
        if row["seconds"] is not None:
            groups.setdefault((row["kind"], row["name"], row["height"]), []).append(row)
    found = []
    for (kind, name, height), group in groups.items():
        widths = [math.log(row["width"]) for row in group]
        if len(set(widths)) >= 3:
            slopes = {
                f"{key}_slope": statistics.linear_regression(widths, [math.log(row[key]) for row in group]).slope
                for key in ("macs", "seconds", "peak_bytes")
            }
            found.append({"kind": kind, "name": name, "height": height, "widths": [row["width"] for row in group]} | slopes)
    return found


# ---------------------------------------------------------------------------------------------------------------------
# The table

BASELINES = {"preset": "sttr", "operator": "dense"}
HOLDERS = ("backbone", "tokenizer", "transformer", "matching", "adjust", "refine", "sharpen")
STAGES = ("backbone", "tokenizer", "attention", "projections", "matching", "adjust", "refine", "sharpen")


def format_rows(rows: Sequence[dict[str, Any]]) -> str:
    """All lines as text, each with its share of the baseline's multiply-adds at that size; then the networks' stages."""
    baseline = {(r["kind"], r["height"], r["width"]): r for r in rows if r["name"] == BASELINES[r["kind"]]}

    def share(row: dict[str, Any], key: str) -> str:
        base = baseline.get((row["kind"], row["height"], row["width"]))
        return f"{100 * row[key] / base[key]:.1f}" if base and base[key] else "-"

    lines = [["", "size px", "params M", "GMAC", "%", "attention", "%", "elementwise G", "traced MB", "peak MB", "s", ""]]
    for row in rows:
        lines.append([
            row["name"] if row["kind"] == "preset" else f"({row['name']})",
            f"{row['height']}x{row['width']}",
            f"{row['parameters'] / 1e6:.3f}",
            f"{row['macs'] / 1e9:.3f}",
            share(row, "macs"),
            f"{row['attention'] / 1e9:.3f}",
            share(row, "attention"),
            f"{row['elementwise'] / 1e9:.3f}",
            f"{row['live_bytes'] / 1e6:.0f}",
            "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:.0f}",
            "-" if row["seconds"] is None else f"{row['seconds']:.3f}",
            f"skipped: {row['skipped']}" if row["skipped"] else "",
        ])  # fmt: skip
    text = _aligned(lines)
    networks = [row for row in rows if row["kind"] == "preset"]
    if networks:
        lines = [["GMAC by stage", "size px", *STAGES]]
        lines += [[r["name"], f"{r['height']}x{r['width']}", *_stages(r)] for r in networks]
        text += "\n\n" + _aligned(lines)
        lines = [["traced MB while in", "size px", *HOLDERS]]
        for row in networks:
            held = [row["live_parts"].get(stage) for stage in HOLDERS]
            cells = ["-" if bytes_ is None else f"{bytes_ / 1e6:.0f}" for bytes_ in held]
            lines.append([row["name"], f"{row['height']}x{row['width']}", *cells])
        text += "\n\n" + _aligned(lines)
    if grown := growth(rows):
        lines = [["growth with the width, log-log slope", "height px", "GMAC", "s", "peak MB"]]
        slopes = ("macs_slope", "seconds_slope", "peak_bytes_slope")
        lines += [[row["name"], str(row["height"]), *(f"{row[key]:.2f}" for key in slopes)] for row in grown]
        text += "\n\n" + _aligned(lines)
    return f"{text}\n\n(operators alone) in brackets; %: of sttr, or (dense), of that size; traced: what the definition holds"


def _stages(row: dict[str, Any]) -> list[str]:
    parts = row["parts"] | {"attention": row["attention"]}
    parts["projections"] = parts.pop("transformer") - row["attention"]
    return [f"{parts[stage] / 1e9:.2f}" if stage in parts else "-" for stage in STAGES]


def _aligned(lines: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = []
    for line in lines:
        cells = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        text.append("  ".join([line[0].ljust(widths[0]), *cells]).rstrip())
    text.insert(1, "-" * max(map(len, text)))
    return "\n".join(text)
