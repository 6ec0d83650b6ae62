"""AdamW with the parameter groups that a recipe asks for."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from stereo.config import TrainConfig
from stereo.types import InputError


def build_optimizer(model: nn.Module, train: TrainConfig) -> torch.optim.AdamW:
    """One group by default; more where the recipe tells the backbone, or biases and norms, from the rest.

    Each group's "rate" is its factor of the learning rate: see ``set_rate``.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        of_backbone = train.backbone_rate != 1 and name.startswith("backbone.")
        without_decay = not train.decay_all and parameter.dim() < 2
        groups.setdefault((of_backbone, without_decay), []).append(parameter)
    settings: list[dict[str, Any]] = [
        {
            "params": parameters,
            "rate": train.backbone_rate if of_backbone else 1.0,
            "weight_decay": 0.0 if without_decay else train.weight_decay,
        }
        for (of_backbone, without_decay), parameters in groups.items()
    ]
    return torch.optim.AdamW(settings, lr=train.learning_rate)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate, ``rate`` times each group's own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate"]


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any], where: str) -> None:
    """Take over moments and counts; what a recipe sets stays as ``optimizer`` has it, for the recipe may have changed.

    Raises InputError, naming ``where``, when the groups are others.
    """
    settings = [(group["rate"], group["weight_decay"]) for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(state)
    except ValueError:
        raise InputError(
            f"{where} was trained with other parameter groups; leave train.decay_all and train.backbone_rate as they were, "
            "or start a new run folder from its weights with train.init"
        ) from None
    for group, (rate, weight_decay) in zip(optimizer.param_groups, settings, strict=True):
        group |= {"rate": rate, "weight_decay": weight_decay}
