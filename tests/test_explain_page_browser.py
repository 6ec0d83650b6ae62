"""The microscope's page in a real browser: it tells what lies below the cursor, by mouse and by key, and fits its window."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from browser import ABSENT, Browser, check_fits, chromium

from stereo.inference.explain import explain
from stereo.inference.predictor import StereoPredictor
from stereo.model.build import build_model
from stereo.report.explain_page import explain_page

needs_chromium = pytest.mark.skipif(bool(ABSENT), reason=f"{ABSENT} found; install chromium and chromedriver")
pytestmark = [pytest.mark.browser, needs_chromium]

FIGURE = "[aria-labelledby=cross] article:nth-of-type(1) .micro"
READOUT = f"return document.querySelector('{FIGURE} .readout').textContent"


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[Browser]:
    torch.manual_seed(0)
    run = StereoPredictor(build_model("tiny"), precision="fp32")
    pair = np.random.default_rng(0).integers(0, 256, (2, 48, 128, 3), dtype=np.uint8)
    explained, _ = explain(run, *pair, 101, 22)
    folder = tmp_path_factory.mktemp("page")
    hostile = {"left": "<script>window.hacked = 1</script>", "right": '"><svg onload="window.hacked = 2">'}
    (folder / "a page.html").write_text(explain_page("<i>why?</i>", *pair, explained, hostile), encoding="utf-8")
    with chromium(folder) as browser:
        browser.look(1280, 900, "light")
        browser.open(folder / "a page.html")
        yield browser


def test_pictures_show_and_nothing_is_asked_of_a_network(page):
    assert page.js("return location.protocol") == "file:" and page.js("return window.hacked === undefined")
    assert page.js("return performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length") == 0
    boxes = page.js("return [...document.querySelectorAll('svg.photo')].map(s => s.getBoundingClientRect())")
    assert len(boxes) == 4 and all(box["width"] > 100 and box["height"] > 40 for box in boxes)
    assert page.complaints() == []


def test_keys_step_through_what_a_figure_shows(page):
    parts = page.js(f"return [...document.querySelectorAll('{FIGURE} [data-told]')].map(e => e.dataset.told)")
    page.keys(FIGURE, "right")
    assert page.js(READOUT) == parts[0]
    page.press("right", "right")
    assert page.js(READOUT) == parts[2]
    page.press("left")
    assert page.js(READOUT) == parts[1]
    page.press("end")
    assert page.js(READOUT) == parts[-1] and parts[-1].startswith("level 0, head 2: node ")
    assert page.js(f"return document.querySelectorAll('{FIGURE} .told').length") == 1


def test_the_node_below_the_mouse_is_told(page):
    page.js("document.documentElement.style.scrollBehavior = 'auto'")
    node = f"document.querySelector('{FIGURE} .node:nth-of-type(3)')"
    page.js(f"{node}.scrollIntoView({{block: 'center'}})")
    page.drag(f"{FIGURE} .node:nth-of-type(3)", 0.4, 0.6)
    assert page.js(READOUT) == page.js(f"return {node}.dataset.told")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_the_window_in_either_scheme(page, width, scheme):
    check_fits(page, width, scheme)
    page.look(1280, 900, "light")
