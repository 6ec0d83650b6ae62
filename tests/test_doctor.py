"""The data doctor: every way in which a data set can lie is found with its cure, and honest sets are left in peace."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datasets.base import DATASETS
from datasets.doctor import AS_STATED, OTHER_VIEW, SCALES, TURNED, ZERO, examine, facts_of, image_errors, recognise, spread
from datasets.frames import FrameDataset
from datasets.pairs import PairsDataset
from datasets.procedural.dataset import render_sample
from stereo.cli import main
from stereo.cli.check import histogram
from stereo.image_io import write_disparity_png16, write_image, write_pfm
from stereo.types import InputError, Sample

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
H, W = 128, 256


class Samples(list):
    """A data set of given samples; an InputError in its place is raised."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(getattr(item, "name", "broken") for item in self)

    def __getitem__(self, index: int) -> Sample:
        item = super().__getitem__(index)
        if isinstance(item, InputError):
            raise item
        return item


@pytest.fixture(scope="module")
def honest() -> list[Sample]:
    return [render_sample(2, index, H, W) for index in range(4)]


def problems(samples: list, judge=None) -> tuple[str, ...]:
    return examine(Samples(samples), range(len(samples)), judge).problems


def scaled(sample: Sample, factor: float) -> Sample:
    """Every disparity times the factor; unknown views stay unknown."""
    disps = {name: disp * np.float32(factor) for name in ("disp", "disp_right") if (disp := getattr(sample, name)) is not None}
    return replace(sample, **disps)


def one_sided(sample: Sample) -> Sample:
    return replace(sample, disp_right=None, valid_right=None, occluded_right=None)


def with_truth_of(sample: Sample, other: Sample) -> Sample:
    return replace(other, left=sample.left, right=sample.right, name=sample.name)


def test_an_honest_set_is_left_in_peace(honest):
    diagnosis = examine(Samples(honest), range(4))
    assert diagnosis.problems == ()
    assert diagnosis.corrupt == {}
    assert sum(diagnosis.counts.values()) == 4 * H * W
    for facts, sample in zip(diagnosis.facts, honest, strict=True):
        assert facts.size == f"{W}x{H}"
        assert facts.truths == ("disp", "disp_right", "occluded", "occluded_right")
        assert facts.unknown == {"disp": 0, "disp_right": 0}
        assert facts.occluded["occluded"] == sample.occluded.mean()
        assert facts.lowest == min(sample.disp.min(), sample.disp_right.min())
        assert facts.mask_iou > 0.8
        assert facts.agreement > 0.7
    assert problems([one_sided(sample) for sample in honest]) == ()


@pytest.mark.parametrize("way", SCALES)
def test_a_wrong_scale_is_named(honest, way: str):
    factor = SCALES[way]
    found = problems([scaled(one_sided(sample), 1 / factor) for sample in honest])
    cure = f"{1 / factor:.0f}x too large: divide by" if factor < 1 else f"{factor:.0f}x too small: multiply by"
    assert len(found) == 1
    assert found[0].startswith("disp looks ")
    assert cure in found[0]


def test_a_scale_of_256_in_both_views(honest):
    found = problems([scaled(sample, 256) for sample in honest])
    assert ["256x too large" in line for line in found] == [True, True]
    assert [line.split()[0] for line in found] == ["disp", "disp_right"]


def test_a_turned_sign_is_named(honest):
    found = problems([scaled(sample, -1) for sample in honest])
    assert [line.split()[0] for line in found] == ["disp", "disp_right"]
    assert all("has its sign turned: negate it" in line for line in found)


def test_swapped_images_are_named(honest):
    found = problems([replace(sample, left=sample.right, right=sample.left) for sample in honest])
    assert len(found) == 2
    assert all("exchange left and right images" in line for line in found)


def test_exchanged_truths_are_named(honest):
    def exchanged(s: Sample) -> Sample:
        return replace(s, disp=s.disp_right, disp_right=s.disp, occluded=s.occluded_right, occluded_right=s.occluded)

    found = problems([exchanged(sample) for sample in honest])
    assert [line.split()[0] for line in found] == ["disp", "disp_right"]
    assert all("looks like the truth of the other view: exchange the files of both views" in line for line in found)


def test_a_mispaired_truth_is_named(honest):
    found = problems([honest[0], with_truth_of(honest[1], honest[3]), *honest[2:]])
    assert [line.split(" does not belong to its images")[0] for line in found] == [
        f"disp of 1 of 4 frames ({honest[1].name})",
        f"disp_right of 1 of 4 frames ({honest[1].name})",
    ]


def test_the_right_truth_of_another_frame(honest):
    wrong = replace(honest[1], disp_right=honest[3].disp_right)
    found = problems([honest[0], wrong, *honest[2:]])
    lines = [line for line in found if "confirmed by the right" in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"1 of 4 frames ({honest[1].name}): only ")
    assert not any("mask" in line for line in found)


