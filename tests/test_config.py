"""Configuration is strict: what is not understood is an error that says where, what was given and what is allowed."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError, dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from stereo.config import (
    PRESETS,
    DataConfig,
    Recipe,
    TrainConfig,
    from_dict,
    load_recipe,
    near_matches,
    preset,
    to_dict,
)
from stereo.types import InputError


@pytest.fixture
def recipe(tmp_path: Path):
    """Write a recipe and load it: ``recipe("[train]\\nsteps = 3", "train.seed=1")``."""

    def load(text: str = "", *overrides: str) -> Recipe:
        path = tmp_path / "trial.toml"
        path.write_text(text, encoding="utf-8")
        return load_recipe(path, overrides)

    return load


# ---------------------------------------------------------------------------------------------------------------------
# Files


def test_an_empty_recipe_is_the_defaults_named_after_the_file(recipe) -> None:
    assert recipe() == Recipe(name="trial")


def test_a_recipe_sets_what_it_names_and_leaves_the_rest(recipe) -> None:
    loaded = recipe('name = "wide"\n[data]\ncrops = [[64, 1280]]\n[train]\nsteps = 3\n[loss]\nresponse = 0.5\n')
    assert loaded.name == "wide"
    assert loaded.data == DataConfig(crops=((64, 1280),))
    assert loaded.train == TrainConfig(steps=3)
    assert loaded.loss.response == 0.5
    assert loaded.loss.coarse == Recipe().loss.coarse
    assert loaded.model == PRESETS["small"]


def test_what_is_written_out_reads_back_the_same(recipe) -> None:
    loaded = recipe('[model]\npreset = "tiny"\n[data]\ncrops = [[64, 96], [32, 128]]\n', "train.learning_rate=1e-3")
    assert from_dict(Recipe, to_dict(loaded)) == loaded


def test_a_path_may_be_a_string(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text("[train]\nsteps = 3\n")
    assert load_recipe(str(tmp_path / "other.toml")).train.steps == 3


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.toml' does not exist; the shipped ones are in experiments/"):
        load_recipe(tmp_path / "nowhere.toml")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(str(tmp_path))):
        load_recipe(tmp_path)


@pytest.mark.parametrize("content", [b"steps = \n", b"[train\n", b"steps = 1\nsteps = 2\n", b"\xff\xfe"])
def test_a_file_that_is_not_toml_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.toml").write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.toml' is not valid TOML: "):
        load_recipe(tmp_path / "broken.toml")


# ---------------------------------------------------------------------------------------------------------------------
# Unknown keys

SECTIONS = ", ".join(sorted(f.name for f in fields(Recipe)))
SHAPES = ", ".join(sorted(PRESETS))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train]\nstep = 3", r"unknown setting 'train\.step': expected one of .*did you mean steps"),
        ("[model]\nchanels = 3", r"unknown setting 'model\.chanels': expected one of .*did you mean channels"),
        ("[trian]\nsteps = 3", rf"unknown setting 'trian': expected one of {SECTIONS}; did you mean train\?"),
        ("zzz = 3", rf"unknown setting 'zzz': expected one of {SECTIONS}$"),
    ],
)
def test_an_unknown_key_names_its_place_and_the_near_matches(recipe, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        recipe(text)


def test_near_matches_list_all_that_is_allowed_and_guess_only_what_is_near() -> None:
    assert near_matches("dens", ["quadtree_b", "dense"]) == "expected one of dense, quadtree_b; did you mean dense?"
    assert near_matches("xyz", ["quadtree_b", "dense"]) == "expected one of dense, quadtree_b"


# ---------------------------------------------------------------------------------------------------------------------
# Wrong types


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[train]\nsteps = "3"', r"train\.steps: got '3' \(str\), expected int"),
        ("[train]\nsteps = 3.0", r"train\.steps: got 3\.0 \(float\), expected int"),
        ("[train]\nsteps = true", r"train\.steps: got True \(bool\), expected int"),
        ("[train]\nlearning_rate = true", r"train\.learning_rate: got True \(bool\), expected float"),
        ('[train]\nlearning_rate = "1e-3"', r"train\.learning_rate: got '1e-3' \(str\), expected float"),
        ("[model]\nattention = 3", r"model\.attention: got 3 \(int\), expected str"),
        ("name = 3", r"name: got 3 \(int\), expected str"),
        ("[train.steps]\nmany = 1", r"train\.steps: got .*\(dict\), expected int"),
        ("train = 3", r"train: got 3, expected a table of settings"),
        ("model = 3", r"model: got 3, expected a table of settings"),
        ("[[model]]\nlayers = 1", r"model: got .*, expected a table of settings"),
        ('[data]\ncrops = "96x640"', r"data\.crops: got '96x640', expected a list"),
        ("[data]\ncrops = [96, 640]", r"data\.crops\[0\]: got 96, expected a list"),
        ("[data]\ncrops = [[96, 640], [96]]", r"data\.crops\[1\]: got 1 values, expected 2"),
        ("[data]\ncrops = [[96, 640, 3]]", r"data\.crops\[0\]: got 3 values, expected 2"),
        ("[data]\ncrops = [[96, 640], [96, 640.5]]", r"data\.crops\[1\]\[1\]: got 640\.5 \(float\), expected int"),
        ("[data]\ncrops = [[96, true]]", r"data\.crops\[0\]\[1\]: got True \(bool\), expected int"),
    ],
)
def test_a_wrong_type_names_its_place_the_value_and_what_is_expected(recipe, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        recipe(text)


def test_a_whole_number_is_accepted_for_a_float_and_becomes_one(recipe) -> None:
    rate = recipe("[train]\nlearning_rate = 1").train.learning_rate
    assert rate == 1.0
    assert type(rate) is float


def test_lists_of_lists_become_tuples_of_tuples(recipe) -> None:
    """Hashable and frozen like the rest; the count is free outside and fixed inside."""
    assert recipe("[data]\ncrops = [[96, 640], [64, 960]]").data.crops == ((96, 640), (64, 960))
    assert recipe("[data]\ncrops = []").data.crops == ()


def test_every_default_has_the_type_it_asks_of_others() -> None:
    """Reading the defaults back through the strict reader changes nothing, so no annotation lies."""
    assert from_dict(Recipe, to_dict(Recipe())) == Recipe()


def test_from_dict_reads_any_dataclass() -> None:
    @dataclass(frozen=True)
    class Inner:
        sizes: tuple[int, float, str] = (1, 2.0, "x")
        on: bool = False

    assert from_dict(Inner, {"sizes": [3, 4, "y"], "on": True}) == Inner((3, 4.0, "y"), True)
    with pytest.raises(InputError, match=r"^on: got 1 \(int\), expected bool"):
        from_dict(Inner, {"on": 1})
    with pytest.raises(InputError, match=r"^there\.sizes\[2\]: got 5 \(int\), expected str"):
        from_dict(Inner, {"sizes": [3, 4, 5]}, "there")


@pytest.mark.parametrize("kind", [Recipe, *(type(getattr(Recipe(), f.name)) for f in fields(Recipe) if f.name != "name")])
def test_configurations_are_frozen(kind: type) -> None:
    config = kind()
    name = fields(config)[0].name
    with pytest.raises(FrozenInstanceError):
        setattr(config, name, getattr(config, name))


# ---------------------------------------------------------------------------------------------------------------------
# Presets


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_carries_its_own_name(name: str) -> None:
    assert preset(name).preset == name


@pytest.mark.parametrize("name", PRESETS)
def test_a_recipe_starts_from_its_preset(recipe, name: str) -> None:
    assert recipe(f'[model]\npreset = "{name}"').model == PRESETS[name]


def test_a_recipe_may_change_single_values_of_its_preset(recipe) -> None:
    loaded = recipe('[model]\npreset = "tiny"\ntopk = 3\n').model
    assert to_dict(loaded) == to_dict(PRESETS["tiny"]) | {"topk": 3}
    assert PRESETS["tiny"].topk != 3


def test_settings_without_a_preset_start_from_small(recipe) -> None:
    assert to_dict(recipe("[model]\ntopk = 3\n").model) == to_dict(PRESETS["small"]) | {"topk": 3}


@pytest.mark.parametrize("text", ['[model]\npreset = "smal"', "[model]\npreset = 3"])
def test_an_unknown_preset_lists_the_presets(recipe, text: str) -> None:
    with pytest.raises(InputError, match=rf"unknown preset '(smal|3)': expected one of {SHAPES}"):
        recipe(text)


def test_a_preset_of_the_wrong_type_is_refused(recipe) -> None:
    with pytest.raises(InputError, match="preset"):
        recipe('[model]\npreset = ["small"]')


# ---------------------------------------------------------------------------------------------------------------------
# --set


@pytest.mark.parametrize(
    ("override", "section", "key", "expected"),
    [
        ("train.steps=7", "train", "steps", 7),
        ("train.learning_rate=1e-3", "train", "learning_rate", 1e-3),
        ("train.learning_rate=1", "train", "learning_rate", 1.0),
        ("train.precision=bf16", "train", "precision", "bf16"),  # a bare word is a string
        ('train.precision="bf16"', "train", "precision", "bf16"),
        ("model.attention=dense", "model", "attention", "dense"),
        ("data.crops=[[64, 128], [32, 96]]", "data", "crops", ((64, 128), (32, 96))),
        ("train.steps = 7", "train", "steps", 7),
        ("model.attention = dense", "model", "attention", "dense"),
    ],
)
def test_an_override_reaches_its_setting(recipe, override: str, section: str, key: str, expected: Any) -> None:
    for text in ("", f"[{section}]\n"):
        loaded = recipe(text, override)
        assert to_dict(getattr(loaded, section)) == to_dict(getattr(Recipe(), section)) | {key: expected}
        assert type(getattr(getattr(loaded, section), key)) is type(expected)


def test_an_override_beats_the_file_and_the_last_one_wins(recipe) -> None:
    assert recipe("[train]\nsteps = 3", "train.steps=4", "train.seed=9", "train.steps=5").train == TrainConfig(steps=5, seed=9)


def test_an_override_of_the_top_level(recipe) -> None:
    assert recipe('name = "file"', "name=mine").name == "mine"


def test_an_override_of_the_preset_keeps_what_the_file_sets(recipe) -> None:
    loaded = recipe('[model]\npreset = "small"\ntopk = 3', "model.preset=tiny").model
    assert to_dict(loaded) == to_dict(PRESETS["tiny"]) | {"topk": 3}


@pytest.mark.parametrize("override", ["train.steps", "=3", "", "="])
def test_an_override_of_bad_form_is_refused_with_an_example(recipe, override: str) -> None:
    with pytest.raises(InputError, match=rf"got --set '{override}', expected --set section\.key=value, for example --set "):
        recipe("", override)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.step=3", r"unknown setting 'train\.step'.*did you mean steps"),
        ("trian.steps=3", r"unknown setting 'trian'.*did you mean train\?"),
        ("train.steps=many", r"train\.steps: got 'many' \(str\), expected int"),
        ("train.steps=true", r"train\.steps: got True \(bool\), expected int"),
        ("train.steps=", r"train\.steps: got '' \(str\), expected int"),
        ("train=3", r"train: got 3, expected a table of settings"),
        ("train..steps=3", r"unknown setting 'train\.'"),
        ("name.first=x", r"--set name\.first=x: 'name' is a value, not a section"),
        ("train.seed.low=3", r"--set train\.seed\.low=3: 'seed' is a value, not a section"),
        ("model.preset=smal", r"unknown preset 'smal'.*did you mean small\?"),
    ],
)
def test_an_override_is_as_strict_as_the_file(recipe, override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        recipe('name = "trial"\n[train]\nseed = 1\n', override)
