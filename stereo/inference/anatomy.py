"""Where in a network its decisions can be watched: the operators of its layers, its match, and the stages behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stereo.attention.dense import DenseAttention
from stereo.attention.quadtree import Quadtree
from stereo.model.backbone import STRIDE
from stereo.model.build import Network
from stereo.model.matching import window_disparity, window_sums
from stereo.model.refine import Refine
from stereo.model.sharpen import Sharpen
from stereo.model.stereo_model import StereoModel
from stereo.model.sttr.network import Sttr
from stereo.types import InputError, Transport

Place = tuple[int, str]  # layer, counted from 1, and "self" or "cross"


@dataclass(frozen=True)
class Stage:
    """A module that returns a disparity map (B, h, w) in px of its own width; ``factor`` of them make the image's.

    adds: it returns what is added to the map of the stage before.
    """

    name: str
    module: nn.Module
    factor: int
    read: Callable[[Any], Tensor]
    adds: bool = False


@dataclass(frozen=True)
class Anatomy:
    """What can be watched of one network.

    stride:     px of the image per token, either way.
    grid:       what the transformer is given -> (height, width) in tokens.
    operators:  those that make the left view's messages; where one is called for the right view first, the last call counts.
    transport:  reads the match from what ``matching`` returns.
    coarse:     (mass, index (B, h, w, J), width of the image) -> disparity (B, h, w) in px, straight from the match.
    stages:     in their order, without the match and without the final map.
    last:       what the final map is called.
    """

    stride: int
    grid: Callable[[Tensor], tuple[int, ...]]
    operators: dict[Place, nn.Module]
    matching: nn.Module
    transport: Callable[[Any], Transport]
    coarse: Callable[[Tensor, Tensor, int], Tensor]
    stages: tuple[Stage, ...]
    last: str


def anatomy(model: Network) -> Anatomy:
    """Raises InputError unless every attention of the network has weights of single tokens, or of a quadtree's nodes."""
    found = _of_sttr(model) if isinstance(model, Sttr) else _of_stereo_model(model)
    for operator in found.operators.values():
        if not isinstance(operator, Quadtree | DenseAttention):
            given = f"explain does not apply to the attention '{model.config.attention}', which has no list of tokens"
            raise InputError(f"{given}; it knows quadtree_a, quadtree_b and dense")
    return found


def _of_stereo_model(model: StereoModel) -> Anatomy:
    layers: Any = model.transformer.layers
    operators: dict[Place, nn.Module] = {}
    for number, layer in enumerate(layers, 1):
        operators[number, "self"] = layer.self_attention.operator
        operators[number, "cross"] = layer.cross_attention.operator
    refine, sharpen = model.refine, model.sharpen
    assert isinstance(refine, Refine)
    stages = [
        Stage("filled from its surroundings", refine.spread, STRIDE, lambda result: result[0]),
        Stage("corrected", refine.residual, STRIDE, lambda result: result[:, 0], adds=True),
    ]
    if isinstance(sharpen, Sharpen):
        factor = STRIDE // refine.factor
        stages.append(Stage("upsampled", refine, factor, lambda result: result[0].disp))
        stages.append(Stage("spread at half resolution", sharpen.spread, factor, lambda result: result[0]))

    def coarse(mass: Tensor, index: Tensor, width: int) -> Tensor:
        return window_disparity(mass, _columns(mass), index)[0] * STRIDE

    return Anatomy(
        stride=STRIDE,
        grid=lambda features: features.shape[-2:],
        operators=operators,
        matching=model.matching,
        transport=lambda result: result[0],
        coarse=coarse,
        stages=tuple(stages),
        last="sharpened" if sharpen is not None else "upsampled",
    )


def _of_sttr(model: Sttr) -> Anatomy:
    """The last layer has no look at the right image besides the match: its left update is never computed."""
    within: Any = model.transformer.self_layers
    across: Any = model.transformer.cross_layers
    operators: dict[Place, nn.Module] = {}
    for number, (own, other) in enumerate(zip(within, across, strict=True), 1):
        operators[number, "self"] = own.within.operator
        if number < len(across):
            operators[number, "cross"] = other.across.operator

    def transport(result: tuple[Tensor, Tensor]) -> Transport:
        plan = result[1]
        mass = plan[..., :-1, :-1]
        return Transport(mass, _columns(mass).expand(mass.shape), plan[..., :-1, -1], plan[..., -1, :-1])

    def coarse(mass: Tensor, index: Tensor, width: int) -> Tensor:
        moment, window = window_sums(mass, _columns(mass), index)
        return model.regress(moment, window)[0] * model.scale(width, mass.shape[2])

    return Anatomy(
        stride=max(model.config.stride, 1),
        grid=lambda tokens: tokens.shape[1:3],
        operators=operators,
        matching=model.matching,
        transport=transport,
        coarse=coarse,
        stages=(),
        last="adjusted to the image" if model.adjust is not None and model.config.stride else "upsampled",
    )


def _columns(mass: Tensor) -> Tensor:
    """Column of every token of a row of mass (B, h, w, J) -> (w,)."""
    return torch.arange(mass.shape[2], device=mass.device)
