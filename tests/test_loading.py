"""The stream of batches: the same for any number of workers and from any step; what it skips, makes up and refuses."""

from __future__ import annotations

import dataclasses
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.base import open_dataset
from datasets.loading import collate, completed, stream_batches
from datasets.mixture import Mixture
from datasets.procedural.dataset import render_sample
from datasets.transforms import UNCHANGED, Augmentation
from stereo.image_io import write_image, write_pfm
from stereo.types import Batch, InputError, Sample

ROOT = Path(__file__).resolve().parents[1]

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
H, W = 40, 64
SIZE = (24, 40)


class Numbered:
    """Samples whose left image says which one it is; ``unreadable`` ones raise what a reader raises."""

    def __init__(self, count: int, unreadable=(), lacking=(), label: str = "n") -> None:
        self.names = tuple(f"{label}{index}" for index in range(count))
        self.unreadable, self.lacking = set(unreadable), lacking

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        if index in self.unreadable:
            raise InputError(f"PNG '{self.names[index]}.png' is truncated")
        draw = np.random.default_rng(index)
        image = draw.integers(0, 256, (H, W, 3), np.uint8)
        disp = np.full((H, W), index % 7, np.float32)
        known, nothing = np.ones((H, W), bool), np.zeros((H, W), bool)
        sample = Sample(image, image[::-1], disp, known, nothing, disp, known, nothing, self.names[index])
        return dataclasses.replace(sample, **dict.fromkeys(self.lacking))


def stream(mixture: Mixture, first: int = 0, last: int = 6, settings: Augmentation = UNCHANGED, **options) -> Iterator[Batch]:
    given = {"crops": [SIZE], "batch_size": 2} | options
    with warnings.catch_warnings():  # of more workers than cores
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        yield from stream_batches(mixture, settings, first=first, last=last, **given)


def batches(*given, **options) -> list[Batch]:
    return list(stream(*given, **options))


def names(found: list[Batch]) -> list[str]:
    return [name for batch in found for name in batch.names]


def equal(a: list[Batch], b: list[Batch]) -> bool:
    tensors = [field.name for field in dataclasses.fields(Batch) if field.name != "names"]
    return names(a) == names(b) and all(
        torch.equal(getattr(x, name), getattr(y, name)) for x, y in zip(a, b, strict=True) for name in tensors
    )


def test_the_number_of_workers_does_not_matter():
    mixture = Mixture([Numbered(9, unreadable=[4]), open_dataset("generated:3:4:40x64")], weights=(2, 1), seed=5)
    crops = [SIZE, (16, 56)]
    options = {"settings": Augmentation(), "crops": crops, "batch_size": 3}
    runs = [batches(mixture, 0, 8, workers=workers, **options) for workers in (0, 1, 3)]
    assert len(runs[0]) == 8
    assert equal(runs[0], runs[1]) and equal(runs[0], runs[2])
    assert {tuple(batch.disp.shape) for batch in runs[0]} == {(3, *size) for size in crops}
    assert any(name.startswith("generated:3/") for name in names(runs[0]))
    assert len({batch.left.numpy().tobytes() for batch in runs[0]}) == 8


def test_a_stream_goes_on_where_it_stopped():
    mixture = Mixture([Numbered(5)], seed=2)
    whole = batches(mixture, 0, 9, Augmentation())
    assert equal(whole[:4] + whole[4:7], batches(mixture, 0, 4, Augmentation()) + batches(mixture, 4, 7, Augmentation()))
    assert batches(mixture, 3, 3) == []


