import io
import struct
import time
from pathlib import Path

import pytest
from PIL import Image

from media.images.headers import (
    ImageFormatRefused,
    ImageHeader,
    ImageTooManyPixels,
    ImageUnreadable,
    read_header,
)
from services.media.tests.factories import png_chunk, png_claiming
from shared.problems import Problem

MEBIBYTE = 1 << 20


def jpeg_claiming(width: int, height: int) -> bytes:
    return b"\xff\xd8\xff\xc0\0\x11\x08" + struct.pack(">HH", height, width) + b"\x03" + bytes(9)


def refusal(tmp_path: Path, content: bytes) -> Problem:
    path = tmp_path / "upload"
    path.write_bytes(content)
    with pytest.raises(Problem) as refused:
        read_header(path)
    assert [error.field for error in refused.value.errors] == ["file"]
    return refused.value


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "WEBP", "GIF"])
@pytest.mark.parametrize("size", [(1, 1), (301, 17), (16, 2000)])
def test_format_and_size_are_read_from_the_header(tmp_path: Path, fmt: str, size: tuple[int, int]) -> None:
    path = tmp_path / "wrong.extension"
    Image.new("RGB", size).save(path, fmt)

    header = read_header(path)
    assert (header.format, header.width, header.height) == (fmt, *size)


@pytest.mark.parametrize("save", [{"lossless": True}, {"lossless": False}, {"exif": b"Exif\0\0"}])
def test_every_kind_of_webp_header_is_read(tmp_path: Path, save: dict[str, object]) -> None:
    path = tmp_path / "upload"
    Image.new("RGBA", (301, 17), (1, 2, 3, 4)).save(path, "WEBP", **save)

    assert read_header(path) == ImageHeader("WEBP", 301, 17)


@pytest.mark.parametrize("save", [{"progressive": True}, {"exif": bytes(60_000)}, {"comment": b"\xff" * 5000}])
def test_a_jpeg_size_is_found_behind_other_segments(tmp_path: Path, save: dict[str, object]) -> None:
    path = tmp_path / "upload"
    Image.new("RGB", (301, 17)).save(path, "JPEG", **save)

    assert read_header(path) == ImageHeader("JPEG", 301, 17)


def test_200_megapixels_in_30_kilobytes_are_refused_by_their_header(tmp_path: Path) -> None:
    bomb = png_claiming(20_000, 10_000, data=bytes(30 * MEBIBYTE))
    assert len(bomb) < 40_000

    problem = refusal(tmp_path, bomb)

    assert isinstance(problem, ImageTooManyPixels)
    assert (problem.status, problem.code) == (422, "image-too-large")
    assert "20000 × 10000" in problem.detail
    assert "40 megapixels" in problem.detail


def test_limits_are_40_megapixels_and_12_000_pixels_a_side(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    for width, height in ((8000, 5000), (12_000, 3333), (1, 12_000)):
        for content in (png_claiming(width, height), jpeg_claiming(width, height)):
            path.write_bytes(content)
            assert (read_header(path).width, read_header(path).height) == (width, height)
    for width, height in ((8000, 5001), (12_001, 1), (1, 12_001), (65_500, 65_500)):
        for content in (png_claiming(width, height), jpeg_claiming(width, height)):
            assert isinstance(refusal(tmp_path, content), ImageTooManyPixels)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("SVG", b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'),
        ("SVG", b'\xef\xbb\xbf  <?xml version="1.0"?>\n<!-- drawn -->\n<svg width="1"/>'),
        ("SVG", b'<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>'),
        ("TIFF", b"II*\0" + bytes(50)),
        ("TIFF", b"MM\0*" + bytes(50)),
        ("HEIC", b"\0\0\0\x18ftypheic" + bytes(50)),
        ("AVIF", b"\0\0\0\x18ftypavif" + bytes(50)),
        ("PSD", b"8BPS\0\x01" + bytes(50)),
        ("PDF", b"%PDF-1.7\n"),
        ("EPS", b"%!PS-Adobe-3.0 EPSF-3.0\n"),
        ("BMP", b"BM\x10\0\0\0\0\0\0\0" + bytes(50)),
        ("ICO", b"\0\0\x01\0\x01\0" + bytes(50)),
    ],
)
def test_other_formats_are_refused_by_name(tmp_path: Path, name: str, content: bytes) -> None:
    problem = refusal(tmp_path, content)

    assert isinstance(problem, ImageFormatRefused)
    assert problem.status == 415
    assert f"is {name}," in problem.detail
    assert "PNG, JPEG, WebP or GIF" in problem.detail


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"Not Found\r\n\r\n\r\n",
        b"<!DOCTYPE html><html><body>404</body></html>",
        b"PK\x03\x04" + bytes(100),
        b"MZ\0\0\x01\0",
        bytes(100),
        b"\x89PNG\r\n\x1a\n",
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"tEXt", b"a\0b"),
        png_claiming(0, 10),
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8\xff\xe0\0\0",
        jpeg_claiming(10, 0),
        b"\xff\xd8\xff\xda" + bytes(100),
        b"RIFF\0\0\0\0WEBP",
        b"RIFF\0\0\0\0WEBPVP8X" + bytes(4),
        b"RIFF\0\0\0\0WEBPALPH" + bytes(100),
        b"GIF89a\x01",
        b"GIF89a" + bytes(10),
    ],
)
def test_what_is_not_an_image_is_refused_with_the_supported_formats(tmp_path: Path, content: bytes) -> None:
    problem = refusal(tmp_path, content)

    assert isinstance(problem, ImageUnreadable)
    assert (problem.status, problem.code) == (422, "not-an-image")
    assert "PNG, JPEG, WebP or GIF" in problem.detail


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xd8" + b"\xff" * (10 * MEBIBYTE),
        b"\xff\xd8\xff\xe0\0\x02" + bytes(10 * MEBIBYTE),
        b"\xff\xd8" + b"\xff\xfe\0\x02" * (10 * MEBIBYTE // 4),
        b"\xff\xd8\xff\x01" + b"\xff\x01" * (5 * MEBIBYTE),
    ],
    ids=["fill bytes", "junk", "empty comments", "bare markers"],
)
def test_a_long_jpeg_header_without_a_size_is_refused_early(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "upload"
    path.write_bytes(content)
    started = time.process_time()

    with pytest.raises(ImageUnreadable):
        read_header(path)

    assert time.process_time() - started < 0.5  # a decoder that reads all of it takes many seconds


def test_truncated_and_damaged_headers_raise_nothing_but_problems(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    for fmt in ("PNG", "JPEG", "WEBP", "GIF"):
        content = io.BytesIO()
        Image.new("RGB", (9, 9)).save(content, fmt)
        start = content.getvalue()[:300]
        for position in range(len(start)):
            flipped = bytearray(start)
            flipped[position] ^= 0xFF
            for damaged in (start[:position], bytes(flipped)):
                path.write_bytes(damaged)
                try:
                    found = read_header(path)
                except Problem:
                    continue
                assert found.width * found.height <= 40_000_000
