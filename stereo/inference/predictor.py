"""Two photographs in, a DisparityMap out: padding, memory and number formats live here, so that the network never sees them."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stereo.config import near_matches
from stereo.engine.memory import free_bytes
from stereo.inference.passes import MIN_SIDE, brought_back, check_sizes, fits, merged, resized
from stereo.inference.planning import HEADROOM, HELD_BYTES, WORK_SPACE, Plan, Span, binary_size, cut, plan_bands, plan_blocks
from stereo.model.build import Network
from stereo.types import DisparityMap, InputError

PRECISIONS = ("auto", "fp32", "bf16")
PLENTY = 64  # bytes per px and channel, times (1 + width / 1024): with so much free, what a network needs is not asked
SMALL_PAIR = 2**20  # px: a larger one shows its details in tokens enough, and several passes would take long
REACH_MARGIN = 1.2  # of the largest disparity of a smaller picture
TOLD_OF_MEMORY = ("out of memory", "allocate memory", "not enough memory", "bad_alloc", "ALLOC_FAILED")

logger = logging.getLogger(__name__)


def check_pair(left: np.ndarray, right: np.ndarray) -> None:
    """Raise InputError unless both are uint8 RGB (H, W, 3) of one size, H and W at least 32 px."""
    for side, image in (("left", left), ("right", right)):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise InputError(f"the {side} image is {image.dtype} {image.shape}, expected uint8 RGB of shape (H, W, 3)")
    sizes = [f"{image.shape[1]}x{image.shape[0]}" for image in (left, right)]
    if sizes[0] != sizes[1]:
        raise InputError(f"the left image is {sizes[0]} px and the right one {sizes[1]} px; a rectified pair has one size")
    if min(left.shape[:2]) < MIN_SIDE:
        raise InputError(f"the images are {sizes[0]} px; expected at least {MIN_SIDE} px on each side")


def computes_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16; without them it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # not in the oldest PyTorch allowed
    return device.type == "cpu" and any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))


def is_out_of_memory(error: Exception) -> bool:
    """True of MemoryError, and of what PyTorch, its CPU allocator, cuDNN and C++ raise in its place."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in TOLD_OF_MEMORY)


