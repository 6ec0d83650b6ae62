"""The page of the comparison on real pairs in a real browser: everything shows, sorts and is found, in light and dark."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browser import ABSENT, Browser, check_fits, chromium
from real_pairs_case import WORST_FIRST, comparison

from experiments.real_pairs_page import comparison_html

needs_chromium = pytest.mark.skipif(bool(ABSENT), reason=f"{ABSENT} found; install chromium and chromedriver")
pytestmark = [pytest.mark.browser, needs_chromium]

NAMES = "return [...document.querySelectorAll('#table tbody tr')].filter(r => !r.hidden).map(r => r.dataset.name)"
CARDS = "return [...document.querySelectorAll('article')].filter(r => !r.hidden).map(r => r.dataset.name)"
SHOWN = [name.encode("utf-8", "replace").decode() for name in WORST_FIRST]


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[Browser]:
    folder = tmp_path_factory.mktemp("page")
    (folder / "a page.html").write_text(comparison_html(*comparison()), encoding="utf-8")
    with chromium(folder) as browser:
        browser.look(1280, 900, "light")
        browser.open(folder / "a page.html")
        yield browser


def test_every_picture_shows_and_nothing_is_asked_of_a_network(page):
    assert page.js("return window.hacked === undefined")
    assert page.js("return [...document.images].map(i => i.complete && i.naturalWidth)") == [64] * 79
    assert page.js("return performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length") == 0
    assert page.js(CARDS) == page.js(NAMES) == SHOWN
    assert page.complaints() == []


def test_scenes_sort_by_key_and_lead_to_their_pictures(page):
    heads = page.js("return [...document.querySelectorAll('#table thead button')].map(b => b.textContent)")
    button = f"#table thead th:nth-child({heads.index('EPE px, HH') + 1}) button"
    page.keys(button, "enter")  # errors of MODE_HH, largest first: those of scenes 3, 5, 4, 2 and 1
    assert page.js(NAMES) == [SHOWN[place] for place in (3, 4, 1, 0, 2)]
    page.keys(button, " ")
    assert page.js(NAMES) == [SHOWN[place] for place in (2, 0, 1, 4, 3)]
    assert page.js("return document.getElementById('status').textContent") == "5 of 5 scenes, sorted by EPE px, HH, ascending"
    page.keys("#table tbody tr:first-child a", "enter")
    assert page.js("return location.hash") == "#scene-3"
    place = "return document.querySelector('#scene-3').getBoundingClientRect().top"
    assert abs(page.js(f"await new Promise(done => setTimeout(done, 300)); {place}")) < 2


def test_search_narrows_table_and_pictures(page):
    page.keys("#search", "onerror")
    assert page.js(NAMES) == page.js(CARDS) == [SHOWN[0]]
    page.keys("#search", *["\ue003"] * 7)  # backspace
    assert len(page.js(CARDS)) == 5


def test_everything_that_acts_or_scrolls_is_named_and_reached_by_key(page):
    unnamed = """return [...document.querySelectorAll('button, input, a, [tabindex="0"]')].filter(e =>
        !e.getAttribute('aria-label') && !e.textContent.trim() && !(e.labels && e.labels[0])).map(e => e.outerHTML)"""
    assert page.js(unnamed) == []
    scrolling = "return [...document.querySelectorAll('.scroll')].every(e => e.tabIndex === 0)"
    assert page.js(scrolling)
    assert page.js("return [...document.images].every(i => i.alt.length > 10)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "columns"), [(390, 2), (1280, 4)])
def test_it_fits_the_window_in_either_scheme(page, width, columns, scheme):
    check_fits(page, width, scheme)
    assert page.js("return getComputedStyle(document.querySelector('.maps')).gridTemplateColumns.split(' ').length") == columns
