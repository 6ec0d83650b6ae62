"""Assembly: every part of a network constructed in one visible expression."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from stereo.attention import build_attention, options_of
from stereo.config import AnyModelConfig, ModelConfig, SttrConfig, near_matches, preset
from stereo.model.backbone import Backbone
from stereo.model.matching import DenseMatching
from stereo.model.refine import Refine
from stereo.model.stereo_model import StereoModel
from stereo.model.sttr.adjust import ContextAdjustment
from stereo.model.sttr.backbone import SttrBackbone
from stereo.model.sttr.matching import SttrMatching
from stereo.model.sttr.network import Sttr
from stereo.model.sttr.tokenizer import LightTokenizer, Tokenizer
from stereo.model.sttr.transformer import SttrTransformer
from stereo.model.transformer import Transformer
from stereo.types import InputError

Network = StereoModel | Sttr

WITHOUT_PAIRS = ("additive", "linear")  # operators that never form a score of one query and one key


def build_model(config: AnyModelConfig | str = "small", kernel: str = "auto") -> Network:
    """A network with random weights, from a preset's name or a configuration; kernel: a backend of stereo.kernels.

    Raises InputError for an unknown preset or attention, or heads that do not divide the width into multiples of 4
    (of 2 for STTR, unless its position is rotary).
    """
    if isinstance(config, str):
        config = preset(config)
    build: Any = _build_sttr if isinstance(config, SttrConfig) else _build_stereo_model
    return build(config, kernel)


def _build_stereo_model(c: ModelConfig, kernel: str) -> StereoModel:
    sizes = ("channels", "stem_channels", "context_channels", "layers", "heads", "levels", "topk", "expansion")
    _check_sizes(c, *sizes, "sinkhorn_iterations")
    if c.channels % (4 * c.heads):
        raise InputError(f"got {c.channels} channels for {c.heads} heads, expected a multiple of 4 channels per head")

    return StereoModel(
        config=c,
        backbone=Backbone(c.stem_channels, c.channels, c.context_channels),
        transformer=Transformer(c.channels, c.heads, c.layers, c.expansion, _operator_maker(c, kernel)),
        matching=DenseMatching(c.channels, c.sinkhorn_iterations),
        refine=Refine(c.channels, kernel),
    )


def _build_sttr(c: SttrConfig, kernel: str) -> Sttr:
    _check_sizes(c, "channels", "growth", "layers", "heads", "sinkhorn_iterations", "adjust_channels", "adjust_expansion")
    _check_sizes(c, "levels", "topk")
    _check_sizes(c, "stride", least=0 if c.faithful else 1)
    _check_sizes(c, "adjust_blocks", least=0)
    choices = {
        "decoder": ("full", "quarter"),
        "pool": ("mean", "mean_max"),
        "position": ("relative", "rotary", "none"),
        "matching": ("transport", "softmax"),
    }
    for name, allowed in choices.items():
        if getattr(c, name) not in allowed:
            raise InputError(f"got {name} '{getattr(c, name)}', {near_matches(getattr(c, name), allowed)}")
    multiple = 4 if c.position == "rotary" else 2
    if c.channels % (multiple * c.heads):
        given = f"got {c.channels} channels for {c.heads} heads"
        raise InputError(f"{given}, expected a multiple of {multiple} channels per head")
    make_operator = _operator_maker(c, kernel)
    if c.attention in WITHOUT_PAIRS and c.position == "relative":
        raise InputError(f"attention '{c.attention}' has no scores to add relative positions to; use position rotary or none")
    grown = 4 * c.growth + 64
    if c.decoder == "quarter" and (c.stride != 4 or c.channels != grown):
        given = f"got stride {c.stride} and {c.channels} channels"
        raise InputError(f"{given}, the quarter decoder with growth {c.growth} has stride 4 and {grown} channels")
    pair = c.faithful
    full = c.decoder == "full"
    return Sttr(
        config=c,
        backbone=SttrBackbone(pair),
        tokenizer=Tokenizer(c.channels, c.growth, c.stride, pair) if full else LightTokenizer(c.channels, c.growth, pair),
        transformer=SttrTransformer(c.channels, c.heads, c.layers, make_operator),
        matching=SttrMatching(c.sinkhorn_iterations, c.matching),
        adjust=ContextAdjustment(c.adjust_blocks, c.adjust_channels, c.adjust_expansion) if c.adjust_blocks else None,
    )


def _operator_maker(c: AnyModelConfig, kernel: str) -> Callable[[], nn.Module]:
    """What makes one operator for each layer, with those of the settings that it has."""
    offered = {"levels": c.levels, "topk": c.topk, "kernel": kernel, "head_dim": c.channels // c.heads}
    if isinstance(c, SttrConfig):
        offered["pool"] = c.pool
    options = {key: value for key, value in offered.items() if key in options_of(c.attention)}
    return partial(build_attention, c.attention, **options)


def _check_sizes(config: Any, *names: str, least: int = 1) -> None:
    for name in names:
        if getattr(config, name) < least:
            raise InputError(f"got {name} {getattr(config, name)}, expected at least {least}")
