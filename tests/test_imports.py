"""The house rules of DESIGN section 1, enforced on the syntax tree: who may import whom, and how long a thing may be.

Imports inside functions and under TYPE_CHECKING count like any other. Nothing is executed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted([*ROOT.glob("stereo/**/*.py"), *ROOT.glob("datasets/**/*.py"), *ROOT.glob("run_stereo.py")])
NAMES = [path.relative_to(ROOT).as_posix() for path in FILES]
each_file = pytest.mark.parametrize("name", NAMES)

# A room may import its own tier and every tier before it.
TIERS = [
    {"types", "config", "kernels", "version"},
    {"files", "quiet", "picture_headers", "raw_files", "image_io", "geometry", "calibration", "attention"},
    {"model", "losses", "metrics", "datasets", "sources"},
    {"checkpoint"},
    {"engine", "inference", "report"},
    {"export", "selftest"},
    {"facade"},  # stereo/__init__.py, the public names
    {"cli"},
    {"run_stereo"},
]
TIER = {room: number for number, rooms in enumerate(TIERS) for room in rooms}
INSIDE_STEREO = set(TIER) - {"datasets", "facade", "run_stereo"}

# On top of the tiers: loaders are handed to the engine, the network knows neither labels nor files, nor do files know it.
NEVER = {
    "model": {"losses", "metrics", "datasets"},
    "engine": {"datasets"},
    "attention": {"model"},
    "report": {"model"},
    "datasets": {"model", "losses", "engine", "checkpoint", "inference", "report"},
}
NAMELESS = {"utils.py", "misc.py", "common.py", "helpers.py"}

MAX_FILE_LINES = 400
MAX_FORWARD_LINES = 60


def parse(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(encoding="utf-8"), filename=name)


def room_of(module: str) -> str | None:
    """'stereo.model.layers' -> 'model', 'stereo' -> 'facade', 'datasets.kitti' -> 'datasets'; None for other people's code."""
    top, *rest = module.split(".")
    if top == "stereo":
        return rest[0] if rest else "facade"
    return top if top in ("datasets", "run_stereo") else None


def module_of(name: str) -> str:
    """'stereo/model/layers.py' -> 'stereo.model.layers', 'stereo/model/__init__.py' -> 'stereo.model'."""
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imported_modules(tree: ast.Module, name: str) -> Iterator[tuple[int, str]]:
    """(line, absolute module) of every import. ``from stereo import x`` counts as stereo.x where x is a room."""
    module = module_of(name)
    package = module if name.endswith("/__init__.py") else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:  # relative: climb from the own package
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                source = ".".join([*parents, source] if source else parents)
            for alias in node.names:
                yield node.lineno, f"stereo.{alias.name}" if source == "stereo" and alias.name in INSIDE_STEREO else source


def import_violations(tree: ast.Module, name: str) -> list[str]:
    importer = room_of(module_of(name))
    if importer not in TIER:
        return [f"{name}: the room '{importer}' has no tier; give it one here and in DESIGN section 1"]
    found = []
    for line, module in imported_modules(tree, name):
        imported = room_of(module)
        if imported is None or imported == importer:
            continue
        if imported not in TIER:
            found.append(f"{name}:{line}: '{module}' is in no known room")
        elif TIER[imported] > TIER[importer] or imported in NEVER.get(importer, ()):
            found.append(f"{name}:{line}: {importer} must not import {imported} ({module})")
    return found


def long_forwards(tree: ast.Module, name: str) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "forward":
            lines = node.end_lineno - node.lineno + 1
            if lines > MAX_FORWARD_LINES:
                found.append(f"{name}:{node.lineno}: forward has {lines} lines, at most {MAX_FORWARD_LINES}")
    return found


# ---------------------------------------------------------------------------------------------------------------------
# The house


def test_the_walk_finds_the_house() -> None:
    """A wrong ROOT would make every rule below hold of nothing."""
    assert {"stereo/types.py", "stereo/attention/quadtree.py", "datasets/__init__.py"} <= set(NAMES)


@each_file
def test_imports_go_downwards(name: str) -> None:
    assert import_violations(parse(name), name) == []


@each_file
def test_files_have_a_name_and_an_end(name: str) -> None:
    lines = len((ROOT / name).read_text(encoding="utf-8").splitlines())
    assert Path(name).name not in NAMELESS, "a helper without a room means that a room is missing"
    assert lines <= MAX_FILE_LINES, f"{lines} lines: this wants a wall"


@each_file
def test_forward_fits_on_a_screen(name: str) -> None:
    assert long_forwards(parse(name), name) == []


@each_file
def test_nothing_else_is_imported_from_the_repository(name: str) -> None:
    """tests/ and experiments/ use the rooms; the rooms know neither of them."""
    tops = {module.split(".")[0] for _, module in imported_modules(parse(name), name)}
    assert not tops & {"tests", "experiments"}


# ---------------------------------------------------------------------------------------------------------------------
# The checker


@dataclass(frozen=True)
class Case:
    name: str
    source: str
    blamed: str  # part of the message; empty where nothing is wrong


