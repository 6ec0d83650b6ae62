"""Samples that another process has read are those of this one, and whoever has no memory to share gets them as well."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from datasets.handover import ALIGNED, LostError, Parcel, pack, unpack
from datasets.reading import read_ahead
from stereo.types import Sample, StoppedError

only_linux = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="only Linux has memory that is a file without a name")


def made(index: int) -> Sample:
    """Of sides that leave no array at a multiple of anything, one of them not even contiguous."""
    rng = np.random.default_rng(index)
    shape = 5 + index, 7
    left, right = rng.integers(0, 256, (2, *shape, 3), dtype=np.uint8)
    disp = rng.random((7, shape[0]), np.float32).T
    return Sample(left=left, right=right, disp=disp, valid=disp > 0.5, occluded=None, name=f"made/{index}")


class Made:
    names = tuple(f"made/{index}" for index in range(150))

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
        if workers and hasattr(os, "memfd_create"):
            arrays = [array for array in vars(sample).values() if isinstance(array, np.ndarray)]
            assert len(arrays) == 4 and all(array.ctypes.data % ALIGNED == 0 for array in arrays)
    assert_equal(arrived[0], Sample(**{**vars(made(4)), "left": np.zeros_like(made(4).left)}))


def open_files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def mapped() -> int:
    """Regions of this process's memory that are files of the hand-over."""
    gc.collect()
    return Path("/proc/self/maps").read_text().count("memfd:sample")


@only_linux
def test_memory_is_shared_and_given_back():
    counts = []
    for _ in range(2):  # what multiprocessing opens once stays open
        arrived = list(read_ahead(Made(), range(6), 1))
        counts.append(open_files())
        assert mapped() == 6
        del arrived
        counts.append(open_files())
        assert mapped() == 0
    kept = 0 if sys.version_info >= (3, 13) else 6  # one for each sample
    assert counts[2] == counts[3] + kept and counts[3] == counts[1]


@only_linux
def test_more_samples_than_descriptors_are_copied():
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    list(read_ahead(Made(), range(2), 1))
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files() + 60, before[1]))
    try:
        arrived = list(read_ahead(Made(), range(150), 1))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    for index, sample in enumerate(arrived):
        assert_equal(sample, made(index))
        assert all(array.ctypes.data % ALIGNED == 0 for array in (sample.left, sample.right, sample.disp, sample.valid))


def one_packed(end: Connection) -> None:
    end.send(pack(made(0)))
    end.recv()


@only_linux
def test_what_a_dead_process_had_packed_is_lost():
    end, other = multiprocessing.Pipe()
    maker = multiprocessing.get_context("fork").Process(target=one_packed, args=(other,))
    maker.start()
    packed = end.recv()
    assert isinstance(packed, Parcel)
    maker.kill()
    maker.join()
    with pytest.raises(LostError) as caught:
        unpack(packed)
    assert caught.value.maker == maker.pid


class Deadly(Made):
    """Whoever makes item 3 is killed once ``released`` exists, with items 1 and 2 packed and waiting."""

    def __init__(self, released: Path) -> None:
        self.released = released

    def __getitem__(self, index: int) -> Sample:
        if index == 3:
            while not self.released.exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        return made(index)


def test_a_reader_that_was_killed_is_named(tmp_path: Path):
    before = set(multiprocessing.active_children())
    coming = read_ahead(Deadly(tmp_path / "released"), range(6), 1)
    assert next(coming).name == "made/0"
    (reader,) = set(multiprocessing.active_children()) - before
    (tmp_path / "released").touch()
    reader.join()
    with pytest.raises(StoppedError, match=r"^data worker 0 \(process \d+\) died while it made made/3; .* fewer workers"):
        list(coming)


@only_linux
def test_a_bug_in_a_reader_is_not_taken_for_a_death():
    class Refused(Made):
        def __getitem__(self, index: int) -> Sample:
            raise ConnectionRefusedError("a server of files")

    with pytest.raises(ConnectionRefusedError, match="a server of files"):
        next(read_ahead(Refused(), range(6), 1))


class Counting(Made):
    """Samples whose name says how many files their reader has open."""

    def __getitem__(self, index: int) -> Sample:
        return replace(made(index), name=str(len(os.listdir("/proc/self/fd"))))


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "memfd_create", lambda name: os.open("/dev/full", os.O_RDWR))


def long_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address of a socket has room for 107 bytes."""
    monkeypatch.setattr("multiprocessing.util.get_temp_dir", lambda: "/tmp/" + 100 * "x")


@only_linux
@pytest.mark.parametrize("trouble", [full_disk, long_folder])
def test_what_cannot_be_shared_goes_through_the_pipe(trouble: Callable, monkeypatch: pytest.MonkeyPatch):
    trouble(monkeypatch)
    sample = made(0)
    assert pack(sample) is sample
    arrived = list(read_ahead(Counting(), range(12), 1))
    assert mapped() == 0
    for index, found in enumerate(arrived):
        assert_equal(replace(found, name=f"made/{index}"), made(index))
    assert len({found.name for found in arrived[2:]}) == 1  # nothing is left open


def test_nothing_to_share_stays_as_it_is():
    nothing = replace(made(0), **{name: np.zeros((0, 7), np.float32) for name in ("left", "right", "disp", "valid")})
    assert pack(nothing) is nothing
    assert pack("no arrays") == "no arrays"


@only_linux
def test_an_empty_array_beside_others():
    expected = replace(made(0), right=np.zeros((0, 7), np.uint8), valid=np.zeros((0, 7), bool))
    packed = pack(expected)
    assert isinstance(packed, Parcel)
    assert_equal(unpack(packed), expected)


def test_without_such_memory_things_stay_as_they_are(monkeypatch: pytest.MonkeyPatch):
    sample = made(0)
    monkeypatch.delattr(os, "memfd_create", raising=False)
    assert pack(sample) is sample and unpack(sample) is sample

    def refused(name: str) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "memfd_create", refused, raising=False)
    assert pack(sample) is sample
