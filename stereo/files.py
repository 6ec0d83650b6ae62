"""Opening and replacing files, whatever is in them. Every failure is one InputError that names the path."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from stereo.types import InputError


@contextmanager
def reading(path: Path, what: str) -> Iterator[tuple[BinaryIO, int]]:
    """Open ``path`` and yield (file, its size in bytes). Raises InputError when it is missing, unreadable or empty."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise InputError(f"{what} '{path}' is empty (0 bytes); copy or download it again")
            yield file, size
    except OSError as error:  # "No such file or directory", "Permission denied", "Is a directory"
        raise InputError(f"cannot read {what} '{path}': {error.strerror or error}; check the path") from error


def check_length(path: Path, size: int, needed: int) -> None:
    """Raise InputError unless the file has the bytes its header asks for; called before anything is allocated."""
    if size != needed:
        raise InputError(f"'{path}' has {size} bytes, its header asks for {needed}: truncated or damaged, copy it again")


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``, with the same extension; it becomes ``path`` when the block ends.

    A reader sees the old file or the whole new one, never a part. When the block raises (KeyboardInterrupt included) the
    temporary file is removed and ``path`` stays as it was.
    Raises InputError when the folder is missing or cannot be written, ``path`` is not a regular file, or the disk is full.
    """
    path = Path(path)
    # Not tempfile: its files are private (mode 0600) and would stay so after the replacement.
    temporary = path.with_name(f".{secrets.token_hex(6)}{path.suffix}")
    try:
        if path.exists() and not path.is_file():  # os.replace would swap out a device such as /dev/null
            raise InputError(f"cannot write '{path}': it exists and is not a regular file; choose another name")
        temporary.open("xb").close()
    except OSError as error:  # "No such file or directory", "Not a directory", "Permission denied", "File name too long"
        raise InputError(f"cannot write '{path}': {error.strerror}; create its folder or choose another") from error
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # on disk before the old file goes: a power cut leaves one of the two
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise InputError(f"cannot write '{path}': {error.strerror or error}") from error
        raise


def sync_folder(path: Path) -> None:
    """Put the names in a folder on disk, a replacement that was just made among them; where the system can (not Windows)."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
