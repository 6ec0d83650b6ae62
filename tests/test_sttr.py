"""STTR with and without its quirks: sizes, the traps of the public code, batches, what the rest of the program needs of it."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_sttr import NARROW, network, pair, random_batch
from torch import Tensor

from stereo.attention.position import RelativeTerms, relative_sine
from stereo.checkpoint import load_model, save_weights
from stereo.config import LossConfig, SttrConfig, load_recipe, preset
from stereo.inference.predictor import StereoPredictor
from stereo.losses import response_at, stereo_loss
from stereo.model.build import build_model
from stereo.model.sttr.adjust import standardise, upsample_nearest
from stereo.model.sttr.network import Sttr
from stereo.types import Batch, InputError, Prediction, Transport

LIGHT = replace(preset("sttr-light"), layers=1, adjust_blocks=1)
HOW = pytest.mark.parametrize("faithful", [False, True], ids=["fixed", "faithful"])


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("name", "tokenizer", "total"), [("sttr", 503_728, 2_513_811), ("sttr-light", 323_264, 2_333_347)])
def test_the_published_numbers_of_parameters(name: str, tokenizer: int, total: int):
    model = build_model(name)
    assert parameters(model.backbone) == 1_050_800
    assert parameters(model.tokenizer) == tokenizer
    assert parameters(model.transformer) == 797_440
    assert parameters(model.matching) + parameters(model.adjust) == 161_843
    assert parameters(model) == total


# ---------------------------------------------------------------------------------------------------------------------
# What comes out


@HOW
@pytest.mark.parametrize(
    ("config", "size", "tokens"),
    [
        (NARROW, (121, 130), (40, 43)),
        (replace(NARROW, stride=2), (121, 131), (60, 65)),
        (replace(NARROW, stride=4), (122, 125), (30, 31)),
        (LIGHT, (121, 130), (31, 33)),
    ],
    ids=["stride3", "stride2", "stride4", "light"],
)
def test_shapes_and_promises(config: SttrConfig, size: tuple[int, int], tokens: tuple[int, int], faithful: bool):
    with torch.no_grad():
        prediction = network(config, faithful=faithful)(*pair(*size))
    for name in ("disp", "occlusion", "confidence"):
        values = getattr(prediction, name)
        assert values.shape == (1, *size)
        assert values.isfinite().all()
    assert prediction.disp.min() >= 0
    assert 0 <= prediction.occlusion.min() <= prediction.occlusion.max() <= 1
    assert prediction.disp_coarse.shape == (1, *tokens)
    transport = prediction.transport
    assert transport is not None
    assert transport.mass.shape == transport.index.shape == (1, *tokens, tokens[1])
    torch.testing.assert_close(transport.mass.sum(dim=-1) + transport.dustbin, torch.ones(1, *tokens), atol=1e-5, rtol=0)
    ahead = transport.index > torch.arange(tokens[1])[:, None]
    assert not transport.mass[ahead].any()


@pytest.mark.parametrize(
    "shapes",
    [
        ((1, 3, 120, 130), (1, 3, 120, 130)),
        ((1, 3, 130, 120), (1, 3, 130, 120)),
        ((1, 3, 121, 130), (1, 3, 121, 131)),
        ((3, 121, 130), (3, 121, 130)),
        ((1, 1, 121, 130), (1, 1, 121, 130)),
    ],
)
def test_other_sizes_are_refused(shapes: tuple):
    with pytest.raises(ValueError, match=r"121 px|alike"):
        network()(*(torch.zeros(shape) for shape in shapes))


def test_only_what_the_public_network_never_trains_has_no_gradient():
    model = network().train()
    batch = random_batch(128, 256)  # wide enough that the widest pooling leaves two pixels to normalise
    stereo_loss(model(batch.left, batch.right), batch, LossConfig())["total"].backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None]
    assert silent == ["transformer.norm.weight", "transformer.norm.bias"]
    assert [name for name, p in model.named_parameters() if name not in silent and not p.grad.isfinite().all()] == []
    # Their only way on is through a normalisation, which takes a constant out again.
    constant = [f"tokenizer.decoder.up.{i}.bias" for i in range(2)]
    assert [name for name, p in model.named_parameters() if name not in (*silent, *constant) and not p.grad.any()] == []


def test_half_precision_stays_finite():
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        prediction = network()(*pair(121, 130))
    assert prediction.transport is not None
    assert prediction.transport.mass.dtype == torch.float32
    assert all(x.isfinite().all() for x in (prediction.disp, prediction.occlusion_logits, prediction.confidence_logits))


# ---------------------------------------------------------------------------------------------------------------------
# The traps (SPEC section 6), each with the switch and without


def test_p1_the_surest_occlusion_reads_as_occluded():
    mass, disparity = torch.tensor([[[0.02, 0.5, 0.95]]]), torch.tensor([[[8.0, 8.0, 8.0]]])
    disp, occlusion = network(faithful=False).regress(mass * disparity, mass)
    torch.testing.assert_close(disp, disparity)
    torch.testing.assert_close(occlusion, torch.tensor([[[0.98, 0.5, 0.05]]]))
    disp, occlusion = network(faithful=True).regress(mass * disparity, mass)
    torch.testing.assert_close(disp, torch.tensor([[[0.16, 8.0, 8.0]]]))
    torch.testing.assert_close(occlusion, torch.tensor([[[0.0, 0.5, 0.05]]]))


@HOW
def test_p1_no_label_enters(faithful: bool):
    model = network(faithful=faithful)
    for function in (model.forward, model.match_normalised):
        assert list(inspect.signature(function).parameters) == ["left", "right"]


@pytest.mark.parametrize(("width", "public"), [(960, 2 / 3), (640, 0.83), (641, 0.50)])
def test_p2_a_perfect_match_has_a_response_of_one(width: int, public: float):
    """SPEC 7.5. The public target forgets that the first token lies at pixel 1, and divides by the ratio of widths."""
    stride, shift = 3, 20  # tokens
    columns = torch.arange(stride // 2, width, stride)
    tokens = len(columns)
    index = torch.arange(tokens)
    mass = (index[:, None] - index == shift).float()[None, None]
    nothing = torch.zeros(1, 1, tokens)
    transport = Transport(mass, index.expand(mass.shape), nothing, nothing)
    visible = index >= shift

    target = (columns - stride * shift) / network(faithful=True).scale(width, tokens)
    response = response_at(transport, target[None, None])[0, 0, visible].mean()
    assert response == pytest.approx(public, abs=0.02)  # it drifts along the row: the mean depends on which part is visible

    assert network(faithful=False).scale(width, tokens) == stride
    shape = (1, stride, width)
    disp, seen = torch.full(shape, float(stride * shift)), (torch.arange(width) > stride * shift).expand(shape)
    images, no = torch.zeros(1, 3, *shape[1:]), torch.zeros(shape, dtype=torch.bool)
    zero = torch.zeros(shape)
    prediction = Prediction(zero, zero, zero, nothing, transport)
    terms = stereo_loss(prediction, Batch(images, images, disp, seen, no, no), LossConfig())
    assert terms["response"] == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("width", [640, 641, 960])
def test_p3_pixels_per_token_are_the_stride(width: int):
    tokens = len(range(1, width, 3))
    fixed, faithful = network(faithful=False), network(faithful=True)
    assert fixed.scale(width, tokens) == 3
    assert faithful.scale(width, tokens) == width / tokens
    features = torch.zeros(2, 1, tokens, 16)
    ours, theirs = (model.position_table(features, width) for model in (fixed, faithful))
    torch.testing.assert_close(ours, relative_sine(tokens, 16, 3.0))
    assert (ours - theirs).abs().max() > 0.5 or width == 960


@pytest.mark.parametrize(("width", "fixed", "faithful"), [(960, 1, 1), (640, 1, 2), (641, 1, 1)])
def test_p3_every_pixel_takes_the_nearest_token(width: int, fixed: int, faithful: int):
    """Largest distance in px between a pixel and the one that its token was taken from, away from the right border."""
    positions = torch.arange(1, width, 3).float()
    for stride, expected in ((3, fixed), (None, faithful)):
        taken = upsample_nearest(positions.expand(1, 1, -1), (1, width), stride)[0, 0]
        assert (taken - torch.arange(width)).abs()[: width - 3].max() == expected


def test_p3_the_light_version_counts_in_tokens_and_its_stride_is_exact():
    for faithful in (False, True):
        model = network(LIGHT, faithful=faithful)
        assert model.scale(130, 33) == 4
        torch.testing.assert_close(model.position_table(torch.zeros(2, 1, 33, 128), 130), relative_sine(33, 128, 1.0))


@HOW
@pytest.mark.parametrize("config", [NARROW, LIGHT], ids=["sttr", "light"])
def test_p5_a_batch_of_two_equals_each_alone(config: SttrConfig, faithful: bool):
    """The public code does not run on a batch. P18 too: one pair's disparities standardise only its own."""
    model = network(config, faithful=faithful)
    left, right = pair(121, 130, batch=2)
    left[1] *= 0.3  # two pairs of different brightness
    with torch.no_grad():
        both = model(left, right)
        for i in range(2):
            alone = model(left[i : i + 1], right[i : i + 1])
            for name in ("disp", "disp_coarse", "occlusion_logits", "confidence_logits"):
                torch.testing.assert_close(getattr(both, name)[i], getattr(alone, name)[0], atol=1e-3, rtol=1e-4)


