"""The verb `bench`: what it counts it writes, what it cannot measure it says, what makes no sense is one line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from stereo.attention import ATTENTION
from stereo.cli import main
from stereo.config import PRESETS
from stereo.engine.bench import (
    Case,
    Limits,
    bench,
    count_case,
    format_rows,
    free_bytes,
    growth,
    measure_case,
    peak_bytes,
    plan,
)

SMALL = Case("operator", "quadtree_b", 30, 60)


def test_the_verb_counts_and_writes(tmp_path: Path, capsys):
    target = tmp_path / "new" / "bench.json"
    arguments = ["--presets", "tiny", "--operators", "dense", "quadtree_b", "--sizes", "30x600"]
    assert main(["bench", *arguments, "--widths", "90", "--height", "60", "--no-time", "-o", str(target)]) == 0
    printed = capsys.readouterr().out
    written = json.loads(target.read_text())
    assert written["measured"] is None
    assert written["planned"] == len(written["rows"]) == 6
    assert [(r["name"], r["height"], r["width"]) for r in written["rows"][:4]] == [
        ("tiny", 30, 600), ("dense", 30, 600), ("quadtree_b", 30, 600), ("tiny", 60, 90)
    ]  # fmt: skip
    network, dense, tree = written["rows"][:3]
    assert network["run_size"] == [32, 608]  # what it takes in multiples of 16
    assert sum(network["parts"].values()) == network["macs"] > network["attention"] > 0
    assert dense["run_size"] == [10, 200]
    assert dense["macs"] == 2 * (2 * 10 * 200 * 200 * 128)  # both views; scores and values
    nodes = [(10, 200), (5, 100), (3, 50), (2, 25)]
    candidates = [12, 12, 12, 25]
    assert tree["macs"] == 2 * sum(2 * h * w * m * 128 for (h, w), m in zip(nodes, candidates, strict=True))
    assert all(r["seconds"] is None and r["skipped"] is None for r in written["rows"])
    share = f"{100 * tree['macs'] / dense['macs']:.1f}"
    assert share in next(line for line in printed.splitlines() if line.startswith("(quadtree_b)"))
    assert "GMAC by stage" in printed
    assert str(target) in printed
    assert "reference" in written["protocol"] and "Not counted" in written["protocol"]


def test_json_goes_to_stdout_alone(tmp_path: Path, capsys):
    arguments = ["--presets", "--operators", "linear", "--sizes", "30x60", "--widths", "--no-time", "--json"]
    assert main(["bench", *arguments, "-o", str(tmp_path / "b.json")]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["rows"][0]["name"] == "linear"
    assert "linear" in captured.err


def test_a_fresh_process_measures():
    row = measure_case(SMALL, Limits(repeats=3, threads=1))
    assert len(row["all_seconds"]) == 3
    assert row["seconds"] == sorted(row["all_seconds"])[1] > 0
    assert row["threads"] == 1
    assert 0 <= row["peak_bytes"] < 2**30


def test_what_does_not_fit_is_skipped_with_the_reason(tmp_path: Path):
    rows = list(bench([SMALL], Limits(memory_bytes=1000), tmp_path / "b.json"))
    assert rows[0]["skipped"].startswith("needs about 0.0 GiB")
    assert rows[0]["macs"] == count_case(SMALL)["macs"] > 0
    assert f"skipped: {rows[0]['skipped']}" in format_rows(rows)
    assert json.loads((tmp_path / "b.json").read_text())["rows"] == rows


@pytest.mark.parametrize("name", ["sttr", "small"])
def test_a_4k_pair_of_a_dense_network_needs_more_than_a_small_machine(name: str):
    """Traced, not run: the rows' matrices alone are tens of GiB for STTR."""
    row = measure_case(Case("preset", name, 2160, 3840), Limits(memory_bytes=2**30))
    assert "GiB are free" in row["skipped"]


def test_growth_is_the_exponent_of_the_width():
    def row(width: int, seconds: float | None, height: int = 256) -> dict:
        size = {"kind": "preset", "name": "small", "height": height, "width": width}
        return size | {"macs": 7 * width, "seconds": seconds, "peak_bytes": 3 * width**2}

    rows = [row(w, 1e-5 * w**1.5) for w in (480, 960, 3840)] + [row(1920, None)]  # the last one was skipped
    rows += [row(w, 1.0, height=135) for w in (480, 960)]  # two points say little
    (found,) = growth(rows)
    assert (found["name"], found["height"], found["widths"]) == ("small", 256, [480, 960, 3840])
    assert found["macs_slope"] == pytest.approx(1)
    assert found["seconds_slope"] == pytest.approx(1.5)
    assert found["peak_bytes_slope"] == pytest.approx(2)


def test_what_takes_too_long_is_skipped_with_the_reason():
    assert measure_case(SMALL, Limits(timeout=0.05))["skipped"] == "took longer than 0 s"


def test_a_failure_in_the_process_is_the_reason():
    row = measure_case(SMALL, Limits(repeats=0))  # no median of nothing
    assert "median" in row["skipped"]


def test_the_stored_counts_are_the_current_ones():
    """All operators, and the network of the paper's row."""
    path = Path(__file__).resolve().parents[1] / "experiments" / "results" / "bench_counts.json"
    rows = [r for r in json.loads(path.read_text())["rows"] if (r["height"], r["width"]) == (540, 960)]
    assert {r["name"] for r in rows} == {*PRESETS, *ATTENTION}
    for row in rows:
        if row["kind"] == "operator" or row["name"] == "quadtree":
            now = count_case(Case(*(row[key] for key in ("kind", "name", "height", "width", "kernel"))))
            assert all(now[key] == row[key] for key in ("macs", "attention", "elementwise", "parameters", "parts"))


def test_all_of_them_are_planned():
    cases = plan(None, None, [(540, 960), (540, 960), (135, 480)], "auto")
    assert len(cases) == 2 * (len(PRESETS) + len(ATTENTION))
    assert {case.name for case in cases if case.kind == "operator"} == set(ATTENTION)


def test_the_system_tells_its_memory():
    before = peak_bytes()
    assert before > 2**20
    assert free_bytes() is None or free_bytes() > 2**20


@pytest.mark.parametrize(
    ("arguments", "blamed"),
    [
        (["--presets", "quadtre"], "unknown preset 'quadtre': .*did you mean quadtree"),
        (["--operators", "dens"], "unknown operator 'dens': .*did you mean dense"),
        (["--kernel", "triton2"], "unknown kernel 'triton2'"),
        (["--sizes", "540"], "got the size '540', expected HEIGHTxWIDTH in px, for example 540x960"),
        (["--sizes", "540x-3"], "got the size '540x-3'"),
        (["--widths", "0"], "got the size 135x0, expected at least 3x3 px"),
        (["--presets", "--operators"], "nothing to do"),
        (["--sizes", "--widths"], "nothing to do"),
        (["--repeats", "0"], "got --repeats 0, expected at least 1"),
    ],
)
def test_what_makes_no_sense_is_one_line(arguments: list[str], blamed: str, tmp_path: Path, capsys):
    assert main(["bench", *arguments, "--no-time", "-o", str(tmp_path / "b.json")]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert re.search(blamed, message)
    assert not (tmp_path / "b.json").exists()
