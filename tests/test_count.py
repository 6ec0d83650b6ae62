"""The counter, on cases whose products can be counted by hand, and on STTR, whose count the specification gives."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from stereo.attention import build_attention
from stereo.config import preset
from stereo.engine.count import Count, count_forward
from stereo.kernels import BACKENDS, reference
from stereo.model.build import build_model


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *x: Tensor) -> Tensor:
        return self.function(*x)


def macs(function, *inputs: Tensor) -> int:
    return count_forward(Call(function), *inputs).macs


def test_layers_by_hand():
    linear = count_forward(nn.Linear(5, 7), torch.zeros(2, 3, 5))
    assert (linear.macs, linear.parameters, linear.elementwise) == (2 * 3 * 5 * 7, 5 * 7 + 7, 0)
    assert count_forward(nn.Conv2d(3, 4, 3, padding=1), torch.zeros(2, 3, 6, 8)).macs == 2 * 4 * 6 * 8 * 3 * 9
    assert count_forward(nn.Conv2d(4, 4, 3, stride=2, groups=4), torch.zeros(1, 4, 7, 9)).macs == 4 * 3 * 4 * 9
    assert count_forward(nn.ConvTranspose2d(3, 4, 2, stride=2), torch.zeros(1, 3, 5, 6)).macs == 3 * 5 * 6 * 4 * 4


def test_products_by_hand():
    a, b = torch.zeros(2, 3, 4), torch.zeros(2, 4, 5)
    assert macs(torch.matmul, a, b) == 2 * 3 * 4 * 5
    assert macs(lambda x, y: torch.einsum("bij,bjk->bik", x, y), a, b) == 2 * 3 * 4 * 5
    assert macs(torch.matmul, a, torch.zeros(4)) == 2 * 3 * 4
    assert macs(torch.matmul, torch.zeros(4), torch.zeros(4)) == 4
    assert macs(lambda x: x.softmax(-1) + x.exp(), a) == 0


def test_elementwise_is_a_figure_of_its_own_and_indices_are_none():
    count = count_forward(Call(lambda x: (x * x / 2).sum() + (torch.arange(6) * 3).sum()), torch.zeros(4, 5))
    assert (count.macs, count.elementwise) == (0, 40)


def test_gathers_count_one_for_each_gathered_product():
    q, k = torch.zeros(2, 3, 5, 2, 4), torch.zeros(2, 3, 7, 2, 4)
    index, weights = torch.zeros(2, 3, 5, 2, 6, dtype=torch.long), torch.zeros(2, 3, 5, 2, 6)
    assert macs(reference.gather_scores, q, k, index) == 2 * 3 * 5 * 2 * 6 * 4
    assert macs(reference.gather_values, weights, k, index) == 2 * 3 * 5 * 2 * 6 * 4


@pytest.mark.parametrize("scope", ["row", "image"])
def test_every_backend_has_the_count_of_the_definition(scope: str):
    """By hand, two levels on 4x6 tokens: all pairs of coarse 2x3 nodes, then the 2 (row) or 4 children of K = 2 of them."""
    x = torch.zeros(1, 4, 6, 1, 8)
    coarse, children = (2 * 3 * 3, 2) if scope == "row" else (2 * 3 * 6, 4)
    by_hand = 2 * 8 * (coarse + 4 * 6 * 2 * children)  # scores and values
    for kernel in ("auto", *BACKENDS):
        operator = build_attention("quadtree_b", levels=2, topk=2, kernel=kernel)
        count = count_forward(operator, x, x, x, scope=scope)
        assert count.macs == by_hand
        assert operator.kernel == kernel  # left as it was
    dense = count_forward(build_attention("dense"), x, x, x, scope=scope)
    assert dense.macs == 2 * 8 * (4 * 6 * 6 if scope == "row" else 24 * 24)


def test_memory_is_the_most_that_lives_at_one_time():
    def chain(x: Tensor) -> Tensor:
        y = x + 1  # 4000 bytes
        z = y + 1  # 8000 of them
        y = torch.cat([z, z])  # 16000 while the three of them live, then y's first content goes
        view = y.view(2, -1)  # no bytes
        return view[0] + 1  # 16000: z, y, and this

    assert count_forward(Call(chain), torch.zeros(1000)).live_bytes == 16000
    assert count_forward(Call(lambda x: x.view(10, 100)), torch.zeros(1000)).live_bytes == 0


def count_preset(name: str, height: int, width: int, **changes) -> Count:
    return count_forward(build_model(replace(preset(name), **changes)), *(torch.empty(1, 3, height, width) for _ in "lr"))


def public_extra(count_tokens: tuple[int, int], channels: int = 128, layers: int = 6) -> int:
    """What the public code multiplies and ours does not, by formula.

    It projects the positions of all W x W pairs by the query's and the key's weights, once for each self layer and twice for
    each cross layer; ours projects the 2W - 1 rows of the table. And it finishes the last left update, of which only the scores
    are used: the projected values, the sum over them, the output.
    """
    h, w = count_tokens
    positions = 3 * layers * 2 * channels**2 * (w * w - (2 * w - 1))
    unused = h * w * w * channels + 2 * h * w * channels**2
    return positions + unused


@pytest.mark.parametrize(
    ("name", "tokens", "total"),
    [("sttr", (180, 320), 839e9), ("sttr-light", (135, 240), 300e9)],
)
def test_sttr_has_the_count_of_the_public_code(name: str, tokens: tuple[int, int], total: float):
    """SPEC 1.14 at 540x960."""
    count = count_preset(name, 540, 960)
    assert count.macs + public_extra(tokens) == pytest.approx(total, rel=0.01)
    assert count.parts["backbone"] == pytest.approx(28.6e9, rel=0.01)
    assert count.parts["adjust"] == pytest.approx(83.2e9, rel=0.01)
    if name == "sttr":
        assert count.parts["tokenizer"] == pytest.approx(349.8e9, rel=0.01)
        attend = count.parts["transformer"] + count.parts["matching"] + public_extra(tokens)
        assert attend == pytest.approx(377.5e9, rel=0.01)
        positions = public_extra(tokens) - (180 * 320 * 320 * 128 + 2 * 180 * 320 * 128**2)
        assert positions == pytest.approx(60.4e9, rel=0.01)


def test_parts_add_up_to_the_whole():
    count = count_preset("quadtree", 125, 132, layers=1, adjust_blocks=1)
    assert sum(macs for name, macs in count.parts.items() if "." not in name) == count.macs
    assert count.parts["transformer.self_layers.0.within.operator"] < count.parts["transformer"]


def test_the_tree_needs_a_fraction_of_the_products_of_sttrs_attention():
    """At most a quarter at 540x960; with one layer, whose last left update is the match, three operators run."""
    shares = []
    for name in ("quadtree", "sttr"):
        count = count_preset(name, 540, 960, layers=1, adjust_blocks=1)
        shares.append(sum(macs for part, macs in count.parts.items() if part.endswith(".operator")))
    assert shares[0] <= 0.25 * shares[1]


def test_what_is_held_while_each_part_runs():
    """a doubles its input of 4000 bytes twice (12 and 24 kB beside what it was given); b makes one number of what is left."""

    class Twice(nn.Module):
        def forward(self, x):
            y = torch.cat([x, x])
            return torch.cat([y, y])

    class Total(nn.Module):
        def forward(self, x):
            return x.sum()

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = Twice(), Total()

        def forward(self, x):
            return self.b(self.a(x))

    counted = count_forward(Whole(), torch.empty(1000))
    assert counted.live_parts == {"a": 8000 + 16000, "b": 16000 + 4}
    assert counted.live_bytes == 24000
