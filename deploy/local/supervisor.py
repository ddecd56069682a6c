"""Start tiers of processes in order, restart them, and stop them in reverse order.

A process that dies is restarted after a pause that doubles. A crash loop or a failed step stops everything with
the reason. Each running process has a file in a folder, so that other commands can list it, and the next start
finds what a killed supervisor left.
"""

import asyncio
import contextlib
import json
import logging
import logging.handlers
import os
import shutil
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO

import psutil

from deploy.local.process import NotReady, Process, start, stop, wait_ready

MEBIBYTE = 1 << 20

# A crash loop: this many deaths in a row, none after the process had been ready for STEADY_AFTER.
MAX_DEATHS = 5
STEADY_AFTER = 10.0
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 15.0

_TAIL_LINES = 25
_LONGEST_LINE = MEBIBYTE


class ClusterFailed(Exception):
    """The cluster cannot run; the message has the last output of the process that caused it."""


@dataclass(frozen=True)
class Tier:
    """Processes that start together once the tiers named in ``after`` are ready.

    ``prepare`` runs at that moment and returns what to start; it may create folders and keys.
    """

    name: str
    prepare: Callable[[], Awaitable[Sequence[Process]]]
    after: tuple[str, ...] = ()


@dataclass
class Record:
    """The file of a running process. ``created_at`` is the kernel's, so a reused pid is not mistaken for it."""

    name: str
    pid: int
    created_at: float
    state: str
    restarts: int
    stop_signal: int


@dataclass
class _Kept:
    process: Process
    child: asyncio.subprocess.Process | None = None
    created_at: float = 0.0
    restarts: int = 0
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=_TAIL_LINES))
    ready: asyncio.Event = field(default_factory=asyncio.Event)


class Log:
    """The one stream of all output, to the terminal and to a bounded file. Lines stay unchanged."""

    def __init__(self, path: Path, *, echo: bool) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = logging.handlers.RotatingFileHandler(
            path, maxBytes=16 * MEBIBYTE, backupCount=2, encoding="utf-8"
        )
        self._echo = echo

    def line(self, name: str, text: str) -> None:
        text = f"{name} | {text}"
        self._file.handle(logging.LogRecord("cluster", logging.INFO, "", 0, text, None, None))
        if self._echo:
            try:
                print(text, flush=True)
            except OSError:  # the terminal is gone; the file continues
                self._echo = False

    def close(self) -> None:
        self._file.close()


