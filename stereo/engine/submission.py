"""The folders and ZIP files that benchmarks want uploaded, checked before anything stands under their name."""

from __future__ import annotations

import math
import os
import re
import secrets
import shutil
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from stereo.engine.evaluate import ByName, Predict
from stereo.image_io import read_disparity, write_disparity_png16, write_pfm
from stereo.inference.stored import StoredMap
from stereo.types import DisparityMap, InputError, Sample

PNG_CEILING = 65535 / 256  # px, the largest disparity that a 16-bit PNG of px * 256 holds


@dataclass(frozen=True)
class Benchmark:
    """What one benchmark asks for.

    data:     name of its data set in datasets.base; splits: those that are wanted, and how many images each of them has.
    disp:     path of an image's disparity below the folder, PNG or PFM. rest and scene: of the image's name as in
              stereo.inference.stored; method: the name of the method.
    runtime:  path and text of a file with the seconds that one image took; "" for none.
    """

    title: str
    data: str
    splits: tuple[tuple[str, int], ...]
    disp: str
    runtime: tuple[str, str] = ("", "")

    @property
    def images(self) -> int:
        return sum(count for _, count in self.splits)


# Middlebury (submit3/upload-format): disp0METHOD.pfm, dense, px, and timeMETHOD.txt with nothing but the seconds, in SCENE
# folders below trainingX and testX, X being one size for all.
_MIDDLEBURY = Benchmark(
    "Middlebury version 3",
    "middlebury",
    (("training", 15), ("test", 15)),
    "{rest}/disp0{method}.pfm",
    ("{rest}/time{method}.txt", "{seconds:.6f}\n"),
)
BENCHMARKS: dict[str, Benchmark] = {
    # 16-bit PNG of px * 256, 0 = unknown, of every test image in its size; 2012 at the top of the archive, 2015 in disp_0.
    "kitti2012": Benchmark("KITTI 2012", "kitti2012", (("testing", 195),), "{scene}.png"),
    "kitti2015": Benchmark("KITTI 2015", "kitti2015", (("testing", 200),), "disp_0/{scene}.png"),
    "middlebury": _MIDDLEBURY,
    "middlebury-training": replace(_MIDDLEBURY, title="Middlebury version 3, training", splits=(("training", 15),)),
    # SCENE.pfm in px and SCENE.txt with "runtime SECONDS", training and test scenes in one folder.
    "eth3d": Benchmark(
        "ETH3D two-view",
        "eth3d",
        (("training", 27), ("testing", 20)),
        "low_res_two_view/{scene}.pfm",
        ("low_res_two_view/{scene}.txt", "runtime {seconds:.6f}\n"),
    ),
}


def check_method(method: str) -> None:
    """Raise InputError unless the name can be part of a file's name, and does not end like Middlebury's sparse maps."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}", method) or method.endswith("_s"):
        raise InputError(f"got method '{method}', expected up to 40 letters, digits, '-', '_' or '.', not ending in '_s'")


def check_names(benchmark: Benchmark, split: str, names: Sequence[str]) -> None:
    """Raise InputError unless ``names`` are as many as the split has, all different, and KITTI's numbered without a gap."""
    wanted = dict(benchmark.splits)[split]
    if len(names) != wanted or len(set(names)) != len(names):
        found = f"the {split} split has {len(set(names))} images here"
        raise InputError(f"{found}, {benchmark.title} wants all {wanted}; download the rest, for it accepts no part")
    if benchmark.data.startswith("kitti"):
        expected = {f"{number:06d}_10" for number in range(wanted)}
        other = sorted({name.rpartition("/")[2] for name in names} - expected)
        if other:
            raise InputError(f"image '{other[0]}' is none of {benchmark.title}'s, 000000_10 to {wanted - 1:06d}_10")


def check_map(benchmark: Benchmark, name: str, shape: tuple[int, ...], result: DisparityMap | StoredMap) -> None:
    """Raise InputError unless the map is of the image's ``shape`` (H, W), dense, and inside the range that can be."""
    disp = result.disp
    if disp.shape != shape[:2]:
        raise InputError(f"{name}: the map is {disp.shape}, the image {shape[:2]}; expected equal (H, W)")
    unknown = sum(result.counts.values()) if isinstance(result, StoredMap) else 0
    if unknown or not np.isfinite(disp).all():
        unknown = unknown or int(np.count_nonzero(~np.isfinite(disp)))
        raise InputError(f"{name}: {unknown} of {disp.size} pixels are unknown or below 0; expected a dense map: fill them")
    ceiling = min(shape[1], PNG_CEILING) if benchmark.disp.endswith(".png") else shape[1]
    if disp.min() < 0 or disp.max() > ceiling:
        found = f"disparities from {disp.min():.4g} to {disp.max():.4g} px"
        raise InputError(f"{name}: {found}; expected 0 to {ceiling:.6g} (the width, or what the format holds)")


