"""Your own pairs, one per line of a text file: the way in for data that lie in no known layout."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from datasets.frames import Frame, FrameDataset
from datasets.truth import DISPARITY_FILES
from stereo.calibration.middlebury import read_middlebury_calib
from stereo.config import near_matches
from stereo.image_io import atomic_write
from stereo.types import InputError, Sample

FILES = ("left", "right", "disp", "disp_right", "occluded", "occluded_right", "calib")
COLUMNS = ("name", *FILES, "scale")


class Manifest(FrameDataset):
    """The pairs that a text file lists, in its order: CSV with a header line, or JSON lines (one object per line)::

        left,right,disp,scale
        a/left.png,a/right.png,a/disp.png,1/100

        {"left": "a/left.png", "right": "a/right.png", "disp": "a/disp.png", "scale": 0.01}

    left, right:      images, of equal size. These two are required; whatever else is left out or empty is not known.
    disp, disp_right: .pfm, .npy or .png, x_right = x_left - disp and x_left = x_right + disp_right. In a PFM or NPY a value
                      that is not finite is unknown, in a PNG a 0.
    occluded, occluded_right: images, 255 = the other camera does not see the pixel, 0 = it does.
    calib:            a Middlebury calib.txt of the left image.
    scale:            px per stored unit of disp and disp_right, a number or a fraction; -1 turns the sign of a PFM around.
                      Left out: 1 for PFM and NPY, 1/256 for a 16-bit PNG.
    name:             what log lines call the pair; left out: the path of the left image without its extension.

    Columns come in any order, divided by commas, semicolons or tabs. A path is relative to the folder of the manifest.
    Raises InputError, with the file and the line, for an unknown column, a scale or calib that cannot be read, and a name that
    was given before, and with the name for a missing file; reading a pair raises it for a damaged file, unequal sizes, a
    negative disparity, or a mask with a third value.
    """

    repair = "paths are relative to the folder of the manifest"

    def __init__(self, path: str | Path) -> None:
        super().__init__(_read_frames(Path(path)))


def write_manifest(dataset: FrameDataset, path: str | Path) -> None:
    """Write the frames of a data set as a CSV that Manifest reads, with all columns: also a template for your own.

    Paths below the manifest's folder are written relative to it, others absolute.
    Raises InputError, and writes nothing, when the file cannot be written, a file of the data set is missing, or a manifest
    cannot say how its truth is stored (depth, colours as digits, other masks): the first frame with truth is read back.
    """
    path = Path(path)
    folder = Path(os.path.abspath(path.parent))
    with atomic_write(path) as temporary:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows([_cell(getattr(frame, column), folder) for column in COLUMNS] for frame in dataset.frames)
        _check_reads_back(dataset, temporary, path)


def _cell(value: str | Path | float | None, folder: Path) -> str:
    if isinstance(value, Path):
        file = Path(os.path.abspath(value))
        return (file.relative_to(folder) if file.is_relative_to(folder) else file).as_posix()
    return "" if value is None else str(value)


def _check_reads_back(dataset: FrameDataset, written: Path, path: Path) -> None:
    try:
        index = next((number for number, frame in enumerate(dataset.frames) if frame.disp), 0)
        found, given = Manifest(written)[index], dataset[index]
        names = (field.name for field in fields(Sample))
        if different := [name for name in names if not _equal(getattr(given, name), getattr(found, name))]:
            raise InputError(f"its {', '.join(different)} would not come back as in {type(dataset).__name__}")
    except InputError as error:
        raise InputError(f"cannot write '{path}', these files do not fit a manifest: {error}") from error


def _equal(a: Any, b: Any) -> bool:
    return a is b if a is None or b is None else np.array_equal(a, b)


def _read_frames(path: Path) -> list[Frame]:
    lines: dict[str, int] = {}
    frames: list[Frame] = []
    calibs: set[Path] = set()
    for number, pairs in tqdm(_read_records(path), desc="manifest", unit="line", delay=2, disable=None):
        try:
            frame = _make_frame(pairs, path.parent)
            if frame.name in lines:
                raise InputError(f"the name '{frame.name}' is that of line {lines[frame.name]}; expected one for each pair")
            if frame.calib is not None and frame.calib not in calibs and os.path.isfile(frame.calib):
                read_middlebury_calib(frame.calib)
                calibs.add(frame.calib)
        except InputError as error:
            raise InputError(f"'{path}' line {number}: {error}") from error
        lines[frame.name] = number
        frames.append(frame)
    if not frames:
        raise InputError(f"'{path}' lists no pair; expected a line with the names of columns and a line for each pair")
    return frames


def _make_frame(pairs: Iterable[tuple[str, Any]], folder: Path) -> Frame:
    given: dict[str, str] = {}
    for column, value in pairs:
        if not isinstance(value, str | int | float | None):
            raise InputError(f"got {column} = {value!r}, expected text or a number")
        if value is not None and (text := str(value).strip()):
            given[column] = text
    for column in ("left", "right"):
        if column not in given:
            raise InputError(f"no {column}; every pair needs left and right")
    files = {column: folder / given[column] for column in FILES if column in given}
    for column, file in files.items():
        if column in ("disp", "disp_right") and file.suffix.lower() not in DISPARITY_FILES:
            raise InputError(f"{column} '{file}' is of no kind that is read; expected {', '.join(DISPARITY_FILES)}")
    name = given.get("name", Path(given["left"]).with_suffix("").as_posix())
    return Frame(name=name, **files, scale=_parse_scale(given["scale"]) if "scale" in given else None)  # type: ignore[arg-type]


def _check_columns(columns: Sequence[str], where: str) -> None:
    for number, column in enumerate(columns):
        if column not in COLUMNS:
            raise InputError(f"{where}: unknown column '{column}', {near_matches(column, COLUMNS)}")
        if column in columns[:number]:
            raise InputError(f"{where}: column '{column}' is there twice; expected it once")


def _parse_scale(text: str) -> float:
    """px per stored unit, written as "0.01" or "1/100"."""
    above, _, below = text.partition("/")
    try:
        scale = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        scale = math.nan
    if scale == 0 or not math.isfinite(scale):
        raise InputError(f"got scale '{text}', expected px per stored unit, for example 0.01 or 1/100")
    return scale


def _read_records(path: Path) -> Iterator[tuple[int, Iterable[tuple[str, Any]]]]:
    """(line number, columns and values) of every pair: known columns, each of them once."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets write a byte order mark
    except OSError as error:
        raise InputError(f"cannot read manifest '{path}': {error.strerror or error}; check the path") from error
    except UnicodeDecodeError:
        raise InputError(f"manifest '{path}' is not a text file in UTF-8; expected CSV or JSON lines") from None
    return _json_records(path, text) if text.lstrip().startswith(("{", "[")) else _csv_records(path, text)


