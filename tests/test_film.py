"""Films of disparities: fixed colours, whole files or none, no flicker where nothing moves, no trail behind what does."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from stereo_files import marked, number_of, pair, read_video

from stereo.inference import film as film_room
from stereo.inference.film import RANGE_FRAMES, RESERVE, DisparityFilm, writing_film
from stereo.inference.smoothing import CHANGE, CONTRADICTION, TemporalFilter
from stereo.inference.window import window_problem
from stereo.report.colour import colour_disparity
from stereo.sources.frame import StereoFrame
from stereo.types import DisparityMap, InputError, StoppedError


def frame(index: int, time: float | None = None, width: int = 96) -> StereoFrame:
    left, right = pair(index, width=width)
    return StereoFrame(f"f{index}", left, right, index, time, f"frame {index}", ("", ""))


# ---------------------------------------------------------------------------------------------------------------------
# The file


@pytest.mark.parametrize(("codecs", "suffix"), [(film_room.CODECS, ".mp4"), (film_room.CODECS[1:], ".avi")])
@pytest.mark.parametrize("size", [(96, 64), (97, 65)])
def test_a_film_holds_its_frames_in_their_order(tmp_path, monkeypatch, codecs, suffix, size):
    monkeypatch.setattr(film_room, "CODECS", codecs)
    with writing_film(tmp_path, "clip", 29.97, size) as film:
        for n in range(20):
            film.write(marked(n, height=size[1], width=size[0]))
        assert not (tmp_path / f"clip{suffix}").exists(), "it appears when it is whole"
    assert [path.name for path in tmp_path.iterdir()] == [f"clip{suffix}"]
    shown = read_video(tmp_path / f"clip{suffix}")
    assert [number_of(image) for image in shown] == list(range(20))
    assert np.abs(shown[7][: size[1], : size[0]].astype(int) - marked(7, height=size[1], width=size[0])).mean() < 6
    assert cv2.VideoCapture(str(tmp_path / f"clip{suffix}")).get(cv2.CAP_PROP_FPS) == pytest.approx(29.97, abs=0.01)


def test_a_missing_codec_falls_back_and_none_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(film_room, "CODECS", (("none", ".mp4"), ("MJPG", ".avi")))
    refused = film_room.FilmFile.__init__

    def without_mpeg4(self, temporary, path, codec, fps, size):
        if codec == "none":
            raise film_room._NoCodecError
        refused(self, temporary, path, codec, fps, size)

    monkeypatch.setattr(film_room.FilmFile, "__init__", without_mpeg4)
    with writing_film(tmp_path, "clip", 25, (96, 64)) as film:
        film.write(marked(1))
    assert [path.name for path in tmp_path.iterdir()] == ["clip.avi"]
    monkeypatch.setattr(film_room, "CODECS", (("none", ".mp4"),))
    with pytest.raises(InputError, match="no encoder"), writing_film(tmp_path / "", "other", 25, (96, 64)):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["clip.avi"]


def write_film(folder: Path, frames: int, error: BaseException | None = None) -> None:
    with writing_film(folder, "clip", 25, (96, 64)) as film:
        for n in range(frames):
            film.write(np.random.default_rng(n).integers(0, 256, (64, 96, 3), dtype=np.uint8))
        if error is not None:
            raise error


def test_a_film_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError):
        write_film(tmp_path, 3, RuntimeError())
    with pytest.raises(InputError, match="cannot write"):
        write_film(tmp_path / "none", 3)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_keeps_what_there_is(tmp_path, monkeypatch):
    free = [RESERVE + 1] * 3 + [RESERVE - 1] * 9
    monkeypatch.setattr(film_room.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free.pop(0)}))
    film = DisparityFilm(tmp_path, "clip", 25, (0, 8), "disp", None)
    for n in range(3):
        film.add(frame(n), np.full((64, 96), float(n)))
    with pytest.raises(StoppedError, match="the disk is full but for 31 MiB; make room"):
        film.add(frame(3), np.full((64, 96), 3.0))
    film.close()
    assert len(read_video(tmp_path / "clip.disp.mp4")) == film.frames == 3


def test_a_target_that_takes_no_more_bytes_is_one_error(tmp_path):
    """The writer does not notice: playing the file back does. A limit of the process stands in for the end of a disk."""
    resource = pytest.importorskip("resource", reason="limits of file sizes are POSIX")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(InputError, match=r"of 200 frames written .* can be played; is the disk full"):
            write_film(tmp_path, 200)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_between_writing_and_counting_costs_nothing(tmp_path):
    film = DisparityFilm(tmp_path, "clip", 25, (0, 8), "disp", None)
    for n in range(3):
        film.add(frame(n), np.full((64, 96), float(n)))
    film._file.frames -= 1
    film.close()
    assert len(read_video(tmp_path / "clip.disp.mp4")) == film.frames == 3
    lost = DisparityFilm(tmp_path, "lost", 25, (0, 8), "disp", None)
    lost.add(frame(0), np.full((64, 96), 1.0))
    lost._file.frames += 1
    with pytest.raises(InputError, match="of 2 frames written 1 can be played"):
        lost.close()
    assert [path.name for path in tmp_path.iterdir()] == ["clip.disp.mp4"]


# ---------------------------------------------------------------------------------------------------------------------
# Colours, rate, style


def test_the_range_is_estimated_once_and_kept(tmp_path):
    film = DisparityFilm(tmp_path, "clip", 25, None, "disp", None)
    levels = [3.2, 9.4, 5.0, 2.0, 1.0, 80.0, 4.0]
    for n, level in enumerate(levels):
        assert film.add(frame(n), np.full((64, 96), level, np.float32))
    film.close()
    assert film.facts()["colour_range_px"] == (0, 10), f"of the first {RANGE_FRAMES} frames, rounded up"
    assert "--range 0 10 keeps them" in film.range_line()
    shown = read_video(tmp_path / "clip.disp.mp4")
    assert len(shown) == len(levels)
    for image, level in zip(shown, levels, strict=True):
        expected = colour_disparity(np.full((1, 1), level), 0, 10)[0, 0]
        assert np.abs(image[20:50, 20:80].mean((0, 1)) - expected).max() < 12, level


def test_a_film_shorter_than_the_estimate(tmp_path):
    film = DisparityFilm(tmp_path, "clip", None, None, "side-by-side", None)
    for n in range(3):
        film.add(frame(n, time=n / 4), np.full((64, 96), 4.5, np.float32))
    assert not list(tmp_path.iterdir())
    film.close()
    assert film.facts()["video_fps"] == pytest.approx(4), "measured"
    assert film.facts()["colour_range_px"] == (0, 5) and "after the first 3 frames" in film.range_line()
    shown = read_video(tmp_path / "clip.disp.mp4")
    assert [number_of(image) for image in shown] == [0, 1, 2]
    assert shown[0].shape[1] == 2 * 96
    for times, rate in (([0, 3.0, 3.2, 3.4, 3.6], 5), ([0], film_room.ASSUMED_RATE)):
        late = DisparityFilm(tmp_path / "late", "late", None, (0, 5), None, None)
        for n, time in enumerate(times):
            late.add(frame(n, time=time), np.full((64, 96), 4.5, np.float32))
        late.close()
        assert late.facts()["video_fps"] == pytest.approx(rate)
    burst = DisparityFilm(tmp_path, "burst", None, (0, 5), "disp", None)
    for n in range(3):
        burst.add(frame(n, time=n / 50_000), np.full((64, 96), 4.5, np.float32))
    burst.close()
    assert (burst.facts()["video_fps"], burst.path.name) == (120, "burst.disp.mp4"), "no codec counts microseconds"
    unused = DisparityFilm(tmp_path, "other", 25, None, "disp", None)
    unused.close()
    assert unused.path is None and len(list(tmp_path.iterdir())) == 2


# ---------------------------------------------------------------------------------------------------------------------
# Smoothing


def maps(disp, confidence) -> DisparityMap:
    disp = np.asarray(disp, np.float32)
    return DisparityMap(disp, np.zeros_like(disp), np.broadcast_to(np.asarray(confidence, np.float32), disp.shape).copy())


def test_a_still_scene_gets_the_weighted_exponential_mean():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    disps = 20 + rng.uniform(-0.3, 0.3, (9, 24, 32)).astype(np.float32)
    confidences = rng.uniform(0.05, 1, disps.shape).astype(np.float32)
    smooth = TemporalFilter(0.7)
    for t in range(len(disps)):
        result = smooth(image, DisparityMap(disps[t], confidences[t], confidences[t]))
        weights = np.stack([0.7 ** (t - k) * confidences[k] for k in range(t + 1)])
        np.testing.assert_allclose(result.disp, (weights * disps[: t + 1]).sum(0) / weights.sum(0), atol=1e-4)
        np.testing.assert_array_equal(result.confidence, confidences[t])
        np.testing.assert_array_equal(result.occlusion, confidences[t])
    assert smooth.cuts == 0


def test_off_and_all_there_is():
    image = np.zeros((8, 8, 3), np.uint8)
    off, mean = TemporalFilter(0), TemporalFilter(1)
    for t in range(1, 6):
        assert off(image, maps(np.full((8, 8), t / 10), 0.5)).disp[0, 0] == np.float32(t / 10)
        assert mean(image, maps(np.full((8, 8), t / 10), 0.5)).disp[0, 0] == pytest.approx(np.mean(np.arange(1, t + 1)) / 10)
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match="got --smooth"):
            TemporalFilter(wrong)


def moving_scene(t: int) -> tuple[np.ndarray, np.ndarray]:
    """A bright square, 12 px of disparity, 4 px further right each frame over a dark wall of 3 px."""
    image, disp = np.full((40, 120, 3), 40, np.uint8), np.full((40, 120), 3.0, np.float32)
    columns = slice(4 * t, 4 * t + 24)
    image[10:30, columns], disp[10:30, columns] = 200, 12.0
    return image, disp


def test_a_thing_that_moves_across_leaves_no_trail():
    smooth = TemporalFilter(0.9)
    for t in range(20):
        image, disp = moving_scene(t)
        np.testing.assert_allclose(smooth(image, maps(disp, 0.9)).disp, disp, rtol=1e-6)  # but for rounding
    naive = disp * 0.1 + moving_scene(18)[1] * 0.9
    assert np.abs(naive - disp).max() > 5, "a plain mean would have one"


def test_a_thing_that_moves_in_depth_lags_less_than_the_limit():
    image, smooth = np.full((8, 8, 3), 90, np.uint8), TemporalFilter(0.95)
    for t in range(60):
        truth = 5 + 0.3 * t
        lag = truth - smooth(image, maps(np.full((8, 8), truth), 0.8)).disp
        assert (lag >= -1e-4).all() and (lag < CONTRADICTION / 0.8).all(), t
    jump = smooth(image, maps(np.full((8, 8), truth + 4), 0.8)).disp
    np.testing.assert_allclose(jump, truth + 4, rtol=1e-6)


def test_an_unsure_pixel_does_not_disturb_a_sure_past():
    image, smooth = np.full((8, 8, 3), 90, np.uint8), TemporalFilter(0.9)
    for _ in range(30):
        smooth(image, maps(np.full((8, 8), 10.0), 0.9))
    noisy = smooth(image, maps(np.full((8, 8), 17.0), 0.05)).disp
    weight = 0.9 * 0.9 * (1 - 0.9**30) / (1 - 0.9)
    np.testing.assert_allclose(noisy, (weight * 10 + 0.05 * 17) / (weight + 0.05), rtol=1e-5)
    assert noisy.max() < 10.1


@pytest.mark.parametrize(("step", "kept"), [(CHANGE, True), (CHANGE + 1, False)])
def test_the_picture_decides_what_has_changed(step, kept):
    before = np.full((30, 40, 3), 100, np.uint8)
    after = before.copy()
    after[10:20, 10:20] += np.uint8(step)
    smooth = TemporalFilter(0.5)
    smooth(before, maps(np.full((30, 40), 10.0), 0.5))
    disp = smooth(after, maps(np.full((30, 40), 10.6), 0.5)).disp
    mean = (0.5 * 10 + 10.6) / 1.5
    assert disp[15, 15] == pytest.approx(mean if kept else 10.6, rel=1e-6)
    assert disp[0, 0] == disp[29, 39] == pytest.approx(mean, rel=1e-6)
    assert smooth.cuts == 0


def test_a_cut_begins_anew():
    smooth = TemporalFilter(0.8)
    images = [np.full((20, 30, 3), level, np.uint8) for level in (40, 40, 200, 200)]
    got = [smooth(image, maps(np.full((20, 30), d), 0.3)).disp[5, 5] for image, d in zip(images, (4, 5, 6, 7), strict=True)]
    assert got[2] == 6 and got[1] == pytest.approx((0.8 * 4 + 5) / 1.8) and got[3] == pytest.approx((0.8 * 6 + 7) / 1.8)
    assert smooth.cuts == 1
    other = smooth(np.zeros((10, 10, 3), np.uint8), maps(np.full((10, 10), 9.0), 0.5)).disp
    assert (other == 9).all() and smooth.cuts == 2


# ---------------------------------------------------------------------------------------------------------------------
# The window


def test_no_window_without_a_display(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    if not sys.platform.startswith("linux"):
        pytest.skip("other systems always have a display")
    assert window_problem() == "there is no display"
    monkeypatch.setenv("DISPLAY", ":97531")  # the window system would end this very process
    assert "the display cannot be used" in window_problem()
    assert os.environ["DISPLAY"] == ":97531"