def _path(pattern: str, name: str, method: str) -> str:
    return pattern.format(rest=name.partition("/")[2], scene=name.rpartition("/")[2], method=method)


def write_submission(
    benchmark: Benchmark,
    samples: Iterator[Sample],
    predict: Predict | ByName,
    folder: Path,
    method: str,
    seconds: float | None = None,
    progress: bool = True,
) -> Path:
    """Predict every image and write the benchmark's files and BENCHMARK.zip, the archive to upload, into ``folder``.

    samples: all images of all splits, whose names ``check_names`` has passed. seconds: what an image took where ``predict``
    only reads what is there; None measures it, after a first prediction that is not counted.
    All is written beside ``folder`` first, read again and checked, and gets its name at the end: what is refused leaves
    nothing behind.
    Raises InputError when a map is refused, ``folder`` holds something, or it cannot be written. Returns the archive's path.
    """
    check_method(method)
    if seconds is not None and not 0 < seconds < math.inf:
        raise InputError(f"got {seconds} seconds for an image, expected a finite number above 0")
    with _staged(folder) as stage:
        shapes: dict[str, tuple[int, int]] = {}
        bar = tqdm(samples, total=benchmark.images, desc="submit", unit="pair", disable=None if progress else True)
        for sample in bar:
            shape = sample.left.shape[:2]
            run = predict.choose(sample.name) if isinstance(predict, ByName) else predict
            if not shapes and seconds is None:
                run(sample.left, sample.right)
            start = time.perf_counter()
            result = run(sample.left, sample.right)
            took = time.perf_counter() - start if seconds is None else seconds
            check_map(benchmark, sample.name, shape, result)
            shapes[sample.name] = shape
            _write_one(benchmark, stage, sample.name, method, result.disp, took)
        _check_files(benchmark, stage, shapes, method)
        return folder / _pack(benchmark, stage).name


def _write_one(benchmark: Benchmark, stage: Path, name: str, method: str, disp: np.ndarray, seconds: float) -> None:
    path = stage / _path(benchmark.disp, name, method)
    path.parent.mkdir(parents=True, exist_ok=True)
    write = write_disparity_png16 if path.suffix == ".png" else write_pfm
    write(path, disp)
    pattern, text = benchmark.runtime
    if pattern:
        (stage / _path(pattern, name, method)).write_text(text.format(seconds=seconds), encoding="ascii")


def _check_files(benchmark: Benchmark, stage: Path, shapes: dict[str, tuple[int, int]], method: str) -> None:
    """Read everything again. Raises InputError unless the files are those that were meant, whole, and say what they should."""
    patterns = [pattern for pattern in (benchmark.disp, benchmark.runtime[0]) if pattern]
    expected = {_path(pattern, name, method) for pattern in patterns for name in shapes}
    found = {path.relative_to(stage).as_posix() for path in stage.rglob("*") if path.is_file()}
    if len(shapes) != benchmark.images or found != expected or len(expected) != len(patterns) * len(shapes):
        raise InputError(f"{len(found)} files of {len(shapes)} images; {benchmark.title} wants {benchmark.images} images")
    for name, shape in shapes.items():
        disp, valid = read_disparity(stage / _path(benchmark.disp, name, method))
        assert disp.shape == shape and valid.all(), name
        if benchmark.runtime[0]:
            text = (stage / _path(benchmark.runtime[0], name, method)).read_text(encoding="ascii")
            if not float(text.split()[-1]) > 0:
                raise InputError(f"{name}: took {text.split()[-1]} s, expected more than 0; give --seconds")


def _pack(benchmark: Benchmark, stage: Path) -> Path:
    files = sorted(path for path in stage.rglob("*") if path.is_file())
    archive = stage / f"{benchmark.data}.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for path in files:
            # A fixed date, so that equal maps make equal archives.
            entry = zipfile.ZipInfo(path.relative_to(stage).as_posix(), (1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            target.writestr(entry, path.read_bytes())
    return archive


@contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """A new folder beside ``folder``, which becomes ``folder`` when the block ends and is removed when it raises."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"'{folder}' is there already and not empty; choose another with -o")
    stage = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
    try:
        stage.mkdir(parents=True)
        yield stage
        if folder.exists():
            folder.rmdir()
        os.replace(stage, folder)
    except OSError as error:
        raise InputError(f"cannot write '{folder}': {error.strerror or error}; choose another with -o") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