def _json_records(path: Path, text: str) -> Iterator[tuple[int, Iterable[tuple[str, Any]]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            pairs = json.loads(line, object_pairs_hook=tuple)  # not dict: a column that is there twice shall be seen
        except (ValueError, RecursionError) as error:
            raise InputError(f"'{path}' line {number} is no JSON: {error}; expected an object on every line") from error
        if not isinstance(pairs, tuple):
            raise InputError(f"'{path}' line {number} is no JSON object; expected one on every line")
        _check_columns([column for column, _ in pairs], f"'{path}' line {number}")
        yield number, pairs


def _csv_records(path: Path, text: str) -> Iterator[tuple[int, Iterable[tuple[str, Any]]]]:
    first = text.lstrip().partition("\n")[0]
    divider = max(",;\t", key=first.count)  # names of columns hold none of these
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=divider, skipinitialspace=True, strict=True)
    header: list[str] = []
    try:
        for row in reader:
            if not any(row):
                continue
            if not header:
                header = [column.strip() for column in row]
                _check_columns(header, f"'{path}' line {reader.line_num}")
            elif len(row) == len(header):
                yield reader.line_num, zip(header, row, strict=True)
            else:
                where, found = f"'{path}' line {reader.line_num}", f"{len(row)} values for {len(header)} columns"
                raise InputError(f"{where} has {found}; expected one each, in quotes where it holds a '{divider}'")
    except csv.Error as error:
        raise InputError(f"'{path}' line {reader.line_num}: {error}; expected CSV with a line of columns first") from error
