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
from stereo.types import InputError

HERE = Path(__file__).parent
POINTS = 20  # of a curve
CURVE = ("loss/total", "epe_visible_px")


def stage(folder: Path) -> dict[str, Any]:
    """One run. Paths are told by their last two parts: the rest is a matter of one machine."""
    recipe = json.loads(_read(folder / "recipe.json"))
    versions = json.loads(_read(folder / "versions.json"))
    versions.pop("command", None)
    recipe["train"]["init"] = "/".join(Path(recipe["train"]["init"]).parts[-2:])
    lines = [json.loads(line) for line in _read(folder / "log.jsonl").splitlines()]
    latest = {(line["kind"], line["step"]): line for line in lines}  # a resumed run tells the steps since its checkpoint again
    told = sorted(latest.items())
    trained, validated = ([line for (given, _), line in told if given == kind] for kind in ("train", "validation"))
    steps = max((line["step"] for line in [*trained, *validated]), default=0)
    batch = recipe["train"]["batch_size"] * recipe["train"]["accumulate"]
    cards = sorted(folder.glob("*.card.json"))
    return {
        "run": folder.name,
        "recipe": recipe,
        "versions": versions,
        "steps": steps,
        "samples": steps * batch,
        "hours": _hours(trained, batch),
        "curve": _curve(trained),
        "validation": [{key: value for key, value in line.items() if key != "kind"} for line in validated],
        "weights": json.loads(_read(cards[-1]))["weights"] if cards else None,
    }


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"'{path}' cannot be read: {error.strerror}; name folders of runs that 'train' has made") from None


def _hours(trained: list[dict[str, Any]], batch: int) -> float:
    """Of training alone: the steps since the line before, at the rate that each line tells."""
    steps = [line["step"] for line in trained]
    rates = [line["samples_per_s"] for line in trained]
    return sum(batch * (b - a) / rate for a, b, rate in zip([0, *steps], steps, rates, strict=False)) / 3600


def _curve(trained: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Means of as many stretches of the run."""
    size = max(1, -(-len(trained) // POINTS))
    parts = [trained[first : first + size] for first in range(0, len(trained), size)]
    return [
        {"step": part[-1]["step"], **{key: statistics.fmean(line[key] for line in part) for key in CURVE}} for part in parts
    ]


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
