"""The page of a pair in a real browser, opened from the disk: what it reads out, colours, filters and draws."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from browser import ABSENT, Browser, check_fits, chromium
from viewer_case import FACTS, RIG, H, W, quadrants, viewed

from stereo.geometry import Calibration, points_from_disparity
from stereo.report.colour import UNKNOWN, colour_disparity, robust_range
from stereo.report.packed import quantum_for
from stereo.report.viewer_page import viewer_page
from stereo.types import DisparityMap

needs_chromium = pytest.mark.skipif(bool(ABSENT), reason=f"{ABSENT} found; install chromium and chromedriver")
pytestmark = [pytest.mark.browser, needs_chromium]

READ_ALL = """const [x, y] = ['x', 'y'].map(name => document.getElementById(name)), rows = [];
    for (let j = 0; j < arguments[1]; j++) for (let i = 0; i < arguments[0]; i++) {
        [x.value, y.value] = [i, j];
        y.dispatchEvent(new Event('input'));
        rows.push([...document.querySelectorAll('#readings data')].map(d => d.value));
    }
    return rows"""
SET = """const e = document.getElementById(arguments[0]);
    if (typeof arguments[1] === 'boolean') { e.checked = arguments[1]; e.dispatchEvent(new Event('change')); }
    else { e.value = arguments[1]; e.dispatchEvent(new Event('input')); }"""
PICTURE = "return document.querySelector(arguments[0]).toDataURL('image/png').split(',')[1]"
BACKGROUND = np.array([20, 23, 28])  # of the cloud, where no point is


@pytest.fixture(scope="module")
def window(tmp_path_factory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        browser.look(1280, 900, "light")
        yield browser


def show(window: Browser, html: str, path) -> Browser:
    path.write_text(html, encoding="utf-8")
    window.open(path)
    wait(window, "return document.getElementById('readings').children.length > 0")
    return window


def wait(window: Browser, condition: str) -> None:
    for _ in range(100):
        if window.js(condition):
            return
        time.sleep(0.05)
    raise AssertionError(f"never true: {condition}")


@pytest.fixture
def page(window, tmp_path) -> Browser:
    left, result, truth = viewed()
    return show(window, viewer_page("a <b>pair</b>", left, result, FACTS, RIG, truth), tmp_path / "a page.html")


def picture(window: Browser, selector: str) -> np.ndarray:
    """(H, W, 3) RGB of a canvas, once the frames that were asked for have been drawn."""
    frames = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    window.devtools("Runtime.evaluate", {"expression": frames, "awaitPromise": True})
    data = base64.b64decode(window.js(PICTURE, selector))
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def complaints(window: Browser) -> list[str]:
    """Without the software renderer's remarks on its own speed."""
    return [line for line in window.complaints() if "GL Driver Message" not in line]


def lit(image: np.ndarray) -> int:
    return int((np.abs(image.astype(int) - BACKGROUND) > 12).any(-1).sum())


def read_all(window: Browser) -> np.ndarray:
    """(H, W, readings): disparity, depth, X, Y, Z, occlusion, confidence and, where there is truth, truth and error."""
    rows = window.js(READ_ALL, W, H)
    return np.array([[float(value.replace("Infinity", "inf")) for value in row] for row in rows]).reshape(H, W, -1)


def test_nothing_is_asked_of_a_network_and_no_name_becomes_code(page):
    assert page.js("return location.protocol") == "file:"
    assert page.js("return window.hacked === undefined")
    assert page.js("return performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length") == 0
    assert complaints(page) == []


