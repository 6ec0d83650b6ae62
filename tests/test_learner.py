"""One step and what it is made of: against a plain loop, against numbers by hand, against itself in other forms."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_sttr import NARROW, random_batch
from torch import nn
from training_case import RECIPE, H, W, batches, make_batch, train, with_train

from stereo.config import Recipe
from stereo.engine.ema import Average, holding
from stereo.engine.learner import Learner
from stereo.engine.optimiser import build_optimizer, load_optimizer, set_rate
from stereo.engine.schedule import warmup_cosine
from stereo.losses import stereo_loss
from stereo.model.build import build_model
from stereo.types import Batch, InputError

CPU = torch.device("cpu")


def learner(recipe: Recipe = RECIPE) -> Learner:
    torch.manual_seed(5)
    return Learner(build_model(recipe.model, recipe.train.kernel), recipe, CPU)


def weights_after(recipe: Recipe, steps: int = 3) -> dict[str, torch.Tensor]:
    ours = learner(recipe)
    for step in range(steps):
        ours.step([make_batch(step)], 1.0)
    return ours.model.state_dict()


def gradients(recipe: Recipe, given: list[Batch]) -> dict[str, torch.Tensor]:
    """Of one step over these batches, before they are used: a rate of next to nothing, and no clipping."""
    ours = learner(replace(recipe, train=replace(recipe.train, clip_norm=1e9)))
    ours.step(given, 1e-30)
    return {name: p.grad.clone() for name, p in ours.model.named_parameters() if p.grad is not None}


def test_the_default_recipe_is_a_plain_loop_to_the_bit(tmp_path):
    """Forward, loss, backward, clip, AdamW under a cosine: written out, with nothing of what can be turned on."""
    torch.manual_seed(5)
    model = build_model(RECIPE.model).train()
    torch.manual_seed(RECIPE.train.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RECIPE.train.learning_rate, weight_decay=RECIPE.train.weight_decay)
    for step, batch in enumerate(batches(0, 6, 1)):
        optimizer.param_groups[0]["lr"] = RECIPE.train.learning_rate * warmup_cosine(step, 6, 2)
        optimizer.zero_grad(set_to_none=True)
        stereo_loss(model(batch.left, batch.right), batch, RECIPE.loss)["total"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), RECIPE.train.clip_norm)
        optimizer.step()
    ours, _ = train(tmp_path)
    assert [name for name, value in ours.state_dict().items() if not torch.equal(value, model.state_dict()[name])] == []


def test_accumulated_gradients_are_the_mean_of_those_of_the_batches():
    one, other, both = (gradients(RECIPE, list(map(make_batch, numbers))) for numbers in ([0], [1], [0, 1]))
    for name, mean in both.items():
        assert torch.allclose(mean, (one[name] + other[name]) / 2, rtol=1e-5, atol=1e-7), name
    assert any(not torch.allclose(one[name], other[name], rtol=0.1) for name in one)


def test_the_numbers_of_a_step_are_those_of_all_its_batches():
    alone = [learner().step([make_batch(number)], 1e-30) for number in (0, 1)]
    both = learner().step([make_batch(0), make_batch(1)], 1e-30)
    for name, value in both.terms.items():
        assert value == pytest.approx((alone[0].terms[name] + alone[1].terms[name]) / 2, rel=1e-6)
    seen = [int((batch.valid & ~batch.occluded).sum()) for batch in map(make_batch, (0, 1))]
    assert seen[0] != seen[1]  # so that a mean of means would be another number
    pooled = (seen[0] * alone[0].epe + seen[1] * alone[1].epe) / sum(seen)
    assert both.epe == pytest.approx(pooled, rel=1e-9)


def test_an_epe_without_pixels_is_no_number():
    batch = make_batch(0)
    assert math.isnan(learner().step([replace(batch, valid=torch.zeros_like(batch.valid))], 1.0).epe)


# ---------------------------------------------------------------------------------------------------------------------
# Optimiser


class Small(nn.Module):
    """Four kinds of parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(2, 2)
        self.head = nn.Linear(2, 1)


def updated(factor: float = 1.0, **settings: Any) -> dict[str, float]:
    """Change of the first value of each parameter in one step; all start at 1 with a gradient of 1."""
    model = Small()
    for parameter in model.parameters():
        nn.init.ones_(parameter)
        parameter.grad = torch.ones_like(parameter)
    recipe = with_train(learning_rate=0.1, weight_decay=0.5, **settings).train
    optimizer = build_optimizer(model, recipe)
    set_rate(optimizer, recipe.learning_rate * factor)
    optimizer.step()
    return {name: 1 - float(parameter.detach().flatten()[0]) for name, parameter in model.named_parameters()}


def test_the_first_step_of_adamw_by_hand():
    """lr * (weight decay * 1 + sign of the gradient)."""
    everywhere = dict.fromkeys(("backbone.weight", "backbone.bias", "head.weight", "head.bias"), 0.1 * (0.5 + 1))
    assert updated() == pytest.approx(everywhere, rel=1e-5)
    no_decay = everywhere | {"backbone.bias": 0.1, "head.bias": 0.1}
    assert updated(decay_all=False) == pytest.approx(no_decay, rel=1e-5)
    slow = {name: value / 4 if name.startswith("backbone") else value for name, value in everywhere.items()}
    assert updated(backbone_rate=0.25) == pytest.approx(slow, rel=1e-5)
    both = {name: value / 4 if name.startswith("backbone") else value for name, value in no_decay.items()}
    halved = {name: value / 2 for name, value in both.items()}
    assert updated(0.5, decay_all=False, backbone_rate=0.25) == pytest.approx(halved, rel=1e-5)


