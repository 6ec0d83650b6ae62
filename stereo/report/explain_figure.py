"""The quadtree microscope as one picture, for a report or a slide: what ``explain_page`` shows of the right image."""

from __future__ import annotations

import cv2
import numpy as np

from stereo.inference.explain import AttentionView, Explanation, LevelView
from stereo.report.colour import WHITE, draw_text

WIDTHS = (640, 1280)  # px, least and greatest, of the picture of a row
MARGIN = 16  # px
TEXT = 11  # px, height of a capital letter
HEAD = 8  # px, of a head's row of nodes
BARS = 64  # px, of the bars of the transport and of the curves
LINE, MARK, NODE, KEPT = (255, 225, 74), (255, 47, 109), (11, 87, 208), (20, 20, 20)
BACK = 240  # grey level of what a drawing does not cover


def explain_figure(left: np.ndarray, right: np.ndarray, explained: Explanation) -> np.ndarray:
    """left, right (H, W, 3) uint8 RGB -> (H', W', 3) uint8 RGB: both images with the line, the transport, and every cross
    attention with its levels, all to one scale along the row."""
    height, width = left.shape[:2]
    scale = int(np.clip(width, *WIDTHS)) / width
    size = round(width * scale), round(height * scale)
    found = f"disparity {explained.disp:.2f} px, occlusion {explained.occlusion:.2f}, confidence {explained.confidence:.2f}"
    parts = [_caption(f"left image, pixel {explained.x}, {explained.y}: {found}", size[0])]
    parts.append(_photograph(left, explained.x, explained.y, scale, size))
    parts.append(_caption(f"right image, match at x {explained.match_x:.2f}", size[0]))
    parts.append(_photograph(right, explained.match_x, explained.y, scale, size))
    transport = np.zeros(explained.tokens)
    np.add.at(transport, explained.transport.columns, explained.transport.mass)
    told = f"transport: mass over right tokens (highest bar {transport.max():.2f}); no match {explained.transport.dustbin:.2f}"
    parts += [_caption(told, size[0]), _bars(transport, explained, scale, size[0])]
    for view in (view for view in explained.attentions if view.kind == "cross"):
        parts += _attention(view, explained, scale, size[0])
    picture = np.concatenate(parts)
    return np.pad(picture, ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)), constant_values=WHITE)


def _caption(text: str, width: int) -> np.ndarray:
    strip = np.full((3 * TEXT, width, 3), WHITE, np.uint8)
    draw_text(strip, text, 0, 2 * TEXT + TEXT // 2, TEXT)
    return strip


def _photograph(image: np.ndarray, x: float, y: int, scale: float, size: tuple[int, int]) -> np.ndarray:
    picture = np.ascontiguousarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    row, column = round((y + 0.5) * scale), round((x + 0.5) * scale)
    cv2.line(picture, (0, row), (size[0] - 1, row), LINE, 1)
    if column >= 0:
        cv2.circle(picture, (column, row), 8, MARK, 2, cv2.LINE_AA)
    return picture


def _bars(weights: np.ndarray, explained: Explanation, scale: float, width: int) -> np.ndarray:
    """weights (tokens,) as bars over the row, and the match below them."""
    canvas = np.full((BARS + 6, width, 3), BACK, np.uint8)
    highest = max(float(weights.max()), 1e-9)
    for column, weight in enumerate(weights.tolist()):
        first, last = _span(column, explained.stride * scale, width)
        canvas[BARS - round(BARS * weight / highest) : BARS, first:last] = NODE
    column = round((explained.match_x + 0.5) * scale)
    if column >= 0:
        canvas[BARS:, max(column - 1, 0) : column + 2] = MARK
    return canvas


def _span(node: int, size: float, width: int) -> tuple[int, int]:
    """First column of a node in the drawing, and the one behind its last."""
    return min(round(node * size), width), min(max(round((node + 1) * size), round(node * size) + 1), width)


def _attention(view: AttentionView, explained: Explanation, scale: float, width: int) -> list[np.ndarray]:
    mean = view.tokens.mean(axis=0)
    told = f"layer {view.layer}, cross attention: weight of every right token, mean over heads (highest {mean.max():.2f})"
    parts = [_caption(told, width), _bars(mean, explained, scale, width)]
    for level in view.levels:
        size = explained.stride * 2**level.number
        text = f"layer {view.layer}, level {level.number}: nodes of {size} px, a row for each head; framed: kept"
        parts += [_caption(text, width), _level(level, size * scale, width)]
    return parts


def _level(level: LevelView, size: float, width: int) -> np.ndarray:
    canvas = np.full((HEAD * len(level.nodes), width, 3), BACK, np.uint8)
    for head in range(len(level.nodes)):
        highest = max(float(level.weights[head].max()), 1e-9)
        top = head * HEAD
        for node, weight, kept in zip(*(x[head].tolist() for x in (level.nodes, level.weights, level.kept)), strict=True):
            if node >= level.width:
                continue
            first, last = _span(node, size, width)
            if last <= first:
                continue
            colour = np.array(NODE) * weight / highest + BACK * (1 - weight / highest)
            canvas[top : top + HEAD - 1, first:last] = np.rint(colour)
            if kept and weight > 0:
                cv2.rectangle(canvas, (first, top), (last - 1, top + HEAD - 2), KEPT, 1)
    return canvas