def test_p6_the_partner_image_matters_only_to_the_faithful_features():
    (left, right), (_, other) = pair(128, 256), pair(128, 256, seed=1)
    for faithful in (False, True):
        model = network(faithful=faithful)
        with torch.no_grad():
            tokens = [model.tokenizer(x, model.backbone(x))[0] for x in (torch.cat([left, r]) for r in (right, other**4))]
        changed = (tokens[0] - tokens[1]).abs().max()
        assert changed > 1e-2 if faithful else changed < 1e-5


def test_p6_training_and_evaluation_are_one_function():
    model = network()
    with torch.no_grad():
        evaluated, trained = model(*pair(121, 130)), model.train()(*pair(121, 130))
    assert torch.equal(evaluated.disp, trained.disp)


def test_p18_each_image_is_standardised_by_itself():
    disp = torch.stack([torch.rand(5, 6), 100 + 50 * torch.rand(5, 6)])
    standard, mean, deviation = standardise(disp)
    assert standard.mean(dim=(1, 2)).abs().max() < 1e-5
    torch.testing.assert_close(standard.std(dim=(1, 2)), torch.ones(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(standard * deviation + mean, disp)
    assert standardise(torch.ones(1, 5, 6))[0].abs().max() == 0  # a flat map has no deviation to divide by


# ---------------------------------------------------------------------------------------------------------------------
# Relative position terms


def terms_by_hand(q: Tensor, k: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    width = q.shape[2]
    out = torch.empty(*q.shape[:4], width, dtype=q.dtype)
    for i in range(width):
        for j in range(width):
            row = width - 1 - (i - j)
            out[:, :, i, :, j] = (q[:, :, i] * keys[row]).sum(-1) + (k[:, :, j] * queries[row]).sum(-1)
    return out


def test_relative_terms_by_hand_and_at_candidates():
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 2, 3, 7, 2, 4, generator=generator, dtype=torch.float64)
    queries, keys = torch.randn(2, 13, 2, 4, generator=generator, dtype=torch.float64)
    position, columns = RelativeTerms(queries, keys), torch.arange(7)
    dense = position.terms(q, k, columns, columns)
    torch.testing.assert_close(dense, terms_by_hand(q, k, queries, keys))
    candidates = torch.randint(0, 7, (2, 3, 7, 2, 5), generator=generator)
    torch.testing.assert_close(position.terms(q, k, columns, columns, candidates), dense.gather(-1, candidates))
    assert position.encode(q, columns) is q


def test_relative_sine_row_by_row():
    """SPEC 7.3: the centre row is 0, 1, 0, 1, ...; rows count from the largest offset down, in units of the scale."""
    table = relative_sine(9, 8, 3.0)
    assert table.shape == (17, 8)
    assert table[8].tolist() == [0, 1] * 4
    offset = 2 * 3.0  # query 5, key 3
    expected = [f(torch.tensor(offset / 10000 ** (2 * m / 8))) for m in range(4) for f in (torch.sin, torch.cos)]
    torch.testing.assert_close(table[8 - 2], torch.stack(expected))
    torch.testing.assert_close(table.flip(0)[8 - 2], table[8 + 2])  # a right query: key minus query


# ---------------------------------------------------------------------------------------------------------------------
# The rest of the program


@pytest.mark.parametrize("size", [(40, 50), (121, 130), (125, 60)])
def test_the_predictor_pads_to_what_the_network_needs_and_no_further(size: tuple[int, int]):
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 256, (2, *size, 3), dtype=np.uint8)
    seen = []
    model = network()
    model.tokenizer.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape[2:])))
    result = StereoPredictor(model).predict(left, right)
    assert seen == [(max(size[0], 121), max(size[1], 121))]
    assert result.disp.shape == result.occlusion.shape == result.confidence.shape == size
    assert np.isfinite(result.disp).all()


