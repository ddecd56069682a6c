"""The PostgreSQL and RabbitMQ of a drill: stopped, killed and started again on the same port and data.

Drills cannot use the other tests' servers: these are shared, and their PostgreSQL commits asynchronously, so that a
kill would lose accepted writes.
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
    """One server with its own data folder. ``prepare`` is called for each start."""

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
        """Stop it as an operator does, with files and connections closed."""
        assert self._running is not None
        await stop(*self._running)
        self._running = None

    async def kill(self) -> None:
        """Send SIGKILL to every process of the server, so that none can clean up."""
        assert self._running is not None
        _, child = self._running
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        # PostgreSQL's processes and Erlang's helpers have their own process groups, but share the working folder.
        while left := await asyncio.to_thread(_living_in, self._folder):
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(0.01)
        await child.wait()
        self._running = None


def _living_in(folder: Path) -> list[int]:
    return [pid for pid in working_in(folder) if psutil.pid_exists(pid) and _is_not_zombie(pid)]


def _is_not_zombie(pid: int) -> bool:
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
        """Write commits to the operating system before they are answered, so that they survive a killed server.

        They need not be on the disk, because a drill does not cut the power.
        """
        process = await postgres.prepare(self._state, durable=True, port=self.port)
        return replace(process, command=(*process.command, "-c", "fsync=off", "-c", "synchronous_commit=on"))

    def url(self, database: str = "postgres") -> str:
        """Return the superuser's URL for asyncpg."""
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
        """Return the administrator's URL, through the proxy at ``port`` if given."""
        return rabbitmq.url(self._state, port=port or self.port)

    async def connect(self) -> AbstractConnection:
        return await aio_pika.connect(self.url(), timeout=10)

    async def count_connections(self) -> tuple[int, int]:
        """Return the numbers of connections and channels."""
        counts = await self._ask("{length(rabbit_networking:connections()), length(rabbit_channel:list())}")
        connections, channels = counts.strip("{}").split(",")
        return int(connections), int(channels)

    async def count_messages(self, queue: str) -> int:
        """Return the messages of a quorum queue, ready and unacknowledged; AMQP reports only the ready ones."""
        found = f'{{ok, Queue}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{queue}">>))'
        count = "ra:local_query(amqqueue:get_pid(Queue), fun rabbit_fifo:query_messages_total/1)"
        return int(await self._ask(f"{found}, {{ok, {{_, Count}}, _}} = {count}, Count"))

    async def _ask(self, expression: str) -> str:
        """Return the value of an Erlang expression in the server. ``rabbitmqctl`` would take seconds."""
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
        value = printed.decode()
        assert value.startswith("{ok, "), value + failed.decode()
        return value.removeprefix("{ok, ").removesuffix("}")

    async def until_stored(self, queues: Iterable[str]) -> None:
        """Wait until a kill cannot make these quorum queues unusable.

        RabbitMQ 3.10 confirms a declaration before it has stored the queue's name, and cannot recover a queue
        without one. Drills avoid this fault of its own, because in production a queue is declared once.
        """
        (names,) = self._folder.glob("mnesia/*/quorum/*/names.dets")

        async def all_written() -> bool:
            written = await asyncio.to_thread(names.read_bytes)
            return all(f"_{queue}".encode() in written for queue in queues)

        await within(30, all_written)
