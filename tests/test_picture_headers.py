"""What a picture declares is known, and refused where it is absurd, before a decoder allocates for it; decoders keep quiet."""

from __future__ import annotations

import logging
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from png_by_hand import png, png_chunk

from stereo.image_io import read_disparity, read_image, read_stored
from stereo.picture_headers import MAX_PIXELS, check_picture
from stereo.types import InputError

ROOT = Path(__file__).resolve().parents[1]
HUGE = 60000


def encoded(suffix: str, height: int, width: int, *options: int, channels: int = 3) -> bytes:
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (height, width, channels)).astype(np.uint8), (0, 0), 2)
    done, data = cv2.imencode(f".{suffix}", image, list(options))
    assert done
    return data.tobytes()


def tiff(width: int, height: int, order: str, wide: bool, kind: str = "H") -> bytes:
    """One channel of zeros without compression, the directory behind the pixels."""
    code = {"H": 3, "I": 4, "Q": 16}
    pixels = bytes(min(width * height, 4096))
    start = 16 if wide else 8
    entries = [(256, kind, width), (257, kind, height), (258, "H", 8), (259, "H", 1), (262, "H", 1)]
    entries += [(273, "I", start), (277, "H", 1), (278, kind, height), (279, "I", len(pixels))]
    where = start + len(pixels)
    mark = b"II" if order == "<" else b"MM"
    if wide:
        head = mark + struct.pack(f"{order}HHHQ", 43, 8, 0, where)
        rows = [struct.pack(f"{order}HHQ{k}", tag, code[k], 1, value).ljust(20, b"\0") for tag, k, value in entries]
        return head + pixels + struct.pack(f"{order}Q", len(rows)) + b"".join(rows) + bytes(8)
    head = mark + struct.pack(f"{order}HI", 42, where)
    rows = [struct.pack(f"{order}HHI{k}", tag, code[k], 1, value).ljust(12, b"\0") for tag, k, value in entries]
    return head + pixels + struct.pack(f"{order}H", len(rows)) + b"".join(rows) + bytes(4)


def webp_extended(width: int, height: int) -> bytes:
    body = b"WEBPVP8X" + struct.pack("<II", 10, 0) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", len(body)) + body


def bmp(width: int, height: int, old: bool = False) -> bytes:
    """24 bits per pixel, of zeros; ``height`` below 0: the top row comes first."""
    pixels = bytes(min(abs(width * height) * 4, 4096))
    header = struct.pack("<IHHHH", 12, width, height, 1, 24) if old else struct.pack("<IiiHH24x", 40, width, height, 1, 24)
    return b"BM" + struct.pack("<IHHI", 14 + len(header) + len(pixels), 0, 0, 14 + len(header)) + header + pixels


def jpeg(width: int, height: int) -> bytes:
    """A small JPEG that declares another size."""
    data = encoded("jpg", 24, 32)
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def grey(width: int, height: int, rows: bytes, extra: bytes = b"") -> bytes:
    return png(width, height, 8, 0, rows, extra)


def read_error(path: Path, data: bytes, read=read_image) -> str:
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


QUALITY = cv2.IMWRITE_WEBP_QUALITY
OPTIONS = [("png",), ("jpg",), ("jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1), ("webp", QUALITY, 80), ("webp", QUALITY, 101)]
OPTIONS += [("ppm", cv2.IMWRITE_PXM_BINARY, 0), ("ppm",), ("tiff",), ("bmp",)]


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (257, 2), (300, 301)])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_declared_size_is_that_of_what_is_written(tmp_path, options, size):
    suffix, *rest = options
    data = encoded(suffix, *size, *rest)
    assert check_picture(data, tmp_path) == size[::-1]


@pytest.mark.parametrize(
    ("data", "size"),
    [
        *((tiff(7, 5, order, wide, kind), (7, 5)) for order in "<>" for wide in (False, True) for kind in "HI"),
        (tiff(7, 5, "<", True, "Q"), (7, 5)),
        (encoded("webp", 5, 7, QUALITY, 80, channels=4), (7, 5)),
        (bmp(7, 5), (7, 5)),
        (bmp(7, -5), (7, 5)),
        (bmp(7, 5, old=True), (7, 5)),
        (b"P5\n#a\n # 9 9\n7\n#b\n5 255 " + bytes(35), (7, 5)),
        (b"P1 7 5\n" + b"0 1 0 1 0 1 1\n" * 5, (7, 5)),
    ],
)
def test_the_decoder_agrees_with_the_declared_size(tmp_path, data, size):
    assert check_picture(data, tmp_path) == size
    (tmp_path / "a").write_bytes(data)
    assert read_image(tmp_path / "a").shape == (*size[::-1], 3)
    assert read_stored(tmp_path / "a").shape[:2] == size[::-1]


@pytest.mark.parametrize(
    "data",
    [
        grey(HUGE, HUGE, b""),
        webp_extended(HUGE, HUGE),
        b"P6 60000 60000 255\n" + bytes(3000),
        b"P4\n60000\n60000\n" + bytes(3000),
        *(tiff(HUGE, HUGE, order, wide, "I") for order in "<>" for wide in (False, True)),
        bmp(HUGE, HUGE),
        bmp(HUGE, -HUGE),
        bmp(HUGE, HUGE, old=True),
        jpeg(HUGE, HUGE),
        bmp(0, 5),
        b"P5 5 0 255\n",
        tiff(MAX_PIXELS + 1, 1, "<", False, "I"),
        tiff(2**63, 2**63, ">", True, "Q"),
    ],
)
@pytest.mark.parametrize("read", [read_image, read_stored])
def test_absurd_size_is_refused_before_decoding(tmp_path, monkeypatch, data, read):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    assert "declares" in read_error(tmp_path / "a", data, read)


