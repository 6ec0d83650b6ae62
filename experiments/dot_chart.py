"""A table as a picture: one line per variant, one panel per figure, one dot per run. Plain SVG, nothing to install."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

NAME, PANEL, GAP, ROW, TOP = 150, 150, 26, 26, 44  # px
INK, FAINT, DOT = "#222", "#ddd", "#1f6fb4"


@dataclass(frozen=True)
class Column:
    """One panel: its heading, the key of its figure in a run, digits after the point."""

    title: str
    key: str
    digits: int


def dot_chart(rows: Mapping[str, Sequence[Mapping[str, Any]]], columns: Sequence[Column]) -> str:
    """rows: runs by the variant's name, a run holding a number (or None) for each column's key -> the text of an SVG file.

    Every panel runs from 0 to its largest figure; a dot is a run, the printed number the mean of the runs.
    """
    width = NAME + len(columns) * (PANEL + GAP)
    height = TOP + ROW * len(rows) + 14
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="12" fill="{INK}">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for line, name in enumerate(rows):
        y = TOP + ROW * (line + 0.5)
        parts.append(f'<text x="{NAME - 12}" y="{y + 4:.0f}" text-anchor="end">{escape(name)}</text>')
    for number, column in enumerate(columns):
        left = NAME + number * (PANEL + GAP)
        figures = {name: [run[column.key] for run in runs if run[column.key] is not None] for name, runs in rows.items()}
        most = max((max(values) for values in figures.values() if values), default=1.0) or 1.0
        parts.append(f'<text x="{left}" y="{TOP - 22}" font-weight="bold">{escape(column.title)}</text>')
        for line, values in enumerate(figures.values()):
            y = TOP + ROW * (line + 0.5)
            parts.append(f'<line x1="{left}" x2="{left + PANEL}" y1="{y:.1f}" y2="{y:.1f}" stroke="{FAINT}"/>')
            if not values:
                parts.append(f'<text x="{left}" y="{y + 4:.1f}">not measured</text>')
                continue
            places = [left + PANEL * value / most for value in values]
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{DOT}" fill-opacity="0.7"/>' for x in places]
            mean = f"{sum(values) / len(values):.{column.digits}f}"
            # On the side of the dots where there is room.
            beside = (max(places) + 8, "start") if max(places) < left + 0.7 * PANEL else (min(places) - 8, "end")
            parts.append(f'<text x="{beside[0]:.1f}" y="{y - 3:.1f}" text-anchor="{beside[1]}" font-size="10">{mean}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
