"""The page of an evaluation: it says what was measured, keeps the worst, fits its bounds, and no name in it is ever code."""

from __future__ import annotations

import json
import math
import pickle
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from page_cases import CARD, HOSTILE, H, PageReader, W, check_self_contained, evaluated, hostile_page, sample

from stereo.cli import main
from stereo.engine.protocols import CustomProtocol
from stereo.image_io import write_image, write_pfm
from stereo.report.colour import INFERNO, TURBO, UNKNOWN, colour_disparity
from stereo.report.evaluation_page import EDGES, PICTURE_BYTES, EvaluationPage, error_histogram
from stereo.report.layers import LONGEST, jpeg, pair_layers, palette_png, shrunk_size
from stereo.report.page import ASSETS, breakable, embed_json, escape
from stereo.types import DisparityMap, Sample

HEADINGS = ["image", "size", "EPE px", "bad-1 %", "bad-2 %", "bad-3 %", "D1 %", "EPE all px", "bad-3 all %", "occ IoU"]
HEADINGS += ["time s"]


def decoded(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def table_names(page: PageReader) -> list[str]:
    return [row["data-name"] for row in page.all("tr") if "data-name" in row]


# ---------------------------------------------------------------------------------------------------------------------
# Pictures


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (33, 64), (7, 641)])
def test_palette_png_holds_the_very_colours(size):
    rng = np.random.default_rng(0)
    index, palette = rng.integers(0, 256, size, dtype=np.uint8), rng.integers(0, 256, (256, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decoded(palette_png(index, palette)), palette[index])


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((540, 960), (640, 360)),
        ((375, 1242), (640, 193)),
        ((2000, 1000), (320, 640)),
        ((300, 400), (400, 300)),
        ((1, 9000), (640, 1)),
    ],
)
def test_pictures_are_shrunk_in_proportion_and_never_enlarged(size, expected):
    assert shrunk_size(*size) == expected


def test_layers_show_what_they_are_called():
    made, result = sample("x", 1.5)
    valid = np.ones((H, W), bool)
    valid[:4] = False
    disp = np.tile(np.linspace(1, 20, W, dtype=np.float32), (H, 1))
    left = np.repeat(np.tile(np.arange(0, 4 * W, 4, dtype=np.uint8), (H, 1))[..., None], 3, axis=2)  # smooth: JPEG's best case
    made = Sample(left, made.right, disp, valid, made.occluded, name="x")
    result = DisparityMap(disp + np.float32(1.2), result.occlusion, result.confidence)
    layers = {layer.key: layer for layer in pair_layers(made, result)}
    assert list(layers) == ["left", "disparity", "truth", "error", "occlusion", "confidence"]
    shown = {key: decoded(layer.data) for key, layer in layers.items()}
    assert all(picture.shape == (H, W, 3) for picture in shown.values())
    assert np.abs(shown["left"].astype(int) - left).max() <= 6
    table, low, high, unit = layers["truth"].scale
    assert (table, low, unit) == ("turbo", 0.0, "px")
    assert layers["disparity"].scale == layers["truth"].scale
    # The palette keeps one entry for unknown: its last colour is the last but one of the table.
    expected = colour_disparity(np.where(valid, disp, np.nan), low, high)
    top = (expected == TURBO[255]).all(axis=2)
    np.testing.assert_array_equal(shown["truth"][~top], expected[~top])
    np.testing.assert_array_equal(shown["truth"][top], np.broadcast_to(TURBO[254], (top.sum(), 3)))
    assert (shown["truth"][:4] == UNKNOWN).all() and (shown["error"][:4] == UNKNOWN).all()
    assert layers["error"].scale == ("inferno", 0.0, 3.0, "px")
    assert (shown["error"][4:] == INFERNO[102]).all()  # 1.2 of 3 px, everywhere
    assert (shown["occlusion"][:, :8] == 254).all() and (shown["occlusion"][:, 8:] == 0).all()
    assert (shown["confidence"] == 128).all()


def test_maps_that_a_method_does_not_have_are_left_out():
    made, result = sample("x", 1.5)
    layers = pair_layers(made, replace(result, occlusion=None, confidence=None))
    assert [layer.key for layer in layers] == ["left", "disparity", "truth", "error"]


def test_jpeg_is_bounded():
    assert max(decoded(jpeg(np.zeros((900, 1600, 3), np.uint8))).shape) == LONGEST


# ---------------------------------------------------------------------------------------------------------------------
# Figures


def test_error_histogram_equals_counting():
    rng = np.random.default_rng(0)
    error = np.concatenate([rng.exponential(3, 500), np.array(EDGES[:-1]), [1e9]])  # the edges themselves as well
    counted = [sum(low < e <= high or (low == 0 and e == 0) for e in error) for low, high in pairwise(EDGES)]
    np.testing.assert_array_equal(error_histogram(error), counted)
    assert error_histogram(np.array([])).tolist() == [0] * 9


