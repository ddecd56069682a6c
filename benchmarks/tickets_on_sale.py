"""Measure the public ticket list of one api process against an empty FastAPI route, in interleaved rounds.

Contenders: `GET /v1/events/{id}/tickets?sales=open` with 20 tickets ("tickets"); the same with another event for
each client, so that requests share no statements ("apart"); ORM objects with a response model ("orm"). Load comes
from `wrk` or a generator here. Statements are counted on the wire to PostgreSQL. It passes with one statement, one
round trip, and a median ratio of at least GOAL.
"""

import argparse
import asyncio
import contextlib
import functools
import itertools
import json
import os
import re
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import uvloop
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import func, select
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession

from deploy.local.ports import free_port
from shared.contracts.envelope import Envelope
from shared.contracts.events import EventPublishedV1
from shared.database.engine import asyncpg_dsn, new_engine, new_sessions
from shared.http.dependencies import SessionDep
from shared.http.pagination import Page
from shared.ids import new_id
from shared.walltime import use_pinned_tzdata
from tickets.event_copies.handlers import on_event
from tickets.models import EventCopy, Ticket
from tickets.settings import TicketsSettings
from tickets.tickets import service
from tickets.tickets.repository import TicketView
from tickets.tickets.schemas import Money, TicketCreate, TicketRead

TICKETS = 20
GOAL = 0.30
ROOT = Path(__file__).resolve().parents[1]


# The two baselines; uvicorn imports them in separate processes.


def empty_app() -> FastAPI:
    app = FastAPI()

    @app.get("/")
    async def nothing() -> dict[str, str]:
        return {}

    return app


def orm_app() -> FastAPI:
    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine = new_engine(TicketsSettings(), "bench")
        app.state.sessions = new_sessions(engine)
        yield
        await engine.dispose()

    app = FastAPI(lifespan=lifespan)

    @app.get("/v1/events/{event_id}/tickets")
    async def list_tickets(event_id: UUID, session: SessionDep) -> Page[TicketRead]:
        now = func.statement_timestamp()
        tickets = await session.scalars(
            select(Ticket)
            .join(EventCopy)
            .where(Ticket.event_id == event_id, EventCopy.state == "published", ~Ticket.is_hidden)
            .where(Ticket.sales_starts_at <= now, now < Ticket.sales_ends_at)
            .order_by(Ticket.position)
        )
        return Page(items=[TicketRead.of(TicketView(ticket, "open", edges=1)) for ticket in tickets])

    return app


# Load


async def load(address: str, paths: list[str], *, seconds: float, connections: int) -> float:
    """Return the responses per second to ``connections`` clients that each send one request after the other."""
    if not shutil.which("wrk"):
        arguments = [
            "--load",
            address,
            ",".join(paths),
            "--seconds",
            str(seconds),
            "--connections",
            str(connections),
        ]
        return float(await _output(sys.executable, "-m", __spec__.name, *arguments))
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        listed = ", ".join(f'"{path}"' for path in paths)
        script.write(
            f"local paths, i = {{{listed}}}, 0\n"
            'function request() i = i % #paths + 1 return wrk.format("GET", paths[i]) end\n'
        )
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", script.name, address]
        output = await _output(*command)
    if "Non-2xx" in output or "Socket errors" in output:
        raise SystemExit(f"wrk reported failures at {address}:\n{output}")
    found = re.search(r"Requests/sec:\s+([0-9.]+)", output)
    if found is None:
        raise SystemExit(f"the output of wrk is unreadable:\n{output}")
    return float(found[1])


class _Client(asyncio.Protocol):
    """Send the same request repeatedly on one connection."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._wanted = 0
        self._received = 0
        self.answers = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self._wanted:
            head, found, _ = data.partition(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            if not found or length is None or not head.startswith(b"HTTP/1.1 200 "):
                raise SystemExit(f"unexpected answer: {data[:300]!r}")
            self._wanted = len(head) + 4 + int(length[1])
        self._received += len(data)
        if self._received >= self._wanted:
            self.answers += 1
            self._wanted = self._received = 0
            self._transport.write(self._request)


async def _generate_load(address: str, paths: list[str], seconds: float, connections: int) -> None:
    loop = asyncio.get_running_loop()
    requests = itertools.cycle([_request(address + path) for path in paths])
    began = time.perf_counter()
    opened = [
        await loop.create_connection(functools.partial(_Client, request), host, port)
        for host, port, request in itertools.islice(requests, connections)
    ]
    await asyncio.sleep(seconds)
    print(sum(client.answers for _, client in opened) / (time.perf_counter() - began))
    for transport, _ in opened:
        transport.close()


def _request(url: str) -> tuple[str, int, bytes]:
    """Return host, port and request."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    return parts.hostname, parts.port, f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()


