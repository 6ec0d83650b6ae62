"""The page of an evaluation: what was measured, how errors are spread, every image in a table, pictures of the worst."""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from stereo.engine.evaluate import Report
from stereo.engine.protocols import DEFAULT, Protocol, exclusions
from stereo.metrics import region_masks
from stereo.report.layers import ERROR_LIMIT, LONGEST, Layer, legend, pair_layers, shrunk_size
from stereo.report.page import breakable, decimals, embed_json, escape, facts_list, note, page, write_page
from stereo.report.table import name_cell, number_cell, sortable_table
from stereo.types import DisparityMap, Sample

PICTURED = 40  # images whose pictures are kept
PICTURE_BYTES = 33 * 2**20  # of all of them; as text they take a third more, which leaves 4 MB below 50 for the rows
RANKED_BY = "epe_noc"
EDGES = (0.0, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, math.inf)  # px; an error on an edge belongs to the bin below it
# Side of the line over a picture: what it shows at first, and what it is called.
SIDES = {"a": ("left", "Left of the line"), "b": ("disparity", "Right of the line")}
_SHOWN = {key: f" {side}" for side, (key, _) in SIDES.items()}  # the classes of the two layers that show
Column = tuple[str, str, int]  # heading, key of a row, decimals
TILES = ("epe_noc", "bad3_noc", "epe_all", "bad3_all", "iou_occluded")


@dataclass(frozen=True)
class _Pictured:
    """An image whose pictures are kept: its number in the data set, its figures, and its maps."""

    index: int
    row: dict[str, Any]
    layers: tuple[Layer, ...]

    @property
    def anchor(self) -> str:
        return f"image-{self.index}"

    @property
    def size(self) -> int:
        return sum(len(layer.data) for layer in self.layers)


class EvaluationPage:
    """Collects what the page shows while ``evaluate`` runs (``add`` is its ``on_image``) and writes it at the end.

    The histogram counts the pixels that the evaluation's ``protocol`` scores.

    Pictures are kept of the ``pictured`` worst images, by mean error over visible pixels, and of fewer when they take more than
    ``picture_bytes``: memory and the size of the page do not grow with the data set. Images that have no such figure come last.
    """

    def __init__(self, protocol: Protocol = DEFAULT, pictured: int = PICTURED, picture_bytes: int = PICTURE_BYTES) -> None:
        self.protocol, self.pictured, self.picture_bytes = protocol, pictured, picture_bytes
        self.counts = {"visible": np.zeros(len(EDGES) - 1, np.int64), "occluded": np.zeros(len(EDGES) - 1, np.int64)}
        self._worst: list[tuple[tuple[float, int], _Pictured]] = []  # a heap whose first is the first to go
        self._bytes = 0

    def add(self, index: int, sample: Sample, result: DisparityMap, row: dict[str, Any]) -> None:
        """Image number ``index`` with its truth, its result and its figures."""
        masks = region_masks(sample)
        assert sample.disp is not None  # region_masks has refused it otherwise
        _, kept, _ = exclusions(self.protocol, sample)
        for name, region in (("visible", "noc"), ("occluded", "occ")):
            scored = masks[region] & kept
            self.counts[name] += error_histogram(np.abs(result.disp[scored] - sample.disp[scored]))
        rank = _rank(row), -index
        if self.pictured > 0 and (len(self._worst) < self.pictured or rank > self._worst[0][0]):
            self._keep(rank, _Pictured(index, row, pair_layers(sample, result)))

    def absorb(self, other: EvaluationPage) -> None:
        """What another page has seen of the same evaluation, whose images were shared out among processes."""
        for name, count in other.counts.items():
            self.counts[name] += count
        for rank, pictures in other._worst:
            self._keep(rank, pictures)

    def _keep(self, rank: tuple[float, int], pictures: _Pictured) -> None:
        heapq.heappush(self._worst, (rank, pictures))
        self._bytes += pictures.size
        while len(self._worst) > self.pictured or (self._bytes > self.picture_bytes and len(self._worst) > 1):
            self._bytes -= heapq.heappop(self._worst)[1].size

    def html(self, report: Report, card: dict[str, Any]) -> str:
        """The page. ``card`` is the report's result card; its method, data, protocol, weights and versions head the page."""
        columns = _columns(report.rows[0])
        worst = [pictures for _, pictures in sorted(self._worst, key=lambda item: item[0], reverse=True)]
        sections = [
            _tiles(report.summary, columns),
            _facts(card),
            _histogram(self.counts),
            _table(report.rows, columns, {pictures.row["name"]: pictures.anchor for pictures in worst}),
            _cards(worst, columns, len(report.rows)),
        ]
        return page(f"{card['method']} on {card['data']}", sections, "table.js", "evaluation.js")

    def write(self, path: str | Path, report: Report, card: dict[str, Any]) -> None:
        """Write the page, atomically. Raises InputError when the file cannot be written."""
        write_page(path, self.html(report, card))