def shrink(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 -> the same at ``size`` (width, height) px, each pixel the mean of what it covers."""
    return np.asarray(cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA), np.uint8)


class _Pair(NamedTuple):
    """What one pass is given. limit: px of these images that no disparity exceeds, None when it is not known."""

    left: np.ndarray
    right: np.ndarray
    limit: float | None


class StereoPredictor:
    """Runs a network on pairs of any size from 32x32 px on, in one piece or, where memory is short, in tiles.

    precision: fp32, bf16 (autocast: products in bfloat16, sums, softmax and transport in float32), or auto: bf16 where the
    device computes in it and the network declares that it bears it (``bears_bf16``). ``self.precision`` says which it became.
    Raises InputError for another one.
    compiled: let torch.compile translate the network, anew for the first two sizes that come, then once for all: seconds on a
    GPU, minutes on a CPU, where nothing is gained by it.
    max_memory_bytes: what a prediction may take on top of what the process holds; None means what is free when it starts.
    max_disparity: px that no disparity exceeds. It is needed only where even thin bands are too wide and have to be cut;
    None means that the pair is matched at a smaller size first. Raises InputError when either is not positive.
    sizes: the network runs on the pair at so many times its own size, once for each, and the maps are merged
    (stereo.inference.passes): (0.5, 1, 2) is more accurate than (1,) and takes five times as long. None: what the network gains
    by (``finer_sizes``), on pairs of up to SMALL_PAIR px, as far as memory and the sides allow. Raises InputError for no
    size, or one outside 0.25 .. 4.
    passes: the sizes that the last pair was matched at. plan: how it was cut, in the pass that was cut most; None before the
    first pair.

    Images are padded below and to the right by repeating their border to the sizes that the network declares
    (``granularity``, ``min_side``), and the maps are cut back.
    """

    def __init__(
        self,
        model: Network,
        max_memory_bytes: int | None = None,
        max_disparity: float | None = None,
        precision: str = "auto",
        compiled: bool = False,
        sizes: Sequence[float] | None = (1.0,),
    ):
        if precision not in PRECISIONS:
            raise InputError(f"got precision '{precision}', {near_matches(precision, PRECISIONS)}")
        for name, given in (("max_memory_bytes", max_memory_bytes), ("max_disparity", max_disparity)):
            if given is not None and not given > 0:
                raise InputError(f"got {name} {given}, expected a positive number")
        check_sizes(sizes)
        self.sizes = sizes if sizes is None else tuple(sizes)
        self.model = model.eval()
        self._compiled = torch.compile(model.predict_normalised) if compiled else None
        if precision == "auto":
            precision = "bf16" if model.bears_bf16 and computes_bf16(self.device) else "fp32"
        self.precision = precision
        self.max_memory_bytes, self.max_disparity = max_memory_bytes, max_disparity
        self.plan: Plan | None = None
        self.passes: tuple[float, ...] = ()
        self._traced: dict[tuple[int, int], int] = {}
        self._said: set[str] = set()

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def predict(self, left: np.ndarray, right: np.ndarray) -> DisparityMap:
        """left, right: (H, W, 3) uint8 RGB, rectified. Returns float32 (H, W) maps of the left view.

        Raises InputError for other types, sizes that differ, or sides below 32 px, and when memory does not suffice.
        """
        check_pair(left, right)
        check_sizes(self.sizes, *left.shape[:2])
        passes: dict[float, DisparityMap] = {}
        plans: list[Plan] = []
        for size in self.sizes_for(*left.shape[:2]):
            try:
                maps, plan = self._pass(left, right, size)
            except InputError as error:
                if self.sizes is not None or not passes:  # nobody has asked for this pass
                    raise
                logger.info("without a pass at %g times the size: %s", size, error)
                continue
            passes[size] = maps
            plans.append(plan)
        self.passes, self.plan = tuple(passes), max(plans, key=lambda plan: plan.parts)
        return merged(passes)

    def sizes_for(self, height: int, width: int) -> tuple[float, ...]:
        """Of the passes over a pair of such sides."""
        if self.sizes is not None:
            return self.sizes
        if height * width > SMALL_PAIR:
            return (1.0,)
        return tuple(size for size in self.model.finer_sizes if fits(size, height, width))

    def _pass(self, left: np.ndarray, right: np.ndarray, size: float) -> tuple[DisparityMap, Plan]:
        """The maps at ``size`` times the pair's own size, brought back to it, and how the copy was cut."""
        limit = None if self.max_disparity is None else self.max_disparity * size
        pair = _Pair(resized(left, size), resized(right, size), limit)
        budget = self.max_memory_bytes if self.max_memory_bytes is not None else free_bytes(self.device)
        result = self._attempt(pair, budget, "free" if self.max_memory_bytes is None else "allowed")
        if result is None:
            budget = self._half(pair.left.shape, budget)
            logger.warning("out of memory with %s: trying once more with %s", self.plan, binary_size(budget))
            result = self._attempt(pair, budget, "left to try after memory ran out")
        if result is None or self.plan is None:
            shown = f"{pair.left.shape[1]}x{pair.left.shape[0]} px"
            raise InputError(f"out of memory on {shown}, also with {self.plan}: close other programs, or give smaller images")
        return brought_back(result, *left.shape[:2]), self.plan

    def predict_both(self, left: np.ndarray, right: np.ndarray) -> tuple[DisparityMap, DisparityMap]:
        """The maps of the left and of the right view. In a mirror the right camera is the left one, so it is a second run."""
        mirrored = self.predict(right[:, ::-1], left[:, ::-1])
        unmirrored = (np.ascontiguousarray(x[:, ::-1]) for x in (mirrored.disp, mirrored.occlusion, mirrored.confidence))
        return self.predict(left, right), DisparityMap(*unmirrored)

    # -----------------------------------------------------------------------------------------------------------------
    # Memory

    def estimate(self, height: int, width: int) -> int:
        """Most bytes that the network holds for a pair of such padded sides: traced without running it, once for each size."""
        from stereo.engine.count import trace_bytes  # imports Triton wherever that is installed; most pairs need no trace

        size = height, width
        if size not in self._traced:
            shape = (2, 3, *size)
            with self._autocast():
                traced = trace_bytes(self.model.predict_normalised, shape, device=self.device)
            self._traced[size] = int(HEADROOM * (traced + 4 * math.prod(shape))) + WORK_SPACE
        return self._traced[size]

    def _half(self, shape: tuple[int, ...], budget: int | None) -> int:
        """The budget after a failure: half of what was allowed, and of what was thought to be needed."""
        height, width = self._padded(*shape[:2])
        needed = self.estimate(*(self.plan.side if self.plan else (height, width))) + height * width * HELD_BYTES
        return min(needed, needed if budget is None else budget) // 2

    def _attempt(self, pair: _Pair, budget: int | None, source: str) -> DisparityMap | None:
        """Plan and run; None when memory ran out. Outside of ``except`` whatever the failed run held is free again."""
        try:
            self.plan = self._make_plan(pair, budget, source)
            return self._run(pair.left, pair.right, self.plan)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _make_plan(self, pair: _Pair, budget: int | None, source: str) -> Plan:
        """Raises InputError when not even the smallest parts fit into ``budget``; ``source`` says what that budget is."""
        height, width = size = self._padded(*pair.left.shape[:2])
        plenty = PLENTY * self.model.config.channels * height * width * (1 + width / 1024)
        if budget is None or (source == "free" and plenty <= budget):
            return Plan(cut(height, height, 0, 0), cut(width, width, 0, 0), int(plenty))
        margin, step = self.model.row_margin, self.model.tile_step
        plan = plan_bands(size, budget, self.estimate, margin, step)
        if plan.bytes > budget:
            plan = plan_blocks(size, self._reach(pair, budget), budget, self.estimate, margin, step)
        there = f"{binary_size(budget)} are {source}"
        if plan.bytes > budget:
            needed = f"{pair.left.shape[1]}x{pair.left.shape[0]} px need about {binary_size(plan.bytes)} even as {plan}"
            raise InputError(f"{needed}, {there}: give smaller images, or more with --max-memory")
        if plan.parts > 1 and str(plan) not in self._said:
            self._said.add(str(plan))
            differs = self.model.depends_on_all or len(plan.columns) > 1
            note = "; the maps are not quite those of the whole image" if differs else ""
            whole = binary_size(self.estimate(*size))
            logger.info("%s (whole image needs about %s, %s)%s", plan, whole, there, note)
        return plan

    def _reach(self, pair: _Pair, budget: int) -> int:
        """px: no match is expected further left. From a run on the pair made smaller until bands of it fit."""
        left, right, limit = pair
        height, width = left.shape[:2]
        if limit is not None:
            return min(math.ceil(limit), width)
        small = width, height
        while min(small) >= 2 * MIN_SIDE:
            small = small[0] // 2, small[1] // 2
            size = self._padded(small[1], small[0])
            plan = plan_bands(size, budget, self.estimate, self.model.row_margin, self.model.tile_step)
            if plan.bytes <= budget:
                maps = self._run(shrink(left, small), shrink(right, small), plan)
                sure = maps.disp[(maps.confidence > 0.5) & (maps.occlusion < 0.5)]
                largest = float((sure if sure.size else maps.disp).max()) * width / small[0]
                return min(math.ceil(REACH_MARGIN * largest), width)
        raise InputError(f"{width}x{height} px do not fit into {binary_size(budget)} at any size: give more with --max-memory")

    # -----------------------------------------------------------------------------------------------------------------
    # Running

    def _run(self, left: np.ndarray, right: np.ndarray, plan: Plan) -> DisparityMap:
        """Statistics are those of the whole images whatever the plan, so that bands equal them."""
        height, width = left.shape[:2]
        maps = np.empty((3, plan.rows[-1].stop, plan.columns[-1].stop), np.float32)
        with torch.inference_mode(), self._autocast():
            images = self.model.normalise(*(self._prepare(image) for image in (left, right)))
            for rows in plan.rows:
                for columns in plan.columns:
                    maps[:, rows.start : rows.stop, columns.start : columns.stop] = self._run_part(images, rows, columns)
        return DisparityMap(*(np.ascontiguousarray(x[:height, :width]) for x in maps))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def _run_part(self, images: Tensor, rows: Span, columns: Span) -> np.ndarray:
        """images (2, 3, H, W) normalised -> disparity, occlusion, confidence (3, ., .) of what is kept of the part."""
        part = images[:, :, rows.first : rows.last, columns.first : columns.last]
        # Parts are copied to lie like the whole in memory: convolutions are slow on anything else.
        channels_last = images.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        predict = self._compiled or self.model.predict_normalised
        maps = predict(part.contiguous(memory_format=layout)).to_map()
        kept = (
            slice(rows.start - rows.first, rows.stop - rows.first),
            slice(columns.start - columns.first, columns.stop - columns.first),
        )
        return np.stack([x[kept] for x in (maps.disp, maps.occlusion, maps.confidence)])

    def _padded(self, height: int, width: int) -> tuple[int, int]:
        """The sides that the network takes, for an image of these."""
        step, least = self.model.granularity, self.model.min_side
        return max(height, least) + -max(height, least) % step, max(width, least) + -max(width, least) % step

    def _prepare(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 -> (1, 3, H', W') float in [0, 1] on the network's device, H' and W' as it wants them."""
        x = torch.from_numpy(np.ascontiguousarray(image)).to(self.device).permute(2, 0, 1)[None].float() / 255
        height, width = self._padded(*image.shape[:2])
        return F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2]), mode="replicate")
