"""Curves as inline SVG: drawn here, so that they are there without a script; a script adds the values under the pointer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stereo.report.page import escape
from stereo.report.run_log import Curve, Event

WIDTH, HEIGHT = 420, 210  # units of the drawing, about px on a screen
LEFT, RIGHT, TOP, BOTTOM = 48, 408, 14, 184  # of the field of the curves
POINTS = 400  # of a curve at most: more than that many cannot be told apart
MANY = 2  # lines, from which on their values take more than one line of text
COLOURS = 8  # .s0 to .s7 in page.css
LOG_FROM = 50.0  # largest of the values in relation to the smallest


@dataclass(frozen=True)
class Line:
    """A curve in a chart: its name, the kind of log line that it comes from, and its points."""

    name: str
    kind: str
    curve: Curve


@dataclass(frozen=True)
class Field:
    """What all lines of a chart share: the steps 0 .. ``last_step``, so that charts can be compared, and marks of ``events``.

    by_logarithm: draw values by their logarithm where they span much (LOG_FROM) and all are above 0.
    """

    last_step: int
    events: Sequence[Event] = ()
    by_logarithm: bool = False


@dataclass(frozen=True)
class _Axis:
    """Values to places: ``low`` .. ``high`` (of the logarithm where ``log``) becomes ``first`` .. ``last``."""

    low: float
    high: float
    first: float
    last: float
    log: bool = False

    def place(self, values: Any) -> np.ndarray:
        scaled = np.log10(values) if self.log else np.asarray(values, np.float64)
        return self.first + (scaled - self.low) / (self.high - self.low) * (self.last - self.first)


def thinned(curve: Curve, points: int = POINTS) -> Curve:
    """At most ``points`` points: means over as many runs of neighbours, each at the middle step of its run."""
    if len(curve.steps) <= points:
        return curve
    runs = np.array_split(np.arange(len(curve.steps)), points)
    values = np.asarray(curve.values)
    return Curve(tuple(curve.steps[run[len(run) // 2]] for run in runs), tuple(float(values[run].mean()) for run in runs))


def nice_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers in [low, high]: multiples of 1, 2 or 5 times a power of ten, at most one more than ``wanted``."""
    if not low < high:
        return [low]
    step = 10.0 ** math.floor(math.log10((high - low) / wanted))
    step *= next((factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= wanted), 10)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten between 10^low and 10^high; 2 and 5 times these as well where there are few."""
    for factors in ((1,), (1, 2, 5), (1, 2, 3, 4, 5, 6, 7, 8, 9)):
        exponents = range(math.floor(low), math.ceil(high) + 1)
        ticks = [f * 10.0**e for e in exponents for f in factors if low - 1e-9 <= math.log10(f * 10.0**e) <= high + 1e-9]
        if len(ticks) >= 3:
            return ticks[:: math.ceil(len(ticks) / 6)]
    return ticks


def short(value: float) -> str:
    """A number in few letters: 1200, 0.03, 6e-4, 1.2M."""
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e9):
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    for size, letter in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e6 if letter == 'M' else 1e3):.4g}{letter}"
    return f"{value:.4g}"


def chart(name: str, title: str, unit: str, lines: Sequence[Line], field: Field) -> tuple[str, dict[str, Any]]:
    """A figure called ``name``, and what the script needs to tell its values: those of every line, and the ends of the axis."""
    drawn = [Line(line.name, line.kind, thinned(line.curve)) for line in lines]
    values = [value for line in drawn for value in line.curve.values]
    x, y = _Axis(0, max(field.last_step, 1), LEFT, RIGHT), _value_axis(values, field.by_logarithm)
    marks = "".join(_mark(event, float(x.place(event.step))) for event in field.events)
    curves = "".join(_curve(place, line, x, y) for place, line in enumerate(drawn))
    keys = "".join(f'<span class="key s{i % COLOURS}">{escape(line.name)}</span>' for i, line in enumerate(drawn))
    said = ", ".join([unit] * bool(unit) + ["logarithmic"] * y.log)
    told = f"{title}: {', '.join(f'{line.name} ends at {short(line.curve.values[-1])}' for line in drawn)}"
    html = f"""<figure class="chart" id="{name}"><h3>{escape(title)} <small>{escape(said)}</small></h3>
<div class="keys">{keys}</div>
<div class="plot" tabindex="0" role="application" aria-label="{escape(told)}. Arrow keys go from step to step.">
<svg viewBox="0 0 {WIDTH} {HEIGHT}" aria-hidden="true">{_grid(x, y)}{marks}{curves}
<line class="cursor" x1="0" x2="0" y1="{TOP}" y2="{BOTTOM}" visibility="hidden"/></svg></div>
<p class="readout{" many" * (len(drawn) > MANY)}" aria-live="polite"></p></figure>
"""
    data = [{"name": line.name, "steps": line.curve.steps, "values": [_six(v) for v in line.curve.values]} for line in drawn]
    return html, {"id": name, "lines": data, "x": [x.low, x.high, x.first / WIDTH, x.last / WIDTH]}


def _six(value: float) -> float:
    """Six digits: what is read off a chart, and half of the bytes of a float."""
    return float(f"{value:.6g}")


def _value_axis(values: Sequence[float], by_logarithm: bool) -> _Axis:
    """From a little below the smallest value to a little above the largest; from 0 where that is near."""
    low, high = min(values), max(values)
    if by_logarithm and low > 0 and high / low >= LOG_FROM:
        return _Axis(math.log10(low), math.log10(high), BOTTOM, TOP, log=True)
    if 0 <= low < 0.5 * high:
        low = 0.0
    spare = 0.05 * (high - low) or 0.5 * abs(high) or 1.0
    return _Axis(low if low == 0 and high > 0 else low - spare, high + spare, BOTTOM, TOP)


def _grid(x: _Axis, y: _Axis) -> str:
    parts = []
    for value in log_ticks(y.low, y.high) if y.log else nice_ticks(y.low, y.high):
        place = float(y.place(value))
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{place:.1f}" y2="{place:.1f}"/>')
        parts.append(f'<text class="y" x="{LEFT - 6}" y="{place + 4:.1f}">{short(value)}</text>')
    for value in nice_ticks(x.low, x.high):
        place = float(x.place(value))
        parts.append(f'<line class="grid" x1="{place:.1f}" x2="{place:.1f}" y1="{BOTTOM}" y2="{BOTTOM + 4}"/>')
        parts.append(f'<text x="{place:.1f}" y="{BOTTOM + 17}">{short(value)}</text>')
    return "".join(parts)


def _curve(place: int, line: Line, x: _Axis, y: _Axis) -> str:
    """Validation is dashed, with a dot at each point; what has one point only is a dot."""
    points = [f"{a:.1f},{b:.1f}" for a, b in zip(x.place(line.curve.steps), y.place(line.curve.values), strict=True)]
    dotted = line.kind == "validation" or len(points) == 1
    name, dashed = f"s{place % COLOURS}", " dashed" if line.kind == "validation" else ""
    dots = (f'<circle class="dot {name}" cx="{p.partition(",")[0]}" cy="{p.partition(",")[2]}" r="2.5"/>' for p in points)
    return f'<polyline class="curve {name}{dashed}" points="{" ".join(points)}"/>{"".join(dots) if dotted else ""}'


def _mark(event: Event, place: float) -> str:
    if event.kind == "resume":
        return f'<line class="resume" x1="{place:.1f}" x2="{place:.1f}" y1="{TOP}" y2="{BOTTOM}"/>'
    return f'<path class="skip" d="M{place:.1f} {TOP} l-4 -8 h8 z"/>'
