"""The quadtree microscope: what it records is what the network computed, proven by brute force; pages, pictures, refusals."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from page_cases import PageReader, check_self_contained
from small_sttr import NARROW

from stereo.attention import build_attention
from stereo.attention.quadtree import Quadtree
from stereo.checkpoint import save_weights
from stereo.cli import main
from stereo.config import preset
from stereo.image_io import read_image, read_pfm, write_image
from stereo.inference.explain import Explanation, explain, watching
from stereo.inference.predictor import StereoPredictor
from stereo.kernels import cpp
from stereo.model.build import build_model
from stereo.model.matching import window_disparity
from stereo.model.sttr.network import Sttr
from stereo.report.explain_figure import explain_figure
from stereo.report.explain_page import explain_page
from stereo.types import InputError, StoppedError

H, W = 48, 128  # 12 x 32 tokens: four levels, of 4, 8, 16 and 32 columns
AT = (101, 22)  # of token (25, 5)
ODD = (52, 132)  # padded to 64 x 144 px: 16 x 36 tokens, above which 18, 9 and 5 columns: one node has a single child


def pair(height: int, width: int, seed: int = 0) -> list[np.ndarray]:
    """A picture and the same 8 px further left, with noise, so that there is something to match."""
    rng = np.random.default_rng(seed)
    wide = rng.integers(0, 256, (height, width + 8, 3), dtype=np.uint8)
    return [wide[:, :width].copy(), wide[:, 8:].copy()]


def predictor(attention: str = "quadtree_b", **changes) -> StereoPredictor:
    """Random weights, in which the levels of quadtree_b count for different shares."""
    torch.manual_seed(1)
    model = build_model(replace(preset("tiny"), attention=attention, **changes))
    for module in model.modules():
        if hasattr(module, "level_weights"):
            torch.nn.init.normal_(module.level_weights)
    return StereoPredictor(model, precision="fp32")


@pytest.fixture(scope="module")
def explained() -> Explanation:
    return explain(predictor(), *pair(H, W), *AT)[0]


@contextmanager
def calls(model: torch.nn.Module) -> Iterator[dict]:
    """(layer, kind) -> (q, k, v, options, message) of that operator's last call."""
    seen: dict = {}
    hooks = []
    if isinstance(model, Sttr):
        operators = {(i, "self"): layer.within.operator for i, layer in enumerate(model.transformer.self_layers, 1)}
        operators |= {(i, "cross"): layer.across.operator for i, layer in enumerate(model.transformer.cross_layers, 1)}
    else:
        layers = list(enumerate(model.transformer.layers, 1))
        operators = {(i, "self"): layer.self_attention.operator for i, layer in layers}
        operators |= {(i, "cross"): layer.cross_attention.operator for i, layer in layers}
    for place, operator in operators.items():

        def keep(module, args, options, result, place=place):
            seen[place] = (module, *args, options, result)

        hooks.append(operator.register_forward_hook(keep, with_kwargs=True))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def mean_of_node(v: torch.Tensor, level: int, row: int, column: int, head: int) -> np.ndarray:
    """(d,): the mean of the means of the children that exist, down to the tokens, by recursion."""
    if level == 0:
        return v[0, row, column, head].numpy().astype(np.float64)
    height, width = -(-v.shape[1] // 2 ** (level - 1)), -(-v.shape[2] // 2 ** (level - 1))
    children = [(r, c) for r in (2 * row, 2 * row + 1) for c in (2 * column, 2 * column + 1) if r < height and c < width]
    return np.mean([mean_of_node(v, level - 1, r, c, head) for r, c in children], axis=0)


@pytest.mark.parametrize("attention", ["quadtree_b", "quadtree_a"])
@pytest.mark.parametrize(("size", "at"), [((H, W), AT), (ODD, (130, 50)), ((H, W), (0, 0)), ((32, 32), (31, 31))])
def test_recorded_weights_times_values_are_the_message(attention, size, at):
    run = predictor(attention)
    with calls(run.model) as seen:
        explained, _ = explain(run, *pair(*size), *at)
    assert len(seen) == len(explained.attentions) == 4
    column, row = explained.token
    assert (column, row) == (at[0] // 4, at[1] // 4)
    for view in explained.attentions:
        _, _, _, v, _, message = seen[view.layer, view.kind]
        values = v if view.kind == "self" else v[:1]
        assert len(view.levels) == (4 if size[1] > 32 else 3)
        for head in range(v.shape[3]):
            total = np.zeros(v.shape[-1])
            for level in view.levels:
                for node, weight in zip(level.nodes[head], level.spoken[head], strict=True):
                    if weight:
                        node_mean = mean_of_node(values, level.number, row >> level.number, int(node), head)
                        total += level.share * weight * node_mean
            np.testing.assert_allclose(total, message[0, row, column, head].numpy(), atol=2e-5)


@pytest.mark.parametrize("attention", ["quadtree_b", "quadtree_a", "dense"])
@pytest.mark.parametrize(("size", "at"), [((H, W), AT), (ODD, (130, 50))])
def test_weights_of_tokens_are_what_one_hot_values_come_out_as(attention, size, at):
    """Of the plain, unwatched operator: column c has the value 1 in channel c, chunk by chunk of channels."""
    run = predictor(attention)
    with calls(run.model) as seen:
        explained, _ = explain(run, *pair(*size), *at)
    column, row = explained.token
    for view in explained.attentions:
        module, q, k, _, options, _ = seen[view.layer, view.kind]
        width, d = k.shape[2], k.shape[-1]
        expected = []
        for first in range(0, width, d):
            values = torch.zeros_like(k)
            for c in range(first, min(first + d, width)):
                values[:, :, c, :, c - first] = 1
            with torch.inference_mode():
                expected.append(module(q, k, values, **options)[0, row, column, :, : min(d, width - first)])
        np.testing.assert_allclose(view.tokens, torch.cat(expected, dim=-1).numpy(), atol=2e-5)
        np.testing.assert_allclose(view.tokens.sum(-1), 1, atol=1e-5)


def test_dense_weights_are_the_softmax_of_the_scores():
    run = predictor("dense")
    with calls(run.model) as seen:
        explained, _ = explain(run, *pair(H, W), *AT)
    column, row = explained.token
    for view in explained.attentions:
        _, q, k, _, options, _ = seen[view.layer, view.kind]
        at = torch.arange(k.shape[2])
        q, k = (options["position"].encode(x, at)[0, row].numpy().astype(np.float64) for x in (q, k))
        for head in range(q.shape[1]):
            scores = k[:, head] @ q[column, head] / np.sqrt(q.shape[-1])
            if view.kind == "cross":
                scores[column + 1 :] = -np.inf
            weights = np.exp(scores - scores.max())
            np.testing.assert_allclose(view.tokens[head], weights / weights.sum(), atol=1e-6)
        assert not view.levels


def test_each_level_sums_to_one_and_splits_the_best_of_the_one_above(explained):
    for view in explained.attentions:
        assert [level.number for level in view.levels] == [3, 2, 1, 0]
        assert sum(level.share for level in view.levels) == pytest.approx(1, abs=1e-6)
        for above, level in zip([None, *view.levels[:-1]], view.levels, strict=True):
            np.testing.assert_allclose(level.weights.sum(-1), 1, atol=1e-5)
            assert level.width == W // 4 // 2**level.number
            for head in range(2):
                nodes = level.nodes[head].tolist()
                if above is None:
                    assert nodes == list(range(level.width))
                else:
                    chosen = above.nodes[head][above.kept[head]]
                    assert sorted(nodes) == sorted(c for j in chosen.tolist() for c in (2 * j, 2 * j + 1))
                kept = level.weights[head][level.kept[head]]
                assert len(kept) == (0 if level.number == 0 else min(6, len(nodes)))
                if level.number:
                    assert kept.min() >= np.sort(level.weights[head])[::-1][len(kept) - 1]


def test_cross_attention_does_not_look_right_of_the_pixel():
    explained, _ = explain(predictor(), *pair(H, W), 42, 22)
    for view in explained.attentions:
        right = view.tokens[:, 16:]  # token 10 is in the coarsest node of 8 .. 15
        assert (right.max() > 0) == (view.kind == "self")


def test_transport_and_stages_are_those_of_the_network(explained):
    run = predictor()
    tensors = [torch.from_numpy(x).permute(2, 0, 1)[None].float() / 255 for x in pair(H, W)]
    model, (x, y) = run.model, AT
    column, row = explained.token
    with torch.inference_mode():
        features, at_half = model.backbone(model.normalise(*tensors))
        left, right = model.transformer(features)
        transport, q, k = model.matching(left, right)
        disp, mass = window_disparity(transport.mass, torch.arange(W // 4), transport.index)
        maps, context = model.refine(disp, mass, transport, features.chunk(2)[0], left, q, k)
        sharp = model.sharpen(maps, context, *at_half.chunk(2))
    np.testing.assert_array_equal(explained.transport.columns, transport.index[0, row, column].numpy())
    np.testing.assert_allclose(explained.transport.mass, transport.mass[0, row, column].numpy(), atol=1e-5)
    assert explained.transport.dustbin == pytest.approx(float(transport.dustbin[0, row, column]), abs=1e-5)
    assert explained.transport.mass.sum() + explained.transport.dustbin == pytest.approx(1, abs=1e-5)
    stages = dict(explained.stages)
    assert stages["coarse match"] == pytest.approx(4 * float(disp[0, row, column]), abs=1e-3)
    assert stages["upsampled"] == pytest.approx(2 * float(maps.disp[0, y // 2, x // 2]), abs=1e-3)
    assert stages["sharpened"] == pytest.approx(float(sharp.disp[0, y, x]), abs=1e-3)
    assert list(stages)[-1] == "sharpened" and stages["sharpened"] == explained.disp
    assert explained.match_x == x - explained.disp
    plain = run.predict(*pair(H, W))
    assert explained.disp == pytest.approx(float(plain.disp[y, x]), abs=1e-3)
    assert explained.occlusion == pytest.approx(float(plain.occlusion[y, x]), abs=1e-4)
    assert explained.confidence == pytest.approx(float(plain.confidence[y, x]), abs=1e-4)


def test_a_network_without_the_second_look_ends_with_upsampling():
    explained, _ = explain(predictor(sharpen_channels=0), *pair(H, W), *AT)
    assert [name for name, _ in explained.stages][-1] == "upsampled"
    assert explained.stages[-1][1] == pytest.approx(explained.disp, abs=1e-4)


@pytest.mark.parametrize("attention", ["dense", "quadtree_b"])
@pytest.mark.parametrize("decoder", ["full", "quarter"])
@pytest.mark.parametrize("at", [(70, 60), (135, 126)])
def test_sttr_is_explained_down_to_its_last_pixel(attention, decoder, at):
    light = {"decoder": "quarter", "stride": 4, "growth": 4, "channels": 80} if decoder == "quarter" else {}
    torch.manual_seed(0)
    model = build_model(replace(NARROW, attention=attention, **light))
    run = StereoPredictor(model, precision="fp32")
    left, right = pair(127, 136)
    with calls(model) as seen:
        explained, plain = explain(run, left, right, *at)
    assert [(view.layer, view.kind) for view in explained.attentions] == [(1, "self"), (1, "cross"), (2, "self")]
    column, row = explained.token
    for view in explained.attentions:
        module, q, k, _, options, _ = seen[view.layer, view.kind]
        assert view.tokens.shape == (q.shape[3], k.shape[2]) and bool(view.levels) == (attention == "quadtree_b")
        values = torch.zeros_like(k)
        for channel in range(min(k.shape[2], k.shape[-1])):
            values[:, :, channel, :, channel] = 1  # the first tokens, as many as there are channels
        with torch.inference_mode():
            expected = module(q, k, values, **options)[0, row, column]
        np.testing.assert_allclose(view.tokens[:, : k.shape[-1]], expected[:, : k.shape[2]].numpy(), atol=2e-5)
        np.testing.assert_allclose(view.tokens.sum(-1), 1, atol=1e-5)
    with torch.inference_mode():
        prediction = model(*(torch.from_numpy(x).permute(2, 0, 1)[None].float() / 255 for x in (left, right)))
    expected_mass = prediction.transport.mass[0, row, column].numpy()
    np.testing.assert_allclose(explained.transport.mass, expected_mass, atol=1e-5)
    coarse = float(prediction.disp_coarse[0, row, column]) * model.scale(136, explained.tokens)
    assert dict(explained.stages) == {
        "coarse match": pytest.approx(coarse, abs=1e-3),
        "adjusted to the image": pytest.approx(float(plain.disp[at[1], at[0]]), abs=1e-3),
    }
    check_self_contained(explain_page("why?", left, right, explained, {}))
    assert explain_figure(left, right, explained).dtype == np.uint8


def hooks_left(model: torch.nn.Module) -> list[str]:
    return [
        name
        for name, module in model.named_modules()
        if module._forward_hooks or module._forward_pre_hooks or (isinstance(module, Quadtree) and module.watch is not None)
    ]


@pytest.mark.parametrize("attention", ["quadtree_b", "dense"])
def test_nothing_stays_behind_in_the_network(attention, monkeypatch):
    run = predictor(attention)
    with watching(run.model, *AT):
        assert len(hooks_left(run.model)) >= 10
    assert hooks_left(run.model) == []
    monkeypatch.setattr(run.model.refine, "forward", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError), watching(run.model, *AT):
        run.predict(*pair(H, W))
    assert hooks_left(run.model) == []


@pytest.mark.skipif(bool(cpp.available()), reason="the fused kernels cannot be built here")
def test_when_nobody_asks_the_fused_kernel_runs(monkeypatch):
    operator = build_attention("quadtree_b", kernel="cpp")
    q, k, v = torch.rand(3, 1, 8, 32, 2, 8)
    expected = operator(q, k, v)
    levels: list = []
    operator.watch = levels.append
    torch.testing.assert_close(operator(q, k, v), expected)
    assert [level.number for level in levels] == [3, 2, 1, 0]
    operator.watch = None
    monkeypatch.setattr(Quadtree, "walk", None)
    operator(q, k, v)


def test_two_runs_that_differ_at_the_pixel_are_not_shown(monkeypatch):
    run = predictor()
    plain = run.predict(*pair(H, W))
    shift = np.zeros((H, W), np.float32)
    shift[: H // 4] = 0.06
    for at, stopped in ((AT, False), ((AT[0], 3), True)):
        with monkeypatch.context() as patch:
            predict = run.predict
            results = iter((plain, replace(plain, disp=plain.disp + shift)))
            # The network runs, so that there is something to record; what is compared is made up.

            def compared(*images, predict=predict, results=results):
                predict(*images)
                return next(results)

            patch.setattr(run, "predict", compared)
            if stopped:
                with pytest.raises(StoppedError, match=r"0\.060 px apart at the pixel, 75\.00% of all pixels within 0\.05 px"):
                    explain(run, *pair(H, W), *at)
            else:
                assert explain(run, *pair(H, W), *at)[0].agreeing == 0.75


def test_a_pair_that_needs_tiles_is_refused(monkeypatch):
    run = predictor()
    monkeypatch.setattr(run, "estimate", lambda height, width: 1000 * height * width)
    run.max_memory_bytes = 400 * 96 * 1000  # just too little: the maps take something, too
    with pytest.raises(InputError, match=r"tiles: 2 bands of 352x96 only; explain needs the whole"):
        explain(run, *pair(400, 96), 50, 50)


@pytest.mark.parametrize("attention", ["linear", "window", "bilevel_routing", "additive", "spatial_reduction"])
def test_an_attention_without_tokens_to_show_is_named(attention):
    with pytest.raises(InputError, match=f"does not apply to the attention '{attention}'"):
        explain(predictor(attention), *pair(H, W), *AT)


# ---------------------------------------------------------------------------------------------------------------------
# Page and picture


FACTS = {
    "left": "<script>window.hacked = 1</script>",
    "right": '"><img src=x onerror="window.hacked = 2">',
    "weights": {"name": "<b>w</b>", "preset": "tiny", "sha256": "00ff"},
    "precision": "fp32",
    "device": "cpu",
}


def test_the_page_is_complete_and_shows_every_node(explained):
    html = explain_page("<i>why?</i>", *pair(H, W), explained, FACTS)
    page = check_self_contained(html)
    assert not page.all("b", class_="w")
    rects = [a for tag, a in page.elements if tag == "rect" and a.get("class", "").startswith("node")]
    assert len(rects) == sum(level.nodes.size for view in explained.attentions for level in view.levels)
    framed = sum("kept" in a["class"] for a in rects)
    kept = sum(int((level.kept & (level.weights > 0)).sum()) for view in explained.attentions for level in view.levels)
    assert framed == kept > 0
    view, level = explained.attentions[1], explained.attentions[1].levels[0]
    told = f"level 3, head 1: node 2 (px 64 to 95), weight {level.weights[0, 2]:.4f}"
    assert view.kind == "cross" and any(a["data-told"].startswith(told) for a in rects)
    text = " ".join(re.sub(r"<[^>]*>", " ", html).split())
    for wanted in (f"Pixel x {AT[0]}, y {AT[1]} of the left image", "token 25 of row 5", "coarse match", "no match", "00ff"):
        assert wanted in text, wanted
    assert len(page.all("article")) == 4


def test_the_page_of_dense_attention_has_curves_alone():
    explained, _ = explain(predictor("dense"), *pair(H, W), *AT)
    page = check_self_contained(explain_page("why?", *pair(H, W), explained, {}))
    assert not [a for tag, a in page.elements if tag == "rect" and "node" in a.get("class", "")]
    assert len([a for tag, a in page.elements if tag == "path" and a.get("class") == "curve mean"]) == 4


@pytest.mark.parametrize(("change", "told"), [
    ({"occlusion": 0.9}, "does not see this pixel"),
    ({"disp": 500.0}, "left of the right image"),
])  # fmt: skip
def test_pages_and_pictures_of_pixels_without_a_match(explained, change, told):
    changed = replace(explained, **change)
    html = explain_page("why?", *pair(H, W), changed, {})
    PageReader(html)
    assert told in html
    assert explain_figure(*pair(H, W), changed).dtype == np.uint8


def test_the_picture_shows_bars_and_frames_where_they_belong(explained):
    left, right = pair(H, W)
    figure = explain_figure(left, right, explained)
    assert figure.shape[1] == 640 + 2 * 16
    marked = (figure == (255, 47, 109)).all(-1)
    scale = 640 / W
    columns = np.nonzero(marked[60 : 16 + 33 + round(H * scale)].any(0))[0]  # of the circle in the left image
    assert abs(columns.mean() - 16 - (AT[0] + 0.5) * scale) <= 2
    assert (figure == (20, 20, 20)).all(-1).any() and (figure == (11, 87, 208)).all(-1).any()


# ---------------------------------------------------------------------------------------------------------------------
# Command line


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    return str(save_weights(predictor().model, tmp_path_factory.mktemp("weights"), "tiny"))


@pytest.fixture
def files(tmp_path) -> list[str]:
    for name, image in zip(("left.png", "right.png"), pair(H, W), strict=True):
        write_image(tmp_path / name, image)
    return [str(tmp_path / "left.png"), str(tmp_path / "right.png")]


def test_explain_writes_a_page_and_a_picture(tmp_path, files, weights, capsys):
    out = tmp_path / "new" / "out"
    argv = ["explain", *files, "--at", str(AT[0]), str(AT[1]), "-o", str(out), "--weights", weights, "--device", "cpu"]
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"pixel {AT[0]} {AT[1]}: disparity ") and "watched run against the plain one: " in said
    assert {path.name for path in out.iterdir()} == {"left.at-101-22.html", "left.at-101-22.png"}
    check_self_contained((out / "left.at-101-22.html").read_text(encoding="utf-8"))
    assert read_image(out / "left.at-101-22.png").shape[1] == 672
    assert main([*argv, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["deviation_px"] <= 0.05 and printed["agreeing_share"] >= 0.999
    assert sum(printed["transport"]["mass"]) + printed["transport"]["dustbin"] == pytest.approx(1, abs=1e-5)
    places = [(view["layer"], view["kind"]) for view in printed["attention"]]
    assert places == [(1, "self"), (1, "cross"), (2, "self"), (2, "cross")]
    assert np.array(printed["attention"][3]["tokens"]).sum() == pytest.approx(2, abs=1e-4)  # of two heads


def refused(capsys, *argv: str) -> str:
    """Exit code 2 and one line on stderr, which is returned."""
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and len(captured.err.splitlines()) == 1, captured.err
    return captured.err


def test_explain_refuses_bad_input_and_leaves_nothing_behind(tmp_path, files, weights, capsys):
    out = tmp_path / "out"
    rest = ["-o", str(out), "--weights", weights, "--device", "cpu"]
    at = ["--at", "5", "6"]
    for x, y in ((W, 0), (0, H), (-1, 3), (3, -1), (10**9, 10**9)):
        line = refused(capsys, "explain", *files, "--at", str(x), str(y), *rest)
        assert f"got the pixel {x} {y}; the left image has x from 0 to {W - 1} and y from 0 to {H - 1}" in line
    assert "required: --at" in refused(capsys, "explain", *files, *rest)
    assert "expected 2 arguments" in refused(capsys, "explain", *files, "--at", "5", *rest)
    assert "invalid int value: '5.5'" in refused(capsys, "explain", *files, "--at", "5.5", "6", *rest)
    assert "required: right" in refused(capsys, "explain", files[0], *at, *rest)
    assert "no.png" in refused(capsys, "explain", str(tmp_path / "no.png"), files[1], *at, *rest)
    assert "no.png" in refused(capsys, "explain", files[0], str(tmp_path / "no.png"), *at, *rest)
    assert str(tmp_path) in refused(capsys, "explain", str(tmp_path), files[1], *at, *rest)
    (tmp_path / "text.png").write_text("not an image")
    assert "text.png" in refused(capsys, "explain", files[0], str(tmp_path / "text.png"), *at, *rest)
    write_image(tmp_path / "wide.png", np.zeros((H, W + 16, 3), np.uint8))
    assert "144x48" in refused(capsys, "explain", files[0], str(tmp_path / "wide.png"), *at, *rest)
    write_image(tmp_path / "small.png", np.zeros((31, 64, 3), np.uint8))
    assert "32 px" in refused(capsys, "explain", *[str(tmp_path / "small.png")] * 2, *at, *rest)
    (tmp_path / "junk.safetensors").write_bytes(b"junk" * 100)
    assert "junk" in refused(capsys, "explain", *files, *at, "-o", str(out), "--weights", str(tmp_path / "junk.safetensors"))
    assert "unrecognized arguments: --precision" in refused(capsys, "explain", *files, *at, *rest, "--precision", "bf16")
    assert not out.exists()
    (tmp_path / "file").write_text("")
    unwritable = str(tmp_path / "file" / "out")
    assert unwritable in refused(capsys, "explain", *files, *at, "-o", unwritable, "--weights", weights)


def test_explain_says_where_it_does_not_apply(tmp_path, files, capsys):
    out = tmp_path / "out"
    for attention in ("linear", "window"):
        path = save_weights(predictor(attention).model, tmp_path, attention)
        line = refused(capsys, "explain", *files, "--at", "5", "6", "-o", str(out), "--weights", str(path))
        assert f"does not apply to the attention '{attention}'" in line
    assert not out.exists()


MOTORCYCLE = Path(__file__).resolve().parents[2] / "shared" / "data" / "middlebury2014" / "Motorcycle_Q"


@pytest.mark.skipif(not MOTORCYCLE.is_dir(), reason="../shared/data is absent")
def test_explain_on_a_real_pair_with_the_shipped_weights(tmp_path, capsys):
    """The motorcycle's engine: the mass, the match and the ground truth name the same place."""
    argv = ["explain", str(MOTORCYCLE / "left.png"), str(MOTORCYCLE / "right.png"), "--at", "370", "248", "--device", "cpu"]
    assert main([*argv, "-o", str(tmp_path), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    best = int(np.argmax(printed["transport"]["mass"]))
    assert abs(4 * printed["transport"]["columns"][best] + 1.5 - printed["match_x"]) <= 4
    assert abs(printed["disp"] - read_pfm(MOTORCYCLE / "disp_left.pfm")[248, 370]) < 2
    assert printed["deviation_px"] < 1e-3
    assert (tmp_path / "left.at-370-248.html").stat().st_size < 10**6
