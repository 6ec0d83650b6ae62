"""What flows through ``small``, stage by stage: the table that python -m experiments.docs puts into architecture.md."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stereo.config import PRESETS
from stereo.model.build import build_model

SIDES = (128, 256)  # (H, W) px of the pair that is followed; fractions of H and W are told from it
STAGES = {  # module -> its file, and what it is
    "backbone": ("backbone.py", "features: four strides down, merged on the way up"),
    "transformer": ("transformer.py", "attend: self and cross attention along rows, and a convolution that joins rows"),
    "matching": ("matching.py", "match: candidates of a quadtree, optimal transport with a dustbin"),
    "refine": ("refine.py", "refine: fill, correct, upsample from 1/4 to 1/2"),
    "sharpen": ("sharpen.py", "second look: compare again at 1/2, upsample to full size"),
}


def shape_of(x: Tensor, channels_last: bool) -> str:
    """'48 x H/4 x W/4' of a batch of images; channels_last: (B, h, w, C) and not (B, C, h, w)."""
    shape = list(x.shape[1:])
    if x.dim() == 4:
        shape = [shape[2], *shape[:2]] if channels_last else shape
    *channels, height, width = shape
    parts = zip("HW", SIDES, (height, width), strict=True)
    sides = [f"{name}/{full // side}" if full != side else name for name, full, side in parts]
    return " x ".join([*map(str, channels), *sides])


def outputs() -> dict[str, list[str]]:
    """Stage -> what it hands on, by following a pair of noise through ``small`` with random weights."""
    network = build_model(PRESETS["small"], kernel="reference").eval()
    seen: dict[str, object] = {}
    for name in STAGES:
        getattr(network, name).register_forward_hook(lambda _, __, out, name=name: seen.__setitem__(name, out))
    with torch.inference_mode():
        network(torch.rand(1, 3, *SIDES), torch.rand(1, 3, *SIDES))
    features, half = seen["backbone"]
    tokens = seen["transformer"][0]
    transport, q, _ = seen["matching"]
    maps, context = seen["refine"]
    final = seen["sharpen"]
    j = transport.mass.shape[-1]
    return {
        "backbone": [f"features {shape_of(features, False)}", f"at half resolution {shape_of(half, False)}"],
        "transformer": [f"tokens {shape_of(tokens, True)}, of each view"],
        "matching": [f"mass on {j} right tokens of each left one, {shape_of(transport.mass, True)}", "dustbin "
                     f"{shape_of(transport.dustbin, False)}", f"compared features {shape_of(q, True)}"],
        "refine": [f"three maps {shape_of(maps.disp, False)}", f"context {shape_of(context, False)}"],
        "sharpen": [f"disparity, occlusion, confidence {shape_of(final.disp, False)}"],
    }  # fmt: skip


def parameters(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())


def stages_table() -> str:
    """Markdown: one line per stage of ``small``."""
    network = build_model(PRESETS["small"], kernel="reference")
    lines = ["| stage | file | what it hands on | parameters |", "|---|---|---|---|"]
    for name, handed in outputs().items():
        file, text = STAGES[name]
        link = f"[{file}](../stereo/model/{file})"
        lines.append(f"| {text} | {link} | {'; '.join(handed)} | {parameters(getattr(network, name)):,} |")
    return "\n".join([*lines, f"| all | | | {parameters(network):,} |"])