def error_histogram(error: np.ndarray) -> np.ndarray:
    """How many of ``error`` (any shape, px, finite) lie in each bin of EDGES: (bins,) int64.

    A bin starts above its lower edge and contains its upper one; an error of exactly 0 is in the first.
    """
    bins = np.searchsorted(EDGES, error.ravel(), side="left") - 1
    return np.bincount(np.maximum(bins, 0), minlength=len(EDGES) - 1)


def _facts(card: dict[str, Any]) -> str:
    """What a reader must know to compare figures. The card's other entries are for machines."""
    weights, protocol = card["weights"] or {}, card["protocol"]
    told = f"{protocol['name']}: {protocol['text']}" if isinstance(protocol, dict) else protocol
    facts = [("Protocol", told), ("Data", card["data"]), ("Weights", weights.get("name"))]
    sizes = ", ".join(f"{size:g}" for size in card.get("sizes") or ())
    versions = ", ".join(f"{name} {version}" for name, version in card["versions"].items())
    more = [("SHA-256 of data", card["data_sha256"]), ("SHA-256 of weights", weights.get("sha256"))]
    more += [("Precision", card.get("precision")), ("Sizes of passes", sizes or None)]
    more += [("Processor", card["cpu"]), ("Versions", versions)]
    return f"{facts_list(facts)}<details><summary>Hashes, processor, versions</summary>{facts_list(more)}</details>"


def _rank(row: dict[str, Any]) -> float:
    value = row.get(RANKED_BY, math.nan)
    return -math.inf if math.isnan(value) else value


def _columns(row: dict[str, Any]) -> list[Column]:
    """What the table shows of a row's figures; which bad-x there are is up to the protocol."""
    limits = [match[1] for match in (re.fullmatch(r"bad([\d.]+)_noc", key) for key in row) if match]
    columns = [
        ("EPE px", "epe_noc", 2),
        *((f"bad-{limit} %", f"bad{limit}_noc", 1) for limit in limits),
        ("D1 %", "d1_noc", 1),
        ("EPE all px", "epe_all", 2),
        ("bad-3 all %", "bad3_all", 1),
        ("occ IoU", "iou_occluded", 3),
        ("AUSE px", "ause", 2),
        ("time s", "seconds", 2),
    ]
    return [column for column in columns if column[1] in row]


def _tiles(summary: dict[str, Any], columns: Sequence[Column]) -> str:
    shown = [(heading, decimals(summary.get(key), digits)) for heading, key, digits in columns if key in TILES]
    tiles = "".join(f'<div class="tile"><b>{value}</b><span>{escape(heading)}</span></div>' for heading, value in shown)
    unknown = summary.get("images_without_occlusion", 0)
    told = f" {unknown} images have no occlusion mask: there every pixel with truth counts as visible." if unknown else ""
    return f"""<section aria-labelledby="means"><h2 id="means">Means over {summary["images"]} images</h2>
<div class="tiles">{tiles}</div>
<p class="hint">Without "all": over the pixels that both cameras see.{told}</p></section>
"""


def _bin_name(low: float, high: float) -> str:
    return f"over {low:g}" if high == math.inf else f"{low:g} to {high:g}"


def _histogram(counts: dict[str, np.ndarray]) -> str:
    """Bars of shares, and the numbers below them as a table that is folded away."""
    total = sum(int(count.sum()) for count in counts.values())
    if not total:
        return note("No pixel was scored: there is no histogram.")
    shown = {name: count for name, count in counts.items() if count.any()}
    shares = {name: 100 * count / total for name, count in shown.items()}
    stacked = np.sum(list(shares.values()), axis=0)
    names = [_bin_name(low, high) for low, high in pairwise(EDGES)]
    highest, step, rows, bars = float(stacked.max()), 62, [], []
    for place, name in enumerate(names):
        top = 190.0
        for series, values in shares.items():
            height = 150 * float(values[place]) / highest
            top -= height
            box = f'x="{place * step + 8}" y="{top:.2f}" width="{step - 16}" height="{height:.2f}"'
            bars.append(f'<rect class="{series}" {box}/>')
        middle = place * step + step / 2
        bars.append(f'<text class="value" x="{middle}" y="{top - 6:.2f}">{stacked[place]:.1f}</text>')
        bars.append(f'<text x="{middle}" y="208">{name}</text>')
        cells = "".join(f"<td>{int(count[place])}</td><td>{shares[key][place]:.2f}</td>" for key, count in shown.items())
        rows.append(f'<tr><th scope="row">{name}</th>{cells}</tr>')
    heads = "".join(f'<th scope="col">{name}, pixels</th><th scope="col">{name}, % of all</th>' for name in shown)
    legend = "".join(f'<span class="key {name}">{name}</span>' for name in shown)
    return f"""<section aria-labelledby="errors"><h2 id="errors">Errors of {total:,} scored pixels</h2>
<figure class="histogram" tabindex="0"><div class="keys">{legend}</div>
<svg viewBox="0 0 {step * len(names)} 232" role="img" aria-label="Share of pixels by error; the numbers are in the table below">
<line class="axis" x1="0" y1="190.5" x2="{step * len(names)}" y2="190.5"/>
{"".join(bars)}<text x="{step * len(names) / 2}" y="227">error, px (bars: % of scored pixels)</text></svg>
</figure><details><summary>The numbers</summary>
<div class="scroll" tabindex="0" role="region" aria-label="Histogram as a table">
<table><thead><tr><th scope="col">error, px</th>{heads}</tr></thead>
<tbody>{"".join(rows)}</tbody></table></div></details></section>
"""


