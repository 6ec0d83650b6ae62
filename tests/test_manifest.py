"""Manifests: both forms, every column, every error with its line, and what write_manifest writes is read back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from dataset_trees import CASES, H, W, constant, write

from datasets.base import open_dataset
from datasets.frames import Frame, FrameDataset, MissingFilesError
from datasets.manifest import COLUMNS, FILES, Manifest, write_manifest
from datasets.pairs import PairsDataset
from stereo.image_io import write_disparity_png16, write_image, write_pfm
from stereo.types import InputError, Sample

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
CALIB = "cam0=[100 0 3; 0 100 2; 0 0 1]\ncam1=[100 0 3; 0 100 2; 0 0 1]\ndoffs=0\nbaseline=120\nwidth=6\nheight=4\nndisp=64\n"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a/ and b/ with images of 1 and 2 (of 3 and 4) and truth of 2 px (of 3 px) in every form."""
    folder = tmp_path_factory.mktemp("original")
    for number, name in enumerate(("a", "b")):
        pair = folder / name
        pair.mkdir(parents=True)
        write_image(pair / "left.png", np.full((H, W, 3), 2 * number + 1, np.uint8))
        write_image(pair / "right.png", np.full((H, W, 3), 2 * number + 2, np.uint8))
        disp = np.full((H, W), 2 + number, np.float32)
        write_pfm(pair / "disp.pfm", disp)
        write_pfm(pair / "negative.pfm", -disp)
        write_disparity_png16(pair / "disp16.png", disp)
        write(pair / "hundredths.png", (100 * disp).astype(np.uint16))
        write(pair / "bytes.png", (16 * disp).astype(np.uint8))
        np.save(pair / "disp.npy", disp)
        mask = np.zeros((H, W), np.uint8)
        mask[:, number] = 255
        write_image(pair / "mask.png", mask)
        (pair / "calib.txt").write_text(CALIB)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "data")


def manifest(folder: Path, *lines: str, name: str = "m.csv") -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return path


def equal(a: Sample, b: Sample) -> bool:
    return all(np.array_equal(vars(a)[name], vars(b)[name]) for name in vars(a))  # array_equal(None, None) holds


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def test_pairs_without_truth(folder: Path):
    dataset = open_dataset(f"manifest:{manifest(folder, 'left,right', 'a/left.png,a/right.png', 'b/left.png,b/right.png')}")
    assert dataset.names == ("a/left", "b/left")
    assert dataset[1].left.max() == 3 and dataset[1].right.max() == 4
    assert dataset[0].disp is dataset[0].valid is dataset[0].occluded is None


def test_every_column_in_any_order(folder: Path):
    values = {
        "calib": "a/calib.txt", "disp_right": "a/disp.npy", "occluded_right": "b/mask.png", "name": "one", "scale": "1",
        "right": "a/right.png", "left": "a/left.png", "disp": "a/disp.pfm", "occluded": "a/mask.png",
    }  # fmt: skip
    assert values.keys() == set(COLUMNS)
    dataset = Manifest(manifest(folder, ",".join(values), ",".join(values.values())))
    (sample,) = dataset
    assert sample.name == "one"
    assert (sample.disp == 2).all() and (sample.disp_right == 2).all() and sample.valid.all() and sample.valid_right.all()
    assert sample.occluded.sum(axis=0).tolist() == [H, 0, 0, 0, 0, 0]
    assert sample.occluded_right.sum(axis=0).tolist() == [0, H, 0, 0, 0, 0]
    assert dataset.frames[0].calib == folder / "a" / "calib.txt"


def test_json_lines_say_the_same_as_csv(folder: Path):
    header = "left,right,disp,scale,name"
    csv = manifest(folder, header, "a/left.png,a/right.png,a/hundredths.png,0.01,x", "b/left.png,b/right.png,,,")
    rows = [
        {"scale": 0.01, "left": "a/left.png", "right": "a/right.png", "disp": "a/hundredths.png", "name": "x"},
        {"left": "b/left.png", "right": "b/right.png", "disp": None, "scale": ""},
    ]
    jsonl = manifest(folder, json.dumps(rows[0]), "", json.dumps(rows[1]), name="m.jsonl")
    assert Manifest(csv).frames == Manifest(jsonl).frames
    assert equal(Manifest(csv)[0], Manifest(jsonl)[0])


