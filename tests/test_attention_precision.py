"""What the attention operators lose in bfloat16, against what full attention written plainly loses."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from attention_cases import EVERYTHING, Variant, make_inputs, only_level, plain_attention, side_of
from torch import Tensor, nn

from stereo.attention import build_attention
from stereo.kernels import ON_A_CPU


def whole_tree(kernel: str, pool: str = "mean", name: str = "quadtree_b") -> nn.Module:
    return build_attention(name, levels=4, topk=EVERYTHING, pool=pool, kernel=kernel)


BF16_OPERATORS: dict[str, Callable[[], nn.Module]] = {
    "dense": functools.partial(build_attention, "dense"),
    "linear": functools.partial(build_attention, "linear"),
    "spatial_reduction": functools.partial(build_attention, "spatial_reduction", reduction=2),
    "window": functools.partial(build_attention, "window", window=EVERYTHING // 5),
    "bilevel_routing": functools.partial(build_attention, "bilevel_routing", region=8, topk=EVERYTHING),
    "additive": lambda: Variant("additive").build(torch.float32),
}
for _kernel in ON_A_CPU:
    BF16_OPERATORS[f"finest level-{_kernel}"] = lambda kernel=_kernel: only_level(whole_tree(kernel), 0)
    BF16_OPERATORS[f"all levels-{_kernel}"] = functools.partial(whole_tree, _kernel)
    BF16_OPERATORS[f"variant a-{_kernel}"] = functools.partial(whole_tree, _kernel, name="quadtree_a")


def plain_additive(q: Tensor, k: Tensor, v: Tensor, side: int = 0) -> Tensor:
    """Fastformer's formula as anyone writes it, in the dtype of the inputs and with the weights of the operator under test."""
    operator = BF16_OPERATORS["additive"]().to(q.dtype)
    g = ((q @ operator.query_pool / q.shape[-1] ** 0.5).softmax(dim=2)[..., None] * q).sum(dim=2, keepdim=True)
    scores = ((g * k) @ operator.key_pool / q.shape[-1] ** 0.5).transpose(2, 3)[:, :, :, None]  # (B, H, heads, 1, W)
    i, j = torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])
    weights = scores.masked_fill(side * (i - j) < 0, float("-inf")).softmax(dim=-1)
    return operator.transform(torch.einsum("bhnij,bhjnd->bhind", weights, g * k) * v) + q


def with_gradients(attend: Callable[[Tensor, Tensor, Tensor], Tensor], *inputs: Tensor) -> list[Tensor]:
    """The message, and the gradients of a weighted sum of it with respect to q, k and v, in float64."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    message = attend(*leaves)
    pull = torch.linspace(-1, 1, message.numel(), dtype=torch.float64).reshape(message.shape).to(message.dtype)
    return [x.detach().double() for x in (message, *torch.autograd.grad(message, leaves, pull))]


@pytest.mark.parametrize("side", [0, +1])
@pytest.mark.parametrize("width", [7, 33, 100])
@pytest.mark.parametrize("name", BF16_OPERATORS)
def test_bfloat16_loses_at_most_twice_what_pytorch_loses(name: str, width: int, side: int) -> None:
    """Messages; three times for gradients (STYLE 1.6). Truth: the same operator in float64 on the same rounded inputs.

    The yardstick is full attention written plainly in bfloat16. Whatever selects keeps everything and pools by the mean, for
    where it selects or takes a maximum, a rounded score may choose another key, which is a kink and not an error. The message
    of `additive` is no mean of values, so its yardstick is its own formula written plainly.
    """
    low = [x.bfloat16() for x in make_inputs(4, width, batch=2)]
    high = [x.double() for x in low]
    operator, sides = BF16_OPERATORS[name](), side_of(side, side)
    ours, exact = (with_gradients(lambda q, k, v: operator(q, k, v, side=sides), *inputs) for inputs in (low, high))
    formula = plain_additive if name == "additive" else plain_attention
    plain, plain_exact = (with_gradients(lambda q, k, v: formula(q, k, v, side), *inputs) for inputs in (low, high))
    for i, what in enumerate(("message", "grad q", "grad k", "grad v")):
        error, yardstick = ((x[i] - y[i]).abs().max().item() for x, y in ((ours, exact), (plain, plain_exact)))
        assert yardstick > 0
        assert error <= (2 if what == "message" else 3) * yardstick, f"{what}: {error:.3g}, and plain PyTorch {yardstick:.3g}"
