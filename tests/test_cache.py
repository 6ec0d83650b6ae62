"""Cached samples are those of the data set, bit for bit; what changed or broke is decoded again."""

from __future__ import annotations

import dataclasses
import logging
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import datasets.cache
from datasets.base import open_dataset
from datasets.cache import GIB, CachedDataset, map_npz, open_cached
from datasets.loading import stream_batches
from datasets.mixture import Mixture
from datasets.pairs import PairsDataset
from datasets.transforms import Augmentation
from stereo.image_io import write_image, write_pfm
from stereo.types import InputError, Sample

H, W = 20, 30
FIELDS = [field.name for field in dataclasses.fields(Sample)]


class Counted(PairsDataset):
    """Says which samples were decoded."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.decoded: list[str] = []

    def __getitem__(self, index: int) -> Sample:
        self.decoded.append(self.names[index])
        return super().__getitem__(index)


def write_pictures(folder: Path, seed: int) -> None:
    draw = np.random.default_rng(seed)
    for name in ("left", "right"):
        write_image(folder / f"{name}.png", draw.integers(0, 256, (H, W, 3), np.uint8))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Scenes a, b, c; b has a right view and thereby masks, c has unknown pixels."""
    for seed, scene in enumerate("abc"):
        folder = tmp_path / "data" / "set" / scene
        folder.mkdir(parents=True)
        write_pictures(folder, seed)
        disp = np.full((H, W), seed + 0.5, np.float32)
        if scene == "c":
            disp[::2] = np.inf
        write_pfm(folder / "disp_left.pfm", disp)
    write_pfm(tmp_path / "data/set/b/disp_right.pfm", np.full((H, W), 1.5, np.float32))
    return tmp_path / "data"


def same(a: Sample, b: Sample) -> bool:
    def agree(x, y) -> bool:
        return x is y is None or (np.array_equal(x, y) and getattr(x, "dtype", 0) == getattr(y, "dtype", 0))

    return all(agree(getattr(a, name), getattr(b, name)) for name in FIELDS)


def entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_each_sample_is_decoded_once_and_comes_back_bit_for_bit(root, tmp_path):
    source, plain = Counted(root), PairsDataset(root)
    cached = CachedDataset(source, tmp_path / "cache")
    assert (len(cached), cached.names) == (3, plain.names)
    for _ in range(3):
        assert all(same(cached[index], plain[index]) for index in range(3))
    assert source.decoded == list(plain.names)
    again = CachedDataset(Counted(root), tmp_path / "cache")
    assert same(again[2], plain[2]) and again.dataset.decoded == []
    assert len(entries(tmp_path / "cache")) == 3
    with pytest.raises(IndexError):
        cached[3]


def test_an_entry_is_an_npz_and_a_read_only_memory_map(root, tmp_path):
    cached = CachedDataset(PairsDataset(root), tmp_path)
    cached[0]
    (path,) = (entry for entry in tmp_path.iterdir() if entry.is_file())
    with np.load(path) as stored:
        assert set(stored) == {"left", "right", "disp", "valid", "stamp"}
        mapped = map_npz(path, check=True)
        assert all(np.array_equal(mapped[name], stored[name]) for name in stored)
    sample = cached[0]
    base = sample.left
    while isinstance(base, np.ndarray):
        base = base.base
    assert type(getattr(base, "obj", base)).__name__ == "mmap"
    with pytest.raises(ValueError, match="read-only"):
        sample.left[0] = 0


