"""Refresh what the README shows from what was measured: its picture, its tables, the last line of the demo.

    python -m experiments.readme      # needs results/real_pairs.json, made with the shipped weights, and results/bench.json
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from datasets.procedural.dataset import render_sample
from experiments.real_pairs import KEPT, figures_of
from experiments.study import mean_and_spread
from stereo import StereoPredictor, load_model
from stereo.cli.demo import DEMO_SEED, DEMO_SIZE
from stereo.config import PRESETS
from stereo.engine.machine import cpu_name
from stereo.image_io import atomic_write, write_image
from stereo.report.colour import colour_disparity, colour_error, robust_range, with_legend
from stereo.report.figures import panel

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "first_screen.png"
COLUMNS = (
    ("EPE", "epe_noc", 2),
    ("bad-3 %", "bad3_noc", 1),
    ("EPE all", "epe_all", 2),
    ("occ IoU", "iou_occluded", 2),
    ("bad-3 % kept", KEPT, 1),
    ("s", "seconds", 2),
)
COST_SIZE = (540, 960)  # (height, width) px
RECIPES = {"small": "small.toml", "tiny": "smoke.toml"}


def real_pairs_table(results: dict) -> str:
    """Markdown: one line per scene, then mean and median; a cell has the figures of all methods, ours first."""
    methods = list(results["methods"].values())
    lines = ["| scene | " + " | ".join(head for head, _, _ in COLUMNS) + " |", "|---|" + "---|" * len(COLUMNS)]
    for name in [row["name"] for row in methods[0]["rows"]] + ["mean", "median"]:
        figures = [figures_of(method, name) for method in methods]
        cells = (_figures([row[key] for row in figures], digits) for _, key, digits in COLUMNS)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _figures(values: list[float | None], digits: int) -> str:
    """'0.69 / 0.40', '-' for what is not defined; one '-' where nothing is."""
    shown = ["-" if value is None else f"{value:.{digits}f}" for value in values]
    return " / ".join(shown) if set(shown) != {"-"} else "-"


def presets_table(bench: dict) -> str:
    """Markdown: one line per preset, with what a pair of COST_SIZE costs."""
    lines = ["| preset | parameters | GMAC | peak MB | s | weights | recipe |", "|---|---|---|---|---|---|---|"]
    costs = {
        row["name"]: row
        for row in bench["rows"]
        if row["kind"] == "preset" and (row["height"], row["width"]) == COST_SIZE and not row["settings"]
    }
    for name in PRESETS:
        row = costs[name]
        weights = sorted(p.name for p in (ROOT / "stereo" / "weights").glob(f"{name}-*.safetensors"))
        shown = f"[{weights[0]}](stereo/weights/{weights[0]})" if weights else "-"
        recipe = f"[{RECIPES[name]}](experiments/{RECIPES[name]})" if name in RECIPES else "-"
        peak = "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:.0f}"
        seconds = "-" if row["seconds"] is None else f"{row['seconds']:.1f}"
        cells = [f"`{name}`", f"{row['parameters'] / 1e6:.2f} M", f"{row['macs'] / 1e9:.0f}", peak, seconds, shown, recipe]
        lines.append(f"| {' | '.join(cells)} |")
    height, width = COST_SIZE
    threads = next((row["threads"] for row in costs.values() if "threads" in row), "?")
    return "\n".join([*lines, "", f"For a pair of {height}x{width} px, fp32, {threads} threads of {bench['cpu']}."])


def operators_table(compared: dict) -> str:
    """Markdown: one line per operator of experiments/compare_attention.py."""
    lines = ["| operator | EPE visible, px | occluded IoU | GMAC | peak MB | s |", "|---|---|---|---|---|---|"]
    for name, variant in compared["variants"].items():
        runs, cost = variant["runs"], variant["cost"]
        cells = [f"`{name}`", mean_and_spread(runs, "epe_noc", 2), mean_and_spread(runs, "iou_occluded", 2)]
        figures = (("gmac", 1), ("peak_mb", 0), ("seconds", 1))
        cells += ["-" if cost[key] is None else f"{cost[key]:.{digits}f}" for key, digits in figures]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def speed_table(speed: dict) -> str:
    """Markdown: one line per case of experiments/bench_speed.py, a group after the other."""
    lines = ["| measured | case | s | times the first |", "|---|---|---|---|"]
    for group, cases in speed["groups"].items():
        for name, row in cases.items():
            lines.append(f"| {group} | {name} | {row['median']:.2f} | {row['times_the_first']:.1f} |")
    machine = speed["machine"]
    return "\n".join([*lines, "", f"{machine['threads']} threads of {machine['cpu']}, PyTorch {machine['torch']}."])


def growth_text(measured: dict) -> str:
    """How `small` grows with the width, and what its largest pair takes, from the bench verb."""
    (grown,) = measured["growth"]
    widths = f"{min(grown['widths'])} to {max(grown['widths'])}"
    slopes = f"time {grown['seconds_slope']:.2f} and peak memory {grown['peak_bytes_slope']:.2f}"
    most = max(measured["rows"], key=lambda row: row["height"] * row["width"])
    size = f"{most['height']}x{most['width']}"
    return (
        f"Log-log slopes of `{grown['name']}` in the width, {widths} px at a height of {grown['height']}: {slopes}. "
        f"A pair of {size} px in one piece takes {most['peak_bytes'] / 2**30:.1f} GiB and {most['seconds']:.1f} s (fp32)."
    )


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown: one line per row of cells."""
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(heads), *lines[1:]])


