"""Plans by hand, a network whose tiles must be exact, memory that runs out, and the shipped network in tiles."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stereo
from datasets.procedural.dataset import render_sample
from stereo.config import PRESETS
from stereo.image_io import read_image
from stereo.inference import planning, predictor
from stereo.inference.planning import HELD_BYTES, Span, cut, cuts, longest, plan_bands, plan_blocks
from stereo.inference.predictor import PLENTY, is_out_of_memory
from stereo.model.backbone import standardise
from stereo.types import InputError, Prediction

ROOT = Path(__file__).resolve().parents[1]
MOTORCYCLE = ROOT.parent / "shared" / "data" / "middlebury2014" / "Motorcycle_Q"


def per_pixel(height: int, width: int) -> int:
    return 1000 * height * width


# ---------------------------------------------------------------------------------------------------------------------
# Arithmetic


def test_a_cut_by_hand():
    assert cut(100, 40, 16, 8) == (Span(0, 40, 0, 48), Span(40, 80, 24, 88), Span(80, 100, 64, 100))
    assert cut(32, 32, 0, 0) == (Span(0, 32, 0, 32),)


def test_cuts_by_hand():
    """In 320 px parts of 96 px or more; two of 160 + 96 are 256 px long, three of 128 + 192 as long as the whole: left out."""
    assert [longest(way) for way in cuts(320, 96, 96, 96, 32)] == [320, 256]
    assert [longest(way) for way in cuts(1024, 96, 96, 96, 32)] == [1024, 608, 544, 448, 416, 384, 352, 320, 288]
    assert cuts(64, 96, 96, 96, 32) == [cut(64, 64, 96, 96)]


@pytest.mark.parametrize(("length", "before", "after", "step"), [(1088, 96, 96, 32), (741, 200, 70, 48), (96, 1000, 10, 16)])
def test_parts_cover_an_axis_once_and_keep_the_phase(length, before, after, step):
    for way in cuts(length, step, before, after, step):
        assert [x for span in way for x in range(span.start, span.stop)] == list(range(length))
        for span in way:
            assert span.first % step == 0
            assert span.first == 0 or span.start - span.first >= before
            assert span.last == length or (span.last - span.stop >= after and span.last % step == 0)


def test_bands_by_hand():
    """1000 bytes per px of a band and HELD_BYTES per px of the whole: 3 bands of 544 rows need 544 parts in 1088."""
    size, held = (1088, 960), 1088 * 960 * HELD_BYTES
    whole = plan_bands(size, 1088 * 960 * 1000 + held, per_pixel, 96, 32)
    assert (whole.parts, whole.side, whole.bytes) == (1, size, 1088 * 960 * 1000 + held)
    assert str(whole) == "the whole image"
    bands = plan_bands(size, 544 * 960 * 1000 + held, per_pixel, 96, 32)  # two need 544 + 96 rows, three 384 + 192 - 32
    assert bands.bytes <= 544 * 960 * 1000 + held
    assert (bands.parts, bands.side) == (4, (480, 960))
    assert str(bands) == "tiles: 4 bands of 480x960"
    thinnest = plan_bands(size, 1, per_pixel, 96, 32)
    assert (thinnest.side, thinnest.bytes) == ((288, 960), 288 * 960 * 1000 + held)


def test_blocks_reach_to_the_left():
    """A budget of 288 x 480 px: 50 px of disparity and 160 px of margin are 224 px before a core, and 160 px after it."""
    size = (1088, 960)
    budget = 288 * 480 * 1000 + 1088 * 960 * HELD_BYTES
    plan = plan_blocks(size, 50, budget, per_pixel, 96, 32)
    assert plan.bytes <= budget
    assert plan.side[0] == 288
    assert plan.columns[0].first == 0
    for span in plan.columns[1:]:
        assert span.first == max(0, span.start - 224)
        assert span.last == min(960, span.stop + 160)
    assert "blocks" in str(plan)
    assert plan_blocks(size, 900, budget, per_pixel, 96, 32).bytes > budget


@pytest.mark.parametrize("name", PRESETS)
def test_what_is_called_plenty_is_more_than_the_estimate(name):
    model = stereo.build_model(name)
    run = stereo.StereoPredictor(model)
    for height, width in ((160, 320), (384, 1600)):
        plenty = PLENTY * model.config.channels * height * width * (1 + width / 1024)
        assert plenty + planning.WORK_SPACE > run.estimate(height, width)


# ---------------------------------------------------------------------------------------------------------------------
# A network that can be known: what a pixel becomes depends on the right image 40 px further left and on 96 rows around it


class Shifted(nn.Module):
    granularity, min_side, row_margin, tile_step, depends_on_all, bears_bf16 = 16, 16, 96, 32, False, False
    finer_sizes = (1.0,)
    config = SimpleNamespace(channels=8)
    reach = 40

    def __init__(self, most_rows: int = 10**6):
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(()))
        self.most_rows = most_rows
        self.parts: list[tuple[int, int]] = []

    def normalise(self, left: Tensor, right: Tensor) -> Tensor:
        return standardise(torch.cat([left, right])) + 5

    def predict_normalised(self, images: Tensor) -> Prediction:
        left, right = images.mean(1).double().chunk(2)
        if type(images) is Tensor:  # not when it is traced
            self.parts.append(tuple(images.shape[2:]))
            if images.shape[2] > self.most_rows:
                raise torch.OutOfMemoryError("made up")
        there = F.pad(right, (self.reach, 0))[..., : right.shape[-1]]
        around = F.avg_pool2d(left * there, (2 * 96 + 1, 1), stride=1, padding=(96, 0), count_include_pad=False)
        work = around[..., None].expand(*around.shape, 50).contiguous()  # so that there is something to plan
        disp = work.mean(-1).float()
        return Prediction(disp, disp, -disp, disp)


def noise(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Brighter towards the bottom and the right, so that a part has other statistics than the whole."""
    rng = np.random.default_rng((height, width))
    light = np.linspace(0.1, 0.6, height)[:, None, None] + np.linspace(0, 0.4, width)[:, None]
    left, right = ((rng.uniform(0, 255, (height, width, 3)) * light).astype(np.uint8) for _ in range(2))
    return left, right


