"""Two runs on the same images: difference of the means, and how sure it is."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stereo.config import near_matches
from stereo.engine.protocols import DEFAULT
from stereo.engine.result_files import aligned, figure_of
from stereo.files import reading
from stereo.metrics import BINS, REGIONS, unit_of
from stereo.metrics.bootstrap import LEVEL, paired_bootstrap
from stereo.types import InputError

CARD = ".card.json"
SAME = ("count_truth", *(f"count_{region}" for region in (*REGIONS, *BINS)))  # columns that only another protocol changes
NO_FIGURES = ("name", "height", "width", "occlusion_known", "sha256", "count")  # beginnings of the other columns
FEW = 20  # images, below which percentiles of resampled means are known to be too narrow


@dataclass(frozen=True)
class Run:
    """The rows of one method, as text, and its card; None where there is none beside the CSV."""

    path: Path
    rows: list[dict[str, str]]
    card: dict[str, Any] | None


@dataclass(frozen=True)
class Comparison:
    """One figure of two runs: means over the ``images`` for which both have it, b - a, and its 95 % interval.

    ``skipped`` images have it in neither or one of the two only.
    """

    figure: str
    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    images: int
    skipped: int


def read_run(path: Path) -> Run:
    """Read METHOD.csv or METHOD.card.json of ``evaluate -o``, whose other file lies beside it, or a folder with one METHOD.csv.

    Raises InputError when there is no such file, or it is none of ``evaluate``'s.
    """
    if path.is_dir():
        found = sorted(path.glob("*.csv"))
        if len(found) != 1:
            listed = ", ".join(file.name for file in found) or "none"
            raise InputError(f"'{path}' holds these CSV files: {listed}; expected one, or name the file")
        path = found[0]
    stem = path.name.removesuffix(CARD if path.name.endswith(CARD) else ".csv")
    table, card_path = path.with_name(stem + ".csv"), path.with_name(stem + CARD)
    try:
        with reading(table, "CSV of an evaluation") as (file, _):
            rows = list(csv.DictReader(file.read().decode("utf-8").splitlines()))
        card = json.loads(card_path.read_text(encoding="utf-8")) if card_path.is_file() else None
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise InputError(f"'{table}' or its card is damaged: {error}; evaluate again") from None
    columns_fit = bool(rows) and not any(None in row or None in row.values() for row in rows)  # no line longer or shorter
    if not columns_fit or any(key not in rows[0] for key in ("name", "sha256", *SAME)):
        raise InputError(f"'{table}' is not a whole CSV of 'evaluate -o' of this version; evaluate again")
    if card is not None and not isinstance(card.get("protocol") if isinstance(card, dict) else None, dict):
        raise InputError(f"'{card_path}' is not a result card of this version; evaluate again")
    return Run(table, rows, card)


def check_comparable(a: Run, b: Run) -> None:
    """Raise InputError unless both runs scored the same pixels of the same images."""
    names = [[row["name"] for row in run.rows] for run in (a, b)]
    if names[0] != names[1]:
        only = sorted(set(names[0]) ^ set(names[1]))
        where = f"'{only[0]}' is in one of them only" if only else "their order differs"
        found = f"'{a.path}' has {len(names[0])} images, '{b.path}' {len(names[1])}, and {where}"
        raise InputError(f"{found}; score the same images")
    for first, second in zip(a.rows, b.rows, strict=True):
        if first["sha256"] != second["sha256"]:
            raise InputError(f"'{first['name']}' is another image, or has another truth, in '{b.path}'; score the same data")
        for key in SAME:
            if first[key] != second[key]:
                found = f"{key} of '{first['name']}' is {first[key]} in '{a.path}' and {second[key]} in '{b.path}'"
                raise InputError(f"{found}; score both with one protocol")


def compare(a: Run, b: Run, figures: Sequence[str] = (), resamples: int = 10_000, seed: int = 0) -> list[Comparison]:
    """Each of ``figures``, columns of the CSV such as epe_noc (none: those that the protocol quotes), by paired bootstrap.

    Raises InputError like ``check_comparable``, for a figure that is no number in both, and for fewer than 100 resamples.
    """
    check_comparable(a, b)
    if resamples < 100:
        raise InputError(f"got {resamples} resamples, expected at least 100 for the tails of an interval")
    return [_compare_one(a, b, figure, resamples, seed) for figure in figures or default_figures(a)]


def default_figures(run: Run) -> list[str]:
    """What its protocol quotes, as far as it is a figure of single images."""
    quoted = run.card["protocol"]["figures"] if run.card else DEFAULT.figures
    names = dict.fromkeys(key.removesuffix("_pooled") if key.removesuffix("_pooled") in run.rows[0] else key for key in quoted)
    return [name for name in names if name in run.rows[0]]


def _numbers(run: Run, figure: str) -> np.ndarray:
    try:
        return np.array([float(row[figure] or "nan") for row in run.rows])
    except (KeyError, ValueError):
        allowed = [key for key in run.rows[0] if not key.startswith(NO_FIGURES) and key.partition("_")[2] not in BINS]
        raise InputError(f"'{figure}' is no figure of '{run.path}': {near_matches(figure, allowed)}") from None


def _compare_one(a: Run, b: Run, figure: str, resamples: int, seed: int) -> Comparison:
    first, second = _numbers(a, figure), _numbers(b, figure)
    known = np.isfinite(first) & np.isfinite(second)
    images, skipped = int(known.sum()), int((~known).sum())
    if not images:
        return Comparison(figure, *(math.nan,) * 5, images, skipped)
    means = float(first[known].mean()), float(second[known].mean())
    differences = second[known] - first[known]
    low, high = paired_bootstrap(differences, resamples, seed)
    return Comparison(figure, *means, float(differences.mean()), low, high, images, skipped)


def format_comparisons(found: Sequence[Comparison], names: tuple[str, str], resamples: int, seed: int) -> str:
    """A line per figure, and what the numbers are."""
    a, b = names
    lines = [["figure", "unit", "A", "B", "B - A", f"{LEVEL} % interval", "", "images"]]
    for one in found:
        numbers = [f"{x:.3f}" for x in (one.mean_a, one.mean_b)] + [f"{one.difference:+.3f}"]
        verdict = "" if one.low <= 0 <= one.high or not one.images else "B is lower" if one.high < 0 else "B is higher"
        lines.append([one.figure, unit_of(figure_of(one.figure)), *numbers, f"{one.low:+.3f} to {one.high:+.3f}", verdict,
                      str(one.images)])  # fmt: skip
    text = [f"A: {a}", f"B: {b}", *aligned(lines)]
    text.append(f"Means of images that both have; paired bootstrap over images, {resamples} resamples, seed {seed}.")
    if any(0 < one.images < FEW for one in found):
        text.append(f"Fewer than {FEW} images: intervals of this kind are then too narrow; read them as a hint.")
    if left_out := {one.figure: one.skipped for one in found if one.skipped}:
        listed = ", ".join(f"{figure} {count}" for figure, count in left_out.items())
        text.append(f"Images without the figure in one or both, left out: {listed}.")
    return "\n".join(text)
