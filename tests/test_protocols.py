"""Each protocol on a sample whose every pixel is there for one of its rules, and what the report says was left out."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stereo.engine.evaluate import evaluate
from stereo.engine.protocols import DEFAULT, PROTOCOLS, CustomProtocol, open_protocol
from stereo.engine.result_files import format_table, make_card
from stereo.types import DisparityMap, InputError, Sample

ORACLE = Path(__file__).resolve().parents[2] / "shared" / "oracles" / "metrics.npz"
# One row: what each of eight pixels is for; the image is 8 px wide, so a truth above 8 px is wider than the image.
TRUTH = np.array([[-5, 0, 4, 8, 9, 191.5, 192, 800]], np.float32)


def sample(name: str = "set/scene", truth: np.ndarray = TRUTH, occluded: int | None = None) -> Sample:
    image = np.random.default_rng(0).integers(0, 256, (*truth.shape, 3), dtype=np.uint8)
    hidden = None if occluded is None else np.broadcast_to(np.arange(truth.shape[1]) == occluded, truth.shape)
    return Sample(image, image, disp=truth, valid=np.ones(truth.shape, bool), occluded=hidden, name=name)


def off_by(error: float, *samples: Sample):
    found = {id(s.left): s.disp for s in samples}

    def predict(left: np.ndarray, right: np.ndarray) -> DisparityMap:
        disp = found[id(left)] + np.float32(error)
        return DisparityMap(disp, np.zeros_like(disp), np.ones_like(disp))

    return predict


@pytest.mark.parametrize(
    ("name", "scored"),
    [
        ("default", 8),
        ("sttr-noc", 2),  # 4 and 8: above 0, not wider than the image
        ("sf192-all", 4),  # 4, 8, 9, 191.5
        ("sf192-raft400", 6),  # and 0 and -5
        ("sf768-all", 5),
        ("unimatch400", 5),
        ("kitti", 6),
        ("middlebury", 8),
        ("eth3d", 8),
    ],
)
def test_what_counts(name: str, scored: int):
    one = sample()
    report = evaluate(off_by(1.5, one), [one], progress=False, protocol=PROTOCOLS[name])
    summary = report.summary
    assert (summary["count_truth"], summary["count_all"], summary["count_excluded_range"]) == (8, scored, 8 - scored)
    assert summary["epe_all"] == pytest.approx(1.5, rel=1e-4)
    card = make_card(report, {"weights": None, "data": "x"})
    assert card["protocol"]["name"] == name
    assert list(card["protocol"]["figures"]) == list(PROTOCOLS[name].figures)
    assert card["pixels"]["excluded_range"] == 8 - scored
    quoted = {key: summary[key] for key in PROTOCOLS[name].figures}  # every one is in the summary
    assert all(math.isnan(value) for key, value in quoted.items() if key.startswith("iou"))
    assert quoted[next(iter(quoted))] == pytest.approx(1.5, rel=1e-4) or name == "kitti"


def test_the_table_of_protocols():
    assert set(PROTOCOLS) == {
        "default", "sttr-noc", "sf192-all", "sf192-raft400", "sf768-all", "unimatch400", "kitti", "middlebury", "eth3d",
    }  # fmt: skip
    assert all(name == protocol.name and protocol.text and protocol.source for name, protocol in PROTOCOLS.items())


def test_visible_pixels_alone_are_quoted_by_sttr():
    one = sample(truth=np.full((1, 8), 4, np.float32), occluded=0)
    truth = one.disp.copy()

    def predict(left, right):
        disp = truth + np.float32([[9, 5, 0, 0, 0, 0, 0, 0]])
        return DisparityMap(disp, (np.arange(8) < 2).astype(np.float32)[None], np.ones_like(disp))

    card = make_card(evaluate(predict, [one], progress=False, protocol=PROTOCOLS["sttr-noc"]), {"weights": None, "data": ""})
    assert card["protocol"]["figures"] == {
        "epe_noc": pytest.approx(5 / 7),
        "bad3_noc_pooled": pytest.approx(100 / 7),
        "iou_pooled": pytest.approx((1 + 6) / (8 + 1)),  # one hit and six, one pixel wrong in both unions
    }


@pytest.mark.skipif(not ORACLE.exists(), reason=f"{ORACLE} is absent: it holds what the public STTR's metric code gave")
@pytest.mark.parametrize(("case", "limits"), [("a", {"above": 0.0}), ("d", {"above": 0.0, "below": 40.0})])
def test_limits_leave_what_the_public_sttr_scored(case: str, limits: dict[str, float]):
    stored = np.load(ORACLE)
    truth, pred, occluded, prob = (stored[f"{case}.{key}"][0] for key in ("disp", "pred", "occ_mask", "occ_pred"))
    image = np.zeros((*truth.shape, 3), np.uint8)
    one = Sample(image, image, disp=truth, valid=np.ones(truth.shape, bool), occluded=occluded, name=case)
    protocol = open_protocol("custom", limits)
    predicted = DisparityMap(pred, prob, np.ones_like(pred))
    summary = evaluate(lambda left, right: predicted, [one], progress=False, protocol=protocol).summary
    assert summary["count_all"] == stored[f"{case}.total_px"]
    assert summary["count_excluded_range"] == stored[f"{case}.invalid_mask"].sum()
    assert summary["epe_all"] == pytest.approx(float(stored[f"{case}.epe"]), rel=1e-6)
    assert summary["bad3_all_pooled"] == pytest.approx(100 * float(stored[f"{case}.px_error_rate"]), abs=1e-6)
    assert summary["iou_pooled"] == pytest.approx(float(stored[f"{case}.iou"]), abs=1e-6)


def test_an_image_without_a_pixel_is_skipped_counted_and_said():
    near, far = sample("a"), sample("b", truth=np.full((1, 8), 500, np.float32))
    report = evaluate(off_by(2, near, far), [near, far], progress=False, protocol=PROTOCOLS["sf192-all"])
    assert report.summary["epe_all"] == pytest.approx(2, rel=1e-4)  # not 1, as a 0 for the empty image would have it
    assert report.summary["epe_all_skipped"] == 1
    text = format_table(report)
    assert "Left out of 16 px with ground truth: 12 not in 0 < d < 192 px." in text
    assert "1 of 2 images have no pixel to score." in text
    assert "Not the convention's data: it has 4370 images, here are 2." in text
    assert "Protocol sf192-all" in text and "epe_all 2.000 px" in text


def test_without_a_protocol_the_table_says_nothing_of_it():
    one = sample()
    assert "Protocol" not in format_table(evaluate(off_by(1, one), [one], progress=False))


def test_the_400_images_are_those_of_the_legacy_generator():
    protocol = PROTOCOLS["sf192-raft400"]
    state = np.random.get_state()
    chosen = protocol.chosen(4370)
    assert np.array_equal(np.random.get_state()[1], state[1])  # nobody else's random numbers are touched
    assert len(chosen) == len(set(chosen)) == 400 and chosen == sorted(chosen) and max(chosen) < 4370
    np.random.seed(1000)
    assert set(chosen) == set(np.random.permutation(4370)[:400].tolist())
    np.random.set_state(state)
    assert chosen[:4] == [5, 17, 23, 31]  # numpy has promised never to change them
    assert protocol.chosen(3) == [0, 1, 2]
    assert DEFAULT.chosen(5) == [0, 1, 2, 3, 4]


def test_only_the_images_drawn_are_scored():
    samples = [sample(str(i)) for i in range(6)]
    protocol = CustomProtocol().protocol()
    drawn = replace(protocol, draw=2, seed=3)
    report = evaluate(off_by(1, *samples), samples, progress=False, protocol=drawn)
    assert [row["name"] for row in report.rows] == [str(i) for i in sorted(np.random.RandomState(3).permutation(6)[:2])]
    assert "4 of 6 images are not scored." in format_table(report)


def test_middlebury_weighs_hard_scenes_half():
    easy, hard = sample("middlebury/trainingQ/Adirondack"), sample("middlebury/trainingQ/Shelves")
    truths = {id(easy.left): 1.0, id(hard.left): 4.0}

    def predict(left, right):
        return DisparityMap(TRUTH + np.float32(truths[id(left)]), *np.zeros((2, 1, 8), np.float32))

    summary = evaluate(predict, [easy, hard], progress=False, protocol=PROTOCOLS["middlebury"]).summary
    assert summary["epe_noc"] == pytest.approx((1 + 0.5 * 4) / 1.5, rel=1e-5)
    assert summary["bad2_noc"] == pytest.approx(100 / 3)
    assert summary["epe_noc_pooled"] == pytest.approx(2.5, rel=1e-5)
    assert (summary["a99_noc"], summary["rms_noc"]) == (pytest.approx(2, rel=1e-4), pytest.approx(2, rel=1e-4))


def test_a_crop_by_hand():
    truth = np.arange(30, dtype=np.float32).reshape(5, 6)
    one = sample(truth=truth)
    protocol = open_protocol("custom", {"crop": [1, 2, 3, 1], "below": 16.0})
    row = evaluate(off_by(1, one), [one], progress=False, protocol=protocol).rows[0]
    # Rows 1 and 2, columns 3 and 4: 9, 10, 15 and 16, of which 16 is not below 16.
    assert (row["count_truth"], row["count_excluded_crop"], row["count_excluded_range"], row["count_all"]) == (30, 26, 1, 3)
    everything = open_protocol("custom", {"crop": [4, 4, 0, 0]})
    assert evaluate(off_by(1, one), [one], progress=False, protocol=everything).rows[0]["count_all"] == 0


def test_occlusion_is_scored_inside_the_crop_only():
    one = sample(truth=np.full((2, 4), 3, np.float32), occluded=0)

    def predict(left, right):
        return DisparityMap(one.disp, np.ones((2, 4), np.float32), np.ones((2, 4), np.float32))

    protocol = open_protocol("custom", {"crop": [1, 0, 0, 1]})
    row = evaluate(predict, [one], progress=False, protocol=protocol).rows[0]
    assert (row["count_known"], row["count_tp"], row["count_fp"]) == (3, 1, 2)


def test_custom_from_a_file_and_flags(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text('below = 100\nregion = "noc"\nmean = "pixel"\nthresholds = [0.5, 2.5]\n')
    protocol = open_protocol(str(path), {"above": 1.0})
    assert (protocol.name, protocol.below, protocol.above, protocol.thresholds) == ("mine", 100, 1, (0.5, 2.5))
    assert protocol.figures == ("epe_noc_pooled", "bad0.5_noc_pooled", "bad2.5_noc_pooled", "d1_noc_pooled")
    assert protocol.limits() == "1 < d < 100 px"
    assert open_protocol(None, {"mean": "image"}).figures[0] == "epe_all"
    assert open_protocol(None) is DEFAULT and open_protocol("kitti") is PROTOCOLS["kitti"]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("sf129-all", {}, "unknown protocol 'sf129-all'.*did you mean sf192-all"),
        ("kitti", {"below": 5.0}, "protocol 'kitti' is fixed, and below would change it"),
        ("absent.toml", {}, "cannot read protocol 'absent.toml': No such file"),
        ("custom", {"bellow": 5.0}, "unknown setting 'protocol.bellow'.*did you mean below"),
        ("custom", {"below": "x"}, "protocol.below: got 'x'"),
        ("custom", {"above": 5.0, "below": 5.0}, "protocol, above: got 5.0, expected a number below the upper limit, 5"),
        ("custom", {"crop": [0, 0, -1, 0]}, "crop: got .* 0 or more"),
        ("custom", {"crop": [0, 0]}, "got 2 values, expected 4"),
        ("custom", {"region": "nocc"}, "region: got 'nocc', expected one of all"),
        ("custom", {"mean": "batch"}, "mean: got 'batch', expected image or pixel"),
        ("custom", {"thresholds": [1, 0]}, "thresholds: got .* above 0"),
        ("custom", {"thresholds": [1, 1]}, "thresholds: got .* different"),
    ],
)
def test_protocols_that_cannot_be(name: str, settings: dict, message: str):
    with pytest.raises(InputError, match=message):
        open_protocol(name, settings)


def test_a_file_that_is_no_toml(tmp_path: Path):
    (tmp_path / "bad.toml").write_text("below = ")
    with pytest.raises(InputError, match="is not valid TOML"):
        open_protocol(str(tmp_path / "bad.toml"))
