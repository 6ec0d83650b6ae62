"""The recipes of experiments/: they say what they must, follow the protocols that they name, and run from end to end."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from page_cases import check_self_contained

from datasets.batches import training_batches
from datasets.procedural.dataset import GeneratedDataset
from stereo.checkpoint import load_model
from stereo.cli import main
from stereo.config import PRESETS, Recipe, load_recipe

ROOT = Path(__file__).resolve().parents[1]
LAYOUTS = ROOT.parent / "shared" / "layouts"
FINETUNED = ("kitti_finetune", "middlebury_finetune")
RECIPES = ("small", "small_second", "smoke", "sceneflow_sttr", "sceneflow_quadtree", "sceneflow_small", *FINETUNED)
SCENEFLOW = tuple(name for name in RECIPES if name.startswith("sceneflow"))
FLYINGTHINGS_TRAIN = 21818  # pairs without the unused ones (SPEC 2.4)
# Overrides that keep each recipe's data, losses and settings but make it a crumb: narrow networks, small crops, two steps.
CRUMB = ["data.workers=0", "train.steps=2", "train.batch_size=1", "train.threads=0", "train.validation_scenes=1"]
NARROW_STTR = ["model.channels=16", "model.layers=1", "model.heads=2", "model.adjust_blocks=1", "model.adjust_channels=4"]
NARROW = {
    "sceneflow_sttr": ["data.crops=[[124,144]]", *NARROW_STTR],  # STTR needs 121 px
    "sceneflow_quadtree": ["data.crops=[[124,144]]", *NARROW_STTR],
    "sceneflow_small": ["data.crops=[[64,96]]", "model.layers=1", "model.channels=32", "model.heads=2"],
}

needs_layouts = pytest.mark.skipif(not LAYOUTS.is_dir(), reason="../shared is absent")


def path_of(name: str) -> Path:
    return ROOT / "experiments" / f"{name}.toml"


def recipe(name: str) -> Recipe:
    return load_recipe(path_of(name))


# ---------------------------------------------------------------------------------------------------------------------
# What they say


@pytest.mark.parametrize("name", RECIPES)
def test_header_states_command_hardware_cost_and_numbers(name):
    header = path_of(name).read_text(encoding="utf-8").partition("[model]")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    assert f"python run_stereo.py train experiments/{name}.toml" in header
    for what in ("cost:", "expected:", "obtained:"):
        assert re.search(rf"^# {what} +\S", header, re.MULTILINE), what
    assert re.search(r"^# hardware: +\S", header, re.MULTILINE) or "cores of an AMD EPYC" in header
    assert re.search(r"\d+ (hours?|min|TFLOP)|\d\.\d hours|under a thousand TFLOP", header)


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_read_strictly_and_keeps_its_preset(name):
    read = recipe(name)
    assert read.name == name
    assert read.model == PRESETS[read.model.preset]


@pytest.mark.parametrize("name", FINETUNED)
def test_finetuning_says_what_to_start_from(name):
    assert "--set train.init=WEIGHTS" in path_of(name).read_text(encoding="utf-8")


# ---------------------------------------------------------------------------------------------------------------------
# The protocols


@pytest.mark.parametrize("name", SCENEFLOW)
def test_sceneflow_is_flyingthings_finalpass_for_fifteen_epochs(name):
    read = recipe(name)
    assert read.data.sets == (("flyingthings3d:data/FlyingThings3D?split=TRAIN&images=final", 1.0),)
    assert read.train.steps * read.train.batch_size == pytest.approx(15 * FLYINGTHINGS_TRAIN, abs=read.train.batch_size)


def test_sttr_follows_the_published_recipe():
    """SPEC 2.1 and 2.3: one pair per step, AdamW with 1e-4 and 1e-4, clipped at 0.1, four terms of equal weight."""
    read = recipe("sceneflow_sttr")
    train, loss, augmentation = read.train, read.loss, read.data.augmentation
    assert (train.batch_size, train.learning_rate, train.weight_decay, train.clip_norm) == (1, 1e-4, 1e-4, 0.1)
    assert (loss.response, loss.coarse, loss.disparity, loss.occlusion, loss.occluded_weight) == (1, 1, 1, 1, 0)
    assert (augmentation.flip_probability, augmentation.misalign_probability) == (0.5, 1)
    assert (augmentation.shift, augmentation.rotation) == (1.5, 0.2)
    never = ("scale", "vertical_flip", "blur", "jpeg", "patch")
    assert [getattr(augmentation, f"{what}_probability") for what in never] == [0] * 5
    assert all(360 <= height <= 540 and 640 <= width <= 960 for height, width in read.data.crops)


def test_quadtree_differs_from_sttr_by_its_operator_alone():
    ours, theirs = recipe("sceneflow_quadtree"), recipe("sceneflow_sttr")
    assert replace(ours, name="", model=theirs.model) == replace(theirs, name="")
    assert replace(ours.model, preset="", attention="") == replace(theirs.model, preset="", attention="")
    assert (ours.model.attention, theirs.model.attention) == ("quadtree_b", "dense")


def test_kitti_is_both_years_for_four_hundred_epochs():
    read = recipe("kitti_finetune")
    assert [name.partition(":")[0] for name, _ in read.data.sets] == ["kitti2012", "kitti2015"]
    assert read.train.steps * read.train.batch_size == 400 * (194 + 200)
    assert read.data.augmentation.flip_probability == 0  # laser truth of the left view only


def test_middlebury_leaves_out_what_the_evaluation_scores():
    years = [name.partition(":")[0] for name, _ in recipe("middlebury_finetune").data.sets]
    assert years == ["middlebury2006", "middlebury2021"]


# ---------------------------------------------------------------------------------------------------------------------
# From end to end


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A folder whose data/FlyingThings3D holds 8 generated scenes as the finalpass comes: without occlusion masks."""
    root = tmp_path_factory.mktemp("sceneflow")
    made = root / "data" / "FlyingThings3D"
    assert main(["generate", "-o", str(made), "--scenes", "8", "--height", "136", "--width", "160"]) == 0
    (made / "frames_cleanpass").rename(made / "frames_finalpass")
    for file in made.rglob("*occlusion*/**/*.png"):
        file.unlink()
    return root


