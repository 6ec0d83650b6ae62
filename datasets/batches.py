"""Samples -> Batch, and the endless stream of procedural training batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from datasets.procedural.dataset import render_sample
from stereo.config import DataConfig
from stereo.types import Batch, InputError, Sample


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples of one size; images become float32 in [0, 1]. Both views' masks are needed.

    Raises InputError when a sample lacks ground truth or an occlusion mask.
    """
    for sample in samples:
        for name in ("disp", "valid", "occluded", "occluded_right"):
            if getattr(sample, name) is None:
                raise InputError(f"sample '{sample.name}' has no {name}; training needs disparity and both occlusion masks")

    def stack(name: str) -> torch.Tensor:
        return torch.from_numpy(np.stack([getattr(sample, name) for sample in samples]))

    def image(name: str) -> torch.Tensor:
        return stack(name).permute(0, 3, 1, 2).float() / 255

    return Batch(
        left=image("left"),
        right=image("right"),
        disp=stack("disp"),
        valid=stack("valid"),
        occluded=stack("occluded"),
        occluded_right=stack("occluded_right"),
        names=tuple(sample.name for sample in samples),
    )


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
        crops = self.config.crops
        height, width = crops[int(np.random.default_rng((self.config.seed, number, 5)).integers(len(crops)))]
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
    """Batches first .. last-1, in order, made by ``config.workers`` processes (0: in this one)."""
    loader = DataLoader(
        TrainingBatches(config, batch_size, first, last),
        batch_size=None,
        num_workers=config.workers,
        worker_init_fn=_one_thread,
        prefetch_factor=4 if config.workers else None,
    )
    return iter(loader)


def _one_thread(_worker: int) -> None:
    """Workers render on one thread each; the network has the other cores."""
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
