"""The measured parts of the model card, on cards and results made up so that every figure can be worked out by hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from experiments.model_card import cost, evaluation, identity, limits, shipped_card, stages_of, training
from experiments.readme import read_result
from experiments.real_pairs import KEPT
from stereo.checkpoint import default_weights

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "model_card.md").read_text(encoding="utf-8")
CARD = {
    "weights": "last.safetensors",
    "recipe": {"name": "last", "data": {"sets": [], "content": {"textures": ""}}},
    "samples_seen": 1000,
    "hours": 0.5,
    "hardware": "a CPU",
    "before": [{"weights": "first.safetensors", "samples_seen": 3000, "hours": 1.5}],
    "validation": {"data": "generated:1:2", "epe_noc": 1.234, "epe_all": 2.345, "bad3_noc": 10.06, "iou_occluded": 0.5},
}


def method(title: str, **bad3: float) -> dict:
    rows = [{"name": name, "bad3_noc": value, "epe_noc": value / 10, KEPT: None} for name, value in bad3.items()]
    figures = dict.fromkeys(("epe_noc", "bad1_noc", "bad2_noc", "bad3_noc", "epe_all", "iou_occluded", KEPT, "seconds"), 1.0)
    return {"title": title, "rows": rows, "mean": figures | {"bad3_noc": 7.77}, "median": figures | {"iou_occluded": None}}


RESULTS = {
    "weights": {"name": "x", "sha256": "abc"},
    "machine": {"threads": 2, "cpu": "a CPU"},
    "precision": "fp32",
    "targets": [
        {"kind": "must", "name": "first", "reached": 2.0, "relation": "at most", "limit": 1.0, "met": False},
        {"kind": "must", "name": "second", "reached": 2.0, "relation": "at most", "limit": 3.0, "met": True},
        {"kind": "aim", "name": "third", "reached": 2.0, "relation": "at most", "limit": 1.0, "met": False},
    ],
    "methods": {
        "ours": method("ours", a=1.0, b=4.0, c=3.0, d=2.0),
        "sgbm": method("HH", a=2.0, b=5.0, c=9.0, d=1.0),
        "sgbm-3way": method("3WAY", a=0.5, b=6.0, c=9.0, d=9.0),
    },
}


def test_training_adds_up():
    told = training(CARD)
    assert told.startswith("Only pairs of this repository's own generator, no photograph in it: 4000 crops in 2.0 hours on a ")
    assert "| first.safetensors | 3000 | 1.50 |\n| last | 1000 | 0.50 |" in told
    assert told.endswith("(`generated:1:2`): EPE 1.23 px visible, 2.35 px all, bad-3 10.1 %, occluded IoU 0.50.")
    alone = {key: value for key, value in CARD.items() if key != "before"}
    assert "1000 crops in 0.5 hours" in training(alone)


def test_other_data_are_not_passed_over_in_silence():
    data = {"sets": [["kitti2015:K", 1.0]], "content": {"textures": "photos"}}
    told = training(CARD | {"recipe": CARD["recipe"] | {"data": data}})
    assert told.startswith("Not only generated pairs: [['kitti2015:K', 1.0]], textures from the folder photos")
    assert "Only pairs of this repository" not in told


def test_evaluation_shows_means_and_missed_goals():
    told = evaluation(RESULTS)
    assert "| ours, mean | 1.00 | 1.0 | 1.0 | 7.8 | 1.00 | 1.00 | 1.0 | 1.00 |" in told
    assert "| HH, median | 1.00 | 1.0 | 1.0 | 1.0 | 1.00 | - | 1.0 | 1.00 |" in told
    assert "4 real pairs" in told
    assert "- first: 2, wanted at most 1" in told
    assert "second" not in told
    assert "third" not in told
    assert evaluation(RESULTS | {"targets": RESULTS["targets"][1:]}).endswith("Every goal that was set is reached.")


def test_limits_name_the_worst_and_what_is_lost():
    told = limits(RESULTS)
    assert re.findall(r"^\| (\w) \|", told, re.MULTILINE) == ["b", "c", "d"]
    assert "| b | 4.0 | 0.40 | - |" in told
    assert told.endswith("on 2 of 4 scenes: a, d.")


def test_cost_is_in_hours_and_bounds():
    card = CARD | {"before": [*CARD["before"], {"run": "one", "samples_seen": 1, "hours": 0.25}]}
    stages = [
        {"run": "one", "hours": 0.25, "weights": None},
        {"run": "a trial beside", "hours": 4.0, "weights": "other.safetensors"},
        {"run": "two", "hours": 0.5, "weights": card["weights"]},
    ]
    told = cost(card, {"stages": stages})
    assert told.startswith("2.2 hours of two CPU cores (a CPU)")
    assert "0.02 to 0.23 kWh" in told
    assert "0.8 of the hours are on record" in told
    assert "campaign.json): one, two)" in told


def test_the_shipped_weights_are_those_of_the_card():
    card, results = shipped_card(), read_result("real_pairs")
    assert card["weights"] == default_weights().name == results["weights"]["name"]
    assert results["weights"]["sha256"].startswith(default_weights().stem.rpartition("-")[2])
    assert results["weights"]["sha256"] in identity(card, results)
    assert sum(stage["samples_seen"] for stage in stages_of(card)) >= card["samples_seen"]


@pytest.mark.parametrize("marker", ["identity", "training", "evaluation", "limits", "cost"])
def test_the_page_has_every_block_filled(marker):
    assert re.search(rf"<!-- {marker} -->\n.{{40,}}\n<!-- /{marker} -->", TEXT, re.DOTALL)


def test_no_measured_number_stands_outside_of_a_block():
    """What would be wrong after the next training: figures with decimals, counts of crops or hours."""
    prose = re.sub(r"<!-- (\w+) -->.*?<!-- /\1 -->", "", TEXT, flags=re.DOTALL)
    assert re.findall(r"\d+\.\d+ ?(?:px|%|MB|hours|kWh)|\d+ crops|\d+ hours|[0-9a-f]{8}", prose) == []
