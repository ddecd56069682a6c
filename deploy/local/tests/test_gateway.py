"""The real gateway with the real configuration, before upstreams that record what reached them."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from deploy.local import traefik
from deploy.local.cluster import SERVICES
from deploy.local.ports import free_port
from deploy.local.process import start, stop, wait_ready
from deploy.local.running import ROOT
from exports.progress.service import STREAM_SECONDS
from exports.settings import ExportsSettings
from shared.settings import Settings

KIBIBYTE = 1 << 10
MEBIBYTE = 1 << 20
HOST = "127.0.0.1"
# More than the buffers of all sockets on the way hold, so that a client which does not read makes the service wait.
DOWNLOAD = 64 * MEBIBYTE


@dataclass
class Upstream:
    """A service that returns what it received, and can delay its response."""

    name: str
    received: int = 0
    targets: list[str] = field(default_factory=list)
    body_begun: asyncio.Event = field(default_factory=asyncio.Event)
    body_cut: asyncio.Event = field(default_factory=asyncio.Event)
    download_cut: asyncio.Event = field(default_factory=asyncio.Event)
    may_end: asyncio.Event = field(default_factory=asyncio.Event)
    is_ready: bool = True

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                await self._answer(reader, writer)
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        target = request.split(" ")[1]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if target == "/healthz/ready":
            status = "200 OK" if self.is_ready else "503 Service Unavailable"
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
            await writer.drain()
            return
        self.targets.append(target)
        left = int(headers.get("content-length", 0))
        while left:
            data = await reader.read(min(left, 64 * KIBIBYTE))
            if not data:
                self.body_cut.set()
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(data)
            self.received += len(data)
            self.body_begun.set()
        if target.endswith("/progress"):
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            writer.write(b"9\r\ndata: 1\n\n\r\n")
            await writer.drain()
            await self.may_end.wait()
            writer.write(b"0\r\n\r\n")
        elif target.endswith("/download"):
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {DOWNLOAD}\r\n\r\n".encode() + bytes(DOWNLOAD))
            try:
                await writer.drain()
            except ConnectionError:
                self.download_cut.set()
                raise
        else:
            body = json.dumps({"service": self.name, "target": target, "headers": headers}).encode()
            head = f"HTTP/1.1 200 OK\r\nServer: fake\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
        await writer.drain()


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def reached(self) -> dict[str, Any]:
        assert self.status == 200, (self.status, self.body)
        body: dict[str, Any] = json.loads(self.body)
        return body


@dataclass
class Gateway:
    port: int
    upstreams: dict[str, Upstream]

    async def ask(
        self,
        target: str,
        *,
        method: str = "GET",
        headers: tuple[str, ...] = (),
        body: bytes = b"",
        chunked: bool = False,
        address: str = HOST,
    ) -> Answer:
        """Send the target unchanged, as a client library would normalize it. ``address`` is the client's own."""
        reader, writer = await asyncio.open_connection(HOST, self.port, local_addr=(address, 0))
        length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
        head = (f"{method} {target} HTTP/1.1", "Host: gateway", "Connection: close", length, *headers, "", "")
        if chunked:
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        writer.write("\r\n".join(head).encode() + body)
        with contextlib.suppress(OSError):  # refused before the body was read
            await writer.drain()
        answer = await _read_answer(reader)
        writer.close()
        return answer

    def targets(self) -> list[str]:
        return [target for upstream in self.upstreams.values() for target in upstream.targets]


async def _read_answer(reader: asyncio.StreamReader) -> Answer:
    status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.read() if headers.get("content-length") is None else b""
    if "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    return Answer(int(status.split(" ")[1]), headers, body)


@contextlib.asynccontextmanager
async def running_gateway(
    state: Path, env: dict[str, str], *, read_timeout: str = "", write_timeout: str = ""
) -> AsyncIterator[Gateway]:
    upstreams = {name: Upstream(name) for name in SERVICES}
    servers = {name: await asyncio.start_server(each.serve, HOST, 0) for name, each in upstreams.items()}
    urls = {
        f"{name.upper()}_URL": f"http://{HOST}:{server.sockets[0].getsockname()[1]}"
        for name, server in servers.items()
    }
    port = free_port()
    process = await traefik.prepare(
        state,
        port=port,
        dynamic=ROOT / "deploy" / "gateway" / "dynamic.yml",
        env={**urls, **env},
        read_timeout=read_timeout,
        write_timeout=write_timeout,
    )
    child = await start(process, output=asyncio.subprocess.DEVNULL)
    try:
        await wait_ready(process, child)
        yield Gateway(port, upstreams)
    finally:
        await stop(process, child)
        for server in servers.values():
            server.close()


