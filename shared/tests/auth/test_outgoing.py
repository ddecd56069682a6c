import asyncio
import os
from pathlib import Path

import httpx
import pytest

from shared.auth.outgoing import ServiceTokenAuth, ServiceTokenUnreadable


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text("first.token.x\n")
    return file


def echo(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, text=request.headers["Authorization"])


def test_a_synchronous_client_sends_the_token_too(token_file: Path) -> None:
    with httpx.Client(transport=httpx.MockTransport(echo), auth=ServiceTokenAuth(token_file)) as client:
        assert client.get("http://events/internal").text == "Bearer first.token.x"


async def test_each_call_sends_the_token_that_is_in_the_file(token_file: Path) -> None:
    auth = ServiceTokenAuth(token_file)
    async with httpx.AsyncClient(transport=httpx.MockTransport(echo), auth=auth) as client:
        assert (await client.get("http://events/internal")).text == "Bearer first.token.x"
        replacement = token_file.with_name("next")
        replacement.write_text("second.token.x")
        os.replace(replacement, token_file)
        assert (await client.get("http://events/internal")).text == "Bearer second.token.x"


async def test_a_missing_or_malformed_service_token_is_a_503(token_file: Path) -> None:
    other = token_file.with_name("other")
    await asyncio.to_thread(other.write_text, "not a token\n")
    for file in (None, other, token_file.with_name("missing")):
        async with httpx.AsyncClient(auth=ServiceTokenAuth(file)) as client:
            with pytest.raises(ServiceTokenUnreadable):
                await client.get("http://127.0.0.1:1/internal")
