"""Assembly: every part of a network constructed in one visible expression."""

from __future__ import annotations

from torch import nn

from stereo.attention import build_attention, options_of
from stereo.config import ModelConfig, preset
from stereo.model.backbone import Backbone
from stereo.model.matching import DenseMatching
from stereo.model.refine import Refine
from stereo.model.stereo_model import StereoModel
from stereo.model.transformer import Transformer
from stereo.types import InputError


def build_model(config: ModelConfig | str = "small", kernel: str = "auto") -> StereoModel:
    """A network with random weights, from a preset's name or a ModelConfig; kernel: a backend of stereo.kernels.

    Raises InputError for an unknown preset or attention, or heads that do not divide the width into multiples of 4.
    """
    if isinstance(config, str):
        config = preset(config)
    c = config
    sizes = ("channels", "stem_channels", "context_channels", "layers", "heads", "levels", "topk", "expansion")
    for name in (*sizes, "sinkhorn_iterations"):
        if getattr(c, name) < 1:
            raise InputError(f"got {name} {getattr(c, name)}, expected at least 1")
    if c.channels % (4 * c.heads):
        raise InputError(f"got {c.channels} channels for {c.heads} heads, expected a multiple of 4 channels per head")

    offered = {"levels": c.levels, "topk": c.topk, "kernel": kernel, "head_dim": c.channels // c.heads}
    options = {key: value for key, value in offered.items() if key in options_of(c.attention)}

    def make_operator() -> nn.Module:
        return build_attention(c.attention, **options)

    return StereoModel(
        config=c,
        backbone=Backbone(c.stem_channels, c.channels, c.context_channels),
        transformer=Transformer(c.channels, c.heads, c.layers, c.expansion, make_operator),
        matching=DenseMatching(c.channels, c.sinkhorn_iterations),
        refine=Refine(c.channels, kernel),
    )
