"""Damaged files: a reader returns an array or raises InputError that names the file. It never crashes, hangs or prints.

tests/mutations.py says what is damaged and how; every batch of it runs in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("resource", reason="limits of memory and time need a POSIX system")

from mutations import BATCHES, SECONDS

ROOT = Path(__file__).resolve().parents[1]
GROWN_MIB = 64  # of memory in use, while the undamaged files need less than one
each_batch = pytest.mark.parametrize("name", [batch.name for batch in BATCHES])


def outcomes(folder: Path, count: int) -> dict[str, dict]:
    # Newer Pythons warn that a fork lacks the threads of its parent. Numpy's wait for matrices, and there are none.
    warnings = ("-W", "error", "-W", "ignore:This process:DeprecationWarning")
    command = [sys.executable, *warnings, str(Path(__file__).with_name("mutations.py")), str(folder), str(count)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {outcome["batch"]: outcome for outcome in map(json.loads, done.stdout.splitlines())}


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    return outcomes(tmp_path_factory.mktemp("mutations"), 1000)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    return outcomes(tmp_path_factory.mktemp("many_mutations"), 20000)


def check(outcome: dict, count: int) -> None:
    assert outcome["ended"] == 0, f"ended by signal {-outcome['ended']} (27: no end within {SECONDS} s)"
    assert (outcome["wrong"], outcome["examples"]) == (0, [])
    assert outcome["printed"] == ""
    assert outcome["grown_mib"] < GROWN_MIB
    assert outcome["refused"] + outcome["returned"] == count
    assert min(outcome["refused"], outcome["returned"]) > count // 100  # the damage is neither idle nor always fatal


@each_batch
def test_a_thousand_damaged_files(thousand: dict[str, dict], name: str):
    check(thousand[name], 1000)


@pytest.mark.slow
@each_batch
def test_many_damaged_files(many: dict[str, dict], name: str):
    check(many[name], 20000)
