"""Training batches as a recipe's [data] section asks for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from datasets.base import StereoDataset, open_dataset
from datasets.cache import CachedDataset
from datasets.frames import FrameDataset
from datasets.loading import collate, crop_of, stream_batches
from datasets.mixture import Mixture
from datasets.procedural.batched import flat_texels, render
from datasets.procedural.dataset import render_shot
from datasets.procedural.shots import Shot, draw_shot
from datasets.procedural.stack import BankKey, Stack, stack_shots
from datasets.procedural.textures import texture_bank
from datasets.workers import Numbered, ordered_items
from stereo.config import DataConfig
from stereo.types import Batch

__all__ = ["TrainingBatches", "collate", "training_batches"]


SHOTS_AT_ONCE = 64  # on a device; what a larger batch needs of its memory stays bounded


class _Shots(Numbered):
    """Batch ``numbers[item]`` of the generator, as shots."""

    def __init__(self, config: DataConfig, batch_size: int, numbers: range):
        self.config, self.batch_size, self.numbers = config, batch_size, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def described(self, item: int) -> str:
        first = self.numbers[item] * self.batch_size
        last = first + self.batch_size - 1
        return f"batch {self.numbers[item]} (scenes {first} to {last} of generated:{self.config.seed})"

    def shots(self, item: int) -> list[Shot]:
        if not 0 <= item < len(self):
            raise IndexError(item)
        number, data = self.numbers[item], self.config
        size = crop_of(number, data.crops, data.seed)
        places = range(number * self.batch_size, (number + 1) * self.batch_size)
        return [draw_shot(data.seed, place, *size, data.max_disparity, content=data.content) for place in places]


class TrainingBatches(_Shots):
    """Batch number ``i`` of a run: a pure function of (config, batch_size, i), so any worker count gives the same run."""

    def __getitem__(self, item: int) -> Batch:
        return collate([render_shot(shot) for shot in self.shots(item)])


@dataclass(frozen=True)
class _Order:
    """A batch to be rendered, and the texture banks (see flat_texels) that the one before it had no use for."""

    stacks: list[Stack]
    banks: dict[BankKey, Tensor]


class _Orders(_Shots):
    """Batches up to what needs the device: shots drawn, textures painted. Pure in (config, batch_size, i) as well."""

    def __getitem__(self, item: int) -> _Order:
        shots = self.shots(item)
        stacks = [stack_shots(shots[start : start + SHOTS_AT_ONCE]) for start in range(0, len(shots), SHOTS_AT_ONCE)]
        known = {shot.bank for shot in self.shots(item - 1)} if item else set()
        wanted = dict.fromkeys(shot.bank for shot in shots if shot.bank not in known)
        return _Order(stacks, {key: flat_texels(texture_bank(*key)) for key in wanted})


def _rendered(orders: Iterable[_Order], device: torch.device | str) -> Iterator[Batch]:
    banks: dict[BankKey, Tensor] = {}
    for order in orders:
        banks |= {key: texels.to(device) for key, texels in order.banks.items()}
        banks = {key: banks[key] for stack in order.stacks for key in stack.banks}
        yield _joined([render(stack, banks, device) for stack in order.stacks])


def _joined(batches: Sequence[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    tensors = {f.name: torch.cat([getattr(batch, f.name) for batch in batches]) for f in fields(Batch) if f.name != "names"}
    return Batch(**tensors, names=tuple(name for batch in batches for name in batch.names))


def training_batches(
    config: DataConfig, batch_size: int, first: int, last: int, stride: int = 1, device: torch.device | str = "cpu"
) -> Iterator[Batch]:
    """The batches of range(first, last, stride), in order, made by ``config.workers`` processes (0: in this one).

    Of the generator, or of ``config.sets``: see datasets.loading.stream_batches. With ``config.renderer`` "device" the
    processes draw shots and paint textures only, and this one renders them on ``device``, where the batches then are.
    Raises InputError for a set that cannot be opened and a cache that cannot be written.
    """
    if config.sets:
        names, shares = zip(*config.sets, strict=True)
        mixture = Mixture([_open(name, config) for name in names], shares, config.seed)
        return stream_batches(
            mixture, config.augmentation, config.crops, batch_size, first, last, config.workers, config.corrupt_share, stride
        )
    numbers = range(first, last, stride)
    if config.renderer == "device":
        return _rendered(ordered_items(_Orders(config, batch_size, numbers), config.workers), device)
    return ordered_items(TrainingBatches(config, batch_size, numbers), config.workers)


def _open(name: str, config: DataConfig) -> StereoDataset:
    """With the cache in front where one is wanted; what is rendered anew each time has no files that it could follow."""
    dataset = open_dataset(name)
    if config.cache and isinstance(dataset, FrameDataset):
        return CachedDataset(dataset, config.cache, name, config.cache_gib)
    return dataset
