"""Configuration: frozen dataclasses, read strictly. An unknown key or a wrong type is an error that names the near matches."""

from __future__ import annotations

import difflib
import math
import tomllib
import typing
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from stereo.types import InputError


@dataclass(frozen=True)
class AttentionConfig:
    """The operator of every self and cross layer; of the settings each operator takes those that it has."""

    attention: str = "quadtree_b"  # a key of stereo.attention.ATTENTION
    levels: int = 4  # L, quadtree levels, finest included
    topk: int = 8  # K, columns kept per query at every level; regions, of bilevel_routing
    pool: str = "mean_max"  # what a coarse node shows of its children: mean (as published) | mean_max
    lepe: bool = False  # quadtree_b: add a depthwise 3x3 convolution of the values
    reduction: int = 4  # spatial_reduction: side of a pooled block, in tokens
    window: int = 8  # window: side of a window, in tokens; shifted by half of it in every other layer
    region: int = 8  # bilevel_routing: side of a region, in tokens
    position: str = "rotary"  # rotary | relative (STTR's sine table) | none


@dataclass(frozen=True)
class ModelConfig(AttentionConfig):
    """Shape of a network. ``preset`` is the name of the row in PRESETS that it started from."""

    preset: str = "small"
    channels: int = 48  # C, width of the tokens at 1/4 resolution
    stem_channels: int = 16  # width at 1/2 resolution
    context_channels: int = 96  # width at 1/8 resolution
    layers: int = 3  # T, each one self layer and one cross layer
    heads: int = 3
    expansion: int = 2  # hidden width of the feed-forward part, in units of C
    # sparse: over what a descent of the quadtree finds; dense: over all pairs of a row, as in weights that do not say
    matching: str = "dense"
    match_levels: int = 3  # of that descent
    match_topk: int = 12  # keys kept per token and level; twice as many matches are looked at
    sinkhorn_iterations: int = 4
    sharpen_channels: int = 0  # width of a second look at 1/2 resolution; 0 leaves it out


@dataclass(frozen=True)
class SttrConfig(AttentionConfig):
    """Shape of an STTR network (SPEC 1). ``preset`` is the name of the row in PRESETS that it started from."""

    preset: str = "sttr"
    decoder: str = "full"  # full: a map of all pixels, thinned out by the stride; quarter: the light version's, stride 4
    stride: int = 3  # pixels per token; 0, when faithful, means every pixel and no adjustment
    channels: int = 128  # C, width of the tokens
    growth: int = 4  # channels that a layer of the decoder's dense blocks adds
    layers: int = 6  # T, each one self layer and one cross layer
    heads: int = 8
    attention: str = "dense"  # the match is dense whatever this is
    topk: int = 6
    pool: str = "mean"
    position: str = "relative"
    matching: str = "transport"  # transport | softmax
    sinkhorn_iterations: int = 10
    adjust_blocks: int = 8  # of the context adjustment; 0 leaves it out
    adjust_channels: int = 16
    adjust_expansion: int = 4
    faithful: bool = False  # keep the quirks that published weights were trained with: see stereo.model.sttr.network


AnyModelConfig = ModelConfig | SttrConfig

PRESETS: dict[str, AnyModelConfig] = {
    "small": ModelConfig(matching="sparse", sharpen_channels=20),
    # For tests and for the smoke recipe: the same rooms, as narrow as they get.
    "tiny": ModelConfig(
        preset="tiny", channels=32, stem_channels=12, context_channels=32, layers=2, heads=2, topk=6, matching="sparse",
        sharpen_channels=8
    ),
    # The networks of the papers, for comparison and for published weights ('convert').
    "sttr": SttrConfig(),
    "sttr-light": SttrConfig(preset="sttr-light", decoder="quarter", stride=4, growth=16, heads=4),
    # The row of the QuadTree paper that was never released: STTR, and its light version, on the tree.
    "quadtree": SttrConfig(preset="quadtree", attention="quadtree_b"),
    "quadtree-light": SttrConfig(
        preset="quadtree-light", decoder="quarter", stride=4, growth=16, heads=4, attention="quadtree_b"
    ),
}


