"""quadtree_a and quadtree_b against stored outputs of the public QuadTreeAttention (../shared/oracles/README.md).

Tolerance per tensor: 10 times the rounding noise of the public code itself (stored as err64) plus 1e-6, never above the 2e-5
that the README allows; 2e-5 where no noise is stored. Gradients of weights sum over all tokens, so their 2e-5 is relative to
their largest entry where that exceeds 1. The gradient of the keys' bias is 0 in exact arithmetic (softmax does not see a
constant); what is stored there is the noise of the sums that make the weight's gradient, and is measured against those.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from oracle_record import compare, needs_oracles, open_arrays, peek, rounding_noise, stored
from torch import Tensor, nn

from stereo.attention import build_attention
from stereo.attention.tree import Pyramid
from stereo.kernels import ON_A_CPU

FLAT = 2e-5
pytestmark = needs_oracles
KIND = {name: peek(name, "meta.kind") for name in stored("qt_*")}
RAW = [name for name, kind in KIND.items() if kind.startswith("raw module")]
WRAPPED = [name for name in KIND if name not in RAW]
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


class Oracle:
    """One file: tensors by name, the public options, and the comparison."""

    def __init__(self, name: str, dtype: torch.dtype):
        self.arrays = open_arrays(name)
        self.name, self.dtype = name, dtype
        self.noise = rounding_noise(name)
        self.topks = [int(k) for k in self.arrays["meta.topks"]]  # coarsest first
        self.heads = int(self.arrays["meta.nhead"])

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    def __getitem__(self, key: str) -> Tensor:
        value = torch.from_numpy(self.arrays[key])
        return value.to(self.dtype) if value.is_floating_point() else value.long()

    def split(self, plane: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, H, W, heads, d)."""
        return plane.permute(0, 2, 3, 1).unflatten(-1, (self.heads, -1))

    def compare(self, key: str, ours: Tensor, scale: float = 1.0) -> None:
        tolerance = scale * min(FLAT, 10 * self.noise[key] + 1e-6 if key in self.noise else FLAT)
        compare(f"{self.name}.npz", key, ours, self[key], tolerance)

    def operator(self, prefix: str, kernel: str = "auto") -> nn.Module:
        """Our operator with the public options and weights; theirs are listed coarsest first, ours finest first."""
        shared = {"levels": len(self.topks), "topk": self.topks, "pool": "mean", "kernel": kernel}
        if str(self.arrays["meta.attn_type"]) == "A":
            return build_attention("quadtree_a", **shared)
        lepe = f"{prefix}get_vs.0.weight"
        channels = len(self[lepe]) if lepe in self else 0
        operator = build_attention("quadtree_b", **shared, lepe_channels=channels)
        weights = {"level_weights": self[f"{prefix}weight"].flip(0)}
        for i in range(operator.levels if channels else 0):
            for part in ("weight", "bias"):
                weights[f"lepe.{i}.{part}"] = self[f"{prefix}get_vs.{operator.levels - 1 - i}.{part}"]
        operator.load_state_dict(weights)
        return operator.to(self.dtype)

    def compare_levels(self, operator: nn.Module, tree: Pyramid) -> None:
        """Chosen keys as sets, their scores, and messages, level by level, coarsest first."""
        for i, level in enumerate(operator.walk(tree, "image")):
            if f"lvl{i}.topk_idx" in self:
                best = level.weights.topk(self.topks[i], dim=-1).indices  # also of the finest level, which splits nothing
                chosen, scores = (x.gather(-1, best).flatten(1, 2).transpose(-1, -2) for x in (level.candidates, level.weights))
                if level.best is not None:
                    ours = level.of_best(level.candidates).flatten(1, 2).transpose(-1, -2)
                    assert torch.equal(ours.sort(dim=2).values, chosen.sort(dim=2).values)
                sets = (x.sort(dim=2).values for x in (chosen, self[f"lvl{i}.topk_idx"]))
                compare(f"{self.name}.npz", f"lvl{i}.topk_idx", *sets)
                if f"lvl{i}.topk_score" in self:
                    self.compare(f"lvl{i}.topk_score", scores)
            if f"lvl{i}.message" in self:
                message = level.message
                if i > 0:  # theirs is sorted by parents: (B, H/2, 2, W/2, 2, heads, d) -> (B, parents, 4, heads, d)
                    message = message.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
                else:
                    message = message.flatten(1, 2)
                self.compare(f"lvl{i}.message", message)


@each_dtype
@pytest.mark.parametrize("kernel", ON_A_CPU)
@pytest.mark.parametrize("name", RAW)
def test_raw_module(name: str, kernel: str, dtype: torch.dtype) -> None:
    oracle = Oracle(name, dtype)
    operator = oracle.operator("w.", kernel)
    if "in.q" in oracle:
        q, k, v = (oracle.split(oracle[f"in.{x}"]) for x in "qkv")
        tree = Pyramid.pooled(q, k, v, operator.levels, with_max=False)
        message = operator(q, k, v, scope="image")
    else:  # every level given on its own
        queries, keys, values = ([oracle.split(oracle[f"in.{x}.{i}"]) for i in range(operator.levels)] for x in "qkv")
        tree = Pyramid([q * q.shape[-1] ** -0.5 for q in queries], keys, values)
        message = operator.attend(tree, "image")
    oracle.compare_levels(operator, tree)
    oracle.compare("out", message.flatten(1, 2))


