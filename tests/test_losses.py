"""Loss terms against numbers worked out by hand, and the traps of the public code: SPEC P1, P2, P3, P11 and 7.5."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from stereo.config import LossConfig
from stereo.losses import masked_mean, response_at, response_loss, stereo_loss
from stereo.types import Batch, Prediction, Transport

TERMS = ("response", "coarse", "disparity", "occlusion", "confidence")
STRIDE = 4
SOFTENED = 1e-6  # the logarithm of a response p is taken at p + 1e-6 (SPEC 2.1)


def transport(mass: Tensor, index: Tensor | None = None) -> Transport:
    """mass (B, h, w, J) with what is missing from 1 in the dustbin; a dense row unless ``index`` says otherwise."""
    index = torch.arange(mass.shape[-1]).expand(mass.shape) if index is None else index
    return Transport(mass, index, 1 - mass.sum(-1), (1 - mass.sum(-2)).clamp(min=0))


def shifted(width: int, shift: int) -> Tensor:
    """(1, 1, width, width): every token certainly matches the one ``shift`` to its left; the first ``shift`` match nothing."""
    return torch.eye(width).roll(-shift, 1).tril()[None, None]


# ---------------------------------------------------------------------------------------------------------------------
# The response


@pytest.mark.parametrize(("width", "stride"), [(960, 3), (640, 3), (641, 3), (960, 4), (640, 4), (641, 4)])
@pytest.mark.parametrize("shift", [0, 1, 7])
def test_a_perfect_match_has_a_response_of_exactly_one(width: int, stride: int, shift: int):
    """SPEC 7.5: at stride 3 the public code forgets the offset (P2), divides by W / W' (P3), and gets 0.67, 0.83, 0.50."""
    columns = torch.arange(stride // 2, width, stride)  # the pixel at the centre of every token
    target = (columns - shift * stride - stride // 2) / stride
    response = response_at(transport(shifted(len(columns), shift)), target[None, None])
    assert response[0, 0, shift:].eq(1).all()
    assert response[0, 0, :shift].eq(0).all()


@pytest.mark.parametrize("fraction", [0.0, 0.25, 1 / 3, 0.5, 0.9])
def test_the_response_is_linear_between_two_tokens(fraction: float):
    mass = torch.tensor([0.125, 0.5, 0.25, 0.0])[None, None, None]
    target = torch.tensor([[[1 + fraction]]])
    assert response_at(transport(mass), target).item() == pytest.approx((1 - fraction) * 0.5 + fraction * 0.25, abs=1e-7)


@pytest.mark.parametrize("token", [0, 100, 239])
@pytest.mark.parametrize("fraction", [0.0, 0.125, 1 / 3, 0.5, 0.9])
def test_the_weights_of_a_fractional_target_sum_to_exactly_one(token: int, fraction: float):
    """Certain of both neighbours, the response is 1: interpolation loses nothing, however far right the token is."""
    mass = torch.ones(1, 1, 1, 241)
    assert response_at(transport(mass), torch.tensor([[[token + fraction]]])).item() == 1


@pytest.mark.parametrize(("target", "expected"), [(-0.25, 0.75), (-1.0, 0.0), (2.5, 0.5), (3.0, 0.0)])
def test_mass_outside_the_row_counts_as_none(target: float, expected: float):
    assert response_at(transport(torch.ones(1, 1, 1, 3)), torch.tensor([[[target]]])).item() == expected


def test_the_response_reads_sparse_candidates_in_any_order():
    mass = torch.tensor([0.5, 0.25, 0.125])[None, None, None]
    index = torch.tensor([7, 2, 6])[None, None, None]
    response = response_at(transport(mass, index), torch.tensor([[[6.25]]]))
    assert response.item() == 0.75 * 0.125 + 0.25 * 0.5


def test_response_loss_is_one_mean_over_all_three_sets():
    mass = torch.tensor([[0.5, 0.0, 0.0], [0.25, 0.5, 0.0], [0.0, 0.125, 0.75]])[None, None]
    bins = torch.tensor([[[0.5, 0.25, 0.125]]])
    bins_right = torch.tensor([[[0.4, 0.3, 0.2]]])
    given = replace(transport(mass), dustbin=bins, dustbin_right=bins_right)
    target = torch.tensor([[[0.0, 0.5, 0.0]]])
    visible, occluded = torch.tensor([[[True, True, False]]]), torch.tensor([[[False, False, True]]])
    occluded_right = torch.tensor([[[True, False, True]]])
    # tokens 0 and 1 by their match (0.5; half of 0.25 and of 0.5), token 2 by its dustbin, right tokens 0 and 2 by theirs
    expected = -sum(math.log(p + SOFTENED) for p in (0.5, 0.375, 0.125, 0.4, 0.2)) / 5
    assert response_loss(given, target, visible, occluded, occluded_right).item() == pytest.approx(expected, rel=1e-6)


def test_response_loss_of_a_perfect_match_is_zero():
    none = torch.zeros(1, 1, 3, dtype=torch.bool)
    loss = response_loss(transport(shifted(3, 0)), torch.tensor([[[0.0, 1.0, 2.0]]]), ~none, none, none)
    assert abs(loss.item()) <= 1.1 * SOFTENED


# ---------------------------------------------------------------------------------------------------------------------
# Means


def test_masked_mean_by_hand():
    values = torch.tensor([1.0, 2.0, 4.0, 100.0])
    assert masked_mean(values, torch.tensor([True, False, True, False])).item() == 2.5
    assert masked_mean(values, torch.tensor([1.0, 0.5, 0.5, 0.0])).item() == 2.0


def test_masked_mean_of_nothing_is_zero_with_a_graph():
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    mean = masked_mean(values, torch.zeros(2, dtype=torch.bool))
    assert mean.item() == 0
    mean.backward()
    assert values.grad.eq(0).all()


# ---------------------------------------------------------------------------------------------------------------------
# The whole loss on one row of two tokens: 4 x 8 pixels, the centres of the tokens are (2, 2) and (2, 6)


def tiny() -> tuple[Prediction, Batch]:
    """Truth 4 px everywhere (one token); token 1 matches token 0 with 0.75, token 0 with itself with 0.5."""
    mass = torch.tensor([[0.5, 0.0], [0.75, 0.125]])[None, None]
    given = replace(transport(mass), dustbin_right=torch.tensor([[[0.2, 0.6]]]))
    prediction = Prediction(
        disp=torch.full((1, 4, 8), 4.5),
        occlusion_logits=torch.full((1, 4, 8), -2.0),
        confidence_logits=torch.full((1, 4, 8), 1.0),
        disp_coarse=torch.tensor([[[0.0, 1.5]]]),
        transport=given,
    )
    occluded = torch.zeros(1, 4, 8, dtype=torch.bool)
    occluded[..., :4] = True  # 4 px of disparity leave the frame there
    occluded_right = torch.zeros(1, 4, 8, dtype=torch.bool)
    occluded_right[..., 4:] = True
    images = torch.zeros(2, 1, 3, 4, 8)
    batch = Batch(*images, torch.full((1, 4, 8), 4.0), torch.ones(1, 4, 8, dtype=torch.bool), occluded, occluded_right, ("t",))
    return prediction, batch


def with_grad(prediction: Prediction) -> Prediction:
    leaf = {f.name: getattr(prediction, f.name).clone().requires_grad_() for f in fields(prediction) if f.name != "transport"}
    mass = prediction.transport.mass.clone().requires_grad_()
    return replace(prediction, **leaf, transport=replace(prediction.transport, mass=mass))


def test_every_term_by_hand():
    prediction, batch = tiny()
    prediction.disp[0, 0, 5] = 7.0  # one visible pixel that is 3 px off
    prediction.disp[0, 1, 0] = 2.0  # one occluded pixel that is 2 px off
    terms = stereo_loss(prediction, batch, LossConfig())
    assert set(terms) == {*TERMS, "total"}
    assert all(term.dim() == 0 for term in terms.values())

    # Left token 0 by its dustbin, right token 1 by its own, left token 1 by its match. Its pixel is column 6 and the target
    # column 2, the centre of token 0: with the bias of SPEC P2 it would be 0.5 and mix in the 0.125.
    response = -sum(math.log(p + SOFTENED) for p in (0.5, 0.6, 0.75)) / 3
    assert terms["response"].item() == pytest.approx(response, rel=1e-6)
    assert terms["coarse"].item() == 1.5  # token 1 only: |1.5 * 4 - 4| - 0.5
    # smooth L1: 0.5 px -> 0.125; 3 px -> 2.5; 2 px -> 1.5. 16 visible pixels of weight 1, 16 occluded ones of 0.3
    assert terms["disparity"].item() == pytest.approx((15 * 0.125 + 2.5 + 0.3 * (15 * 0.125 + 1.5)) / (16 * 1.3), rel=1e-6)
    softplus = {x: math.log1p(math.exp(x)) for x in (-2.0, 2.0, -1.0, 1.0)}
    assert terms["occlusion"].item() == pytest.approx((softplus[2.0] + softplus[-2.0]) / 2, rel=1e-6)
    assert terms["confidence"].item() == pytest.approx((30 * softplus[-1.0] + 2 * softplus[1.0]) / 32, rel=1e-6)


@pytest.mark.parametrize(("row", "column", "counts"), [(2, 6, True), (2, 5, False), (2, 7, False), (1, 6, False)])
def test_a_token_is_compared_with_its_central_pixel(row: int, column: int, counts: bool):
    prediction, batch = tiny()
    none = torch.zeros_like(batch.valid)
    valid = none.clone()
    valid[0, row, column] = True
    terms = stereo_loss(prediction, replace(batch, valid=valid, occluded=none, occluded_right=none), LossConfig())
    assert terms["coarse"].item() == (1.5 if counts else 0)
    assert terms["response"].item() == pytest.approx(-math.log(0.75 + SOFTENED) if counts else 0, rel=1e-6)
    assert terms["disparity"].item() == 0.125  # at full resolution every pixel counts


def test_the_total_is_the_weighted_sum():
    prediction, batch = tiny()
    config = LossConfig(response=2.0, coarse=0.5, disparity=0.25, occlusion=3.0, confidence=0.125)
    terms = stereo_loss(prediction, batch, config)
    assert terms["total"].item() == pytest.approx(sum(getattr(config, name) * terms[name].item() for name in TERMS), rel=1e-6)
    for name in TERMS:  # each weight moves its own term only
        alone = LossConfig(**(dict.fromkeys(TERMS, 0.0) | {name: 1.0}))
        assert stereo_loss(prediction, batch, alone)["total"].item() == pytest.approx(terms[name].item(), rel=1e-6)


@pytest.mark.parametrize(("weight", "expected"), [(0.0, 0.5), (0.5, 0.5 * 2 / 3 + 1.5 / 3), (1.0, 1.0)])
def test_the_weight_of_occluded_pixels(weight: float, expected: float):
    """Visible pixels 1 px off (0.5), occluded ones 2 px off (1.5), equally many."""
    prediction, batch = tiny()
    prediction = replace(prediction, disp=torch.where(batch.occluded, 6.0, 5.0))
    terms = stereo_loss(prediction, batch, LossConfig(occluded_weight=weight))
    assert terms["disparity"].item() == pytest.approx(expected, rel=1e-6)


def test_an_error_of_exactly_one_pixel_is_not_within_one():
    prediction, batch = tiny()
    terms = stereo_loss(replace(prediction, disp=batch.disp + 1), batch, LossConfig())
    assert terms["confidence"].item() == pytest.approx(math.log1p(math.e), rel=1e-6)


def test_occlusion_is_learned_where_it_is_known():
    """Known: an occluded pixel without a disparity, too. Unknown: a pixel that is neither valid nor occluded."""
    prediction, batch = tiny()
    valid = torch.zeros_like(batch.valid)
    valid[..., 6:] = True
    logits = torch.where(batch.occluded, 1.0, torch.where(valid, -3.0, 50.0))
    terms = stereo_loss(replace(prediction, occlusion_logits=logits), replace(batch, valid=valid), LossConfig())
    # 16 occluded pixels and 8 visible ones
    expected = (16 * math.log1p(math.exp(-1.0)) + 8 * math.log1p(math.exp(-3.0))) / 24
    assert terms["occlusion"].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("tokens", [40, 160, 240])
def test_a_perfect_network_has_no_response_and_coarse_loss(tokens: int):
    """At any width the target of stereo_loss is the token that the transport points at: no bias, no drift (P2, P3)."""
    width, shift = STRIDE * tokens, 5
    pixels = torch.zeros(1, STRIDE, width)
    occluded = torch.arange(width).expand(1, STRIDE, width) < STRIDE * shift
    given = transport(shifted(tokens, shift))
    given = replace(given, dustbin_right=torch.zeros(1, 1, tokens).index_fill(2, torch.arange(tokens - shift, tokens), 1.0))
    disp = pixels + STRIDE * shift
    prediction = Prediction(disp, pixels, pixels, torch.full((1, 1, tokens), float(shift)), given)
    images = torch.zeros(2, 1, 3, STRIDE, width)
    terms = stereo_loss(prediction, Batch(*images, disp, pixels == 0, occluded, occluded.flip(-1)), LossConfig())
    assert abs(terms["response"].item()) <= 1.1 * SOFTENED
    assert terms["coarse"].item() == terms["disparity"].item() == 0


# ---------------------------------------------------------------------------------------------------------------------
# Gradients and pixels that are not known


@pytest.mark.parametrize(
    ("term", "reached"),
    [
        ("response", {"mass"}),
        ("coarse", {"disp_coarse"}),
        ("disparity", {"disp"}),
        ("occlusion", {"occlusion_logits"}),
        ("confidence", {"confidence_logits"}),
        ("total", {"mass", "disp_coarse", "disp", "occlusion_logits", "confidence_logits"}),
    ],
)
def test_which_output_each_term_moves(term: str, reached: set[str]):
    prediction, batch = tiny()
    prediction = with_grad(prediction)
    leaves = {f.name: getattr(prediction, f.name) for f in fields(prediction) if f.name != "transport"}
    leaves["mass"] = prediction.transport.mass
    loss = stereo_loss(prediction, batch, LossConfig())[term]
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    found = {name for name, gradient in zip(leaves, gradients, strict=True) if gradient is not None and gradient.any()}
    assert found == reached


def gradients_of(prediction: Prediction, batch: Batch) -> tuple[Tensor, list[Tensor]]:
    prediction = with_grad(prediction)
    leaves = [getattr(prediction, f.name) for f in fields(prediction) if f.name != "transport"]
    terms = stereo_loss(prediction, batch, LossConfig())
    return torch.stack(list(terms.values())), list(torch.autograd.grad(terms["total"], [*leaves, prediction.transport.mass]))


@pytest.mark.parametrize("junk", [0.0, -1e6, 1e6])
def test_values_at_invalid_pixels_do_not_matter(junk: float):
    """Not even in the gradients, and also where a pixel is both occluded and without a disparity."""
    prediction, batch = tiny()
    valid = torch.rand(1, 4, 8, generator=torch.Generator().manual_seed(0)) < 0.5
    valid[0, 2, 2] = valid[0, 2, 6] = False
    for changed in (batch.valid & ~valid, torch.zeros_like(valid)):
        masked = replace(batch, valid=batch.valid & ~changed)
        terms, gradients = gradients_of(prediction, masked)
        junk_terms, junk_gradients = gradients_of(prediction, replace(masked, disp=batch.disp.masked_fill(changed, junk)))
        assert torch.equal(terms, junk_terms)
        assert all(torch.equal(a, b) for a, b in zip(gradients, junk_gradients, strict=True))


@pytest.mark.parametrize("known", ["nothing", "no token centre", "only occluded"])
def test_no_nan_when_hardly_anything_is_known(known: str):
    prediction, batch = tiny()
    none = torch.zeros_like(batch.valid)
    batch = replace(batch, valid=none, occluded=none, occluded_right=none)
    if known == "no token centre":
        batch = replace(batch, valid=none.index_fill(1, torch.tensor([0]), True))
    if known == "only occluded":
        batch = replace(batch, occluded=~none, occluded_right=~none)
    terms, gradients = gradients_of(prediction, batch)
    assert terms.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients)
    if known == "nothing":
        assert terms.eq(0).all()
        assert not any(gradient.any() for gradient in gradients)
    else:
        assert terms[-1] > 0
