"""The network as a whole: shapes, what may enter it, whose results depend on whom, which parameters learn."""

from __future__ import annotations

import inspect
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor, nn

from stereo.attention import ATTENTION, build_attention
from stereo.attention.position import relative_sine
from stereo.config import PRESETS, LossConfig, ModelConfig, preset
from stereo.losses import stereo_loss
from stereo.model.build import build_model
from stereo.model.stereo_model import StereoModel
from stereo.model.transformer import AttentionLayer
from stereo.types import Batch, InputError, Prediction

# A batch of 2 runs other matrix kernels than a batch of 1: the same float32 products, summed in another order.
# Measured 5e-6 px for disparities, 1e-6 for everything else; a statistic that crossed images would move them by whole units.
ROUNDING = 1e-4


def pair(height: int, width: int, batch: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A textured left image and the right one of a scene at 6 px, each (batch, 3, height, width)."""
    generator = torch.Generator().manual_seed(seed)
    scene = torch.rand(batch, 3, height, width + 6, generator=generator)
    return scene[..., :-6], scene[..., 6:]


@pytest.fixture(scope="module")
def tiny() -> StereoModel:
    torch.manual_seed(0)
    model = build_model("tiny").eval()
    nn.init.normal_(model.refine.residual.weight, std=0.05)  # zero at birth, which would hide what it does
    return model


def outputs(prediction: Prediction) -> dict[str, Tensor]:
    maps = {f.name: getattr(prediction, f.name) for f in fields(prediction) if f.name != "transport"}
    return maps | {f.name: getattr(prediction.transport, f.name) for f in fields(prediction.transport)}


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 64), (32, 48), (48, 144), (80, 32)])
def test_shapes_and_ranges(tiny: StereoModel, height: int, width: int):
    with torch.no_grad():
        prediction = tiny(*pair(height, width, batch=2))
    h, w = height // 4, width // 4
    for name in ("disp", "occlusion", "confidence", "occlusion_logits", "confidence_logits"):
        assert getattr(prediction, name).shape == (2, height, width)
    shapes = {name: tuple(x.shape) for name, x in outputs(prediction).items()}
    assert shapes["disp_coarse"] == shapes["dustbin"] == shapes["dustbin_right"] == (2, h, w)
    assert shapes["mass"] == shapes["index"]
    assert shapes["mass"][:3] == (2, h, w)

    assert all(x.isfinite().all() for x in outputs(prediction).values())
    assert prediction.disp.min() >= 0
    for name in ("occlusion", "confidence"):
        assert 0 <= getattr(prediction, name).min() <= getattr(prediction, name).max() <= 1
    # A token cannot lie left of the row: the coarse disparity is at most its own column.
    assert (prediction.disp_coarse >= 0).all()
    assert (prediction.disp_coarse <= torch.arange(w) + 1e-4).all()
    assert prediction.disp_coarse[..., 1:].any()


def test_the_transport_keeps_its_promise(tiny: StereoModel):
    """Mass and dustbin of every left token sum to 1; no mass lies right of the diagonal; the indices are columns."""
    with torch.no_grad():
        transport = tiny(*pair(32, 96, batch=2)).transport
    assert (transport.mass.sum(-1) + transport.dustbin - 1).abs().max() < 1e-5
    assert (transport.mass >= 0).all()
    column = torch.arange(24)[:, None]
    assert transport.mass[transport.index > column].eq(0).all()
    assert transport.mass[transport.index <= column].gt(0).any()
    assert ((transport.index >= 0) & (transport.index < 24)).all()


@pytest.mark.parametrize(
    "shapes",
    [
        ((1, 3, 16, 24), (1, 3, 16, 24)),
        ((1, 3, 20, 32), (1, 3, 20, 32)),
        ((1, 3, 16, 32), (1, 3, 16, 48)),
        ((1, 3, 16, 32), (2, 3, 16, 32)),
        ((1, 1, 16, 32), (1, 1, 16, 32)),
        ((3, 16, 32), (3, 16, 32)),
    ],
    ids=str,
)
def test_other_shapes_are_refused(tiny: StereoModel, shapes: tuple):
    with pytest.raises(ValueError, match="expected"):
        tiny(torch.zeros(shapes[0]), torch.zeros(shapes[1]))


def test_no_label_can_enter():
    """SPEC P1: the public code's forward takes the ground truth occlusion, and its prediction depends on it."""
    parameters = inspect.signature(StereoModel.forward).parameters
    assert list(parameters) == ["self", "left", "right"]
    assert all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters.values())


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_are_small_enough(name: str):
    parameters = sum(p.numel() for p in build_model(name).parameters())
    assert 100_000 < parameters <= 3_000_000


