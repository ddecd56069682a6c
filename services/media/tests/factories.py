"""What the tests of media build, and the types of their fixtures."""

import io
import os
import struct
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import httpx
from PIL import Image as Picture

from testkit.plugin import TokenFactory

TemporaryFiles: TypeAlias = Callable[[], list[Path]]
NothingIsLeft: TypeAlias = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Upload:
    """Upload like an organizer."""

    client: httpx.AsyncClient
    tokens: TokenFactory

    async def __call__(
        self, content: bytes, name: str = "banner.png", org: str = "acme", key: str | None = None, **fields: str
    ) -> httpx.Response:
        headers = self.tokens.organizer(org) | ({"Idempotency-Key": key} if key else {})
        return await self.client.post("/v1/images", files={"file": (name, content)}, data=fields, headers=headers)


def png(width: int = 1600, height: int = 900, *, mode: str = "RGBA") -> bytes:
    """Transparent on the left, blue on the right."""
    picture = Picture.new(mode, (width, height), (200, 0, 0, 0) if mode == "RGBA" else (255, 255, 255))
    blue = (0, 0, 200, 255) if mode == "RGBA" else (0, 0, 200)
    picture.paste(blue, (width // 2, 0, width, height))
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


def noise(size: int) -> bytes:
    """A PNG of noise, about ``size * size * 3`` bytes."""
    content = io.BytesIO()
    Picture.frombytes("RGB", (size, size), os.urandom(size * size * 3)).save(content, "PNG")
    return content.getvalue()


def png_of(*chunks: tuple[bytes, bytes]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(name, data) for name, data in chunks)


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_claiming(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG whose header names a size that its compressed ``data`` need not have."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return png_of((b"IHDR", header), (b"IDAT", zlib.compress(data, 9)), (b"IEND", b""))
