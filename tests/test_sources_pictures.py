"""Pairs from picture files: what pairs with what, both views out of one file, and every refusal in one line."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from stereo_files import jpeg, jps, marked, mpo, number_of, pair, segment, side_by_side

from stereo.image_io import write_image
from stereo.sources.frame import Dropped, Selection, StereoFrame
from stereo.sources.layout import split_views
from stereo.sources.opening import kind_of, open_source, paired_files
from stereo.sources.stereo_jpeg import split_mpo
from stereo.types import InputError


def write_tree(root: Path, *names: str) -> None:
    """One marked image for each name; its number is the first one in the file's name, right ones are shifted."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(root / name, marked(int("".join(c for c in Path(name).stem if c.isdigit()) or 0)))


def frames(*args, **kwargs) -> list[StereoFrame]:
    items = list(open_source(*args, **kwargs))
    assert all(isinstance(item, StereoFrame) for item in items)
    return items


# ---------------------------------------------------------------------------------------------------------------------
# Two files, two folders, two globs


def test_a_pair_of_files(tmp_path):
    left, right = pair(5)
    write_image(tmp_path / "l.png", left)
    write_image(tmp_path / "r.png", right)
    paths = str(tmp_path / "l.png"), str(tmp_path / "r.png")
    source = open_source(*paths)
    assert (source.length, source.moving, source.live, source.fps) == (1, False, False, None)
    (frame,) = source
    assert (frame.stem, frame.index, frame.time, frame.origin) == ("l", 0, None, paths)
    np.testing.assert_array_equal(frame.left, left)
    np.testing.assert_array_equal(frame.right, right)
    (swapped,) = open_source(*paths, swap=True)
    np.testing.assert_array_equal(swapped.left, right)
    assert swapped.origin == paths[::-1]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (["l/frame_9.png", "l/frame_10.png"], ["r/frame_9.png", "r/frame_10.png"]),
        (["l/left_9.png", "l/left_10.png"], ["r/right_9.png", "r/right_10.jpg"]),
        (["l/9_L.png", "l/10_L.png"], ["r/9_R.png", "r/10_R.png"]),
        (["l/a9_0.png", "l/a10_0.png"], ["r/a9_1.png", "r/a10_1.png"]),
    ],
)
def test_folders_pair_by_their_names_in_the_order_of_their_numbers(tmp_path, left, right):
    write_tree(tmp_path, *left, *right)
    got = frames(str(tmp_path / "l"), str(tmp_path / "r"))
    assert [(Path(f.origin[0]).name, Path(f.origin[1]).name) for f in got] == [
        (Path(a).name, Path(b).name) for a, b in zip(left, right, strict=True)
    ]
    assert [f.index for f in got] == [0, 1]


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (["l/a.png", "l/b.png", "r/a.png"], "1 of 3 images have no partner: 'b'"),
        (["l/a.png", "l/b.png", "r/c.png", "r/d.png"], "4 of 4 images have no partner"),  # the same count is no pairing
        (["l/x_l_l.png", "r/x_r_l.png", "r/x_l_r.png"], "two partners or more"),
        (["l/a.png", "l/a.jpg", "r/a.png"], "are both called 'a'"),
        (["l/a.txt", "r/a.png"], "has no file of a kind that is read here"),
    ],
)
def test_folders_that_do_not_pair(tmp_path, names, line):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(InputError) as caught:
        open_source(str(tmp_path / "l"), str(tmp_path / "r"))
    assert line in str(caught.value)


def test_globs_pair_by_what_their_stars_stand_for(tmp_path):
    write_tree(tmp_path, "seq/left_2.png", "seq/left_10.png", "seq/right_10.png", "seq/right_2.png", "seq/notes.png")
    got = frames(str(tmp_path / "seq" / "left_*.png"), str(tmp_path / "seq" / "right_*.png"))
    assert [(f.stem, number_of(f.left), number_of(f.right)) for f in got] == [("left_2", 2, 2), ("left_10", 10, 10)]
    write_tree(tmp_path, "sets/a1/im0.png", "sets/a1/im1.png", "sets/b2/im0.png", "sets/b2/im1.png")
    got = frames(str(tmp_path / "sets" / "*" / "im0.png"), str(tmp_path / "sets" / "*" / "im1.png"))
    assert [f.stem for f in got] == ["a1", "b2"], "files of one name are called by what distinguishes them"
    write_tree(tmp_path, "seq/right_3.png")
    with pytest.raises(InputError, match=r"stand for different names, 1 of them on one side only, for example '3'"):
        open_source(str(tmp_path / "seq" / "left_*.png"), str(tmp_path / "seq" / "right_*.png"))
    with pytest.raises(InputError, match="selected as left and as right"):
        open_source(str(tmp_path / "seq" / "left_*.png"), str(tmp_path / "seq" / "*_2.png"))


def test_globs_relative_to_where_one_stands(tmp_path, monkeypatch):
    write_tree(tmp_path, "left_1.png", "right_1.png")
    monkeypatch.chdir(tmp_path)
    assert [f.stem for f in frames("left_*.png", "right_*.png")] == ["left_1"]
    (tmp_path / "odd[1].png").touch()
    assert kind_of("odd[1].png") == "image", "a file that exists is no glob"
    assert kind_of("odd[2].png") == "glob"


