"""Damaged files by the thousand through every reader. test_mutations.py runs this as a script, in a process of its own:

    python -W error mutations.py FOLDER COUNT      one line of JSON for each batch; a Python warning is a failure

A batch is one reader and one kind of file, in a fork of its own, so that a crash, a hang or a thirst for memory ends the batch
and not the run; the file that did it is left in FOLDER. Everything follows from the names of batches and the number of a file.
"""

from __future__ import annotations

import json
import logging
import os
import random
import re
import resource
import signal
import struct
import sys
import traceback
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import calibration_files as calibrations
import cv2
import numpy as np

from stereo.calibration.middlebury import read_middlebury_calib
from stereo.calibration.read import read_calibration
from stereo.calibration.rig import CalibrationFile
from stereo.geometry import Calibration
from stereo.image_io import (
    read_depth_png16,
    read_disparity,
    read_image,
    read_pfm,
    read_ply,
    read_stored,
    read_tiff_bands,
    write_depth_png16,
    write_disparity_png16,
    write_pfm,
    write_ply,
    write_tiff_bands,
)
from stereo.types import InputError

HEADROOM = 3 << 29  # bytes of address space on top of what the process has: 1.5 GiB
SECONDS = 120  # of computing for one batch, then it hangs
HEIGHT, WIDTH = 24, 32
CALIB = b"cam0=[3997.684 0 1176.728; 0 3997.684 1011.728; 0 0 1]\ncam1=[1 0 0]\ndoffs=131.111\nbaseline=193.001\nwidth=2964\n"
MAGICS = [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"RIFF", b"P6\n", b"P1 ", b"II*\0", b"MM\0*", b"BM", b"GIF89a", b"Pf\n"]
MAGICS += [b"PF\n", b"\x93NUMPY\x01\0", b"PK\x03\x04", b"ply\n", b"\x80\x04\x95", b"%PDF-1.5", b"#?RADIANCE\n", b"\0" * 8]
NUMBERS = [b"60000", b"99999999999", b"0", b"-1", b"1e999", b"nan", b"1" * 400]
FIELDS = [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x60\xea\0\0", b"\0\0\xea\x60", b"\0\0\0\0", b"\x01\0\0\0", b"\0\0\0\x01"]
SUFFIXES = ["png", "jpg", "webp", "ppm", "tiff", "bmp", "pfm", "npy", "ply", "txt", "gif", ""]


# ---------------------------------------------------------------------------------------------------------------------
# Undamaged files


def picture(channels: int, dtype: type = np.uint8) -> np.ndarray:
    """(H, W) of one channel, else (H, W, channels)."""
    noise = np.random.default_rng(channels).integers(0, 256, (HEIGHT, WIDTH, channels)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    return (smooth * (257 if dtype is np.uint16 else 1)).astype(dtype)


def encoded(suffix: str, image: np.ndarray, *options: int) -> bytes:
    done, data = cv2.imencode(f".{suffix}", image, list(options))
    assert done
    return data.tobytes()


def pictures(suffix: str, floats: bool) -> list[bytes]:
    """Small files of one format that take different ways through its decoder; with ``floats`` also one that is no picture."""
    rgb, grey = picture(3), picture(1)
    if suffix == "png":
        return [encoded(suffix, image) for image in (rgb, grey, picture(4), picture(1, np.uint16), picture(3, np.uint16))]
    if suffix == "jpg":
        restarts = (cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2)
        return [encoded(suffix, rgb), encoded(suffix, grey), encoded(suffix, rgb, *restarts)]
    if suffix == "webp":
        return [encoded(suffix, image, cv2.IMWRITE_WEBP_QUALITY, q) for image in (rgb, picture(4)) for q in (80, 101)]
    if suffix == "ppm":
        kinds = [("ppm", rgb), ("pgm", grey), ("pbm", (grey > 127).astype(np.uint8) * 255), ("ppm", picture(3, np.uint16))]
        return [encoded(*kind, cv2.IMWRITE_PXM_BINARY, binary) for kind in kinds for binary in (0, 1)]
    if suffix == "tiff":
        packed = [encoded(suffix, rgb, cv2.IMWRITE_TIFF_COMPRESSION, how) for how in (1, 5, 8, 32773)]
        numbers = [encoded(suffix, picture(1, dtype)) for dtype in (np.uint16, np.float32)]
        return [*packed, *numbers[: 1 + floats]]
    return [encoded(suffix, rgb), encoded(suffix, grey)]


def written(write: Callable[..., None], *args: Any, suffix: str = "x") -> Callable[[Path], list[bytes]]:
    def base(folder: Path) -> list[bytes]:
        path = folder / f"base.{suffix}"
        write(path, *args)
        return [path.read_bytes()]

    return base


def numpy_files(folder: Path) -> list[bytes]:
    disp = np.random.default_rng(1).random((HEIGHT, WIDTH)) * 50
    kinds = (disp.astype("<f4"), disp.astype(">f8"), np.asfortranarray(disp))
    return [written(np.save, array, suffix="npy")(folder)[0] for array in kinds]


# ---------------------------------------------------------------------------------------------------------------------
# Damage


def damaged(rng: random.Random, data: bytes) -> bytes:
    """``data`` with one kind of damage, most of it where headers are."""
    kind, new = rng.randrange(10), bytearray(data)
    head = min(len(data), 128)
    at = rng.randrange(head if rng.random() < 0.7 else len(data))
    if kind == 0:
        del new[rng.randrange(len(data)) :]
    elif kind in (1, 2):
        for _ in range(rng.randint(1, 64)):
            new[rng.randrange(len(data) if kind == 1 else head)] ^= 1 << rng.randrange(8)
    elif kind == 3:
        field = rng.choice(FIELDS)
        new[at : at + len(field)] = field
    elif kind == 4:
        runs = list(re.finditer(rb"\d+", data[:head]))
        for run in rng.sample(runs, min(len(runs), rng.randint(1, 2))) or [re.search(rb"^", data)]:
            new[run.start() : run.end()] = rng.choice(NUMBERS)
    elif kind == 5:
        magic = rng.choice(MAGICS)
        new[: len(magic)] = magic
    elif kind == 6:
        count = rng.choice([1, 2, 8, 64, len(data)])
        new[at : at + count] = bytes(len(new[at : at + count]))
    elif kind == 7:
        new += rng.randbytes(rng.choice([1, 3, 100, 4096]))
    elif kind == 8:
        new[at:at] = rng.randbytes(rng.randint(1, 9))
    else:
        del new[at : at + rng.randint(1, 9)]
    return resealed(new) if rng.random() < 0.5 else bytes(new)


def resealed(data: bytearray) -> bytes:
    """A PNG with the checksums that its damaged chunks should have, so that the damage gets past them; others as they are."""
    at = 8
    while data.startswith(b"\x89PNG") and at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4])
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return bytes(data)