def test_every_epoch_holds_every_sample_in_another_order_and_look():
    found = batches(Mixture([Numbered(6)], seed=1), 0, 9, Augmentation(crop="centre", scale_probability=0.0))
    epochs = [names(found[3 * epoch : 3 * (epoch + 1)]) for epoch in range(3)]
    assert all(sorted(epoch) == [f"n{index}" for index in range(6)] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    looks = {batch.left[i].numpy().tobytes() for batch in found for i, name in enumerate(batch.names) if name == "n0"}
    assert len(looks) == 3


def test_the_seed_matters():
    first, second = (names(batches(Mixture([Numbered(30)], seed=seed))) for seed in (0, 1))
    assert first != second


def test_unreadable_samples_are_named_once_and_replaced(caplog):
    mixture = Mixture([Numbered(250, unreadable=[17, 100])], seed=3)
    with caplog.at_level(logging.WARNING):
        found = batches(mixture, 0, 300)  # more than two epochs
    told = sorted(record.getMessage() for record in caplog.records)
    assert [text.split("'")[1] for text in told] == ["n100.png", "n17.png"]
    assert all("skipped, and replaced" in text for text in told)
    assert len(names(found)) == 600
    assert not {"n17", "n100"} & set(names(found))
    assert equal(found[:20], batches(mixture, 0, 20))


def test_a_replacement_comes_from_the_same_data_set():
    broken = Numbered(4, unreadable=[1], label="broken")
    mixed, healthy = (Mixture([Numbered(4), part], seed=4) for part in (broken, Numbered(4, label="broken")))
    a, b = names(batches(mixed, 0, 20)), names(batches(healthy, 0, 20))
    assert [name[0] for name in a] == [name[0] for name in b]
    assert all(y == "broken1" for x, y in zip(a, b, strict=True) if x != y) and a != b


def test_too_many_unreadable_samples_end_the_stream_at_the_same_step():
    mixture = Mixture([Numbered(300, unreadable=range(0, 300, 30))], seed=1)
    allowed = r"^4 of 300 samples of the Numbered cannot be read, allowed are 3; .*"
    ends = set()
    for workers in (0, 2):
        found: list[Batch] = []
        with pytest.raises(InputError, match=allowed + r": PNG 'n\d+.png' is truncated; PNG .*; PNG .*$") as raised:
            found.extend(stream(mixture, 0, 150, workers=workers))
        assert "\n" not in str(raised.value)
        ends.add((len(found), str(raised.value)))
    assert len(ends) == 1
    met = [number for number in range(300) if mixture.pick(number).item % 30 == 0]
    assert ends.pop()[0] <= met[3] // 2  # at the latest when the order comes to the fourth one


ALLOWANCES = [(1, [0], 0.01), (3, range(3), 1.0), (5, [2], 0.0), (8, [1, 5], 0.01)]


@pytest.mark.parametrize(("count", "unreadable", "share"), ALLOWANCES)
def test_the_least_allowance_is_one_sample(count, unreadable, share):
    with pytest.raises(InputError, match=r"(cannot|can) be read"):
        batches(Mixture([Numbered(count, unreadable)]), 0, 20, corrupt_share=share)


def test_a_lost_disk_is_noticed_before_everything_was_tried():
    class Lost(Numbered):
        tried = 0

        def __getitem__(self, index: int) -> Sample:
            self.tried += 1
            raise InputError("input/output error")

    lost = Lost(1000)
    with pytest.raises(InputError, match=r"11 of 1000 samples .* allowed are 10"):
        batches(Mixture([lost]))
    assert lost.tried == 11


def test_one_unreadable_sample_of_a_few_is_allowed():
    assert set(names(batches(Mixture([Numbered(8, [1])]), 0, 20))) == {f"n{index}" for index in range(8) if index != 1}


def test_a_damaged_file_of_a_real_reader_is_named(tmp_path: Path, caplog):
    for scene in ("a", "b"):
        folder = tmp_path / "set" / scene
        folder.mkdir(parents=True)
        for name in ("left", "right"):
            write_image(folder / f"{name}.png", np.zeros((H, W, 3), np.uint8))
        write_pfm(folder / "disp_left.pfm", np.ones((H, W), np.float32))
    (tmp_path / "set/b/right.png").write_bytes((tmp_path / "set/b/right.png").read_bytes()[:-20])
    with caplog.at_level(logging.INFO):
        found = batches(Mixture([open_dataset(f"pairs:{tmp_path}")]))
    assert set(names(found)) == {"set/a"}
    warnings_told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings_told) == 1 and "b/right.png" in warnings_told[0] and "truncated" in warnings_told[0]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_without_truth_is_an_error_and_not_skipped(workers):
    mixture = Mixture([Numbered(5, lacking=["disp", "valid"])])
    with pytest.raises(InputError, match=r"^sample 'n\d' has no ground truth; training needs its disparity.*$") as raised:
        batches(mixture, workers=workers)
    assert "\n" not in str(raised.value)


class Broken(Numbered):
    def __getitem__(self, index: int) -> Sample:
        raise ZeroDivisionError("a bug")


def test_a_bug_is_not_a_corrupt_file():
    with pytest.raises(ZeroDivisionError):
        batches(Mixture([Broken(5)]))


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_made_up_is_said_once_per_data_set(workers, caplog):
    lacking = Numbered(5, lacking=["occluded_right", "disp_right", "valid_right"])
    with caplog.at_level(logging.INFO):
        found = batches(Mixture([Numbered(5), lacking, Numbered(5, lacking=["occluded"])]), 0, 12, workers=workers)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert sum("nothing is known of what is occluded in the right view" in text for text in told) == 1
    assert sum("left-right check" in text for text in told) == 1
    assert len(found) == 12


def test_small_images_are_enlarged_and_the_log_says_so(caplog):
    with caplog.at_level(logging.INFO):
        found = batches(Mixture([Numbered(3)]), crops=[(2 * H, W)])
    assert {tuple(batch.left.shape) for batch in found} == {(2, 3, 2 * H, W)}
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == [
        f"images smaller than the crop of {W}x{2 * H} px are enlarged"
    ]


