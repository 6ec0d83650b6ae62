"""Samples in a given order, read by processes that run ahead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from datasets.base import StereoDataset
from datasets.handover import Parcel, pack
from datasets.workers import Numbered, ordered_items
from stereo.types import InputError, Sample


def read_ahead(samples: StereoDataset, indices: Sequence[int], workers: int) -> Iterator[Sample]:
    """The samples of ``indices`` in their order, read by ``workers`` processes (0: each here, when it is asked for).

    Processes, not threads: decoding takes the standard error of its process for itself, and logs of others would be lost.
    Raises InputError for a sample that cannot be read, StoppedError for a process that was killed.
    """
    for found in ordered_items(_Chosen(samples, indices, workers > 0), workers):
        if isinstance(found, InputError):
            raise found
        yield found


class _Chosen(Numbered):
    """What cannot be read is handed over as the error: raised in a worker it would come wrapped in a traceback."""

    def __init__(self, samples: StereoDataset, indices: Sequence[int], packed: bool) -> None:
        self.samples, self.indices, self.packed = samples, indices, packed

    def __len__(self) -> int:
        return len(self.indices)

    def described(self, item: int) -> str:
        return self.samples.names[self.indices[item]]

    def __getitem__(self, item: int) -> Sample | Parcel | InputError:
        try:
            sample = self.samples[self.indices[item]]
            return pack(sample) if self.packed else sample
        except InputError as error:
            return error