def test_bands_and_blocks_are_exact_where_nothing_reaches_further(monkeypatch):
    monkeypatch.setattr(predictor, "WORK_SPACE", 0)
    pair = noise(500, 701)  # 512x704 padded
    whole = stereo.StereoPredictor(Shifted()).predict(*pair)
    needed = stereo.StereoPredictor(Shifted()).estimate(512, 704) + 512 * 704 * HELD_BYTES
    for memory, kind in ((needed - 1, "bands"), (needed * 5 // 10, "blocks")):
        run = stereo.StereoPredictor(Shifted(), memory, max_disparity=40)
        tiled = run.predict(*pair)
        assert kind in str(run.plan)
        assert run.plan.bytes <= memory
        assert len(run.model.parts) == run.plan.parts > 1
        assert max(h * w for h, w in run.model.parts) == run.plan.side[0] * run.plan.side[1]
        np.testing.assert_allclose(tiled.disp, whole.disp, rtol=1e-6)
        np.testing.assert_allclose(tiled.confidence, whole.confidence, rtol=1e-5)
    # The proof that this can fail: were the reach not kept, pixels at the left of a block would see nothing.
    monkeypatch.setattr(planning, "COLUMN_MARGIN", 0)
    narrow = stereo.StereoPredictor(Shifted(), needed * 5 // 10, max_disparity=1).predict(*pair)
    assert (np.abs(narrow.disp - whole.disp) > 1).mean() > 0.01


def test_the_reach_is_found_on_a_smaller_pair(monkeypatch):
    monkeypatch.setattr(predictor, "WORK_SPACE", 0)
    run = stereo.StereoPredictor(Shifted(), 10**9)
    pair = noise(500, 701)
    monkeypatch.setattr(run, "_run", lambda *_: SimpleNamespace(
        disp=np.array([[10.0, 100.0, 300.0]]), confidence=np.array([[0.9, 0.9, 0.1]]), occlusion=np.array([[0, 0.1, 0]])
    ))  # fmt: skip
    half = 100 * 701 / 350 * 1.2  # found at half the size; 300 px is not believed
    assert run._reach(predictor._Pair(*pair, None), 10**9) == int(np.ceil(half))
    assert run._reach(predictor._Pair(*pair, 30.5), 10**9) == 31
    with pytest.raises(InputError, match="at any size"):
        run._reach(predictor._Pair(*pair, None), 1000)


def test_a_pass_that_nobody_asked_for_is_left_out_where_it_does_not_fit(monkeypatch, caplog):
    monkeypatch.setattr(predictor, "WORK_SPACE", 0)
    monkeypatch.setattr(Shifted, "finer_sizes", (1.0, 4.0))
    pair = noise(64, 160)
    plain = stereo.StereoPredictor(Shifted())
    memory = plain.estimate(64, 160) + 64 * 160 * HELD_BYTES  # just enough for the pair itself
    usual = stereo.StereoPredictor(Shifted(), memory, sizes=None)
    with caplog.at_level("INFO"):
        np.testing.assert_array_equal(usual.predict(*pair).disp, plain.predict(*pair).disp)
    assert usual.passes == (1.0,) and "without a pass at 4 times the size" in caplog.text
    with pytest.raises(InputError, match="give smaller images"):
        stereo.StereoPredictor(Shifted(), memory, sizes=(1, 4)).predict(*pair)


# ---------------------------------------------------------------------------------------------------------------------
# When memory runs out


def test_out_of_memory_is_tried_once_more_in_tiles(caplog, monkeypatch):
    monkeypatch.setattr(predictor, "WORK_SPACE", 0)
    pair = noise(500, 701)
    whole = stereo.StereoPredictor(Shifted()).predict(*pair)
    for limit in (None, 10**10):
        run = stereo.StereoPredictor(Shifted(most_rows=400), limit, max_disparity=40)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "stereo.inference.predictor"):
            again = run.predict(*pair)
        assert run.model.parts[0] == (512, 704)
        assert max(rows for rows, _ in run.model.parts[1:]) <= 400
        assert len(caplog.messages) == 1
        assert "out of memory with the whole image: trying once more with" in caplog.messages[0]
        np.testing.assert_allclose(again.disp, whole.disp, rtol=1e-6)


def test_a_second_failure_is_one_clear_line(monkeypatch):
    monkeypatch.setattr(predictor, "WORK_SPACE", 0)
    run = stereo.StereoPredictor(Shifted(most_rows=10), max_disparity=40)
    with pytest.raises(InputError, match=r"out of memory on 701x500 px, also with tiles: .* give smaller images"):
        run.predict(*noise(500, 701))
    assert len(run.model.parts) == 2


def test_other_errors_are_not_taken_for_want_of_memory():
    run = stereo.StereoPredictor(Shifted())
    run.model.predict_normalised = lambda images: torch.zeros(2) @ torch.zeros(3)
    with pytest.raises(RuntimeError, match="size"):
        run.predict(*noise(64, 64))


def test_what_allocators_say():
    """The CPU's own words are asked for: no machine has 2**60 bytes."""
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(refused.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_too_little_memory_is_refused_before_anything_runs():
    run = stereo.StereoPredictor(Shifted(), 2**20, max_disparity=40)
    with pytest.raises(InputError, match=r"701x500 px need about .* even as tiles: .*--max-memory"):
        run.predict(*noise(500, 701))
    assert run.model.parts == []
    for limits in ((0, None), (-1, None), (None, 0), (None, float("nan"))):
        with pytest.raises(InputError, match="expected a positive number"):
            stereo.StereoPredictor(Shifted(), *limits)


# ---------------------------------------------------------------------------------------------------------------------
# The shipped network


@pytest.fixture(scope="module")
def shipped():
    return stereo.load_model(device="cpu")


def share_within(model, left: np.ndarray, right: np.ndarray, memory_share: float, **limits) -> tuple[float, float, str]:
    """Shares of the pixels within 0.1 px and within 1 px of the whole image's, and how it was cut."""
    whole = stereo.StereoPredictor(model)
    expected = whole.predict(left, right)
    assert whole.plan.parts == 1
    height, width = whole.plan.side
    needed = whole.estimate(height, width) + height * width * HELD_BYTES
    tiled = stereo.StereoPredictor(model, int(needed * memory_share), **limits)
    difference = np.abs(tiled.predict(left, right).disp - expected.disp)
    shares = float((difference <= 0.1).mean()), float((difference <= 1).mean())
    print(f"\n{tiled.plan}: within 0.1 px {shares[0]:.3%}, within 1 px {shares[1]:.3%}, at most {difference.max():.2f} px")
    return *shares, str(tiled.plan)


@pytest.mark.skipif(not MOTORCYCLE.is_dir(), reason="../shared/data is absent")
def test_bands_of_a_photograph_are_those_of_the_whole(shipped):
    left, right = (read_image(MOTORCYCLE / f"{side}.png")[2:495, 100:541] for side in ("left", "right"))  # 493x441, odd
    close, _, plan = share_within(shipped, left, right, 0.95)
    assert "bands" in plan
    assert close >= 0.99


def test_bands_of_a_generated_pair_are_those_of_the_whole(shipped):
    sample = render_sample(7, 0, 399, 355)
    close, _, plan = share_within(shipped, sample.left, sample.right, 0.95)
    assert "bands" in plan
    assert close >= 0.99


def test_blocks_of_a_generated_pair_are_near_the_whole(shipped):
    """A row that is cut is another row to attention: no tenth of a pixel is promised there."""
    sample = render_sample(7, 0, 300, 700)
    _, near, plan = share_within(shipped, sample.left, sample.right, 0.8, max_disparity=60)
    assert "blocks" in plan
    assert near >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width", "memory"), [(288, 640, 0), (544, 960, 0), (736, 1280, 0), (736, 1280, 400)])
def test_the_estimate_holds_in_a_fresh_process(height, width, memory):
    """The process's peak grows by less than the plan's bytes, and by more than half of those that grow with the picture.

    memory: MiB, 0 for the default.
    """
    script = f"""
import numpy as np, stereo
from stereo.engine.bench import peak_bytes
run = stereo.StereoPredictor(stereo.load_model(device="cpu"), {memory} * 2**20 or None)
left, right = np.random.default_rng(0).integers(0, 256, (2, {height}, {width}, 3), dtype=np.uint8)
run.predict(left[:64, :64], right[:64, :64])
needed = run.estimate({height}, {width}) + {height * width * HELD_BYTES}
before = peak_bytes(reset=True)
run.predict(left, right)
print(run.plan.parts, run.plan.bytes if run.plan.parts > 1 else needed, peak_bytes() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    parts, planned, measured = map(int, done.stdout.split())
    print(f"\n{height}x{width} in {parts} parts: planned {planned / 2**20:.0f} MiB, measured {measured / 2**20:.0f} MiB")
    assert (parts > 1) == (memory > 0)
    assert (planned - planning.WORK_SPACE) / 2 <= measured <= planned
    if memory:
        assert measured <= memory * 2**20