@pytest.mark.parametrize("config", [NARROW, replace(LIGHT, faithful=True)], ids=["sttr", "light"])
def test_weights_come_back_with_their_configuration(config: SttrConfig, tmp_path: Path):
    model = network(config)
    loaded = load_model(save_weights(model, tmp_path, "x"), "cpu")
    assert isinstance(loaded, Sttr)
    assert loaded.config == config
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_recipe_names_the_preset(tmp_path: Path):
    recipe = tmp_path / "r.toml"
    recipe.write_text('[model]\npreset = "sttr"\nstride = 2\n')
    assert load_recipe(recipe).model == SttrConfig(stride=2)
    recipe.write_text('[model]\npreset = "sttr-light"\nexpansion = 2\n')
    with pytest.raises(InputError, match=r"unknown setting 'model\.expansion'"):
        load_recipe(recipe)


@pytest.mark.parametrize(
    ("changes", "blamed"),
    [
        ({"stride": 0}, "got stride 0, expected at least 1"),
        ({"stride": -1, "faithful": True}, "expected at least 0"),
        ({"heads": 3}, "16 channels for 3 heads"),
        ({"layers": 0}, "got layers 0"),
        ({"decoder": "half"}, "got decoder 'half', expected one of full, quarter"),
        ({"position": "rotery"}, "expected one of none, relative, rotary; did you mean rotary"),
        ({"matching": "sinkhorn"}, "expected one of softmax, transport"),
        ({"decoder": "quarter"}, "the quarter decoder with growth 4 has stride 4 and 80 channels"),
        ({"adjust_blocks": -1}, "got adjust_blocks -1"),
    ],
)
def test_impossible_shapes_are_one_line(changes: dict, blamed: str):
    with pytest.raises(InputError, match=blamed) as caught:
        network(**changes)
    assert "\n" not in str(caught.value)
