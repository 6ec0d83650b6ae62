"""The rotary position code, and what it means for the operators that carry it."""

from __future__ import annotations

import pytest
import torch
from attention_cases import ROTARY, VARIANTS, Variant, make_inputs
from torch import Tensor

from stereo.attention.position import Rotary, rotary_frequencies


def test_rotated_products_depend_on_column_differences_only() -> None:
    frequencies = rotary_frequencies(16)
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(16, generator=generator, dtype=torch.float64).expand(1, 1, 20, 1, 16) for _ in range(2))

    def products(query_shift: int, key_shift: int) -> Tensor:
        """(20, 20): the same content at every column, so that only the columns can make a difference."""
        columns = torch.arange(20)
        queries, keys = Rotary(frequencies).encode(q, columns + query_shift), Rotary(frequencies).encode(k, columns + key_shift)
        return queries[0, 0, :, 0] @ keys[0, 0, :, 0].T

    base = products(0, 0)
    torch.testing.assert_close(products(37, 37), base, **ROTARY)
    for difference in range(-19, 20):  # constant along every diagonal
        diagonal = base.diagonal(difference)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), **ROTARY)
    assert (products(1, 0) - base).abs().min() > 1e-3  # and the difference does count
    torch.testing.assert_close(products(1, 0)[:, 1:], base[:, :-1], **ROTARY)


def test_rotation_keeps_lengths_column_zero_and_the_second_half_of_a_head() -> None:
    x, *_ = make_inputs(2, 9, d=16)
    rotated = Rotary(rotary_frequencies(16)).encode(x, torch.arange(9))
    torch.testing.assert_close(rotated.norm(dim=-1), x.norm(dim=-1), rtol=1e-6, atol=0)  # sines of float32
    assert torch.equal(rotated[:, :, 0], x[:, :, 0])
    assert torch.equal(rotated[..., 8:], x[..., 8:])
    assert not torch.isclose(rotated[:, :, 1:, :, :8], x[:, :, 1:, :, :8]).all(dim=-1).any()


def commutes_with_rotation(variant: Variant) -> bool:
    """Means turn with what they average; a maximum does not, nor does a feature map of single channels."""
    if variant.name in ("linear", "additive"):
        return False
    return variant.options.get("levels", 1) == 1 or variant.options.get("pool") == "mean"


@pytest.mark.parametrize("width", [7, 33])
@pytest.mark.parametrize("variant", [v for v in VARIANTS if commutes_with_rotation(v)], ids=str)
def test_attention_with_rotary_does_not_move_with_the_origin(variant: Variant, width: int) -> None:
    """Inputs turned by one common shift beforehand: the message stays, because only differences of columns enter."""
    q, k, v = make_inputs(2, width)
    frequencies = rotary_frequencies(8)
    shift = torch.full((width,), 11)
    moved = Rotary(frequencies).encode(q, shift), Rotary(frequencies).encode(k, shift)
    operator = variant.build()
    message = operator(q, k, v, position=Rotary(frequencies))
    torch.testing.assert_close(operator(*moved, v, position=Rotary(frequencies)), message, **ROTARY)
    assert (operator(q, k, v) - message).abs().max() > 0.1  # the code does matter here


@pytest.mark.parametrize(("head_dim", "pairs"), [(4, 1), (8, 2), (16, 4), (18, 4)])
def test_rotary_periods_run_from_four_tokens_to_the_longest_in_equal_ratios(head_dim: int, pairs: int) -> None:
    periods = 2 * torch.pi / rotary_frequencies(head_dim, longest=256.0)
    assert periods.shape == (pairs,)
    expected = torch.tensor([4.0 * 64.0 ** (i / max(pairs - 1, 1)) for i in range(pairs)])
    torch.testing.assert_close(periods, expected, rtol=1e-5, atol=0)
