"""What a network looked at to find the disparity of one pixel: attention, transport and every stage, as they were computed.

The network runs once as always and once while it is watched: quadtree operators then walk level by level instead of in fused
kernels (stereo.attention.quadtree.Quadtree.watch), and hooks read what the stages return. Both runs must agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stereo.attention.quadtree import Level, Quadtree
from stereo.inference.anatomy import Anatomy, Place, Stage, anatomy
from stereo.inference.predictor import StereoPredictor, check_pair
from stereo.model.build import Network
from stereo.types import DisparityMap, InputError, StoppedError

TOLERANCE = 0.05  # px between the watched run and the plain one, at the pixel


@dataclass(frozen=True)
class LevelView:
    """What one level of a quadtree did for the token's node. A node of level l stands for 2^l tokens of the row.

    number:  0 is the finest.
    nodes:   (heads, M) int, columns on this level's grid; ``width`` and above name nothing.
    weights: (heads, M), the level's softmax, 0 where a node may not be seen. spoken: the part of them that the message takes.
    kept:    (heads, M) bool: the K best, whose children are looked at on the next level; none on the finest.
    share:   factor of this level in the message. width: nodes of the row.
    """

    number: int
    nodes: np.ndarray
    weights: np.ndarray
    spoken: np.ndarray
    kept: np.ndarray
    share: float
    width: int


@dataclass(frozen=True)
class AttentionView:
    """One attention of the left view's token: ``kind`` "self" looks at its own row, "cross" at the right view's.

    layer: from 1. levels: coarsest first; none of dense attention. tokens: (heads, w), what each token of the row weighs in
    the message: the weight of a node is spread over the tokens that it is the mean of, over all levels together. Sums to 1.
    """

    layer: int
    kind: str
    levels: tuple[LevelView, ...]
    tokens: np.ndarray


@dataclass(frozen=True)
class TransportView:
    """The token's row of the transport: mass (J,) on the right tokens columns (J,), and on no match at all. Sums to 1."""

    columns: np.ndarray
    mass: np.ndarray
    dustbin: float


@dataclass(frozen=True)
class Explanation:
    """Everything about pixel (x, y) of the left image.

    token: (column, row) of the pixel's token, of ``stride`` px; tokens: number of them in a row.
    stages: (name, disparity in px of the image) after every stage, in their order; the last is the final one.
    disp px, occlusion and confidence in [0, 1]: the pixel's results. match_x: px, the column of the match in the right image.
    deviation: px between the watched and the plain run at the pixel; agreeing: share of all pixels within TOLERANCE.
    """

    x: int
    y: int
    token: tuple[int, int]
    stride: int
    tokens: int
    attentions: tuple[AttentionView, ...]
    transport: TransportView
    stages: tuple[tuple[str, float], ...]
    disp: float
    occlusion: float
    confidence: float
    deviation: float
    agreeing: float

    @property
    def match_x(self) -> float:
        return self.x - self.disp


