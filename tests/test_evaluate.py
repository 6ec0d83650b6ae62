"""The scoring loop: a perfect predictor, what is skipped, what is refused, and that files say what the report says."""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from datasets.reading import read_ahead
from stereo.engine.evaluate import ByName, Report, evaluate
from stereo.engine.result_files import format_regions, format_table, make_card, write_card, write_csv
from stereo.inference.stored import StoredMap
from stereo.types import DisparityMap, InputError, Sample, StoppedError
from stereo.version import __version__

META = {"weights": {"name": "w", "sha256": "00"}, "data": "fake:1"}


def make_sample(index: int, height: int = 4, width: int = 6) -> Sample:
    """Disparity 10 + index, the first column occluded, the last one without ground truth."""
    rng = np.random.default_rng(index)
    left, right = rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    valid, occluded = np.ones((height, width), bool), np.zeros((height, width), bool)
    valid[:, -1], occluded[:, 0] = False, True
    disp = np.full((height, width), 10.0 + index, np.float32)
    return Sample(left, right, disp=disp, valid=valid, occluded=occluded, name=f"fake/{index}")


def perfect(samples: list[Sample]):
    """A predictor that looks the truth up by the left image, and errs by ``offset`` px."""

    def predict(left: np.ndarray, right: np.ndarray, offset: float = 0.0) -> DisparityMap:
        sample = next(sample for sample in samples if sample.left is left and sample.right is right)
        occluded = np.zeros(left.shape[:2], bool) if sample.occluded is None else sample.occluded
        return DisparityMap(sample.disp + np.float32(offset), occluded.astype(np.float32), np.ones_like(sample.disp))

    return predict


@pytest.fixture
def samples() -> list[Sample]:
    return [make_sample(0), make_sample(1, 5, 7)]


def test_perfect_predictor(samples: list[Sample]):
    report = evaluate(perfect(samples), samples, progress=False)
    for values in (*report.rows, report.summary):
        for region in ("all", "noc", "occ"):
            assert all(values[f"{key}_{region}"] == 0 for key in ("epe", "bad1", "bad2", "bad3", "d1"))
        assert all(values[key] == 1 for key in ("iou_pooled", "iou_occluded", "iou_visible", "iou_mean", "f1"))
    first = report.rows[0]
    assert (first["name"], first["height"], first["width"]) == ("fake/0", 4, 6)
    assert (first["count_all"], first["count_noc"], first["count_occ"], first["count_known"]) == (20, 16, 4, 20)
    assert first["seconds"] >= 0
    assert report.summary["images"] == 2
    assert report.summary["count_all"] == 20 + 30


def test_regions_are_scored_apart(samples: list[Sample]):
    def predict(left: np.ndarray, right: np.ndarray) -> DisparityMap:
        result = perfect(samples)(left, right)
        return replace(result, disp=result.disp + 4 * result.occlusion)

    row = evaluate(predict, samples[:1], progress=False).rows[0]
    assert (row["epe_noc"], row["epe_occ"], row["epe_all"]) == (0, 4, pytest.approx(4 * 4 / 20))
    assert (row["bad3_noc"], row["bad3_occ"], row["bad3_all"]) == (0, 100, pytest.approx(20))


def test_empty_region_is_skipped_and_counted(samples: list[Sample]):
    hidden = replace(make_sample(2), occluded=np.ones((4, 6), bool))  # nothing is visible: noc is empty
    samples = [*samples, hidden]
    predict = perfect(samples)
    report = evaluate(lambda left, right: predict(left, right, 2.0), samples, progress=False)
    assert math.isnan(report.rows[2]["epe_noc"])
    assert report.rows[2]["count_noc"] == 0
    assert report.summary["epe_noc"] == 2.0
    assert report.summary["epe_noc_skipped"] == 1
    assert report.summary["epe_all_skipped"] == 0
    assert "left out of a mean: EPE px 1, bad-1 % 1" in format_table(report)