def test_other_groups_cannot_be_resumed():
    state = build_optimizer(Small(), RECIPE.train).state_dict()
    with pytest.raises(InputError, match=r"checkpoint 'x' was trained with other parameter groups.*train\.decay_all"):
        load_optimizer(build_optimizer(Small(), with_train(decay_all=False).train), state, "checkpoint 'x'")


def test_settings_of_the_recipe_beat_those_of_a_checkpoint():
    optimizer = build_optimizer(Small(), with_train(weight_decay=0.25).train)
    load_optimizer(optimizer, build_optimizer(Small(), RECIPE.train).state_dict(), "")
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.25]


# ---------------------------------------------------------------------------------------------------------------------
# Average


def test_the_average_by_hand():
    """Decays (1 + n) / (10 + n): 2/11, 3/12; then 0.3, which is less than 4/13."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    average, expected = Average(model, 0.3), 1.0
    for value, decay in ((2.0, 2 / 11), (5.0, 3 / 12), (7.0, 0.3), (1.0, 0.3)):
        nn.init.constant_(model.weight, value)
        average.update(model)
        expected = decay * expected + (1 - decay) * value
        assert float(average.weights["weight"]) == pytest.approx(expected, rel=1e-6)
    with holding(model, average.weights):
        assert float(model.weight.detach()) == pytest.approx(expected, rel=1e-6)
    assert float(model.weight.detach()) == 1.0


def test_a_block_that_fails_gives_the_weights_back():
    model = nn.Linear(1, 1)
    before = model.weight.clone()
    with pytest.raises(KeyError), holding(model, {"weight": torch.zeros(1, 1), "bias": torch.zeros(1)}):
        raise KeyError
    assert torch.equal(model.weight, before)


# ---------------------------------------------------------------------------------------------------------------------
# The same step in other forms


def test_recomputing_changes_no_gradient():
    """Of STTR neither, nor under autocast."""
    cases = [(recipe, make_batch(0)) for recipe in (RECIPE, with_train(precision="bf16"))]
    for recipe, batch in [*cases, (replace(RECIPE, model=NARROW), random_batch(123, 141))]:
        again = replace(recipe, train=replace(recipe.train, gradient_checkpointing=True))
        plain, recomputed = gradients(recipe, [batch]), gradients(again, [batch])
        assert plain.keys() == recomputed.keys()
        assert all(torch.equal(value, recomputed[name]) for name, value in plain.items())


@pytest.mark.parametrize("recomputed", [False, True])
def test_every_layer_runs_twice_when_it_is_recomputed(recomputed: bool):
    ours = learner(with_train(gradient_checkpointing=recomputed))
    calls = []
    for number, layer in enumerate(ours.model.transformer.layers):
        layer.register_forward_pre_hook(lambda *_, number=number: calls.append(number))
    ours.step([make_batch(0)], 1.0)
    assert calls == ([0, 1, 1, 0] if recomputed else [0, 1])
    calls.clear()
    with torch.no_grad():
        ours.model(*torch.rand(2, 1, 3, H, W))
    assert calls == [0, 1]


def test_fp16_learns_what_fp32_learns():
    """Within what half precision loses: the updates of three steps point the same way."""
    start = learner().model.state_dict()
    start = {name: value.clone() for name, value in start.items()}
    changes = []
    for precision in ("fp32", "fp16"):
        ours = learner(with_train(precision=precision, kernel="reference"))
        ours.scaler.load_state_dict(ours.scaler.state_dict() | {"scale": 2.0**12})
        for step in range(3):
            assert ours.step([make_batch(step)], 1.0).updated
        changes.append(torch.cat([(value - start[name]).flatten() for name, value in ours.model.state_dict().items()]))
    assert float(torch.cosine_similarity(*changes, dim=0)) > 0.9
    assert float(torch.cosine_similarity(changes[0], changes[0].flip(0), dim=0)) < 0.1  # what chance would give


def test_an_overflow_of_fp16_lowers_the_scale_and_changes_nothing():
    ours = learner(with_train(precision="fp16", kernel="reference", ema=0.5))
    ours.scaler.load_state_dict(ours.scaler.state_dict() | {"scale": 2.0**30})
    before = {name: value.clone() for name, value in ours.model.state_dict().items()}
    outcome = ours.step([make_batch(0)], 1.0)
    assert (outcome.updated, outcome.overflowed) == (False, True)
    assert ours.scaler.get_scale() == 2.0**29
    assert ours.average is not None
    assert ours.average.updates == 0
    assert all(torch.equal(value, before[name]) for name, value in ours.model.state_dict().items())


@pytest.mark.slow
def test_a_compiled_network_learns_the_same():
    plain, compiled = (weights_after(with_train(compile=on, kernel="reference"), steps=1) for on in (False, True))
    for name, value in plain.items():
        assert torch.allclose(value, compiled[name], rtol=1e-3, atol=1e-4), name
