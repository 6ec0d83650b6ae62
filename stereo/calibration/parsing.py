"""Text of calibration files: bounded reading, numbers, and the part of YAML that such files use.

Nothing is evaluated. cv2.FileStorage reads no text of two documents, and answers a damaged one with a SystemError.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from stereo.files import reading
from stereo.types import InputError

MOST_BYTES = 1 << 19  # several times the longest listing of a RealSense; no more is read of whatever else was named
NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"  # one way to match: a million digits take no time
_ENTRY = re.compile(r"( *)([A-Za-z_][\w.-]*)\s*:(?:\s+(.*))?$")
Entries = Mapping[str, str]


def read_text(path: Path) -> str:
    """The text of a calibration file, UTF-8 or, as Windows' shell writes it, UTF-16. Raises InputError when it is none."""
    with reading(path, "calibration") as (file, _):
        data = file.read(MOST_BYTES)
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"calibration '{path}' is not a text file; give the text file of a calibration") from None
    return text.replace("\r\n", "\n")


def to_numbers(items: Iterable[str]) -> list[float] | None:
    """Each item as a finite number; None when one is not."""
    texts = [item.strip() for item in items]
    if not all(re.fullmatch(NUMBER, text) for text in texts):
        return None
    values = [float(text) for text in texts]
    return values if all(map(math.isfinite, values)) else None


def short(text: str) -> str:
    """Of a value that may be a page long, what a line of an error can hold."""
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:60]} ..."


def parse_yaml(text: str) -> list[dict[str, str]]:
    """The documents of a YAML text as flat maps "key.inner key" -> its text: mappings, and whatever stands in them, unread.

    Raises InputError for a key given twice and for a line that belongs to no key.
    """
    documents: list[dict[str, list[str]]] = [{}]  # the lines of each value
    open_lines: list[str] | None = None
    path: list[tuple[int, str]] = []  # indentation and name of the keys around this line
    brackets = 0
    for line in text.splitlines():
        bare = re.sub(r"(^|\s)#.*", "", line).rstrip()
        entry = None if brackets > 0 else _ENTRY.match(bare)
        if not bare or (brackets == 0 and bare.startswith(("%", "..."))):
            continue
        if brackets == 0 and bare.startswith("---"):
            if documents[-1]:
                documents.append({})
            path, open_lines = [], None
        elif entry:
            path = [(indent, key) for indent, key in path if indent < len(entry[1])] + [(len(entry[1]), entry[2])]
            name = ".".join(key for _, key in path)
            if name in documents[-1]:
                raise InputError(f"it has two entries '{short(name)}', expected one")
            value = re.sub(r"^!!?\S+\s*", "", entry[3] or "")  # a tag
            documents[-1][name] = open_lines = [value]
            brackets = value.count("[") - value.count("]")
        elif open_lines is not None:
            open_lines.append(bare.strip())
            brackets += bare.count("[") - bare.count("]")
        else:
            raise InputError(f"got the line '{short(bare)}', expected KEY: VALUE")
    return [{name: "\n".join(lines) for name, lines in document.items()} for document in documents if document]


def numbers_of(value: str) -> list[float] | None:
    """The numbers of "[1, 2]", of "- 1" on lines, or of "1 2"; None when that is not what it holds."""
    value = value.strip()
    if value.startswith("["):
        inner = value[1:].removesuffix("]").strip()
        return to_numbers(inner.split(",")) if inner else []
    if value.startswith("- "):
        return to_numbers(line.removeprefix("- ") for line in value.splitlines())
    return to_numbers(value.split())


def take(entries: Entries, names: Iterable[str], count: int | None) -> np.ndarray | None:
    """The ``count`` numbers (None: any) of the first of ``names`` that is there, (count,) float64; None when none is.

    Raises InputError when it does not hold so many numbers.
    """
    for name in names:
        if name in entries:
            numbers = numbers_of(entries[name])
            if numbers is None or (count is not None and len(numbers) != count):
                what = "numbers" if count is None else f"{count} numbers" if count > 1 else "a number"
                raise InputError(f"got {name} = '{short(entries[name])}', expected {what}")
            return np.array(numbers)
    return None


def take_size(entries: Entries, width: Iterable[str], height: Iterable[str]) -> tuple[int, int] | None:
    """(width, height) px of two entries of whole numbers above 0; None when there are none, or none that can be."""
    sides = [take(entries, names, 1) for names in (width, height)]
    if any(side is None or not 1 <= side[0] <= 1e6 or side[0] % 1 for side in sides):
        return None
    return int(sides[0][0]), int(sides[1][0])  # type: ignore[index]


def need(value: np.ndarray | None, what: str) -> np.ndarray:
    """Raise InputError when ``take`` found nothing."""
    if value is None:
        raise InputError(f"it has no {what}")
    return value