# Statements on the wire


@asynccontextmanager
async def counting_proxy(host: str, port: int) -> AsyncIterator[tuple[int, Counter[str]]]:
    """Yield the port of a proxy to PostgreSQL, and counts of the clients' messages by type.

    ``E`` (Execute) and ``Q`` (Query) run a statement; ``S`` (Sync) and ``Q`` end a round trip.
    """
    sent: Counter[str] = Counter()
    tasks: set[asyncio.Task[None]] = set()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def forward_counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:  # SSLRequest and the start-up packet have no type
                size = await reader.readexactly(4)
                body = await reader.readexactly(int.from_bytes(size) - 4)
                writer.write(size + body)
                if body[:2] == b"\x00\x03":
                    break
            while True:
                head = await reader.readexactly(5)
                sent[head[:1].decode()] += 1
                writer.write(head + await reader.readexactly(int.from_bytes(head[1:]) - 4))
                await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(host, port)
        tasks.add(asyncio.create_task(forward(server_reader, writer)))
        tasks.add(asyncio.create_task(forward_counted(reader, server_writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], sent
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def count_statements(database_url: str, path: str, folder: Path) -> tuple[float, float]:
    """Return statements and round trips per request, over a hundred requests."""
    requests = 100
    address = make_url(database_url)
    async with counting_proxy(address.host or "127.0.0.1", address.port or 5432) as (port, sent):
        through = address.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
        async with served(["-m", "tickets.api"], _settings(through), folder / "counted.log") as api:
            await _ask(api + path, 10)  # statements are prepared once per connection
            sent.clear()
            await _ask(api + path, requests)
            return (sent["E"] + sent["Q"]) / requests, (sent["S"] + sent["Q"]) / requests


async def _ask(url: str, times: int) -> bytes:
    """Send the request ``times`` on one connection; return the last response body."""
    host, port, request = _request(url)
    reader, writer = await asyncio.open_connection(host, port)
    body = b""
    for _ in range(times):
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        if length is None or not head.startswith(b"HTTP/1.1 200 "):
            raise SystemExit(f"unexpected answer: {head!r}")
        body = await reader.readexactly(int(length[1]))
    writer.close()
    return body


# Processes and data


@asynccontextmanager
async def served(arguments: list[str], env: dict[str, str], log: Path) -> AsyncIterator[str]:
    """Start a Python process that listens on ``$API_PORT``; yield its address."""
    port = free_port()
    arguments = [argument.replace("$API_PORT", str(port)) for argument in arguments]
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            stdout=output,
            stderr=output,
            cwd=ROOT,
            env={**os.environ, **env, "API_PORT": str(port), "API_HOST": "127.0.0.1"},
        )
    try:
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                if process.returncode is not None:
                    raise SystemExit(f"{' '.join(arguments)} ended:\n{log.read_text()[-2000:]}")  # noqa: ASYNC240
                await asyncio.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()


@asynccontextmanager
async def scratch_database() -> AsyncIterator[str]:
    admin = os.environ.get("TEST_DATABASE_URL")
    if not admin:
        raise SystemExit("TEST_DATABASE_URL is not set: use `make bench ARGS=tickets_on_sale`.")
    name = f"bench_tickets_{os.getpid()}"
    url = make_url(admin).set(database=name).render_as_string(hide_password=False)
    server = await asyncpg.connect(asyncpg_dsn(admin))
    try:
        await server.execute(f'CREATE DATABASE "{name}"')
        inside = await asyncpg.connect(asyncpg_dsn(url))
        await inside.execute("CREATE SCHEMA tickets")
        await inside.close()
        migrate = [sys.executable, "-m", "alembic", "-c", "services/tickets/alembic.ini", "upgrade", "head"]
        await _output(*migrate, env=_settings(url))
        yield url
    finally:
        await server.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        await server.close()


async def put_on_sale(database_url: str, *, events: int) -> list[str]:
    """Create published events with twenty tickets each; return the paths of their lists."""
    engine = new_engine(TicketsSettings(database_url=SecretStr(database_url)), "bench")
    async with new_sessions(engine).begin() as session:
        event_ids = [await _event_on_sale(session) for _ in range(events)]
    async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.exec_driver_sql("VACUUM ANALYZE")
    await engine.dispose()
    return [f"/v1/events/{event_id}/tickets?sales=open" for event_id in event_ids]


async def _event_on_sale(session: AsyncSession) -> UUID:
    now = datetime.now(UTC)
    event = EventPublishedV1(
        organizer="bench",
        event_id=new_id(),
        identifier=new_id().hex[-8:],
        name="Benchmark",
        timezone="Europe/Berlin",
        starts_at=now + timedelta(days=30),
        ends_at=now + timedelta(days=32),
        state="published",
        version=1,
    )
    envelope = Envelope(
        id=new_id(), source="events", type=event.message_type, subject=event.event_id, time=now,
        aggregatetype="events.event", aggregateseq=1,
    )  # fmt: skip
    await on_event(session, event, envelope)
    for number in range(1, TICKETS + 1):
        wanted = TicketCreate(
            name=f"Ticket {number}, regular price",
            description="Three days of talks, workshops and the evening event; lunch is included.",
            type="paid",
            price=Money(amount_minor=number * 1000, currency="EUR"),
        )
        await service.create_ticket(session, "bench", str(event.event_id), wanted)
    return event.event_id


def _settings(database_url: str) -> dict[str, str]:
    return {"DATABASE_URL": database_url, "JWKS_URL": (ROOT / "no-keys-needed.json").as_uri()}


async def _output(*command: str, env: dict[str, str] | None = None) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{output.decode()[-2000:]}")
    return output.decode()


def main() -> int:
    return asyncio.run(measure(rounds=7, seconds=2.0, connections=32))


async def measure(*, rounds: int, seconds: float, connections: int) -> int:
    use_pinned_tzdata()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        database_url = await stack.enter_async_context(scratch_database())
        paths = await put_on_sale(database_url, events=connections)
        statements, round_trips = await count_statements(database_url, paths[0], folder)

        async def start(name: str, *arguments: str) -> str:
            return await stack.enter_async_context(
                served([*arguments], _settings(database_url), folder / f"{name}.log")
            )

        def uvicorn(factory: str) -> list[str]:
            app = f"{__spec__.name}:{factory}"
            return [
                "-m",
                "uvicorn",
                app,
                "--factory",
                "--port",
                "$API_PORT",
                "--no-access-log",
                "--log-level",
                "error",
            ]

        empty, orm = [await start(name, *uvicorn(name)) for name in ("empty_app", "orm_app")]
        api = await start("api", "-m", "tickets.api")
        body = await _ask(api + paths[0], 1)
        items = json.loads(body)["items"]
        if [item["sales"] for item in items] != ["open"] * TICKETS:
            raise SystemExit(f"unexpected response: {body[:500]!r}")
        if json.loads(await _ask(orm + paths[0], 1))["items"] != items:
            raise SystemExit("the ORM baseline has a different response, so the two are not comparable")

        contenders = {
            "empty": (empty, ["/"]),
            "tickets": (api, paths[:1]),
            "apart": (api, paths),
            "orm": (orm, paths[:1]),
        }
        for address, asked in contenders.values():
            await load(address, asked, seconds=1, connections=connections)
        tool = "wrk" if shutil.which("wrk") else "the built-in generator"
        print(f"{len(body)} bytes, {connections} connections, {seconds:g} s a round, load by {tool}")
        rates: dict[str, list[float]] = {name: [] for name in contenders}
        for number in range(1, rounds + 1):
            for name, (address, asked) in contenders.items():
                rates[name].append(await load(address, asked, seconds=seconds, connections=connections))
            print(f"round {number}: " + ", ".join(f"{name} {values[-1]:,.0f}/s" for name, values in rates.items()))

    shares = {
        name: statistics.median(mine / other for mine, other in zip(values, rates["empty"], strict=True))
        for name, values in rates.items()
    }
    for name, values in rates.items():
        print(f"median {name}: {statistics.median(values):,.0f} requests/s, {shares[name]:.0%} of the empty route")
    print(f"statements per request: {statements:g}, round trips: {round_trips:g} (goal 1)")
    passed = statements == round_trips == 1 and shares["tickets"] >= GOAL
    print(f"{'PASS' if passed else 'FAIL'}: {shares['tickets']:.0%} of the empty route (goal {GOAL:.0%})")
    return 0 if passed else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tickets_on_sale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--load", nargs=2, metavar=("ADDRESS", "PATHS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.load:
        uvloop.run(_generate_load(given.load[0], given.load[1].split(","), given.seconds, given.connections))
        sys.exit(0)
    sys.exit(asyncio.run(measure(rounds=given.rounds, seconds=given.seconds, connections=given.connections)))