@pytest.mark.parametrize("size", [(7, 5), (30, 20)])
def test_header_that_ends_or_points_behind_the_end_is_refused(tmp_path, monkeypatch, size):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    for data in (tiff(*size, "<", False), tiff(*size, ">", True), bmp(*size), webp_extended(*size), grey(*size, b"")):
        for length in range(1, 18):
            read_error(tmp_path / "a", data[:length])
    for offset in (b"\xff" * 8, b"\x7f" + b"\xff" * 7):  # beyond what an index can be, and nearly
        read_error(tmp_path / "a", b"MM\0+\0\x08\0\0" + offset + bytes(100))


def test_a_jpeg_cannot_hold_many_pixels_in_few_bytes(tmp_path, monkeypatch):
    """16000 x 16000 is allowed, but not in a kilobyte; one grey tone in as few bits as there can be is."""
    path = tmp_path / "a.jpg"
    done, data = cv2.imencode(".jpg", np.full((4000, 4000), 128, np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    assert done
    path.write_bytes(data.tobytes())
    assert read_image(path).shape == (4000, 4000, 3)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    assert "16000x16000" in read_error(path, jpeg(16000, 16000))


OTHERS = [b"GIF89a", b"#?RADIANCE\n", b"\0\0\0\x0cjP  ", b"v/1\x01", b"Pf\n2 2\n-1\n", b"P7\nWIDTH 2\n"]


@pytest.mark.parametrize("magic", OTHERS)
def test_only_the_formats_that_are_named_reach_a_decoder(tmp_path, monkeypatch, magic):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    for read in (read_image, read_stored):
        assert "PNG, JPEG, WebP, PPM, TIFF and BMP are read" in read_error(tmp_path / "a", magic + bytes(64), read)


def test_what_a_decoder_returns_must_have_the_declared_size(tmp_path, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: np.zeros((5, 8, 3), np.uint8))
    assert "damaged" in read_error(tmp_path / "a", bmp(7, 5))


@pytest.mark.parametrize(
    "data",
    [grey(8, 8, bytes(30)), grey(8, 8, b"\x09" * 72), grey(8, 8, bytes(72), png_chunk(b"ABCD", b""))],
    ids=["too few rows", "no such filter", "critical chunk"],
)
@pytest.mark.parametrize("read", [read_image, read_stored, read_disparity])
def test_libpng_does_not_talk_about_damage_behind_right_checksums(tmp_path, capfd, data, read):
    read_error(tmp_path / "a.png", data, read)
    assert capfd.readouterr() == ("", "")


def test_libpng_does_not_talk_about_trifles(tmp_path, capfd, caplog):
    (tmp_path / "a.png").write_bytes(grey(8, 8, bytes(72), png_chunk(b"gAMA", b"\0")))
    assert read_image(tmp_path / "a.png").shape == (8, 8, 3)
    assert capfd.readouterr() == ("", "")
    assert caplog.messages == []


def test_damage_inside_a_jpeg_is_one_warning_and_not_libjpegs(tmp_path, capfd, caplog):
    data = bytearray(encoded("jpg", 64, 64))
    at = data.index(b"\xff\xda") + 40
    del data[at : at + 200]
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING, "stereo.image_io"):
        assert read_image(path).shape == (64, 64, 3)
    assert capfd.readouterr() == ("", "")
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"'{path}' may be damaged, its decoder says: Corrupt JPEG data")


def test_decoding_needs_no_folder_for_temporary_files(tmp_path, monkeypatch, capfd):
    def nowhere() -> None:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "TemporaryFile", nowhere)
    (tmp_path / "a.bmp").write_bytes(bmp(7, 5))
    assert read_image(tmp_path / "a.bmp").shape == (5, 7, 3)
    read_error(tmp_path / "a.png", grey(8, 8, bytes(30)))
    assert capfd.readouterr() == ("", "")


def test_stderr_works_after_decoding_and_need_not_exist(tmp_path):
    (tmp_path / "a.png").write_bytes(grey(8, 8, bytes(30)))
    (tmp_path / "b.bmp").write_bytes(bmp(7, 5))
    script = f"""
import sys
from stereo.image_io import read_image
from stereo.types import InputError
assert read_image({str(tmp_path / 'b.bmp')!r}).shape == (5, 7, 3)
try:
    read_image({str(tmp_path / 'a.png')!r})
except InputError:
    print("still here", file=sys.stderr)
"""
    for closed, expected in (("", "still here\n"), ("2>&-", "")):
        command = f'"{sys.executable}" - {closed}'
        done = subprocess.run(command, shell=True, cwd=ROOT, input=script, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, expected)


@pytest.mark.parametrize("channels", [2, 5])
def test_stored_numbers_of_any_channels_come_back_as_one_or_three(tmp_path, monkeypatch, channels):
    """A TIFF may have grey and alpha, or more than colours."""
    image = np.arange(5 * 7 * channels, dtype=np.uint8).reshape(5, 7, channels)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: image)
    (tmp_path / "a").write_bytes(bmp(7, 5))
    expected = image[..., 0] if channels == 2 else image[..., 2::-1]
    np.testing.assert_array_equal(read_stored(tmp_path / "a"), expected, strict=True)