def test_histogram_counts_visible_and_occluded_pixels_apart():
    page, report, card = evaluated([sample("a", 0.4), sample("b", 4.0)])
    assert page.counts["visible"].tolist() == [0, H * (W - 8), 0, 0, 0, H * (W - 8), 0, 0, 0]
    assert page.counts["occluded"].tolist() == [0, H * 8, 0, 0, 0, H * 8, 0, 0, 0]
    read = check_self_contained(page.html(report, card))
    assert f"Errors of {2 * H * W:,} scored pixels" in read.text("h2")
    bars = {name: [float(bar["height"]) for bar in read.all("rect", class_=name)] for name in ("visible", "occluded")}
    # Equal shares, the highest bar 150 units high: an eighth of each stack is occluded.
    assert bars["visible"] == pytest.approx([0, 131.25, 0, 0, 0, 131.25, 0, 0, 0], abs=0.01)
    assert bars["occluded"] == pytest.approx([0, 18.75, 0, 0, 0, 18.75, 0, 0, 0], abs=0.01)


def test_histogram_counts_what_the_protocol_scores():
    limited = CustomProtocol(crop=(2, 3, 4, 5), above=9).protocol()
    page, report, _ = evaluated([sample("a", 0.4)], protocol=limited)
    # The crop takes 5 rows and 9 columns, 4 of which are among the 8 that are occluded.
    assert page.counts["visible"].tolist() == [0, (H - 5) * (W - 13), 0, 0, 0, 0, 0, 0, 0]
    assert page.counts["occluded"].tolist() == [0, (H - 5) * 4, 0, 0, 0, 0, 0, 0, 0]
    assert sum(count.sum() for count in page.counts.values()) == report.summary["count_all"]
    page, report, card = evaluated([sample("a", 0.4)], protocol=CustomProtocol(below=10).protocol())  # the truth is 10 px
    assert "No pixel was scored" in page.html(report, card)


def test_table_lists_every_image_worst_first_with_every_figure():
    read = check_self_contained(hostile_page())
    assert table_names(read) == [escape_of(name) for name in reversed(HOSTILE)]
    headings = read.text("button")
    assert [heading for heading in headings if heading in HEADINGS] == HEADINGS
    cells = [row["data-value"] for row in read.all("td") if "data-value" in row]
    columns = {heading: cells[place :: len(headings) - 1] for place, heading in enumerate(headings[1:])}  # names are no td
    assert {len(column) for column in columns.values()} == {5}
    assert list(map(float, columns["EPE px"])) == pytest.approx([5, 4, 3, 2, 1])
    assert columns["occ IoU"] == ["1", "1", "", "1", "1"]  # unknown where there is no mask
    assert columns["size"] == [str(H * W)] * 5


def escape_of(name: str) -> str:
    """The name as a page may hold it."""
    return name.encode("utf-8", "replace").decode()


def test_pictures_are_those_of_the_worst_in_order():
    read = check_self_contained(hostile_page())
    assert [card["id"] for card in read.all("article")] == ["image-4", "image-3", "image-2", "image-1"]
    assert [card["data-name"] for card in read.all("article")] == [escape_of(name) for name in HOSTILE[:0:-1]]
    assert len(read.all("img")) == 4 * 6
    links = [a["href"] for a in read.all("a") if a["href"].startswith("#image-")]
    assert links == ["#image-4", "#image-3", "#image-2", "#image-1"]
    assert "Pictures of the 4 worst of 5 images, worst first" in read.text("h2")


def test_hostile_names_stay_text():
    text = hostile_page()
    read = check_self_contained(text)  # which finds no address, no handler and no script but the page's own
    assert "hacked" not in "".join(read.text("script"))
    assert [tag for tag, _ in read.elements if tag == "script"] == ["script", "script"]
    assert escape_of(CARD["data"]) in "".join(read.text("dd"))
    assert all(image["alt"].endswith(tuple(map(escape_of, HOSTILE))) for image in read.all("img"))


def test_images_without_a_visible_pixel_come_last():
    made, result = sample("all hidden", 50.0)
    hidden = Sample(made.left, made.right, made.disp, made.valid, np.ones((H, W), bool), name="all hidden")
    page, report, card = evaluated([(hidden, result), sample("fine", 0.1), sample("bad", 9.0)], pictured=2)
    read = check_self_contained(page.html(report, card))
    assert math.isnan(report.rows[0]["epe_noc"])
    assert table_names(read) == ["bad", "fine", "all hidden"]
    assert [card["data-name"] for card in read.all("article")] == ["bad", "fine"]


def test_equal_errors_keep_the_order_of_the_data():
    page, report, card = evaluated([sample(name, 1.0) for name in "abcd"], pictured=2)
    read = check_self_contained(page.html(report, card))
    assert table_names(read) == list("abcd")
    assert [card["data-name"] for card in read.all("article")] == ["a", "b"]


