"""Weights and training states: what is written comes back; whatever else lies at the path is one clear line."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save as serialise
from torch import Tensor

import stereo
from stereo import checkpoint
from stereo.checkpoint import load_model, load_state, save_state, save_weights
from stereo.config import preset, to_dict
from stereo.model.build import build_model
from stereo.model.stereo_model import StereoModel
from stereo.types import InputError


@pytest.fixture(scope="module")
def model() -> StereoModel:
    torch.manual_seed(0)
    return build_model("tiny").eval()


@pytest.fixture(scope="module")
def tensors(model: StereoModel) -> dict[str, Tensor]:
    return {name: value.contiguous() for name, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def config() -> str:
    return json.dumps(to_dict(preset("tiny")))


def state_of(network: StereoModel, /, **changes: Any) -> dict[str, Any]:
    return {"recipe": {"model": to_dict(network.config)}, "model": network.state_dict(), "step": 7, **changes}


def refusal(function: Callable[[], Any]) -> str:
    """The message of the InputError that ``function`` raises; it must be one line."""
    with pytest.raises(InputError) as caught:
        function()
    message = str(caught.value)
    assert "\n" not in message
    return message


def assert_same_network(loaded: StereoModel, model: StereoModel) -> None:
    assert loaded.config == model.config
    assert not loaded.training
    expected = model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
    images = torch.rand(2, 1, 3, 32, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, theirs = loaded.cpu()(*images), model(*images)
    for name in ("disp", "occlusion_logits", "confidence_logits", "disp_coarse"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name))


# ---------------------------------------------------------------------------------------------------------------------
# Weights


def test_weights_come_back_and_predict_the_same(model: StereoModel, tmp_path: Path):
    path = save_weights(model, tmp_path, "tiny", {"data": "generated", "steps": 3})
    assert path.parent == tmp_path
    assert path.name == f"tiny-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.safetensors"
    assert sorted(tmp_path.iterdir()) == [path.with_suffix(".card.json"), path]
    assert_same_network(load_model(path, "cpu"), model)
    assert_same_network(load_model(str(path)), model)
    card = json.loads(path.with_suffix(".card.json").read_text(encoding="utf-8"))
    assert card == {"weights": path.name, "version": stereo.__version__, "data": "generated", "steps": 3}


def test_a_network_in_training_or_with_another_shape_comes_back(tmp_path: Path):
    """The config comes from the file, not from a preset's name; parameters in channels_last are stored plainly."""
    torch.manual_seed(1)
    other = build_model(replace(preset("tiny"), layers=1, attention="dense")).to(memory_format=torch.channels_last).train()
    path = save_weights(other, tmp_path, "x")
    assert_same_network(load_model(path, "cpu"), other.to(memory_format=torch.contiguous_format))


def test_other_weights_have_another_name(model: StereoModel, tmp_path: Path):
    torch.manual_seed(5)
    assert save_weights(build_model("tiny"), tmp_path, "tiny") != save_weights(model, tmp_path, "tiny")


def test_the_same_weights_have_the_same_name(model: StereoModel, tmp_path: Path):
    names = {save_weights(model, tmp_path, "tiny", {"a": 1, "b": 2}) for _ in range(8)}
    assert len(names) == 1


def break_tensor(tensors: dict[str, Tensor], change: str) -> dict[str, Tensor]:
    tensors = dict(tensors)
    if change == "missing":
        del tensors["matching.dustbin.bias"]
    elif change == "extra":
        tensors["matching.extra"] = torch.zeros(3)
    else:
        tensors["matching.dustbin.bias"] = torch.zeros(2)
    return tensors