class Supervisor:
    def __init__(self, tiers: Sequence[Tier], *, run_folder: Path, log: Log) -> None:
        self._tiers = tiers
        self._run_folder = run_folder
        self._log = log
        self._kept: dict[str, list[_Kept]] = {tier.name: [] for tier in tiers}
        self._ready = {tier.name: asyncio.Event() for tier in tiers}
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._outputs: set[asyncio.Task[None]] = set()

    def say(self, text: str) -> None:
        self._log.line("cluster", text)

    def request_stop(self) -> None:
        """Stop in reverse order; at the second call kill everything."""
        if not self._stop.is_set():
            self._stop.set()
            return
        self.say("second signal: killing all processes")
        for tier in self._kept.values():
            for kept in tier:
                if kept.child is not None:
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.killpg(kept.child.pid, signal.SIGKILL)

    async def run(self, *, when_ready: Callable[[float], None]) -> None:
        """Start all, call ``when_ready`` with the seconds it took, and keep all running until a stop request.

        Everything is stopped when this returns or raises: ``ClusterFailed``, or the error of a ``prepare``.
        """
        self._run_folder.mkdir(parents=True, exist_ok=True)
        for tier in self._tiers:
            self._begin(self._run_tier(tier))
        self._begin(self._announce(when_ready))
        await self._stop.wait()
        # Repeated, because Python 3.11's `wait_for` can lose a cancellation.
        while waiting := [task for task in self._tasks if not task.done()]:
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting, timeout=0.5)
        await self._stop_all()
        if self._failure is not None:
            raise self._failure

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        """Run it in the background; its failure stops everything."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = self._failure or error
            self._stop.set()

    async def _announce(self, when_ready: Callable[[float], None]) -> None:
        started_at = time.monotonic()
        for ready in self._ready.values():
            await ready.wait()
        when_ready(time.monotonic() - started_at)

    async def _run_tier(self, tier: Tier) -> None:
        for name in tier.after:
            await self._ready[name].wait()
        started_at = time.monotonic()
        members = [_Kept(process) for process in await tier.prepare()]
        self._kept[tier.name] = members
        for kept in members:
            self._begin(self._run_once(kept) if kept.process.once else self._keep(kept))
        for kept in members:
            await kept.ready.wait()
        if members:
            self.say(f"{tier.name} ready after {time.monotonic() - started_at:.1f} s")
        self._ready[tier.name].set()

    async def _run_once(self, kept: _Kept) -> None:
        child, output = await self._spawn(kept)
        try:
            await asyncio.wait_for(child.wait(), kept.process.ready_timeout)
        except TimeoutError:
            raise self._failed(kept, f"did not end within {kept.process.ready_timeout:g} s") from None
        await stop(kept.process, child)
        await _finish(output)
        self._record_path(kept).unlink(missing_ok=True)
        if child.returncode != 0:
            raise self._failed(kept, f"failed with exit code {child.returncode}")
        kept.child = None
        kept.ready.set()

    async def _keep(self, kept: _Kept) -> None:
        process = kept.process
        deaths = 0
        while True:
            child, output = await self._spawn(kept)
            try:
                await wait_ready(process, child)
            except NotReady as error:
                if child.returncode is None and not kept.ready.is_set():
                    raise self._failed(kept, str(error).removeprefix(f"{process.name} ")) from error
            else:
                ready_at = time.monotonic()
                kept.ready.set()
                self._write_record(kept, "ready")
                await child.wait()
                if time.monotonic() - ready_at >= STEADY_AFTER:
                    deaths = 0
            await stop(process, child)
            await _finish(output)
            deaths += 1
            if deaths >= MAX_DEATHS:
                raise self._failed(kept, f"died {deaths} times in a row, at last with exit code {child.returncode}")
            pause = min(FIRST_PAUSE * 2 ** (deaths - 1), LONGEST_PAUSE)
            self.say(f"{process.name} ended with exit code {child.returncode}; restarting in {pause:g} s")
            self._write_record(kept, "waiting")
            await asyncio.sleep(pause)
            kept.restarts += 1

    async def _spawn(self, kept: _Kept) -> tuple[asyncio.subprocess.Process, asyncio.Task[None]]:
        kept.tail.clear()
        # With asyncio's own pipe, a child counts as running until its children have closed the pipe too.
        reading, writing = os.pipe()
        try:
            child = await start(_stopped_with_supervisor(kept.process), output=writing)
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        kept.child = child
        kept.created_at = time.time()
        with contextlib.suppress(psutil.NoSuchProcess):
            kept.created_at = psutil.Process(child.pid).create_time()
        self._write_record(kept, "starting")
        output = asyncio.create_task(self._pass_on(kept, os.fdopen(reading, "rb", buffering=0)))
        self._outputs.add(output)
        output.add_done_callback(self._outputs.discard)
        return child, output

    async def _pass_on(self, kept: _Kept, pipe: IO[bytes]) -> None:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        rest = b""
        try:
            while data := await reader.read(64 * 1024):
                *lines, rest = (rest + data).split(b"\n")
                if len(rest) > _LONGEST_LINE:
                    lines, rest = [*lines, rest], b""
                for line in lines:
                    self._pass_on_line(kept, line)
        finally:
            if rest:
                self._pass_on_line(kept, rest)
            transport.close()

    def _pass_on_line(self, kept: _Kept, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip("\r")
        kept.tail.append(text)
        self._log.line(kept.process.name, text)

    def _failed(self, kept: _Kept, reason: str) -> ClusterFailed:
        tail = "".join(f"\n    {line[:500]}" for line in kept.tail)
        return ClusterFailed(f"{kept.process.name} {reason}." + (f" Its last lines:{tail}" if tail else ""))

    async def _stop_all(self) -> None:
        # Reverse order: a tier stops when every tier that depends on it has stopped.
        stopped = {tier.name: asyncio.Event() for tier in self._tiers}

        async def stop_tier(tier: Tier) -> None:
            for other in self._tiers:
                if tier.name in other.after:
                    await stopped[other.name].wait()
            await asyncio.gather(*(self._stop_kept(kept) for kept in self._kept[tier.name]))
            stopped[tier.name].set()

        await asyncio.gather(*(stop_tier(tier) for tier in self._tiers))
        for output in list(self._outputs):
            await _finish(output)

    async def _stop_kept(self, kept: _Kept) -> None:
        if kept.child is not None:
            self._write_record(kept, "stopping")
            await stop(kept.process, kept.child)
        self._record_path(kept).unlink(missing_ok=True)

    def _record_path(self, kept: _Kept) -> Path:
        return self._run_folder / f"{kept.process.name}.pid"

    def _write_record(self, kept: _Kept, state: str) -> None:
        assert kept.child is not None  # noqa: S101 - only started processes have records
        record = Record(
            name=kept.process.name,
            pid=kept.child.pid,
            created_at=kept.created_at,
            state=state,
            restarts=kept.restarts,
            stop_signal=int(kept.process.stop_signal),
        )
        path = self._record_path(kept)
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(asdict(record)))
        unfinished.rename(path)


def read_records(run_folder: Path) -> list[Record]:
    """Return what the supervisor of this folder runs, or ran when it was killed, sorted by name."""
    records = []
    for path in sorted(run_folder.glob("*.pid")):
        with contextlib.suppress(OSError, ValueError, TypeError):  # removed or replaced meanwhile
            records.append(Record(**json.loads(path.read_text())))
    return records


def process_of(record: Record) -> psutil.Process | None:
    """Return the record's process while it lives, but never another one with the same pid."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(record.pid)
        if abs(process.create_time() - record.created_at) < 1.0:
            return process
    return None