@pytest.mark.parametrize(
    ("file", "scale"),
    [("disp.pfm", ""), ("disp.pfm", "1"), ("negative.pfm", "-1"), ("disp.npy", ""), ("disp16.png", ""), ("disp16.png", "1/256"),
     ("hundredths.png", "0.01"), ("hundredths.png", "1/100"), ("hundredths.png", "1e-2"), ("bytes.png", "1/16")],
)  # fmt: skip
def test_scale_is_px_per_stored_unit(folder: Path, file: str, scale: str):
    lines = "left,right,disp,disp_right,scale", f"a/left.png,a/right.png,a/{file},b/{file},{scale}"
    (sample,) = Manifest(manifest(folder, *lines))
    assert sample.disp == pytest.approx(2, rel=1e-6) and sample.disp_right == pytest.approx(3, rel=1e-6)


def test_a_scale_leaves_unknown_what_is_unknown(folder: Path):
    write(folder / "a" / "hundredths.png", constant(150, dtype=np.uint16))
    disp = np.full((H, W), 6, np.float32)
    disp[0, 0] = np.inf
    write_pfm(folder / "a" / "disp.pfm", disp)
    for file, scale in (("hundredths.png", "0.01"), ("disp.pfm", "0.25")):
        (sample,) = Manifest(manifest(folder, "left,right,disp,scale", f"a/left.png,a/right.png,a/{file},{scale}"))
        assert sample.valid.sum() == H * W - 1 and not sample.valid[0, 0]
        assert sample.disp[0, 0] == 0 and sample.disp[1:] == pytest.approx(1.5)


def test_two_lines_may_read_one_file_with_two_scales(folder: Path):
    lines = [f"a/left.png,a/right.png,a/hundredths.png,{scale},{scale}" for scale in ("0.01", "0.02")]
    assert [sample.disp.max() for sample in Manifest(manifest(folder, "left,right,disp,scale,name", *lines))] == [2, 4]


def test_paths_are_relative_to_the_manifest_or_absolute(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (folder / "lists").mkdir()
    path = manifest(folder / "lists", "left,right", f"../a/left.png,{folder / 'b' / 'right.png'}")
    monkeypatch.chdir(tmp_path)
    (sample,) = Manifest(path.relative_to(tmp_path))
    assert sample.left.max() == 1 and sample.right.max() == 4


@pytest.mark.parametrize("divider", [",", ";", "\t"])
def test_what_spreadsheets_write(folder: Path, divider: str):
    (folder / "a, b; c").mkdir()
    (folder / "a" / "left.png").rename(folder / "a, b; c" / "left.png")
    rows = [["left", "right ", "name"], ['"a, b; c/left.png"', " a/right.png ", ' "say ""a"""'], ["", "", ""]]
    path = folder / "m.csv"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(divider.join(row) for row in rows).encode())
    assert Manifest(path).names == ('say "a"',)


def test_the_order_is_that_of_the_lines(folder: Path):
    path = manifest(folder, "left,right", "b/left.png,a/right.png", "a/left.png,b/right.png")
    assert Manifest(path).names == ("b/left", "a/left")


# ---------------------------------------------------------------------------------------------------------------------
# Errors


