"""Assembly: every part of a network constructed in one visible expression."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from stereo.attention import build_attention, options_of
from stereo.config import AnyModelConfig, ModelConfig, SttrConfig, near_matches, preset
from stereo.model.backbone import STRIDE, Backbone
from stereo.model.layers import TokenNorm
from stereo.model.matching import DenseMatching, Matching, SparseMatching
from stereo.model.refine import Refine
from stereo.model.sharpen import FACTOR, Sharpen
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


def copy_with(network: Network, kernel: str) -> Network:
    """The same network and weights on the CPU, to be used and not trained, with another backend of stereo.kernels."""
    other = build_model(network.config, kernel)
    other.load_state_dict(network.state_dict())
    return other.eval()


def _build_stereo_model(c: ModelConfig, kernel: str) -> StereoModel:
    _check_sizes(c, "channels", "stem_channels", "context_channels", "layers", "heads", "expansion", "sinkhorn_iterations")
    _check_sizes(c, "sharpen_channels", least=0)
    make_operator = _operator_maker(c, kernel)
    model = StereoModel(
        config=c,
        backbone=Backbone(c.stem_channels, c.channels, c.context_channels),
        transformer=Transformer(c.channels, c.heads, c.layers, c.expansion, make_operator, c.position),
        matching=_matching(c, kernel),
        refine=Refine(c.channels, FACTOR if c.sharpen_channels else STRIDE, kernel),
        sharpen=Sharpen(c.channels, c.stem_channels, c.sharpen_channels, kernel) if c.sharpen_channels else None,
    )
    for part in model.modules():
        if isinstance(part, TokenNorm):  # they are everywhere: told here rather than through every constructor
            part.kernel = kernel
    return model


def _matching(c: ModelConfig, kernel: str) -> Matching:
    _check_sizes(c, "match_levels", "match_topk")
    _check_choices(c, matching=("sparse", "dense"))
    if c.matching == "dense":
        return DenseMatching(c.channels, c.sinkhorn_iterations)
    return SparseMatching(c.channels, c.sinkhorn_iterations, c.match_levels, c.match_topk, kernel)


def _build_sttr(c: SttrConfig, kernel: str) -> Sttr:
    _check_sizes(c, "channels", "growth", "layers", "heads", "sinkhorn_iterations", "adjust_channels", "adjust_expansion")
    _check_sizes(c, "stride", least=0 if c.faithful else 1)
    _check_sizes(c, "adjust_blocks", least=0)
    _check_choices(c, decoder=("full", "quarter"), matching=("transport", "softmax"))
    make_operator = _operator_maker(c, kernel)
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


def _operator_maker(c: AnyModelConfig, kernel: str) -> Callable[[int], nn.Module]:
    """What makes one operator for the layer of that number, with those of the settings that it has."""
    _check_sizes(c, "levels", "topk", "reduction", "window", "region")
    _check_choices(c, pool=("mean", "mean_max"), position=("relative", "rotary", "none"))
    known = options_of(c.attention)
    multiple = 4 if c.position == "rotary" else 2
    if c.channels % (multiple * c.heads):
        given = f"got {c.channels} channels for {c.heads} heads"
        raise InputError(f"{given}, expected a multiple of {multiple} channels per head")
    if c.attention in WITHOUT_PAIRS and c.position == "relative":
        raise InputError(f"attention '{c.attention}' has no scores to add relative positions to; use position rotary or none")
    if c.lepe and "lepe_channels" not in known:
        raise InputError(f"attention '{c.attention}' has no lepe, only quadtree_b has; leave it out")

    def make(layer: int) -> nn.Module:
        offered = {name: getattr(c, name) for name in ("levels", "topk", "pool", "reduction", "window", "region")}
        offered |= {"kernel": kernel, "head_dim": c.channels // c.heads, "shifted": layer % 2 == 1}
        offered |= {"lepe_channels": c.channels if c.lepe else 0}
        return build_attention(c.attention, **{name: value for name, value in offered.items() if name in known})

    return make


def _check_sizes(config: Any, *names: str, least: int = 1) -> None:
    for name in names:
        if getattr(config, name) < least:
            raise InputError(f"got {name} {getattr(config, name)}, expected at least {least}")


def _check_choices(config: Any, **allowed: tuple[str, ...]) -> None:
    for name, choices in allowed.items():
        if getattr(config, name) not in choices:
            raise InputError(f"got {name} '{getattr(config, name)}', {near_matches(getattr(config, name), choices)}")
