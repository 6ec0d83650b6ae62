"""How a pair is cut so that a network fits into memory: nothing, bands of rows, or, if even these are too wide, blocks.

Matching runs along rows, so a band of rows needs no assumption about the disparities. A block needs one: a left pixel at column
x matches right columns x - reach .. x, so it is computed with ``reach`` columns more on its left.
Sizes are (height, width) px of the padded images; a part begins at a multiple of ``step``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

HEADROOM = 1.5  # of the traced bytes: work space of convolutions, fragmentation
WORK_SPACE = 64 * 2**20  # bytes of it that do not grow with the picture
HELD_BYTES = 100  # per px of the whole pair: both images as floats, before and after they are normalised, and the three maps
COLUMN_MARGIN = 160  # px beside a block, beyond the reach

Estimate = Callable[[int, int], int]  # height, width -> most bytes that the network holds


@dataclass(frozen=True)
class Span:
    """Part of an axis, px: [start, stop) is kept of what is computed on [first, last)."""

    start: int
    stop: int
    first: int
    last: int


@dataclass(frozen=True)
class Plan:
    """The parts of the images, every one of ``rows`` with every one of ``columns``. bytes: what the largest part needs."""

    rows: tuple[Span, ...]
    columns: tuple[Span, ...]
    bytes: int

    @property
    def parts(self) -> int:
        return len(self.rows) * len(self.columns)

    @property
    def side(self) -> tuple[int, int]:
        """(height, width) px of the largest part."""
        return longest(self.rows), longest(self.columns)

    def __str__(self) -> str:
        if self.parts == 1:
            return "the whole image"
        kind = "bands" if len(self.columns) == 1 else "blocks"
        return f"tiles: {self.parts} {kind} of {self.side[0]}x{self.side[1]}"


def longest(spans: Sequence[Span]) -> int:
    return max(span.last - span.first for span in spans)


def cut(length: int, core: int, before: int, after: int) -> tuple[Span, ...]:
    """``length`` px in parts of ``core`` px (the last may be shorter), each with what lies ``before`` and ``after`` it."""
    starts = range(0, length, core)
    return tuple(Span(x, min(x + core, length), max(0, x - before), min(length, x + core + after)) for x in starts)


def cuts(length: int, least: int, before: int, after: int, step: int) -> list[tuple[Span, ...]]:
    """The ways to cut an axis evenly into parts that keep ``least`` px or more (the last: fewer), the longest parts first.

    A way whose parts are not shorter than those of a way with fewer of them is left out.
    """
    found: list[tuple[Span, ...]] = []
    for count in range(1, -(-length // least) + 1):
        core = _up(-(-length // count), step)
        spans = cut(length, core, _up(before, step), _up(after, step))
        if not found or longest(spans) < longest(found[-1]):
            found.append(spans)
    return found


def _up(length: int, step: int) -> int:
    return -(-length // step) * step


def plan_bands(size: tuple[int, int], budget: int, estimate: Estimate, margin: int, step: int) -> Plan:
    """The whole image, or the fewest bands of full width that fit into ``budget`` bytes.

    If none fits, the plan of the thinnest bands: its ``bytes`` are then more than ``budget``. A band keeps at least as many
    rows as its margin, so the network runs on at most three times as many rows as there are.
    """
    height, width = size
    columns = cut(width, width, 0, 0)
    held = height * width * HELD_BYTES

    def plan(rows: tuple[Span, ...]) -> Plan:
        return Plan(rows, columns, estimate(longest(rows), width) + held)

    return _first_that_fits(cuts(height, _up(margin, step), margin, margin, step), plan, budget)


def plan_blocks(size: tuple[int, int], reach: int, budget: int, estimate: Estimate, margin: int, step: int) -> Plan:
    """The thinnest bands, cut into the fewest blocks that fit, with matches up to ``reach`` px further left in the right image.

    If none fits, the plan of the smallest blocks, like ``plan_bands``.
    """
    height, width = size
    rows = cuts(height, _up(margin, step), margin, margin, step)[-1]
    held = height * width * HELD_BYTES

    def plan(columns: tuple[Span, ...]) -> Plan:
        return Plan(rows, columns, estimate(longest(rows), longest(columns)) + held)

    return _first_that_fits(cuts(width, step, reach + COLUMN_MARGIN, COLUMN_MARGIN, step), plan, budget)


def _first_that_fits(ways: Sequence[tuple[Span, ...]], plan: Callable[[tuple[Span, ...]], Plan], budget: int) -> Plan:
    """Shorter parts need less, so half of the ways are ruled out by each estimate; most often already the first one fits."""
    first = plan(ways[0])
    if first.bytes <= budget or len(ways) == 1:
        return first
    index = bisect_left(ways, True, lo=1, key=lambda way: plan(way).bytes <= budget)
    return plan(ways[min(index, len(ways) - 1)])


def binary_size(number: float) -> str:
    """Bytes for people: "3.1 GiB", and "512 MiB" below 1 GiB."""
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"