@pytest.mark.parametrize("view", [lambda sample: sample, one_sided])
def test_masks_that_contradict_the_truth(honest, view):
    inverted = problems([view(replace(sample, occluded=~sample.occluded)) for sample in honest])
    assert len(inverted) == 1
    assert "they look inverted" in inverted[0]
    shifted = problems([view(replace(sample, occluded=np.roll(sample.occluded, W // 2, axis=1))) for sample in honest])
    assert len(shifted) == 1
    assert "pair masks and truth by name" in shifted[0]


def test_values_that_are_no_disparities(honest):
    disp = honest[0].disp.copy()
    disp[3, 5] = np.nan
    assert problems([replace(honest[0], disp=disp)]) == (
        f"1 of 1 frames ({honest[0].name}): NaN counts as known; its reader has to leave it out of valid",
    )
    shift = round(float(honest[2].disp.min())) + 5
    right = np.roll(honest[2].right, shift, axis=1)
    shifted = one_sided(replace(honest[2], right=right, disp=honest[2].disp - shift, occluded=None))
    found = problems([shifted])
    assert len(found) == 1
    assert f"negative disparities, down to {shifted.disp.min():.1f} px" in found[0]


def test_a_broken_frame_is_named_and_the_rest_goes_on(honest):
    found = examine(Samples([honest[0], InputError("'x.png' is damaged"), honest[1]]), range(3))
    assert found.corrupt == {"broken": "'x.png' is damaged"}
    assert found.problems == ("1 of 3 frames (broken) cannot be read: 'x.png' is damaged",)
    assert len(found.facts) == 2


def test_images_without_truth_go_to_the_judge(honest):
    bare = [Sample(sample.left, sample.right, name=sample.name) for sample in honest[:2]]
    asked = []

    def judge(left: np.ndarray, right: np.ndarray) -> dict[str, str]:
        asked.append(left)
        return {"swapped": "they are swapped"}

    found = problems([*bare, *honest[2:]], judge)
    assert [left is sample.left for left, sample in zip(asked, bare, strict=True)] == [True, True]
    assert found == (f"2 of 4 frames ({bare[0].name}, {bare[1].name}): they are swapped",)
    assert facts_of(bare[0]).lowest is None


def test_image_errors_are_0_for_the_truth_and_1_for_chance():
    rng = np.random.default_rng(0)
    right = rng.integers(0, 256, (H, W, 3), dtype=np.uint8)
    disp = np.full((H, W), 12, np.float32)
    everywhere = np.ones((H, W), bool)
    errors = image_errors(np.roll(right, 12, axis=1), right, disp, everywhere & (np.arange(W) >= 24))
    assert errors.pop(AS_STATED) < 0.01
    assert errors.pop(OTHER_VIEW) < 0.1  # the same, for a constant disparity
    assert all(error == pytest.approx(1, abs=0.1) for error in errors.values())
    assert image_errors(right, right, disp, ~everywhere) == {}
    flat = np.full((H, W, 3), 7, np.uint8)
    assert image_errors(flat, flat, disp, everywhere) == {}


def test_a_truth_too_small_to_tell_is_not_blamed():
    rng = np.random.default_rng(0)
    image = np.repeat(np.repeat(rng.integers(0, 256, (H // 4, W // 4, 3), dtype=np.uint8), 4, 0), 4, 1)
    disp = np.full((H, W), 0.1, np.float32)
    assert problems([Sample(image, image, disp, np.ones((H, W), bool))]) == ()


@pytest.mark.parametrize(("frames", "wanted"), [(1, 8), (8, 8), (5, 8), (100, 8), (22390, 8), (7, 1), (9, 2), (0, 8)])
def test_frames_are_spread_evenly(frames: int, wanted: int):
    indices = spread(frames, wanted)
    assert len(indices) == min(frames, wanted)
    assert indices == sorted(set(indices))
    assert set(indices) <= set(range(frames))
    if len(indices) > 1:
        assert (indices[0], indices[-1]) == (0, frames - 1)
        assert np.ptp(np.diff(indices)) <= 1


def test_histogram():
    assert histogram(Counter()) == {}
    assert histogram(Counter({3: 1, 4: 3})) == {"3 .. 4 px": 0.25, "4 .. 5 px": 0.75}
    assert histogram(Counter({0: 1, 130: 1})) == {f"{x} .. {x + 20} px": 0.5 * (x in (0, 120)) for x in range(0, 140, 20)}
    assert list(histogram(Counter({-7: 1, 12: 1}))) == [f"{x} .. {x + 2} px" for x in range(-8, 14, 2)]
    rng = np.random.default_rng(0)
    for _ in range(50):
        counts = Counter(rng.integers(-50, rng.integers(-40, 70000), 30).tolist())
        assert sum(histogram(counts).values()) == pytest.approx(1)
        assert len(histogram(counts)) <= 11


# ---------------------------------------------------------------------------------------------------------------------
# The verb, on files


@pytest.fixture
def root(tmp_path: Path, honest) -> Path:
    for sample in honest:
        folder = tmp_path / "data" / "set" / sample.name[-1]
        folder.mkdir(parents=True)
        write_image(folder / "left.png", sample.left)
        write_image(folder / "right.png", sample.right)
        write_pfm(folder / "disp_left.pfm", np.where(np.arange(W) < 16, np.inf, sample.disp))
    return tmp_path / "data"


def test_one_screen_and_one_object(root: Path, capsys):
    assert main(["check", f"pairs:{root}", "--strict"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"pairs:{root}: 4 frames, 4 examined, 0 of them corrupt\n")
    assert f"  sizes       {W}x{H} (4)\n" in text
    assert "disp in 4 of 4, disp_right in 0 of 4, occluded in 0 of 4" in text
    assert "6.2% of disp" in text
    assert text.endswith("verdict: nothing wrong\n")
    assert len(text.splitlines()) <= 24
    assert main(["check", f"pairs:{root}", "--json", "--frames", "2"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["frames"], printed["examined"], printed["wrong"]) == (4, 2, 0)
    assert printed["unknown"]["disp"] == pytest.approx(16 / W)
    assert sum(printed["disparity_histogram"].values()) == pytest.approx(1)
    assert printed["image_errors"]["disp"][AS_STATED] < 0.7


def test_strict_fails_on_a_damaged_file_and_names_it(root: Path, capsys):
    path = root / "set" / "1" / "right.png"
    path.write_bytes(path.read_bytes()[:-40])
    assert main(["check", f"pairs:{root}"]) == 0
    text = capsys.readouterr().out
    assert "4 frames, 4 examined, 1 of them corrupt" in text
    assert "WRONG: 1 of 4 frames (set/1) cannot be read: PNG" in text
    assert main(["check", f"pairs:{root}", "--strict", "--frames", "1"]) == 0
    assert main(["check", f"pairs:{root}", "--strict", "--frames", "1", "--all"]) == 2


def test_missing_files_are_listed_and_the_rest_is_checked(root: Path, capsys):
    lost = [root / "set" / name for name in ("1/disp_left.pfm", "1/right.png", "3/left.png")]
    for path in lost:
        path.unlink()
    for what in (f"pairs:{root}", str(root)):
        assert main(["check", what, "--strict"]) == 2
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == f"pairs:{root}: 2 frames, 2 examined, 0 of them corrupt; 2 more lack files"
        assert sorted(line for line in lines if line.startswith("  missing ")) == [f"  missing     {path}" for path in lost]
        assert f"  sizes       {W}x{H} (2)" in lines
        wrong = "2 of 4 frames (set/1, set/3) cannot be read: 3 missing file(s); copy or download them again"
        assert lines[-2:] == [f"WRONG: {wrong}", "verdict: 1 wrong"]
    assert main(["check", f"pairs:{root}", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {name: sorted(paths) for name, paths in printed["missing"].items()} == {
        "set/1": [str(path) for path in lost[:2]],
        "set/3": [str(lost[2])],
    }
    assert (printed["frames"], printed["wrong"], printed["problems"]) == (2, 1, [wrong])


def test_a_set_without_any_whole_frame(root: Path, capsys, monkeypatch):
    for path in root.rglob("disp_left.pfm"):
        path.unlink()
    monkeypatch.setattr("stereo.cli.check.MISSING_LINES", 3)
    assert main(["check", f"pairs:{root}", "--strict"]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("0 frames, 0 examined, 0 of them corrupt; 4 more lack files")
    assert lines[1:4] == [f"  missing     {root}/set/{number}/disp_left.pfm" for number in range(3)]
    assert lines[4] == "  missing     ... and 1 more, which --json lists"
    assert lines[5].startswith("WRONG: 4 of 4 frames") and lines[6:] == ["verdict: 1 wrong"]
    fits, missed = recognise(root)
    assert fits == {}
    assert missed["pairs"] == f"'{root}/set/0/disp_left.pfm' is missing, and no frame is complete"


def test_a_sign_that_the_reader_refuses_is_reported(root: Path, capsys, honest):
    write_pfm(root / "set" / "2" / "disp_left.pfm", -honest[2].disp)
    assert main(["check", f"pairs:{root}"]) == 0
    assert "(set/2) cannot be read" in (text := capsys.readouterr().out)
    assert "flip the sign" in text


def test_bare_images_are_checked_as_pairs(monkeypatch, capsys):
    sample = render_sample(3, 5, 224, 448, augment=False)
    monkeypatch.setitem(DATASETS, "bare", lambda path: Samples([Sample(sample.right, sample.left, name="a")]))
    assert main(["check", "bare:x"]) == 0
    assert "1 of 1 frames (a): 100% of the points lie further right" in capsys.readouterr().out


def half_of_the_pairs(path: str) -> FrameDataset:
    if not (found := list(Path(path).rglob("left.png"))):
        raise InputError("nothing here")
    return FrameDataset(PairsDataset(found[0].parents[2]).frames[:2])


def test_a_folder_is_recognised_by_the_readers(root: Path, tmp_path: Path, monkeypatch, capsys):
    fits, missed = recognise(root)
    assert isinstance(fits["pairs"].dataset, PairsDataset)
    assert len(fits["pairs"].dataset) == 4
    assert "generated" not in missed
    assert "looked" in missed["flyingthings3d"]
    monkeypatch.setattr("datasets.doctor.DATASETS", {name: DATASETS[name] for name in ("flyingthings3d", "generated", "pairs")})
    assert main(["check", str(root)]) == 0
    assert capsys.readouterr().out.startswith(f"pairs:{root}: 4 frames, 4 examined")

    monkeypatch.setattr("datasets.doctor.DATASETS", {"pairs": PairsDataset, "twin": PairsDataset})
    assert main(["check", str(root)]) == 0
    same, first, *_ = capsys.readouterr().out.splitlines()
    assert same == "pairs and twin read the same files here"
    assert first.startswith(f"twin:{root}: 4 frames, 4 examined")

    monkeypatch.setattr("datasets.doctor.DATASETS", {"pairs": PairsDataset, "half": half_of_the_pairs})
    assert main(["check", str(root), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["fits"] == {"pairs": 4, "half": 2}
    assert f"pairs:{root}   4 frames" in captured.err

    (tmp_path / "empty").mkdir()
    assert main(["check", str(tmp_path / "empty"), "--strict"]) == 2
    text = capsys.readouterr().out
    assert "is no data set that is known here; what was looked for:" in text
    assert "\n  pairs no stereo pair found; looked for './left.png', './*/left.png', './*/*/left.png' (with right" in text
    assert "\n  half  nothing here\n" in text


def test_plain_folders_give_way_to_a_data_set_that_knows_more(tmp_path: Path, honest, capsys):
    """KITTI's image_2 and image_3 are a left and a right folder too, without the truth beside them."""
    base = tmp_path / "training"
    for folder, values in (("image_2", honest[0].left), ("image_3", honest[0].right)):
        (base / folder).mkdir(parents=True)
        write_image(base / folder / "000000_10.png", values)
    assert main(["check", str(base)]) == 0
    assert capsys.readouterr().out.startswith(f"folders:{base}: 1 frames, 1 examined")
    (base / "disp_occ_0").mkdir()
    write_disparity_png16(base / "disp_occ_0" / "000000_10.png", honest[0].disp)
    assert main(["check", str(base)]) == 0
    same, first, *_ = capsys.readouterr().out.splitlines()
    assert same == "kitti2012 and kitti2015 read the same files here"
    assert first.startswith(f"kitti2015:{base}: 1 frames, 1 examined")


def test_two_folders_are_checked_as_pairs(tmp_path: Path, honest, monkeypatch, capsys):
    for sample in honest[:2]:
        for view in ("left", "right"):
            (tmp_path / view).mkdir(exist_ok=True)
            write_image(tmp_path / view / f"{sample.name[-1]}.png", getattr(sample, view))
    monkeypatch.chdir(tmp_path)
    for left, right in (("left", "right"), (str(tmp_path / "left"), "../" + tmp_path.name + "/right")):
        assert main(["check", left, right]) == 0
        assert capsys.readouterr().out.startswith(f"{left} | {right}: 2 frames, 2 examined, 0 of them corrupt\n")
    (tmp_path / "right" / "1.png").unlink()
    assert main(["check", "left", "right", "--strict"]) == 2
    assert f"  missing     {tmp_path}/right/1.png\n" in capsys.readouterr().out


def test_what_is_neither_file_nor_data_set(capsys):
    assert main(["check", "nowhere"]) == 2
    assert "expected NAME:PATH" in capsys.readouterr().err


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is absent: it holds the real pairs")
def test_real_pairs_are_honest():
    dataset = PairsDataset(SHARED)
    diagnosis = examine(dataset, range(len(dataset)))
    assert diagnosis.problems == ()
    assert len(diagnosis.facts) == 11
    sttr = next(facts for facts in diagnosis.facts if facts.name.endswith("A-0032-0006"))
    assert sttr.mask_iou == pytest.approx(0.968, abs=0.001)  # measured when the pair was collected
    for facts in diagnosis.facts:
        errors = facts.errors["disp"]
        assert errors[AS_STATED] < 0.5 * min(errors[ZERO], errors[TURNED])
