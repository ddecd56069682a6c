"""Requests that cost the sender little, so that the server is what is measured."""

import asyncio
import json
import time
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit


async def seconds_to_post(
    url: str, bodies: Iterable[dict[str, Any]], headers: Mapping[str, str], *, connections: int
) -> float:
    """Send all over ``connections``, each after the response of the one before; return the seconds."""
    requests = iter([_request(url, body, headers) for body in bodies])
    address = urlsplit(url)
    opened = [await asyncio.open_connection(address.hostname, address.port) for _ in range(connections)]
    began = time.perf_counter()

    async def post_one_after_another(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for request in requests:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            body = await reader.readexactly(length)
            if not head.startswith(b"HTTP/1.1 201 "):
                raise SystemExit(f"unexpected answer: {head!r} {body!r}")

    await asyncio.gather(*(post_one_after_another(reader, writer) for reader, writer in opened))
    seconds = time.perf_counter() - began
    for _, writer in opened:
        writer.close()
    return seconds


def _request(url: str, body: dict[str, Any], headers: Mapping[str, str]) -> bytes:
    address = urlsplit(url)
    content = json.dumps(body).encode()
    lines = [
        f"POST {address.path} HTTP/1.1",
        f"Host: {address.netloc}",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + content