def test_unknown_occlusion_is_flagged(samples: list[Sample]):
    samples = [samples[0], replace(samples[1], occluded=None)]
    report = evaluate(perfect(samples), samples, progress=False)
    assert [row["occlusion_known"] for row in report.rows] == [True, False]
    row = report.rows[1]
    assert row["count_noc"] == row["count_all"] == 30
    assert row["count_known"] == row["count_occ"] == 0
    assert math.isnan(row["iou_pooled"])
    assert report.summary["images_without_occlusion"] == 1
    assert report.summary["iou_pooled_skipped"] == 1
    assert "1 of 2 images have no occlusion mask" in format_table(report)


def test_occluded_pixels_without_truth_count_for_occlusion():
    sample = make_sample(0)
    sample = replace(sample, valid=sample.valid & ~sample.occluded)
    row = evaluate(perfect([sample]), [sample], progress=False).rows[0]
    assert row["count_known"] == 20
    assert row["iou_occluded"] == 1


def test_hash_follows_the_data_and_its_order(samples: list[Sample]):
    def digest(given: list[Sample]) -> str:
        return evaluate(perfect(given), given, progress=False).data_sha256

    changed = [replace(samples[0], disp=samples[0].disp + 1), samples[1]]
    unmasked = [replace(samples[0], occluded=None), samples[1]]
    assert digest(samples) == digest([make_sample(0), make_sample(1, 5, 7)])
    assert len({digest(given) for given in (samples, samples[::-1], samples[:1], changed, unmasked)}) == 5


def test_refuses_what_cannot_be_scored(samples: list[Sample]):
    class Broken:
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> Sample:
            raise InputError("left.png is damaged")

    predict = perfect(samples)
    with pytest.raises(InputError, match=r"left\.png is damaged"):
        evaluate(predict, Broken(), progress=False)
    with pytest.raises(InputError, match="data set is empty"):
        evaluate(predict, [], progress=False)
    with pytest.raises(InputError, match="fake/0: sizes differ"):
        evaluate(lambda left, right: perfect(samples)(samples[1].left, samples[1].right), samples, progress=False)
    with pytest.raises(InputError, match="fake/0: 20 of 20 scored pixels are not finite"):
        evaluate(lambda left, right: predict(left, right, np.nan), samples, progress=False)
    with pytest.raises(InputError, match="'fake/0' has no ground-truth disparity"):
        evaluate(lambda left, right: DisparityMap(*np.zeros((3, 4, 6))), [replace(samples[0], disp=None)], progress=False)


def test_csv_round_trip(samples: list[Sample], tmp_path: Path):
    samples = [samples[0], replace(samples[1], occluded=None)]
    predict = perfect(samples)
    report = evaluate(lambda left, right: predict(left, right, 1 / 3), samples, progress=False)
    path = tmp_path / "report.csv"
    write_csv(report, path)
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["name"] for line in lines] == ["fake/0", "fake/1"]
    for line, row in zip(lines, report.rows, strict=True):
        assert list(line) == list(row)
        for key, value in row.items():
            if isinstance(value, float):
                assert line[key] == "" if math.isnan(value) else float(line[key]) == value
            else:
                assert line[key] == str(value)
    assert lines[1]["iou_occluded"] == ""


