"""The real api on real servers, as it stops."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from testkit.plugin import TokenFactory
from testkit.processes import running


async def test_a_follower_is_sent_away_cleanly_when_the_api_stops(
    environment: dict[str, str],
    tokens: TokenFactory,
    members: dict[str, Any],
    zip_of: Callable[[dict[str, Any]], bytes],
    tmp_path: Path,
) -> None:
    async with (
        running("exports.api", environment, tmp_path) as api,
        httpx.AsyncClient(base_url=api.url, headers=tokens.organizer()) as client,
        asyncio.timeout(60),
    ):
        queued = await client.post("/v1/imports", files={"file": ("archive.zip", zip_of(members))})
        assert queued.status_code == 202, queued.text
        async with client.stream("GET", f"{queued.headers['Location']}/progress") as stream:
            lines = stream.aiter_lines()
            async for line in lines:
                if line.startswith("data:"):
                    break
            told_at = time.monotonic()
            api.process.terminate()
            # An end in the midst of a line, as of a connection that is cut, would raise an error here.
            assert [line async for line in lines if line.startswith("data:")] == []
        assert await api.process.wait() == 0, api.log.read_text()
        # Far less than the grace that a request which does not end would be given.
        assert time.monotonic() - told_at < 10
