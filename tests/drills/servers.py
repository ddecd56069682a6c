"""PostgreSQL and RabbitMQ of a drill: servers that are stopped, killed and started again on the same port and data.

The tests' other servers are no good here. Others use them meanwhile, and their PostgreSQL keeps a commit in memory
for a moment, so that a killed server would lose what the api had accepted.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE

import aio_pika
import asyncpg
import psutil
from aio_pika.abc import AbstractConnection

from deploy.local import postgres, rabbitmq
from deploy.local.ports import free_port
from deploy.local.process import Process, start, stop, wait_ready, working_in
from deploy.local.testservers import STATE
from tests.drills.waiting import within


class Server:
    """One server with a data folder of its own. ``prepare`` says how to start it, anew for each start."""

    def __init__(self, folder: Path, prepare: Callable[[], Awaitable[Process]]) -> None:
        self._folder = folder
        self._prepare = prepare
        self._running: tuple[Process, asyncio.subprocess.Process] | None = None

    @property
    def is_running(self) -> bool:
        return self._running is not None

    @property
    def pid(self) -> int:
        assert self._running is not None
        return self._running[1].pid

    async def start(self) -> None:
        assert self._running is None
        process = await self._prepare()
        with (self._folder / f"{process.name}.log").open("ab") as output:
            child = await start(process, output=output)
        self._running = process, child
        await wait_ready(process, child)

    async def stop(self) -> None:
        """As an operator stops it: it closes its files and ends its connections."""
        assert self._running is not None
        await stop(*self._running)
        self._running = None

    async def kill(self) -> None:
        """SIGKILL to every process of this server at once, so that none of them can put anything in order."""
        assert self._running is not None
        _, child = self._running
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        # PostgreSQL's processes and Erlang's helpers lead groups of their own; all of them work in its folder.
        while left := await asyncio.to_thread(_living_in, self._folder):
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(0.01)
        await child.wait()
        self._running = None


def _living_in(folder: Path) -> list[int]:
    return [pid for pid in working_in(folder) if psutil.pid_exists(pid) and _is_no_zombie(pid)]


def _is_no_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Database(Server):
    def __init__(self, state: Path) -> None:
        self.port = free_port()
        self._state = state
        super().__init__(state / "postgres", self._prepare_to_be_killed)
        (state / "postgres").mkdir(parents=True, exist_ok=True)

    async def _prepare_to_be_killed(self) -> Process:
        """Commits are in the system's hands before they are answered, so they outlive the server's processes. They
        need not be on the disk, which the broker keeps busy when it starts: nobody cuts the machine's power."""
        process = await postgres.prepare(self._state, durable=True, port=self.port)
        return replace(process, command=(*process.command, "-c", "fsync=off", "-c", "synchronous_commit=on"))

    def url(self, database: str = "postgres") -> str:
        """The superuser's, for asyncpg."""
        return postgres.url(self._state, port=self.port, database=database, scheme="postgresql")

    async def connect(self, database: str) -> asyncpg.Connection:
        return await asyncpg.connect(self.url(database))


class Broker(Server):
    def __init__(self, state: Path) -> None:
        self.port = free_port()
        self._state = state
        tools = STATE / "tools"
        super().__init__(state / "rabbitmq", lambda: rabbitmq.prepare(state, tools=tools, port=self.port))
        (state / "rabbitmq").mkdir(parents=True, exist_ok=True)

    def url(self, port: int | None = None) -> str:
        """The administrator's; with a ``port``, by way of what listens there."""
        return rabbitmq.url(self._state, port=port or self.port)

    async def connect(self) -> AbstractConnection:
        return await aio_pika.connect(self.url(), timeout=10)

    async def count_connections(self) -> tuple[int, int]:
        """Connections and their channels."""
        counts = await self._ask("{length(rabbit_networking:connections()), length(rabbit_channel:list())}")
        connections, channels = counts.strip("{}").split(",")
        return int(connections), int(channels)

    async def count_messages(self, queue: str) -> int:
        """How many a quorum queue holds: those that wait, and those that a consumer has and did not ack yet.

        The protocol tells only the former.
        """
        found = f'{{ok, Queue}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{queue}">>))'
        count = "ra:local_query(amqqueue:get_pid(Queue), fun rabbit_fifo:query_messages_total/1)"
        return int(await self._ask(f"{found}, {{ok, {{_, Count}}, _}} = {count}, Count"))

    async def _ask(self, expression: str) -> str:
        """The value of an Erlang expression in the server. The packages bring a client for it that starts at once,
        where `rabbitmqctl` takes a second or two of processor time."""
        assert self._running is not None
        env = self._running[0].env
        cookie = (self._folder / ".erlang.cookie").read_text()
        erl_call = Path(env["ROSTRUM_ERLANG"], "bin", "erl_call")
        child = await asyncio.create_subprocess_exec(
            erl_call,
            *("-sname", env["RABBITMQ_NODENAME"], "-c", cookie, "-e"),
            env={**os.environ, **env},
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
        )
        printed, failed = await child.communicate(f"{expression}.\n".encode())
        said = printed.decode()
        assert said.startswith("{ok, "), said + failed.decode()
        return said.removeprefix("{ok, ").removesuffix("}")

    async def knows(self, queues: Iterable[str]) -> None:
        """Waits until a kill can't make these quorum queues unusable.

        RabbitMQ 3.10 answers a declaration about a second before it has written down the queue's name, and a queue
        that it finds in its files without a name it can't start again. This is a fault of its own, which a drill
        need not meet: in production, queues are declared once and live for years.
        """
        (names,) = self._folder.glob("mnesia/*/quorum/*/names.dets")

        async def all_written() -> bool:
            written = await asyncio.to_thread(names.read_bytes)
            return all(f"_{queue}".encode() in written for queue in queues)

        await within(30, all_written)