@dataclass(frozen=True)
class ContentConfig:
    """What the generator puts into its scenes. A share is a probability, a factor multiplies what is usual; 0 leaves it out."""

    slants: float = 1.0  # factor of all slopes
    relief: float = 1.0  # factor of the share of curved and rippled sheets
    thin: float = 1.0  # factor of the share of bars, wires, rings, lattices and fences
    floors: float = 0.5  # share of scenes with a ground plane
    walls: float = 0.3  # share of scenes with side walls or a ceiling
    standing: float = 0.5  # share of the objects above a floor that stand on it
    shadows: float = 0.4  # share of scenes in which objects cast shadows
    repetition: float = 1.0  # factor of the share of stripes and tiles among the textures
    plain: float = 1.0  # factor of the share of textures with hardly anything to match
    photometric: float = 1.0  # factor of what exposure, blur, noise and JPEG do to each view
    misalignment: float = 0.4  # share of pairs with a right camera that is a little shifted and rolled
    textures: str = ""  # a folder of photographs that make up half of the textures; none by default


@dataclass(frozen=True)
class Augmentation:
    """How often each of datasets.transforms happens (a probability, 0 .. 1) and how far it may go. In their order.

    "Factor up to x" means a factor between 1 / (1 + x) and 1 + x, even in its logarithm.
    Raises InputError for a value out of its range.
    """

    scale_probability: float = 0.8
    scale: tuple[float, float] = (0.75, 1.5)  # least and greatest factor of both axes, even in its logarithm
    stretch: float = 0.2  # one more factor of the width alone, up to this
    crop: str = "random"  # random | centre
    flip_probability: float = 0.5  # left and right, and the views change places; needs the right view's truth
    vertical_flip_probability: float = 0.1
    misalign_probability: float = 0.4
    shift: float = 1.5  # px that the right view is moved up or down, at most
    rotation: float = 0.2  # degrees that the right view is turned about its centre, at most
    colour_probability: float = 0.8
    brightness: float = 0.4  # factor up to
    contrast: float = 0.4  # factor up to
    saturation: float = 0.6  # factor up to
    hue: float = 0.1  # colour cast: factor of each channel up to
    gamma: float = 0.3  # exponent up to
    asymmetry: float = 0.5  # share of these five that each view draws of its own on top; 0: both views look the same
    blur_probability: float = 0.25  # of each view, as for noise and JPEG
    blur: float = 1.5  # standard deviation, px, at most
    noise_probability: float = 0.5
    noise: float = 8.0  # standard deviation, grey levels of 255, at most
    jpeg_probability: float = 0.2
    jpeg: tuple[int, int] = (35, 95)  # least and greatest quality
    patch_probability: float = 0.3
    patches: int = 3  # at most
    patch_size: tuple[int, int] = (16, 80)  # least and greatest side, px

    def __post_init__(self) -> None:
        def check(name: str, fine: bool, expected: str) -> None:
            if not fine:
                raise InputError(f"augmentation.{name}: got {getattr(self, name)!r}, expected {expected}")

        def check_range(name: str, low: float, high: float, expected: str) -> None:
            first, last = getattr(self, name)
            check(name, low <= first <= last <= high, f"two values, the smaller one first, {expected}")

        for name in (name for name in self.__dataclass_fields__ if name.endswith("_probability")):
            check(name, 0 <= getattr(self, name) <= 1, "a number from 0 to 1")
        amounts = ("stretch", "shift", "rotation", "brightness", "contrast", "saturation", "hue", "gamma", "asymmetry")
        for name in (*amounts, "blur", "noise"):
            check(name, 0 <= getattr(self, name) < math.inf, "a finite number, 0 or more")
        check("crop", self.crop in ("random", "centre"), "one of random, centre")
        check("patches", self.patches >= 1, "1 or more")
        check_range("scale", 0.05, 20, "from 0.05 to 20")
        check_range("jpeg", 1, 100, "from 1 to 100")
        check_range("patch_size", 1, 10_000, "from 1 to 10000")


RENDERERS = ("workers", "device")


@dataclass(frozen=True)
class DataConfig:
    """Training data: the generator's, or data sets on disk. Sizes are (height, width) px; one is drawn per batch."""

    seed: int = 0
    crops: tuple[tuple[int, int], ...] = ((96, 640), (128, 480), (64, 960))
    max_disparity: float = 0.4  # of the crop's width
    workers: int = 2
    content: ContentConfig = field(default_factory=ContentConfig)
    sets: tuple[tuple[str, float], ...] = ()  # NAME:PATH of data sets and their shares; without any, the generator
    augmentation: Augmentation = field(default_factory=Augmentation)  # of the sets; the generator has its own
    corrupt_share: float = 0.01  # of a set's samples that may turn out unreadable before training stops
    cache: str = ""  # a folder for decoded samples of the sets; none by default
    cache_gib: float = 100.0  # GiB that each set may take there
    renderer: str = "workers"  # of generated scenes: workers (each on a CPU core) | device (whole batches, where training runs)

    def __post_init__(self) -> None:
        if self.renderer not in RENDERERS:
            raise InputError(f"data.renderer: got {self.renderer!r}, expected one of {', '.join(RENDERERS)}")
        if self.renderer == "device" and self.sets:
            raise InputError(
                "data.renderer: 'device' is for generated scenes, and data.sets are read from files; leave one out"
            )