@pytest.mark.parametrize("processes", [2, 3])
def test_shares_of_an_evaluation_make_the_page_of_the_whole(processes):
    pairs = [sample(name, offset) for name, offset in zip("abcdefg", (3, 1, 7, 2, 6, 5, 4), strict=True)]
    whole, report, card = evaluated(pairs, pictured=3)
    shares = [EvaluationPage(pictured=3) for _ in range(processes)]
    for index, (made, result) in enumerate(pairs):
        shares[index % processes].add(index, made, result, report.rows[index])
    for share in shares[1:]:
        shares[0].absorb(pickle.loads(pickle.dumps(share)))  # as it comes from another process
    assert shares[0].html(report, card) == whole.html(report, card)


def test_page_without_pictures():
    page, report, card = evaluated([sample("a", 1.0)], pictured=0)
    read = check_self_contained(page.html(report, card))
    assert not read.all("img") and "No pictures were kept." in read.text("p")


def test_pictures_keep_to_their_bytes():
    """Noise in every map is the worst that the encoders can be given."""
    rng = np.random.default_rng(0)
    pairs = []
    for place in range(12):
        made, result = sample(f"{place}", 1.0 + place)
        noise = rng.uniform(0, 1, (3, H, W)).astype(np.float32)
        pairs.append((made, DisparityMap(result.disp + 40 * noise[0], noise[1], noise[2])))
    page, report, card = evaluated(pairs, picture_bytes=60_000)
    kept = check_self_contained(page.html(report, card)).all("article")
    assert 2 < len(kept) < 12
    pictures = sum(len(image["src"]) for image in PageReader(page.html(report, card)).all("img"))
    assert pictures < 60_000 * 4 / 3 + 40 * 6 * len(kept)


def test_a_page_of_a_thousand_images_stays_below_fifty_megabytes():
    _, report, card = evaluated([sample("x", 1.0)])
    many = replace(report, rows=tuple(report.rows[0] | {"name": f"set/scene/{i:06d}"} for i in range(1000)))
    rows = len(EvaluationPage().html(many, card).encode())
    assert rows + PICTURE_BYTES * 4 / 3 < 50e6


# ---------------------------------------------------------------------------------------------------------------------
# The shell


def test_embedded_json_cannot_end_its_element():
    hostile = ["</script><script>1</script>", "<!--", "a & b"]
    text = embed_json("x", hostile)
    assert text.count("<") == 2
    read = PageReader(text)
    assert json.loads("".join(read.text("script"))) == hostile


def test_names_break_behind_their_separators_only():
    assert breakable("a/b_c<d>") == "<bdi>a/<wbr>b_<wbr>c&lt;d&gt;</bdi>"
    assert escape("'\"") == "&#x27;&quot;"


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    """WCAG 2.2: 21 is black on white."""
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_can_be_read(scheme):
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    blocks = re.findall(r":root \{(.*?)\}", (ASSETS / "page.css").read_text(encoding="utf-8"), re.DOTALL)
    colours = dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", blocks[scheme]))
    for back in ("page", "card", "tint"):
        for text in ("text", "soft", "strong"):
            assert contrast(colours[text], colours[back]) >= 4.5, (text, back)
    assert contrast(colours["warn"], colours["warn-tint"]) >= 4.5
    for line in ("visible", "occluded", *(f"s{i}" for i in range(8))):  # WCAG asks 3 of graphics
        assert contrast(colours[line], colours["card"]) >= 3, line


# ---------------------------------------------------------------------------------------------------------------------
# The command line


@pytest.fixture
def data(tmp_path) -> Path:
    scene = tmp_path / "data" / "set" / "scene"
    scene.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("left.png", "right.png"):
        write_image(scene / name, rng.integers(0, 256, (40, 64, 3), dtype=np.uint8))
    write_pfm(scene / "disp_left.pfm", np.full((40, 64), 5, np.float32))
    return tmp_path / "data"


def test_evaluate_writes_a_page_for_each_method(tmp_path, data):
    target = tmp_path / "new" / "page.html"
    assert main(["evaluate", "--data", f"pairs:{data}", "--html", str(target), "--baseline", "sgbm"]) == 0
    assert {p.name for p in target.parent.iterdir()} == {"page.html", "page.sgbm.html"}
    for path, method in ((target, "small"), (target.with_name("page.sgbm.html"), "sgbm")):
        read = check_self_contained(path.read_text(encoding="utf-8"))
        assert "".join(read.text("title")) == f"{method} on pairs:{data}"
        assert table_names(read) == ["set/scene"]
        assert len(read.all("img")) == 6


def test_a_page_that_cannot_be_written_is_refused_before_the_work(tmp_path, data, capsys, monkeypatch):
    monkeypatch.setattr("stereo.cli.evaluate.evaluate", None)
    assert main(["evaluate", "--data", f"pairs:{data}", "--html", str(tmp_path)]) == 2
    assert "that is a folder; name a file" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["evaluate", "--data", f"pairs:{data}", "--html", str(tmp_path / "file" / "page.html")]) == 2
    assert "cannot create the output folder" in capsys.readouterr().err
