"""Videos and cameras: every frame in its place, and what is missing, odd or gone is counted and said."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from fake_captures import FakeCapture, opener
from stereo_files import marked, number_of, pair, read_video, side_by_side, write_video

from stereo.inference.stream import UsableFrames
from stereo.sources.camera import REOPENINGS, CameraSource
from stereo.sources.frame import Dropped, Selection, Source, StereoFrame
from stereo.sources.opening import open_source
from stereo.sources.prefetch import Prefetch
from stereo.sources.video import VideoSource
from stereo.types import InputError, StoppedError


def video(tmp_path: Path, *captures: FakeCapture, layout: str | None = "sbs", selection=Selection()) -> VideoSource:  # noqa: B008
    paths = [tmp_path / f"{i}.mp4" for i in range(len(captures))]
    for path in paths:
        path.touch()
    return VideoSource([str(p) for p in paths], layout if len(captures) == 1 else None, False, selection, opener(*captures))


def numbers(items) -> list[int | str]:
    """Of both views of each frame, which must agree; "-" for what was dropped."""
    found: list[int | str] = []
    for item in items:
        if isinstance(item, StereoFrame):
            assert number_of(item.left) == number_of(item.right)
            found.append(number_of(item.left))
        else:
            found += ["-"] * item.count
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Genuine files


@pytest.mark.parametrize(
    ("codec", "suffix", "fps"), [("mp4v", ".mp4", 29.97), ("MJPG", ".avi", 25.0), ("FFV1", ".mkv", 23.976)]
)
def test_a_side_by_side_video(tmp_path, codec, suffix, fps):
    path = write_video(tmp_path / f"clip{suffix}", [side_by_side(n) for n in range(12)], fps, codec)
    source = open_source(path, layout="sbs")
    assert (source.length, source.moving, source.live, source.stem) == (12, True, False, "clip")
    assert source.fps == pytest.approx(fps, rel=1e-3)
    items = list(source)
    assert numbers(items) == list(range(12))
    assert [f.stem for f in items[:2]] == ["clip_000000", "clip_000001"]
    np.testing.assert_allclose([f.time for f in items], np.arange(12) / fps, atol=0.001)  # Matroska counts whole ms
    assert source.notes == []
    left, right = pair(11)
    for view, truth, other in ((items[11].left, left, right), (items[11].right, right, left)):
        assert np.abs(view.astype(int) - truth).mean() < 4 < np.abs(view.astype(int) - other).mean()  # RGB, right side
        assert view.base is None, "a view would keep the whole picture alive"


def test_over_under_swapped_and_selected(tmp_path):
    path = write_video(tmp_path / "clip.mp4", [np.vstack(pair(n)) for n in range(20)])
    source = open_source(path, layout="ou", swap=True, selection=Selection.parse("3:15:4"))
    items = list(source)
    assert [(f.index, number_of(f.left)) for f in items] == [(3, 3), (7, 7), (11, 11)]
    assert source.length == 3
    assert source.fps == pytest.approx(30 / 4)
    left, right = pair(3)
    assert np.abs(items[0].left.astype(int) - right).mean() < 4 < np.abs(left.astype(int) - right).mean()


def test_two_videos(tmp_path):
    left = write_video(tmp_path / "l.mp4", [marked(n) for n in range(9)])
    right = write_video(tmp_path / "r.mp4", [marked(n, shift=4) for n in range(7)])
    source = open_source(left, right)
    assert source.length == 7
    assert numbers(source) == list(range(7))
    assert source.notes == ["the videos have 9 and 7 frames; what is behind the end of the shorter one is left out"]


def test_two_videos_of_different_rates(tmp_path):
    left = write_video(tmp_path / "l.mp4", [marked(0)] * 3, 30)
    with pytest.raises(InputError, match=r"l\.mp4' runs at 30 frames/s and '.*r\.mp4' at 25; expected one rate"):
        open_source(left, write_video(tmp_path / "r.mp4", [marked(0)] * 3, 25))
    open_source(left, write_video(tmp_path / "r.mp4", [marked(0)] * 3, 29.97)).close()  # the same, rounded


def test_frames_that_the_decoder_steps_over(tmp_path):
    """FFmpeg gives no frame for packets that are nonsense, and says so to nobody but the terminal."""
    frames = [np.random.default_rng(n).integers(0, 256, (64, 192, 3), dtype=np.uint8) for n in range(20)]
    path = write_video(tmp_path / "clip.mkv", frames, codec="FFV1")
    data = bytearray(Path(path).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 20_000] = bytes(20_000)  # part of two frames
    Path(path).write_bytes(data)
    delivered = len(read_video(path))
    assert 5 < delivered < 20, "the file is not damaged as it should be"
    source = open_source(path, layout="sbs")
    items = list(source)
    assert sum(isinstance(item, StereoFrame) for item in items) == delivered
    lost = [item for item in items if isinstance(item, Dropped)]
    assert [item.count for item in lost] == [20 - delivered]
    assert f"announces 20 frames and {delivered} could be decoded" in lost[0].reason
    assert "come 33 to" in source.notes[0], "the gap is in the clock"


def test_a_video_that_is_cut_off_or_none(tmp_path, capfd):
    path = write_video(tmp_path / "clip.avi", [side_by_side(n) for n in range(20)], codec="MJPG")
    data = Path(path).read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: len(data) * 2 // 3])
    items = list(open_source(str(tmp_path / "cut.avi"), layout="sbs"))
    delivered = sum(isinstance(item, StereoFrame) for item in items)
    assert numbers(items) == [*range(delivered), *"-" * (20 - delivered)] and 5 < delivered < 20
    capfd.readouterr()  # FFmpeg listens to us when its first video is opened, here by the writer above
    whole = Path(write_video(tmp_path / "clip.mp4", [side_by_side(0)] * 5)).read_bytes()
    bad = {"cut.mp4": whole[: len(whole) // 2], "junk.mp4": b"junk" * 999, "empty.mp4": b"", "text.webm": b"hello\n"}
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"cannot decode video '.*{name}'"):
            open_source(str(tmp_path / name), layout="sbs")
    with pytest.raises(InputError, match="no such file"):
        open_source(str(tmp_path / "none.mp4"), layout="sbs")
    (tmp_path / "folder.mp4").mkdir()
    assert capfd.readouterr() == ("", ""), "OpenCV and FFmpeg talk to nobody"


def test_an_odd_width_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"frame 0 of '.*' is 191x64 px: 191 px wide, odd"):
        list(video(tmp_path, FakeCapture([side_by_side(0)[:, :-1]])))


def test_selection_behind_the_end(tmp_path):
    path = write_video(tmp_path / "clip.mp4", [side_by_side(n) for n in range(5)])
    with pytest.raises(InputError, match="--frames selects none of the 5 frames"):
        open_source(path, layout="sbs", selection=Selection.parse("5:"))
    source = open_source(path, layout="sbs", selection=Selection.parse("3:99"))
    assert (source.length, numbers(source)) == (2, [3, 4])


# ---------------------------------------------------------------------------------------------------------------------
# What a capture may do


def test_a_frame_that_cannot_be_decoded_costs_itself_only(tmp_path):
    pictures = [side_by_side(0), "bad", side_by_side(2)]
    source = video(tmp_path, FakeCapture(pictures))
    items = list(source)
    assert numbers(items) == [0, "-", 2]
    assert items[1].reason == "it cannot be decoded" and "frame 1 of" in items[1].name
    assert items[2].index == 2


def test_a_grab_that_fails_before_the_announced_end_is_tried_again(tmp_path):
    pictures = [side_by_side(0), None, None, side_by_side(3)]
    source = video(tmp_path, FakeCapture(pictures))
    assert numbers(source) == [0, 3, "-", "-"]
    assert numbers(video(tmp_path, FakeCapture([side_by_side(0)], announced=-1))) == [0], "nothing announced, nothing missed"


@pytest.mark.parametrize("lossy", [0, 1])
def test_a_frame_that_one_of_two_videos_lost_does_not_shift_the_others(tmp_path, lossy):
    """Frame 3 is missing on one side; the clocks tell."""
    whole = FakeCapture([marked(n) for n in range(8)])
    times = [1000 * n / 30 for n in range(8) if n != 3]
    holed = FakeCapture([marked(n) for n in range(8) if n != 3], times=times, announced=8)
    source = video(tmp_path, *([holed, whole] if lossy == 0 else [whole, holed]))
    assert numbers(source) == [0, 1, 2, "-", 4, 5, 6, 7]


def test_two_videos_whose_rates_were_rounded_differently_stay_together(tmp_path):
    image = marked(1)
    items = list(video(tmp_path, *(FakeCapture([image] * 700, fps=fps) for fps in (29.97, 30.0))))
    assert len(items) == 700 and all(isinstance(item, StereoFrame) for item in items)


def test_two_videos_without_a_clock_pair_by_their_order(tmp_path):
    sides = [FakeCapture([marked(n) for n in range(4)], times=[0.0] * 4) for _ in range(2)]
    items = list(video(tmp_path, *sides))
    assert numbers(items) == [0, 1, 2, 3]
    np.testing.assert_allclose([f.time for f in items], np.arange(4) / 30)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), 90000.0])
def test_a_video_that_does_not_say_its_rate(tmp_path, rate):
    source = video(tmp_path, FakeCapture([side_by_side(0)] * 2, fps=rate, times=[0.0, 0.0]))
    assert source.fps == 25
    assert "does not say its frame rate; 25 frames/s are assumed" in source.notes[0]


def test_uneven_times_are_said(tmp_path):
    source = video(tmp_path, FakeCapture([side_by_side(n) for n in range(4)], times=[0.0, 20.0, 120.0, 140.0]))
    assert [f.time for f in source] == [0.0, 0.02, 0.12, 0.14]
    assert "come 20 to 100 ms apart" in source.notes[0]


def test_captures_are_released_when_the_source_is_refused(tmp_path):
    captures = [FakeCapture([marked(0)], fps=30), FakeCapture([marked(0)], fps=10)]
    with pytest.raises(InputError, match="expected one rate"):
        video(tmp_path, *captures)
    assert all(capture.released for capture in captures)


# ---------------------------------------------------------------------------------------------------------------------
# Cameras


def camera(*captures: FakeCapture, numbers=(0,), selection=Selection(), waits=None) -> CameraSource:  # noqa: B008
    layout = "sbs" if len(numbers) == 1 else None
    return CameraSource(list(numbers), layout, False, selection, opener(*captures), (waits if waits is not None else []).append)


def test_a_camera_that_pauses_is_opened_again():
    first, second = FakeCapture([side_by_side(0), side_by_side(1)]), FakeCapture([side_by_side(2), side_by_side(3)])
    waits: list[float] = []
    source = camera(first, second, selection=Selection(stop=4), waits=waits)
    assert (source.length, source.live, source.fps, source.stem) == (4, True, None, "camera0")
    items = list(source)
    assert numbers(items) == [0, 1, "-", 2, 3]
    assert first.released and len(waits) == 1
    times = [f.time for f in items if isinstance(f, StereoFrame)]
    assert times == sorted(times) and times[0] >= 0


def test_an_unplugged_camera_ends_with_one_line():
    gone = [FakeCapture([], opened=False) for _ in range(REOPENINGS)]
    source, items = camera(FakeCapture([side_by_side(0)]), *gone), []
    with pytest.raises(StoppedError, match="camera:0 has delivered nothing since frame 1: unplugged"):
        items.extend(source)
    with pytest.raises(InputError, match="camera:3 cannot be opened: is it plugged in"):
        camera(FakeCapture([]), FakeCapture([], opened=False), numbers=(1, 3))


def test_two_cameras_are_triggered_before_either_is_decoded():
    calls: list[tuple[str, str]] = []

    class Logged(FakeCapture):
        def grab(self):
            calls.append((self.name, "grab"))
            return super().grab()

        def retrieve(self):
            calls.append((self.name, "retrieve"))
            return super().retrieve()

    sides = [Logged([marked(n) for n in range(2)]) for _ in range(2)]
    sides[0].name, sides[1].name = "left", "right"
    source = camera(*sides, numbers=(2, 5), selection=Selection(stop=2))
    assert numbers(source) == [0, 1]
    assert calls == [(side, call) for call in ("grab", "retrieve") for side in ("left", "right")] * 2


def test_a_camera_that_is_not_there(capfd):
    with pytest.raises(InputError, match="camera:97 cannot be opened"):
        open_source("camera:97", layout="sbs")
    assert capfd.readouterr() == ("", "")


# ---------------------------------------------------------------------------------------------------------------------
# Reading ahead


class Counted(Source):
    """``count`` frames; says how many have been read, and whether it was closed, and by which thread."""

    name, stem = "counted", "counted"

    def __init__(self, count: int, error: BaseException | None = None, live: bool = False):
        super().__init__()
        self.count, self.error, self.live = count, error, live
        self.read, self.closed_by = 0, None

    def __iter__(self):
        left, right = pair(0)
        for index in range(self.count):
            self.read += 1
            yield StereoFrame(f"f{index}", left, right, index, None, "f", ("", ""))
        if self.error:
            raise self.error

    def close(self):
        self.closed_by = threading.current_thread().name


def until(condition) -> None:
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it does not come to pass")


def test_frames_are_read_one_ahead_and_no_more():
    source = Counted(9)
    with Prefetch(source) as incoming:
        frames = iter(incoming)
        for taken in range(1, 7):
            assert next(frames).index == taken - 1
            until(lambda taken=taken: source.read == taken + 2)  # one in the queue, one in the hand of the thread
            time.sleep(0.02)
            assert source.read == taken + 2
        assert [f.index for f in frames] == [6, 7, 8]
    assert source.closed_by == "prefetch"


@pytest.mark.parametrize("error", [InputError("no good"), StoppedError("gone"), RuntimeError("a bug")])
def test_errors_are_carried_over_in_their_place(error):
    source = Counted(2, error)
    with Prefetch(source) as incoming:
        frames = iter(incoming)
        assert [next(frames).index, next(frames).index] == [0, 1]
        with pytest.raises(type(error), match=str(error)):
            next(frames)
    assert source.closed_by == "prefetch"


def test_leaving_early_ends_the_thread_and_closes_the_source():
    source = Counted(10**9)
    with Prefetch(source) as incoming:
        next(iter(incoming))
    assert source.closed_by == "prefetch"
    assert not any(thread.name == "prefetch" for thread in threading.enumerate())


def test_of_a_live_source_the_newest_frame_is_taken():
    source = Counted(50, live=True)
    with Prefetch(source) as incoming:
        until(lambda: source.read == 50 and incoming.passed_over >= 48)
        taken = [f.index for f in incoming]
    assert taken[-1] == 49 and len(taken) + incoming.passed_over == 50
    assert incoming.notes() == [f"{incoming.passed_over} frames came while the network was busy and were passed over"]


def test_what_a_live_source_has_lost_is_not_passed_over():
    class Paused(Counted):
        def __iter__(self):
            yield from list(super().__iter__())[:2]
            yield Dropped("f", "the camera paused")
            yield from list(super().__iter__())[2:]

    with Prefetch(Paused(6, live=True)) as incoming:
        time.sleep(0.3)  # the network is busy, all six could come and go
        items = []
        for item in incoming:
            items.append(item)
            time.sleep(0.3)
    assert [item.reason for item in items if isinstance(item, Dropped)] == ["the camera paused"]
    frames = [item.index for item in items if isinstance(item, StereoFrame)]
    assert frames == sorted(frames) and frames[-1] == 5 and len(frames) + incoming.passed_over == 6


# ---------------------------------------------------------------------------------------------------------------------
# The account


def test_account_of_what_could_not_be_used():
    class Mixed(Counted):
        length = 8

        def __iter__(self):
            for index, (height, width) in enumerate([(64, 96), (64, 96), (48, 96), (64, 96)]):
                left, right = pair(index, height=height, width=width)
                yield StereoFrame("f", left, right, index, None, f"frame {index}", ("", ""))
            yield Dropped("frame 4", "it is damaged", 3)
            left, right = pair(5)
            yield StereoFrame("f", left, right[:, :-2], 5, None, "frame 5", ("", ""))

    source = Mixed(0)
    frames = UsableFrames(source, source, one_size=True)
    assert frames.first().index == 0
    assert [f.index for f in frames] == [0, 1, 3]
    assert (frames.used, frames.dropped, frames.expected) == (3, 5, 8)
    expected = "skipped 5 of 8 frames: frame 2: it is 96x48 px, those before it are 96x64 px; frame 4: it is damaged; frame 5: "
    unequal = "the left image is 96x64 px and the right one 94x64 px; a rectified pair has one size"
    assert frames.summary() == f"{expected}{unequal}; ..."
    assert [f.index for f in UsableFrames(source, source)] == [0, 1, 2, 3]
    limited = UsableFrames(source, source, limit=2)
    assert ([f.index for f in limited], limited.expected, limited.summary()) == ([0, 1], 2, None)
    with pytest.raises(InputError, match="no frame of counted can be used: it ended at once"):
        UsableFrames([], Counted(0)).first()
