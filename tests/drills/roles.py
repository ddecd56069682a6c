"""The roles of a drill as real processes that can be stopped, killed and frozen."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import httpx
import orjson
import psutil

from deploy.local.ports import free_port
from testkit.processes import Running
from tests.drills.waiting import within

READY_TIMEOUT = 60.0


@dataclass(frozen=True)
class Part:
    """A role of a drill, and its options for ``tests.drills.role``. ``number`` distinguishes replicas."""

    module: str
    options: tuple[str, ...] = ()
    number: int = 1

    def replica(self, number: int) -> Self:
        return replace(self, number=number)

    def with_faults(self, *names: str) -> Self:
        return self._with(*(option for name in names for option in ("--fault", name)))

    def without(self, *mechanisms: str) -> Self:
        return self._with(*(option for name in mechanisms for option in ("--without", name)))

    def with_constants(self, **values: float) -> Self:
        """Set what ``role.py`` can set, two underscores for the dot: ``relay__publish_window=0.5``."""
        settings = (f"{name.replace('__', '.', 1)}={value}" for name, value in values.items())
        return self._with(*(option for setting in settings for option in ("--constant", setting)))

    def _with(self, *options: str) -> Self:
        return replace(self, options=self.options + options)

    def command(self) -> list[str]:
        return ["tests.drills.role", self.module, *self.options] if self.options else [self.module]


class Role:
    """A running part. Its log survives a SIGKILL, because each line is written at once."""

    def __init__(self, part: Part, running: Running) -> None:
        self.part = part
        self._running = running

    @property
    def url(self) -> str:
        return self._running.url

    @property
    def pid(self) -> int:
        return self._running.process.pid

    @property
    def is_alive(self) -> bool:
        return self._running.process.returncode is None

    @property
    def memory(self) -> int:
        """Bytes resident."""
        return int(psutil.Process(self.pid).memory_info().rss)

    @property
    def log(self) -> Path:
        return self._running.log

    def lines(self, name: str, *, since: int = 0) -> list[dict[str, Any]]:
        """Return its log lines with this event name, from this byte of the log on."""
        quoted = f'"{name}"'.encode()
        read = [orjson.loads(line) for line in self.log.read_bytes()[since:].splitlines() if quoted in line]
        return [line for line in read if line["event"] == name]

    def log_tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])

    async def redelivered(self) -> int:
        """Return the value of its counter of redelivered messages."""
        async with httpx.AsyncClient(verify=False) as client:
            metrics = (await client.get(f"{self.url}/metrics")).text
        found = re.search(r"^rostrum_messages_redelivered_total (\S+)$", metrics, re.MULTILINE)
        assert found is not None
        return int(float(found.group(1)))

    def arm_kill(self) -> None:
        """Let its fault kill it at the next occasion."""
        self.signal(signal.SIGUSR1)

    def slow_down(self) -> None:
        self.signal(signal.SIGUSR2)

    def freeze(self) -> None:
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def signal(self, number: signal.Signals) -> None:
        self._running.process.send_signal(number)

    async def stop(self) -> int:
        """Send SIGTERM and return the exit code."""
        self.thaw()
        return await self._running.stop()

    async def kill(self) -> None:
        if self.is_alive:
            self._running.process.kill()
        await self._running.process.wait()

    async def died(self) -> int:
        """Wait until it has ended and return the exit code, negative for a signal."""
        async with asyncio.timeout(30):
            return await self._running.process.wait()


async def start_role(part: Part, environment: Mapping[str, str], folder: Path, port: int | None = None) -> Role:
    """Start the part as a process and wait until it is ready; on a free port unless one is given."""
    port = port or free_port()
    log = folder / f"{part.module}-{port}-{part.number}.log"
    ports = {"API_PORT": str(port), "HEALTH_PORT": str(port)}
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            *part.command(),
            env={**os.environ, **environment, **ports},
            stdout=output,
            stderr=output,
        )
    role = Role(part, Running(f"http://127.0.0.1:{port}", process, log))
    async with httpx.AsyncClient(verify=False) as client:

        async def is_ready() -> bool:
            assert role.is_alive, f"{part.module} ended before it was ready:\n{role.log_tail()}"
            try:
                return (await client.get(f"{role.url}/healthz/ready")).status_code == 200
            except httpx.TransportError:
                return False

        try:
            await within(READY_TIMEOUT, is_ready)
        except BaseException:
            await role.kill()
            raise
    return role