@pytest.fixture(scope="session")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    async with running_gateway(tmp_path_factory.mktemp("gateway"), {}) as running:
        yield running


ID = "0191e1e4-7d56-7c3a-9d0f-1c2d3e4f5a6b"
OF_EVENT = {
    "events": [
        "sessions", "speakers", "tracks", "microlocations", "sponsors", "session-types", "social-links",
        "schedule", "conflicts", "versions", "calendar.ics", "schedule.xml", "schedule.xcs",
        "ticketsale", "exportsomething",
    ],
    "tickets": [
        "tickets", "availability", "holds", "orders", "attendees", "discount-codes", "access-codes", "check-ins",
    ],
    "exports": ["exports"],
}  # fmt: skip
ROUTES = [
    *((f"/v1/events/{ID}/{part}", service) for service, parts in OF_EVENT.items() for part in parts),
    *((f"/v1/events/{ID}/{part}/x/y", service) for service, parts in OF_EVENT.items() for part in parts),
    ("/v1/events", "events"),
    (f"/v1/events/{ID}", "events"),
    ("/v1/events/tickets", "events"),
    ("/v1/event-types", "events"),
    ("/v1/event-topics", "events"),
    ("/v1/timezones", "events"),
    ("/v1/languages", "events"),
    (f"/v1/tickets/{ID}", "tickets"),
    (f"/v1/tickets/{ID}/position", "tickets"),
    (f"/v1/holds/{ID}", "tickets"),
    (f"/v1/orders/{ID}", "tickets"),
    ("/v1/images", "media"),
    (f"/v1/images/{ID}/variants", "media"),
    ("/v1/image-sizes", "media"),
    (f"/v1/exports/{ID}", "exports"),
    (f"/v1/exports/{ID}/download", "exports"),
    ("/v1/imports", "exports"),
    (f"/v1/imports/{ID}", "exports"),
]


@pytest.mark.parametrize(("path", "service"), ROUTES)
async def test_each_path_reaches_its_service(gateway: Gateway, path: str, service: str) -> None:
    for method in ("GET", "PATCH"):
        reached = (await gateway.ask(f"{path}?limit=1", method=method)).reached
        assert (reached["service"], reached["target"]) == (service, f"{path}?limit=1")


@pytest.mark.parametrize("service", SERVICES)
async def test_the_documentation_loads_the_openapi_document_of_each_service(gateway: Gateway, service: str) -> None:
    reached = (await gateway.ask(f"/docs/openapi/{service}.json")).reached
    assert (reached["service"], reached["target"]) == (service, "/openapi.json")


@pytest.mark.parametrize("path", ["/docs", "/docs/", "/docs/assets/viewer.js"])
async def test_the_documentation_is_served_by_events(gateway: Gateway, path: str) -> None:
    reached = (await gateway.ask(path)).reached
    assert (reached["service"], reached["target"]) == ("events", path)


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/internal",
        "/internal/events",
        "/metrics",
        "/healthz/live",
        "/healthz/ready",
        "/openapi.json",
        "/v1",
        "/v1/eventsx",
        "/v1/ticketsx",
        "/v2/events",
        "/INTERNAL",
        "//internal/x",
        "/.//internal",
        "/docs/../internal",
        "/docs/openapi/../../metrics",
        "/v1/events/../../internal/x",
        f"/v1/events/{ID}/tickets/../../../../internal",
        "/v1/events/%2e%2e/%2E%2E/internal",
        "/v1/events/.%2e/..//internal",
        "/%69nternal",
        "http://gateway/internal",
        "/docs/openapi/%2e%2e/%2e%2e/metrics",
    ],
)
async def test_internal_paths_are_not_routed(gateway: Gateway, target: str) -> None:
    before = len(gateway.targets())
    assert (await gateway.ask(target)).status == 404
    assert len(gateway.targets()) == before


@pytest.mark.parametrize(
    "target",
    [
        "/v1/events/..%2f..%2finternal",
        "/v1/events/..%2F..%2Finternal",
        "/v1/events/%2e%2e%2f%2e%2e%2finternal",
        f"/v1/events/{ID}%2Ftickets",
        "/v1/events/..%5c..%5cinternal",
        "/v1/events/..%3b/..%3b/internal",
        "/v1/events/%252e%252e/%252e%252e/internal",
        "/v1/events/%00",
        "/docs/..%2finternal",
    ],
)
async def test_encoded_delimiters_are_refused(gateway: Gateway, target: str) -> None:
    before = len(gateway.targets())
    assert (await gateway.ask(target)).status == 400
    assert len(gateway.targets()) == before