def calibration_texts() -> dict[str, bytes]:
    """One file of each layout."""
    whole = {"M1": np.eye(3), "D1": np.zeros((1, 5)), "M2": np.eye(3), "D2": np.zeros((1, 5))}
    whole |= {"R": np.eye(3), "T": np.array([[-0.1], [0], [0]]), "P1": np.eye(3, 4), "P2": np.eye(3, 4) - np.eye(3, 4, 3)}
    texts = {"ros": calibrations.ros("left", 0) + "---\n" + calibrations.ros("right", -48), "zed": calibrations.ZED}
    texts |= {"kitti": calibrations.KITTI_RAW, "realsense": calibrations.REALSENSE.replace("848", "1280").replace("480", "720")}
    texts |= {"json": calibrations.REALSENSE_JSON.replace("800", "720"), "k": calibrations.FOUNDATION_STEREO}
    for form in ("yml", "xml"):
        storage = cv2.FileStorage(f"x.{form}", cv2.FILE_STORAGE_WRITE | cv2.FILE_STORAGE_MEMORY)
        for name, value in whole.items():
            storage.write(name, value)
        texts[form] = storage.releaseAndGetString()
    return {name: text.encode() for name, text in texts.items()}


# ---------------------------------------------------------------------------------------------------------------------
# Batches


@dataclass(frozen=True)
class Batch:
    name: str
    read: Callable[[Path], Any]
    suffix: str
    bases: Callable[[Path], list[bytes]]  # of a folder to work in


PICTURES = ("png", "jpg", "webp", "ppm", "tiff", "bmp")


def picture_batch(read: Callable[[Path], Any], suffix: str) -> Batch:
    return Batch(f"{read.__name__} {suffix}", read, suffix, lambda _: pictures(suffix, floats=read is read_stored))