def test_selection_of_frames(tmp_path):
    write_tree(tmp_path, *(f"{side}/{n}.png" for side in "lr" for n in range(7)))
    folders = str(tmp_path / "l"), str(tmp_path / "r")
    cases = [("2:5", [2, 3, 4]), ("::3", [0, 3, 6]), ("4", [4]), (":2", [0, 1]), ("5:", [5, 6]), ("1:6:2", [1, 3, 5])]
    for text, expected in cases:
        source = open_source(*folders, selection=Selection.parse(text))
        got = list(source)
        assert [(f.index, number_of(f.left)) for f in got] == [(n, n) for n in expected]
        assert source.length == len(expected)
    with pytest.raises(InputError, match=r"selects none of the 7 pair\(s\)"):
        open_source(*folders, selection=Selection.parse("7:"))


@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize("stop", [None, 4, 9])
@pytest.mark.parametrize("step", [1, 2, 5])
def test_a_selection_is_a_slice(start, stop, step):
    chosen = Selection(start, stop, step)
    for length in range(12):
        expected = list(range(length))[start:stop:step]
        assert [i for i in range(length) if i in chosen] == expected
        assert chosen.count(length) == len(expected)
    assert chosen.count(None) == (None if stop is None else len(list(range(100))[start:stop:step]))


@pytest.mark.parametrize("text", ["", ":", "a", "1:2:3:4", "-3:", "5:5", "6:2", "0:9:0", "1.5", "1 : 2"])
def test_a_selection_that_makes_no_sense(text):
    with pytest.raises(InputError, match="got --frames"):
        Selection.parse(text)


def test_an_unreadable_pair_among_others_is_dropped_and_said(tmp_path):
    write_tree(tmp_path, *(f"{side}/{n}.png" for side in "lr" for n in range(3)))
    (tmp_path / "r" / "1.png").write_bytes(b"\x89PNG nonsense")
    items = list(open_source(str(tmp_path / "l"), str(tmp_path / "r")))
    assert [type(item) for item in items] == [StereoFrame, Dropped, StereoFrame]
    assert str(tmp_path / "r" / "1.png") in items[1].reason
    with pytest.raises(InputError, match=r"1\.png"):
        list(open_source(str(tmp_path / "l" / "1.png"), str(tmp_path / "r" / "1.png")))


# ---------------------------------------------------------------------------------------------------------------------
# Both views in one file


@pytest.mark.parametrize(("layout", "axis"), [("sbs", 1), ("ou", 0)])
def test_two_views_in_one_picture(tmp_path, layout, axis):
    left, right = pair(9)
    write_image(tmp_path / "both.png", np.concatenate([left, right], axis))
    for swap, expected in ((False, (left, right)), (True, (right, left))):
        (frame,) = frames(str(tmp_path / "both.png"), layout=layout, swap=swap)
        np.testing.assert_array_equal(frame.left, expected[0])
        np.testing.assert_array_equal(frame.right, expected[1])
    (tmp_path / "more").mkdir()
    for n in (3, 4):
        write_image(tmp_path / "more" / f"{n}.png", np.concatenate(pair(n), axis))
    assert [number_of(f.right) for f in frames(str(tmp_path / "more"), layout=layout)] == [3, 4]
    assert [number_of(f.right) for f in frames(str(tmp_path / "more" / "*.png"), layout=layout)] == [3, 4]


def test_an_odd_side_is_refused():
    with pytest.raises(InputError, match=r"frame 3 is 129x64 px: 129 px wide, odd, .* crop it to 128 px where the views meet"):
        split_views(np.zeros((64, 129, 3), np.uint8), "sbs", False, "frame 3")
    with pytest.raises(InputError, match="65 px high, odd"):
        split_views(np.zeros((65, 128, 3), np.uint8), "ou", False, "frame 3")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("thumbnail", [False, True])
def test_mpo(tmp_path, order, thumbnail):
    left, right = pair(21)
    data = mpo([left, right], order=order, thumbnail=thumbnail)
    (tmp_path / "a.mpo").write_bytes(data)
    (frame,) = frames(str(tmp_path / "a.mpo"))
    assert number_of(frame.left) == number_of(frame.right) == 21
    assert np.abs(frame.left.astype(int) - left).mean() < 2 < np.abs(left.astype(int) - right).mean()
    assert np.abs(frame.right.astype(int) - right).mean() < 2
    (tmp_path / "a.jpg").write_bytes(data)  # some cameras call them so
    np.testing.assert_array_equal(frames(str(tmp_path / "a.jpg"))[0].right, frame.right)
    (swapped,) = frames(str(tmp_path / "a.mpo"), swap=True)
    np.testing.assert_array_equal(swapped.left, frame.right)