@pytest.mark.parametrize(
    ("lines", "line", "message"),
    [
        (["left,rigth", "a/left.png,a/right.png"], 1, r"unknown column 'rigth', expected one of .*did you mean right"),
        (["", "left,right,left"], 2, "column 'left' is there twice"),
        (["left,right", "a/left.png,a/right.png", ",b/right.png"], 3, "no left; every pair needs left and right"),
        (["left,disp", "a/left.png,a/disp.pfm"], 2, "no right; every pair needs left and right"),
        (["left,right,disp", "a/left.png,a/right.png,a/calib.txt"], 2, r"disp '.*' is of no kind that is read; expected .npy"),
        (["left,right,calib", "a/left.png,a/right.png,a/left.png"], 2, "calibration '.*left.png' is not a text file"),
        (["left,right,name", "a/left.png,a/right.png,x", "b/left.png,b/right.png,x"], 3, "the name 'x' is that of line 2"),
        (["left,right", "a/left.png,a/right.png", "a/left.png,b/right.png"], 3, "the name 'a/left' is that of line 2"),
        (["left,right", "a/left.png,a/right.png,a/disp.pfm"], 2, "has 3 values for 2 columns"),
        (["left,right", "a/left.png"], 2, "has 1 values for 2 columns"),
        (["left,right", 'a/left.png,"a/right.png'], 2, "expected CSV"),
        (['{"left": "a/left.png"}'], 1, "no right"),
        (['{"left": "a/left.png", "right": "a/right.png"}', "[1]"], 2, "is no JSON object"),
        (['{"left": "a/left.png", "right": "a/right.png"}', "[[1, 2]]"], 2, "is no JSON object"),
        (["[", '{"left": "a/left.png", "right": "a/right.png"}]'], 1, "is no JSON: .*expected an object on every line"),
        (['{"left": "a/left.png", "right": "a/right.png"}', "{"], 2, "is no JSON: .*expected an object on every line"),
        (['{"left": "a/left.png", "right": ["a/right.png"]}'], 1, "got right = .*expected text or a number"),
        (['{"left": "a/left.png", "right": {"a": 1}}'], 1, "got right = .*expected text or a number"),
        (['{"left": "a/left.png", "right": "a/right.png", "left": "b/left.png"}'], 1, "column 'left' is there twice"),
    ],
)  # fmt: skip
def test_every_error_has_its_line(folder: Path, lines: list[str], line: int, message: str):
    with pytest.raises(InputError, match=rf"(?s)^'.*m\.csv' line {line}\b.*{message}") as caught:
        Manifest(manifest(folder, *lines))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("lost", ["a/lost.png", "a", "x" * 5000, "a/\0.png"])
@pytest.mark.parametrize("column", FILES)
def test_a_missing_file_has_its_pair(folder: Path, column: str, lost: str):
    row = {"left": "a/left.png", "right": "a/right.png", "name": "this one", column: lost}
    if column in ("disp", "disp_right"):
        row[column] = f"{lost}.pfm"
    path = manifest(folder, json.dumps({"left": "b/left.png", "right": "b/right.png"}), json.dumps(row))
    with pytest.raises(MissingFilesError, match=r"' is missing; this one needs it, paths are relative to the folder") as caught:
        Manifest(path)
    assert caught.value.files == (("this one", folder / row[column]),)
    assert caught.value.rest.names == ("b/left",)


@pytest.mark.parametrize("scale", ["0", "-0.0", "nan", "inf", "1/0", "px", "1/2/3", "/2", "1e999"])
def test_scales_that_are_none(folder: Path, scale: str):
    path = manifest(folder, "left,right,scale", f"a/left.png,a/right.png,{scale}")
    with pytest.raises(InputError, match=rf"m.csv' line 2: got scale '{scale}', expected px per stored unit, for example"):
        Manifest(path)


@pytest.mark.parametrize("text", ["", "\n\n", "left,right\n"])
def test_a_manifest_without_pairs(folder: Path, text: str):
    (folder / "m.csv").write_text(text)
    with pytest.raises(InputError, match=r"m.csv' lists no pair; expected a line with the names of columns"):
        Manifest(folder / "m.csv")


def test_files_that_are_no_manifest(folder: Path):
    for path, message in ((folder / "no.csv", "No such file"), (folder, "directory"), (folder / "a" / "left.png", "UTF-8")):
        with pytest.raises(InputError, match=f"{path.name}'.*{message}"):
            Manifest(path)


