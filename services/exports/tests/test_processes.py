"""The real API process, as it stops."""

import asyncio
import time
from pathlib import Path

import httpx

from services.exports.tests.factories import Members, zipped
from testkit.plugin import TokenFactory
from testkit.processes import running


async def test_stream_of_a_follower_ends_cleanly_when_the_api_stops(
    environment: dict[str, str],
    tokens: TokenFactory,
    members: Members,
    tmp_path: Path,
) -> None:
    async with (
        running("exports.api", environment, tmp_path) as api,
        httpx.AsyncClient(base_url=api.url, headers=tokens.organizer()) as client,
        asyncio.timeout(60),
    ):
        queued = await client.post("/v1/imports", files={"file": ("archive.zip", zipped(members))})
        assert queued.status_code == 202, queued.text
        async with client.stream("GET", f"{queued.headers['Location']}/progress") as stream:
            lines = stream.aiter_lines()
            async for line in lines:
                if line.startswith("data:"):
                    break
            asked_at = time.monotonic()
            api.process.terminate()
            # An end in the midst of a line, as of a connection that is cut, would raise an error here.
            assert [line async for line in lines if line.startswith("data:")] == []
        assert await api.process.wait() == 0, api.log.read_text()
        # Far less than the grace that a request which does not end would be given.
        assert time.monotonic() - asked_at < 10