def test_given_masks_go_before_derived_ones():
    sample = render_sample(7, 0, H, W)
    assert completed(sample) == (sample, "")
    half, said = completed(dataclasses.replace(sample, occluded_right=None))
    assert half.occluded is sample.occluded
    assert half.occluded_right.any() and "left-right check" in said
    alone = dataclasses.replace(sample, disp_right=None, valid_right=None, occluded_right=None)
    kept, said = completed(alone)
    assert kept.occluded is sample.occluded
    assert not kept.occluded_right.any() and said == "nothing is known of what is occluded in the right view"


def test_occlusion_from_the_left_disparity_alone_by_hand():
    """Every pixel compared with every other of its row; random sparse truth."""
    draw = np.random.default_rng(1)
    disp = draw.uniform(0, 12, (6, 30)).astype(np.float32)
    valid = draw.random((6, 30)) < 0.7
    sample = Sample(*(np.zeros((6, 30, 3), np.uint8),) * 2, disp=disp, valid=valid)
    found, said = completed(sample)
    assert said.startswith("the left occlusion mask comes from the left disparity alone")
    for y in range(6):
        for x in range(30):
            match = x - disp[y, x]
            nearer = any(
                valid[y, other] and np.rint(other - disp[y, other]) == np.rint(match) and disp[y, other] > disp[y, x] + 1
                for other in range(30)
            )
            assert found.occluded[y, x] == (valid[y, x] and (match < 0 or nearer)), (y, x)
    assert not found.occluded_right.any()


def test_occlusion_from_the_left_disparity_alone_on_scenes():
    """At least 70 % of the exact mask is found and at most 2 % of the visible pixels are taken for occluded."""
    hit = wanted = wrong = visible = 0
    for index in range(6):
        sample = render_sample(7, index, 96, 200, augment=False)
        mask = completed(Sample(sample.left, sample.right, sample.disp, sample.valid))[0].occluded
        hit, wanted = hit + int((mask & sample.occluded).sum()), wanted + int(sample.occluded.sum())
        wrong, visible = wrong + int((mask & ~sample.occluded).sum()), visible + int((~sample.occluded).sum())
    assert hit > 0.7 * wanted
    assert wrong < 0.02 * visible


def test_collate_needs_masks():
    sample = Numbered(1)[0]
    batch = collate([sample, sample])
    assert batch.left.shape == (2, 3, H, W) and batch.left.max() <= 1
    with pytest.raises(InputError, match="sample 'n0' has no occluded_right"):
        collate([dataclasses.replace(sample, occluded_right=None)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "at least 1 sample"),
        ({"last": -1}, "0 <= first <= last"),
        ({"workers": -1}, "no fewer than 0 workers"),
        ({"crops": []}, "at least one"),
        ({"crops": [(0, 5)]}, "at least one"),
        ({"corrupt_share": 1.5}, "0 to 1"),
    ],
)
def test_impossible_arguments_are_refused_at_once(options, message):
    given = {"crops": [SIZE], "batch_size": 2, "first": 0, "last": 3} | options
    with pytest.raises(InputError, match=message):
        stream_batches(Mixture([Numbered(3)]), UNCHANGED, **given)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is absent: it holds the real pairs")
def test_real_pairs_of_all_kinds_in_one_stream(caplog):
    """Dense and sparse truth, with and without masks, from 384x288 to 1242x375 px."""
    dataset = open_dataset(f"pairs:{SHARED}")
    with caplog.at_level(logging.INFO):
        found = batches(Mixture([dataset]), 0, 11, Augmentation(), crops=[(160, 320)], batch_size=1)
    assert sorted(names(found)) == sorted(dataset.names)
    for batch in found:
        assert batch.disp.shape == (1, 160, 320)
        assert batch.disp.isfinite().all() and batch.disp.min() >= 0
        outside = (torch.arange(320) - batch.disp < 0) & batch.valid
        assert batch.occluded[outside].all()
    assert "the left occlusion mask comes from the left disparity alone" in caplog.text
    assert all(record.levelno == logging.INFO for record in caplog.records)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_start_although_opencv_has_threads_already():
    """A forked worker that touched its parent's OpenCV pool waited for ever. In a process of its own, lest this one hang."""
    script = """
import cv2, numpy as np
cv2.setNumThreads(4)
cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.float32), (0, 0), 3)  # the pool is there
from datasets.batches import training_batches
from stereo.config import DataConfig
config = DataConfig(crops=((32, 64),), workers=2)
assert len(list(training_batches(config, 2, 0, 3))) == 3
assert cv2.getNumThreads() == 4
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=120, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
