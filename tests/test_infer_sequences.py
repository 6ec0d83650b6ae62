"""``infer`` on videos, cameras and folders as a user meets it: order, memory, Ctrl-C, what is skipped, what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import weakref
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fake_captures import FakeCapture, opener
from stereo_files import marked, mpo, number_of, pair, read_video, side_by_side, write_video

from stereo.checkpoint import load_model, save_weights
from stereo.cli import main
from stereo.image_io import read_image, read_pfm, write_image
from stereo.inference import film as film_room
from stereo.inference.film import RANGE_FRAMES, DisparityFilm
from stereo.inference.predictor import StereoPredictor
from stereo.model.build import build_model
from stereo.report.colour import colour_disparity
from stereo.sources import opening
from stereo.sources.camera import REOPENINGS, CameraSource
from stereo.sources.frame import StereoFrame

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    torch.manual_seed(0)
    return str(save_weights(build_model("tiny"), tmp_path_factory.mktemp("weights"), "tiny"))


@pytest.fixture
def infer(tmp_path, weights, capsys):
    """Run infer with the small network into tmp_path/out; -> (exit code, the JSON object, the lines on stderr)."""

    def call(*argv: object, code: int = 0):
        done = main(["infer", *map(str, argv), "-o", str(tmp_path / "out"), "--weights", weights, "--device", "cpu", "--json"])
        said = capsys.readouterr()
        assert done == code, said.err
        return json.loads(said.out) if said.out else None, said.err

    return call


@pytest.fixture
def clip(tmp_path) -> str:
    return write_video(tmp_path / "clip.mp4", [side_by_side(n) for n in range(20)], 29.97)


def film_numbers(path: Path | str) -> list[int]:
    return [number_of(image) for image in read_video(Path(path))]


# ---------------------------------------------------------------------------------------------------------------------
# What comes out


def test_a_video_becomes_a_film_in_order(tmp_path, clip, infer):
    result, err = infer(clip, "--layout", "sbs", "--video", "side-by-side")
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {"clip.disp.mp4", "clip.json"}
    assert film_numbers(out / "clip.disp.mp4") == list(range(20))
    facts = json.loads((out / "clip.json").read_text())
    assert (facts["frames"], facts["skipped"], facts["video_frames"], facts["notes"]) == (20, 0, 20, [])
    assert facts["fps"] == facts["video_fps"] == pytest.approx(29.97)
    assert facts["colour_range_from"] == f"the first {RANGE_FRAMES} frames"
    assert facts["disparity_unit"].startswith("px")
    assert result["sequence"]["files"] == [str(out / "clip.disp.mp4"), str(out / "clip.json")]
    assert "20/20" in err and "frame/s" in err, "progress with frames per second"
    assert "20 frames of 96x64 px in" in err and "frames/s)" in err


def test_maps_of_each_frame_are_those_of_the_predictor(tmp_path, clip, infer, weights):
    options = ["--frames", "4:14:5", "--save", "disp.pfm,disp.png", "--both", "--range", 0, 8, "--video", "none"]
    result, _ = infer(clip, "--layout", "sbs", *options)
    out = tmp_path / "out"
    kinds = ("disp.pfm", "disp.png", "right.disp.pfm", "right.disp.png", "json")
    assert {p.name for p in out.iterdir()} == {f"clip_{n:06d}.{kind}" for n in (4, 9) for kind in kinds} | {"clip.json"}
    frames = read_video(Path(clip))
    predictor = StereoPredictor(load_model(weights, "cpu"))
    for n in (4, 9):
        left, right = frames[n][:, :96], frames[n][:, 96:]
        expected = predictor.predict_both(np.ascontiguousarray(left), np.ascontiguousarray(right))
        for stem, view in ((f"clip_{n:06d}", expected[0]), (f"clip_{n:06d}.right", expected[1])):
            np.testing.assert_array_equal(read_pfm(out / f"{stem}.disp.pfm"), view.disp)
            picture = read_image(out / f"{stem}.disp.png")[:64, :96]
            np.testing.assert_array_equal(picture, colour_disparity(view.disp, 0, 8))
    assert result["sequence"]["saved_of_each_frame"] == ["disp.pfm", "disp.png"]
    assert "video" not in result["sequence"]
    facts = json.loads((out / "clip_000009.json").read_text())
    assert (facts["frame"], facts["left"], facts["width"]) == (9, clip, 96) and facts["time"] == pytest.approx(9 / 29.97)


def test_two_folders_with_a_film_beside_their_maps(tmp_path, infer):
    for n in range(4):
        for side, image in zip(("left", "right"), pair(n), strict=True):
            (tmp_path / side).mkdir(exist_ok=True)
            write_image(tmp_path / side / f"{side}_{n}.png", image)
    (tmp_path / "right" / "right_2.png").write_bytes(b"broken")
    result, err = infer(tmp_path / "left", tmp_path / "right", "--video", "side-by-side", "--fps", 5, "--save", "conf.png")
    assert [Path(p["left"]).name for p in result["pairs"]] == ["left_0.png", "left_1.png", "left_3.png"]
    assert film_numbers(result["sequence"]["video"]) == [0, 1, 3]
    assert result["sequence"]["video_fps"] == 5
    assert result["sequence"]["skipped"] == 1
    assert "skipped 1 of 4 frames: " in err and "right_2.png" in err
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {f"left_{n}.{kind}" for n in (0, 1, 3) for kind in ("conf.png", "json")} | {
        "left_sequence.disp.mp4",
        "left_sequence.json",
    }


def test_stereo_pictures_and_swapped_views(tmp_path, infer):
    left, right = pair(3)
    (tmp_path / "a.mpo").write_bytes(mpo([left, right]))
    one, _ = infer(tmp_path / "a.mpo")
    assert one["pairs"][0]["width"] == 96
    write_image(tmp_path / "both.png", np.vstack([right, left]))
    write_image(tmp_path / "l.png", left)
    write_image(tmp_path / "r.png", right)
    for argv in (["both.png", "--layout", "ou", "--swap"], ["r.png", "l.png", "--swap"], ["l.png", "r.png"]):
        infer(tmp_path / argv[0], *(tmp_path / a if a.endswith("png") else a for a in argv[1:]))
    maps = [read_pfm(tmp_path / "out" / f"{stem}.disp.pfm") for stem in ("both", "r", "l")]
    np.testing.assert_array_equal(maps[0], maps[2])
    np.testing.assert_array_equal(maps[1], maps[2])


def test_sizes_and_smoothing_are_said_and_change_the_maps(tmp_path, infer):
    still = [np.hstack(pair(0))] * 6
    noise = np.random.default_rng(0)
    frames = [np.clip(f + noise.normal(0, 3, f.shape), 0, 255).astype(np.uint8) for f in still]
    path = write_video(tmp_path / "still.avi", frames, codec="FFV1")
    spread = []
    for options in ([], ["--smooth", 0.9], ["--sizes", 0.5]):
        result, _ = infer(path, "--layout", "sbs", "--save", "disp.pfm", *options)
        stack = np.stack([read_pfm(tmp_path / "out" / f"still_{n:06d}.disp.pfm") for n in range(6)])
        assert stack.shape == (6, 64, 96)
        spread.append(np.abs(np.diff(stack, axis=0)).mean())
    assert spread[1] < 0.7 * spread[0], "less flicker"
    assert result["sequence"]["sizes"] == [0.5]


def test_a_window_needs_a_display(clip, infer, monkeypatch, caplog):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    if not sys.platform.startswith("linux"):
        pytest.skip("other systems always have a display")
    result, _ = infer(clip, "--layout", "sbs", "--show", "--max-frames", 2)
    assert caplog.messages.count("--show: there is no display; going on without a window") == 1
    assert result["sequence"]["frames"] == 2 and len(film_numbers(result["sequence"]["video"])) == 2


def test_a_window_that_is_closed_ends_it(clip, infer, monkeypatch):
    class Shown:
        def __init__(self, title):
            self.left = 8

        def show(self, rgb):
            self.left -= 1
            return self.left > 0

        def close(self):
            pass

    monkeypatch.setattr("stereo.cli.source_options.window_problem", lambda: None)
    monkeypatch.setattr("stereo.cli.source_options.Window", Shown)
    result, _ = infer(clip, "--layout", "sbs", "--show", "--range", 0, 9)
    assert result["sequence"]["frames"] == 8


# ---------------------------------------------------------------------------------------------------------------------
# Memory


def test_no_frame_is_kept(clip, infer, monkeypatch):
    """Alive at once: those that settle the colours, one at work, one in the queue, one in the reader's hand."""
    alive: list[weakref.ref] = []
    most = []

    class Watched(StereoFrame):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            alive.append(weakref.ref(self.left))
            most.append(sum(left() is not None for left in alive))

    monkeypatch.setattr("stereo.sources.video.StereoFrame", Watched)
    infer(clip, "--layout", "sbs", "--smooth", 0.5)
    assert len(most) == 20
    assert max(most) <= RANGE_FRAMES + 3
    assert max(most[-5:]) <= 4, "the first frames are let go once the colours are settled"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_300_frames_take_no_more_memory_than_100(tmp_path, weights):
    size = {"height": 240, "width": 320}
    path = write_video(tmp_path / "long.mp4", [side_by_side(n % 256, **size) for n in range(300)])
    argv = [sys.executable, "run_stereo.py", "infer", path, "--layout", "sbs", "--video", "side-by-side", "--save", "conf.png"]
    argv += ["-o", str(tmp_path / "out"), "--weights", weights, "--device", "cpu", "--smooth", "0.5"]
    program = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    resident: dict[int, int] = {}  # frames done -> bytes
    while program.poll() is None:
        done = len(list((tmp_path / "out").glob("*.conf.png"))) if (tmp_path / "out").exists() else 0
        pages = Path(f"/proc/{program.pid}/statm").read_text().split()
        if pages:
            resident[done] = int(pages[1]) * os.sysconf("SC_PAGE_SIZE")
        time.sleep(0.05)
    out, err = program.communicate()
    assert program.returncode == 0, err
    early = max(size for done, size in resident.items() if 50 <= done < 100)
    late = max(size for done, size in resident.items() if 250 <= done < 300)
    print(f"resident: {early / 2**20:.0f} MiB at frames 50 to 100, {late / 2**20:.0f} MiB at frames 250 to 300")
    assert late - early < 200 * size["height"] * size["width"] * 3, "less than what 200 frames would take"
    assert late < early * 1.03
    assert film_numbers(tmp_path / "out" / "long.disp.mp4") == [n % 256 for n in range(300)]
    assert "300 frames of 320x240 px in" in out