def test_a_batch_of_two_equals_each_alone(tiny: StereoModel):
    """SPEC P6: no statistic crosses images, so neither pair sees the other; nor do very different exposures matter."""
    left, right = pair(32, 96, batch=2)
    left, right = (torch.stack([x[0], 0.2 * x[1] + 0.7]) for x in (left, right))
    with torch.no_grad():
        together = outputs(tiny(left, right))
        for item in (0, 1):
            alone = outputs(tiny(left[item : item + 1], right[item : item + 1]))
            for name, value in alone.items():
                torch.testing.assert_close(together[name][item], value[0], atol=ROUNDING, rtol=ROUNDING, msg=name)


def test_training_and_evaluation_mode_are_one_function(tiny: StereoModel):
    images = pair(32, 64)
    try:
        with torch.no_grad():
            evaluated = outputs(tiny.eval()(*images))
            trained = outputs(tiny.train()(*images))
    finally:
        tiny.eval()
    assert all(torch.equal(trained[name], value) for name, value in evaluated.items())


def test_exposure_and_contrast_of_a_view_cancel(tiny: StereoModel):
    """Each image is standardised on its own. The median, because a tie in the match may fall the other way."""
    left, right = pair(32, 64)
    with torch.no_grad():
        plain, dark = tiny(left, right), tiny(left, 0.25 * right + 0.1)
    assert (plain.disp_coarse - dark.disp_coarse).abs().median() < 1e-3
    assert (plain.disp - dark.disp).abs().median() < 1e-3


def test_each_view_matters_and_in_its_own_place(tiny: StereoModel):
    left, right = pair(32, 64)
    with torch.no_grad():
        disp = tiny(left, right).disp
        for other in (tiny(right, left), tiny(left, right.flip(-1)), tiny(left.flip(-1), right)):
            assert (other.disp - disp).abs().max() > 0.1


def test_who_attends_to_whom(tiny: StereoModel):
    """Self attention: a view to itself. Cross attention: each view to the other one, left to its left, right to its right."""
    calls: list[tuple] = []
    layers = [part for layer in tiny.transformer.layers for part in (layer.self_attention, layer.cross_attention)]
    handles = [part.register_forward_pre_hook(lambda _, given: calls.append(given)) for part in layers]
    try:
        with torch.no_grad():
            tiny(*pair(16, 48, batch=2))
    finally:
        for handle in handles:
            handle.remove()
    assert len(calls) == 2 * tiny.config.layers
    for own, cross in zip(calls[::2], calls[1::2], strict=True):
        x, source, code = own  # without a side
        assert torch.equal(x, source)
        assert code == "rotary"
        x, source, _, side = cross
        assert torch.equal(source, torch.cat([x[2:], x[:2]]))
        assert not torch.equal(x[:2], x[2:])
        assert side.tolist() == [1, 1, -1, -1]


