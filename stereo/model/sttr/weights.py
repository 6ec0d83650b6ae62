"""Published checkpoints: their names of tensors to ours, and their sizes to a configuration."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import Tensor

from stereo.config import SttrConfig
from stereo.types import InputError

# (published part of a name, ours). Replaced in this order one way, backwards the other way.
RENAMES = (
    ("backbone.in_conv.", "backbone.stem."),
    ("backbone.resblock_1.", "backbone.to_quarter."),
    ("backbone.resblock_2.", "backbone.to_eighth."),
    (".bn1.", ".first_norm."),
    (".bn2.", ".second_norm."),
    (".downsample.", ".shortcut."),
    *((f"backbone.branch{i + 1}.", f"backbone.pooled.{i}.") for i in range(4)),
    *((f"tokenizer.up.{i}.convTrans.", f"tokenizer.decoder.up.{i}.") for i in range(2)),
    ("tokenizer.up.2.convTrans.", "tokenizer.up."),
    ("tokenizer.bottle_neck.", "tokenizer.decoder.blocks.0."),
    ("tokenizer.dense_block.0.", "tokenizer.decoder.blocks.1."),
    ("tokenizer.dense_block.1.", "tokenizer.decoder.blocks.2."),
    ("tokenizer.dense_block.2.double_conv.", "tokenizer.mix."),
    *((f".denselayer{i + 1}.", f".steps.{i}.") for i in range(4)),
    ("transformer.self_attn_layers.", "transformer.self_layers."),
    ("transformer.cross_attn_layers.", "transformer.cross_layers."),
    (".self_attn.", ".within."),
    (".cross_attn.", ".across."),
    (".out_proj.", ".out."),
    ("regression_head.phi", "matching.dustbin"),
    ("regression_head.cal.in_conv.", "adjust.enter."),
    ("regression_head.cal.layers.", "adjust.blocks."),
    (".module.", ".body."),
    ("regression_head.cal.out_conv.", "adjust.leave."),
    ("regression_head.cal.occ_head.", "adjust.occlusion."),
    (".weight_g", ".parametrizations.weight.original0"),
    (".weight_v", ".parametrizations.weight.original1"),
)
STACKED = ("query", "key", "value")  # the published in_proj_weight and in_proj_bias hold all three, in this order
UNUSED = re.compile(r"\.(running_mean|running_var|num_batches_tracked)$")  # the published network never reads them either


def our_names(published: str) -> tuple[str, ...]:
    """The name, or names, of ours that hold the tensor called ``published``; several are its parts along the first axis."""
    name = published
    for theirs, ours in RENAMES:
        name = name.replace(theirs, ours)
    stacked = re.fullmatch(r"(.*)\.in_proj_(weight|bias)", name)
    return tuple(f"{stacked[1]}.{part}.{stacked[2]}" for part in STACKED) if stacked else (name,)


def published_name(ours: str) -> str:
    """The published tensor that holds ours called ``ours``, or that it is a part of."""
    name = re.sub(rf"\.({'|'.join(STACKED)})\.(weight|bias)$", r".in_proj_\2", ours)
    for theirs, mine in reversed(RENAMES):
        name = name.replace(mine, theirs)
    return name


def guess_config(state: Mapping[str, Tensor], like: SttrConfig | None = None) -> SttrConfig:
    """The shape of the network that a published ``state`` is of.

    Widths and depths are read off the tensors. What leaves no trace there, first of all the number of heads, is taken from
    ``like``; without it from the published networks, which differ in their growth (light: 16), and faithful.
    """

    def shape(name: str, fallback: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(state[name].shape) if name in state and state[name].dim() == len(fallback) else fallback

    def count(pattern: str) -> int:
        return len({found[1] for name in state if (found := re.match(pattern, name))})

    growth = shape("tokenizer.bottle_neck.denselayer1.conv2.weight", (4, 16, 3, 3))[0]
    if like is None and growth == 4:
        like = SttrConfig(faithful=True)
    elif like is None:
        like = SttrConfig(preset="sttr-light", decoder="quarter", stride=4, heads=4, faithful=True)
    wide, narrow = (
        shape(f"regression_head.cal.layers.0.module.{i}.weight_g", (default, 1, 1, 1))[0]
        for i, default in ((0, like.adjust_channels * like.adjust_expansion), (2, like.adjust_channels))
    )
    return replace(
        like,
        growth=growth,
        channels=shape("transformer.norm.weight", (like.channels,))[0],
        layers=count(r"transformer\.self_attn_layers\.(\d+)\.") or like.layers,
        adjust_blocks=count(r"regression_head\.cal\.layers\.(\d+)\."),
        adjust_channels=narrow,
        adjust_expansion=wide // narrow,
    )


def convert_names(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """A published ``state`` under the names of ours, every tensor of the shape that ``expected`` has.

    Raises InputError, in one line, when names are unknown or missing, or shapes differ.
    """
    tensors: dict[str, Tensor] = {}
    sources: dict[str, str] = {}
    unknown = []
    for published, value in state.items():
        if UNUSED.search(published):
            continue
        names = our_names(published)
        if any(name not in expected or published_name(name) != published for name in names):
            unknown.append(published)
            continue
        parts = value.tensor_split(len(names)) if value.dim() else (value,) * len(names)
        tensors |= dict(zip(names, parts, strict=True))
        sources |= dict.fromkeys(names, published)
    missing = list(dict.fromkeys(published_name(name) for name in expected if name not in tensors))
    complaints = [f"{what} {_listed(names)}" for what, names in (("unknown", unknown), ("missing", missing)) if names]
    if complaints:
        raise InputError(f"'{where}' is not a published STTR checkpoint: {'; '.join(complaints)}")
    for name, value in tensors.items():
        if value.shape != expected[name].shape:
            got, wanted = tuple(value.shape), tuple(expected[name].shape)
            raise InputError(f"'{where}': '{sources[name]}' gives {got} where {wanted} is expected")
    return tensors


def _listed(names: Iterable[str], most: int = 5) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"'{name}'" for name in names[:most]) + more
