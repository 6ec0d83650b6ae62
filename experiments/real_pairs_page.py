"""The page of experiments/real_pairs.py: ours and its rivals side by side, every scene with pictures, our worst one first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from stereo.metrics.regions import REGIONS
from stereo.report.layers import ERROR_LIMIT, SHARE, Layer, jpeg, legend, map_layer, pair_layers
from stereo.report.page import breakable, decimals, escape, facts_list, page
from stereo.report.table import name_cell, number_cell, sortable_table
from stereo.types import DisparityMap, Sample

LONGEST = 480  # px, longer side of a picture: eleven scenes in three methods stay below 15 MB
SHOWN = ("disparity", "error", "occlusion", "confidence")
NAMED_WORST = 3
Figure = tuple[str, str, int]  # heading, key, decimals
FIGURES: tuple[Figure, ...] = (
    ("bad-1 %", "bad1_noc", 1),
    ("bad-2 %", "bad2_noc", 1),
    ("bad-3 %", "bad3_noc", 1),
    ("EPE px", "epe_noc", 2),
    ("EPE all px", "epe_all", 2),
    ("bad-3 all %", "bad3_all", 1),
    ("occ IoU", "iou_occluded", 2),
    ("bad-3 % kept", "bad3_noc_kept80", 1),
    ("kept / bad-3", "kept80_ratio", 2),
    ("time s", "seconds", 2),
)
COMPARED = ("bad3_noc", "epe_noc", "epe_all", "iou_occluded", "bad3_noc_kept80", "seconds")  # of these the scenes' table
GREATER_IS_BETTER = ("iou_occluded",)
BEST, SAID = ' class="best"', ' class="said"'  # of the cells of a table
MET = {True: ("met", "met"), False: ("missed", "missed"), None: ("", "not measured")}  # class and word


class Pictures:
    """The pictures of the page, by scene: what is the same for all methods, and of each method its maps."""

    def __init__(self) -> None:
        self.given: dict[str, list[Layer | None]] = {}
        self.maps: dict[tuple[str, str], list[Layer]] = {}

    def add(self, method: str, sample: Sample, result: DisparityMap) -> None:
        layers = {layer.key: layer for layer in pair_layers(sample, result, LONGEST)}
        right = Layer("right", "right image", jpeg(sample.right, LONGEST), "image/jpeg")
        hidden = None
        if sample.occluded is not None:
            hidden = map_layer("hidden", "true occlusion", sample.occluded.astype(np.float32), SHARE, LONGEST)
        self.given.setdefault(sample.name, [layers["left"], right, layers["truth"], hidden])
        self.maps[sample.name, method] = [layers[key] for key in SHOWN]


def comparison_html(results: dict[str, Any], pictures: Pictures) -> str:
    """The page. ``results`` is what real_pairs.json holds; its first method is ours, and ranks the scenes by its bad-3."""
    methods = list(results["methods"].values())
    ranked = sorted(methods[0]["rows"], key=lambda row: -(-math.inf if row["bad3_noc"] is None else row["bad3_noc"]))
    names = [row["name"] for row in ranked]
    sections = [
        _facts(results, len(names)),
        _means(methods),
        _targets(results["targets"], results["methods"]),
        _worst(methods, names),
        _scenes(methods, names),
        _cards(results["methods"], names, pictures),
    ]
    against = " and ".join(method["title"] for method in methods[1:])
    return page(f"{methods[0]['title'].capitalize()} against {against}", sections, "table.js")


def _facts(results: dict[str, Any], scenes: int) -> str:
    machine, weights = results["machine"], results["weights"]
    threads = f"{machine['threads']} for the network, {machine['opencv_threads']} for OpenCV"
    facts = [("Scenes", scenes), ("Weights of ours", weights["name"]), ("Precision of ours", results["precision"])]
    sizes = ", ".join(f"{size:g}" for size in sorted(results["finer_sizes"]))
    facts.append(("Passes of ours", f"at {sizes} times the size of a pair of up to a megapixel, at its own of a larger one"))
    facts += [("Processor", machine["cpu"]), ("Threads", threads), ("Made by", results["command"])]
    more = [("SHA-256 of weights", weights["sha256"]), ("SHA-256 of data", results["data_sha256"])]
    versions = (("quadtree-stereo", results["version"]), ("PyTorch", machine["torch"]), ("OpenCV", machine["opencv"]))
    more.append(("Versions", ", ".join(" ".join(version) for version in versions)))
    return f"""{facts_list(facts)}<details><summary>Hashes, versions</summary>{facts_list(more)}</details>