def test_a_negative_disparity_and_a_foreign_mask_are_found_on_reading(folder: Path):
    dataset = Manifest(manifest(folder, "left,right,disp", "a/left.png,a/right.png,a/negative.pfm"))
    with pytest.raises(InputError, match=r"negative.pfm' holds -2 px; .*flip the sign"):
        dataset[0]
    write_image(folder / "a" / "mask.png", np.full((H, W), 128, np.uint8))
    with pytest.raises(InputError, match="the value 128"):
        Manifest(manifest(folder, "left,right,occluded", "a/left.png,a/right.png,a/mask.png"))[0]


# ---------------------------------------------------------------------------------------------------------------------
# Writing


def test_what_is_written_is_read_back(folder: Path):
    def frame(name: str, **more: object) -> Frame:
        return Frame(name, folder / "a" / "left.png", folder / "a" / "right.png", **more)

    every = {column: folder / "a" / "mask.png" for column in FILES if column.startswith("occluded")}
    every |= {"disp": folder / "a" / "hundredths.png", "disp_right": folder / "b" / "hundredths.png"}
    frames = [frame('x, "y"\n; z'), frame("all", **every, calib=folder / "b" / "calib.txt", scale=1 / 100)]
    for path in (folder / "all.csv", folder / "a" / "all.csv", folder.parent / "all.csv"):
        write_manifest(FrameDataset(frames), path)
        read = Manifest(path)
        assert read.frames == tuple(frames)
        assert equal(read[0], FrameDataset(frames)[0]) and equal(read[1], FrameDataset(frames)[1])


def test_a_manifest_moves_with_its_folder(folder: Path):
    write_manifest(Manifest(manifest(folder, "left,right,disp", "a/left.png,a/right.png,a/disp.npy")), folder / "new.csv")
    assert (folder / "new.csv").read_text().splitlines() == [",".join(COLUMNS), "a/left,a/left.png,a/right.png,a/disp.npy,,,,,"]
    folder.rename(folder.with_name("elsewhere"))
    assert Manifest(folder.with_name("elsewhere") / "new.csv")[0].disp.max() == 2


def test_other_data_sets_become_manifests(folder: Path):
    scene = folder / "set" / "scene"
    scene.mkdir(parents=True)
    names = {"left.png": "left.png", "right.png": "right.png", "disp.pfm": "disp_left.pfm", "mask.png": "occ_left.png"}
    for old, new in names.items():
        (scene / new).write_bytes((folder / "a" / old).read_bytes())
    pairs = PairsDataset(folder / "set")
    write_manifest(pairs, folder / "pairs.csv")
    assert equal(Manifest(folder / "pairs.csv")[0], pairs[0])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_storage_that_columns_cannot_say_is_refused(case, tmp_path: Path):
    """Depth read as px would be wrong truth without any error."""
    case.write(tmp_path / "data")
    dataset, path = open_dataset(f"{case.name}:{tmp_path / 'data'}"), tmp_path / "m.csv"
    if case.name in ("crestereo", "instereo2k"):
        write_manifest(dataset, path)
        assert equal(Manifest(path)[0], dataset[0])
    else:
        with pytest.raises(InputError, match=r"cannot write '.*m.csv', these files do not fit a manifest: "):
            write_manifest(dataset, path)
        assert [entry.name for entry in tmp_path.iterdir()] == ["data"]


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is absent: it holds the real pairs")
def test_real_pairs(tmp_path: Path):
    pairs = PairsDataset(SHARED)
    write_manifest(pairs, tmp_path / "m.csv")
    assert Manifest(tmp_path / "m.csv").frames == pairs.frames


def test_nothing_is_written_over_when_writing_fails(folder: Path):
    path = manifest(folder, "left,right", "a/left.png,a/right.png")
    before = path.read_bytes()
    dataset = Manifest(path)
    (folder / "a" / "right.png").unlink()
    with pytest.raises(InputError, match="cannot write"):
        write_manifest(dataset, path)
    assert path.read_bytes() == before
    with pytest.raises(InputError, match="cannot write"):
        write_manifest(dataset, folder / "absent" / "m.csv")
    with pytest.raises(InputError, match=r"cannot write .* lists no pair"):
        write_manifest(FrameDataset([]), path)
