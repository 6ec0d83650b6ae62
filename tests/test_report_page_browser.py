"""The page of an evaluation in a real browser, opened from the disk: it sorts, searches, slides, by keyboard and by mouse."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browser import ABSENT, Browser, check_fits, chromium
from page_cases import HOSTILE, hostile_page

needs_chromium = pytest.mark.skipif(bool(ABSENT), reason=f"{ABSENT} found; install chromium and chromedriver")
pytestmark = [pytest.mark.browser, needs_chromium]

NAMES = "return [...document.querySelectorAll('#table tbody tr')].filter(r => !r.hidden).map(r => r.dataset.name)"
SHOWN = "return [...document.querySelectorAll('article')].filter(r => !r.hidden).map(r => r.id)"
SORT = "return [...document.querySelectorAll('#table thead th')].map(h => h.getAttribute('aria-sort'))"
SLIDER = "#image-4 input[type=range]"
WORST_FIRST = [name.encode("utf-8", "replace").decode() for name in reversed(HOSTILE)]  # mean errors 5, 4, 3, 2, 1 px


@pytest.fixture(scope="module")
def window(tmp_path_factory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def page(window, tmp_path) -> Browser:
    """The page of five images with hostile names, at the size of a desktop; what it has complained of until here is dropped."""
    path = tmp_path / "a page.html"
    path.write_text(hostile_page(), encoding="utf-8")
    window.look(1280, 900, "light")
    window.open(path)
    return window


def column(page: Browser, heading: str) -> str:
    """The button of that heading, for click and keys."""
    headings = page.js("return [...document.querySelectorAll('#table thead button')].map(b => b.textContent)")
    return f"#table thead th:nth-child({headings.index(heading) + 1}) button"


def layers(page: Browser) -> list[str]:
    """What is left and right of the line of the first picture, as displayed."""
    return page.js("""return ['a', 'b'].map(side => {
        const images = [...document.querySelectorAll('#image-4 .layer.' + side)];
        return images.length === 1 && getComputedStyle(images[0]).display === 'block' ? images[0].dataset.layer : images.length;
    })""")


def test_no_name_becomes_code_and_nothing_is_asked_of_a_network(page):
    assert page.js("return location.protocol") == "file:"
    assert page.js("return window.hacked === undefined")
    assert page.js("return [...document.images].map(i => i.complete && i.naturalWidth)") == [64] * 24
    assert page.js(NAMES) == WORST_FIRST
    assert page.js("return performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length") == 0
    assert page.complaints() == []


def test_the_policy_stops_what_escaping_might_let_through(page):
    page.js("""const script = document.createElement('script');
        script.textContent = 'window.hacked = 9';
        document.body.append(script);
        document.body.insertAdjacentHTML('beforeend', '<img src=https://example.com/x.png onerror="window.hacked = 8">')""")
    page.js("await new Promise(done => setTimeout(done, 200))")
    assert page.js("return window.hacked === undefined")
    said = page.complaints()
    assert any("script-src" in line for line in said) and any("img-src" in line for line in said)


def test_headings_sort_by_click_and_by_key(page):
    page.click(column(page, "EPE px"))  # EPE: largest first
    assert page.js(NAMES) == WORST_FIRST
    assert page.js(SORT)[2] == "descending"
    page.click(column(page, "EPE px"))
    assert page.js(NAMES) == WORST_FIRST[::-1]
    assert page.js(SORT)[:3] == ["none", "none", "ascending"] and set(page.js(SORT)[3:]) == {"none"}
    page.keys(column(page, "image"), "enter")
    assert page.js(NAMES) == [WORST_FIRST[i] for i in (3, 4, 2, 0, 1)]  # signs before letters
    assert page.js(SORT)[:3] == ["ascending", "none", "none"]
    assert page.js("return document.getElementById('status').textContent") == "5 of 5 images, sorted by image, ascending"
    page.keys(column(page, "image"), " ")
    assert page.js(SORT)[0] == "descending"


def test_unknown_figures_stay_last_either_way(page):
    for _ in range(2):
        page.click(column(page, "occ IoU"))  # occlusion IoU, which the third image has not; the others are equal
        assert page.js(NAMES)[-1] == WORST_FIRST[2]
        assert page.js(NAMES)[:-1] == [name for name in WORST_FIRST if name != WORST_FIRST[2]]


def test_search_narrows_table_and_pictures(page):
    page.keys("#search", "SCRIPT>")
    assert page.js(NAMES) == [WORST_FIRST[2], WORST_FIRST[4]]
    assert page.js(SHOWN) == ["image-2"]
    assert page.js("return document.getElementById('status').textContent") == "2 of 5 images, worst first"
    page.keys("#search", *["\ue003"] * 7)  # backspace
    assert len(page.js(NAMES)) == 5 and len(page.js(SHOWN)) == 4


def test_the_line_moves_by_arrow_keys(page):
    cut = "return getComputedStyle(document.querySelector('#image-4 .layer.b')).clipPath"
    place = "return ['line', 'stage'].map(name => document.querySelector('#image-4 .' + name).getBoundingClientRect())"
    assert page.js(cut) == "inset(0px 0px 0px 50%)"
    page.keys(SLIDER, "right", "right", "right")
    assert page.js(cut) == "inset(0px 0px 0px 53%)"
    assert page.js(f"return document.querySelector('{SLIDER}').getAttribute('aria-valuetext')") == "53 percent"
    page.press("home")
    assert page.js(cut) == "inset(0px 0px 0px 0%)"
    page.press("end")
    assert page.js(cut) == "inset(0px 0px 0px 100%)"
    line, stage = page.js(place)
    assert abs(line["x"] - stage["x"] - stage["width"]) <= 2
    others = "return [...document.querySelectorAll('article:not(#image-4) input')].map(i => i.value)"
    assert page.js(others) == ["50"] * 3


def test_the_line_follows_the_mouse(page):
    page.js("document.documentElement.style.scrollBehavior = 'auto';"
            "document.querySelector('#image-4 .stage').scrollIntoView({block: 'center'})")  # fmt: skip
    page.drag("#image-4 .stage", 0.5, 0.8)
    assert abs(float(page.js(f"return document.querySelector('{SLIDER}').value")) - 80) <= 1
    page.drag("#image-4 .stage", 0.2, 0.2)  # a click
    assert abs(float(page.js(f"return document.querySelector('{SLIDER}').value")) - 20) <= 1


def test_keys_and_lists_choose_the_maps(page):
    assert layers(page) == ["left", "disparity"]
    page.keys(SLIDER, "4")
    assert layers(page) == ["left", "error"]
    page.press("\ue008", "\ue000")  # shift alone does nothing
    page.js("document.querySelector(arguments[0]).dispatchEvent(new KeyboardEvent('keydown',"
            "{code: 'Digit3', key: '#', shiftKey: true, bubbles: true}))", SLIDER)  # fmt: skip
    assert layers(page) == ["truth", "error"]
    legends = "return [...document.querySelectorAll('#image-4 .legend')].filter(l => !l.hidden).map(l => l.dataset.layer)"
    assert page.js(legends) == ["truth", "error"]
    page.keys("#image-4 select[data-side=a]", "conf")
    assert layers(page) == ["confidence", "error"]
    page.keys("#for-all select[data-side=b]", "occ")
    assert layers(page) == ["confidence", "occlusion"]
    rest = "return [...document.querySelectorAll('.card select[data-side=b]')].map(s => s.value)"
    assert page.js(rest) == ["occlusion"] * 4
    page.keys(SLIDER, "7")  # there are six maps
    assert layers(page) == ["confidence", "occlusion"]


def test_everything_that_acts_has_a_name_and_shows_its_focus(page):
    named = """const nameless = [];
        for (const e of document.querySelectorAll('button, input, select, a, [tabindex="0"]')) {
            const label = e.labels && e.labels[0] && e.labels[0].textContent;
            if (!e.getAttribute('aria-label') && !e.textContent.trim() && !label) nameless.push(e.outerHTML.slice(0, 80));
        }
        return nameless"""
    assert page.js(named) == []
    page.press("tab")
    assert page.js("return document.activeElement.className") == "skip"
    page.press("enter")
    assert page.js("return document.activeElement.id") == "content"
    page.keys(SLIDER, "left")
    outline = "const s = getComputedStyle(document.querySelector('#image-4 .stage')); return [s.outlineStyle, s.outlineWidth]"
    assert page.js(outline) == ["solid", "3px"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_the_window_in_either_scheme(page, width, scheme):
    check_fits(page, width, scheme)