def stop_leftovers(run_folder: Path, *, patience: float = 15.0) -> list[str]:
    """Stop what a killed supervisor left running; return the names. Wait at most ``patience`` seconds."""
    records = read_records(run_folder)
    leaders = {record.name: process for record in records if (process := process_of(record))}
    groups = {record.name: list(_group_of(record)) for record in records}
    members = [process for group in groups.values() for process in group]
    for record in records:
        if record.name in leaders:
            with contextlib.suppress(psutil.Error):
                leaders[record.name].send_signal(record.stop_signal)
    psutil.wait_procs(list(leaders.values()), timeout=patience)
    for process in [*leaders.values(), *members]:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs([*leaders.values(), *members], timeout=5.0)
    for path in run_folder.glob("*.pid"):
        path.unlink(missing_ok=True)
    return [record.name for record in records if record.name in leaders or groups[record.name]]


def _group_of(record: Record) -> Iterator[psutil.Process]:
    """Yield the others of the record's process group. While one lives, no new process gets the leader's pid."""
    if process_of(record) is None and psutil.pid_exists(record.pid):
        return  # another process has the pid
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if (
                process.pid != record.pid
                and os.getpgid(process.pid) == record.pid
                and process.create_time() >= record.created_at - 1.0
            ):
                yield process


def _stopped_with_supervisor(process: Process) -> Process:
    """Let the kernel stop the process when the supervisor is killed; lost if the command changes its user."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return process
    signal_name = process.stop_signal.name.removeprefix("SIG")
    return replace(process, command=(setpriv, "--pdeathsig", signal_name, "--", *process.command))


async def _finish(output: asyncio.Task[None]) -> None:
    """Wait for the last lines; a daemon that left the group may hold the pipe open for ever."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(output, 1.0)
