"""The command line as a user meets it: every promised file, one line for each kind of bad input, nothing half-written."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from datasets.batches import training_batches
from stereo.checkpoint import load_model, save_weights
from stereo.cli import VERBS, main
from stereo.cli.shared import memory_size
from stereo.geometry import Calibration, points_from_disparity
from stereo.image_io import read_disparity, read_image, read_pfm, read_ply, write_image, write_pfm
from stereo.inference.planning import HELD_BYTES
from stereo.inference.predictor import StereoPredictor
from stereo.model.build import build_model

ROOT = Path(__file__).resolve().parents[1]
CALIB = "cam0=[100 0 32; 0 100 24; 0 0 1]\ncam1=[100 0 32; 0 100 24; 0 0 1]\ndoffs=0\nbaseline=100\nwidth=64\nheight=48\n"


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    torch.manual_seed(0)
    return str(save_weights(build_model("tiny"), tmp_path_factory.mktemp("weights"), "tiny"))


@pytest.fixture
def pair(tmp_path) -> tuple[str, str]:
    paths = []
    for name in ("left.png", "right.png"):
        image = np.random.default_rng(len(paths)).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        write_image(tmp_path / name, image)
        paths.append(str(tmp_path / name))
    return tuple(paths)


def refused(capsys, *argv: str) -> str:
    """Run and expect exit code 2 with exactly one line on stderr, which is returned."""
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert "Traceback" not in captured.err
    return lines[0]


def test_infer_writes_every_file(tmp_path, pair, weights, capsys):
    calib = tmp_path / "calib.txt"
    calib.write_text(CALIB)
    out = tmp_path / "new" / "out"
    assert main(["infer", *pair, "-o", str(out), "--weights", weights, "--calib", str(calib), "--both", "--json"]) == 0
    maps = ["disp.pfm", "disp.png", "disp16.png", "occ.png", "conf.png"]
    files = [*maps, "depth.npy", "depth.png", "ply"]
    expected = {"left.json"} | {f"{stem}.{s}" for stem in ("left", "left.right") for s in files}
    assert {p.name for p in out.iterdir()} == expected

    disp = read_pfm(out / "left.disp.pfm")
    assert disp.shape == (48, 64)
    fine, valid = read_disparity(out / "left.disp16.png")
    assert valid.all()
    np.testing.assert_allclose(fine, np.maximum(disp, 1 / 256), atol=0.5 / 256 + 1e-6)
    depth = np.load(out / "left.depth.npy")
    measured = np.isfinite(depth)  # the rest is occluded, or at infinity
    assert measured.mean() > 0.1
    np.testing.assert_allclose((depth * disp)[measured], 10.0, rtol=1e-4)  # 100 px * 0.1 m
    for name in ("occ", "conf"):
        assert cv2.imread(str(out / f"left.{name}.png"), cv2.IMREAD_UNCHANGED).shape == (48, 64)
    assert read_image(out / "left.disp.png").shape[1] == 64
    points, colours = read_ply(out / "left.ply")
    assert len(points) == len(colours) <= 48 * 64
    facts = json.loads((out / "left.json").read_text())
    assert facts["width"] == 64
    assert facts["disparity_sign"].startswith("x_right = x_left - disparity")
    printed = json.loads(capsys.readouterr().out)
    assert len(printed["pairs"][0]["files"]) == len(expected)


def test_infer_gives_the_right_view_its_own_camera(tmp_path, pair, weights):
    numbers = ["--fx", "100", "--baseline", "0.1", "--cx", "30", "--cy", "20", "--doffs", "5", "--keep-occluded"]
    assert main(["infer", *pair, "-o", str(tmp_path / "out"), "--weights", weights, *numbers, "--both"]) == 0
    rig = Calibration(focal_px=100, cx=30, cy=20, baseline_m=0.1, doffs_px=5)
    for stem, cx in (("left", 30), ("left.right", 35)):
        disp = read_pfm(tmp_path / "out" / f"{stem}.disp.pfm")
        expected = points_from_disparity(disp, replace(rig, cx=cx)).reshape(-1, 3)
        points, _ = read_ply(tmp_path / "out" / f"{stem}.ply")
        np.testing.assert_allclose(points, expected[np.isfinite(expected[:, 2])], rtol=1e-4, atol=1e-6)
    facts = json.loads((tmp_path / "out" / "left.json").read_text())
    assert facts["depth"]["baseline_m"] == facts["depth_right"]["baseline_m"] == 0.1


def test_infer_finds_its_images_wherever_they_stand(tmp_path, pair, weights):
    left, right = pair
    for i, argv in enumerate([[left, "-o", "{}", right], ["-o", "{}", left, right], [left, right, "-o", "{}"]]):
        out = tmp_path / str(i)
        assert main(["infer", *(text.format(out) for text in argv), "--weights", weights]) == 0
        assert (out / "left.disp.pfm").exists()


def test_infer_on_two_folders(tmp_path, weights, capsys):
    rng = np.random.default_rng(0)
    for side in ("l", "r"):
        (tmp_path / side).mkdir()
        for name in ("a.png", "b.png"):
            write_image(tmp_path / side / name, rng.integers(0, 256, (40, 48, 3), dtype=np.uint8))
    folders = [str(tmp_path / "l"), str(tmp_path / "r")]
    assert main(["infer", *folders, "-o", str(tmp_path / "out"), "--weights", weights]) == 0
    assert len(list((tmp_path / "out").glob("*.disp.pfm"))) == 2
    capsys.readouterr()
    (tmp_path / "r" / "b.png").unlink()
    assert "1 of 3 images have no partner: 'b'" in refused(capsys, "infer", *folders, "--weights", weights)
    assert "two folders" in refused(capsys, "infer", folders[0], str(tmp_path / "r" / "a.png"), "--weights", weights)


def test_infer_refuses_bad_images(tmp_path, pair, weights, capsys):
    left, right = pair
    out = tmp_path / "out"
    rest = ["-o", str(out), "--weights", weights]
    assert "no.png" in refused(capsys, "infer", str(tmp_path / "no.png"), right, *rest)
    (tmp_path / "text.png").write_text("not an image")
    assert "text.png" in refused(capsys, "infer", str(tmp_path / "text.png"), right, *rest)
    (tmp_path / "cut.png").write_bytes(Path(left).read_bytes()[:2000])
    assert "cut.png" in refused(capsys, "infer", left, str(tmp_path / "cut.png"), *rest)
    write_image(tmp_path / "wide.png", np.zeros((48, 80, 3), np.uint8))
    assert "80x48" in refused(capsys, "infer", left, str(tmp_path / "wide.png"), *rest)
    write_image(tmp_path / "small.png", np.zeros((31, 64, 3), np.uint8))
    assert "32 px" in refused(capsys, "infer", str(tmp_path / "small.png"), str(tmp_path / "small.png"), *rest)
    assert not out.exists(), "a refused pair must leave nothing behind"


def test_infer_refuses_other_bad_input(tmp_path, pair, weights, capsys):
    out = ["-o", str(tmp_path / "out")]
    assert "do not exist" in refused(capsys, "infer", *pair, *out, "--weights", str(tmp_path / "none.safetensors"))
    (tmp_path / "junk.safetensors").write_bytes(b"junk" * 100)
    assert "junk.safetensors" in refused(capsys, "infer", *pair, *out, "--weights", str(tmp_path / "junk.safetensors"))
    (tmp_path / "calib.txt").write_text("cam0=1\n")
    assert "calib.txt" in refused(capsys, "infer", *pair, *out, "--weights", weights, "--calib", str(tmp_path / "calib.txt"))
    (tmp_path / "file").write_text("")
    unwritable = str(tmp_path / "file" / "out")
    assert unwritable in refused(capsys, "infer", *pair, "-o", unwritable, "--weights", weights)
    if not torch.cuda.is_available():
        assert "--device cpu" in refused(capsys, "infer", *pair, *out, "--weights", weights, "--device", "cuda")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "required: VERB"),
        (["infr"], "invalid choice: 'infr'"),
        (["infer"], "required: left"),
        (["infer", "a.png", "b.png", "c.png", "d.png"], "got 4 paths, expected one or two: put globs in quotes"),
        (["infer", "a.png", "b.png", "--colour"], "unrecognized arguments: --colour"),
        (["demo", "--seed", "x"], "invalid int value"),
        (["train", "missing.toml"], "'missing.toml' does not exist"),
        (["train", "experiments/smoke.toml", "--set", "train.stps=3"], "did you mean steps"),
        (["train", "experiments/smoke.toml", "--set", "model.preset=smal"], "did you mean small"),
        (["train", "experiments/smoke.toml", "--max-minutes", "0"], "got '0', expected a number above 0"),
        (["train", "experiments/smoke.toml", "--set", "train.precision=fp8"], "train.precision: got 'fp8', expected one of"),
        (["train", "experiments/smoke.toml", "--set", "steps"], "expected --set section.key=value"),
        (["evaluate", "--data", "nonsense"], "expected NAME:PATH"),
        (["evaluate", "--data", "pears:x"], "did you mean pairs"),
        (["evaluate", "--data", "pairs:nowhere"], "nowhere"),
        (["evaluate", "--data", "generated:7", "--baseline", "bm"], "invalid choice: 'bm'"),
        (["infer", "a.png", "b.png", "--max-memory", "2"], "got '2', expected a size above 0 with its unit K, M, G or T"),
        (["infer", "a.png", "b.png", "--max-memory", "0G"], "got '0G', expected a size above 0"),
        (["infer", "a.png", "b.png", "--max-memory=-1G"], "got '-1G', expected a size above 0"),
        (["evaluate", "--data", "generated:7", "--max-memory", "lots"], "got 'lots', expected a size above 0"),
        (["infer", "a.png", "b.png", "--max-disparity", "0"], "got '0', expected a number above 0"),
        (["infer", "a.png", "b.png", "--max-disparity", "nan"], "got 'nan', expected a number above 0"),
        (["generate", "-o", "README.md", "--scenes", "1"], "README.md"),
        (["generate", "-o", "somewhere", "--scenes", "0"], "0 scenes"),
    ],
)
def test_bad_arguments_get_one_line(capsys, monkeypatch, argv, message):
    monkeypatch.chdir(ROOT)
    assert message in refused(capsys, *argv)


@pytest.mark.parametrize(
    ("text", "size"), [("2G", 2**31), ("512m", 2**29), ("1.5GiB", 3 * 2**29), ("64KB", 2**16), (".5T", 2**39)]
)
def test_sizes_of_memory(text, size):
    assert memory_size(text) == size


def test_infer_keeps_to_the_memory_that_it_is_given(tmp_path, weights, capsys, caplog):
    caplog.set_level(logging.INFO, "stereo.inference.predictor")
    paths = [str(tmp_path / name) for name in ("left.png", "right.png")]
    for seed, path in enumerate(paths):
        write_image(path, np.random.default_rng(seed).integers(0, 256, (400, 96, 3), dtype=np.uint8))
    argv = ["infer", *paths, "-o", str(tmp_path / "out"), "--weights", weights, "--device", "cpu"]
    assert main([*argv, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"][0]["matched"] == "the whole image"
    run = StereoPredictor(load_model(weights, "cpu"))
    memory = (run.estimate(400, 96) + 400 * 96 * HELD_BYTES) // 2**10 - 1  # KiB: just too little for the whole
    assert main([*argv, "--json", "--max-memory", f"{memory}K"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"][0]["matched"] == "tiles: 2 bands of 352x96"
    told = [text for text in caplog.messages if text.startswith("tiles: 2 bands of 352x96 (whole image needs about ")]
    assert len(told) == 1 and told[0].endswith("MiB are allowed)")
    line = refused(capsys, *argv, "--max-memory", "1M", "--max-disparity", "40")
    assert "96x400 px need about" in line and "1 MiB are allowed" in line


def test_evaluate_refuses_an_empty_disparity_file(tmp_path, weights, capsys):
    scene = tmp_path / "set" / "scene"
    scene.mkdir(parents=True)
    for name in ("left.png", "right.png"):
        write_image(scene / name, np.zeros((40, 48, 3), np.uint8))
    (scene / "disp_left.pfm").write_bytes(b"")
    assert "disp_left.pfm" in refused(capsys, "evaluate", "--data", f"pairs:{tmp_path}", "--weights", weights)


@pytest.mark.parametrize("baseline", ["sgbm", "sgbm-3way"])
def test_evaluate_writes_table_csv_and_card(tmp_path, weights, capsys, baseline):
    scene = tmp_path / "data" / "set" / "scene"
    scene.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("left.png", "right.png"):
        write_image(scene / name, rng.integers(0, 256, (40, 64, 3), dtype=np.uint8))
    write_pfm(scene / "disp_left.pfm", np.full((40, 64), 5, np.float32))
    argv = ["evaluate", "--data", f"pairs:{tmp_path / 'data'}", "--weights", weights, "-o", str(tmp_path / "o")]
    assert main([*argv, "--baseline", baseline]) == 0
    assert "set/scene" in capsys.readouterr().out
    written = {f"{method}.{suffix}" for method in ("tiny", baseline) for suffix in ("csv", "card.json")}
    assert {p.name for p in (tmp_path / "o").iterdir()} == written
    cards = [json.loads((tmp_path / "o" / f"{m}.card.json").read_text()) for m in ("tiny", baseline)]
    assert cards[0]["data_sha256"] == cards[1]["data_sha256"]
    assert cards[0]["weights"]["name"] == Path(weights).name
    assert cards[1]["weights"] is None


def test_generate_train_resume_evaluate(tmp_path, capsys):
    """The whole path on a crumb of data: what train writes, evaluate and infer can load."""
    run = str(tmp_path / "run")
    crumb = ["data.crops=[[32,64]]", "data.workers=0", "train.batch_size=2", "train.validation_scenes=1", "train.threads=0"]
    argv = ["train", str(ROOT / "experiments" / "smoke.toml"), "-o", run]
    argv += [x for setting in crumb for x in ("--set", setting)]
    assert main([*argv, "--set", "train.steps=2"]) == 0
    assert "already holds a run" in refused_after(capsys, *argv)
    assert main([*argv, "--set", "train.steps=3", "--resume", "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["samples_seen"] == 6
    assert main(["generate", "-o", str(tmp_path / "data"), "--scenes", "1", "--height", "48", "--width", "64"]) == 0
    assert main(["evaluate", "--data", f"flyingthings3d:{tmp_path / 'data'}", "--weights", card["weights"]]) == 0
    assert main(["evaluate", "--data", "generated:5:1:48x64", "--weights", f"{run}/checkpoint.pt"]) == 0


def test_training_renders_its_scenes_where_it_runs(tmp_path, monkeypatch):
    """Nothing is rendered one by one, and the batches are asked for on the training's device."""
    asked = []

    def batches(*args, device):
        asked.append(device)
        return training_batches(*args, device=device)

    monkeypatch.setattr("stereo.cli.train.training_batches", batches)
    monkeypatch.setattr("datasets.batches.render_shot", None)
    crumb = ["data.renderer=device", "data.crops=[[32,64]]", "data.workers=0", "train.batch_size=2", "train.steps=2"]
    crumb += ["train.validation_scenes=1", "train.threads=0"]
    argv = ["train", str(ROOT / "experiments" / "smoke.toml"), "-o", str(tmp_path / "run"), "--device", "cpu"]
    assert main([*argv, *(x for setting in crumb for x in ("--set", setting))]) == 0
    assert asked == [torch.device("cpu")]