PRECISIONS = ("fp32", "bf16", "fp16")
SCHEDULES = ("cosine", "one_cycle", "step", "constant")
SHIPPED = ("last", "best")


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained. A step is one update of the weights; docs/training.md explains the settings together.

    Raises InputError for a value out of its range.
    """

    steps: int = 10000
    batch_size: int = 4  # samples of one forward pass, of each process
    accumulate: int = 1  # forward passes per step, of each process
    init: str = ""  # weights to start from: .safetensors, or a checkpoint of a run
    fresh: tuple[str, ...] = ()  # beginnings of the names of tensors that do not start from init: a part that has been added
    learning_rate: float = 6e-4  # the peak
    schedule: str = "cosine"  # cosine | one_cycle | step | constant, all after warmup_steps
    milestones: tuple[float, ...] = (0.6, 0.85)  # step: shares of the run after which the rate is multiplied by step_factor
    step_factor: float = 0.3
    warmup_steps: int = 200
    weight_decay: float = 1e-4
    decay_all: bool = True  # False: no weight decay of biases, norms and other tensors with fewer than two axes
    backbone_rate: float = 1.0  # factor of the learning rate of the backbone
    clip_norm: float = 1.0
    ema: float = 0.0  # decay per step of averaged weights, which then are validated and shipped; 0: no average
    precision: str = "fp32"  # fp32 | bf16 | fp16 (autocast; fp16 scales the loss)
    gradient_checkpointing: bool = False  # compute the layers of the transformer once more in the backward pass: less memory
    compile: bool = False  # torch.compile of the network
    seed: int = 0
    threads: int = 0  # CPU threads for the network; 0 leaves PyTorch's choice
    kernel: str = "auto"  # a backend of stereo.kernels
    skip_limit: int = 5  # steps in a row without a finite loss and gradient after which the run stops
    log_every: int = 50
    image_every: int = 1000
    checkpoint_every: int = 500
    keep: int = 0  # checkpoints kept beside the last one and the best one
    validate_every: int = 0  # 0: only at the end
    validation_scenes: int = 16
    validation_seed: int = 10_000_019
    patience: int = 0  # validations without a better score after which the run ends; 0: it does not
    ship: str = "last"  # last | best validated: the weights that the run ends with

    def __post_init__(self) -> None:
        def check(name: str, fine: bool, expected: str) -> None:
            if not fine:
                raise InputError(f"train.{name}: got {getattr(self, name)!r}, expected {expected}")

        counts = ("log_every", "image_every", "checkpoint_every", "validation_scenes")
        for name in ("steps", "batch_size", "accumulate", "skip_limit", *counts):
            check(name, getattr(self, name) >= 1, "1 or more")
        for name in ("warmup_steps", "keep", "validate_every", "patience", "threads", "seed"):
            check(name, getattr(self, name) >= 0, "0 or more")
        for name in ("learning_rate", "clip_norm", "step_factor"):
            check(name, 0 < getattr(self, name) < math.inf, "a finite number above 0")
        for name in ("weight_decay", "backbone_rate"):
            check(name, 0 <= getattr(self, name) < math.inf, "a finite number, 0 or more")
        for name, choices in (("precision", PRECISIONS), ("schedule", SCHEDULES), ("ship", SHIPPED)):
            check(name, getattr(self, name) in choices, f"one of {', '.join(choices)}")
        check("ema", 0 <= self.ema < 1, "a number from 0 to below 1")
        rising = all(a < b for a, b in zip((0.0, *self.milestones), (*self.milestones, 1.0), strict=True))
        check("milestones", rising, "rising shares of the run, between 0 and 1")
        check("fresh", all(self.fresh), "beginnings of names, none of them empty")
        check("fresh", not self.fresh or bool(self.init), "nothing where train.init is not given: everything starts anew")
        check("patience", not self.patience or self.validate_every > 0, "0, or train.validate_every above 0 as well")


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms of STTR section 3.6 and of our confidence term."""

    response: float = 1.0
    coarse: float = 0.1
    disparity: float = 0.3
    occlusion: float = 1.0
    confidence: float = 0.5
    occluded_weight: float = 0.3  # of an occluded pixel in the final disparity term, relative to a visible one