async def test_path_parameters_do_not_change_the_route(gateway: Gateway) -> None:
    # Uvicorn treats `..;` as a name, unlike servlet containers, so the service must receive the whole path.
    target = "/v1/events/x/..;/..;/..;/internal"
    reached = (await gateway.ask(target)).reached
    assert (reached["service"], reached["target"]) == ("events", target)


async def test_a_service_receives_the_normalized_path(gateway: Gateway) -> None:
    reached = (await gateway.ask(f"/v1//events/./{ID}/sessions/../%74ickets")).reached
    assert (reached["service"], reached["target"]) == ("tickets", f"/v1/events/{ID}/tickets")


async def test_identity_headers_are_removed(gateway: Gateway) -> None:
    claims = ("X-User-Id: 1", "x-forwarded-user: root", "X_User_Id: 1", "X.User.Id: 1", "X-Org: other")
    reached = (await gateway.ask("/v1/events", headers=(*claims, "Authorization: Bearer t"))).reached
    assert reached["headers"]["authorization"] == "Bearer t"
    assert not {"x-user-id", "x-forwarded-user", "x_user_id", "x.user.id", "x-org"} & set(reached["headers"])


async def test_a_client_cannot_spoof_its_address(gateway: Gateway) -> None:
    spoofed = ("X-Forwarded-For: 10.1.2.3", "X-Real-Ip: 10.1.2.3", "Connection: X-Forwarded-For")
    headers = (await gateway.ask("/v1/events", headers=spoofed)).reached["headers"]
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert headers["x-real-ip"] == "127.0.0.1"


async def test_responses_do_not_name_the_server(gateway: Gateway) -> None:
    assert "server" not in (await gateway.ask("/v1/events")).headers


@pytest.mark.parametrize(
    "path",
    ["/v1/events", f"/v1/events/{ID}/tickets", f"/v1/orders/{ID}", f"/v1/events/{ID}/exports", "/v1/image-sizes"],
)
async def test_a_body_over_one_mebibyte_is_refused(gateway: Gateway, path: str) -> None:
    assert (await gateway.ask(path, method="POST", body=bytes(MEBIBYTE))).status == 200
    before = gateway.targets().count(path)
    for method, chunked in (("POST", False), ("PUT", True)):
        answer = await gateway.ask(path, method=method, body=bytes(MEBIBYTE + 1), chunked=chunked)
        assert answer.status == 413
        assert json.loads(answer.body)["target"] == "/docs/refusals/413", "a service writes the problem document"
    assert gateway.targets().count(path) == before


@pytest.mark.parametrize(("path", "service"), [("/v1/images", "media"), ("/v1/imports", "exports")])
async def test_uploads_stream_through(gateway: Gateway, path: str, service: str) -> None:
    upstream = gateway.upstreams[service]
    upstream.body_begun.clear()
    before = upstream.received
    size = 8 * MEBIBYTE
    reader, writer = await asyncio.open_connection(HOST, gateway.port)
    writer.write(f"POST {path} HTTP/1.1\r\nHost: gateway\r\nContent-Length: {size}\r\n\r\n".encode())
    writer.write(bytes(MEBIBYTE))
    await writer.drain()
    await asyncio.wait_for(upstream.body_begun.wait(), 10)  # the service receives bytes before the body is complete
    writer.write(bytes(size - MEBIBYTE))
    await writer.drain()
    assert (await _read_answer(reader)).status == 200
    assert upstream.received == before + size
    writer.close()


async def test_progress_reaches_the_client_as_it_happens(gateway: Gateway) -> None:
    reader, writer = await asyncio.open_connection(HOST, gateway.port)
    writer.write(f"GET /v1/exports/{ID}/progress HTTP/1.1\r\nHost: gateway\r\n\r\n".encode())
    await asyncio.wait_for(reader.readuntil(b"data: 1"), 10)
    gateway.upstreams["exports"].may_end.set()
    await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 10)
    writer.close()


async def test_a_client_over_the_rate_limit_gets_429(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, {"RATE_LIMIT_AVERAGE": "1", "RATE_LIMIT_BURST": "3"}) as limited:
        spoofed = [(f"X-Forwarded-For: 10.0.0.{number}",) for number in range(6)]
        answers = [await limited.ask("/v1/events", headers=headers) for headers in spoofed]
        assert [answer.status for answer in answers[:3]] == [200, 200, 200]
        assert answers[-1].status == 429
        assert json.loads(answers[-1].body)["target"] == "/docs/refusals/429"


