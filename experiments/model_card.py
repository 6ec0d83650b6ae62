"""The measured parts of docs/model_card.md, as Markdown; python -m experiments.docs puts them there.

Read are the card of the shipped weights, experiments/results/real_pairs.json and campaign.json. Nothing is typed by hand.
"""

from __future__ import annotations

import json
from typing import Any

from experiments.readme import read_result
from experiments.real_pairs import KEPT, OURS
from stereo.checkpoint import default_weights
from stereo.config import model_config
from stereo.model.build import build_model

COLUMNS = (
    ("EPE visible, px", "epe_noc", 2),
    ("bad-1 %", "bad1_noc", 1),
    ("bad-2 %", "bad2_noc", 1),
    ("bad-3 %", "bad3_noc", 1),
    ("EPE all, px", "epe_all", 2),
    ("occluded IoU", "iou_occluded", 2),
    ("bad-3 % kept", KEPT, 1),
    ("s", "seconds", 2),
)
WORST = 3  # scenes that are named
CPU_WATTS = (10, 100)  # bounds of what two busy cores of a server draw; not measured


def shipped_card() -> dict[str, Any]:
    """Of the weights in stereo/weights."""
    return json.loads(default_weights().with_suffix(".card.json").read_text(encoding="utf-8"))


def stages_of(card: dict[str, Any]) -> list[dict[str, Any]]:
    """What the weights were trained in, first stage first: weights or run, crops, hours."""
    own = {"run": card["recipe"]["name"], "samples_seen": card["samples_seen"], "hours": card["hours"]}
    return [*card.get("before", []), own]


def identity(card: dict[str, Any], results: dict[str, Any]) -> str:
    path = default_weights()
    config = model_config(card["recipe"]["model"], "model")
    parameters = sum(p.numel() for p in build_model(config).parameters())
    rows = {
        "file": f"[{path.name}](../stereo/weights/{path.name})",
        "SHA-256": f"`{results['weights']['sha256']}`",
        "size": f"{path.stat().st_size / 1e6:.1f} MB, {parameters / 1e6:.2f} M parameters, float32",
        "network": f"preset `{config.preset}`: [architecture](architecture.md)",
        "card": f"[{path.stem}.card.json](../stereo/weights/{path.stem}.card.json), every setting of the training",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def training(card: dict[str, Any]) -> str:
    stages = stages_of(card)
    samples, hours = (sum(stage[key] for stage in stages) for key in ("samples_seen", "hours"))
    sets = card["recipe"]["data"]["sets"]
    textures = card["recipe"]["data"]["content"]["textures"]
    data = "Only pairs of this repository's own generator" if not sets else f"Not only generated pairs: {sets}"
    pictures = "no photograph in it" if not textures else f"textures from the folder {textures}"
    lines = [f"{data}, {pictures}: {samples} crops in {hours:.1f} hours on {card['hardware']}.", ""]
    lines += ["| stage | crops | hours |", "|---|---|---|"]
    names = [stage.get("run") or stage["weights"] for stage in stages]
    lines += [f"| {name} | {s['samples_seen']} | {s['hours']:.2f} |" for name, s in zip(names, stages, strict=True)]
    seen = card["validation"]
    figures = f"EPE {seen['epe_noc']:.2f} px visible, {seen['epe_all']:.2f} px all, bad-3 {seen['bad3_noc']:.1f} %"
    iou = f"occluded IoU {seen['iou_occluded']:.2f}"
    return "\n".join([*lines, "", f"On generated scenes that it was not trained on (`{seen['data']}`): {figures}, {iou}."])


def evaluation(results: dict[str, Any]) -> str:
    """Means and medians over the scenes, ours and SGBM's two modes."""
    lines = ["| | " + " | ".join(head for head, _, _ in COLUMNS) + " |", "|---|" + "---|" * len(COLUMNS)]
    for method in results["methods"].values():
        for of in ("mean", "median"):
            cells = (_figure(method[of][key], digits) for _, key, digits in COLUMNS)
            lines.append(f"| {method['title']}, {of} | {' | '.join(cells)} |")
    machine = results["machine"]
    where = f"{machine['threads']} threads of {machine['cpu']}, {results['precision']}"
    missed = [t for t in results["targets"] if t["kind"] == "must" and t["met"] is False]
    told = [f"- {t['name']}: {t['reached']:.3g}, wanted {t['relation']} {t['limit']:g}" for t in missed]
    goals = ["Goals that were set and are not reached:", "", *told] if told else ["Every goal that was set is reached."]
    scenes = f"{len(results['methods'][OURS]['rows'])} real pairs, none of them seen in training, {where}"
    return "\n".join([*lines, "", f"{scenes}. Every scene: [README](../README.md#how-good-it-is).", "", *goals])


def limits(results: dict[str, Any]) -> str:
    """The scenes with most errors, and those on which a mode of SGBM has fewer."""
    ours, *rivals = results["methods"].values()
    worst = sorted(ours["rows"], key=lambda row: row["bad3_noc"], reverse=True)[:WORST]
    lines = ["| worst scenes | bad-3 % | EPE visible, px | bad-3 % of the surer 80 % |", "|---|---|---|---|"]
    lines += [f"| {r['name']} | {r['bad3_noc']:.1f} | {r['epe_noc']:.2f} | {_figure(r[KEPT], 1)} |" for r in worst]
    best = {row["name"]: min(_row(rival, row["name"])["bad3_noc"] for rival in rivals) for row in ours["rows"]}
    lost = [row["name"] for row in ours["rows"] if best[row["name"]] < row["bad3_noc"]]
    count = f"{len(lost)} of {len(ours['rows'])} scenes"
    which = f": {', '.join(lost)}" if lost else ""
    told = f"The better of SGBM's two modes has fewer errors above 3 px among visible pixels on {count}{which}."
    return "\n".join([*lines, "", told])


def cost(card: dict[str, Any], campaign: dict[str, Any]) -> str:
    hours = sum(stage["hours"] for stage in stages_of(card))
    runs = {stage.get("run") for stage in card.get("before", [])}
    led_here = [one for one in campaign["stages"] if one["run"] in runs or one["weights"] == card["weights"]]
    recorded = sum(stage["hours"] for stage in led_here)
    low, high = (hours * watts / 1000 for watts in CPU_WATTS)
    names = ", ".join(stage["run"] for stage in led_here)
    return (
        f"{hours:.1f} hours of two CPU cores ({card['hardware']}) went into these weights, no GPU. If two busy cores draw "
        f"{CPU_WATTS[0]} to {CPU_WATTS[1]} W, a bound and not a measurement, that is {low:.2f} to {high:.2f} kWh. "
        f"{recorded:.1f} of the hours are on record with their curves "
        f"([campaign.json](../experiments/results/campaign.json): {names}). Trials that led to the recipe are not counted."
    )


def card_blocks() -> dict[str, str]:
    """Marker -> what stands between it and its end."""
    card, results = shipped_card(), read_result("real_pairs")
    return {
        "identity": identity(card, results),
        "training": training(card),
        "evaluation": evaluation(results),
        "limits": limits(results),
        "cost": cost(card, read_result("campaign")),
    }


def _row(method: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in method["rows"] if row["name"] == name)


def _figure(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
