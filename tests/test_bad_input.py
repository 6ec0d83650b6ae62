"""Ten kinds of bad input and more for the verbs that have no such list of their own: code 2, one line, nothing left behind.

``infer``, ``rectify``, ``depth``, ``explain`` and ``export`` have theirs in the tests of these verbs.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stereo.cli import main
from stereo.engine.compare import SAME
from stereo.image_io import write_image, write_pfm

WEIGHTS = [  # of every verb that loads a network
    (["--weights", "{none}"], "none"),
    (["--weights", "{text}"], "text.txt"),
    (["--weights", "{empty}"], "empty.safetensors"),
    (["--device", "tpu"], "tpu"),
    (["--nope"], "--nope"),
]
PRECISION = [(["--precision", "int8"], "int8"), (["--sizes", "0"], "above 0"), (["--sizes", "9"], "from 0.25 to 4")]
MEMORY = [(["--max-memory", "much"], "much"), (["--max-disparity", "-1"], "above 0")]
DATA = ["--data", "pairs:{data}"]
HEAD = ",".join(("name", "sha256", "epe_noc", *SAME)) + "\n"
REST = ",1" * len(SAME) + "\n"
BAD: dict[str, list[tuple[list[str], str]]] = {
    "check": [
        ([], "what"),
        (["{none}"], "none"),
        (["{text}"], "text.txt"),
        (["{image}", "{none}"], "none"),
        (["{image}", "{text}"], "text.txt"),
        (["{image}", "{bare}"], "bare"),
        (["nothing:{data}"], "nothing"),
        (["pairs:{none}"], "none"),
        (["pairs:{bare}"], "bare"),
        (["{data}", "{image}"], "data"),
        (["pairs:{data}", "--frames", "0"], "frames"),
        (["pairs:{data}", "--frames", "x"], "x"),
    ],
    "demo": [
        *WEIGHTS,
        *PRECISION,
        (["--seed", "one"], "one"),
        (["surplus"], "surplus"),
        (["-o", "{text}"], "text.txt"),
        (["-o", "{text}/deeper"], "text.txt"),
    ],
    "train": [
        ([], "recipe"),
        (["{none}"], "none"),
        (["{text}"], "text.txt"),
        (["{image}"], "a.png"),
        (["{recipe}", "--set", "train"], "train"),
        (["{recipe}", "--set", "train.stepz=3"], "steps"),
        (["{recipe}", "--set", "train.steps=-1"], "steps"),
        (["{recipe}", "--set", "train.steps=many"], "steps"),
        (["{recipe}", "--set", "model.attention=denze"], "dense"),
        (["{recipe}", "--set", "data.crops=[[30]]"], "crops"),
        (["{recipe}", "--set", "train.init={none}"], "none"),
        (["{recipe}", "--max-minutes", "0"], "above 0"),
        (["{recipe}", "--device", "tpu"], "tpu"),
        (["{recipe}", "-o", "{text}"], "text.txt"),
    ],
    "evaluate": [
        *[([*DATA, *options], said) for options, said in (*WEIGHTS, *PRECISION, *MEMORY)],
        ([], "--data"),
        (["--data", "pairs:{none}"], "none"),
        (["--data", "nothing:{data}"], "nothing"),
        ([*DATA, "--protocol", "sceneflo"], "sceneflo"),
        ([*DATA, "--workers", "-1"], "workers"),
        ([*DATA, "--save-maps"], "-o DIR"),
        ([*DATA, "--pred", "{bare}"], "bare"),
        ([*DATA, "--html", "{data}"], "folder"),
        ([*DATA, "-o", "{text}"], "text.txt"),
    ],
    "compare": [
        ([], "a, b"),
        (["{none}", "{csv}"], "none"),
        (["{csv}", "{none}"], "none"),
        (["{text}", "{csv}"], "text.txt"),
        (["{image}", "{csv}"], "a.png"),
        (["{empty}", "{csv}"], "empty"),
        (["{csv}", "{csv}", "--figures", "epe_nox"], "epe_noc"),
        (["{csv}", "{csv}", "--resamples", "0"], "resamples"),
        (["{csv}", "{other}"], "other"),
        (["{csv}", "{csv}", "--seed", "x"], "x"),
        (["{csv}", "{csv}", "{csv}"], "a.csv"),
    ],
    "submit": [
        *[(["kitti2015", "{data}", "-o", "{new}", *options], said) for options, said in WEIGHTS[-1:] + PRECISION[:2] + MEMORY],
        ([], "benchmark"),
        (["kity", "{data}", "-o", "{new}"], "kitti2015"),
        (["kitti2015", "{none}", "-o", "{new}"], "none"),
        (["kitti2015", "{bare}", "-o", "{new}"], "bare"),
        (["kitti2015", "{data}"], "-o"),
        (["kitti2015", "{data}", "-o", "{new}", "--size", "Q"], "Middlebury"),
        (["middlebury", "{data}", "-o", "{new}", "--method", "a b"], "a b"),
    ],
    "report": [
        ([], "RUN_DIR"),
        (["{none}"], "none"),
        (["{text}"], "text.txt"),
        (["{bare}"], "bare"),
        (["{data}"], "data"),
        (["{image}"], "a.png"),
        (["{empty}"], "empty"),
        (["{data}", "{data}"], "data"),
        (["{data}", "--nope"], "--nope"),
        (["{none}", "-o", "{new}/page.html"], "none"),
    ],
    "generate": [
        (["--scenes", "1"], "-o"),
        (["-o", "{new}"], "--scenes"),
        (["-o", "{new}", "--scenes", "0"], "scenes"),
        (["-o", "{new}", "--scenes", "few"], "few"),
        (["-o", "{new}", "--scenes", "1", "--height", "0"], "0x960"),
        (["-o", "{new}", "--scenes", "1", "--width", "-4"], "540x-4"),
        (["-o", "{new}", "--scenes", "1", "--seed", "-1"], "seed"),
        (["-o", "{new}", "--scenes", "1", "--textures", "{none}"], "none"),
        (["-o", "{new}", "--scenes", "1", "--textures", "{bare}"], "no photograph"),
        (["-o", "{data}", "--scenes", "1"], "data"),
        (["-o", "{text}", "--scenes", "1"], "text.txt"),
    ],
    "preview": [
        (["pairs:{none}"], "none"),
        (["nothing:{data}"], "nothing"),
        (["pairs:{bare}"], "bare"),
        (["generated:x"], "x"),
        (["generated:1:0"], "0"),
        (["generated:1", "-n", "0"], "at least 1 frame"),
        (["generated:1", "-n", "x"], "x"),
        (["generated:1", "--width", "0"], "0 px wide"),
        (["generated:1:1:48x64", "-o", "{data}"], "data"),
        (["generated:1:1:48x64", "-o", "{text}/deeper.png"], "text.txt"),
        (["generated:1:1:48x64", "-o", "{new}.xyz"], "xyz"),
    ],
    "convert": [
        ([], "checkpoint"),
        (["{none}", "-o", "{new}.safetensors"], "none"),
        (["{text}", "-o", "{new}.safetensors"], "text.txt"),
        (["{empty}", "-o", "{new}.safetensors"], "empty"),
        (["{image}", "-o", "{new}.safetensors"], "a.png"),
        (["{bare}", "-o", "{new}.safetensors"], "bare"),
        (["{truth}", "-o", "{new}.safetensors"], "disp_left.pfm"),
        (["{none}"], "-o"),
        (["{none}", "-o"], "-o"),
        (["{none}", "-o", "{new}.safetensors", "--nope"], "--nope"),
    ],
    "bench": [
        (["--presets", "smal"], "small"),
        (["--presets", "small", "--operators", "denze"], "dense"),
        (["--presets", "small", "--operators", "--sizes", "540"], "540"),
        (["--presets", "small", "--operators", "--sizes", "0x10"], "0x10"),
        (["--presets", "small", "--operators", "--widths", "x"], "x"),
        (["--presets", "small", "--operators", "--widths", "-5"], "-5"),
        (["--presets", "small", "--operators", "--height", "0"], "height"),
        (["--repeats", "0"], "repeats"),
        (["--threads", "-1"], "threads"),
        (["--timeout", "0"], "above 0"),
        (["--kernel", "cppp"], "cpp"),
        (["-o", "{data}"], "data"),
    ],
    "selftest": [
        *WEIGHTS,
        (["--onnx", "{none}"], "none"),
        (["--onnx", "{text}"], "text.txt"),
        (["--onnx", "{image}"], "a.png"),
        (["--onnx"], "--onnx"),
        (["surplus"], "surplus"),
        (["--all", "1"], "1"),
    ],
}
CASES = [(verb, options, said) for verb, cases in BAD.items() for options, said in cases]


@pytest.fixture
def given(tmp_path) -> dict[str, str]:
    scene = tmp_path / "data" / "set" / "scene"
    scene.mkdir(parents=True)
    (tmp_path / "bare").mkdir()
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    for path in (scene / "left.png", scene / "right.png", tmp_path / "a.png"):
        write_image(path, image)
    write_image(tmp_path / "small.png", image[:40])
    write_pfm(scene / "disp_left.pfm", np.full((48, 64), 5, np.float32))
    (tmp_path / "text.txt").write_text("this is\nno such file\n")
    (tmp_path / "empty.safetensors").touch()
    (tmp_path / "a.csv").write_text(f"{HEAD}x,01,1.0{REST}y,02,2.0{REST}")
    (tmp_path / "other.csv").write_text(f"{HEAD}z,03,1.0{REST}")
    (tmp_path / "recipe.toml").write_text('[model]\npreset = "tiny"\n')
    files = {"image": "a.png", "small": "small.png", "text": "text.txt", "empty": "empty.safetensors", "csv": "a.csv"}
    files |= {"other": "other.csv", "recipe": "recipe.toml", "data": "data", "bare": "bare", "none": "none", "new": "new"}
    files["truth"] = "data/set/scene/disp_left.pfm"
    return {key: str(tmp_path / name) for key, name in files.items()}


def contents(folder: Path) -> list[tuple[Path, bytes]]:
    return sorted((path, path.read_bytes() if path.is_file() else b"") for path in folder.rglob("*"))


def test_every_verb_has_ten():
    assert {verb: len(cases) for verb, cases in BAD.items() if len(cases) < 10} == {}


@pytest.mark.parametrize(("verb", "options", "said"), CASES, ids=[f"{verb} {' '.join(options)}" for verb, options, _ in CASES])
def test_one_line_says_what_was_given(tmp_path, monkeypatch, capsys, given, verb, options, said):
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    assert main([verb, *(option.format(**given) for option in options)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1, captured.err
    assert said in captured.err, captured.err
    assert contents(tmp_path) == before, json.dumps([str(path) for path, _ in contents(tmp_path)])
