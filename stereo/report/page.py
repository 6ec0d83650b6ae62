"""One HTML file that carries everything it shows: works from a disk, asks no network, and runs no script but its own.

The files of ``assets`` are plain CSS and JavaScript; they are put into the page, and the page's policy names their hashes, so
that a browser runs nothing else, whatever the names in a data set contain.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stereo.image_io import atomic_write
from stereo.report.colour import GRAY, INFERNO, TURBO
from stereo.version import __version__

ASSETS = Path(__file__).parent / "assets"
TABLES = {"turbo": TURBO, "inferno": INFERNO, "gray": GRAY}  # the classes of a legend's colour bar
MISSING = "-"


def escape(text: object) -> str:
    """``text`` as HTML, also inside quotes. What UTF-8 cannot hold (half of a surrogate pair in a file name) becomes '?'."""
    return html.escape(str(text).encode("utf-8", "replace").decode(), quote=True)


def breakable(name: object) -> str:
    """A name such as a path as HTML that may go to a new line behind its separators, whichever direction its letters run."""
    return f"<bdi>{escape(name).replace('/', '/<wbr>').replace('_', '_<wbr>')}</bdi>"


def decimals(value: Any, digits: int) -> str:
    """A number as people read it; MISSING for NaN and for what is not there."""
    return MISSING if value is None or math.isnan(value) else f"{value:.{digits}f}"


def data_uri(data: bytes, kind: str) -> str:
    """``data`` of the media type ``kind`` (image/png), as an address that needs no file."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def embed_json(name: str, value: Any) -> str:
    """``value`` for the page's script, which finds it by the id ``name``. NaN and infinities must have been taken out.

    "<" is written as an escape of JSON: no string can end the element or open a comment.
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{escape(name)}">{text}</script>'


def facts_list(facts: Iterable[tuple[str, Any]]) -> str:
    """Names and values as a definition list; a fact without a value is left out."""
    rows = (f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts if value not in (None, ""))
    return f'<dl class="facts">{"".join(rows)}</dl>'


def note(text: str) -> str:
    return f'<p class="note" role="note">{escape(text)}</p>'


def page(title: str, sections: Sequence[str], *scripts: str) -> str:
    """The whole file: ``sections`` are HTML, ``scripts`` are names of files in ``assets``, which become one script."""
    style = (ASSETS / "page.css").read_text(encoding="utf-8") + "".join(map(_gradient, TABLES))
    code = "".join((ASSETS / script).read_text(encoding="utf-8") for script in scripts)
    policy = f"default-src 'none'; img-src data:; style-src {_source(style)}; script-src {_source(code)}"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<main id="content" tabindex="-1">
<h1>{breakable(title)}</h1>
<noscript><p class="note">Scripts are switched off: nothing sorts or slides; everything else is here.</p></noscript>
{"".join(sections)}
</main>
<footer>Made by quadtree-stereo {__version__}. This file is complete: it needs no network and no other file.</footer>
<script>{code}</script>
</body>
</html>
"""


def write_page(path: str | Path, text: str) -> None:
    """Write a page, atomically. Raises InputError when the file cannot be written."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _source(text: str) -> str:
    """How a content security policy names an element's text. Browsers read line ends as one character each."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _gradient(name: str) -> str:
    """The CSS of a colour bar: the table at 16 places, between which a browser interpolates."""
    stops = (f"rgb({r},{g},{b})" for r, g, b in TABLES[name][np.linspace(0, 255, 16).round().astype(int)].tolist())
    return f"\n.bar.{name} {{ background: linear-gradient(to right, {', '.join(stops)}); }}"