def test_card_round_trip(samples: list[Sample], tmp_path: Path):
    samples = [replace(sample, occluded=None) for sample in samples]
    report = evaluate(perfect(samples), samples, progress=False)
    path = tmp_path / "card.json"
    write_card(report, path, META | {"images": "cannot be replaced", "device": "cpu"})
    card = json.loads(path.read_text(encoding="utf-8"))
    assert card == make_card(report, META | {"device": "cpu"})
    assert card["protocol"]["name"] == "default"
    assert card["protocol"]["figures"]["epe_noc"] == 0
    assert card["protocol"]["below"] is None  # no limit, and JSON has no infinity
    assert card["weights"] == {"name": "w", "sha256": "00"}
    assert card["data"] == "fake:1"
    assert card["images"] == card["images_without_occlusion"] == 2
    assert {key: card["pixels"][key] for key in ("truth", "all", "noc", "occ", "occlusion", "excluded_range")} == {
        "truth": 50, "all": 50, "noc": 50, "occ": 0, "occlusion": 0, "excluded_range": 0,
    }  # fmt: skip
    assert set(card["regions"]) == {"all", "noc", "occ", "oof", "edge", "textureless"}
    assert card["units"]["epe"] == card["units"]["ause"] == "px"
    assert card["units"]["bad3"] == "%" and card["units"]["iou_mean"] == "0 to 1" and card["units"]["seconds"] == "s"
    assert card["summary"]["epe_all"] == 0
    assert card["summary"]["epe_occ"] is None  # JSON has no NaN
    assert card["skipped"]["epe_occ"] == 2
    assert card["skipped"]["epe_all"] == 0
    assert card["data_sha256"] == report.data_sha256
    assert card["versions"]["stereo"] == __version__
    assert {"torch", "opencv", "numpy", "python"} <= card["versions"].keys()
    assert card["cpu"]


def test_files_that_cannot_be_written(samples: list[Sample], tmp_path: Path):
    report = evaluate(perfect(samples), samples, progress=False)
    with pytest.raises(InputError, match="cannot write"):
        write_card(report, tmp_path / "absent" / "card.json", META)
    with pytest.raises(InputError, match="cannot write"):
        write_csv(report, tmp_path / "absent" / "report.csv")


def test_table_has_units_and_a_line_per_image(samples: list[Sample]):
    predict = perfect(samples)
    lines = format_table(evaluate(lambda left, right: predict(left, right, 1.5), samples, progress=False)).splitlines()
    assert lines[0].split("  ")[0] == "image"
    assert all(heading in lines[0] for heading in ("EPE px", "bad-1 %", "D1 %", "occ IoU", "time s"))
    assert lines[2].split()[:6] == ["fake/0", "6x4", "1.50", "100.0", "0.0", "0.0"]
    assert lines[5].startswith("mean of 2")
    assert lines[6].startswith("pixel-pooled")
    assert len({len(line) for line in lines[:7]}) == 1


def test_predictors_may_ask_for_the_name(samples: list[Sample]):
    asked = []

    def choose(name: str):
        asked.append(name)
        return perfect(samples)

    report = evaluate(ByName(choose), samples, progress=False)
    assert asked == ["fake/0", "fake/1"]
    assert report.rows == _untimed(evaluate(perfect(samples), samples, progress=False), report)


def _untimed(report: Report, like: Report) -> tuple:
    """The rows with the seconds of another report: all else is to be compared."""
    return tuple(row | {"seconds": other["seconds"]} for row, other in zip(report.rows, like.rows, strict=True))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_reading_ahead_changes_nothing(workers: int):
    samples = [make_sample(i, 4 + i % 3, 6) for i in range(12)]

    class Slow:
        """Later samples are there first."""

        def __len__(self) -> int:
            return len(samples)

        def __getitem__(self, index: int) -> Sample:
            time.sleep(0.002 * ((index * 7) % 5))
            return samples[index]

    def choose(name: str):
        sample = samples[int(name.partition("/")[2])]
        return lambda left, right: perfect([sample])(sample.left, sample.right)

    plain = evaluate(ByName(choose), samples, progress=False)
    ahead = evaluate(ByName(choose), Slow(), progress=False, read=partial(read_ahead, workers=workers))
    assert plain.rows == _untimed(ahead, plain)
    assert plain.data_sha256 == ahead.data_sha256
    assert {key: value for key, value in plain.summary.items() if not key.startswith("seconds")} == pytest.approx(
        {key: value for key, value in ahead.summary.items() if not key.startswith("seconds")}, nan_ok=True, abs=0, rel=0
    )


def test_an_unreadable_sample_stops_the_readers_too():
    class Broken:
        def __len__(self) -> int:
            return 1000

        def __getitem__(self, index: int) -> Sample:
            if index == 3:
                raise InputError("left.png is damaged")
            return make_sample(index)

    def predict(left: np.ndarray, right: np.ndarray) -> DisparityMap:
        return DisparityMap(*np.zeros((3, 4, 6), np.float32))

    scored = []
    with pytest.raises(InputError, match=r"^left\.png is damaged$"):  # no traceback of another process
        evaluate(predict, Broken(), False, read=partial(read_ahead, workers=2), on_image=lambda *image: scored.append(image[0]))
    assert scored == [0, 1, 2]


