"""The registry of data sets: a name on the command line -> a builder of something that yields Samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from datasets.pairs import PairsDataset
from stereo.config import near_matches
from stereo.types import InputError, Sample


class StereoDataset(Protocol):
    """A sequence of Samples: ``len(dataset)``, ``dataset[i]`` (IndexError past the end) and what log lines call each."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


# A builder gets what follows the first colon of NAME:REST, as it stands.
DATASETS: dict[str, Callable[[str], StereoDataset]] = {
    "pairs": PairsDataset,
}


def open_dataset(spec: str) -> StereoDataset:
    """Open ``NAME:REST``, for example "pairs:photos"; REST is mostly a folder and may hold colons itself.

    Raises InputError for a missing part or an unknown name, and whatever the builder of that data set raises.
    """
    name, colon, rest = spec.partition(":")
    if not colon or not rest:
        raise InputError(f"got data set '{spec}', expected NAME:PATH, for example pairs:{spec.rstrip(':') or 'FOLDER'}")
    if name not in DATASETS:
        raise InputError(f"unknown data set '{name}': {near_matches(name, DATASETS)}")
    return DATASETS[name](rest)