@pytest.mark.parametrize(
    ("change", "blamed"),
    [
        ("missing", "'matching.dustbin.bias': got nothing, expected (1,)"),
        ("extra", "'matching.extra': got (3,), expected nothing"),
        ("shape", "'matching.dustbin.bias': got (2,), expected (1,)"),
    ],
)
@pytest.mark.parametrize("kind", ["weights", "checkpoint"])
def test_wrong_tensors_are_named(model: StereoModel, tensors, config: str, tmp_path: Path, change, blamed, kind: str):
    broken = break_tensor(tensors, change)
    path = tmp_path / ("a.safetensors" if kind == "weights" else "checkpoint.pt")
    if kind == "weights":
        path.write_bytes(serialise(broken, {"config": config}))
    else:
        save_state(path, state_of(model, model=broken))
    message = refusal(lambda: load_model(path, "cpu"))
    assert blamed in message
    assert "1 tensors differ" in message
    assert str(path) in message


@pytest.mark.parametrize(
    ("metadata", "blamed"),
    [
        ({}, "hold no config"),
        (None, "hold no config"),
        ({"config": '{"channel": 32}'}, "did you mean channels"),
        ({"config": '{"channels": "wide"}'}, "expected int"),
        ({"config": '{"attention": "sparse"}'}, "unknown attention"),
        ({"config": '{"channels": 30}'}, "expected a multiple of 4"),
        ({"config": '{"channels": '}, "config"),
        ({"config": "[1, 2]"}, "config"),
        ({"config": '{"heads": 0}'}, "heads"),
    ],
)
def test_weights_without_a_usable_config(tensors: dict[str, Tensor], tmp_path: Path, metadata, blamed: str):
    path = tmp_path / "a.safetensors"
    path.write_bytes(serialise(tensors, metadata))
    assert blamed in refusal(lambda: load_model(path, "cpu"))


@pytest.mark.parametrize("keep", [0, 3, 8, 1000, -1])
def test_truncated_weights(model: StereoModel, tmp_path: Path, keep: int):
    path = save_weights(model, tmp_path, "tiny")
    path.write_bytes(path.read_bytes()[:keep])
    assert str(path) in refusal(lambda: load_model(path, "cpu"))


@pytest.mark.parametrize("name", ["nothing.safetensors", "nothing.pt", ".", "text.safetensors", "text.pt", "text.jpg"])
def test_what_is_no_file_of_ours(tmp_path: Path, name: str):
    if name.startswith("text"):
        (tmp_path / name).write_text("# just a text, long enough to hold a header\n" * 9)
    assert str(tmp_path) in refusal(lambda: load_model(tmp_path / name, "cpu"))


