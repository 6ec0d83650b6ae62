"""The folder of a run: its files, who writes them, and which are kept.

    checkpoint.pt             the last checkpoint; --resume goes on from it
    checkpoint-0001500.pt     earlier ones, train.keep of them
    best.pt                   the checkpoint of the best validation
    log.jsonl                 everything that is logged, one JSON object per line
    panels/0001000.png        what the network made of a training pair
    repro-0000042.pt          a batch whose loss or gradient was not finite, and the weights that met it
    recipe.json versions.json how it was made
    events.out.tfevents.*     the same log for TensorBoard

Only the first process writes, but for a repro file, which is written by the process that had the batch.
"""

from __future__ import annotations

import errno
import json
import math
import os
import platform
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stereo.checkpoint import load_state, save_state
from stereo.config import Recipe, to_dict
from stereo.engine.distributed import rank, world_size
from stereo.engine.machine import cpu_name
from stereo.image_io import atomic_write, write_image
from stereo.types import InputError
from stereo.version import __version__

LEFT_BEHIND = re.compile(r"\.[0-9a-f]{12}\.\w+")  # of atomic_write, when the process was killed
REPROS = 5  # files at most: a data set with many bad samples must not fill the disk
BEFORE = ("validation", "resume")  # kinds of log lines whose step is the number of steps done; of others, that of the step


class RunDir:
    """The files of one run. Whatever cannot be written is an InputError."""

    def __init__(self, path: Path) -> None:
        self.path, self.writes = path, rank() == 0
        self.checkpoint, self.best, self.log = path / "checkpoint.pt", path / "best.pt", path / "log.jsonl"

    def open(self, recipe: Recipe, step: int) -> None:
        """Make the folder ready to go on from ``step``: what came after it is cut from the log, what was half-written goes."""
        if not self.writes:
            return
        (self.path / "panels").mkdir(parents=True, exist_ok=True)
        for file in self.path.rglob(".*"):
            if LEFT_BEHIND.fullmatch(file.name):
                file.unlink()
        if not step:
            self.best.unlink(missing_ok=True)  # of an attempt that was killed before its first checkpoint
        self._write_json("recipe.json", to_dict(recipe))
        if not step or not (self.path / "versions.json").exists():
            self._write_json("versions.json", versions())  # with what it began; the log's resumes say with what it went on
        kept = [line for line in self.lines() if line["step"] < step + (line["kind"] in BEFORE)] if step else []
        with atomic_write(self.log) as temporary:
            temporary.write_text("".join(map(_json_line, kept)), encoding="utf-8")

    def lines(self) -> list[dict[str, Any]]:
        """The log so far; a last line that was cut off by a kill is left out."""
        if not self.log.is_file():
            return []
        found = []
        for line in self.log.read_text(encoding="utf-8").splitlines():
            with suppress(json.JSONDecodeError):
                found.append(json.loads(line))
        return found

    def append(self, step: int, kind: str, values: dict[str, Any]) -> None:
        """One line of the log. kind: train, validation, skip or resume. What is not finite becomes null: JSON has no NaN."""
        if self.writes:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(_json_line({"step": step, "kind": kind} | values))

    def save(self, state: dict[str, Any], keep: int) -> None:
        """Replace checkpoint.pt; the ``keep`` newest before it stay under the number of their step."""
        if not self.writes:
            return
        save_state(self.checkpoint, state)
        if keep:
            numbered = self.path / f"checkpoint-{state['step']:07d}.pt"
            numbered.unlink(missing_ok=True)
            try:
                os.link(self.checkpoint, numbered)  # the same file: checkpoint.pt is replaced, never changed
            except OSError:  # a file system without links
                save_state(numbered, state)
            for file in sorted(self.path.glob("checkpoint-*.pt"))[: -keep - 1]:
                file.unlink()

    def save_best(self, state: dict[str, Any]) -> None:
        if self.writes:
            save_state(self.best, state)

    def save_panel(self, step: int, picture: np.ndarray) -> None:
        if self.writes:
            write_image(self.path / "panels" / f"{step:07d}.png", picture)

    def save_repro(self, step: int, state: dict[str, Any]) -> Path | None:
        """The path, or None when there are REPROS already; load it with torch.load(path, weights_only=True)."""
        suffix = f"-rank{rank()}" if rank() else ""
        path = self.path / f"repro-{step:07d}{suffix}.pt"
        if not path.exists() and len(list(self.path.glob("repro-*.pt"))) >= REPROS:
            return None
        save_state(path, state)
        return path

    def load(self) -> dict[str, Any]:
        return load_state(self.checkpoint)

    def _write_json(self, name: str, values: dict[str, Any]) -> None:
        with atomic_write(self.path / name) as temporary:
            temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def versions() -> dict[str, Any]:
    """What a run was made with."""
    return {
        "stereo": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "cpu": cpu_name(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "processes": world_size(),
        "command": shlex.join(sys.argv),
    }


def _json_line(values: dict[str, Any]) -> str:
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
    return json.dumps(finite) + "\n"


@contextmanager
def disk_errors_told(path: Path) -> Iterator[None]:
    """What the block cannot write for want of room is an InputError that says what to do: the disk is full, or a quota."""
    try:
        yield
    except (OSError, InputError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            raise
        found = f"cannot write into '{path}': {cause.strerror}" if error is cause else str(error)
        raise InputError(f"{found}; the last checkpoint is kept: make room, then --resume") from error
