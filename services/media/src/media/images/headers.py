"""Read an upload's format and size in pixels from its first bytes, without Pillow.

Runs in the api process, where nothing can be stopped: Pillow's ``Image.open`` may take seconds of processor time
for a crafted header, while every format here takes a fixed number of small reads. Decoding children import this
module too: standard library and ``shared.problems`` only.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from shared.problems import Problem

ImageFormat = Literal["PNG", "JPEG", "WEBP", "GIF"]

MAX_PIXELS = 40_000_000
MAX_SIDE = 12_000

WAY_OUT = "Upload a PNG, JPEG, WebP or GIF file."

_OTHER_FORMATS: tuple[tuple[str, bytes], ...] = (
    ("SVG", rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml.*|<!--.*|<!DOCTYPE.*)?<svg[\s>]"),
    ("TIFF", rb"II[*+]\x00|MM\x00[*+]"),
    ("AVIF", rb"....ftyp(?:avif|avis)"),
    ("HEIC", rb"....ftyp(?:hei[cmsx]|hev[cmsx]|mif1|msf1)"),
    ("PSD", rb"8BPS"),
    ("PDF", rb"\s*%PDF-"),
    ("EPS", rb"\s*%!PS|\xc5\xd0\xd3\xc6"),
    ("BMP", rb"BM....\x00\x00\x00\x00"),
    ("ICO", rb"\x00\x00\x01\x00"),
    ("JPEG 2000", rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51"),
    ("JPEG XL", rb"\xff\x0a|\x00\x00\x00\x0cJXL "),
)

# Far more than a large photo with color profile, thumbnails and extended XMP has.
_MAX_JPEG_SEGMENTS = 1000
_MAX_JPEG_FILL = 4096
_JPEG_SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD8)})
_JPEG_START_OF_SCAN, _JPEG_END = 0xDA, 0xD9


class _ImageRefused(Problem):
    def __init__(self, detail: str) -> None:
        super().__init__(detail, field="file")


class ImageUnreadable(_ImageRefused):
    status = 422
    code = "not-an-image"
    title = "Unreadable image"


class ImageTooManyPixels(_ImageRefused):
    status = 422
    code = "image-too-large"
    title = "Too many pixels"


class ImageFormatRefused(_ImageRefused):
    status = 415
    code = "image-format-refused"
    title = "Unsupported image format"


class ImageTooCostly(_ImageRefused):
    """Decoding took too much time or memory, or ended the decoder's process."""

    status = 422
    code = "image-too-costly"
    title = "Image too costly to decode"


@dataclass(frozen=True)
class ImageHeader:
    """Width and height in pixels as stored, before the EXIF orientation is applied."""

    format: ImageFormat
    width: int
    height: int


def read_header(path: Path) -> ImageHeader:
    """Read some kilobytes of the file; call it in a thread.

    Raises ``ImageUnreadable``, ``ImageFormatRefused`` or ``ImageTooManyPixels``. Only decoding finds damage further
    on.
    """
    with path.open("rb") as file:
        start = file.read(1024)
        found, size = _format_and_size(file, start)
    if size is None or 0 in size:
        raise ImageUnreadable(f"The file starts like a {found} but its header is damaged. {WAY_OUT}")
    refuse_too_many_pixels(*size)
    return ImageHeader(found, *size)


def refuse_too_many_pixels(width: int, height: int) -> None:
    if width > MAX_SIDE or height > MAX_SIDE or width * height > MAX_PIXELS:
        raise ImageTooManyPixels(
            f"The image has {width} × {height} pixels. Images are limited to {MAX_PIXELS // 1_000_000} megapixels "
            f"and {MAX_SIDE} pixels a side: scale it down and upload it again."
        )


def _format_and_size(file: IO[bytes], start: bytes) -> tuple[ImageFormat, tuple[int, int] | None]:
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG", _png_size(start)
    if start.startswith(b"\xff\xd8\xff"):
        return "JPEG", _jpeg_size(file)
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return "WEBP", _webp_size(start)
    if start.startswith((b"GIF87a", b"GIF89a")):
        return "GIF", _little(start, 6, 8, 10)
    if not start:
        raise ImageUnreadable(f"The file is empty. {WAY_OUT}")
    for name, pattern in _OTHER_FORMATS:
        if re.match(pattern, start, re.DOTALL | re.IGNORECASE):
            raise ImageFormatRefused(f"The file is {name}, which is not supported. {WAY_OUT}")
    raise ImageUnreadable(f"The file is not an image. {WAY_OUT}")


def _little(start: bytes, width_at: int, height_at: int, end: int) -> tuple[int, int] | None:
    if len(start) < end:
        return None
    return int.from_bytes(start[width_at:height_at], "little"), int.from_bytes(start[height_at:end], "little")


def _png_size(start: bytes) -> tuple[int, int] | None:
    if len(start) < 24 or start[8:16] != b"\0\0\0\rIHDR":
        return None
    return int.from_bytes(start[16:20], "big"), int.from_bytes(start[20:24], "big")


def _webp_size(start: bytes) -> tuple[int, int] | None:
    chunk = start[12:16]
    if chunk == b"VP8X":
        size = _little(start, 24, 27, 30)
        return None if size is None else (size[0] + 1, size[1] + 1)
    if chunk == b"VP8L" and start[20:21] == b"\x2f" and len(start) >= 25:
        bits = int.from_bytes(start[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 " and start[23:26] == b"\x9d\x01\x2a":
        size = _little(start, 26, 28, 30)
        return None if size is None else (size[0] & 0x3FFF, size[1] & 0x3FFF)
    return None


def _jpeg_size(file: IO[bytes]) -> tuple[int, int] | None:
    file.seek(2)
    fill = 0
    for _ in range(_MAX_JPEG_SEGMENTS):
        marker = 0
        in_marker = False
        while marker in (0, 0xFF):  # bytes between segments, which decoders skip too
            byte = file.read(1)
            fill += 1
            if not byte or fill > _MAX_JPEG_FILL:
                return None
            marker = byte[0] if in_marker else 0
            in_marker = byte == b"\xff"
        if marker in _JPEG_BARE_MARKERS:
            continue
        if marker in (_JPEG_START_OF_SCAN, _JPEG_END):
            return None
        length = int.from_bytes(file.read(2), "big")
        if length < 2:
            return None
        if marker in _JPEG_SIZE_MARKERS:
            frame = file.read(5)
            if len(frame) < 5:
                return None
            return int.from_bytes(frame[3:5], "big"), int.from_bytes(frame[1:3], "big")
        file.seek(length - 2, 1)
    return None
