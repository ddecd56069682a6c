"""One process of the local cluster: its command, its readiness check and its stop.

Every process leads a session, and so a process group. Its stop signal goes to the leader only, so that the leader
can end its children in order. After its end or its stop timeout, the rest of the group is killed.
"""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT
from typing import IO
from urllib.parse import urlsplit

Ready = Callable[[], Awaitable[bool]]


class MissingPart(Exception):
    """The machine lacks something. The message is one line: what is missing, and how to get it."""


class NotReady(Exception):
    """A process ended or timed out before it was ready."""


@dataclass(frozen=True)
class Process:
    """What to run. Times are seconds; ``env`` is added to the environment of the parent.

    ``ready`` is polled until it returns True; without it the process is ready once started. ``once`` marks a
    step, such as a migration, that must exit with 0 before dependent processes start.
    """

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path | None = None
    ready: Ready | None = None
    ready_timeout: float = 60.0
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout: float = 25.0
    once: bool = False


async def start(process: Process, *, output: int | IO[bytes] | None = None) -> asyncio.subprocess.Process:
    """Start it. ``output`` receives stdout and stderr: a file, ``subprocess.PIPE``, or None for the parent's."""
    return await asyncio.create_subprocess_exec(
        *process.command,
        cwd=process.cwd,
        env={**os.environ, **process.env},
        stdin=DEVNULL,
        stdout=output,
        stderr=None if output is None else STDOUT,
        start_new_session=True,
    )


class StepFailed(Exception):
    """A set-up command failed; the message holds the command and the end of its output."""


async def run(*command: str, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """Run a set-up command and return its output; raise ``StepFailed`` if it fails.

    Cancelling the caller kills the command.
    """
    child = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=STDOUT,
        start_new_session=True,
    )
    try:
        printed, _ = await child.communicate()
    finally:
        if child.returncode is None:
            os.killpg(child.pid, signal.SIGKILL)
            await child.wait()
    text = printed.decode(errors="replace")
    if child.returncode != 0:
        last_lines = " | ".join(text.strip().splitlines()[-5:])
        raise StepFailed(f"`{' '.join(command)}` ended with exit code {child.returncode}: {last_lines}")
    return text


def tool(name: str, *, wheel: str, way_out: str) -> str:
    """Return the path of a program that a wheel installs beside this Python. Raise ``MissingPart``."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        raise MissingPart(f"`{name}` is missing: run `make setup` (wheel `{wheel}`), {way_out}")
    return found


async def wait_ready(process: Process, child: asyncio.subprocess.Process) -> float:
    """Return the seconds until it was ready; raise ``NotReady`` if the child ended or timed out."""
    started_at = time.monotonic()
    while process.ready is not None:
        if child.returncode is not None:
            raise NotReady(f"{process.name} ended with exit code {child.returncode} before it was ready")
        if await process.ready():
            break
        if time.monotonic() - started_at > process.ready_timeout:
            raise NotReady(f"{process.name} was not ready after {process.ready_timeout:g} s")
        await asyncio.sleep(0.1)
    return time.monotonic() - started_at


async def stop(process: Process, child: asyncio.subprocess.Process) -> None:
    """End the child and its group, and wait for it. It may have ended already."""
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(process.stop_signal)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(child.wait(), process.stop_timeout)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    await child.wait()


def working_in(folder: Path) -> list[int]:
    """Return the processes that work in this folder or below; finds the servers of a killed run."""
    whole = str(folder.resolve())
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                place = os.readlink(entry / "cwd").removesuffix(" (deleted)")
                if place == whole or place.startswith(f"{whole}/"):
                    found.append(int(entry.name))
    return found


def tcp_ready(host: str, port: int) -> Ready:
    """Return a check that a port accepts connections."""

    async def probe() -> bool:
        try:
            _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), 2.0)
        except (OSError, TimeoutError):
            return False
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return True

    return probe


def http_ready(url: str, *, holds: bytes = b"") -> Ready:
    """Return a check that a GET of the ``http:`` URL has a 2xx status and a body that contains ``holds``."""
    address = urlsplit(url)
    host, port = address.hostname or "127.0.0.1", address.port or 80
    request = f"GET {address.path or '/'} HTTP/1.0\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode()

    async def ask() -> bytes:
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(request)
            await writer.drain()
            return await reader.read(1 << 20)
        finally:
            writer.close()

    async def probe() -> bool:
        try:
            head, _, body = (await asyncio.wait_for(ask(), 2.0)).partition(b"\r\n\r\n")
        except (OSError, TimeoutError):
            return False
        return re.match(rb"HTTP/1\.\d 2\d\d\b", head) is not None and holds in body

    return probe
