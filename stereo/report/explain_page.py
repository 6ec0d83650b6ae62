"""The quadtree microscope: what a network looked at for one pixel, as a page.

``assets/explain.js`` tells what lies below the cursor.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stereo.inference.explain import TOLERANCE, AttentionView, Explanation, LevelView
from stereo.report.layers import jpeg
from stereo.report.page import data_uri, decimals, escape, facts_list, page

LONGEST = 1280  # px, longer side of the pictures in the page
AROUND = 32  # px on either side of the pixel, and of its match, in the enlarged pictures
ROW = 10  # height of a head's row of nodes, in the drawing's units
CURVE = 60  # of the curves
FAINTEST = 0.07  # opacity of a node whose weight is 0
READOUT = '<p class="readout" aria-live="polite">Point at a bar or a node, or use the arrow keys.</p>'


def explain_page(title: str, left: np.ndarray, right: np.ndarray, explained: Explanation, facts: dict[str, Any]) -> str:
    """The page as HTML. left, right: (H, W, 3) uint8 RGB. facts: as in the sidecar of ``infer``; absent ones are left out."""
    width = left.shape[1]
    crossing = [_attention(view, explained, width) for view in explained.attentions if view.kind == "cross"]
    own = [_attention(view, explained, width) for view in explained.attentions if view.kind == "self"]
    sections = [
        _answer(explained, width),
        _pictures(left, right, explained),
        _stages(explained),
        _transport(explained, width),
        f"""<section aria-labelledby="cross"><h2 id="cross">Where the pixel looks in the right image</h2>
{_how_to_read(explained)}{"".join(crossing)}</section>""",
        f"""<section aria-labelledby="self"><h2 id="self">Where it looks in its own row</h2>
<p class="hint">Self attention, before each look at the right image: the row is the left image's, and the
mark is the pixel itself.</p>{"".join(own)}</section>""",
        _facts(explained, facts),
    ]
    return page(title, sections, "explain.js")


def _answer(explained: Explanation, width: int) -> str:
    """The results in large figures, and in a sentence."""
    dustbin = explained.transport.dustbin
    tiles = [("disparity, px", f"{explained.disp:.2f}"), ("match in the right image, x", f"{explained.match_x:.2f}")]
    tiles += [("occlusion", f"{explained.occlusion:.2f}"), ("confidence", f"{explained.confidence:.2f}")]
    tiles += [("dustbin mass", f"{dustbin:.2f}")]
    listed = "".join(f'<div class="tile"><b>{value}</b><span>{name}</span></div>' for name, value in tiles)
    if explained.occlusion > 0.5:
        verdict = "The network thinks that the right camera does not see this pixel; its disparity comes from its surroundings."
    elif explained.match_x < 0:
        verdict = "The match would lie left of the right image's edge, so nothing could be compared there."
    else:
        verdict = f"The network finds the pixel {explained.disp:.2f} px further left in the right image."
    column, row = explained.token
    return f"""<section aria-label="The answer"><p>Pixel x {explained.x}, y {explained.y} of the left image. {verdict}</p>
<div class="tiles">{listed}</div>
<p class="hint">x_right = x_left - disparity. The pixel belongs to token {column} of row {row}; a token covers
{explained.stride} x {explained.stride} px, and a row has {explained.tokens} tokens for {width} px. Dustbin mass is the
probability of no match.</p></section>
"""


def _pictures(left: np.ndarray, right: np.ndarray, explained: Explanation) -> str:
    """Both images with the line, and both places enlarged."""
    height, width = left.shape[:2]
    whole, near = [], []
    stride = explained.stride
    for name, image, x in (("left", left, explained.x + 0.0), ("right", right, explained.match_x)):
        y = explained.y + 0.5  # the middle of the pixel, where a pixel is as wide as 1
        middle = x + 0.5
        mark = f'<circle class="mark" cx="{middle:.2f}" cy="{y}" r="{max(width / 90, 4):.1f}"/>' * (middle >= 0)
        line = f'<line class="epipolar" x1="0" y1="{y}" x2="{width}" y2="{y}"/>'
        picture = f'<image id="{name}-image" href="{data_uri(jpeg(image, LONGEST), "image/jpeg")}" '
        picture += f'width="{width}" height="{height}" preserveAspectRatio="none"/>'
        caption = "left image, the pixel" if name == "left" else f"right image, the match at x {x:.2f}"
        whole.append(f"""<figure><svg class="photo" viewBox="0 0 {width} {height}" role="img" aria-label="{caption}">
{picture}{line}{mark}</svg><figcaption>{caption}</figcaption></figure>""")
        token = ""
        if name == "left":
            column, row = explained.token
            token = f'<rect class="token" x="{column * stride}" y="{row * stride}" width="{stride}" height="{stride}"/>'
        box = f"{middle - AROUND:.2f} {y - AROUND / 2} {2 * AROUND} {AROUND}"
        told = f"{2 * AROUND} px around {'the pixel' if name == 'left' else 'the match'}, enlarged"
        cross = f'<path class="cross" d="M{middle - 4:.2f} {y}h3m2 0h3M{middle:.2f} {y - 4}v3m0 2v3"/>'
        near.append(f"""<figure><svg class="photo near" viewBox="{box}" role="img" aria-label="{told}">