DISP = picture(1, np.float32)
POINTS = picture(3).reshape(-1, 3)
PNG16 = written(write_disparity_png16, DISP, suffix="png")
PFM = written(write_pfm, DISP)
BATCHES = [
    *(picture_batch(read, suffix) for read in (read_image, read_stored) for suffix in PICTURES),
    Batch("read_disparity pfm", read_disparity, "pfm", PFM),
    Batch("read_disparity png", read_disparity, "png", PNG16),
    Batch("read_disparity npy", read_disparity, "npy", numpy_files),
    Batch("read_pfm", read_pfm, "pfm", lambda folder: [*PFM(folder), *written(write_pfm, picture(3, np.float32))(folder)]),
    Batch("read_ply", read_ply, "ply", written(write_ply, POINTS[:40].astype(np.float32), POINTS[:40])),
    Batch("read_middlebury_calib", read_middlebury_calib, "txt", lambda _: [CALIB]),
    Batch("read_depth_png16", read_depth_png16, "png", written(write_depth_png16, DISP, suffix="png")),
    Batch("read_tiff_bands", read_tiff_bands, "tiff", written(write_tiff_bands, np.stack([DISP, DISP], axis=-1))),
    *(
        Batch(f"read_calibration {name}", lambda path: read_calibration(path, (1280, 720)), "txt", lambda _, text=text: [text])
        for name, text in calibration_texts().items()
    ),
]


def arrays_of(result: Any) -> tuple[np.ndarray, ...]:
    if isinstance(result, Calibration | CalibrationFile):  # its constructor refuses what is not finite
        return ()
    return result if isinstance(result, tuple) else (result,)


def judge(batch: Batch, path: Path, whole: tuple[np.ndarray, ...] | None) -> tuple[str, str]:
    """("refused" | "returned" | "wrong", why). ``whole``: what the undamaged file holds, where the damage comes after it."""
    try:
        found = arrays_of(batch.read(path))
    except InputError as error:
        message = str(error)
        return ("refused", "") if str(path) in message and len(message.splitlines()) == 1 else ("wrong", repr(message))
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return "wrong", f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
    if whole is not None and not all(np.array_equal(a, b, equal_nan=True) for a, b in zip(found, whole, strict=True)):
        return "wrong", f"the bytes are all there, yet other values came back, of shapes {[x.shape for x in found]}"
    return "returned", ""


def run(batch: Batch, folder: Path, count: int) -> dict[str, Any]:
    bases = batch.bases(folder)
    undamaged = []
    for base in bases:
        path = folder / f"whole.{batch.suffix}"
        path.write_bytes(base)
        undamaged.append(arrays_of(batch.read(path)))
    used, _, _ = Path("/proc/self/statm").read_text().partition(" ")
    limit = int(used) * resource.getpagesize() + HEADROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome: dict[str, Any] = {"refused": 0, "returned": 0, "wrong": 0, "examples": []}
    for number in range(count):
        rng = random.Random(f"{batch.name} {number}")
        chosen = rng.randrange(len(bases))
        renamed = rng.random() < 0.02
        path = folder / (f"renamed.{rng.choice(SUFFIXES)}" if renamed else f"damaged.{batch.suffix}")
        data = bases[chosen] if renamed else damaged(rng, bases[chosen])
        path.write_bytes(data)
        verdict, why = judge(batch, path, undamaged[chosen] if data.startswith(bases[chosen]) else None)
        outcome[verdict] += 1
        if why and len(outcome["examples"]) < 5:
            outcome["examples"].append(f"number {number}: {why}")
    outcome["grown_mib"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    return outcome


def run_in_fork(batch: Batch, folder: Path, count: int) -> dict[str, Any]:
    """What ``run`` says, "ended" (0, or minus the signal that ended the process) and what was printed."""
    folder.mkdir()
    printed, said = folder / "printed", folder / "outcome.json"
    child = os.fork()
    if child == 0:
        with printed.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # its signal ends a process that does not expect it
        try:
            said.write_text(json.dumps(run(batch, folder, count)))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    outcome = json.loads(said.read_text()) if said.exists() else {}
    return outcome | {"batch": batch.name, "ended": ended, "printed": printed.read_text(errors="replace")[-500:]}


def main(folder: str, count: str) -> None:
    cv2.setNumThreads(0)  # a fork has only the thread that called it
    logging.getLogger("stereo").addHandler(logging.NullHandler())  # what our own log says is no mishap
    for number, batch in enumerate(BATCHES):
        print(json.dumps(run_in_fork(batch, Path(folder) / str(number), int(count))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
