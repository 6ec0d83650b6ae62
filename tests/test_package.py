"""What ``pip install .`` brings: built from a copy of the tree, unpacked, and used from a folder that is not the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from stereo.image_io import read_disparity, write_image
from stereo.version import __version__

ROOT = Path(__file__).resolve().parents[1]
BUILD = "import sys; from setuptools import build_meta as b; out = sys.argv[1]; b.build_sdist(out); b.build_wheel(out)"
NOT_SOURCE = ("__pycache__", ".pyc")

pytestmark = pytest.mark.slow


def files_below(folder: Path) -> set[str]:
    found = (path for path in folder.rglob("*") if path.is_file() and not any(part in str(path) for part in NOT_SOURCE))
    return {path.relative_to(folder.parent).as_posix() for path in found}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the source distribution and the wheel."""
    setuptools = pytest.importorskip("setuptools", reason="building a wheel needs setuptools 77 or newer")
    if int(setuptools.__version__.split(".")[0]) < 77:
        pytest.skip(f"building a wheel needs setuptools 77 or newer, this is {setuptools.__version__}")
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    for name in ("stereo", "datasets", "docs", "experiments", "tests"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, tree)
    done = subprocess.run([sys.executable, "-c", BUILD, str(out)], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return out


@pytest.fixture(scope="module")
def unpacked(built, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    (wheel,) = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def test_the_wheel_holds_both_packages_whole(unpacked):
    for package in ("stereo", "datasets"):
        assert files_below(unpacked / package) == files_below(ROOT / package)
    there = files_below(unpacked / "stereo")
    assert {"stereo/py.typed", "stereo/kernels/cpu/level.cpp", "stereo/report/assets/viewer.js"} <= there
    assert sum(name.startswith("stereo/weights/") and name.endswith(".safetensors") for name in there) == 1
    tops = {path.name for path in unpacked.iterdir()}
    assert tops == {"stereo", "datasets", f"quadtree_stereo-{__version__}.dist-info"}
    assert "stereo = stereo.cli:main" in (unpacked / f"quadtree_stereo-{__version__}.dist-info/entry_points.txt").read_text()


def test_the_source_distribution_holds_what_the_wheel_does_and_more(built, unpacked):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.split("/", 1)[1] for name in opened.getnames() if "/" in name}
    assert files_below(unpacked / "stereo") | files_below(unpacked / "datasets") <= names
    assert {"run_stereo.py", "docs/README.md", "experiments/small.toml", "tests/test_package.py", "LICENSE"} <= names


def test_the_command_runs_away_from_the_repository(unpacked, tmp_path):
    for name in ("left.png", "right.png"):
        write_image(tmp_path / name, np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8))
    start = "import sys, stereo; sys.argv[0] = 'stereo'; print(stereo.__file__); from stereo.cli import main; sys.exit(main())"
    environment = os.environ | {"PYTHONPATH": str(unpacked)}

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", start, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    done = call("infer", "left.png", "right.png", "-o", "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(unpacked))
    assert read_disparity(tmp_path / "out" / "left.disp.pfm")[0].shape == (32, 64)
    assert call("--version").stdout.endswith(f"{__version__}\n")
    told = call("infer", "--help").stdout
    assert "usage: stereo infer" in told
    assert "run_stereo.py" not in told