def test_the_refinement_sees_the_left_view(tiny: StereoModel):
    given: list[Tensor] = []
    handle = tiny.refine.register_forward_pre_hook(lambda _, args: given.extend(args))
    left, right = pair(16, 48)
    try:
        with torch.no_grad():
            prediction = tiny(left, right)
            features, _ = tiny.backbone(tiny.normalise(left, right))
    finally:
        handle.remove()
    disp, _, transport, context, tokens, q, _ = given
    assert torch.equal(disp, prediction.disp_coarse)
    assert transport is prediction.transport
    torch.testing.assert_close(context, features[:1], atol=1e-5, rtol=1e-5)  # another memory format, the same sums
    assert (context - features[1:]).abs().max() > 0.1
    torch.testing.assert_close(q, tiny.matching.project(tokens).detach() * tokens.shape[-1] ** -0.25)


def test_rows_far_away_do_not_matter(tiny: StereoModel):
    """Matching runs along rows; what else mixes rows reaches less than 300 of them. A bottom upside down is no news above."""
    left, right = pair(512, 32)
    # The standardisation takes the whole image; turning rows around changes neither mean nor variance.
    turned = (torch.cat([x[:, :, :448], x[:, :, 448:].flip(2)], dim=2) for x in (left, right))
    with torch.no_grad():
        before, after = tiny(left, right).disp, tiny(*turned).disp
    assert (before[:, 448:] - after[:, 448:]).abs().max() > 0.1
    assert (before[:, :128] - after[:, :128]).abs().max() < ROUNDING


@pytest.mark.parametrize("name", sorted(name for name, config in PRESETS.items() if isinstance(config, ModelConfig)))
def test_every_parameter_learns(name: str):
    """No exceptions: after one backward pass of the training loss every parameter of the network has a gradient."""
    torch.manual_seed(0)
    model = build_model(name)
    left, right = pair(32, 96, batch=2)
    shape, generator = (2, 32, 96), torch.Generator().manual_seed(1)
    disp = 20 * torch.rand(shape, generator=generator)
    valid, occluded, occluded_right = (torch.rand(shape, generator=generator) < p for p in (0.8, 0.2, 0.2))
    prediction = model(left, right)
    stereo_loss(prediction, Batch(left, right, disp, valid, occluded, occluded_right), LossConfig())["total"].backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert [n for n, p in model.named_parameters() if not p.grad.isfinite().all()] == []


def test_the_same_seed_builds_the_same_network():
    def build(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        return build_model("tiny").state_dict()

    first, again, other = build(3), build(3), build(4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(
    ("change", "blamed"),
    [
        ({"heads": 3}, "expected a multiple of 4 channels per head"),
        ({"heads": 16}, "expected a multiple of 4 channels per head"),
        ({"attention": "quadtree"}, "did you mean quadtree_b"),
    ],
)
def test_impossible_networks_are_refused(change: dict, blamed: str):
    with pytest.raises(InputError, match=blamed):
        build_model(replace(PRESETS["tiny"], **change))


def test_unknown_presets_are_refused():
    with pytest.raises(InputError, match="did you mean small"):
        build_model("smal")


@pytest.mark.parametrize("attention", ATTENTION)
def test_every_operator_fits_the_network(attention: str):
    torch.manual_seed(0)
    model = build_model(replace(PRESETS["tiny"], attention=attention)).eval()
    with torch.no_grad():
        assert model(*pair(16, 48)).disp.shape == (1, 16, 48)


def test_operators_get_the_options_that_they_have():
    """levels and topk from the configuration, the kernel from the caller, the width of a head from both sizes; no others."""
    wanted = {"levels": 3, "topk": 5}
    for attention in ATTENTION:
        model = build_model(replace(PRESETS["tiny"], attention=attention, **wanted), kernel="reference")
        operator = model.transformer.layers[0].self_attention.operator
        assert type(operator) is ATTENTION[attention]
        if attention.startswith("quadtree"):
            assert (operator.levels, operator.topk, operator.kernel) == (3, [5, 5, 5], "reference")
        if attention == "additive":
            assert operator.query_pool.shape == (PRESETS["tiny"].channels // PRESETS["tiny"].heads,)


def test_windows_are_shifted_in_every_other_layer():
    config = replace(preset("tiny"), attention="window", window=6, layers=4)
    layers = build_model(config).transformer.layers
    found = [(layer.self_attention.operator.offset, layer.cross_attention.operator.offset) for layer in layers]
    assert found == [(0, 0), (3, 3), (0, 0), (3, 3)]


@pytest.mark.parametrize(
    ("settings", "attribute", "value"),
    [
        ({"attention": "spatial_reduction", "reduction": 3}, "reduction", 3),
        ({"attention": "bilevel_routing", "region": 5, "topk": 2}, "region", 5),
        ({"attention": "quadtree_a", "levels": 3, "pool": "mean"}, "pool", "mean"),
        ({"attention": "quadtree_b", "lepe": True}, "lepe_channels", 32),
    ],
)
def test_settings_reach_the_operator(settings: dict, attribute: str, value: object):
    model = build_model(replace(preset("tiny"), **settings)).eval()
    for layer in model.transformer.layers:
        assert getattr(layer.cross_attention.operator, attribute) == value
    with torch.no_grad():
        assert model(*pair(16, 48)).disp.isfinite().all()


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"attention": "quadtre_b"}, "unknown attention 'quadtre_b'.*did you mean quadtree_b"),
        ({"attention": "dense", "lepe": True}, "only quadtree_b has"),
        ({"attention": "linear", "position": "relative"}, "no scores to add relative positions to"),
        ({"position": "rotray"}, "did you mean rotary"),
        ({"heads": 3}, "got 32 channels for 3 heads"),
        ({"attention": "window", "window": 0}, "got window 0, expected at least 1"),
    ],
)
def test_impossible_settings_get_one_line(settings: dict, line: str):
    with pytest.raises(InputError, match=line):
        build_model(replace(preset("tiny"), **settings))


