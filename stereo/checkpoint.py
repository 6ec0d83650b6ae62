"""Files that hold a network: weights as safetensors with the config inside, training states as PyTorch files."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import nn

from stereo.config import AnyModelConfig, model_config, to_dict
from stereo.files import atomic_write, sync_folder
from stereo.model.build import Network, build_model
from stereo.model.sttr.network import Sttr
from stereo.model.sttr.weights import convert_names, guess_config
from stereo.types import InputError
from stereo.version import __version__

log = logging.getLogger(__name__)

NUMPY_SCALAR = np.float64(0).__reduce__()[0]  # the function has moved between versions of numpy
WEIGHTS_DIR = Path(__file__).parent / "weights"


def save_weights(model: Network, folder: Path, name: str, card: dict[str, Any] | None = None) -> Path:
    """Write ``folder/name-<first 8 hex digits of its sha256>.safetensors`` and return the path.

    card: where the weights come from; written beside them as ``.card.json``. Equal weights give an equal name.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    # One metadata key only: safetensors writes several in a random order, and the name would change with it.
    data = serialise(tensors, {"config": json.dumps(to_dict(model.config))})
    path = Path(folder) / f"{name}-{hashlib.sha256(data).hexdigest()[:8]}.safetensors"
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)
    with atomic_write(path.with_suffix(".card.json")) as temporary:
        facts = {"weights": path.name, "version": __version__} | (card or {})
        temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return path


def default_weights() -> Path:
    """The weights that ship with the package. Raises InputError when there are none or more than one."""
    found = sorted(WEIGHTS_DIR.glob("small-*.safetensors"))
    if len(found) != 1:
        raise InputError(f"the package holds {len(found)} files small-*.safetensors, expected 1: reinstall, or give --weights")
    return found[0]


