"""A table that ``assets/table.js`` sorts by any of its headings and narrows by a search for names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stereo.report.page import MISSING, breakable, decimals, escape

Cell = tuple[str, str]  # what it is sorted by, "" being unknown; what it shows, as HTML


def number_cell(value: float | None, digits: int) -> Cell:
    text = decimals(value, digits)
    return ("" if text == MISSING else format(value, ".9g")), text


def name_cell(name: Any, anchor: str | None) -> Cell:
    """A name, as a link to the element ``anchor`` where there is one."""
    shown = breakable(name)
    return escape(name), f'<a href="#{anchor}">{shown}</a>' if anchor else shown


def sortable_table(what: str, heads: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Search box and table of ``what`` (images, scenes), a page's only one, whose rows come worst first.

    heads: of the columns; the first is of the names, by which is searched, all others are of numbers.
    """
    head = "".join(
        f'<th scope="col" aria-sort="none"><button type="button" data-column="{place}" '
        f'data-kind="{"number" if place else "text"}">{escape(heading)}</button></th>'
        for place, heading in enumerate(heads)
    )
    body = []
    for (name, shown), *others in rows:
        cells = "".join(f'<td data-value="{value}">{text}</td>' for value, text in others)
        body.append(f'<tr data-name="{name}"><th scope="row" data-value="{name}">{shown}</th>{cells}</tr>')
    return f"""<div class="toolbar"><label>Search by name <input type="search" id="search" autocomplete="off"></label>
<span id="status" role="status" aria-live="polite">{len(rows)} {what}, worst first</span></div>
<div class="scroll tall" tabindex="0" role="region" aria-label="Table of all {what}">
<table id="table" data-what="{what}"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>
<p class="hint">A heading sorts by its column, a second time the other way round. Names with a link have pictures
below.</p>
"""
