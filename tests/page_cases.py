"""What the tests of the HTML pages share: evaluated images with hostile names, and a reader that checks as it reads."""

from __future__ import annotations

import base64
import hashlib
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from stereo.engine.evaluate import Report, evaluate
from stereo.image_io import write_image
from stereo.report.evaluation_page import EvaluationPage
from stereo.types import DisparityMap, Sample

H, W = 32, 64
VOID = {"meta", "link", "input", "img", "wbr", "rect", "line", "br", "circle", "path"}
HOSTILE = [
    "<script>window.hacked = 1</script>",
    '"><img src=x onerror="window.hacked = 2">',
    "it's \"quoted\" & </title></script><svg onload='window.hacked = 3'>",
    "plain/name_10",
    "naïve \udcff",  # a byte of a file name that is no UTF-8
]
CARD = {"protocol": "all & <everything>", "method": "tiny", "weights": None, "data": "pairs:<b>here</b>", "data_sha256": "0123",
        "versions": {"stereo": "0.3.0"}, "cpu": "<i>"}  # fmt: skip


def sample(name: str, offset: float, occluded: bool = True) -> tuple[Sample, DisparityMap]:
    """A pair whose true disparity is 10 px and whose result is wrong by ``offset`` px everywhere; 8 columns are occluded."""
    rng = np.random.default_rng(len(name))
    left, right = rng.integers(0, 256, (2, H, W, 3), dtype=np.uint8)
    truth = np.full((H, W), 10, np.float32)
    hidden = np.zeros((H, W), bool)
    hidden[:, :8] = True
    made = Sample(left, right, truth, np.ones((H, W), bool), hidden if occluded else None, name=name)
    result = DisparityMap(truth + np.float32(offset), hidden.astype(np.float32), np.full((H, W), 0.5, np.float32))
    return made, result


def evaluated(pairs: list[tuple[Sample, DisparityMap]], **limits: Any) -> tuple[EvaluationPage, Report, dict[str, Any]]:
    """The page that has seen ``pairs``, their report and a card. ``limits`` are those of EvaluationPage."""
    page, results = EvaluationPage(**limits), iter(result for _, result in pairs)
    samples = [made for made, _ in pairs]
    report = evaluate(lambda left, right: next(results), samples, False, protocol=page.protocol, on_image=page.add)
    return page, report, CARD


def hostile_page() -> str:
    """Five images of mean error 1, 2, 3, 4, 5 px, the third without an occlusion mask, in that order."""
    pairs = [sample(name, 1.0 + i, occluded=i != 2) for i, name in enumerate(HOSTILE)]
    page, report, card = evaluated(pairs, pictured=4)
    return page.html(report, card)


class PageReader(HTMLParser):
    """Reads a page: every element with its attributes, and the text of those that are asked for. Unbalanced tags are errors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []  # (names of the elements around it, text)
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"<{tag}> has an attribute twice: {names}"
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.texts.append((tuple(self._open), data))

    def all(self, tag: str, **attributes: str) -> list[dict[str, str]]:
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        return [found for name, found in self.elements if name == tag and all(found.get(k) == v for k, v in wanted.items())]

    def text(self, tag: str) -> list[str]:
        """What stands directly in each element of that name."""
        return [data for around, data in self.texts if around and around[-1] == tag]


def check_self_contained(text: str) -> PageReader:
    """No address but data and places in the page, a policy that forbids others, one script, which it names; unique ids."""
    page = PageReader(text)
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
        assert not any(name.startswith("on") or name == "style" for name in attributes), (tag, attributes)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for _, attributes in page.elements:
        for name in ("aria-labelledby", "for"):
            assert attributes.get(name) is None or attributes[name] in ids
        assert not attributes.get("href", "").startswith("#") or attributes["href"][1:] in ids
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy
    code = [data for data in page.text("script") if not data.startswith(("{", "[")) or data.lstrip().startswith("{\n")]
    assert len(code) == 1
    for part in (code[0], *page.text("style")):
        assert base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() in policy
    return page


def write_run(folder: Path) -> Path:
    """A run of 41 steps that skipped step 15 and was resumed at 20, with every file of a run, hostile names among them."""
    (folder / "panels").mkdir(parents=True)
    lines: list[dict[str, Any]] = []
    for place, step in enumerate(range(0, 50, 10)):
        values = {"loss/total": 8 / 2**place, "loss/response": 1.0, "epe_visible_px": None if step == 20 else 5.0 - place}
        more = {"learning_rate": 6e-4, "gradient_norm": 0.5, "samples_per_s": 4.0, "eta_s": 10.0, "anything else": 1}
        lines.append({"step": step, "kind": "train"} | values | more)
    skipped = {"names": ["a/<script>window.hacked = 1</script>"], "reason": "the gradient is not finite"}
    lines.insert(2, {"step": 15, "kind": "skip"} | skipped)
    lines.insert(3, {"step": 20, "kind": "resume", "seconds": 12.5})
    lines += [{"step": 20, "kind": "validation", "epe_noc": 3.0}, {"step": 41, "kind": "validation", "epe_noc": 2.0}]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (folder / "recipe.toml").write_text('name = "a <b>recipe</b>"\n[train]\nsteps = 41\n', encoding="utf-8")
    versions = {"stereo": "0.3.0", "torch": "2.11.0", "gpu": None, "processes": 1, "command": "train '</script>'"}
    (folder / "versions.json").write_text(json.dumps(versions), encoding="utf-8")
    for step in (0, 20, 40):
        write_image(folder / "panels" / f"{step:07d}.png", np.full((20, 30, 3), step, np.uint8))
    return folder