@pytest.mark.parametrize("change", ["content", "time", "size", "one more file"])
def test_a_changed_source_is_decoded_again(root, tmp_path, change):
    folder, cache = root / "set" / "a", tmp_path / "cache"
    CachedDataset(Counted(root), cache)[0]
    left = folder / "left.png"
    before = left.stat()
    if change == "content":
        write_pictures(folder, 9)
    elif change == "time":
        os.utime(left, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    elif change == "size":
        left.write_bytes(left.read_bytes() + b"\0")
        os.utime(left, ns=(before.st_atime_ns, before.st_mtime_ns))
    else:
        write_pfm(folder / "disp_right.pfm", np.full((H, W), 0.5, np.float32))
    source = Counted(root)
    cached = CachedDataset(source, cache)
    for _ in range(2):
        assert same(cached[0], PairsDataset(root)[0])
    assert source.decoded == ["set/a"]
    assert len(entries(cache)) == 1  # the old entry is gone


@pytest.mark.parametrize("what", ["identity", "version", "name"])
def test_entries_of_another_reader_are_not_mine(root, tmp_path, what, monkeypatch):
    cache = tmp_path / "cache"
    CachedDataset(Counted(root), cache, "pairs:x?sign=keep")[0]
    if what == "version":
        monkeypatch.setattr(datasets.cache, "__version__", "another")
    source = Counted(root)
    CachedDataset(source, cache, "pairs:x?sign=keep" + ("2" if what == "identity" else ""))[1 if what == "name" else 0]
    assert len(source.decoded) == 1
    assert len(entries(cache)) == 2


def cut(data: bytes) -> bytes:
    return data[:-50]


def flip(data: bytes) -> bytes:
    return data[:500] + bytes([data[500] ^ 1]) + data[501:]


def empty(_data: bytes) -> bytes:
    return b""


def rename(data: bytes) -> bytes:
    """A zip that is whole and lacks the stamp."""
    return data.replace(b"stamp.npy", b"other.npy")


@pytest.mark.parametrize("damage", [cut, flip, empty, rename])
def test_a_damaged_entry_is_named_and_written_anew(root, tmp_path, damage, caplog):
    cache = tmp_path / "cache"
    CachedDataset(PairsDataset(root), cache)[0]
    (entry,) = entries(cache)
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    source = PairsDataset(root)
    with caplog.at_level(logging.WARNING):
        cached = CachedDataset(source, cache)
        assert all(same(cached[0], source[0]) for _ in range(3))
    assert len(caplog.records) == 1
    assert str(entry) in caplog.text and "set/a is damaged" in caplog.text and "made anew" in caplog.text
    assert len(map_npz(entry, check=True)) == 5


def test_a_damaged_entry_does_not_stay_in_a_full_cache(root, tmp_path, caplog):
    cache = tmp_path / "cache"
    CachedDataset(PairsDataset(root), cache)[0]
    entries(cache)[0].write_bytes(b"damaged")
    cached = CachedDataset(PairsDataset(root), cache, limit_gib=0)
    with caplog.at_level(logging.WARNING):
        assert all(same(cached[0], PairsDataset(root)[0]) for _ in range(3))
    assert ["is damaged" in record.getMessage() for record in caplog.records] == [True, False]
    assert entries(cache) == []


def test_a_compressed_file_is_not_mapped(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", a=np.zeros(100))
    with pytest.raises(ValueError, match="not stored"):
        map_npz(tmp_path / "x.npz", check=False)


ENTRY = H * W * (3 + 3 + 4 + 1) + 4096  # what is set aside for a left view's sample; its file is a little smaller


def test_the_limit_is_kept_and_said_once(root, tmp_path, caplog):
    cache, source, limit = tmp_path / "cache", Counted(root), 1.6 * ENTRY / GIB
    cached = CachedDataset(source, cache, limit_gib=limit)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert all(same(cached[index], PairsDataset(root)[index]) for index in (0, 2, 1))
    assert len(entries(cache)) == 1
    assert source.decoded == ["set/a", "set/c", "set/b", "set/c", "set/b"]
    assert len(caplog.records) == 1 and "has reached its limit" in caplog.text
    # What lies there counts, also for another process.
    with caplog.at_level(logging.WARNING):
        CachedDataset(PairsDataset(root), cache, "other", limit_gib=limit)[0]
    assert len(entries(cache)) == 1 and len(caplog.records) == 2


def test_a_folder_that_is_full_before_is_said_too(root, tmp_path, caplog):
    CachedDataset(PairsDataset(root), tmp_path / "cache")[0]
    with caplog.at_level(logging.WARNING):
        CachedDataset(PairsDataset(root), tmp_path / "cache", "other", limit_gib=1e-9)[1]
    assert len(caplog.records) == 1 and "limit of 1e-09 GiB" in caplog.text


def test_a_cache_that_cannot_be_written_does_not_stop_the_reading(root, tmp_path, caplog):
    cached = CachedDataset(PairsDataset(root), tmp_path / "cache")
    (tmp_path / "cache").rmdir()
    with caplog.at_level(logging.WARNING):
        assert all(same(cached[index], PairsDataset(root)[index]) for index in range(3))
    assert len(caplog.records) == 1 and "cannot write" in caplog.text


def test_a_file_that_vanishes_while_the_folder_is_measured(root, tmp_path, monkeypatch):
    """Another worker's temporary file becomes its entry between the listing and the look at its size."""
    cached, listed = CachedDataset(Counted(root), tmp_path / "cache"), Path.glob
    monkeypatch.setattr(Path, "glob", lambda self, pattern: [*listed(self, pattern), self / ".gone.npz"])
    assert same(cached[0], cached[0])
    assert len(entries(tmp_path / "cache")) == 1


def test_nothing_half_written_stays(root, tmp_path, monkeypatch):
    def fail(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(KeyboardInterrupt):
        CachedDataset(PairsDataset(root), tmp_path / "cache")[0]
    assert entries(tmp_path / "cache") == []


def test_a_damaged_source_is_the_readers_affair(root, tmp_path):
    (root / "set/a/left.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"left\.png"):
        CachedDataset(PairsDataset(root), tmp_path / "cache")[0]
    assert entries(tmp_path / "cache") == []


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_batches_are_the_same_with_and_without_and_in_workers(root, tmp_path):
    cached = CachedDataset(PairsDataset(root), tmp_path / "cache")
    runs = [
        list(stream_batches(Mixture([dataset], seed=1), Augmentation(), [(16, 24)], 2, 0, 6, workers=workers))
        for dataset, workers in ((PairsDataset(root), 0), (cached, 2), (cached, 0))
    ]
    assert len(entries(tmp_path / "cache")) == 3
    for batches in zip(*runs, strict=True):
        assert len({batch.left.numpy().tobytes() + batch.disp.numpy().tobytes() for batch in batches}) == 1
    assert pickle.loads(pickle.dumps(cached)).names == cached.names


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("used_before", [False, True], ids=["fresh", "used before the workers start"])
def test_workers_keep_the_limit_together(root, tmp_path, used_before):
    """Room for one more sample, and two workers that come to different ones first."""
    cached = CachedDataset(PairsDataset(root), tmp_path / "cache", limit_gib=(2.5 if used_before else 1.5) * ENTRY / GIB)
    if used_before:
        cached[0]
    mixtures = (Mixture([cached], seed=seed) for seed in range(100))
    wanted = (1, 2) if used_before else (0, 2)
    mixture = next(mixture for mixture in mixtures if tuple(mixture.pick(number).item for number in (0, 1)) == wanted)
    list(stream_batches(mixture, Augmentation(), [(16, 24)], 1, 0, 12, workers=2))
    assert sum(entry.stat().st_size for entry in entries(tmp_path / "cache")) <= cached.limit_gib * GIB


@pytest.mark.parametrize(("workers", "fits"), [(2, True), (4, False)])
def test_a_worker_fills_its_part_of_the_room(root, tmp_path, monkeypatch, caplog, workers, fits):
    monkeypatch.setattr(datasets.cache, "get_worker_info", lambda: SimpleNamespace(id=1, num_workers=workers))
    with caplog.at_level(logging.WARNING):
        CachedDataset(PairsDataset(root), tmp_path / "cache", limit_gib=3 * ENTRY / GIB)[0]
    assert len(entries(tmp_path / "cache")) == fits
    assert not caplog.records  # worker 0 speaks for all


def test_opening_by_a_spec(root, tmp_path):
    cached = open_cached(f"pairs:{root}", tmp_path / "cache")
    assert same(cached[1], open_dataset(f"pairs:{root}")[1])
    with pytest.raises(InputError, match=r"expected one that lists its files"):
        open_cached("generated:1:2:40x64", tmp_path / "cache")
    with pytest.raises(InputError, match="limit of -1"):
        CachedDataset(PairsDataset(root), tmp_path / "cache", limit_gib=-1)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot make the cache folder .*file/x"):
        CachedDataset(PairsDataset(root), tmp_path / "file" / "x")