async def test_the_rate_limit_can_be_disabled(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, {"RATE_LIMIT_AVERAGE": "0", "RATE_LIMIT_BURST": "1"}) as unlimited:
        assert {(await unlimited.ask("/v1/events")).status for _ in range(20)} == {200}


# -------------------- slow, large and many requests


async def test_large_headers_are_refused(gateway: Gateway) -> None:
    before = len(gateway.targets())
    for large in (f"X-Long: {'x' * 30 * KIBIBYTE}", "\r\n".join(f"X-{number}: x" for number in range(4000))):
        assert (await gateway.ask("/v1/events", headers=(large,))).status == 431
    assert len(gateway.targets()) == before


@pytest.fixture(scope="session")
async def impatient(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    """A gateway whose read timeout is a second."""
    async with running_gateway(tmp_path_factory.mktemp("impatient"), {}, read_timeout="1s") as running:
        yield running


HEAD = b"POST /v1/events HTTP/1.1\r\nHost: gateway\r\nContent-Length: 1000\r\n"
BEGINNINGS = {"silence": b"", "head": HEAD, "body": HEAD + b"\r\n"}


@pytest.mark.parametrize("beginning", BEGINNINGS.values(), ids=BEGINNINGS)
async def test_slow_clients_are_cut_off_and_reach_no_service(impatient: Gateway, beginning: bytes) -> None:
    before = len(impatient.targets())
    lines = [await asyncio.open_connection(HOST, impatient.port) for _ in range(50)]
    sending = [asyncio.create_task(_trickle(writer, beginning)) for _, writer in lines if beginning]
    assert (await impatient.ask("/v1/timezones")).status == 200, "other clients do not wait"
    await asyncio.gather(*(_is_cut_off(reader) for reader, _ in lines), *sending)
    assert len(impatient.targets()) == before + 1
    for _, writer in lines:
        writer.close()


async def test_a_slow_upload_is_cut_off(impatient: Gateway) -> None:
    """Uploads are not buffered, so the service sees one begin and then end early."""
    upstream = impatient.upstreams["exports"]
    upstream.body_begun.clear()
    upstream.body_cut.clear()
    reader, writer = await asyncio.open_connection(HOST, impatient.port)
    sending = asyncio.create_task(
        _trickle(writer, b"POST /v1/imports HTTP/1.1\r\nHost: gateway\r\nContent-Length: 1000\r\n\r\n")
    )
    await asyncio.wait_for(upstream.body_begun.wait(), 10)
    await asyncio.wait_for(upstream.body_cut.wait(), 20)
    await asyncio.gather(_is_cut_off(reader), sending)


async def test_a_stream_may_outlast_the_read_timeout(impatient: Gateway) -> None:
    upstream = impatient.upstreams["exports"]
    upstream.may_end.clear()
    reader, writer = await asyncio.open_connection(HOST, impatient.port)
    writer.write(f"GET /v1/exports/{ID}/progress HTTP/1.1\r\nHost: gateway\r\n\r\n".encode())
    await asyncio.wait_for(reader.readuntil(b"data: 1"), 10)
    await _read_timeout_passes(impatient)
    upstream.may_end.set()
    await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 10)
    writer.close()


async def test_a_download_may_outlast_the_read_timeout(impatient: Gateway) -> None:
    reader, writer = await asyncio.open_connection(HOST, impatient.port)
    writer.write(f"GET /v1/exports/{ID}/download HTTP/1.1\r\nHost: gateway\r\n\r\n".encode())
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    await _read_timeout_passes(impatient)
    await asyncio.wait_for(reader.readexactly(DOWNLOAD), 20)
    writer.close()


async def test_a_download_that_the_client_does_not_read_is_cut_off(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, {}, write_timeout="1s") as impatient:
        reader, writer = await asyncio.open_connection(HOST, impatient.port)
        writer.write(f"GET /v1/exports/{ID}/download HTTP/1.1\r\nHost: gateway\r\n\r\n".encode())
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        await asyncio.wait_for(impatient.upstreams["exports"].download_cut.wait(), 20)
        writer.close()


async def _read_timeout_passes(gateway: Gateway) -> None:
    reader, writer = await asyncio.open_connection(HOST, gateway.port)
    await _is_cut_off(reader)
    writer.close()