<use href="#{name}-image"/>{token}{cross}</svg><figcaption>{told}</figcaption></figure>""")
    return f'<section aria-label="Both images"><div class="pairs">{"".join(whole)}{"".join(near)}</div></section>'


def _stages(explained: Explanation) -> str:
    rows, before = [], None
    for name, px in explained.stages:
        change = "" if before is None else f"{px - before:+.2f}"
        rows.append(f'<tr><th scope="row">{name}</th><td>{px:.2f}</td><td>{change}</td></tr>')
        before = px
    return f"""<section aria-labelledby="stages"><h2 id="stages">The disparity, stage by stage</h2>
<div class="scroll" tabindex="0" role="region" aria-label="Stages"><table><thead><tr><th scope="col">after this stage</th>
<th scope="col">px</th><th scope="col">change</th></tr></thead><tbody>{"".join(rows)}</tbody></table></div>
<p class="hint">All in px of the image, read at the place that stands for the pixel: stages before the last work at a quarter or
half of the size, so one number stands for several pixels.</p></section>
"""


def _transport(explained: Explanation, width: int) -> str:
    """Bars of the mass on right tokens, and on no match."""
    seen = [(int(c), float(m)) for c, m in zip(explained.transport.columns, explained.transport.mass, strict=True) if m > 0]
    highest = max([mass for _, mass in seen] + [1e-9])
    stride = explained.stride
    bars = []
    for column, mass in sorted(seen):
        told = f"right token {column} (px {column * stride} to {(column + 1) * stride - 1}): mass {mass:.4f}"
        height = CURVE * mass / highest
        box = f'x="{column * stride}" y="{CURVE - height:.2f}" width="{stride}" height="{height:.2f}"'
        bars.append(f'<rect class="mass" {box} data-told="{told}"/>')
    rows = "".join(f"<tr><td>{c}</td><td>{c * stride}</td><td>{m:.4f}</td></tr>" for c, m in sorted(seen, key=lambda p: -p[1]))
    listed = f"<tr><td>no match</td><td></td><td>{explained.transport.dustbin:.4f}</td></tr>{rows}"
    return f"""<section aria-labelledby="transport"><h2 id="transport">The match: where the pixel's mass goes</h2>
<figure class="chart micro" tabindex="0" aria-label="Transport: mass over right tokens; arrow keys step through them">
{_marks(explained, width, "match")}
<svg class="strip tall-strip" viewBox="0 0 {width} {CURVE}" preserveAspectRatio="none">{"".join(bars)}</svg>
{READOUT}</figure>
<p class="hint">Optimal transport gives the token's probability to the {len(seen)} right tokens that were compared, and
{explained.transport.dustbin:.1%} to no match; the highest bar is {highest:.1%}. The coarse disparity is the mean over the most
likely token and its two neighbours.</p><details><summary>The numbers</summary>
<div class="scroll tall" tabindex="0" role="region" aria-label="Transport">
<table><thead><tr><th scope="col">right token</th><th scope="col">from px</th><th scope="col">mass</th></tr></thead>
<tbody>{listed}</tbody></table></div></details></section>
"""


def _how_to_read(explained: Explanation) -> str:
    if not any(view.levels for view in explained.attentions):
        return (
            '<p class="hint">Dense attention: every token of the row has a weight. One line for each head, and their mean.</p>'
        )
    return f"""<p class="hint">Curves: what every token weighs in the message, one for each head and their mean (the strong
one). Below, the levels of the tree from the coarsest, whose nodes cover the whole row, to the finest, whose nodes are tokens of
{explained.stride} px; one row for each head. The stronger the colour, the greater the weight among the nodes of its row; framed
nodes are the best, kept, and only their children are looked at on the next level. The mark above the curves is
the pixel's final match.</p>
"""


def _attention(view: AttentionView, explained: Explanation, width: int) -> str:
    """Curves, levels and numbers of one attention."""
    place = f"{view.kind}-{view.layer}"
    levels = "".join(_level(level, explained.stride, width) for level in view.levels)
    numbers = "".join(_numbers(level) for level in view.levels)
    table = ""
    if view.levels:
        table = f"""<details><summary>The nodes that were kept</summary><div class="scroll tall" tabindex="0" role="region"
 aria-label="Kept nodes of layer {view.layer}"><table class="events"><thead><tr><th scope="col">level</th>
<th scope="col">head</th><th scope="col">node (weight), best first</th></tr></thead><tbody>{numbers}</tbody>
</table></div></details>"""
    return f"""<article class="card micro-card"><h3 id="{place}">Layer {view.layer}</h3>
