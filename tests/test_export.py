"""``export``: the file computes what the network computes at any size, says what it is, and is not kept when it does not."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.procedural.dataset import render_sample
from stereo import export as exporting
from stereo.checkpoint import load_model, save_weights
from stereo.cli import main
from stereo.config import PRESETS
from stereo.export import LIMIT_PX, OPSET, least_width, open_onnx, pair_of, parity, reference_maps
from stereo.image_io import write_image
from stereo.inference.predictor import StereoPredictor
from stereo.model.build import build_model
from stereo.types import StoppedError

ROOT = Path(__file__).resolve().parents[1]
pytest.importorskip("onnx", reason="onnx cannot be imported: pip install -r requirements-dev.txt")
pytest.importorskip("onnxruntime", reason="onnxruntime cannot be imported: pip install -r requirements-dev.txt")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    torch.manual_seed(0)
    network = build_model(replace(PRESETS["tiny"], layers=1))
    return str(save_weights(network, tmp_path_factory.mktemp("weights"), "tiny"))


@pytest.fixture(scope="module")
def exported(weights, tmp_path_factory) -> Path:
    """Made once: tracing takes seconds."""
    file = tmp_path_factory.mktemp("exported") / "tiny.onnx"
    assert main(["export", "--weights", weights, "-o", str(file), "--size", "160x256"]) == 0
    return file


@pytest.fixture
def made_before(exported, monkeypatch):
    """Tracing is skipped: what it would write is copied."""
    monkeypatch.setattr(exporting, "write_onnx", lambda maps, size, facts, path: shutil.copyfile(exported, path))


def refused(capsys, *argv: str, code: int = 2) -> str:
    capsys.readouterr()
    assert main(argv) == code
    captured = capsys.readouterr()
    assert captured.out == "" and len(captured.err.splitlines()) == 1, captured.err
    return captured.err


def test_the_file_says_what_it_is_and_uses_standard_operators(exported, weights):
    import onnx

    file = onnx.load(str(exported))
    onnx.checker.check_model(file, full_check=True)
    assert [(x.domain, x.version) for x in file.opset_import] == [("", OPSET)]
    assert {node.domain for node in file.graph.node} == {""}
    assert {"TopK", "GatherElements"} <= {node.op_type for node in file.graph.node}
    sizes = {x.name: [d.dim_param or d.dim_value for d in x.type.tensor_type.shape.dim] for x in file.graph.input}
    assert sizes == {name: [1, 3, "height", "width"] for name in ("left", "right")}
    assert [x.name for x in file.graph.output] == ["disparity", "occlusion", "confidence"]
    facts = {x.key: x.value for x in file.metadata_props}
    assert facts["weights"] == Path(weights).name and len(facts["weights_sha256"]) == 64
    assert (facts["granularity"], facts["min_width"], facts["opset"]) == ("16", "192", str(OPSET))
    assert facts["disparity_sign"].startswith("x_right = x_left - disparity")


@pytest.mark.parametrize("size", [(16, 192), (208, 240)])
def test_sizes_that_were_neither_traced_nor_checked(exported, weights, size):
    """All three maps against the network as it is used; a pair as photographed and one of noise."""
    network, run = load_model(weights, "cpu"), open_onnx(exported)
    rng = np.random.default_rng(0)
    for pair in (pair_of(size), tuple(rng.random((1, 3, *size), np.float32) for _ in range(2))):
        with torch.no_grad():
            wanted = network(*map(torch.from_numpy, pair))
        disparity, occlusion, confidence = run(*pair)
        assert disparity.dtype == np.float32 and disparity.shape == (1, *size)
        np.testing.assert_allclose(disparity, wanted.disp.numpy(), atol=1e-3)
        np.testing.assert_allclose(occlusion, wanted.occlusion.numpy(), atol=1e-4)
        np.testing.assert_allclose(confidence, wanted.confidence.numpy(), atol=1e-4)


def test_the_least_width_holds_the_keys_of_every_level(weights):
    """By hand. tiny: K = 6 of 4 levels needs six nodes of 8 tokens, 41; K = 12 of 3 levels twelve of 4, 45 tokens: 192 px.
    small: K = 8 of 4 levels needs 57 tokens: 240 px."""
    assert least_width(load_model(weights, "cpu")) == 192
    assert least_width(build_model("small")) == 240


def test_the_script_needs_no_torch_and_gives_what_infer_gives(exported, weights, tmp_path):
    sample = render_sample(3, 0, 70, 250)  # sides that have to be padded
    for name, image in (("left.png", sample.left), ("right.png", sample.right)):
        write_image(tmp_path / name, image)
    blocked = "import sys, runpy; sys.modules['torch'] = sys.modules['stereo'] = None; sys.argv = sys.argv[1:]; "
    blocked += "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", blocked, str(ROOT / "docs" / "run_onnx.py")]
    arguments = [str(exported), "left.png", "right.png", "out"]
    done = subprocess.run([*command, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wanted = StereoPredictor(load_model(weights, "cpu"), precision="fp32").predict(sample.left, sample.right)
    found = np.load(tmp_path / "out.npy")
    assert found.shape == (70, 250)
    np.testing.assert_allclose(found, wanted.disp, atol=1e-3)
    assert (tmp_path / "out.png").is_file()
    done = subprocess.run([*command, str(exported), "none.png", *arguments[2:]], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "error: 'none.png' is missing" in done.stderr


def test_json_and_lines_tell_the_parity_at_two_sizes(made_before, weights, tmp_path, capsys):
    argv = ["export", "--weights", weights, "-o", str(tmp_path / "new" / "a.onnx"), "--size", "32x256"]
    assert main([*argv, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["parity"]
    assert [(row["height"], row["width"], row["traced"]) for row in rows] == [(112, 336, True), (32, 256, False)]
    assert all(0 < row["mean_px"] < row["largest_px"] <= LIMIT_PX for row in rows)
    assert main(argv) == 0
    text = capsys.readouterr().out
    assert f"opset {OPSET}" in text and "32x256 px (not traced): mean " in text


def changed(exported: Path, path: Path) -> None:
    """The file with a hundredth added to the bias of the last correction of the disparity: in half-size px."""
    import onnx

    file = onnx.load(str(exported))
    names = {alias.output[0]: alias.input[0] for alias in file.graph.node if alias.op_type == "Identity"}
    last = next(n for n in file.graph.node if n.op_type == "Conv" and n.input[1].endswith("sharpen.residual.weight"))
    bias = next(x for x in file.graph.initializer if x.name == names.get(last.input[2], last.input[2]))
    values = onnx.numpy_helper.to_array(bias) + np.float32(0.05)
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    onnx.save(file, str(path))


def test_a_file_with_other_weights_is_refused_and_not_kept(exported, weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(exporting, "write_onnx", lambda maps, size, facts, path: changed(exported, path))
    line = refused(capsys, "export", "--weights", weights, "-o", str(tmp_path / "new" / "a.onnx"), code=1)
    assert "px from the network" in line and "allowed are 0.05 px" in line
    assert not list(tmp_path.iterdir())


def test_maps_that_are_nan_or_of_another_shape_are_refused(weights):
    maps = reference_maps(load_model(weights, "cpu"))
    size = (32, 192)
    with pytest.raises(StoppedError, match="nan px from the network"):
        parity(maps, lambda left, right: (np.full((1, *size), np.nan, np.float32),), [size], size)
    with pytest.raises(StoppedError, match="shape"):
        parity(maps, lambda left, right: (np.zeros((1, 16, 192), np.float32),), [size], size)
    with pytest.raises(StoppedError, match="does not run at 32x192 px"):
        parity(maps, lambda left, right: 1 / 0, [size], size)


def test_without_onnxruntime_only_no_check_writes_and_says_so(made_before, weights, tmp_path, capsys, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else found(name))
    argv = ["export", "--weights", weights, "-o", str(tmp_path / "new" / "a.onnx")]
    line = refused(capsys, *argv)
    assert 'onnxruntime cannot be imported; install what export needs: pip install "quadtree-stereo[export]"' in line
    assert not list(tmp_path.iterdir())
    assert main([*argv, "--no-check"]) == 0
    assert "not checked" in capsys.readouterr().out
    assert (tmp_path / "new" / "a.onnx").is_file()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--format", "onx"], "got format 'onx', expected one of onnx, torch; did you mean onnx?"),
        (["--format", "torch", "-o", "new/a.onnx"], "expected one in .pt2 for --format torch"),
        (["-o", "new/a.pt2"], "expected one in .onnx for --format onnx"),
        (["--size", "0x256"], "got size 0x256, expected HxW in multiples of 16 px"),
        (["--size", "100x256"], "got size 100x256, expected HxW in multiples of 16 px from 16x192"),
        (["--size", "96x176"], "got size 96x176"),
        (["--size", "96x10000"], "to 8192x8192"),
        (["--size", "big"], "got the size 'big'"),
        (["--size=-96x256"], "got the size '-96x256'"),
        (["--size"], "expected at least one argument"),
        (["--weights", "none.safetensors"], "'none.safetensors' do not exist"),
        (["-o", "left.png/a.onnx"], "cannot create the output folder 'left.png'"),
        (["-o", "folder.onnx"], "it exists and is not a regular file"),
        (["--opset", "9"], "unrecognized arguments: --opset"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_nothing(made_before, weights, tmp_path, capsys, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "left.png", np.zeros((40, 48, 3), np.uint8))
    (tmp_path / "folder.onnx").mkdir()
    given = [] if "--weights" in argv else ["--weights", weights]
    assert message in refused(capsys, "export", *given, *argv)
    assert {path.name for path in tmp_path.rglob("*")} == {"left.png", "folder.onnx"}


@pytest.mark.parametrize("config", [PRESETS["sttr-light"], replace(PRESETS["tiny"], position="relative")])
def test_networks_with_tables_of_the_width_are_refused(tmp_path, capsys, config):
    file = save_weights(build_model(config), tmp_path, "other")
    before = set(tmp_path.iterdir())
    line = refused(capsys, "export", "--weights", str(file), "-o", str(tmp_path / "new" / "a.onnx"))
    assert "cannot be exported" in line and "tables as wide as the image" in line
    assert set(tmp_path.iterdir()) == before


@pytest.mark.slow
def test_a_program_of_torch_export(weights, tmp_path, capsys):
    target = tmp_path / "tiny.pt2"
    assert main(["export", "--weights", weights, "--format", "torch", "-o", str(target), "--size", "96x224", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["parity"]
    assert [row["traced"] for row in rows] == [True, False]
    extra = {"facts.json": ""}
    program = torch.export.load(str(target), extra_files=extra)
    assert json.loads(extra["facts.json"])["granularity"] == "32"
    with pytest.raises((RuntimeError, AssertionError)):
        program.module()(torch.zeros(1, 3, 100, 224), torch.zeros(1, 3, 100, 224))