def content_table(compared: dict) -> str:
    """Markdown: one line per variant of experiments/compare_content.py."""
    keys = (("epe_noc", 2), ("real_epe_noc", 2), ("real_epe_all", 2), ("real_bad3_noc", 1), ("real_iou_occluded", 2))
    heads = ("left out", "EPE generated", "EPE real", "EPE all real", "bad-3 % real", "occ IoU real")
    spreads = {name: _spreads(variant["runs"], keys) for name, variant in compared["variants"].items()}
    return table(heads, [[name, *cells] for name, cells in spreads.items()])


def _spreads(runs: Sequence[Mapping[str, float]], keys: Iterable[tuple[str, int]]) -> list[str]:
    return [mean_and_spread(runs, key, digits) for key, digits in keys]


def search_table(searched: dict) -> str:
    """Markdown: one line per variant of experiments/search.py, the best on generated scenes first."""
    keys = (("epe_noc", 2), ("bad3_noc", 1), ("iou_occluded", 2), ("real_epe_noc", 2), ("real_bad3_noc", 1))
    heads = ("changed", "GMAC", "EPE generated", "bad-3 % generated", "occ IoU generated", "EPE real", "bad-3 % real")
    by_epe = sorted(searched["variants"].items(), key=lambda item: sum(run["epe_noc"] for run in item[1]["runs"]))
    return table(heads, [[name, f"{one['gmac']:.1f}", *_spreads(one["runs"], keys)] for name, one in by_epe])


def sizes_table(measured: dict) -> str:
    """Markdown: one line per choice of sizes of experiments/iterated_use.py."""
    keys = (("epe_noc", 2), ("epe_all", 2), ("bad3_noc", 1), ("iou_occluded", 2))
    heads = [f"{name} {data}" for data in ("generated", "real") for name in ("EPE", "EPE all", "bad-3 %", "occ IoU")]
    rows = []
    for row in measured["rows"]:
        cells = [f"{row[data][key]:.{digits}f}" for data in ("generated", "real") for key, digits in keys]
        sizes = " ".join(f"{size:g}" for size in row["sizes"])
        rows.append([f"`{sizes}`", f"{row['generated']['times_once']:.1f}", *cells])
    return table(["sizes", "time", *heads], rows)


def demo_line() -> str:
    """The last line that the demo prints here, and the machine."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "run_stereo.py", "demo", "-o", folder]
        printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return f"```\n{printed.splitlines()[-1]}\n```\n\non two cores of {cpu_name()}."


def read_result(name: str) -> dict:
    return json.loads((ROOT / "experiments" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def replace_between(text: str, marker: str, content: str, name: str = "README.md") -> str:
    """Swap what stands between <!-- marker --> and <!-- /marker --> in a page of that ``name``."""
    pattern = re.compile(rf"(<!-- {marker} -->\n).*?(<!-- /{marker} -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"{name} has no <!-- {marker} --> block")
    return pattern.sub(lambda m: m[1] + content + "\n" + m[2], text)


def draw_picture() -> None:
    """Left, ours and error of the demo's pair: the pair is generated, so nobody's photograph is copied."""
    sample = render_sample(DEMO_SEED, 0, *DEMO_SIZE)
    result = StereoPredictor(load_model()).predict(sample.left, sample.right)
    low, high = robust_range(sample.disp)
    disparity = with_legend(colour_disparity(result.disp, low, high), low, high)
    error = colour_error(result.disp, sample.disp, sample.valid, 3.0)
    write_image(PICTURE, panel([("left", sample.left), ("ours", disparity), ("error", error)], columns=3))


def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    results, bench = (read_result(name) for name in ("real_pairs", "bench"))
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    tables = {"operators": operators_table(read_result("compare_operators"))}
    tables |= {"speed": speed_table(read_result("speed")), "content": content_table(read_result("compare_content"))}
    tables |= {name: search_table(read_result(name)) for name in ("search", "quadtree_or_dense", "quadtree_or_dense_trained")}
    tables |= {"sizes": sizes_table(read_result("iterated_use"))}
    tables |= {"growth": growth_text(read_result("growth"))}
    tables |= {"real_pairs": real_pairs_table(results), "presets": presets_table(bench), "demo": demo_line()}
    for marker, content in tables.items():
        text = replace_between(text, marker, content)
    with atomic_write(readme) as temporary:
        temporary.write_text(text, encoding="utf-8")
    draw_picture()


if __name__ == "__main__":
    main()
