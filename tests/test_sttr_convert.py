"""``convert``: a published checkpoint becomes ours, and whatever else lies at the path is one clear line."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stereo import cli
from stereo.checkpoint import load_model, load_published
from stereo.config import SttrConfig, preset
from stereo.model.build import build_model
from stereo.model.sttr.network import Sttr
from stereo.model.sttr.weights import our_names, published_name
from stereo.types import InputError


@pytest.fixture(scope="module")
def model() -> Sttr:
    torch.manual_seed(0)
    return build_model(SttrConfig(faithful=True))


@pytest.fixture(scope="module")
def published(model: Sttr) -> dict[str, Tensor]:
    return as_published(model)


def as_published(model: Sttr) -> dict[str, Tensor]:
    """Our weights under the published names, queries, keys and values stacked."""
    ours = model.state_dict()
    names = dict.fromkeys(published_name(name) for name in ours)
    parts = {name: [ours[part] for part in our_names(name)] for name in names}
    return {name: torch.cat(tensors) if len(tensors) > 1 else tensors[0] for name, tensors in parts.items()}


def write(path: Path, state: dict[str, Any], **more: Any) -> Path:
    torch.save({"epoch": 14, "state_dict": state, "optimizer": {"state": {}}, "lr_scheduler": {"gamma": 0.99}} | more, path)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_published(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_same(first: torch.nn.Module, second: torch.nn.Module) -> None:
    ours, theirs = first.state_dict(), second.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_every_name_of_ours_has_one_published_name(model: Sttr, published: dict[str, Tensor]):
    parts = [part for name in published for part in our_names(name)]
    assert sorted(parts) == sorted(model.state_dict())
    assert len(published) == 303  # CHECKPOINT_KEYS.md


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_published_checkpoint_becomes_ours(model: Sttr, published, tmp_path: Path, legacy: bool):
    """With what is never read: running statistics of old PyTorch, counters of new; and a best score as a numpy number."""
    state = dict(published)
    for name in ("backbone.in_conv.1", "tokenizer.bottle_neck.denselayer1.norm1"):
        state |= {f"{name}.running_mean": torch.zeros(16), f"{name}.running_var": torch.ones(16)}
        state[f"{name}.num_batches_tracked"] = torch.tensor(0)
    path = tmp_path / "kitti_finetuned_model.pth.tar"
    holder = {"epoch": 3, "state_dict": state, "best_pred": np.float64(0.4), "optimizer": {"state": {0: torch.zeros(2)}}}
    torch.save(holder, path, _use_new_zipfile_serialization=not legacy)
    loaded = load_published(path)
    assert loaded.config == SttrConfig(faithful=True)
    assert not loaded.training
    assert_same(loaded, model)


def test_a_light_checkpoint_is_recognised(tmp_path: Path):
    light = build_model(preset("sttr-light"))
    loaded = load_published(write(tmp_path / "light.pth.tar", as_published(light)))
    assert loaded.config == SttrConfig(preset="sttr-light", decoder="quarter", stride=4, growth=16, heads=4, faithful=True)
    assert_same(loaded, light)


def test_other_widths_and_depths_are_read_off(tmp_path: Path):
    config = SttrConfig(channels=64, layers=2, adjust_blocks=3, adjust_channels=8, adjust_expansion=3, faithful=True)
    other = build_model(config)
    loaded = load_published(write(tmp_path / "x.pth.tar", as_published(other)))
    assert loaded.config == config
    assert_same(loaded, other)


def test_unknown_and_missing_names_are_named(published, tmp_path: Path):
    state = dict(published)
    state["backbone.in_conv.9.weight"] = state.pop("backbone.in_conv.0.weight")
    del state["transformer.self_attn_layers.3.self_attn.in_proj_bias"]
    message = refusal(write(tmp_path / "x.pth.tar", state))
    assert "unknown 'backbone.in_conv.9.weight'" in message
    assert "missing 'backbone.in_conv.0.weight', 'transformer.self_attn_layers.3.self_attn.in_proj_bias'" in message


@pytest.mark.parametrize("prefix", ["module.", ""])
def test_names_of_another_program_are_unknown(model: Sttr, published, tmp_path: Path, prefix: str):
    """With a prefix, or already ours."""
    state = {prefix + name: value for name, value in (published if prefix else model.state_dict()).items()}
    message = refusal(write(tmp_path / "x.pth.tar", state))
    assert f"unknown '{next(iter(state))}'" in message
    assert " more; missing 'backbone.in_conv.0.weight'" in message
    assert len(message) < 1500


@pytest.mark.parametrize("value", [torch.zeros(16, 3, 5, 5), torch.zeros(())], ids=["wide", "scalar"])
@pytest.mark.parametrize("name", ["backbone.in_conv.0.weight", "transformer.cross_attn_layers.5.cross_attn.in_proj_weight"])
def test_a_wrong_shape_is_named(published, tmp_path: Path, name: str, value: Tensor):
    message = refusal(write(tmp_path / "x.pth.tar", published | {name: value}))
    assert f"'{name}' gives" in message


class Touch:
    """Unpickling it runs a command."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_checkpoint_executes_nothing(published, tmp_path: Path):
    for number, save in enumerate((torch.save, lambda x, path: path.write_bytes(pickle.dumps(x)))):
        path, trace = tmp_path / f"{number}.pth.tar", tmp_path / "trace"
        save({"state_dict": dict(published), "optimizer": Touch(trace)}, path)
        assert "cannot be read" in refusal(path)
        assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "blamed"),
    [
        (lambda path: path.write_bytes(b"not a pickle"), "cannot be read"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: torch.save({"epoch": 1}, path), "no table of tensors called 'state_dict'"),
        (lambda path: torch.save([1, 2], path), "no table of tensors called 'state_dict'"),
        (lambda path: torch.save({"state_dict": {}}, path), "no table of tensors called 'state_dict'"),
        (lambda path: torch.save({"state_dict": {"a": 1}}, path), "no table of tensors called 'state_dict'"),
        (lambda path: torch.save({"state_dict": {3: torch.zeros(1)}}, path), "no table of tensors called 'state_dict'"),
        (lambda path: torch.save({"state_dict": {"a": torch.zeros(1)}}, path), "unknown 'a'; missing 'backbone.in_conv"),
        (lambda path: path.mkdir(), "does not exist"),
        (lambda path: None, "does not exist"),
    ],
)
def test_other_files_are_one_line(tmp_path: Path, content: Callable[[Path], Any], blamed: str):
    path = tmp_path / "x.pth.tar"
    content(path)
    assert blamed in refusal(path)


def test_the_verb(model: Sttr, published, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = write(tmp_path / "sceneflow.pth.tar", published)
    assert cli.main(["convert", str(source), "-o", str(tmp_path / "out" / "sttr.safetensors"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert Path(result["weights"]).parent == tmp_path / "out"
    assert Path(result["weights"]).name.startswith("sttr-")
    assert_same(load_model(result["weights"], "cpu"), model)
    card = json.loads(Path(result["weights"]).with_suffix(".card.json").read_text())
    assert card["converted_from"] == "sceneflow.pth.tar"

    assert cli.main(["convert", str(tmp_path / "nothing"), "-o", str(tmp_path / "x")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
