"""Samples that another process has read are those of this one, and whoever has no memory to share gets them as well."""

from __future__ import annotations

import gc
import os
from dataclasses import fields

import numpy as np
import pytest

from datasets.handover import pack, unpack
from datasets.reading import read_ahead
from stereo.types import Sample


def made(index: int) -> Sample:
    """Of sides that leave no array at a multiple of anything, one of them not even contiguous."""
    rng = np.random.default_rng(index)
    shape = 5 + index, 7
    left, right = rng.integers(0, 256, (2, *shape, 3), dtype=np.uint8)
    disp = rng.random((7, shape[0]), np.float32).T
    return Sample(left=left, right=right, disp=disp, valid=disp > 0.5, occluded=None, name=f"made/{index}")


class Made:
    names = tuple(f"made/{index}" for index in range(6))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        return made(index)


def assert_equal(found: Sample, expected: Sample) -> None:
    for field in fields(Sample):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        assert type(one) is type(other)
        assert np.array_equal(one, other) and getattr(one, "dtype", None) == getattr(other, "dtype", None)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_samples_arrive_whole_and_in_order(workers: int):
    indices = [4, 1, 0, 5]
    arrived = list(read_ahead(Made(), indices, workers))  # all of them at once: none lies in another's memory
    for index, sample in zip(indices, arrived, strict=True):
        assert_equal(sample, made(index))
        sample.left[...] = 0  # it belongs to whoever has received it
        assert sample.disp is not None and sample.disp.ctypes.data % 4 == 0
    assert_equal(arrived[0], Sample(**{**vars(made(4)), "left": np.zeros_like(made(4).left)}))


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="only Linux has memory that is a file without a name")
def test_memory_is_shared_and_given_back():
    def open_files() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    counts = []
    for _ in range(2):  # what multiprocessing opens once stays open
        arrived = list(read_ahead(Made(), range(6), 1))
        counts.append(open_files())
        del arrived
        counts.append(open_files())
    assert counts[2] == counts[3] + 6 and counts[3] == counts[1]  # one file for each sample


def test_without_such_memory_things_stay_as_they_are(monkeypatch: pytest.MonkeyPatch):
    sample = made(0)
    monkeypatch.delattr(os, "memfd_create", raising=False)
    assert pack(sample) is sample and unpack(sample) is sample

    def refused(name: str) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "memfd_create", refused, raising=False)
    assert pack(sample) is sample