@dataclass
class Record:
    """What the hooks have seen of one run, for one token. A run that is repeated overwrites it."""

    x: int
    y: int
    anatomy: Anatomy
    levels: dict[Place, dict[int, LevelView]] = field(default_factory=dict)
    dense: dict[Place, np.ndarray] = field(default_factory=dict)
    transport: TransportView | None = None
    grid: tuple[int, ...] = (0, 0)  # height and width in tokens
    width: int = 0  # px of the images, padding included
    coarse: float = 0.0  # px
    stages: dict[str, float] = field(default_factory=dict)  # px, of the stages behind the match

    @property
    def token(self) -> tuple[int, int]:
        """(column, row). The last token also stands for what is left of the image behind it."""
        stride, (height, width) = self.anatomy.stride, self.grid
        return min(self.x // stride, width - 1), min(self.y // stride, height - 1)

    def see_images(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.width = args[0].shape[-1]

    def see_tokens(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.grid = self.anatomy.grid(args[0])

    def see_level(self, operator: Quadtree, place: Place, level: Level) -> None:
        column, row = (at >> level.number for at in self.token)
        nodes, weights, spoken = (_array(x[0, row, column]) for x in (level.candidates, level.weights, level.spoken))
        kept = np.zeros(nodes.shape, bool)
        if level.best is not None:
            np.put_along_axis(kept, _array(level.best[0, row, column]), True, axis=-1)
        width = level.weights.shape[2]  # rows of queries and keys are equally wide
        kept &= nodes < width
        seen = self.levels.setdefault(place, {})
        share = float(operator.level_shares(max(level.number, *seen, 0) + 1)[level.number])  # the coarsest comes first
        seen[level.number] = LevelView(level.number, nodes, weights, spoken, kept, share, width)

    def see_dense(self, place: Place, operator: nn.Module, args: tuple[Tensor, ...], options: dict[str, Any]) -> None:
        """The weights are what one-hot values come out as: row and position are those of the run, other rows play no part."""
        column, row = self.token
        q, k = (x[:1, row : row + 1] for x in args[:2])
        side = options["side"]
        options = options | {"side": None if side is None else side[:1]}
        parts = []
        for ones in torch.eye(k.shape[2], dtype=k.dtype, device=k.device).split(k.shape[-1], dim=1):
            values = torch.zeros_like(k)
            values[0, 0, :, :, : ones.shape[1]] = ones[:, None]
            parts.append(operator.forward(q, k, values, **options)[0, 0, column, :, : ones.shape[1]])
        self.dense[place] = _array(torch.cat(parts, dim=-1))

    def see_match(self, module: nn.Module, args: tuple[Tensor, ...], result: Any) -> None:
        column, row = self.token
        transport = self.anatomy.transport(result)
        mass, index = (x[:1, row : row + 1] for x in (transport.mass, transport.index))
        self.coarse = float(self.anatomy.coarse(mass, index, self.width)[0, 0, column])
        dustbin = float(transport.dustbin[0, row, column])
        self.transport = TransportView(_array(index[0, 0, column]), _array(mass[0, 0, column]), dustbin)

    def see_stage(self, stage: Stage, module: nn.Module, args: tuple[Tensor, ...], result: Any) -> None:
        values, factor = stage.read(result), stage.factor
        self.stages[stage.name] = float(values[0, self.y // factor, self.x // factor]) * factor


def explain(
    predictor: StereoPredictor, left: np.ndarray, right: np.ndarray, x: int, y: int
) -> tuple[Explanation, DisparityMap]:
    """Why pixel (x, y) of the left image got its disparity, and the maps of the plain run.

    left, right: (H, W, 3) uint8 RGB, rectified. Use a predictor in fp32: in bf16 both runs choose other nodes here and there.
    Raises InputError for a bad pair, a pixel outside the image, a network without tokens to show, and a pair that memory
    holds in tiles only; StoppedError when the watched run and the plain one disagree at the pixel.
    """
    check_pair(left, right)
    check_pixel(x, y, left)
    height, width = left.shape[:2]
    anatomy(predictor.model)  # before anything runs
    plain = predictor.predict(left, right)
    if predictor.plan is not None and predictor.plan.parts > 1:
        raise InputError(
            f"{width}x{height} px fit into memory as {predictor.plan} only; explain needs the whole: give smaller images"
        )
    with watching(predictor.model, x, y) as record:
        watched = predictor.predict(left, right)
    difference = np.abs(watched.disp - plain.disp)
    deviation, agreeing = float(difference[y, x]), float((difference <= TOLERANCE).mean())
    if deviation > TOLERANCE:  # elsewhere they may: a rounding chooses between two nodes that are as good, and that spreads
        told = f"{deviation:.3f} px apart at the pixel, {agreeing:.2%} of all pixels within {TOLERANCE} px"
        raise StoppedError(f"the watched run is not the plain one: {told}; nothing was written, take a pixel beside it")
    return _explanation(record, watched, deviation, agreeing), plain


def check_pixel(x: int, y: int, left: np.ndarray) -> None:
    """Raise InputError unless (x, y) is a pixel of ``left`` (H, W, 3)."""
    height, width = left.shape[:2]
    if not (0 <= x < width and 0 <= y < height):
        raise InputError(f"got the pixel {x} {y}; the left image has x from 0 to {width - 1} and y from 0 to {height - 1}")


@contextmanager
def watching(model: Network, x: int, y: int) -> Iterator[Record]:
    """Inside the block the network's runs leave in the record what they do for pixel (x, y) of the first pair.

    Raises InputError where ``anatomy`` does.
    """
    record = Record(x, y, anatomy(model))
    with ExitStack() as stack:
        for place, operator in record.anatomy.operators.items():
            if isinstance(operator, Quadtree):
                operator.watch = partial(record.see_level, operator, place)
                stack.callback(setattr, operator, "watch", None)
            else:
                hook = operator.register_forward_pre_hook(partial(record.see_dense, place), with_kwargs=True)
                stack.callback(hook.remove)
        stack.callback(model.backbone.register_forward_pre_hook(record.see_images).remove)
        stack.callback(model.transformer.register_forward_pre_hook(record.see_tokens).remove)
        stack.callback(record.anatomy.matching.register_forward_hook(record.see_match).remove)
        for stage in record.anatomy.stages:
            stack.callback(stage.module.register_forward_hook(partial(record.see_stage, stage)).remove)
        yield record


def _explanation(record: Record, maps: DisparityMap, deviation: float, agreeing: float) -> Explanation:
    assert record.transport is not None
    x, y = record.x, record.y
    disp = float(maps.disp[y, x])
    stages = [("coarse match", record.coarse)]
    for stage in record.anatomy.stages:
        before = stages[-1][1] if stage.adds else 0.0
        stages.append((stage.name, before + record.stages[stage.name]))
    attentions = []
    for place in record.anatomy.operators:
        levels = tuple(level for _, level in sorted(record.levels.get(place, {}).items(), reverse=True))
        tokens = record.dense[place] if place in record.dense else token_weights(levels)
        attentions.append(AttentionView(*place, levels, tokens))
    return Explanation(
        x=x,
        y=y,
        token=record.token,
        stride=record.anatomy.stride,
        tokens=record.grid[1],
        attentions=tuple(attentions),
        transport=record.transport,
        stages=(*stages, (record.anatomy.last, disp)),
        disp=disp,
        occlusion=float(maps.occlusion[y, x]),
        confidence=float(maps.confidence[y, x]),
        deviation=deviation,
        agreeing=agreeing,
    )


def token_weights(levels: tuple[LevelView, ...]) -> np.ndarray:
    """(heads, w): what each token weighs in the message. A node is the mean of its children, so they share its weight alike."""
    total = np.zeros((levels[0].nodes.shape[0], 0))
    for level in levels:
        here = np.zeros((len(level.nodes), level.width))
        for head, (nodes, weights) in enumerate(zip(level.nodes, level.spoken, strict=True)):
            exists = nodes < level.width
            np.add.at(here[head], nodes[exists], level.share * weights[exists])
        if total.shape[1]:
            children = np.full(total.shape[1], 2)
            children[-1] -= 2 * total.shape[1] - level.width  # the last node of an odd row has one
            total = np.repeat(total / children, children, axis=1)
            here += total
        total = here
    return total


def _array(x: Tensor) -> np.ndarray:
    x = x.detach().cpu()
    return (x.float() if x.is_floating_point() else x).numpy()
