import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from textwrap import dedent

import psutil
import pytest

from deploy.local import supervisor as supervision
from deploy.local.process import Process
from deploy.local.supervisor import (
    ClusterFailed,
    Log,
    Record,
    Supervisor,
    Tier,
    process_of,
    read_records,
    stop_leftovers,
)

# Writes its name at start and at SIGTERM, and is ready once it handles signals.
POLITE = """
import pathlib, signal, sys
name, journal = sys.argv[1], pathlib.Path(sys.argv[2])
def write(what):
    with journal.open("a") as file:
        file.write(f"{name} {what}\\n")
def end(*_):
    write("stops")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
write("starts")
while True:
    signal.pause()
"""
STUBBORN = """
import os, signal, sys, pathlib
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
if child:
    pathlib.Path(sys.argv[1]).write_text(f"{os.getpid()} {child}")
while True:
    signal.pause()
"""


def python(name: str, code: str, *arguments: object, **options: object) -> Process:
    return Process(
        name=name,
        command=(sys.executable, "-c", dedent(code), *map(str, arguments)),
        env={},
        **options,  # type: ignore[arg-type] # the options of Process
    )


def holds(path: Path, text: str) -> Callable[[], Awaitable[bool]]:
    async def probe() -> bool:
        return await asyncio.to_thread(_holds, path, text)

    return probe


def _holds(path: Path, text: str) -> bool:
    return path.exists() and text in path.read_text()


def polite(name: str, journal: Path, **options: object) -> Process:
    return python(name, POLITE, name, journal, ready=holds(journal, f"{name} starts"), **options)


def tier(name: str, *processes: Process, after: tuple[str, ...] = ()) -> Tier:
    async def prepare() -> Sequence[Process]:
        return processes

    return Tier(name, prepare, after=after)


class Rig:
    """A supervisor that runs in the background of a test."""

    def __init__(self, folder: Path, *tiers: Tier) -> None:
        self.folder = folder
        self.log = folder / "cluster.log"
        self._stream = Log(self.log, echo=False)
        self.supervisor = Supervisor(tiers, run_folder=folder / "run", log=self._stream)
        self.ready = asyncio.Event()
        self.task = asyncio.create_task(self.supervisor.run(when_ready=lambda _: self.ready.set()))

    async def until_ready(self) -> None:
        waiting = asyncio.create_task(self.ready.wait())
        await asyncio.wait({waiting, self.task}, return_when=asyncio.FIRST_COMPLETED, timeout=30)
        waiting.cancel()
        assert self.ready.is_set(), self.log.read_text()

    async def stop(self) -> None:
        self.supervisor.request_stop()
        await asyncio.wait_for(self.task, 30)

    async def end(self) -> None:
        self.supervisor.request_stop()
        await asyncio.gather(self.task, return_exceptions=True)
        self._stream.close()


Run = Callable[..., Rig]


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Run]:
    rigs: list[Rig] = []

    def start(*tiers: Tier) -> Rig:
        rigs.append(Rig(tmp_path, *tiers))
        return rigs[-1]

    yield start
    for rig in rigs:
        await rig.end()


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        await asyncio.sleep(0.02)


def record_of(folder: Path, name: str) -> Record | None:
    return next((record for record in read_records(folder / "run") if record.name == name), None)


async def test_tiers_start_in_order_and_stop_in_reverse(tmp_path: Path, run: Run) -> None:
    journal = tmp_path / "journal"
    append = "import sys; open(sys.argv[1], 'a').write('step\\n')"
    rig = run(tier("gateway", polite("gateway", journal), after=("roles",)),
        tier("roles", polite("roles", journal), after=("steps",)),
        tier("steps", python("step", append, journal, once=True), after=("data",)),
        tier("data", polite("data", journal)),
    )  # fmt: skip
    await rig.until_ready()
    await rig.stop()
    assert journal.read_text().splitlines() == [
        "data starts", "step", "roles starts", "gateway starts",
        "gateway stops", "roles stops", "data stops",
    ]  # fmt: skip
    assert read_records(tmp_path / "run") == []