def test_an_unavailable_gpu_is_refused(model: StereoModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "--device cpu" in refusal(lambda: load_model(save_weights(model, tmp_path, "tiny"), "cuda"))


def test_an_unknown_device_is_refused(model: StereoModel, tmp_path: Path):
    assert "gpu" in refusal(lambda: load_model(save_weights(model, tmp_path, "tiny"), "gpu"))


@pytest.mark.parametrize("count", [0, 1, 2])
def test_the_default_weights_are_the_only_ones(model: StereoModel, tmp_path: Path, monkeypatch, count: int):
    monkeypatch.setattr(checkpoint, "WEIGHTS_DIR", tmp_path)
    for other in (model, build_model("tiny"))[:count]:
        save_weights(other, tmp_path, "small")
    if count == 1:
        assert_same_network(load_model(device="cpu"), model)
    else:
        assert f"holds {count} files" in refusal(load_model)


# ---------------------------------------------------------------------------------------------------------------------
# Training states


def test_a_state_comes_back(model: StereoModel, tmp_path: Path):
    path = tmp_path / "checkpoint.pt"
    optimizer = {"state": {0: torch.arange(3.0)}, "betas": (0.9, 0.999)}
    extra = {"optimizer": optimizer, "random": torch.get_rng_state()}
    save_state(path, state_of(model, **extra))
    state = load_state(path)
    assert state["step"] == 7
    assert state["optimizer"]["betas"] == (0.9, 0.999)
    assert torch.equal(state["optimizer"]["state"][0], torch.arange(3.0))
    assert torch.equal(state["random"], extra["random"])
    assert_same_network(load_model(path, "cpu"), model)


def zipped(state: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


GARBAGE = {
    "zeros": bytes(1000),
    "start of a zip": b"PK\x03\x04" + bytes(60),
    "pickled number": pickle.dumps(3, protocol=2),
    "pickled list": pickle.dumps([1, 2], protocol=2),
    "not a dict": zipped([1, 2]),
    "another program's": zipped({"state_dict": {}, "epoch": 3}),
}
# What torch.load lets out besides the errors that load_state expects.
LEAKS = {
    "empty": b"",  # EOFError without a text: splitlines()[0] is an IndexError
    "text": b"hello, this is not a checkpoint\n",  # KeyError
    "stack underflow": b"\x80\x02a.",  # IndexError
    "unknown memo": b"\x80\x02h\x07.",  # KeyError
    "cut in an argument": b"\x80\x02j",  # struct.error
}


@pytest.mark.parametrize(
    "content",
    [
        *(pytest.param(content, id=name) for name, content in GARBAGE.items()),
        *(pytest.param(content, id=name) for name, content in LEAKS.items()),
    ],
)
def test_garbage_is_no_state(tmp_path: Path, content: bytes):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    for load in (load_state, load_model):
        assert str(path) in refusal(lambda load=load: load(path))


@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_a_truncated_state(model: StereoModel, tmp_path: Path, share: float):
    path = tmp_path / "checkpoint.pt"
    save_state(path, state_of(model))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert str(path) in refusal(lambda: load_state(path))


@pytest.mark.parametrize("changes", [{"recipe": {}}, {"recipe": 3}, {"model": 3}, {"model": {"a": 1}}], ids=str)
def test_a_state_with_other_insides_is_no_network(model: StereoModel, tmp_path: Path, changes: dict):
    path = tmp_path / "checkpoint.pt"
    save_state(path, state_of(model, **changes))
    assert str(path) in refusal(lambda: load_model(path, "cpu"))


class Trap:
    """Unpickling it creates a file: what a hostile checkpoint would do with any command."""

    def __init__(self, proof: Path):
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


def pickled(state: Any) -> bytes:
    return pickle.dumps(state, protocol=2)


@pytest.mark.parametrize("wrap", [pickled, zipped], ids=["pickle", "zip"])
def test_a_state_executes_nothing(model: StereoModel, tmp_path: Path, wrap: Callable[[Any], bytes]):
    proof, path = tmp_path / "executed", tmp_path / "checkpoint.pt"
    path.write_bytes(wrap(state_of(model, recipe=Trap(proof))))
    assert str(path) in refusal(lambda: load_state(path))
    assert not proof.exists()
    with path.open("rb") as file:  # the trap does snap where pickles are trusted
        torch.load(file, weights_only=False) if wrap is zipped else pickle.load(file)
    assert proof.is_dir()


# ---------------------------------------------------------------------------------------------------------------------
# Writing


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=["Ctrl-C", "disk full"])
@pytest.mark.parametrize("what", ["weights", "state"])
def test_an_interrupted_write_leaves_nothing(model: StereoModel, tmp_path: Path, monkeypatch, error, what: str):
    old = tmp_path / "checkpoint.pt"
    save_state(old, state_of(model))
    before = old.read_bytes()

    def fail(*_):
        raise error

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises((KeyboardInterrupt, OSError, InputError)):
        save_weights(model, tmp_path, "tiny") if what == "weights" else save_state(old, state_of(model, step=8))
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == [old]
    assert old.read_bytes() == before
    assert load_state(old)["step"] == 7


def test_a_missing_folder_is_one_line(model: StereoModel, tmp_path: Path):
    folder = tmp_path / "missing"
    assert str(folder) in refusal(lambda: save_weights(model, folder, "tiny"))
    assert str(folder) in refusal(lambda: save_state(folder / "checkpoint.pt", {}))
    assert not folder.exists()