FORBIDDEN = [
    # upwards, in every spelling
    Case("stereo/attention/dense.py", "from stereo.model.layers import ChannelNorm", "attention must not import model"),
    Case("stereo/attention/dense.py", "import stereo.model.layers as layers", "attention must not import model"),
    Case("stereo/attention/dense.py", "from stereo import model", "attention must not import model"),
    Case("stereo/attention/dense.py", "from ..model import layers", "attention must not import model"),
    Case("stereo/attention/dense.py", "from .. import model", "attention must not import model"),
    Case("stereo/attention/__init__.py", "from ..model import layers", "attention must not import model"),
    Case("stereo/losses.py", "from .engine import fit", "losses must not import engine"),
    Case("stereo/losses.py", "from . import engine", "losses must not import engine"),
    Case("stereo/kernels/reference.py", "from stereo.attention import dense", "kernels must not import attention"),
    Case("stereo/config.py", "from stereo.model.build import build", "config must not import model"),
    Case("stereo/metrics.py", "from stereo.checkpoint import load", "metrics must not import checkpoint"),
    Case("stereo/checkpoint.py", "from stereo.engine.fit import fit", "checkpoint must not import engine"),
    Case("stereo/inference/tiling.py", "from stereo.export import export", "inference must not import export"),
    Case("stereo/model/build.py", "from stereo import Predictor", "model must not import facade"),
    Case("stereo/model/build.py", "import stereo", "model must not import facade"),
    # hidden in a function or behind TYPE_CHECKING, on the right line
    Case("stereo/types.py", "def f():\n    import stereo.model\n", "stereo/types.py:2: types must not import model"),
    Case("stereo/types.py", "if TYPE_CHECKING:\n    from stereo.model import x\n", "stereo/types.py:2: types"),
    # within a tier, or downwards and yet never
    Case("stereo/model/build.py", "from stereo.losses import total", "model must not import losses"),
    Case("stereo/model/build.py", "from stereo.metrics import epe", "model must not import metrics"),
    Case("stereo/model/build.py", "from datasets import kitti", "model must not import datasets"),
    Case("stereo/engine/fit.py", "from datasets.kitti import Kitti", "engine must not import datasets"),
    Case("stereo/engine/fit.py", "import torch, datasets", "engine must not import datasets"),
    Case("stereo/report/page.py", "from stereo.model import build", "report must not import model"),
    *(
        Case("datasets/procedural/scene.py", f"from stereo.{room} import anything", f"datasets must not import {room}")
        for room in sorted(NEVER["datasets"])
    ),
    # the command line
    Case("stereo/__init__.py", "from stereo.cli import main", "facade must not import cli"),
    Case("stereo/__init__.py", "from .cli import main", "facade must not import cli"),
    Case("stereo/export.py", "from stereo import cli", "export must not import cli"),
    Case("datasets/base.py", "import stereo.cli", "datasets must not import cli"),
    Case("stereo/cli.py", "import run_stereo", "cli must not import run_stereo"),
    # a house that grew without a plan
    Case("stereo/plugins/x.py", "import torch", "the room 'plugins' has no tier"),
    Case("stereo/model/build.py", "from stereo.plugins import x", "'stereo.plugins' is in no known room"),
]
ALLOWED = [
    Case("run_stereo.py", "from stereo.cli import main", ""),
    Case("stereo/cli.py", "import datasets\nfrom stereo import Predictor, export\nfrom stereo.engine.fit import fit", ""),
    Case("stereo/__init__.py", "from stereo.types import Sample\nfrom .export import export\nfrom datasets import base", ""),
    Case("stereo/engine/fit.py", "from stereo.model.build import build\nfrom stereo.losses import total", ""),
    Case("stereo/engine/fit.py", "from stereo.engine import schedule\nfrom . import run_dir\nfrom .distributed import x", ""),
    Case("stereo/model/build.py", "from stereo import kernels\nfrom stereo.config import ModelConfig\nimport torch, numpy", ""),
    Case("stereo/model/build.py", "from .layers import ChannelNorm\nfrom ..attention import build_attention", ""),
    Case("stereo/kernels/__init__.py", "from stereo.config import near_matches\nfrom stereo.types import InputError", ""),
    Case("datasets/kitti.py", "from stereo.types import Sample\nfrom stereo import image_io\nfrom datasets.base import x", ""),
    Case("stereo/losses.py", "# from stereo.cli import main\ntext = 'import stereo.cli'", ""),
]


@pytest.mark.parametrize("case", FORBIDDEN, ids=lambda case: f"{case.name}: {case.source.splitlines()[-1].strip()}")
def test_the_checker_finds_what_is_forbidden(case: Case) -> None:
    found = import_violations(ast.parse(case.source), case.name)
    assert len(found) == 1
    assert case.blamed in found[0]


@pytest.mark.parametrize("case", ALLOWED, ids=lambda case: f"{case.name}: {case.source.splitlines()[-1].strip()}")
def test_the_checker_leaves_alone_what_is_allowed(case: Case) -> None:
    assert import_violations(ast.parse(case.source), case.name) == []


@pytest.mark.parametrize(("lines", "too_long"), [(MAX_FORWARD_LINES, False), (MAX_FORWARD_LINES + 1, True)])
def test_the_checker_counts_the_lines_of_forward(lines: int, too_long: bool) -> None:
    body = "    x = 1\n" * (lines - 1)
    source = f"class A:\n  def forward(self):\n{body}\n  def other(self):\n{body * 3}"
    found = long_forwards(ast.parse(source), "stereo/model/a.py")
    assert bool(found) == too_long
    assert not too_long or found[0].startswith("stereo/model/a.py:2: forward has 61 lines")