# ---------------------------------------------------------------------------------------------------------------------
# The public modules around the operator, composed from it (SPEC 3.1 and 3.6)

Weights = Callable[[str], Tensor]


def project(oracle: Oracle, w: Weights, name: str, tokens: Tensor) -> Tensor:
    """A 1x1 convolution of tokens (B, H, W, C) -> (B, H, W, heads, d)."""
    bias = w(f"{name}.bias") if f"w.{name}.bias" in oracle else None
    return F.linear(tokens, w(f"{name}.weight").flatten(1), bias).unflatten(-1, (oracle.heads, -1))


def attention(oracle: Oracle, w: Weights, operator: nn.Module, x: Tensor, target: Tensor, prefix: str = "") -> Tensor:
    """x, target (B, H * W, C) -> (B, H * W, C): projections, pooling, operator, output projection."""
    H, W = (int(n) for n in oracle.arrays["meta.H_W"])
    grids = x.unflatten(1, (H, W)), target.unflatten(1, (H, W))
    q, k, v = (project(oracle, w, f"{prefix}{name}", grids[name != "q_proj"]) for name in ("q_proj", "k_proj", "v_proj"))
    tree = Pyramid.pooled(q, k, v, operator.levels, with_max=False)
    if "w.value_branchs.0.0.weight" in oracle:
        tree = Pyramid(tree.queries, tree.keys, value_branches(oracle, w, v, operator.levels))
    oracle.compare_levels(operator, tree)
    message = operator.attend(tree, "image").flatten(-2).flatten(1, 2)
    return F.linear(message, w(f"{prefix}proj.weight"), w(f"{prefix}proj.bias"))


def value_branches(oracle: Oracle, w: Weights, v: Tensor, levels: int) -> list[Tensor]:
    """Values of the coarser levels by learned steps: norm, GELU, convolution 2x2 stride 2, norm, GELU, convolution 1x1."""
    planes = [v.flatten(-2).permute(0, 3, 1, 2)]
    for step in (f"value_branchs.{i}" for i in range(levels - 1)):
        x = F.gelu(F.group_norm(planes[-1], 1, w(f"{step}.0.weight"), w(f"{step}.0.bias")))
        x = F.conv2d(x, w(f"{step}.2.weight"), w(f"{step}.2.bias"), stride=2)
        x = F.gelu(F.group_norm(x, 1, w(f"{step}.3.weight"), w(f"{step}.3.bias")))
        planes.append(F.conv2d(x, w(f"{step}.5.weight"), w(f"{step}.5.bias")))
    return [oracle.split(plane) for plane in planes]


def block(oracle: Oracle, w: Weights, operator: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """Pre-norm block: one norm for both views, attention, then Linear, ReLU, depthwise 3x3, GELU, Linear."""
    H, W = (int(n) for n in oracle.arrays["meta.H_W"])

    def norm(tokens: Tensor, name: str) -> Tensor:
        return F.layer_norm(tokens, tokens.shape[-1:], w(f"{name}.weight"), w(f"{name}.bias"))

    x = x + attention(oracle, w, operator, norm(x, "norm1"), norm(target, "norm1"), "attn.")
    hidden = F.linear(norm(x, "norm2"), w("mlp.fc1.weight"), w("mlp.fc1.bias")).relu()
    planes = hidden.transpose(1, 2).unflatten(-1, (H, W))
    kernel, bias = w("mlp.dwconv.dwconv.weight"), w("mlp.dwconv.dwconv.bias")
    hidden = F.gelu(F.conv2d(planes, kernel, bias, padding=1, groups=len(bias)).flatten(2).transpose(1, 2))
    return x + F.linear(hidden, w("mlp.fc2.weight"), w("mlp.fc2.bias"))


@each_dtype
@pytest.mark.parametrize("name", WRAPPED)
def test_wrapped_module(name: str, dtype: torch.dtype) -> None:
    oracle = Oracle(name, dtype)
    leaves: dict[str, Tensor] = {}

    def leaf(key: str) -> Tensor:
        return leaves.setdefault(key, oracle[key].requires_grad_())

    whole = KIND[name].endswith("QuadtreeBlock")
    operator = oracle.operator("w.attn.py_att." if whole else "w.py_att.")
    x = leaf("in.x")
    target = leaf("in.target") if "in.target" in oracle else x
    out = (block if whole else attention)(oracle, lambda key: leaf(f"w.{key}"), operator, x, target)
    oracle.compare("out", out)
    if "grad.cotangent" in oracle:
        (out * oracle["grad.cotangent"]).sum().backward()
        gradients = {key.removeprefix("in."): value.grad for key, value in leaves.items()}
        if "grad.w.py_att.weight" in oracle:
            gradients["w.py_att.weight"] = operator.level_weights.grad.flip(0)
        stored = [key.removeprefix("grad.") for key in oracle.arrays if key.startswith("grad.") and key != "grad.cotangent"]
        assert sorted(stored) == sorted(gradients)
        for key in stored:
            summed_alike = f"grad.{key}".replace("k_proj.bias", "k_proj.weight")
            oracle.compare(f"grad.{key}", gradients[key], scale=max(1.0, oracle[summed_alike].abs().max().item()))
