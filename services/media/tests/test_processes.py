"""The real processes on real servers: an image passes through all three, and a killed worker loses nothing."""

import asyncio
import io
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psutil
import pytest
import uvicorn
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from PIL import Image as Picture
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.media.tests.factories import noise, png
from shared.database.engine import asyncpg_dsn
from testkit.plugin import TokenFactory
from testkit.processes import GATEWAY, running, until, until_gone


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """For the processes' temporary files; ``tmp_path`` is too long for the address of a socket."""
    with tempfile.TemporaryDirectory(prefix="media-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def environment(environment: dict[str, str], short_folder: Path) -> dict[str, str]:
    return {**environment, "TMPDIR": str(short_folder)}


async def upload(client: httpx.AsyncClient, content: bytes) -> str:
    answer = await client.post("/v1/images", files={"file": ("banner.png", content)})
    assert answer.status_code == 202, answer.text
    return str(answer.headers["Location"])


async def becomes(client: httpx.AsyncClient, path: str, *states: str) -> dict[str, Any]:
    image: dict[str, Any] = {}

    async def is_so() -> bool:
        nonlocal image
        image = (await client.get(path)).json()
        return image["state"] in states

    await until(is_so)
    return image


async def test_an_image_passes_through_api_messenger_and_worker_which_stop_cleanly(
    environment: dict[str, str],
    tokens: TokenFactory,
    tmp_path: Path,
    short_folder: Path,
) -> None:
    async with (
        running("media.api", environment, tmp_path) as api,
        running("media.messenger", environment, tmp_path) as messenger,
        running("media.worker", environment, tmp_path) as worker,
        httpx.AsyncClient(base_url=api.url, headers=tokens.organizer()) as client,
        asyncio.timeout(90),
    ):
        content = png()
        image = await becomes(client, await upload(client, content), "ready", "rejected")
        assert image["state"] == "ready", image
        assert image["saved_bytes"] == len(content) - image["variants"][0]["size"]

        async with httpx.AsyncClient(base_url=api.url) as public:
            fetched = await public.get(image["variants"][0]["url"].removeprefix(GATEWAY))
            assert Picture.open(io.BytesIO(fetched.content)).size == (889, 500)
            head = await public.head(image["variants"][0]["url"].removeprefix(GATEWAY))
            assert (head.headers["Content-Length"], head.content) == (str(len(fetched.content)), b"")
            too_large = await client.post("/v1/images", files={"file": ("a.png", bytes(20 << 20))})
            assert too_large.json()["code"] == "image-file-too-large"

        for role in (worker, messenger, api):
            assert await role.stop() == 0, role.log.read_text()
    assert os.listdir(short_folder) == []


@asynccontextmanager
async def collector() -> AsyncIterator[tuple[str, dict[str, set[bytes]]]]:
    """Yield the address of an OpenTelemetry collector, and the traces of the spans that it received, by name."""
    spans: dict[str, set[bytes]] = {}

    async def collect(request: Request) -> Response:
        received = ExportTraceServiceRequest.FromString(await request.body())
        for resource in received.resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    spans.setdefault(span.name, set()).add(span.trace_id)
        return Response()

    app = Starlette(routes=[Route("/v1/traces", collect, methods=["POST"])])
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", spans
        server.should_exit = True
        await serving


async def test_one_trace_spans_the_upload_and_the_conversion(
    environment: dict[str, str], tokens: TokenFactory, tmp_path: Path
) -> None:
    async with collector() as (address, spans), asyncio.timeout(90):
        environment = {**environment, "OTEL_EXPORTER_OTLP_ENDPOINT": address}
        async with (
            running("media.api", environment, tmp_path) as api,
            running("media.messenger", environment, tmp_path) as messenger,
            running("media.worker", environment, tmp_path) as worker,
            httpx.AsyncClient(base_url=api.url, headers=tokens.organizer()) as client,
        ):
            await becomes(client, await upload(client, png()), "ready")
            for role in (worker, messenger, api):
                assert await role.stop() == 0, role.log.read_text()
    (trace,) = spans["POST /v1/images"]
    assert {name for name, traces in spans.items() if trace in traces} == {
        "POST /v1/images",
        "send media.convert_image",
        "process media.convert_image",
        "send media.image.processed.v1",
    }


async def test_an_image_whose_worker_was_killed_is_finished_by_the_next_one(
    environment: dict[str, str], tokens: TokenFactory, tmp_path: Path
) -> None:
    async with (
        running("media.api", environment, tmp_path) as api,
        running("media.messenger", environment, tmp_path),
        httpx.AsyncClient(base_url=api.url, headers=tokens.organizer()) as client,
        asyncio.timeout(90),
    ):
        async with running("media.worker", environment, tmp_path) as worker:
            path = await upload(client, noise(1700))
            await becomes(client, path, "processing")
            [child] = psutil.Process(worker.process.pid).children()
            family = child.children(recursive=True)
            child.kill()
            assert await worker.process.wait() != 0, "the supervisor must see that the worker did not end well"
            await until_gone(family)
        assert (await client.get(path)).json()["state"] == "processing"

        database = await asyncpg.connect(asyncpg_dsn(environment["DATABASE_URL"]))
        await database.execute("UPDATE images SET lease_until = now(), hinted_at = now() - interval '1 hour'")
        await database.close()
        async with running("media.worker", environment, tmp_path) as worker:
            image = await becomes(client, path, "ready", "rejected")
            assert image["state"] == "ready", image
            assert await worker.stop() == 0


async def test_a_killed_master_ends_its_worker(environment: dict[str, str], tmp_path: Path) -> None:
    async with running("media.worker", environment, tmp_path) as worker, asyncio.timeout(30):
        family = psutil.Process(worker.process.pid).children(recursive=True)
        worker.process.kill()
        await until_gone(family)


async def test_a_worker_whose_port_is_taken_ends_with_an_error(environment: dict[str, str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupied, (tmp_path / "log").open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "media.worker",
            env={**os.environ, **environment, "HEALTH_PORT": str(occupied.getsockname()[1])},
            stdout=output,
            stderr=output,
        )
        try:
            async with asyncio.timeout(30):
                assert await process.wait() != 0
        finally:
            if process.returncode is None:
                process.kill()