<p class="hint">One run on one machine. SGBM's search range is chosen per data set with the ground truth in hand, ours has none.
Figures without "all" are over {REGIONS["noc"]}. "Kept": bad-3 once the 20 % of these pixels with the least
confidence are discarded; SGBM's confidence is 1 where it gives a value, else 0, and equal ones count with their mean.</p>"""


def _figures_table(label: str, rows: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """A row of figures per title, the best of each column in bold."""
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading, _, _ in FIGURES)
    best = {key: _best([figures for _, figures in rows], key) for _, key, _ in FIGURES}
    body = []
    for title, figures in rows:
        cells = "".join(
            f"<td{BEST if figures[key] is not None and figures[key] == best[key] else ''}>{decimals(figures[key], digits)}</td>"
            for _, key, digits in FIGURES
        )
        body.append(f'<tr><th scope="row">{escape(title)}</th>{cells}</tr>')
    return f"""<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table>
<thead><tr><th scope="col">method</th>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>"""


def _best(rows: Iterable[dict[str, Any]], key: str) -> float | None:
    known = [row[key] for row in rows if row[key] is not None]
    return None if not known else max(known) if key in GREATER_IS_BETTER else min(known)


def _means(methods: Sequence[dict[str, Any]]) -> str:
    tables = (
        f"<h3>{heading}</h3>{_figures_table(heading, [(method['title'], method[key]) for method in methods])}"
        for heading, key in (("Mean over the scenes", "mean"), ("Median over the scenes", "median"))
    )
    return f"""<section aria-labelledby="means"><h2 id="means">All scenes together</h2>{"".join(tables)}
<p class="hint">Bold is the best of a column. Means are over the scenes where the figure is defined; the mean of the ratio is
the ratio of the means.</p></section>
"""


def _targets(targets: Sequence[dict[str, Any]], methods: dict[str, dict[str, Any]]) -> str:
    rows = []
    for target in targets:
        kind, word = MET[target["met"]]
        cells = f"<td>{decimals(target['reached'], 2)}</td><td>{target['relation']} {target['limit']:g}</td>"
        cells += f'<td class="{kind}">{word}</td>' + "".join(f"<td>{decimals(x, 2)}</td>" for x in target["rivals"].values())
        cells += f"<td{SAID}>{escape(target['note'])}</td>"
        rows.append(f'<tr><th scope="row">{escape(target["name"])}</th><td>{target["kind"]}</td>{cells}</tr>')
    rivals = (escape(methods[name]["title"]) for name in targets[0]["rivals"])
    heads = ("figure of ours", "kind", "reached", "target", "met?", *rivals, "what the target stands for")
    head = "".join(f'<th scope="col"{SAID if heading == heads[-1] else ""}>{heading}</th>' for heading in heads)
    count = sum(target["met"] is True for target in targets)
    return f"""<section aria-labelledby="targets"><h2 id="targets">Targets: {count} of {len(targets)} met</h2>
<div class="scroll" tabindex="0" role="region" aria-label="Targets"><table>
<thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div></section>
"""