@pytest.fixture
def small_scenes(monkeypatch) -> None:
    """Validation on scenes of a size that STTR takes in a second."""
    monkeypatch.setattr("stereo.cli.train.GeneratedDataset", partial(GeneratedDataset, height=128, width=160))


@pytest.mark.usefixtures("small_scenes")
@pytest.mark.parametrize("name", SCENEFLOW)
def test_sceneflow_recipe_trains_and_its_weights_load(name, tree, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tree)  # the data set is named as the recipe names it
    settings = [option for setting in (*CRUMB, *NARROW[name]) for option in ("--set", setting)]
    assert main(["train", str(path_of(name)), "-o", str(tmp_path / "run"), "--device", "cpu", "--json", *settings]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["recipe"]["data"]["sets"][0][0] == "flyingthings3d:data/FlyingThings3D?split=TRAIN&images=final"
    assert card["samples_seen"] == 2
    model = load_model(card["weights"], "cpu")
    assert model.config.preset == recipe(name).model.preset
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())
    assert all(math.isfinite(card["validation"][key]) for key in ("epe_all", "epe_noc"))
    page = check_self_contained((tmp_path / "run" / "report.html").read_text(encoding="utf-8"))
    assert page.all("h1")


@pytest.mark.parametrize("name", SCENEFLOW)
def test_an_epoch_shows_every_scene_once(name, tree, monkeypatch):
    monkeypatch.chdir(tree)
    data = replace(recipe(name).data, workers=0, crops=((64, 96),))
    batches = list(training_batches(data, 2, 0, 4))
    names = sorted(name for batch in batches for name in batch.names)
    assert names == [f"flyingthings3d/TRAIN/A/{scene:04d}/0006" for scene in range(8)]
    for batch in batches:
        assert batch.left.shape == (2, 3, 64, 96)
        assert batch.valid.all() and (batch.disp[batch.valid] > 0).all()
    assert any(batch.occluded.any() for batch in batches)  # derived: there is no mask


@needs_layouts
@pytest.mark.parametrize("name", SCENEFLOW)
@pytest.mark.parametrize("folder", ["FlyingThings3D", "sttr_sample_layout"])
def test_loaders_read_the_genuine_frames(name, folder):
    """One pair of each layout through the recipe's own crops and augmentation; both are of the clean pass."""
    data = recipe(name).data
    data = replace(data, workers=0, sets=((f"flyingthings3d:{LAYOUTS / 'sceneflow' / folder}", 1.0),), crops=data.crops[:1])
    (batch,) = training_batches(data, 1, 0, 1)
    assert tuple(batch.left.shape[2:]) == data.crops[0]
    assert batch.valid.float().mean() > 0.99  # rendered truth is dense; what the augmentation moves in has none
    assert 0.5 < batch.disp[batch.valid].median() < 200
    assert 0 < batch.occluded.float().mean() < 0.6


@needs_layouts
@pytest.mark.usefixtures("small_scenes")
def test_a_genuine_frame_trains(tmp_path, capsys):
    genuine = f'data.sets=[["flyingthings3d:{LAYOUTS / "sceneflow" / "FlyingThings3D"}", 1.0]]'
    settings = [option for setting in (*CRUMB, *NARROW["sceneflow_small"], genuine) for option in ("--set", setting)]
    argv = ["train", str(path_of("sceneflow_small")), "-o", str(tmp_path / "run"), "--device", "cpu", "--json", *settings]
    assert main(argv) == 0
    assert json.loads(capsys.readouterr().out)["samples_seen"] == 2


@needs_layouts
@pytest.mark.parametrize(
    ("name", "sets"),
    [
        ("kitti_finetune", ("kitti2012:{}/kitti2012", "kitti2015:{}/kitti2015")),
        ("middlebury_finetune", ("middlebury2005:{}/middlebury/scenes2005", "middlebury:{}/middlebury/MiddEval3?size=Q")),
    ],
)
def test_finetuning_reads_genuine_frames(name, sets):
    """KITTI's own; for Middlebury scenes of other years, of the same kinds of files: bytes and floats."""
    read = recipe(name).data
    data = replace(read, workers=0, sets=tuple((text.format(LAYOUTS), 1.0) for text in sets), crops=read.crops[:1])
    batches = list(training_batches(data, 1, 0, 4))
    assert len({name.partition("/")[0] for batch in batches for name in batch.names}) == 2
    for batch in batches:
        assert batch.valid.any() and (batch.disp[batch.valid] > 0).all()