@pytest.mark.parametrize("attention", ["dense", "quadtree_b"])
def test_positions_are_those_that_were_asked_for(attention: str):
    """Without a code moving all columns changes nothing; the relative table and the rotary code tell near from far."""
    left, right = pair(16, 64)
    results = {}
    for position in ("rotary", "relative", "none"):
        torch.manual_seed(5)
        model = build_model(replace(preset("tiny"), attention=attention, position=position)).eval()
        with torch.no_grad():
            results[position] = model(left, right).disp_coarse  # before propagation evens out what a newborn network says
    assert (results["rotary"] - results["none"]).abs().max() > 1e-3
    assert (results["relative"] - results["none"]).abs().max() > 1e-3
    assert (results["relative"] - results["rotary"]).abs().max() > 1e-3


def test_relative_terms_in_the_layer_are_those_of_the_formula():
    """q k + q r + r k for every pair of columns, r the layer's own projections of the sine of their distance (STTR 3.1)."""
    torch.manual_seed(0)
    channels, heads, width = 16, 2, 7
    layer = AttentionLayer(channels, heads, build_attention("dense")).double()
    x, source = torch.randn(2, 1, 1, width, channels, dtype=torch.float64)
    table = relative_sine(width, channels, 1.0).double()
    message = layer(x, source, table)
    d = channels // heads
    expected = torch.zeros(width, channels, dtype=torch.float64)
    keys, values = layer.key_value(source[0, 0]).chunk(2, dim=-1)
    queries = layer.query(x[0, 0])
    for head in range(heads):
        own = slice(head * d, (head + 1) * d)
        scores = torch.zeros(width, width, dtype=torch.float64)
        for i in range(width):
            for j in range(width):
                phase = (i - j) / 10000 ** (torch.arange(0, channels, 2, dtype=torch.float64) / channels)
                sine = torch.stack([phase.sin(), phase.cos()], dim=-1).flatten()
                q_r, k_r = layer.query(sine)[own], layer.key_value(sine)[:channels][own]
                q, k = queries[i, own], keys[j, own]
                scores[i, j] = (q @ k + q @ k_r + q_r @ k) / d**0.5
        expected[:, own] = scores.softmax(dim=-1) @ values[:, own]
    torch.testing.assert_close(message[0, 0], layer.out(expected), atol=1e-6, rtol=0)
