"""What the folder of a training run tells about it: log.jsonl as curves and events, recipe, versions, sample panels.

A run may be read at any time, also while it trains or after it was killed, so anything may be absent or end in the middle of a
line: what is there is shown, and a note says what is not.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stereo.types import InputError

CURVES = ("train", "validation")  # kinds of log lines whose numbers are curves; other kinds are events
RECIPES = ("recipe.toml", "recipe.json")


@dataclass(frozen=True)
class Curve:
    """One number over the steps of a run: ``steps`` ascending, each once; ``values`` finite."""

    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Event:
    """A line of the log that is no measurement: ``kind`` (skip, resume, ...), and what it says."""

    step: int
    kind: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A run's folder as it was found.

    curves:   by kind ("train", "validation") and name ("loss/total").
    events:   in the order of their steps.
    recipe:   the text of the recipe and the name of its file; None without one.
    versions: names and values; empty without the file.
    panels:   the sample pictures, in the order of their steps.
    notes:    a line for whatever is absent or damaged.
    """

    name: str
    curves: dict[tuple[str, str], Curve] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    recipe: tuple[str, str] | None = None
    versions: dict[str, Any] = field(default_factory=dict)
    panels: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not (self.curves or self.events or self.recipe or self.versions or self.panels)

    @property
    def last_step(self) -> int:
        return max([curve.steps[-1] for curve in self.curves.values()] + [event.step for event in self.events], default=0)


def read_run(folder: str | Path) -> Run:
    """Read the folder of a run. Raises InputError when there is no such folder, or a file of it cannot be read."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"run folder '{folder}' does not exist; expected the folder that train wrote, for example runs/small")
    notes: list[str] = []
    curves, events = _read_log(folder / "log.jsonl", notes)
    recipe = _read_recipe(folder, notes)
    versions = _read_versions(folder / "versions.json", notes)
    panels = tuple(sorted((folder / "panels").glob("*.png"), key=lambda path: (panel_step(path), path.name)))
    if not panels:
        notes.append("There are no sample pictures (panels/*.png).")
    return Run(folder.resolve().name, curves, events, recipe, versions, panels, tuple(notes))


def panel_step(path: Path) -> int:
    """The step that a picture is named after, 0001000.png; -1 for another name."""
    return int(path.stem) if path.stem.isascii() and path.stem.isdigit() else -1


def _read_text(path: Path) -> str | None:
    """None when the file is not there. Raises InputError when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"cannot read '{path}': {error.strerror}") from error


def _read_log(path: Path, notes: list[str]) -> tuple[dict[tuple[str, str], Curve], tuple[Event, ...]]:
    text = _read_text(path)
    if text is None:
        notes.append("There is no log.jsonl: no curves.")
        return {}, ()
    lines = [line for line in text.split("\n") if line.strip()]
    damaged = 0
    found: dict[tuple[str, str], dict[int, float]] = {}
    events: list[Event] = []
    for line in lines:
        parsed = _parse(line)
        if parsed is None:
            damaged += 1
            continue
        step, kind, values = parsed
        if kind not in CURVES:
            events.append(Event(step, kind, values))
            continue
        for name, value in _numbers(values):
            found.setdefault((kind, name), {})[step] = value  # a run that went back and on again: the later line counts
    if damaged:
        notes.append(f"{damaged} of {len(lines)} lines of log.jsonl are damaged and left out.")
    if not found:
        notes.append("log.jsonl holds no measurement yet: no curves.")
    curves = {key: Curve(*zip(*sorted(points.items()), strict=True)) for key, points in found.items()}
    return curves, tuple(sorted(events, key=lambda event: event.step))


def _parse(line: str) -> tuple[int, str, dict[str, Any]] | None:
    try:
        values = json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        return None
    if not isinstance(values, dict) or not isinstance(values.get("kind"), str):
        return None
    step = values.get("step")
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        return None
    return step, values["kind"], {key: value for key, value in values.items() if key not in ("step", "kind")}


def _numbers(values: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """What can be drawn. NaN, infinity and null are gaps."""
    for name, value in values.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield name, float(value)


def _read_recipe(folder: Path, notes: list[str]) -> tuple[str, str] | None:
    for name in RECIPES:
        text = _read_text(folder / name)
        if text is not None:
            return name, text
    notes.append(f"There is no {' or '.join(RECIPES)}: the recipe is not known.")
    return None


def recipe_title(recipe: tuple[str, str] | None) -> str | None:
    """The ``name`` that a recipe gives itself; None where there is none or its text cannot be parsed."""
    if recipe is None:
        return None
    try:
        values = (tomllib if recipe[0].endswith(".toml") else json).loads(recipe[1])
    except (ValueError, RecursionError):
        return None
    name = values.get("name") if isinstance(values, dict) else None
    return name if isinstance(name, str) else None


def _read_versions(path: Path, notes: list[str]) -> dict[str, Any]:
    text = _read_text(path)
    if text is None:
        notes.append("There is no versions.json: what the run was made with is not known.")
        return {}
    try:
        values = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        values = None
    if not isinstance(values, dict):
        notes.append("versions.json is damaged and left out.")
        return {}
    return values