@dataclass(frozen=True)
class Recipe:
    """One training run, as read from a TOML file in experiments/."""

    name: str = "run"
    model: AnyModelConfig = field(default_factory=lambda: PRESETS["small"])
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    loss: LossConfig = field(default_factory=LossConfig)


def to_dict(config: Any) -> dict[str, Any]:
    return asdict(config)


def near_matches(given: str, allowed: typing.Iterable[str]) -> str:
    """'expected one of a, b; did you mean b?': the tail of every "unknown name" message."""
    allowed = sorted(allowed)
    close = difflib.get_close_matches(given, allowed, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    return f"expected one of {', '.join(allowed)}{hint}"


def _convert(value: Any, kind: Any, where: str) -> Any:
    if kind == AnyModelConfig:
        return model_config(value, where)
    if is_dataclass(kind):
        return from_dict(kind, value, where)
    origin = typing.get_origin(kind)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{where}: got {value!r}, expected a list")
        inner = typing.get_args(kind)
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else list(inner)
        if len(kinds) != len(value):
            raise InputError(f"{where}: got {len(value)} values, expected {len(kinds)}")
        return tuple(_convert(v, k, f"{where}[{i}]") for i, (v, k) in enumerate(zip(value, kinds, strict=True)))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InputError(f"{where}: got {value!r} ({type(value).__name__}), expected {kind.__name__}")
    return value


def from_dict(cls: Any, values: Any, where: str = "") -> Any:
    """Build a config dataclass from plain values.

    Raises InputError for an unknown key (naming the near matches) or a value of the wrong type.
    """
    if not isinstance(values, dict):
        raise InputError(f"{where}: got {values!r}, expected a table of settings")
    kinds = typing.get_type_hints(cls)
    names = [f.name for f in fields(cls)]
    for key in values:
        if key not in names:
            raise InputError(f"unknown setting '{where + '.' if where else ''}{key}': {near_matches(key, names)}")
    return cls(**{k: _convert(v, kinds[k], f"{where}.{k}" if where else k) for k, v in values.items()})


def model_config(values: Any, where: str) -> AnyModelConfig:
    """The shape of a network from plain values, of the kind that its preset is. Raises InputError like ``from_dict``."""
    name = values.get("preset") if isinstance(values, dict) else None
    kind = type(PRESETS[name]) if isinstance(name, str) and name in PRESETS else ModelConfig
    return from_dict(kind, values, where)


def _parse_override(text: str) -> tuple[list[str], Any]:
    key, equals, raw = text.partition("=")
    if not equals or not key:
        raise InputError(f"got --set {text!r}, expected --set section.key=value, for example --set train.steps=100")
    try:
        value = tomllib.loads(f"v = {raw}")["v"]
    except tomllib.TOMLDecodeError:
        value = raw.strip()  # a bare word is a string: --set model.attention=dense
    return key.strip().split("."), value


def load_recipe(path: str | Path, overrides: typing.Sequence[str] = ()) -> Recipe:
    """Read a recipe. ``[model] preset = "small"`` starts from that preset; overrides are 'a.b=value' strings.

    Raises InputError when the file is missing, is not TOML, or holds an unknown key or a wrong type.
    """
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"recipe '{path}' does not exist; the shipped ones are in experiments/*.toml") from None
    except OSError as error:
        raise InputError(f"recipe '{path}' cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"recipe '{path}' is not valid TOML: {error}") from None
    for text in overrides:
        keys, value = _parse_override(text)
        table = values
        for key in keys[:-1]:
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                raise InputError(f"--set {text}: '{key}' is a value, not a section")
        table[keys[-1]] = value
    if isinstance(values.get("model"), dict):
        values["model"] = to_dict(preset(values["model"].get("preset", "small"))) | values["model"]
    return from_dict(Recipe, {"name": path.stem} | values)


def preset(name: str) -> AnyModelConfig:
    """The named network shape. Raises InputError for an unknown name."""
    if not isinstance(name, str) or name not in PRESETS:
        raise InputError(f"unknown preset '{name}': {near_matches(str(name), PRESETS)}")
    return PRESETS[name]