def test_mpo_without_an_index_or_with_a_wrong_one(tmp_path):
    """The second picture is where the first one ends, not where the next start marker is: a thumbnail has one, too."""
    left, right = pair(6)
    exif = segment(0xE1, b"Exif\0\0" + jpeg(marked(99, 32, 64)))
    files = [jpeg(left, exif), jpeg(right, exif)]
    plain = b"".join(files)
    assert split_mpo(plain, Path("a.mpo")) == tuple(files)
    assert split_mpo(files[0] + bytes(100) + files[1], Path("a.mpo")) == tuple(files), "padding between the two"
    wrong = mpo([left, right]).replace(b"MPF\0II", b"MPF\0XX")
    first, second = split_mpo(wrong, Path("a.mpo"))
    assert second == jpeg(right) and first + second == wrong


def test_mpo_leaves_thumbnails_out_and_refuses_other_counts():
    images = [marked(1), marked(2), marked(3)]
    first, second = split_mpo(mpo(images, [0x020002, 0x020002, 0x010001]), Path("a.mpo"))
    assert [number_of(cv2.imdecode(np.frombuffer(x, np.uint8), 1)) for x in (first, second)] == [1, 2]
    first, second = split_mpo(mpo(images, [0x030000, 0x010002, 0]), Path("a.mpo"))
    assert [number_of(cv2.imdecode(np.frombuffer(x, np.uint8), 1)) for x in (first, second)] == [1, 3]
    with pytest.raises(InputError, match=r"'a\.mpo' holds 3 picture"):
        split_mpo(mpo(images), Path("a.mpo"))
    with pytest.raises(InputError, match=r"'a\.mpo' holds 1 picture"):
        split_mpo(jpeg(images[0]), Path("a.mpo"))
    with pytest.raises(InputError, match=r"'a\.mpo' holds 0 picture"):
        split_mpo(b"nothing of the kind", Path("a.mpo"))


@pytest.mark.parametrize(
    ("flags", "layout", "right_first"), [(None, 2, True), (0, 2, True), (4, 2, False), (0, 3, True), (4, 3, False)]
)
def test_jps(tmp_path, flags, layout, right_first):
    left, right = pair(33)
    views = [right, left] if right_first else [left, right]
    (tmp_path / "a.jps").write_bytes(jps(np.concatenate(views, 1 if layout == 2 else 0), flags, layout))
    (frame,) = frames(str(tmp_path / "a.jps"))
    assert np.abs(frame.left.astype(int) - left).mean() < 2 < np.abs(left.astype(int) - right).mean()
    assert np.abs(frame.right.astype(int) - right).mean() < 2


@pytest.mark.parametrize(("layout", "kind"), [(4, 1), (1, 1), (2, 0)])
def test_jps_of_another_arrangement(tmp_path, layout, kind):
    (tmp_path / "a.jps").write_bytes(jps(side_by_side(1), 0, layout, kind))
    with pytest.raises(InputError, match=f"type {kind} and layout {layout}"):
        list(open_source(str(tmp_path / "a.jps")))


def test_a_folder_of_stereo_pictures_needs_no_layout(tmp_path):
    (tmp_path / "1.mpo").write_bytes(mpo(list(pair(1))))
    (tmp_path / "2.jps").write_bytes(jps(side_by_side(2), 4))
    assert [number_of(f.right) for f in frames(str(tmp_path))] == [1, 2]


# ---------------------------------------------------------------------------------------------------------------------
# Refusals


def test_what_is_refused(tmp_path):
    write_tree(tmp_path, "l/1.png", "r/1.png", "a.png")
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).touch()
    here = str(tmp_path)
    cases = [
        ((f"{here}/a.png",), {}, "give the right one as well, or say with --layout sbs"),
        ((f"{here}/l",), {}, "has no file of a kind that is read here"),
        ((f"{here}/a.mp4",), {}, "--layout sbs"),
        (("camera:0",), {}, "--layout sbs"),
        ((f"{here}/l", f"{here}/a.png"), {}, "two images, two folders, two globs, two videos, two cameras"),
        ((f"{here}/a.mp4", f"{here}/a.png"), {}, "(video) and"),
        ((f"{here}/l", f"{here}/r"), {"layout": "sbs"}, "got --layout sbs and two folders"),
        (("camera:x", "camera:1"), {}, "expected camera:N"),
        (("camera:1", "camera:1"), {}, "got camera:1 twice"),
        ((f"{here}/no*.png", f"{here}/a*.png"), {}, "no folder or file found"),
        ((f"{here}/l", f"{here}/l"), {}, "selected as left and as right"),
    ]
    for args, kwargs, line in cases:
        with pytest.raises(InputError) as caught:
            open_source(*args, **kwargs)
        assert line in str(caught.value), (args, caught.value)
    with pytest.raises(InputError, match="No such file"):
        list(open_source(f"{here}/none.mpo"))
    with pytest.raises(InputError, match=r"expected two images, two folders, two globs$"):
        paired_files(f"{here}/a.mp4", f"{here}/b.mp4")
    assert paired_files(f"{here}/l", f"{here}/r") == [("1", tmp_path / "l" / "1.png", tmp_path / "r" / "1.png")]
