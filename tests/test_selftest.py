"""``selftest``: a path that is wrong is found and named, so is a machine whose reference is wrong; bad input is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stereo import selftest as testing
from stereo.checkpoint import default_weights, save_weights
from stereo.cli import main
from stereo.config import PRESETS
from stereo.kernels import matmul
from stereo.model.build import build_model
from stereo.selftest import LIMITS, golden_file, golden_pair, pair_sha256


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    torch.manual_seed(0)
    network = build_model(replace(PRESETS["tiny"], layers=1))
    return str(save_weights(network, tmp_path_factory.mktemp("weights"), "tiny"))


@pytest.fixture
def short(monkeypatch):
    """Two paths on a small pair, and what is not to be had."""
    every = testing._paths
    wanted = ("matmul", "triton", "compiled", "onnx")
    monkeypatch.setattr(testing, "SIZE", (64, 192))
    monkeypatch.setattr(testing, "_paths", lambda *given: (path for path in every(*given) if path[0] in wanted))


def verdicts(capsys, *argv: str, code: int) -> dict[str, dict]:
    capsys.readouterr()
    assert main(["selftest", "--device", "cpu", "--json", *argv]) == code
    result = json.loads(capsys.readouterr().out)
    assert result["failed"] == [path["path"] for path in result["paths"] if path["failed"]]
    return {path["path"]: path for path in result["paths"]}


def test_what_ran_and_what_did_not_is_told(short, weights, capsys):
    found = verdicts(capsys, "--weights", weights, code=0)
    assert list(found) == ["reference", "golden", "matmul", "triton", "compiled", "onnx"]
    assert found["matmul"]["why_not"] == "" and found["matmul"]["largest_px"] < 0.05 and found["matmul"]["seconds"] > 0
    assert found["triton"]["why_not"] == "it is for CUDA devices"
    assert "--all" in found["compiled"]["why_not"]
    assert "no disparities are stored" in found["golden"]["why_not"]
    assert main(["selftest", "--device", "cpu", "--weights", weights]) == 0
    assert "all paths that ran are right" in capsys.readouterr().out


def test_a_kernel_that_is_off_by_one_is_found(short, weights, capsys, monkeypatch):
    right = matmul.gather_scores
    monkeypatch.setattr(matmul, "gather_scores", lambda q, k, at: right(q, k, (at + 1).clamp(max=k.shape[2] - 1)))
    found = verdicts(capsys, "--weights", weights, code=1)
    assert [name for name, path in found.items() if path["failed"]] == ["matmul"]
    assert found["matmul"]["over_share"] > LIMITS["matmul"][1]


def test_a_path_that_raises_or_gives_nan_is_found(short, weights, capsys, monkeypatch):
    def broken(*_):
        raise RuntimeError("illegal\ninstruction")

    right = matmul.gather_values
    monkeypatch.setattr(matmul, "gather_values", broken)
    assert verdicts(capsys, "--weights", weights, code=1)["matmul"]["why_not"] == "failed: illegal instruction"
    monkeypatch.setattr(matmul, "gather_values", lambda *given: right(*given) * float("nan"))
    found = verdicts(capsys, "--weights", weights, code=1)["matmul"]
    assert found["failed"]


def test_a_reference_that_is_wrong_on_this_machine_is_found(short, weights, capsys, monkeypatch, tmp_path):
    from stereo.checkpoint import load_model

    stored = tmp_path / "golden.json"
    facts = testing.golden_facts(load_model(weights, "cpu"), "tiny")
    assert np.shape(facts["disparity_px"]) == (4, 12)
    monkeypatch.setattr(testing, "golden_file", lambda name: stored)
    stored.write_text(json.dumps(facts))
    assert verdicts(capsys, "--weights", weights, code=0)["golden"]["largest_px"] <= 0.0006  # three digits are stored
    facts["disparity_px"][2][5] += 0.06  # one of 48 is 2.1 %
    stored.write_text(json.dumps(facts))
    assert verdicts(capsys, "--weights", weights, code=1)["golden"]["failed"]


def test_the_stored_disparities_are_those_of_the_shipped_weights():
    facts = json.loads(golden_file(default_weights().name).read_text())
    assert facts["weights"] == default_weights().name, "other weights are shipped: run python -m experiments.golden"
    assert facts["pair"]["sha256"] == pair_sha256(golden_pair())
    assert np.shape(facts["disparity_px"]) == (20, 32) and facts["grid"] == 16


def test_a_share_is_counted_by_hand():
    wanted = np.zeros((10, 100))
    found = wanted.copy()
    found[0, :3] = 0.06, np.nan, -0.07
    found[1, 0] = 0.04
    verdict = testing._compare("cpp", found, wanted, None)
    assert verdict.over_share == 0.003 and verdict.failed
    found[0, 0] = 0
    assert not testing._compare("cpp", found, wanted, None).failed


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--weights", "none.safetensors"], "'none.safetensors' do not exist"),
        (["--weights", "text.onnx"], "'text.onnx' cannot be read"),
        (["--weights", "."], "'.' do not exist"),
        (["--device", "gpu"], "expected cpu, cuda or cuda:N"),
        (["--onnx", "none.onnx"], "'none.onnx' does not exist or is no file"),
        (["--onnx", "."], "'.' does not exist or is no file"),
        (["--onnx"], "expected one argument"),
        (["--all", "yes"], "unrecognized arguments: yes"),
        (["--every"], "unrecognized arguments: --every"),
        (["left.png", "right.png"], "unrecognized arguments: left.png right.png"),
    ],
)
def test_bad_input_gets_one_line(tmp_path, capsys, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.onnx").write_text("no network")
    assert main(["selftest", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and len(captured.err.splitlines()) == 1 and message in captured.err
    assert [path.name for path in tmp_path.iterdir()] == ["text.onnx"]


def test_a_file_that_is_no_onnx_is_refused(tmp_path, capsys):
    pytest.importorskip("onnxruntime", reason="onnxruntime cannot be imported: pip install -r requirements-dev.txt")
    file = tmp_path / "text.onnx"
    file.write_text("no network")
    assert main(["selftest", "--onnx", str(file)]) == 2
    assert "onnxruntime cannot read" in capsys.readouterr().err


@pytest.mark.slow
def test_every_path_of_this_machine_with_the_shipped_weights(capsys):
    found = verdicts(capsys, code=0)
    assert {"cpp", "matmul", "bands", "blocks"} <= set(found)
    assert Path(default_weights()).is_file() and found["golden"]["why_not"] == ""
