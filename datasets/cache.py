"""Decoded samples, packed into one file each: for disks that are slow, or formats that are slow to decode."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import mmap
import os
import struct
import zipfile
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import get_worker_info

from datasets.base import open_dataset
from datasets.frames import Frame, FrameDataset
from stereo.image_io import atomic_write
from stereo.types import InputError, Sample
from stereo.version import __version__

log = logging.getLogger(__name__)

GIB = 2**30
_ARRAYS = tuple(field.name for field in fields(Sample) if field.name != "name")
_STAMP = "stamp"


def open_cached(spec: str, folder: str | Path, limit_gib: float = 100.0) -> CachedDataset:
    """``datasets.base.open_dataset(spec)`` behind a cache in ``folder``.

    Raises InputError for what open_dataset and CachedDataset refuse, and for a data set that does not list its files.
    """
    dataset = open_dataset(spec)
    if not isinstance(dataset, FrameDataset):
        raise InputError(f"got data set '{spec}' to cache, expected one that lists its files; use it without a cache")
    return CachedDataset(dataset, folder, spec, limit_gib)


class CachedDataset:
    """A FrameDataset whose samples are decoded once: ``names``, ``len(dataset)``, ``dataset[i]``::

        FOLDER/
          <32 hex digits>.npz      the arrays of one Sample that are known, uncompressed, and the stamp of its source files

    An entry belongs to a frame's name, to ``identity`` (which should say how the files are decoded: a spec with its options)
    and to this version of the program. Its stamp holds path, size and time of change of every file of the frame: when one
    of them differs, the entry is written anew, and so is one that is damaged. Entries that belong to nothing any more are
    not removed; the whole folder may be, at any time.
    Samples that come from the cache are read-only memory maps: what is cropped away need not be read from the disk, but for
    the first time that a process opens an entry, when all of it is checked.

    limit_gib: GiB that the entries in the folder may take; when there is no room for one more, the log says so once, and the
    samples that are not in the folder are decoded each time. Workers of one loader share out the room among themselves.
    Raises InputError for a folder that cannot be made and a negative limit; reading a sample raises what the data set does.
    """

    def __init__(self, dataset: FrameDataset, folder: str | Path, identity: str = "", limit_gib: float = 100.0) -> None:
        if not limit_gib >= 0:
            raise InputError(f"got a cache limit of {limit_gib} GiB, expected 0 or more")
        self.dataset, self.folder, self.identity, self.limit_gib = dataset, Path(folder), identity, limit_gib
        self.names = dataset.names
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the cache folder '{folder}': {error.strerror}; choose another") from error
        self._checked: set[Path] = set()
        self._room: tuple[int, float] | None = None  # process id, bytes that this process may still write

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        frame = self.dataset.frames[index]
        path, stamp = self._path(frame), _stamp(frame)
        sample = self._read(path, stamp, frame.name)
        if sample is None:
            sample = self.dataset[index]
            self._write(path, stamp, sample)
        return sample

    def _path(self, frame: Frame) -> Path:
        key = json.dumps([__version__, type(self.dataset).__qualname__, self.identity, frame.name])
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"

    def _read(self, path: Path, stamp: bytes, name: str) -> Sample | None:
        """The sample of an entry; None when there is none, or one that no longer holds."""
        try:
            arrays = map_npz(path, check=path not in self._checked)
            if arrays.pop(_STAMP).tobytes() != stamp:
                return None
            sample = Sample(**arrays, name=name)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, NotImplementedError, zipfile.BadZipFile) as error:
            log.warning("cache entry '%s' of %s is damaged (%s); it is removed and made anew", path, name, error)
            with suppress(OSError):
                path.unlink()  # or, in a full cache, it would be found damaged in every epoch
            return None
        self._checked.add(path)
        return sample

    def _write(self, path: Path, stamp: bytes, sample: Sample) -> None:
        arrays: dict[str, Any] = {name: getattr(sample, name) for name in _ARRAYS if getattr(sample, name) is not None}
        arrays[_STAMP] = np.frombuffer(stamp, np.uint8)
        size = sum(array.nbytes for array in arrays.values()) + 4096  # of headers
        room = self._room_left() + _bytes_of(path)
        if room == -np.inf:  # closed
            return
        if size > room:
            self._close(f"the cache '{self.folder}' has reached its limit of {self.limit_gib:g} GiB")
            return
        self._checked.discard(path)
        try:
            with atomic_write(path) as temporary, temporary.open("wb") as file:
                np.savez(file, **arrays)
        except InputError as error:  # the training can go on without
            self._close(str(error))
            return
        self._room = os.getpid(), room - _bytes_of(path)

    def _room_left(self) -> float:
        """Bytes that this process may still write. Each worker of a loader has an equal part of what it found left."""
        if self._room is None or self._room[0] != os.getpid():
            used = sum(_bytes_of(entry) for entry in self.folder.glob("*.npz"))
            worker = get_worker_info()
            self._room = os.getpid(), (self.limit_gib * GIB - used) / (worker.num_workers if worker else 1)
        return self._room[1]

    def _close(self, reason: str) -> None:
        """Write nothing more from this process."""
        self._room = os.getpid(), -np.inf
        worker = get_worker_info()
        if worker is None or worker.id == 0:  # the others come to the same end
            log.warning("%s; what is not in it is decoded each time", reason)


def _bytes_of(path: Path) -> int:
    """0 when there is no such file any more: another worker's temporary file may have got its name in the meantime."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _stamp(frame: Frame) -> bytes:
    """What must not change: path, size and time of change of each file that the frame names; zeros for one that is gone."""
    known = []
    for path in frame.files():
        try:
            status = path.stat()
        except OSError:  # the reader will say so better
            known.append((str(path), 0, 0))
        else:
            known.append((str(path), status.st_size, status.st_mtime_ns))
    return json.dumps(known).encode()


def map_npz(path: Path, check: bool) -> dict[str, np.ndarray]:
    """The arrays of an uncompressed .npz as read-only memory maps, which numpy.load cannot do.

    check: read the whole file and compare its checksums. Raises what zipfile and numpy raise for a damaged file, ValueError
    also for a compressed one.
    """
    arrays = {}
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        if check and (damaged := archive.testzip()):
            raise ValueError(f"bad checksum of {damaged}")
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        for entry in archive.infolist():
            # The local header repeats the name and has an extra field of its own, so its length is known only here.
            file.seek(entry.header_offset + 26)
            lengths = struct.unpack("<HH", file.read(4))
            file.seek(entry.header_offset + 30 + sum(lengths))
            if entry.compress_type != zipfile.ZIP_STORED or np.lib.format.read_magic(file) != (1, 0):
                raise ValueError(f"{entry.filename} is not stored as an array of version 1.0")
            shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
            values = np.frombuffer(memory, dtype, math.prod(shape), file.tell())
            arrays[entry.filename.removesuffix(".npy")] = values.reshape(shape, order="F" if by_columns else "C")
    return arrays