async def _is_cut_off(reader: asyncio.StreamReader) -> None:
    """Wait until the gateway closes the connection; raise ``TimeoutError`` when it does not."""
    with contextlib.suppress(ConnectionError):
        await asyncio.wait_for(reader.read(), 20)


async def _trickle(writer: asyncio.StreamWriter, first: bytes) -> None:
    """Send ``first`` at once, then byte by byte until the gateway has closed the connection."""
    with contextlib.suppress(ConnectionError):
        writer.write(first)
        while True:
            await writer.drain()
            await asyncio.sleep(0.1)
            writer.write(b"x")
    writer.close()


async def test_one_client_cannot_occupy_a_service_with_long_requests(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, {"REQUESTS_AT_ONCE": "3"}) as limited:
        upstream = limited.upstreams["exports"]
        lasting = [await asyncio.open_connection(HOST, limited.port) for _ in range(3)]
        for reader, writer in lasting:
            writer.write(f"GET /v1/exports/{ID}/progress HTTP/1.1\r\nHost: gateway\r\n\r\n".encode())
            await asyncio.wait_for(reader.readuntil(b"data: 1"), 10)
        refused = await limited.ask(f"/v1/exports/{ID}")
        assert refused.status == 429
        assert json.loads(refused.body)["target"] == "/docs/refusals/429"
        assert (await limited.ask(f"/v1/exports/{ID}", address="127.0.0.2")).status == 200, (
            "other clients have their own limit"
        )
        upstream.may_end.set()
        for reader, writer in lasting:
            await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 10)
            writer.close()
        assert (await limited.ask(f"/v1/exports/{ID}")).status == 200


async def test_ready_apis_share_the_requests(tmp_path: Path) -> None:
    twins = [Upstream("first"), Upstream("second")]
    servers = [await asyncio.start_server(twin.serve, HOST, 0) for twin in twins]
    urls = ",".join(f"http://{HOST}:{server.sockets[0].getsockname()[1]}" for server in servers)

    async def responding(gateway: Gateway) -> set[str]:
        return {(await gateway.ask("/v1/events")).reached["service"] for _ in range(4)}

    try:
        async with running_gateway(tmp_path, {"EVENTS_URL": urls}) as gateway, asyncio.timeout(30):
            # One at a time, as in a roll-out: it must know a ready one before the other stops being ready.
            for twin, is_ready in ((twins[0], False), (twins[0], True), (twins[1], False), (twins[1], True)):
                twin.is_ready = is_ready
                expected = {each.name for each in twins if each.is_ready}
                while await responding(gateway) != expected:  # noqa: ASYNC110 - the gateway checks once a second
                    await asyncio.sleep(0.1)
    finally:
        for server in servers:
            server.close()


async def test_an_unavailable_service_gets_a_502_with_security_headers(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, {"TICKETS_URL": f"http://{HOST}:{free_port()}"}) as lacking:
        answer = await lacking.ask(f"/v1/tickets/{ID}")
        assert answer.status == 502
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"


async def test_cors_preflight_requests_reach_the_service(gateway: Gateway) -> None:
    preflight = ("Origin: https://shop.example.org", "Access-Control-Request-Method: PATCH")
    for path, service in ((f"/v1/events/{ID}/tickets", "tickets"), ("/v1/imports", "exports")):
        reached = (await gateway.ask(path, method="OPTIONS", headers=preflight)).reached
        assert (reached["service"], reached["headers"]["origin"]) == (service, "https://shop.example.org")


def test_limits_of_gateway_and_services_fit_together() -> None:
    """The service times out first, so that its problem document arrives, and keeps connections longer."""
    dynamic = (ROOT / "deploy" / "gateway" / "dynamic.yml").read_text()

    def gateway_timeout(name: str) -> float:
        [seconds] = re.findall(rf"{name}: (\d+)s", dynamic)
        return float(seconds)

    services = Settings(service="probe")
    assert services.answer_timeout < gateway_timeout("responseHeaderTimeout")
    assert gateway_timeout("idleConnTimeout") < services.idle_timeout
    assert services.max_body_size == int(re.findall(r"maxRequestBodyBytes: (\d+)", dynamic)[0])


def test_the_gateway_leaves_time_for_the_largest_upload_and_the_longest_stream() -> None:
    def seconds(name: str) -> float:
        return float(traefik.OPTIONS[name].removesuffix("s"))

    slowest = 4_000_000 / 8  # bytes a second, as in SECURITY.md
    assert ExportsSettings().max_archive_size / slowest < seconds(traefik.READ_TIMEOUT)
    assert seconds(traefik.WRITE_TIMEOUT) > STREAM_SECONDS
