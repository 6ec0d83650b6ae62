"""Training batches as a recipe's [data] section asks for them."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import Dataset

from datasets.base import StereoDataset, open_dataset
from datasets.cache import CachedDataset
from datasets.frames import FrameDataset
from datasets.loading import collate, crop_of, ordered_items, stream_batches
from datasets.mixture import Mixture
from datasets.procedural.dataset import render_sample
from stereo.config import DataConfig
from stereo.types import Batch

__all__ = ["TrainingBatches", "collate", "training_batches"]


class TrainingBatches(Dataset):
    """Batch number ``i`` of a run: a pure function of (config, batch_size, i), so any worker count gives the same run."""

    def __init__(self, config: DataConfig, batch_size: int, first: int, last: int):
        self.config, self.batch_size, self.first, self.last = config, batch_size, first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, item: int) -> Batch:
        if not 0 <= item < len(self):
            raise IndexError(item)
        number = self.first + item
        height, width = crop_of(number, self.config.crops, self.config.seed)
        samples = [
            render_sample(
                self.config.seed,
                number * self.batch_size + i,
                height,
                width,
                self.config.max_disparity,
                content=self.config.content,
            )
            for i in range(self.batch_size)
        ]
        return collate(samples)


def training_batches(config: DataConfig, batch_size: int, first: int, last: int) -> Iterator[Batch]:
    """Batches first .. last-1, in order, made by ``config.workers`` processes (0: in this one).

    Of the generator, or of ``config.sets``: see datasets.loading.stream_batches. Raises InputError for a set that cannot be
    opened and a cache that cannot be written.
    """
    if config.sets:
        names, shares = zip(*config.sets, strict=True)
        mixture = Mixture([_open(name, config) for name in names], shares, config.seed)
        return stream_batches(
            mixture, config.augmentation, config.crops, batch_size, first, last, config.workers, config.corrupt_share
        )
    return ordered_items(TrainingBatches(config, batch_size, first, last), config.workers)


def _open(name: str, config: DataConfig) -> StereoDataset:
    """With the cache in front where one is wanted; what is rendered anew each time has no files that it could follow."""
    dataset = open_dataset(name)
    if config.cache and isinstance(dataset, FrameDataset):
        return CachedDataset(dataset, config.cache, name, config.cache_gib)
    return dataset