def _table(images: Sequence[dict[str, Any]], columns: Sequence[Column], anchors: dict[str, str]) -> str:
    """A row per image, worst first."""
    rows = []
    for row in sorted(images, key=lambda row: -_rank(row)):  # stable: equal ones in the order of the data
        size = str(row["width"] * row["height"]), f"{row['width']}&times;{row['height']}"
        figures = (number_cell(row.get(key), digits) for _, key, digits in columns)
        rows.append([name_cell(row["name"], anchors.get(row["name"])), size, *figures])
    table = sortable_table("images", ["image", "size", *(heading for heading, _, _ in columns)], rows)
    return f'<section aria-labelledby="images"><h2 id="images">All images</h2>{table}</section>'


def _cards(worst: Sequence[_Pictured], columns: Sequence[Column], images: int) -> str:
    if not worst:
        return note("No pictures were kept.")
    keys = [(layer.key, layer.title) for layer in worst[0].layers]
    shown = [column for column in columns if column[1] in TILES]
    cards = "".join(_card(place, pictures, shown) for place, pictures in enumerate(worst, 1))
    kept = "all images" if len(worst) == images else f"the {len(worst)} worst of {images} images"
    return f"""<section aria-labelledby="worst"><h2 id="worst">Pictures of {kept}, worst first</h2>
<div class="toolbar" id="for-all">All pictures: {_choices("for all pictures", keys)}</div>
<p class="hint">Drag the line over a picture, or focus it and use the arrow keys; the keys 1 to {len(keys)} choose what is right
of the line, with Shift what is left of it. Pictures are at most {LONGEST} px wide. Truth and disparity of a picture share one
range of colours, errors end at {ERROR_LIMIT:g} px in all of them; grey is unknown.</p>
<div class="cards">{cards}</div></section>
{embed_json("layers", [key for key, _ in keys])}
"""


def _choices(what: str, keys: Sequence[tuple[str, str]]) -> str:
    """Two lists of the layers, one for each side of the line; ``what`` they are for is heard, not seen."""
    lists = []
    for side, (chosen, place) in SIDES.items():
        options = "".join(f'<option value="{key}"{" selected" * (key == chosen)}>{title}</option>' for key, title in keys)
        heard = f"{place}, {escape(what)}"
        lists.append(f'<label>{place} <select data-side="{side}" aria-label="{heard}">{options}</select></label>')
    return "".join(lists)


def _card(place: int, pictures: _Pictured, columns: Sequence[Column]) -> str:
    row = pictures.row
    width, height = shrunk_size(row["height"], row["width"])
    name = escape(row["name"])
    images = "".join(
        f'<img class="layer{_SHOWN.get(layer.key, "")}" data-layer="{layer.key}" src="{layer.uri}" '
        f'alt="{layer.title} of {name}" width="{width}" height="{height}" decoding="async" draggable="false">'
        for layer in pictures.layers
    )
    legends = "".join(map(_legend, pictures.layers))
    keys = [(layer.key, layer.title) for layer in pictures.layers]
    figures = ((escape(heading), decimals(row[key], digits)) for heading, key, digits in columns)
    listed = "".join(f"<span>{heading} <b>{value}</b></span>" for heading, value in figures)
    return f"""<article class="card" id="{pictures.anchor}" data-name="{name}" tabindex="-1">
<h3><span class="rank">{place}</span> {breakable(row["name"])}</h3>
<p class="figures">{listed}</p>
<div class="stage">{images}<span class="line" aria-hidden="true"></span>
<input type="range" min="0" max="100" step="1" value="50" aria-label="Line between two maps of {name}"
 aria-valuetext="50 percent"></div>
<div class="choices">{_choices(row["name"], keys)}</div><div class="legends">{legends}</div></article>
"""


def _legend(layer: Layer) -> str:
    hidden = "" if layer.key in _SHOWN else " hidden"
    return f'<div class="legend" data-layer="{layer.key}"{hidden}>{legend(layer)}</div>'
