"""Pairs from picture files: two files, two folders, two globs, or files that hold both views."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.folders import pair_names, select_files
from stereo.files import reading
from stereo.image_io import WRITABLE, decode_image, read_image
from stereo.sources.frame import Dropped, Selection, Source, StereoFrame
from stereo.sources.layout import split_views
from stereo.sources.stereo_jpeg import is_stereo_mpo, jps_arrangement, split_mpo
from stereo.types import InputError

BOTH_VIEWS = (".mpo", ".jps")  # files that hold both views and say so
PICTURES = (*WRITABLE, ".pgm")
_WILDCARD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class PairFiles:
    """The files of one pair. right: None where ``left`` holds both views."""

    stem: str
    left: Path
    right: Path | None = None


class PictureSource(Source):
    """Pairs of picture files in a stated order, read one at a time.

    layout: "sbs" or "ou" of files that hold both views; None for two files, and for MPO and JPS. swap: exchange the views.
    A single pair that cannot be read raises its InputError; of several such a pair is dropped.
    Raises InputError when the selection leaves nothing.
    """

    def __init__(self, name: str, pairs: Sequence[PairFiles], layout: str | None, swap: bool, selection: Selection):
        super().__init__()
        chosen = slice(selection.start, selection.stop, selection.step)
        self._pairs = list(enumerate(pairs))[chosen]
        if not self._pairs:
            raise InputError(f"--frames selects none of the {len(pairs)} pair(s) of {name}; they are counted from 0")
        self._layout, self._swap = layout, swap
        self.name, self.length = name, len(self._pairs)
        first = self._pairs[0][1]
        folder = first.left.absolute().parent.name
        self.stem = first.stem if self.length == 1 else f"{folder}_sequence"  # not the stem of any of its pairs

    def __iter__(self) -> Iterator[StereoFrame | Dropped]:
        for index, pair in self._pairs:
            try:
                left, right = self._read(pair)
            except InputError as error:
                if self.length == 1:
                    raise
                yield Dropped(pair.left.name, str(error))
                continue
            origin = str(pair.left), str(pair.right or pair.left)
            yield StereoFrame(pair.stem, left, right, index, None, str(pair.left), origin[::-1] if self._swap else origin)

    def _read(self, pair: PairFiles) -> tuple[np.ndarray, np.ndarray]:
        if pair.right is not None:
            views = read_image(pair.left), read_image(pair.right)
        else:
            views = read_views(pair.left, self._layout)
        return views[::-1] if self._swap else views


def read_views(path: Path, layout: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Left and right view of one file: an MPO, a JPS, or any picture whose ``layout``, "sbs" or "ou", is given.

    Raises InputError for another file without a layout, and for one that cannot be read or has no two equal halves.
    """
    with reading(path, "image") as (file, _):
        data = file.read()
    suffix = path.suffix.lower()
    if layout is None and (suffix == ".mpo" or is_stereo_mpo(data)):
        left, right = split_mpo(data, path)
        return decode_image(left, path), decode_image(right, path)
    right_first = False
    if layout is None and suffix == ".jps":
        layout, right_first = jps_arrangement(data, path)
    if layout is None:
        raise InputError(one_file(path))
    return split_views(decode_image(data, path), layout, right_first, f"'{path}'")


def one_file(given: str | Path) -> str:
    """What is wrong with a LEFT alone that does not say how it holds two views."""
    say_how = "--layout sbs (side by side) or --layout ou (one above the other)"
    return f"got '{given}' alone: give the right one as well, or say with {say_how} how it holds both views"


def is_glob(text: str) -> bool:
    return bool(_WILDCARD.search(text)) and not os.path.exists(text)


def list_pairs(left: str, right: str) -> list[PairFiles]:
    """Pairs of two folders or of two globs, in the order of their names, numbers by their value.

    Files of folders pair by equal names, or by names that differ in one word that says left or right; files of globs pair by
    what the wildcards stand for. Raises InputError for files without a partner or with two, and for a file on both sides.
    """
    sides = [_select(text, PICTURES) for text in (left, right)]
    if both := set(sides[0].values()) & set(sides[1].values()):
        raise InputError(f"'{min(both)}' is selected as left and as right; give two folders, or globs of different files")
    if is_glob(left):
        partners = _equal_names(sides[0], sides[1], left, right)
    else:
        try:
            partners = pair_names(*sides)
        except InputError as error:
            raise InputError(f"'{left}' and '{right}' do not pair: {error}; or give two globs whose stars say which") from None
    return _with_stems({name: (path, sides[1][partners[name]]) for name, path in sides[0].items()})


def list_files(text: str, layout: str | None) -> list[PairFiles]:
    """Files of a folder or glob, each of which holds both views. Raises InputError when there is none."""
    files = _select(text, BOTH_VIEWS if layout is None else (*PICTURES, *BOTH_VIEWS))
    return _with_stems({name: (path, None) for name, path in files.items()})


def _select(text: str, kinds: Sequence[str]) -> dict[str, Path]:
    """Name -> file of a folder or a glob, from wherever it starts."""
    path = Path(text)
    if not is_glob(text):
        return select_files(path, ".", kinds)
    fixed = next(i for i, part in enumerate(path.parts) if _WILDCARD.search(part))
    return select_files(Path(*path.parts[:fixed]), "/".join(path.parts[fixed:]), kinds)


def _equal_names(lefts: dict[str, Path], rights: dict[str, Path], left: str, right: str) -> dict[str, str]:
    if alone := sorted(lefts.keys() ^ rights.keys()):
        found = f"the stars of '{left}' and '{right}' stand for different names, {len(alone)} of them on one side only"
        raise InputError(f"{found}, for example '{alone[0]}'; expected equal ones, as of left_07.png and right_07.png")
    return {name: name for name in lefts}


def _with_stems(pairs: dict[str, tuple[Path, Path | None]]) -> list[PairFiles]:
    """Results are called like the left file; where several have one name ("*/im0.png"), like what distinguishes them."""
    ordered = sorted(pairs.items(), key=lambda item: _by_number(item[0]))
    counts = Counter(left.stem for left, _ in pairs.values())
    stems = [left.stem if len(counts) == len(pairs) else name.replace("/", "_") for name, (left, _) in ordered]
    if twice := [stem for stem, count in Counter(stems).items() if count > 1]:
        raise InputError(f"several left files would give results called '{twice[0]}', one over the other; rename them")
    return [PairFiles(stem, left, right) for stem, (_, (left, right)) in zip(stems, ordered, strict=True)]


def _by_number(name: str) -> list[tuple[int, str]]:
    """A key that sorts "frame_9" before "frame_10"."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]
