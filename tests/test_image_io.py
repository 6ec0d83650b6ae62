"""stereo.image_io: what is written comes back, and whatever a user can break is one InputError that names the file."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from png_by_hand import png, png_chunk

from stereo import image_io
from stereo.image_io import (
    read_disparity,
    read_image,
    read_pfm,
    read_ply,
    write_disparity_png16,
    write_image,
    write_pfm,
    write_ply,
)
from stereo.types import InputError

SHARED = Path(__file__).resolve().parents[2] / "shared"
ODD_SIZES = [(1, 1), (1, 7), (5, 1), (3, 4), (31, 17)]
READERS = [(read_image, "png"), (read_pfm, "pfm"), (read_ply, "ply"), *((read_disparity, e) for e in ("pfm", "png", "npy"))]
# name of the file, what writes an example there
WRITERS = {
    "image": ("a.png", lambda path: write_image(path, random_rgb(3, 4))),
    "pfm": ("a.pfm", lambda path: write_pfm(path, np.ones((3, 4)))),
    "png16": ("a.png", lambda path: write_disparity_png16(path, np.ones((3, 4)))),
    "ply": ("a.ply", lambda path: write_ply(path, np.ones((2, 3)), np.ones((2, 3), np.uint8))),
}


def random_rgb(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, array)
    return file.getvalue()


def npy_header(shape: str) -> bytes:
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header


def refused(path: Path, *words: str, call=None, content: bytes | None = None) -> None:
    """``call(path)`` must raise InputError: one line that names ``path`` and holds the words."""
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        call(path)
    message = str(caught.value)
    assert "\n" not in message
    for word in (str(path), *words):
        assert word in message


def shared(*parts: str) -> Path:
    if not SHARED.is_dir():
        pytest.skip("../shared is absent")
    return SHARED.joinpath(*parts)


@pytest.mark.parametrize("extension", ["png", "PNG", "ppm", "bmp", "tif", "tiff"])
@pytest.mark.parametrize("size", ODD_SIZES)
def test_lossless_image_round_trip(tmp_path, extension, size):
    path = tmp_path / f"bild ä 立体.{extension}"
    rgb = random_rgb(*size)[::-1, ::-1]  # not contiguous
    write_image(path, rgb)
    np.testing.assert_array_equal(read_image(path), rgb, strict=True)


@pytest.mark.parametrize("extension", ["jpg", "webp"])
def test_lossy_image_round_trip(tmp_path, extension):
    path, rgb = tmp_path / f"a.{extension}", np.full((40, 50, 3), (200, 90, 30), np.uint8)
    write_image(path, rgb)
    assert np.abs(read_image(path).astype(int) - rgb).max() <= 6


def test_grey_image_is_written_as_one_channel_and_read_as_three(tmp_path):
    path, grey = tmp_path / "grey.png", random_rgb(6, 9)[..., 0]
    write_image(path, grey)
    assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED).ndim == 2
    np.testing.assert_array_equal(read_image(path), np.repeat(grey[..., None], 3, axis=2))


TRANSPARENT_PALETTE = png_chunk(b"PLTE", bytes([9, 8, 7, 60, 50, 40, 255, 0, 0])) + png_chunk(b"tRNS", b"\x00\x80")


@pytest.mark.parametrize(
    ("data", "expected"),
    {
        "transparent rgba": (png(1, 1, 8, 6, b"\0\x0a\x14\x1e\0"), [[10, 20, 30]]),
        "rgba, 16 bit": (png(1, 1, 16, 6, b"\0" + struct.pack(">4H", 0, 257 * 100, 65535, 3)), [[0, 100, 255]]),
        "grey and alpha": (png(2, 1, 8, 4, b"\0\x64\0\xc8\xff"), [[100] * 3, [200] * 3]),
        "grey": (png(3, 1, 8, 0, b"\0\0\x80\xff"), [[0] * 3, [128] * 3, [255] * 3]),
        "grey, 16 bit": (png(3, 1, 16, 0, b"\0" + struct.pack(">3H", 0, 32768, 65535)), [[0] * 3, [128] * 3, [255] * 3]),
        "one bit": (png(8, 1, 1, 0, b"\0\xc0"), [[255] * 3] * 2 + [[0] * 3] * 6),
        "palette": (png(3, 1, 8, 3, b"\0\0\1\2", TRANSPARENT_PALETTE), [[9, 8, 7], [60, 50, 40], [255, 0, 0]]),
        "pgm": (b"P5 2 1 255\n\x07\xf0", [[7] * 3, [240] * 3]),
        "ppm, 16 bit": (b"P6 1 1 65535\n" + struct.pack(">3H", 257, 514, 65535), [[1, 2, 255]]),
    }.values(),
)
def test_every_kind_of_pixel_becomes_8_bit_rgb(tmp_path, data, expected):
    path = tmp_path / "image"  # the content decides, not the extension
    path.write_bytes(data)
    np.testing.assert_array_equal(read_image(path), np.array([expected], np.uint8), strict=True)


@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "ppm", "tiff", "bmp"])
def test_truncated_image_is_refused_at_every_length(tmp_path, capfd, extension):
    path = tmp_path / f"a.{extension}"
    write_image(path, cv2.GaussianBlur(random_rgb(24, 32), (0, 0), 2))
    data = path.read_bytes()
    for length in sorted({*range(0, len(data), len(data) // 60 + 1), *range(len(data) - 14, len(data))}):
        refused(path, call=read_image, content=data[:length])
    assert capfd.readouterr() == ("", "")  # libpng and OpenCV kept quiet


def test_damaged_png_is_refused_without_a_word_from_libpng(tmp_path, capfd):
    log = getattr(cv2.utils, "logging", cv2)
    before = log.getLogLevel()
    WRITERS["image"][1](tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[len(data) // 2] ^= 0xFF
    refused(tmp_path / "a.png", "damaged", "IDAT", call=read_image, content=bytes(data))
    assert capfd.readouterr() == ("", "")
    assert log.getLogLevel() == before


@pytest.mark.parametrize(("width", "height"), [(2**31 - 1, 2**31 - 1), (2**14 + 1, 2**14), (0, 5)])
def test_png_that_declares_too_much_is_refused_before_decoding(tmp_path, monkeypatch, width, height):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    refused(tmp_path / "a", f"{width}x{height}", call=read_image, content=png(width, height, 8, 2, b"\0" * 100))


def test_jpeg_with_a_thumbnail_must_have_its_own_end(tmp_path):
    path = tmp_path / "a.jpg"
    write_image(path, random_rgb(24, 32))
    data = path.read_bytes()
    segment = b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data  # application data that holds a whole JPEG
    path.write_bytes(data[:2] + segment + data[2:] + b"appended \xff\xda video")
    assert read_image(path).shape == (24, 32, 3)
    refused(path, call=read_image, content=data[:2] + segment + data[2:-2])


@pytest.mark.parametrize(("read", "extension"), READERS)
def test_missing_empty_folder_and_garbage_are_refused(tmp_path, read, extension):
    refused(tmp_path / f"missing.{extension}", "No such file", call=read)
    refused(tmp_path / f"empty.{extension}", "0 bytes", call=read, content=b"")
    for garbage in (b"\0", b"\n", b"hello, I am no image\n" * 9, bytes(range(256)) * 8):
        refused(tmp_path / f"garbage.{extension}", call=read, content=garbage)
    (tmp_path / f"folder.{extension}").mkdir()
    refused(tmp_path / f"folder.{extension}", "Is a directory", call=read)


@pytest.mark.parametrize("size", [*ODD_SIZES, (6, 5, 3), (1, 1, 3)])
def test_pfm_round_trip_keeps_every_value(tmp_path, size):
    array = np.random.default_rng(1).normal(size=size).astype(np.float32) * 1000
    array.flat[0] = np.inf
    array.flat[-1] = np.nan if array.size > 1 else -np.inf
    write_pfm(tmp_path / "a.pfm", array)
    back = read_pfm(tmp_path / "a.pfm")
    assert back.flags.c_contiguous
    np.testing.assert_array_equal(back, array, strict=True)


@pytest.mark.parametrize(
    ("header", "order"),
    [
        (b"Pf\n3 2\n-1.0\n", "<f4"),
        (b"Pf\n3 2\n1.0\n", ">f4"),
        (b"Pf\n3 2\n-0.003922\n", "<f4"),  # Middlebury: the values are px already
        (b"Pf\n3 2\n255\n", ">f4"),
        (b"Pf\r\n3 2\r\n-1\r\n", "<f4"),
        (b"Pf\n# a comment\n3\n2 \n-1e0 \n", "<f4"),
    ],
)
def test_pfm_rows_are_bottom_up_and_the_scale_is_the_byte_order_only(tmp_path, header, order):
    top_down = np.array([[1, 2, 3], [4, 5, np.inf]], np.float32)
    (tmp_path / "a.pfm").write_bytes(header + top_down[::-1].astype(order).tobytes())
    np.testing.assert_array_equal(read_pfm(tmp_path / "a.pfm"), top_down, strict=True)


@pytest.mark.parametrize(
    "lines", ["1000000000 1000000000,-1", "99999999999 1,-1", "0 5,-1", "-3 5,-1", "3 5,0", "3 5,nan", "3 5,x"]
)
@pytest.mark.parametrize("magic", ["Pf", "PF", "P6", "pf"])
def test_pfm_with_a_senseless_header_is_refused_without_allocating(tmp_path, monkeypatch, magic, lines):
    monkeypatch.setattr(np, "fromfile", lambda *_: pytest.fail("allocated"))
    header = "\n".join([magic, *lines.split(","), ""])
    refused(tmp_path / "a.pfm", call=read_pfm, content=header.encode() + b"\0" * 60)


@pytest.mark.parametrize(("writer", "read"), [("pfm", read_pfm), ("ply", read_ply), ("png16", read_disparity)])
def test_file_of_another_length_is_refused(tmp_path, writer, read):
    name, write = WRITERS[writer]
    write(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    for length in range(len(data)):
        refused(tmp_path / name, call=read, content=data[:length])
    if writer != "png16":  # a PNG says where it ends
        refused(tmp_path / name, str(len(data)), str(len(data) + 1), call=read, content=data + b"\0")


@pytest.mark.parametrize("size", ODD_SIZES)
def test_png16_round_trip_is_within_half_a_step(tmp_path, size):
    rng = np.random.default_rng(2)
    disp, valid = rng.uniform(1 / 256, 255.99, size).astype(np.float32), rng.random(size) < 0.7
    valid.flat[0] = True
    write_disparity_png16(tmp_path / "a.png", disp, valid)
    back, known = read_disparity(tmp_path / "a.png")
    np.testing.assert_array_equal(known, valid, strict=True)
    np.testing.assert_allclose(back, np.where(valid, disp, np.float32(0)), rtol=0, atol=1 / 512, strict=True)


def test_png16_stores_small_zero_negative_large_and_unknown_values(tmp_path):
    write_disparity_png16(tmp_path / "a.png", np.array([[0.0, 1e-4, -3.0, 1.0, 300.0, np.inf, np.nan, 1e30]]))
    assert cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED).tolist() == [[1, 1, 1, 256, 65535, 0, 0, 65535]]


def test_png16_says_its_scale_and_other_programs_decode_it(tmp_path):
    write_disparity_png16(tmp_path / "a.png", np.full((3, 5), 12.5, np.float32))
    texts = png_chunk(b"tEXt", b"Scale\x00256") + png_chunk(b"tEXt", b"Unit\x00px")
    assert (tmp_path / "a.png").read_bytes()[33:].startswith(texts)
    stored = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(stored, np.full((3, 5), 3200, np.uint16), strict=True)


@pytest.mark.parametrize(
    ("text", "expected"), [(b"Scale\x00100", 2.0), (b"Scale\x0032.0", 6.25), (b"Author\x00nobody", 0.78125)]
)
def test_png16_scale_is_honoured(tmp_path, text, expected):
    (tmp_path / "a.png").write_bytes(png(1, 1, 16, 0, b"\0\0\xc8", png_chunk(b"tEXt", text)))
    disp, valid = read_disparity(tmp_path / "a.png")
    assert (disp.tolist(), valid.tolist()) == ([[expected]], [[True]])


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2"])
def test_npy_and_pfm_disparity_keep_zero_and_negative_and_mask_the_rest(tmp_path, dtype):
    mixed = np.array([[0.0, -2.5, np.inf], [np.nan, 7.25, -np.inf]])
    np.save(tmp_path / "a.npy", mixed.astype(dtype))
    write_pfm(tmp_path / "a.PFM", mixed)
    for name in ("a.npy", "a.PFM"):
        disp, valid = read_disparity(tmp_path / name)
        np.testing.assert_array_equal(disp, np.array([[0.0, -2.5, 0.0], [0.0, 7.25, 0.0]], np.float32), strict=True)
        assert valid.tolist() == [[True, True, False], [False, True, False]]
        assert disp.flags.writeable  # an array of its own, not a view of the file


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("order", "CF")
def test_npy_of_every_version_and_order(tmp_path, version, order):
    disp = np.array([[1, 2, 3], [4, 5, 6]], np.float32, order=order)
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array(file, disp, version)
    np.testing.assert_array_equal(read_disparity(tmp_path / "a.npy")[0], disp, strict=True)


def test_npy_of_python_2(tmp_path):
    (tmp_path / "a.npy").write_bytes(npy_header("(2L, 1L)") + struct.pack("<2d", 7, 8))
    assert read_disparity(tmp_path / "a.npy")[0].tolist() == [[7], [8]]


@pytest.mark.parametrize("scale", [b"1e-300", b"1e300"])
def test_png16_of_a_scale_beyond_float32(tmp_path, scale):
    (tmp_path / "a.png").write_bytes(png(1, 1, 16, 0, b"\0\0\xc8", png_chunk(b"tEXt", b"Scale\0" + scale)))
    if scale == b"1e300":
        assert read_disparity(tmp_path / "a.png")[0].tolist() == [[0.0]]
    else:
        refused(tmp_path / "a.png", "no known value", call=read_disparity)


def test_value_beyond_float32_is_unknown(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[1e300, 1.0]]))
    disp, valid = read_disparity(tmp_path / "a.npy")
    assert (disp.tolist(), valid.tolist()) == ([[0.0, 1.0]], [[False, True]])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.png", png(1, 1, 8, 0, b"\0\xc8"), ("8-bit grey", "scale is unknown", "16-bit")),
        ("a.png", png(1, 1, 16, 2, b"\0" + b"\1" * 6), ("16-bit colour",)),
        ("a.png", png(1, 1, 16, 0, b"\0\0\0"), ("no known value",)),
        (
            "a.png",
            png(1, 1, 16, 0, b"\0\0\1", png_chunk(b"tEXt", b"Scale\x00256").replace(b"256", b"255")),
            ("damaged", "tEXt"),
        ),
        ("a.png", b"\xff\xd8\xff\xe0 a JPEG", ("no PNG",)),
        *(
            ("a.png", png(1, 1, 16, 0, b"\0\0\1", png_chunk(b"tEXt", b"Scale\0" + scale)), ("Scale", "above 0"))
            for scale in (b"", b"much", b"0", b"-256", b"inf", b"nan")
        ),
        ("a.pfm", b"Pf\n1 1\n-1\n" + struct.pack("<f", np.nan), ("no known value",)),
        ("a.pfm", b"PF\n1 1\n-1\n" + b"\0" * 12, ("(1, 1, 3)",)),
        *(("a.npy", npy(np.ones(shape)), (str(shape),)) for shape in ((6,), (2, 3, 1))),
        *(("a.npy", npy(np.ones((2, 3), dtype)), (dtype,)) for dtype in ("int64", "complex128", "bool")),
        ("a.npy", npy(np.ones((0, 3))), ("no known value",)),
        ("a.npy", npy(np.array([[None]])), ("numpy.save",)),
        *(("a.npy", npy(np.ones((5, 7)))[:length], ("numpy.save",)) for length in (1, 9, 60, 127, 128, 300, 407)),
        ("a.npy", npy(np.ones((5, 7))) + b"\0", ("numpy.save",)),
        ("a.npy", npz(np.ones((5, 7))), ("numpy.save",)),
        ("a.npy", npz(np.ones((5, 7)))[:-30], ("numpy.save",)),
        *(
            ("a.npy", npy(np.ones((5, 7))).replace(b"(5, 7), ", shape), ("numpy.save",))
            for shape in (b"(9999999, 9999999), ", b"(10**40, 7), ", b"(-1, 7), ", b"((5, 7), ", b"(5, \0")
        ),
        ("a.npy", npy_header("-" * 9000 + "1"), ("numpy.save",)),  # numpy's parser: MemoryError
        ("a.npy", npy_header("(" + "1" * 900), ("numpy.save",)),
        ("a.npy", npy(np.ones((5, 7))).replace(b"<f8", b"<f3"), ("numpy.save",)),
        ("a.disp", b"Pf\n1 1\n-1\n\0\0\0\0", ("'disp'", "npy, pfm, png")),
    ],
)
def test_file_that_is_no_disparity_is_refused(tmp_path, name, content, words):
    refused(tmp_path / name, *words, call=read_disparity, content=content)


def test_kind_overrides_the_extension_and_a_pfm_is_no_image(tmp_path):
    write_pfm(tmp_path / "a.disp", np.ones((2, 3)))
    assert read_disparity(tmp_path / "a.disp", "pfm")[1].all()
    refused(tmp_path / "a.disp", "cannot decode", call=read_image)
    cv2.imwrite(str(tmp_path / "a.tiff"), np.ones((2, 3, 3), np.float32))
    refused(tmp_path / "a.tiff", "float32", call=read_image)


@pytest.mark.parametrize("count", [0, 1, 257])
def test_ply_round_trip(tmp_path, count):
    rng = np.random.default_rng(3)
    points, colours = rng.normal(size=(count, 3)).astype(np.float32), rng.integers(0, 256, (count, 3), dtype=np.uint8)
    write_ply(tmp_path / "a.ply", points, colours)
    back_points, back_colours = read_ply(tmp_path / "a.ply")
    np.testing.assert_array_equal(back_points, points, strict=True)
    np.testing.assert_array_equal(back_colours, colours, strict=True)


@pytest.mark.parametrize(("old", "new"), [(b"vertex 2", b"vertex 999999999999"), (b"uchar", b"float"), (b"little", b"big")])
def test_ply_of_another_layout_is_refused(tmp_path, old, new):
    WRITERS["ply"][1](tmp_path / "a.ply")
    refused(tmp_path / "a.ply", call=read_ply, content=(tmp_path / "a.ply").read_bytes().replace(old, new))


BYTES = np.ones((3, 3), np.uint8)


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        ("a.pngg", lambda path: write_image(path, random_rgb(2, 2)), ("did you mean .png",)),
        ("a.png", lambda path: write_image(path, np.zeros((4, 5, 4), np.uint8)), ("(4, 5, 4)", "(H, W, 3)")),
        ("a.png", lambda path: write_image(path, np.zeros((4, 5, 3), np.float32)), ("float32", "uint8")),
        ("a.png", lambda path: write_image(path, np.zeros((0, 5, 3), np.uint8)), ("(0, 5, 3)",)),
        ("a.webp", lambda path: write_image(path, np.zeros((1, 20000, 3), np.uint8)), ("(1, 20000, 3)", "use .png")),
        ("a.pfm", lambda path: write_pfm(path, np.zeros(4)), ("(4,)",)),
        ("a.pfm", lambda path: write_pfm(path, np.zeros((4, 5, 2))), ("(4, 5, 2)",)),
        ("a.pfm", lambda path: write_pfm(path, np.zeros((0, 5))), ("(0, 5)",)),
        ("a.png", lambda path: write_disparity_png16(path, np.ones((2, 3)), np.ones((3, 2), bool)), ("(2, 3)", "(3, 2)")),
        ("a.png", lambda path: write_disparity_png16(path, np.ones(3)), ("(3,)",)),
        ("a.jpg", lambda path: write_disparity_png16(path, np.ones((2, 3))), (".png",)),
        ("a.ply", lambda path: write_ply(path, np.ones((2, 3)), BYTES), ("(2, 3)", "(3, 3)")),
        ("a.ply", lambda path: write_ply(path, np.ones((3, 2)), BYTES[:, :2]), ("(3, 2)",)),
        ("a.ply", lambda path: write_ply(path, np.ones((3, 3)), np.ones((3, 3))), ("float64",)),
    ],
)
def test_writers_refuse_other_arguments(tmp_path, name, write, words):
    refused(tmp_path / name, *words, call=write)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, OSError(28, "No space left on device")])
@pytest.mark.parametrize("old", [None, b"old"])
def test_interrupted_write_leaves_the_folder_as_it_was(tmp_path, error, old):
    path = tmp_path / "a.disp.png"
    if old is not None:
        path.write_bytes(old)

    def write(path: Path) -> None:
        with image_io.atomic_write(path) as temporary:
            assert (temporary.parent, temporary.suffix) == (tmp_path, ".png")
            temporary.write_bytes(b"half of it")
            raise error

    if isinstance(error, OSError):
        refused(path, "No space left", call=write)
    else:
        with pytest.raises(error):
            write(path)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([] if old is None else [old])


@pytest.mark.parametrize("writer", WRITERS)
def test_every_writer_replaces_leaves_one_file_and_ordinary_rights(tmp_path, writer):
    name, write = WRITERS[writer]
    (tmp_path / "ordinary").touch()
    (tmp_path / name).write_bytes(b"old")
    write(tmp_path / name)
    assert (tmp_path / name).read_bytes() != b"old"
    assert {p.name for p in tmp_path.iterdir()} == {name, "ordinary"}
    assert (tmp_path / name).stat().st_mode == (tmp_path / "ordinary").stat().st_mode


@pytest.mark.parametrize("writer", WRITERS)
def test_every_writer_refuses_a_place_that_cannot_be_written(tmp_path, writer):
    name, write = WRITERS[writer]
    (tmp_path / "file").touch()
    (tmp_path / "folder" / name).mkdir(parents=True)
    refused(tmp_path / "missing" / name, "No such file or directory", call=write)
    refused(tmp_path / "file" / name, "Not a directory", call=write)
    refused(tmp_path / "folder" / name, "not a regular file", call=write)
    refused(tmp_path / ("x" * 300 + name), "File name too long", call=write)
    assert {p.name for p in tmp_path.iterdir()} == {"file", "folder"}


def test_genuine_middlebury_pfm_has_its_values_in_px():
    genuine = shared("layouts", "middlebury", "MiddEval3", "trainingQ", "Motorcycle", "disp0GT.pfm")
    assert b"\n-0.00392" in genuine.read_bytes()[:40]
    expected = read_pfm(shared("data", "middlebury2014", "Motorcycle_Q", "disp_left.pfm"))
    np.testing.assert_array_equal(read_pfm(genuine), expected, strict=True)
    assert read_disparity(genuine)[0].max() == pytest.approx(62.877, abs=1e-3)


def test_genuine_kitti_png_equals_the_pfm_made_from_it():
    disp, valid = read_disparity(shared("layouts", "kitti2015", "training", "disp_occ_0", "000046_10.png"))
    expected, expected_valid = read_disparity(shared("data", "kitti2015", "000046_10", "disp_left.pfm"))
    np.testing.assert_array_equal(valid, expected_valid)
    np.testing.assert_array_equal(disp[valid], expected[valid])


def test_genuine_rgba_png_loses_only_its_alpha():
    path = shared("layouts", "sceneflow", "sttr_sample_layout", "RGB_cleanpass", "left", "A-0032-0006.png")
    unchanged = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert unchanged.shape == (540, 960, 4)
    np.testing.assert_array_equal(read_image(path), unchanged[..., 2::-1])