async def test_a_process_that_dies_is_restarted(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "FIRST_PAUSE", 0.01)
    rig = run(tier("roles", polite("role", tmp_path / "journal")))
    await rig.until_ready()
    first = record_of(tmp_path, "role")
    assert first is not None
    os.kill(first.pid, signal.SIGKILL)

    def is_back() -> bool:
        now = record_of(tmp_path, "role")
        return now is not None and now.pid != first.pid and now.state == "ready" and now.restarts == 1

    await until(is_back)
    await rig.stop()
    assert "role ended with exit code -9; restarting" in rig.log.read_text()


async def test_a_crash_loop_stops_everything_with_the_reason(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "FIRST_PAUSE", 0.01)
    journal = tmp_path / "journal"
    rig = run(
        tier("data", polite("data", journal)),
        tier("roles", python("role", "print('no such table'); raise SystemExit(3)"), after=("data",)),
    )
    with pytest.raises(ClusterFailed, match=r"(?s)role died 5 times in a row.*exit code 3.*no such table"):
        await asyncio.wait_for(rig.task, 30)
    assert journal.read_text().splitlines() == ["data starts", "data stops"]


async def test_a_failed_step_stops_everything_and_is_not_retried(tmp_path: Path, run: Run) -> None:
    rig = run(
        tier("steps", python("migration", "print('bad revision'); raise SystemExit(1)", once=True)),
        tier("roles", polite("role", tmp_path / "journal"), after=("steps",)),
    )
    with pytest.raises(ClusterFailed, match=r"(?s)migration failed with exit code 1.*bad revision"):
        await asyncio.wait_for(rig.task, 30)
    assert not (tmp_path / "journal").exists()


async def test_a_process_that_is_never_ready_stops_everything(tmp_path: Path, run: Run) -> None:
    never = python(
        "role", "import signal; print('waits'); signal.pause()", ready=holds(tmp_path / "x", ""), ready_timeout=0.5
    )
    rig = run(tier("roles", never))
    with pytest.raises(ClusterFailed, match=r"role was not ready after 0.5 s"):
        await asyncio.wait_for(rig.task, 30)


async def test_a_process_that_ignores_the_stop_signal_is_killed_with_its_children(tmp_path: Path, run: Run) -> None:
    pids = tmp_path / "pids"
    rig = run(tier("roles", python("role", STUBBORN, pids, ready=holds(pids, " "), stop_timeout=0.3)))
    await rig.until_ready()
    await rig.stop()
    await until(lambda: not any(map(psutil.pid_exists, map(int, pids.read_text().split()))))


async def test_a_second_stop_request_kills_at_once(tmp_path: Path, run: Run) -> None:
    pids = tmp_path / "pids"
    rig = run(tier("roles", python("role", STUBBORN, pids, ready=holds(pids, " "), stop_timeout=60)))
    await rig.until_ready()
    rig.supervisor.request_stop()
    await until(lambda: (record := record_of(tmp_path, "role")) is not None and record.state == "stopping")
    rig.supervisor.request_stop()
    await asyncio.wait_for(rig.task, 10)
    await until(lambda: not any(map(psutil.pid_exists, map(int, pids.read_text().split()))))


async def test_a_readiness_check_that_loses_its_cancellation_does_not_delay_the_stop(
    tmp_path: Path, run: Run
) -> None:
    lost = asyncio.Event()

    async def ready() -> bool:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            if lost.is_set():
                raise
            lost.set()
        return False

    waiting = python("role", "import signal; signal.pause()", ready=ready)
    step = python("step", "raise SystemExit(1)", once=True)
    rig = run(tier("roles", waiting, step))
    with pytest.raises(ClusterFailed, match="step failed"):
        await asyncio.wait_for(rig.task, 20)
    assert lost.is_set()


async def test_a_stop_during_the_start_leaves_nothing(tmp_path: Path, run: Run) -> None:
    journal = tmp_path / "journal"
    rig = run(tier("roles", python("role", POLITE, "role", journal, ready=holds(tmp_path / "x", ""))))
    await until(lambda: journal.exists())
    await rig.stop()
    assert journal.read_text().splitlines() == ["role starts", "role stops"]
    assert not rig.ready.is_set()