def test_the_read_out_equals_the_arrays_at_every_pixel(page):
    _, result, truth = viewed()
    read = read_all(page)
    quantum = quantum_for(result.disp, truth.disp)
    near = {"rtol": 0, "atol": quantum / 2 + 1e-5}
    np.testing.assert_allclose(read[..., 0], result.disp, **near)
    np.testing.assert_allclose(read[..., 5], result.occlusion, rtol=0, atol=1 / 510 + 1e-6)
    np.testing.assert_allclose(read[..., 6], result.confidence, rtol=0, atol=1 / 510 + 1e-6)
    np.testing.assert_allclose(read[..., 7], np.where(truth.valid, truth.disp, np.nan), **near)
    expected = np.where(truth.valid, np.abs(result.disp - truth.disp), np.nan)
    np.testing.assert_allclose(read[..., 8], expected, rtol=0, atol=quantum + 2e-5)
    # Points of the disparity that was read: geometry apart from quantisation, and then both.
    np.testing.assert_allclose(read[..., 2:5], points_from_disparity(read[..., 0], RIG), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(read[..., 1], RIG.baseline_m * RIG.focal_px / (result.disp + RIG.doffs_px), rtol=quantum)


def test_without_calibration_depth_is_in_baselines(window, tmp_path):
    left, result, _ = viewed()
    page = show(window, viewer_page("a pair", left, result, {}), tmp_path / "page.html")
    read = read_all(page)
    assert read.shape[-1] == 7
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(read[..., 1], W / read[..., 0])
    assert read[3, 5, 0] == 0 and np.isinf(read[3, 5, 1])
    page.js(SET, "x", 5)
    page.js(SET, "y", 3)
    assert page.js("return document.querySelector('[data-reading=depth]').textContent") == "infinite"
    page.js(SET, "y", 4)
    assert page.js("return document.querySelector('[data-reading=depth]').textContent").endswith(" baselines")


def test_the_mouse_reads_the_pixel_below_it(page):
    _, result, _ = viewed()
    page.js("document.documentElement.style.scrollBehavior = 'auto'; scrollTo(0, 0)")
    page.drag("#stage", 0.25, 0.8)
    x, y = (page.js(f"return document.getElementById('{name}').valueAsNumber") for name in ("x", "y"))
    assert abs(x - 0.8 * W) <= 1 and abs(y - H / 2) <= 1
    shown = float(page.js("return document.querySelector('[data-reading=disparity] data').value"))
    assert shown == pytest.approx(float(result.disp[y, x]), abs=0.001)
    assert abs(float(page.js("return document.getElementById('line').value")) - 80) <= 1


def test_maps_have_the_colours_of_the_program_and_grey_below_the_threshold(page):
    _, result, truth = viewed()
    low, high = robust_range(truth.disp, truth.valid)
    drawn = picture(page, "canvas[data-side=b]")
    expected = colour_disparity(result.disp, low, high)
    assert np.abs(drawn.astype(int) - expected).max() <= 8  # a step of the table, where a rounding falls the other way
    assert (drawn == expected).all(-1).mean() > 0.98
    page.js(SET, "threshold", 40)
    drawn = picture(page, "canvas[data-side=b]")
    code = np.rint(result.confidence * 255)  # as it is stored
    below = code < 0.4 * 255
    np.testing.assert_array_equal((drawn == UNKNOWN).all(-1), below)
    kept = page.js("return document.getElementById('kept').textContent")
    assert kept == f"{100 * (~below).mean():.1f} % of the pixels are kept"


def test_truth_is_grey_where_it_is_unknown(page):
    _, _, truth = viewed()
    page.keys("#line", "5")
    np.testing.assert_array_equal((picture(page, "canvas[data-side=b]") == UNKNOWN).all(-1), ~truth.valid)


def test_the_threshold_and_the_occluded_ones_filter_the_cloud(page):
    _, result, _ = viewed()
    confidence, visible = np.rint(result.confidence * 255), np.rint(result.occlusion * 255) < 127.5
    told = "return document.getElementById('drawn').textContent"
    first = picture(page, "#cloud")
    assert page.js(told) == f"{int(visible.sum()):,} of {H * W:,} points"
    page.js(SET, "threshold", 70)
    second = picture(page, "#cloud")
    assert page.js(told) == f"{int((visible & (confidence >= 0.7 * 255)).sum()):,} of {H * W:,} points"
    assert 0 < lit(second) < 0.6 * lit(first)
    page.js(SET, "hidden-too", True)
    assert page.js(told) == f"{int((confidence >= 0.7 * 255).sum()):,} of {H * W:,} points"
    assert lit(picture(page, "#cloud")) > 1.3 * lit(second)
    page.js(SET, "threshold", 100)
    page.js(SET, "hidden-too", False)
    assert lit(picture(page, "#cloud")) < 0.05 * lit(first)


@pytest.fixture
def plane(window, tmp_path) -> Browser:
    """The cloud of a plane at 2 m, four plain colours."""
    sure = np.ones((H, W), np.float32)
    maps = DisparityMap(np.full((H, W), 10, np.float32), 0 * sure, sure)
    rig = Calibration(focal_px=80, cx=(W - 1) / 2, cy=(H - 1) / 2, baseline_m=0.25)
    return show(window, viewer_page("plane", quadrants(), maps, {}, rig), tmp_path / "plane.html")


def centre_of(image: np.ndarray, channel: int) -> np.ndarray:
    """Mean (x, y) share of the canvas of the pixels that are mostly red, green or blue."""
    others = [c for c in range(3) if c != channel]
    rows, columns = np.nonzero(image[..., channel] - image[..., others].max(-1).astype(int) > 60)
    assert len(rows) > 100
    return np.array([columns.mean() / image.shape[1], rows.mean() / image.shape[0]])


def test_the_cloud_stands_upright_and_is_no_mirror_image(plane):
    red, green, blue = (centre_of(picture(plane, "#cloud"), channel) for channel in range(3))
    assert red[0] + 0.2 < green[0] and abs(red[1] - green[1]) < 0.2
    assert red[1] + 0.2 < blue[1] and abs(red[0] - blue[0]) < 0.2


def test_orbit_zoom_and_reset_by_mouse_and_by_key(plane):
    home = picture(plane, "#cloud")
    plane.js("document.documentElement.style.scrollBehavior = 'auto'; document.getElementById('cloud').scrollIntoView()")
    plane.drag("#cloud", 0.5, 0.7)
    turned = picture(plane, "#cloud")
    assert (turned != home).any(-1).mean() > 0.05
    plane.js("document.getElementById('cloud').dispatchEvent(new MouseEvent('dblclick', {bubbles: true}))")
    np.testing.assert_array_equal(picture(plane, "#cloud"), home)
    plane.js("document.getElementById('cloud').dispatchEvent(new WheelEvent('wheel', {deltaY: 600, cancelable: true}))")
    assert lit(picture(plane, "#cloud")) < 0.7 * lit(home)
    plane.keys("#cloud", "0")
    np.testing.assert_array_equal(picture(plane, "#cloud"), home)
    plane.keys("#cloud", "-", "-", "-", "-")
    assert lit(picture(plane, "#cloud")) < 0.7 * lit(home)
    plane.keys("#cloud", "0", "right")
    assert (picture(plane, "#cloud") != home).any(-1).mean() > 0.02
    plane.click("#reset")
    np.testing.assert_array_equal(picture(plane, "#cloud"), home)


def test_dragging_to_the_right_moves_what_is_near_to_the_right(window, tmp_path):
    """A near red wall before a far blue one, whose middle the view turns about."""
    disp = np.full((H, W), 10, np.float32)
    disp[12:20, 28:36] = 20
    image = np.full((H, W, 3), (20, 20, 230), np.uint8)
    image[12:20, 28:36] = 230, 20, 20
    sure = np.ones((H, W), np.float32)
    page = show(window, viewer_page("walls", image, DisparityMap(disp, 0 * sure, sure), {}), tmp_path / "walls.html")
    page.js("document.documentElement.style.scrollBehavior = 'auto'; document.getElementById('cloud').scrollIntoView()")
    before = centre_of(picture(page, "#cloud"), 0)
    page.drag("#cloud", 0.5, 0.53)
    assert centre_of(picture(page, "#cloud"), 0)[0] > before[0] + 0.01
    page.keys("#cloud", "0", "\ue015")  # the arrow down
    assert centre_of(picture(page, "#cloud"), 0)[1] > before[1] + 0.01


def test_two_fingers_zoom(plane):
    home = lit(picture(plane, "#cloud"))
    plane.js("""const cloud = document.getElementById('cloud');
        cloud.setPointerCapture = () => {};
        const finger = (type, id, x) => cloud.dispatchEvent(new PointerEvent(type, {pointerId: id, clientX: x, clientY: 200}));
        finger('pointerdown', 1, 100); finger('pointerdown', 2, 500); finger('pointermove', 2, 300);
        finger('pointerup', 1, 100); finger('pointerup', 2, 300);""")
    assert lit(picture(plane, "#cloud")) < 0.5 * home


def test_a_browser_that_alters_what_is_read_is_told(window, page, tmp_path):
    """As protections against tracking do: here and there a byte is another one."""
    altered = "return document.getElementById('altered').hidden"
    assert page.js(altered) is True
    left, result, _ = viewed()
    noisy = """const known = CanvasRenderingContext2D.prototype.getImageData;
        CanvasRenderingContext2D.prototype.getImageData = function (...box) {
            const picture = known.apply(this, box);
            picture.data[40] ^= 1;
            return picture;
        }"""
    added = window.devtools("Page.addScriptToEvaluateOnNewDocument", {"source": noisy})
    try:
        assert show(window, viewer_page("a pair", left, result, {}), tmp_path / "page.html").js(altered) is False
    finally:
        window.devtools("Page.removeScriptToEvaluateOnNewDocument", {"identifier": added["identifier"]})


def test_without_webgl_a_line_stands_for_the_cloud(window, tmp_path):
    left, result, truth = viewed()
    broken = """const known = HTMLCanvasElement.prototype.getContext;
        HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
            return kind.startsWith('webgl') ? null : known.call(this, kind, ...rest);
        }"""
    added = window.devtools("Page.addScriptToEvaluateOnNewDocument", {"source": broken})
    try:
        page = show(window, viewer_page("a pair", left, result, {}, RIG, truth), tmp_path / "page.html")
        hidden = "return ['cloud', 'cloud-tools', 'no-cloud'].map(name => document.getElementById(name).hidden)"
        assert page.js(hidden) == [True, True, False]
        page.js(SET, "threshold", 50)
        assert (picture(page, "canvas[data-side=b]") == UNKNOWN).all(-1).mean() > 0.3
        assert complaints(page) == []
    finally:
        window.devtools("Page.removeScriptToEvaluateOnNewDocument", {"identifier": added["identifier"]})


def test_keys_choose_the_maps_and_move_the_line(page):
    page.keys("#line", "right", "right")
    assert page.js("return document.getElementById('line').getAttribute('aria-valuetext')") == "52 percent"
    assert page.js("return getComputedStyle(document.querySelector('.layer.b')).clipPath") == "inset(0px 0px 0px 52%)"
    page.keys("#line", "6")
    legends = "return [...document.querySelectorAll('.legend')].filter(l => !l.hidden).map(l => l.dataset.layer)"
    assert page.js(legends) == ["left", "error"]
    page.js("document.getElementById('line').dispatchEvent(new KeyboardEvent('keydown', {code: 'Digit2', shiftKey: true}))")
    assert page.js("return [...document.querySelectorAll('select')].map(s => s.value)") == ["disparity", "error"]


def test_everything_that_acts_has_a_name(page):
    named = """return [...document.querySelectorAll('button, input, select, a, [tabindex="0"]')].filter(e => {
        const label = e.labels && e.labels[0] && e.labels[0].textContent;
        return !e.getAttribute('aria-label') && !e.textContent.trim() && !label;
    }).map(e => e.outerHTML)"""
    assert page.js(named) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_the_window_in_either_scheme(page, width, scheme):
    check_fits(page, width, scheme)
    page.look(1280, 900, "light")