<figure class="micro" tabindex="0" aria-labelledby="{place}">{_curves(view, explained, width)}{levels}
{READOUT}</figure>{table}</article>
"""


def _marks(explained: Explanation, width: int, kind: str) -> str:
    """A thin strip that marks the pixel's own column, or its match."""
    x = (explained.x if kind == "self" else explained.match_x) + 0.5
    mark = f'<line class="here" x1="{x:.2f}" y1="0" x2="{x:.2f}" y2="8"/>' * (x >= 0)
    return f'<svg class="strip mark-strip" viewBox="0 0 {width} 8" preserveAspectRatio="none" aria-hidden="true">{mark}</svg>'


def _curves(view: AttentionView, explained: Explanation, width: int) -> str:
    stride = explained.stride
    mean = view.tokens.mean(axis=0)
    highest = max(float(view.tokens.max()), 1e-9)

    def steps(weights: np.ndarray) -> str:
        parts = [f"M0 {CURVE}"]
        for column, weight in enumerate(weights.tolist()):
            parts.append(f"V{CURVE * (1 - weight / highest):.2f}H{(column + 1) * stride}")
        return "".join(parts)

    lines = "".join(f'<path class="curve s{head % 8}" d="{steps(weights)}"/>' for head, weights in enumerate(view.tokens))
    best = int(mean.argmax())
    columns = "".join(
        f'<rect class="ghost" x="{column * stride}" y="0" width="{stride}" height="{CURVE}" data-told="token {column} (px '
        f'{column * stride}): weight {weight:.4f}; heads {", ".join(f"{w:.4f}" for w in view.tokens[:, column])}"/>'
        for column, weight in enumerate(mean.tolist())
    )
    told = f"Weight of every token; the greatest is {mean[best]:.3f} at token {best} (px {best * stride})."
    return f"""<p class="level-name">{told}</p>{_marks(explained, width, view.kind)}
<svg class="strip tall-strip" viewBox="0 0 {width} {CURVE}" preserveAspectRatio="none">{lines}
<path class="curve mean" d="{steps(mean)}"/>{columns}</svg>"""


def _level(level: LevelView, stride: int, width: int) -> str:
    size = stride * 2**level.number
    rects = []
    for head in range(len(level.nodes)):
        highest = max(float(level.weights[head].max()), 1e-9)
        for node, weight, kept in zip(*(x[head].tolist() for x in (level.nodes, level.weights, level.kept)), strict=True):
            if node >= level.width:
                continue
            opacity = FAINTEST + (1 - FAINTEST) * weight / highest
            told = f"level {level.number}, head {head + 1}: node {node} (px {node * size} to {(node + 1) * size - 1}), weight "
            told += f"{weight:.4f}{', kept' if kept else ''}"
            box = f'x="{node * size}" y="{head * ROW + 1}" width="{size}" height="{ROW - 2}"'
            shown = ' class="node kept"' if kept and weight > 0 else ' class="node"'
            rects.append(f'<rect{shown} {box} fill-opacity="{opacity:.3f}" data-told="{told}"/>')
    heads = len(level.nodes)
    what = f"level {level.number}: nodes of {size} px, {decimals(100 * level.share, 0)} % of the message"
    return f"""<p class="level-name">{what}</p><svg class="strip heads-{heads}" viewBox="0 0 {width} {heads * ROW}"
 preserveAspectRatio="none">{"".join(rects)}</svg>"""


def _numbers(level: LevelView) -> str:
    rows = []
    for head in range(len(level.nodes)):
        shown = level.kept[head] if level.kept.any() else level.nodes[head] < level.width
        best = sorted(zip(level.weights[head][shown].tolist(), level.nodes[head][shown].tolist(), strict=True), reverse=True)
        listed = ", ".join(f"{node} ({weight:.3f})" for weight, node in best)
        rows.append(f'<tr><th scope="row">{level.number}</th><td>{head + 1}</td><td class="said">{listed}</td></tr>')
    return "".join(rows)


def _facts(explained: Explanation, facts: dict[str, Any]) -> str:
    weights = facts.get("weights") or {}
    told = [("Left image", facts.get("left")), ("Right image", facts.get("right")), ("Weights", weights.get("name"))]
    told += [("Network", weights.get("preset")), ("Precision", facts.get("precision")), ("Device", facts.get("device"))]
    told += [("Version", facts.get("version")), ("SHA-256 of the weights", weights.get("sha256"))]
    agreeing = f"{explained.agreeing:.2%} of all pixels within {TOLERANCE:g} px"
    check = "The network ran twice, once plainly and once watched: the runs differ by "
    check += f"{explained.deviation:.1e} px at this pixel, {agreeing}."
    return f"""<section aria-labelledby="facts"><h2 id="facts">How it was made</h2><p>{escape(check)}</p>
{facts_list(told)}</section>
"""
