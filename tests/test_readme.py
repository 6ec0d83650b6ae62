"""The README keeps its promises: its set-up commands are the ones that run, its Python runs, its table is the measured one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.readme import (
    content_table,
    growth_text,
    operators_table,
    presets_table,
    read_result,
    real_pairs_table,
    speed_table,
)
from stereo.checkpoint import default_weights

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def setup_command(number: int) -> str:
    script = [sys.executable, ".ci/readme_command.py", str(number)]
    return subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def test_two_commands_do_all_the_set_up():
    first, second = setup_command(1), setup_command(2)
    assert first.endswith("python run_stereo.py demo")
    assert "pip install -r requirements.txt" in first
    assert "pytest" in second
    assert "pip install -r requirements-dev.txt" in second
    with pytest.raises(subprocess.CalledProcessError):
        setup_command(3)


def test_ci_runs_the_test_command_of_the_readme():
    assert "readme_command.py 2" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_python_block_runs(tmp_path, monkeypatch):
    block = re.search(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    from stereo.image_io import write_image

    monkeypatch.chdir(tmp_path)
    for name in ("left.png", "right.png"):
        write_image(tmp_path / name, np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    names: dict = {}
    exec(compile(block[1], "README.md", "exec"), names)
    assert names["result"].disp.shape == (48, 64)


def block(marker: str) -> str:
    return re.search(rf"<!-- {marker} -->\n(.*?)\n<!-- /{marker} -->", README, re.DOTALL)[1]


def test_tables_are_the_measured_ones():
    results = read_result("real_pairs")
    assert block("real_pairs") == real_pairs_table(results)
    assert results["weights"]["name"] == default_weights().name, "made with other weights: run experiments.real_pairs again"
    assert block("presets") == presets_table(read_result("bench"))
    assert block("operators") == operators_table(read_result("compare_operators"))
    assert block("speed") == speed_table(read_result("speed"))
    assert block("growth") == growth_text(read_result("growth"))
    assert block("content") == content_table(read_result("compare_content"))
    assert "EPE" in block("demo")


def test_pictures_and_links_exist():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), f"README.md links to {target}"


def test_rooms_are_named():
    for room in sorted(p.name for p in (ROOT / "stereo").iterdir() if p.is_dir() and not p.name.startswith("_")):
        assert f"stereo/{room}" in README, f"README.md does not say what stereo/{room} is for"