async def test_a_child_that_holds_the_output_does_not_delay_the_stop(tmp_path: Path, run: Run) -> None:
    code = """
        import os, pathlib, signal, sys
        daemon = os.fork()
        if daemon == 0:
            os.setsid()
            os.execvp("sleep", ["sleep", "300"])
        pathlib.Path(sys.argv[1]).write_text(str(daemon))
        signal.pause()
    """
    daemon = tmp_path / "daemon"
    rig = run(tier("roles", python("role", code, daemon, ready=holds(daemon, ""), stop_timeout=60)))
    await rig.until_ready()
    started_at = time.monotonic()
    await rig.stop()
    assert time.monotonic() - started_at < 10
    os.kill(int(daemon.read_text()), signal.SIGKILL)


async def test_lines_stay_unchanged(tmp_path: Path, run: Run) -> None:
    line = json.dumps({"event": "schlüssel.made", "text": "a" * 200_000})
    path = tmp_path / "line"
    path.write_text(line)
    code = f"print(open({str(path)!r}).read()); print('no end of line', end='')"
    rig = run(tier("steps", python("step", code, once=True)))
    await rig.until_ready()
    await rig.stop()
    lines = rig.log.read_text().splitlines()
    assert f"step | {line}" in lines
    assert "step | no end of line" in lines


async def test_the_log_stays_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "MEBIBYTE", 1000)
    log = Log(tmp_path / "logs" / "cluster.log", echo=False)
    for number in range(2000):
        log.line("role", f"{number} " + "x" * 100)
    log.close()
    files = list((tmp_path / "logs").iterdir())
    assert len(files) == 3
    assert sum(file.stat().st_size for file in files) <= 3 * 16_000
    assert "role | 1999 " in (tmp_path / "logs" / "cluster.log").read_text()


KILLED = """
import asyncio, os, pathlib, signal, sys
from deploy.local.process import Process
from deploy.local.supervisor import Log, Supervisor, Tier
folder = pathlib.Path(sys.argv[1])
async def prepare():
    return [Process(name="role", command=tuple(sys.argv[2:]), env={})]
supervisor = Supervisor([Tier("roles", prepare)], run_folder=folder / "run", log=Log(folder / "log", echo=False))
asyncio.run(supervisor.run(when_ready=lambda _: os.kill(os.getpid(), signal.SIGKILL)))
"""


async def run_killed_supervisor(folder: Path, *command: str) -> Record:
    killed = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, str(folder), *command)
    assert await asyncio.wait_for(killed.wait(), 30) == -signal.SIGKILL
    [record] = read_records(folder / "run")
    return record


async def test_the_kernel_ends_the_processes_of_a_killed_supervisor(tmp_path: Path) -> None:
    record = await run_killed_supervisor(tmp_path, "sleep", "300")
    await until(lambda: process_of(record) is None)


async def test_processes_that_outlive_a_killed_supervisor_are_stopped(tmp_path: Path) -> None:
    # As for a command that changes its user, the kernel does not end it with its parent.
    record = await run_killed_supervisor(tmp_path, "setpriv", "--pdeathsig", "clear", "--", "sleep", "300")
    if process_of(record) is None:
        pytest.skip("the kernel was faster than setpriv")
    assert await asyncio.to_thread(stop_leftovers, tmp_path / "run") == ["role"]
    assert process_of(record) is None
    assert read_records(tmp_path / "run") == []


async def test_a_process_that_reuses_a_recorded_pid_is_left_alone(tmp_path: Path) -> None:
    other = await asyncio.create_subprocess_exec("sleep", "300", start_new_session=True)
    run = tmp_path / "run"
    run.mkdir()
    old = {"name": "role", "pid": other.pid, "created_at": time.time() - 3600, "state": "ready"}
    (run / "role.pid").write_text(json.dumps({**old, "restarts": 0, "stop_signal": 15}))
    assert await asyncio.to_thread(stop_leftovers, run) == []
    assert other.returncode is None
    other.kill()
    await other.wait()