# ---------------------------------------------------------------------------------------------------------------------
# Ends that nobody wants


def test_ctrl_c_leaves_a_film_that_plays(tmp_path, weights):
    """A real process, a real signal; and a damaged frame of which FFmpeg must not speak."""
    path = Path(write_video(tmp_path / "long.avi", [side_by_side(n % 256) for n in range(2000)], codec="MJPG"))
    data = bytearray(path.read_bytes())
    frame = len(data) // 2000
    data[3 * frame : 3 * frame + frame // 2] = bytes(frame // 2)
    path.write_bytes(data)
    out = tmp_path / "out"
    argv = [sys.executable, str(ROOT / "run_stereo.py"), "infer", str(path), "--layout", "sbs", "--video", "side-by-side"]
    argv += ["-o", str(out), "--weights", weights, "--device", "cpu", "--range", "0", "8", "--save", "disp16.png"]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell starts what runs in the background deaf to Ctrl-C
    program = subprocess.Popen(
        argv, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heard
    )
    for _ in range(1200):
        if program.poll() is not None or len(list(out.glob("*.disp16.png")) if out.exists() else []) >= 12:
            break
        time.sleep(0.05)
    program.send_signal(signal.SIGINT)
    said, err = program.communicate(timeout=60)
    assert program.returncode == 130, err
    numbers = film_numbers(out / "long.disp.mp4")
    assert len(numbers) >= 11 and numbers == sorted(numbers) and len(set(numbers)) == len(numbers) < 256
    lines = [line for line in said.splitlines() if line.startswith("interrupted")]
    assert lines == [f"interrupted: {out / 'long.disp.mp4'} holds {len(numbers)} frames"]
    assert json.loads((out / "long.json").read_text())["frames"] in (len(numbers), len(numbers) - 1)
    assert not list(out.glob(".*")), "no temporary file is left"
    assert "Traceback" not in err and "mjpeg" not in err and "cap_ffmpeg" not in err


def test_ctrl_c_in_process(tmp_path, clip, infer, monkeypatch):
    calls = []
    predict = StereoPredictor.predict

    def interrupted(self, left, right):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return predict(self, left, right)

    monkeypatch.setattr(StereoPredictor, "predict", interrupted)
    result, err = infer(clip, "--layout", "sbs", "--video", "side-by-side", code=130)
    assert film_numbers(result["sequence"]["video"]) == list(range(7))
    assert f"interrupted: {tmp_path / 'out' / 'clip.disp.mp4'} holds 7 frames" in err
    calls.clear()
    close = DisparityFilm.close
    monkeypatch.setattr(DisparityFilm, "close", lambda film: (os.kill(os.getpid(), signal.SIGINT), close(film)))
    result, _ = infer(clip, "--layout", "sbs", code=130)  # Ctrl-C twice
    assert len(film_numbers(result["sequence"]["video"])) == 7
    calls[:] = [1] * 7
    assert infer(clip, "--layout", "sbs", code=130)[0] is None, "before the first frame there is nothing to tell of"


def test_ctrl_c_among_images_keeps_those_that_are_done(tmp_path, infer, monkeypatch):
    for n in range(4):
        for side, image in zip("lr", pair(n), strict=True):
            (tmp_path / side).mkdir(exist_ok=True)
            write_image(tmp_path / side / f"{n}.png", image)
    predict, calls = StereoPredictor.predict, []

    def interrupted(self, left, right):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return predict(self, left, right)

    monkeypatch.setattr(StereoPredictor, "predict", interrupted)
    result, err = infer(tmp_path / "l", tmp_path / "r", "--save", "disp.pfm", code=130)
    assert [Path(p["left"]).name for p in result["pairs"]] == ["0.png", "1.png"]
    assert f"interrupted: 2 frame(s) are done, in {tmp_path / 'out'}" in err
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {f"{n}.{kind}" for n in "01" for kind in ("disp.pfm", "json")}


def test_a_full_disk_keeps_the_film(tmp_path, clip, infer, monkeypatch):
    free = [film_room.RESERVE] * 4 + [0] * 99
    monkeypatch.setattr(film_room.shutil, "disk_usage", lambda _: SimpleNamespace(free=free.pop(0)))
    _, err = infer(clip, "--layout", "sbs", "--video", "side-by-side", "--range", 0, 8, code=1)
    film = tmp_path / "out" / "clip.disp.mp4"
    assert f"stopped: the disk is full but for 0 MiB; make room, or write elsewhere with -o; {film} holds 4 frames" in err
    assert film_numbers(film) == [0, 1, 2, 3]


def test_an_unplugged_camera_keeps_what_it_has_seen(tmp_path, infer, monkeypatch):
    gone = [FakeCapture([], opened=False) for _ in range(REOPENINGS)]
    captures = opener(FakeCapture([side_by_side(n) for n in range(3)]), *gone)
    monkeypatch.setattr(opening, "CameraSource", partial(CameraSource, opener=captures, wait=lambda _: time.sleep(0.3)))
    result, err = infer("camera:0", "--layout", "sbs", "--video", "side-by-side", code=1)
    film = tmp_path / "out" / "camera0.disp.mp4"
    numbers = film_numbers(film)
    assert numbers == sorted(numbers) and numbers[-1] == 2, "the newest frame is always among them"
    line = next(line for line in err.splitlines() if line.startswith("stopped: "))
    assert "camera:0 has delivered nothing since frame 3: unplugged" in line
    assert line.endswith(f"{film} holds {len(numbers)} frames")
    assert (tmp_path / "out" / "camera0.json").exists() and result is None


def test_damaged_videos_are_accounted_for(tmp_path, infer):
    path = write_video(tmp_path / "clip.avi", [side_by_side(n) for n in range(20)], codec="MJPG")
    data = Path(path).read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: len(data) * 2 // 3])
    result, err = infer(tmp_path / "cut.avi", "--layout", "sbs")
    done = result["sequence"]["frames"]
    assert 5 < done < 20 and result["sequence"]["skipped"] == 20 - done
    assert f"skipped {20 - done} of 20 frames: " in err
    assert f"the video announces 20 frames and {done} could be decoded" in err


@pytest.mark.parametrize(
    ("options", "reason"),
    [(["--fx", 90, "--baseline", 1, "--calib-size", "96x64"], "another shape"), (["--sizes", "0.5"], "at least 32 px")],
)
def test_a_pair_that_the_options_do_not_fit_is_left_out(tmp_path, infer, options, reason):
    for side in "lr":
        (tmp_path / side).mkdir()
        for n, height in enumerate((64, 40, 64)):
            write_image(tmp_path / side / f"{n}.png", marked(n, height=height))
    result, err = infer(tmp_path / "l", tmp_path / "r", "--save", "disp.pfm", *options)
    assert [pair["frame"] for pair in result["pairs"]] == [0, 2]
    assert "skipped 1 of 3 frames: " in err and reason in err
    assert not list((tmp_path / "out").glob("1.*"))


def test_a_calibrated_film_has_the_depth_of_each_frame(tmp_path, clip, infer):
    rig = ["--fx", 100, "--baseline", 0.5, "--doffs", 1, "--save-depth", "npy"]
    infer(clip, "--layout", "sbs", "--max-frames", 2, "--save", "disp.pfm", *rig)
    out = tmp_path / "out"
    for n in (0, 1):
        disp, depth = read_pfm(out / f"clip_00000{n}.disp.pfm"), np.load(out / f"clip_00000{n}.depth.npy")
        known = np.isfinite(depth)
        np.testing.assert_allclose(depth[known], 50 / (disp[known] + 1), rtol=1e-5)
    saved = {f"clip_00000{n}.{kind}" for n in (0, 1) for kind in ("depth.npy", "json")}
    for path in out.iterdir():
        path.unlink()
    infer(clip, "--layout", "sbs", "--max-frames", 2, "--video", "none", *rig)
    assert {path.name for path in out.iterdir()} == saved | {"clip.json"}


# ---------------------------------------------------------------------------------------------------------------------
# Refusals


def test_what_is_refused_leaves_nothing_behind(tmp_path, clip, weights, capsys):
    left, right = (str(tmp_path / name) for name in ("l.png", "r.png"))
    for path, image in zip((left, right), pair(1), strict=True):
        write_image(path, image)
    write_image(tmp_path / "odd.png", marked(1, width=97))
    (tmp_path / "junk.mp4").write_bytes(b"junk" * 99)
    (tmp_path / "junk.mpo").write_bytes(b"junk" * 99)
    (tmp_path / "empty").mkdir()
    slow = write_video(tmp_path / "slow.mp4", [side_by_side(0)] * 2, 10)
    small = write_video(tmp_path / "small.mp4", [np.hstack(pair(0, height=30))] * 3)
    sbs = ["--layout", "sbs"]
    cases: list[tuple[list[str], str]] = [
        ([left], "give the right one as well"),
        (["x" * 300 + ".png", right], "File name too long"),
        (["x" * 300 + ".mp4", *sbs], "no such file"),
        ([clip], "--layout sbs (side by side)"),
        ([clip, left], "expected two images, two folders"),
        ([clip, slow], "expected one rate"),
        ([clip, right, "--layout", "ou"], "it is for one that holds both views"),
        ([str(tmp_path / "odd.png"), *sbs], "97 px wide, odd"),
        ([str(tmp_path / "junk.mp4"), *sbs], "cannot decode video"),
        ([str(tmp_path / "junk.mpo")], "holds 0 picture(s)"),
        ([str(tmp_path / "none.mp4"), *sbs], "no such file"),
        ([str(tmp_path / "empty"), str(tmp_path / "empty")], "no file found"),
        ([str(tmp_path / "*.tif"), str(tmp_path / "*.png")], "no folder or file found"),
        ([small, *sbs], "no frame of"),
        (["camera:99", *sbs], "camera:99 cannot be opened"),
        (["camera:left", *sbs], "expected camera:N"),
        ([clip, *sbs, "--frames", "30:"], "selects none of the 20 frames"),
        ([clip, *sbs, "--frames", "5:2"], "selects nothing"),
        ([clip, *sbs, "--max-frames", "0"], "expected a whole number above 0"),
        ([clip, *sbs, "--range", "9", "3"], "the smaller one first"),
        ([clip, *sbs, "--range", "0", "nan"], "two finite numbers"),
        ([clip, *sbs, "--smooth", "1.5"], "expected 0 (off) to 1"),
        ([clip, *sbs, "--sizes", "5"], "from 0.25 to 4"),
        ([clip, *sbs, "--sizes", "0.3"], "makes 29x19 px of 96x64 px"),
        ([clip, *sbs, "--fps", "0"], "expected a number above 0"),
        ([clip, *sbs, "--fps", "5000"], "expected at most 1000 frames per second"),
        ([clip, *sbs, "--save", "disp.pmf"], "did you mean disp.pfm"),
        ([clip, *sbs, "--video", "none"], "got neither a video nor maps"),
        ([left, right, "--video", "disp"], "got --video and one pair"),
        ([left, right, "--smooth", "0.5"], "got --smooth and one pair"),
    ]
    for argv, line in cases:
        assert main(["infer", *argv, "-o", str(tmp_path / "out"), "--weights", weights]) == 2, argv
        said = capsys.readouterr()
        assert said.out == "" and len(said.err.splitlines()) == 1, (argv, said)
        assert line in said.err, (argv, said.err)
        assert not (tmp_path / "out").exists(), argv


@pytest.mark.parametrize("existing", [False, True])
def test_a_pair_that_no_memory_suffices_for_leaves_no_folder_behind(tmp_path, clip, infer, monkeypatch, existing):
    monkeypatch.setattr(StereoPredictor, "estimate", lambda self, height, width: 10**9)
    if existing:
        (tmp_path / "out").mkdir()
    before = sorted(tmp_path.rglob("*"))
    _, err = infer(clip, "--layout", "sbs", "--max-memory", "1M", code=2)
    assert "error: 96x64 px do not fit into 1 MiB" in err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_target_that_cannot_be_written(tmp_path, clip, weights, capsys):
    (tmp_path / "out" / "clip.disp.mp4").mkdir(parents=True)
    argv = ["infer", clip, "--layout", "sbs", "-o", str(tmp_path / "out"), "--weights", weights, "--range", "0", "8"]
    assert main(argv) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(errors) == 1 and "is not a regular file" in errors[0]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["clip.disp.mp4"]
