"""The record of a training in stages: what each run was given, how long it took, its curve, what became of it.

    python -m experiments.campaign runs/first runs/second ...        # folders of runs, in the order in which they were made

Reads what a run writes about itself (recipe.json, versions.json, log.jsonl, the card) and writes results/campaign.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from stereo.image_io import atomic_write
from stereo.report.run_log import Curve, read_run
from stereo.types import InputError

HERE = Path(__file__).parent
POINTS = 20  # of a curve
CURVE = ("loss/total", "epe_visible_px")
NOTHING = Curve((), ())


def stage(folder: Path) -> dict[str, Any]:
    """One run. Paths are told by their last two parts: the rest is a matter of one machine."""
    run = read_run(folder)
    if run.recipe is None:
        missing = folder / "recipe.json"
        raise InputError(f"'{missing}' cannot be read: it is not there; name folders of runs that 'train' has made")
    recipe = json.loads(run.recipe[1])
    recipe["train"]["init"] = "/".join(Path(recipe["train"]["init"]).parts[-2:])
    batch = recipe["train"]["batch_size"] * recipe["train"]["accumulate"]
    steps = max((curve.steps[-1] for curve in run.curves.values()), default=0)
    cards = sorted(folder.glob("*.card.json"))
    return {
        "run": run.name,
        "recipe": recipe,
        "versions": {name: value for name, value in run.versions.items() if name != "command"},
        "steps": steps,
        "samples": steps * batch,
        "hours": _hours(run.curves.get(("train", "samples_per_s"), NOTHING), batch),
        "curve": _points({name: run.curves.get(("train", name), NOTHING) for name in CURVE}),
        "validation": _rows({name: curve for (kind, name), curve in run.curves.items() if kind == "validation"}),
        "weights": json.loads(cards[-1].read_text(encoding="utf-8"))["weights"] if cards else None,
    }


def _hours(rate: Curve, batch: int) -> float:
    """Of training alone: the steps since the line before, at the rate that each line tells."""
    return sum(batch * (b - a) / value for a, b, value in zip([0, *rate.steps], rate.steps, rate.values, strict=False)) / 3600


def _rows(curves: dict[str, Curve]) -> list[dict[str, float]]:
    rows: dict[int, dict[str, float]] = {}
    for name, curve in curves.items():
        for step, value in zip(curve.steps, curve.values, strict=True):
            rows.setdefault(step, {"step": step})[name] = value
    return [rows[step] for step in sorted(rows)]


def _points(curves: dict[str, Curve]) -> list[dict[str, float]]:
    """Means of POINTS stretches of the run, at most."""
    rows = _rows(curves)
    size = max(1, -(-len(rows) // POINTS))
    parts = [rows[first : first + size] for first in range(0, len(rows), size)]
    return [{"step": part[-1]["step"], **{key: statistics.fmean(row[key] for row in part) for key in curves}} for part in parts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders, the first run first")
    parser.add_argument("-o", "--output", type=Path, default=HERE / "results" / "campaign.json", help="JSON")
    args = parser.parse_args()
    stages = [stage(folder) for folder in args.runs]
    for one in stages:
        last = one["validation"][-1] if one["validation"] else {}
        told = ", ".join(f"{key} {value:.3f}" for key, value in last.items())
        print(f"{one['run']}: {one['steps']} steps, {one['samples']} samples, {one['hours']:.2f} h; {told or 'not validated'}")
    with atomic_write(args.output) as temporary:
        temporary.write_text(json.dumps({"stages": stages}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