def refused_after(capsys, *argv: str) -> str:
    capsys.readouterr()
    return refused(capsys, *argv)


@pytest.mark.parametrize("verb", [None, *VERBS])
def test_help_explains(capsys, verb):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"] if verb is None else [verb, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in VERBS) if verb is None else VERBS[verb][1].split()[0] in text.lower()


def test_program_is_called_from_anywhere(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "run_stereo.py"), "infer", "a.png", "b.png"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_preview_draws_a_contact_sheet_of_any_data_set(tmp_path, capsys):
    target = tmp_path / "sheets" / "one.png"
    assert main(["preview", "generated:3:9:48x96", "-n", "3", "--width", "64", "-o", str(target), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["frames"] == ["generated:3/000000", "generated:3/000004", "generated:3/000008"]
    assert read_image(target).shape[1] > 4 * 64
    assert main(["preview", "generated:3", "-n", "0"]) == 2
    assert "expected at least 1 frame" in capsys.readouterr().err


def test_generate_takes_photographs_for_textures(tmp_path, capsys):
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    command = ["generate", "-o", str(tmp_path / "out"), "--scenes", "1", "--height", "48", "--width", "64"]
    assert main([*command, "--textures", str(photographs)]) == 2
    assert "no photograph in the folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    write_image(photographs / "red.png", np.full((40, 40, 3), (255, 0, 0), np.uint8))
    assert main([*command, "--textures", str(photographs)]) == 0
    capsys.readouterr()
    with_photographs = read_image(next((tmp_path / "out").glob("frames_cleanpass/TRAIN/A/0000/left/*.png")))
    assert main([*command[:2], str(tmp_path / "plain"), *command[3:]]) == 0
    plain = read_image(next((tmp_path / "plain").glob("frames_cleanpass/TRAIN/A/0000/left/*.png")))
    assert not np.array_equal(plain, with_photographs)


def test_train_on_data_sets_in_stated_shares(tmp_path, capsys):
    made, cache = str(tmp_path / "things"), tmp_path / "cache"
    assert main(["generate", "-o", made, "--scenes", "3", "--height", "64", "--width", "96"]) == 0
    settings = [f'data.sets=[["flyingthings3d:{made}", 3.0], ["generated:5:4:64x96", 1.0]]', f"data.cache={cache}"]
    settings += ["data.crops=[[32,64]]", "data.workers=0", "train.batch_size=4", "train.steps=2", "train.validation_scenes=1"]
    options = [option for setting in settings for option in ("--set", setting)]
    capsys.readouterr()
    command = ["train", str(ROOT / "experiments" / "smoke.toml"), "-o", str(tmp_path / "run"), "--json"]
    assert main([*command, *options]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"]["data"]["sets"][0] == [f"flyingthings3d:{made}", 3.0]
    assert len(list(cache.glob("*.npz"))) == 3  # the generator has no files to cache
    bad = ["--set", 'data.sets=[["flyingthings3d:nowhere", 1.0]]']
    assert "nowhere" in refused(capsys, *command[:-2], str(tmp_path / "bad"), "--set", "data.workers=0", *bad)
    given = ["--set", "data.augmentation.crop=middle"]
    assert "one of random, centre" in refused(capsys, *command[:-2], str(tmp_path / "bad"), *given)


@pytest.mark.parametrize("verb", ["--help", "check"])
def test_a_reader_that_has_seen_enough_ends_it_quietly(pair, verb):
    """As 'run_stereo.py ... | head -0' does."""
    command = [sys.executable, "run_stereo.py", verb, *pair]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert said == "" and process.returncode == (141 if verb == "check" else 0)  # argparse swallows it where it prints help


def test_a_pair_that_hardly_matches_is_doubted(tmp_path, capsys):
    """Noise has no match; a picture and itself, shifted, have one everywhere but at the border."""
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (32, 80, 3), dtype=np.uint8), (320, 128), interpolation=cv2.INTER_CUBIC)
    write_image(tmp_path / "left.png", image[:, :-16])
    write_image(tmp_path / "right.png", image[:, 16:])
    write_image(tmp_path / "noise.png", rng.integers(0, 256, (128, 304, 3), dtype=np.uint8))
    out = ["-o", str(tmp_path / "out")]
    assert main(["infer", str(tmp_path / "left.png"), str(tmp_path / "right.png"), *out, "--sizes", "1"]) == 0
    assert "warning" not in capsys.readouterr().out
    assert main(["infer", str(tmp_path / "left.png"), str(tmp_path / "noise.png"), *out, "--sizes", "1"]) == 0
    assert "are left and right exchanged, or the pair not rectified" in capsys.readouterr().out
