"""The page of a training run in a real browser: values under the pointer and by key, samples through the steps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browser import ABSENT, Browser, chromium
from page_cases import write_run

from stereo.report.run_page import write_run_page

needs_chromium = pytest.mark.skipif(bool(ABSENT), reason=f"{ABSENT} found; install chromium and chromedriver")
pytestmark = [pytest.mark.browser, needs_chromium]

READOUT = "return document.querySelector('#chart-0 .readout').textContent"
SHOWN = "return [...document.querySelectorAll('.panels figure')].filter(f => !f.hidden).map(f => f.dataset.name)"


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[Browser]:
    folder = tmp_path_factory.mktemp("chromium")
    path = write_run_page(write_run(folder / "run"))
    with chromium(folder) as browser:
        browser.look(1280, 900, "light")
        browser.open(path)
        yield browser


def test_it_runs_its_own_script_only(page):
    assert page.js("return location.protocol") == "file:"
    assert page.js("return window.hacked === undefined")
    assert page.complaints() == []


def test_arrow_keys_tell_values_of_every_step(page):
    assert page.js(READOUT) == ""
    page.keys("#chart-0 .plot", "right")
    assert page.js(READOUT) == "step 0: response 1.000, total 8.000"
    page.press("right", "right")
    assert page.js(READOUT) == "step 20: response 1.000, total 2.000"
    page.press("end")
    assert page.js(READOUT) == "step 40: response 1.000, total 0.5000"
    page.press("right")
    assert page.js(READOUT).startswith("step 40:")
    page.press("home", "left")
    assert page.js(READOUT).startswith("step 0:")


def test_the_pointer_tells_the_values_below_it(page):
    """A gap in a curve names the step that its value is of; the cursor stands where the curve's point is."""
    page.js("document.querySelector('#chart-1').scrollIntoView({block: 'center'})")
    box = page.js("return document.querySelector('#chart-1 .plot').getBoundingClientRect()")
    points = page.js("return [...document.querySelectorAll('#chart-1 polyline')].map(l => l.getAttribute('points'))")
    third = [float(point.split(",")[0]) for point in points[0].split()][2]  # of step 30: step 20 is a gap
    share = third / 420
    page.drag("#chart-1 .plot", 0.5, share)
    said = page.js("return document.querySelector('#chart-1 .readout').textContent")
    assert said == "step 30: epe_visible_px 2.000, epe_noc (validation) 3.000 (step 20)"
    cursor = page.js("return document.querySelector('#chart-1 .cursor').getBoundingClientRect().left")
    assert abs(cursor - box["left"] - share * box["width"]) <= 1.5


def test_a_slider_goes_through_the_samples(page):
    assert page.js(SHOWN) == ["step 40"]
    page.keys("#panel", "left")
    assert page.js(SHOWN) == ["step 20"]
    assert page.js("return document.querySelector('#panel').getAttribute('aria-valuetext')") == "step 20"
    page.press("home")
    assert page.js(SHOWN) == ["step 0"]


@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_the_window(page, width):
    page.look(width, 844, "dark")
    assert page.js("return document.documentElement.scrollWidth <= innerWidth")
    assert sum(page.js("return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")) < 150