def _worst(methods: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """In words: our worst scenes, and all those where a rival has fewer wrong pixels."""
    by_name = [{row["name"]: row["bad3_noc"] for row in method["rows"]} for method in methods]
    ours = by_name[0]
    worst = ", ".join(f"{breakable(name)} ({decimals(ours[name], 1)}&nbsp;%)" for name in names[:NAMED_WORST])
    lines = [f"<li>Most wrong pixels (bad-3) of ours: {worst}.</li>"]
    for method, theirs in zip(methods[1:], by_name[1:], strict=True):
        known = [name for name in names if ours[name] is not None and theirs[name] is not None]
        lost = sorted((name for name in known if ours[name] > theirs[name]), key=lambda name: theirs[name] - ours[name])
        told = ", ".join(f"{breakable(name)} ({ours[name]:.1f} against {theirs[name]:.1f}&nbsp;%)" for name in lost)
        said = f"on {len(lost)} of {len(known)} scenes{f': {told}' if lost else ''}"
        lines.append(f"<li>{escape(method['title'])} has a lower bad-3 than ours {said}.</li>")
    return f"""<section aria-labelledby="worst"><h2 id="worst">Where ours is worst</h2><ul>{"".join(lines)}</ul></section>
"""


def _scenes(methods: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    columns = [figure for figure in FIGURES if figure[1] in COMPARED]
    rows_of = [{row["name"]: row for row in method["rows"]} for method in methods]
    heads = ["scene", *(f"{heading}, {_short(method)}" for heading, _, _ in columns for method in methods)]
    rows = [
        [name_cell(name, f"scene-{place}")]
        + [number_cell(rows[name][key], digits) for _, key, digits in columns for rows in rows_of]
        for place, name in enumerate(names, 1)
    ]
    table = sortable_table("scenes", heads, rows)
    return f'<section aria-labelledby="scenes"><h2 id="scenes">Every scene</h2>{table}</section>'


def _short(method: dict[str, Any]) -> str:
    """'SGBM MODE_SGBM_3WAY' -> '3WAY', for narrow columns."""
    return method["title"].rpartition("_")[2]


def _cards(methods: dict[str, dict[str, Any]], names: Sequence[str], pictures: Pictures) -> str:
    cards = "".join(_card(place, name, methods, pictures) for place, name in enumerate(names, 1))
    return f"""<section aria-labelledby="pictures"><h2 id="pictures">Pictures of every scene, our worst first</h2>
<p class="hint">Worst by bad-3 of ours. Pictures are at most {LONGEST} px wide. Truth and disparities of a scene share one range
of colours, errors end at {ERROR_LIMIT:g} px in all of them; grey is unknown.</p>
<div class="cards wide">{cards}</div></section>
"""


def _card(place: int, name: str, methods: dict[str, dict[str, Any]], pictures: Pictures) -> str:
    given = pictures.given[name]
    parts = [f'<div class="maps">{"".join(_picture(layer, name) for layer in given)}</div>']
    for key, method in methods.items():
        row = next(row for row in method["rows"] if row["name"] == name)
        figures = "".join(f"<span>{escape(head)} <b>{decimals(row[k], digits)}</b></span>" for head, k, digits in FIGURES)
        shown = "".join(_picture(layer, f"{name}, {method['title']}") for layer in pictures.maps[name, key])
        parts.append(f'<h4>{escape(method["title"])}</h4><div class="maps">{shown}</div><p class="figures">{figures}</p>')
    used = [given[2], *pictures.maps[name, next(iter(methods))][1:]]
    legends = "".join(f'<div class="legend">{legend(layer)}</div>' for layer in used if layer)
    return f"""<article class="card" id="scene-{place}" data-name="{escape(name)}" tabindex="-1">
<h3><span class="rank">{place}</span> {breakable(name)}</h3>
<div class="legends">{legends}</div>{"".join(parts)}</article>
"""


def _picture(layer: Layer | None, of: str) -> str:
    if layer is None:
        return '<figure class="absent">This scene has no mask of what is occluded.</figure>'
    image = f'<img src="{layer.uri}" alt="{layer.title} of {escape(of)}" decoding="async">'
    return f"<figure>{image}<figcaption>{layer.title}</figcaption></figure>"