@pytest.mark.parametrize("error", [InputError, StoppedError])
def test_what_was_predicted_is_scored_before_a_reader_stops_everything(samples: list[Sample], error: type[Exception]):
    def read(given: list[Sample], indices: Sequence[int]) -> Iterator[Sample]:
        yield from given
        raise error("no more")

    scored: list[int] = []
    with pytest.raises(error, match=r"^no more$"):
        evaluate(perfect(samples), samples, False, read=read, on_image=lambda *image: scored.append(image[0]))
    assert scored == [0, 1]


def test_each_image_is_handed_over_with_its_row(samples: list[Sample]):
    seen = []
    report = evaluate(perfect(samples), samples, progress=False, on_image=lambda *given: seen.append(given))
    assert [(index, sample.name) for index, sample, _, _ in seen] == [(0, "fake/0"), (1, "fake/1")]
    assert all(np.array_equal(result.disp, sample.disp) for _, sample, result, _ in seen)
    assert tuple(row for *_, row in seen) == report.rows


def test_the_processes_share_the_images(monkeypatch):
    samples = [make_sample(i) for i in range(5)]
    done: dict[int, list[int]] = {0: [], 1: []}
    parts: list[dict] = []

    def process(number: int, everyones) -> Report:
        monkeypatch.setattr("stereo.engine.evaluate.rank", lambda: number)
        monkeypatch.setattr("stereo.engine.evaluate.world_size", lambda: 2)
        monkeypatch.setattr("stereo.engine.evaluate.everyones", everyones)
        watch = partial(lambda found, index, *rest: found.append(index), done[number])
        return evaluate(perfect(samples), samples, progress=False, sharded=True, on_image=watch)

    with pytest.raises(KeyError):  # the first process's part alone is no report
        process(0, lambda mine: parts.append(mine) or [mine])
    report = process(1, lambda mine: [parts[0], mine])
    assert done == {0: [0, 2, 4], 1: [1, 3]}
    assert [row["name"] for row in report.rows] == [f"fake/{i}" for i in range(5)]


def test_only_the_given_images(samples: list[Sample]):
    report = evaluate(perfect(samples), samples, progress=False, indices=[1])
    assert [row["name"] for row in report.rows] == ["fake/1"]
    assert report.available == 2


def test_unknown_occlusion_and_confidence_of_a_method_are_skipped(samples: list[Sample]):
    report = evaluate(ByName(lambda name: lambda left, right: StoredMap(samples[int(name[-1])].disp)), samples, progress=False)
    row = report.rows[0]
    assert row["epe_all"] == 0 and row["occlusion_known"]
    assert all(math.isnan(row[key]) for key in ("iou_occluded", "ause", "risk_50", "bad3_kept80"))
    assert (row["count_known"], row["count_tp"], row["count_kept80"]) == (0, 0, 0)


def test_a_confidence_of_another_size_is_refused(samples: list[Sample]):
    predict = perfect(samples)
    with pytest.raises(InputError, match=r"fake/0: sizes differ: confidence \(2, 6\), truth \(4, 6\)"):
        evaluate(lambda left, right: replace(predict(left, right), confidence=np.ones((2, 6))), samples, progress=False)


def test_the_regions_are_a_table_of_their_own(samples: list[Sample]):
    predict = perfect(samples)
    report = evaluate(lambda left, right: predict(left, right, 4.0), samples, progress=False)
    lines = {line.split()[0]: line.split()[1:] for line in format_regions(report).splitlines()}
    assert lines["occ"] == ["9", "4.00", "100.00", "4.00"]
    assert lines["d0to16"] == lines["all"] == ["50", "4.00", "100.00", "4.00"]
    assert lines["d192up"] == ["0", "-", "-", "-"]