def available_device(given: str | torch.device | None) -> torch.device:
    """What a name stands for; None means a GPU when there is one. Raises InputError unless it is there."""
    try:
        device = torch.device(given or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise InputError(f"got device '{given}', expected cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"got device '{device}', but PyTorch sees no CUDA GPU here; use --device cpu")
    return device


def load_model(weights: str | Path | None = None, device: str | torch.device | None = None) -> Network:
    """A network in evaluation mode with its weights: a .safetensors file, or a run folder's checkpoint.pt.

    weights None means the ones that ship with the package. device None means a GPU when there is one.
    Raises InputError for a missing or damaged file, weights that do not match their config, or an unavailable device.
    """
    path = default_weights() if weights is None else Path(weights)
    device = available_device(device)
    if not path.is_file():
        raise InputError(f"weights '{path}' do not exist; expected a .safetensors file or a run's checkpoint.pt")
    config, tensors = _read_state(path) if path.suffix == ".pt" else _read_safetensors(path)
    model = build_model(config)
    _load_strictly(model, tensors, path)
    return model.to(device).eval()


def _read_safetensors(path: Path) -> tuple[AnyModelConfig, dict[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        digits = re.fullmatch(r".*-([0-9a-f]{8})", path.stem)
        if digits and digits[1] != hashlib.sha256(path.read_bytes()).hexdigest()[:8]:
            raise InputError(f"weights '{path}' are damaged: their sha256 does not begin with {digits[1]}; copy them again")
    except (SafetensorError, OSError) as error:
        raise InputError(f"weights '{path}' cannot be read ({error}); expected a .safetensors file of this program") from None
    if "config" not in metadata:
        raise InputError(f"weights '{path}' hold no config; expected a file written by this program (see 'convert' for others)")
    try:
        config = json.loads(metadata["config"])
    except json.JSONDecodeError as error:
        raise InputError(f"weights '{path}': the config inside is not JSON ({error})") from None
    return model_config(config, f"config inside '{path}'"), tensors


def _read_state(path: Path) -> tuple[AnyModelConfig, dict[str, torch.Tensor]]:
    state = load_state(path)
    recipe, tensors = state["recipe"], shipped_weights(state)
    if not isinstance(recipe, dict) or not isinstance(tensors, dict) or not all(map(torch.is_tensor, tensors.values())):
        raise InputError(f"'{path}' is not a checkpoint of a training run of this program")
    return model_config(recipe.get("model"), f"config inside '{path}'"), tensors


def load_published(path: str | Path) -> Sttr:
    """A network from a checkpoint of the public STTR code (``*.pth.tar``) with its quirks kept: ``faithful`` is on.

    Raises InputError when the file is missing, damaged, holds more than data, or when names are unknown or missing.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"checkpoint '{path}' does not exist")
    # A best score kept as a numpy number; both only make numbers out of bytes.
    numbers: list[Any] = [np.dtype, type(np.dtype("f4")), type(np.dtype("f8"))]
    numbers += [(NUMPY_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    try:
        with torch.serialization.safe_globals(numbers):
            holder = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle makes torch.load raise nearly anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"checkpoint '{path}' cannot be read ({reason}); it is damaged or holds more than data") from None
    state = holder.get("state_dict") if isinstance(holder, dict) else None
    if not isinstance(state, dict) or not state or not all(isinstance(k, str) and torch.is_tensor(v) for k, v in state.items()):
        raise InputError(f"'{path}' is not a published STTR checkpoint: it has no table of tensors called 'state_dict'")
    model = build_model(guess_config(state))
    assert isinstance(model, Sttr)
    model.load_state_dict(convert_names(state, model.state_dict(), str(path)))
    return model.eval()


def shipped_weights(state: dict[str, Any]) -> Any:
    """Of a training state: the average of the weights where the run has one, else the weights themselves."""
    average = state.get("ema")
    return average.get("weights") if isinstance(average, dict) else state["model"]


def initialise(model: Network, weights: str | Path, fresh: Sequence[str] = ()) -> None:
    """Give ``model`` the weights of a file, to go on training with: those that ``load_model`` reads.

    fresh: tensors whose names begin with one of these keep what the model has, so that a trained network can grow a part.
    Settings that change no tensor may differ between file and model (K, for example); each is named in the log.
    Raises InputError, naming what does not fit, when a tensor is missing, left over, or of another shape, and for an entry
    of ``fresh`` that no tensor of the model begins with.
    """
    path = Path(weights)
    if path.name.endswith((".pth.tar", ".pth", ".ckpt")):
        raise InputError(f"'{path}' is not a file of this program; turn it into one with 'convert {path}', and name that one")
    given = load_model(path, "cpu")
    own, theirs = to_dict(model.config), to_dict(given.config)
    differing = [f"{key} {theirs.get(key)} (now {own.get(key)})" for key in theirs | own if theirs.get(key) != own.get(key)]
    expected = model.state_dict()
    for start in fresh:
        if not any(key.startswith(start) for key in expected):
            parts = ", ".join(name for name, _ in model.named_children())
            raise InputError(f"train.fresh: no tensor begins with '{start}'; the model's parts are {parts}")
    if fresh:
        count = sum(key.startswith(tuple(fresh)) for key in expected)
        log.warning("%d of %d tensors start anew: %s", count, len(expected), ", ".join(fresh))
    tensors, expected = (
        {key: value for key, value in state.items() if not key.startswith(tuple(fresh))}
        for state in (given.state_dict(), expected)
    )
    wrong = [key for key in tensors | expected if _shape(tensors, key) != _shape(expected, key)]
    if wrong:
        listed = "; ".join(f"'{key}' {_shape(tensors, key)} (wanted: {_shape(expected, key)})" for key in wrong[:3])
        raise InputError(
            f"the weights '{path}' do not fit the [model] of the recipe: {len(wrong)} tensors differ, {listed}; "
            f"settings that differ: {', '.join(differing) or 'none'}"
        )
    if differing:
        log.warning("'%s' was trained with other settings: %s", path, ", ".join(differing))
    model.load_state_dict(tensors, strict=False)  # all that is missing is fresh


def _shape(tensors: dict[str, torch.Tensor], key: str) -> str:
    return str(tuple(tensors[key].shape)) if key in tensors else "absent"


def _load_strictly(model: nn.Module, tensors: dict[str, torch.Tensor], path: Path) -> None:
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in tensors.items()}
    wrong = sorted(key for key in expected.keys() | given.keys() if expected.get(key) != given.get(key))
    if wrong:
        key = wrong[0]
        raise InputError(
            f"weights '{path}' do not match their config: {len(wrong)} tensors differ, the first is '{key}': "
            f"got {given.get(key, 'nothing')}, expected {expected.get(key, 'nothing')}; "
            "take the version of this program that wrote them, or other weights"
        )
    model.load_state_dict(tensors)


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a training state: tensors, numbers, strings and containers of them only. On disk when this returns.

    Raises InputError when it cannot be written; a file that was there before is then still there.
    """
    buffer = io.BytesIO()  # PyTorch's own writing to a full disk is no OSError
    torch.save(state, buffer)
    with atomic_write(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())
    sync_folder(path.parent)


def load_state(path: Path) -> dict[str, Any]:
    """Read a training state. Raises InputError when it is missing, damaged, or not one of ours."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"checkpoint '{path}' does not exist") from None
    except Exception as error:  # a damaged pickle makes torch.load raise nearly anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"checkpoint '{path}' cannot be read ({reason}); it is damaged or not a checkpoint") from None
    if not isinstance(state, dict) or not {"recipe", "model", "step"} <= state.keys():
        raise InputError(f"'{path}' is not a checkpoint of a training run of this program")
    return state
