"""Temporary PostgreSQL, RabbitMQ and S3 for tests: `python -m deploy.local.testservers run -- pytest …`.

It exports their addresses as TEST_DATABASE_URL (a superuser's), TEST_RABBITMQ_URL, TEST_S3_ENDPOINT,
TEST_S3_ACCESS_KEY_ID and TEST_S3_SECRET_ACCESS_KEY. A server whose address is set (DATABASE_URL, RABBITMQ_URL,
S3_ENDPOINT, or the TEST_ name) is used as it is. `serve` prints `export` lines and stays, for single tests.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import fcntl
import os
import shlex
import shutil
import signal
import sys
from asyncio.subprocess import Process as Child
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from deploy.local import postgres, rabbitmq, seaweedfs
from deploy.local.ports import free_port
from deploy.local.process import MissingPart, NotReady, Process, StepFailed, start, stop, wait_ready, working_in

STATE = Path(__file__).resolve().parents[2] / ".state"
KINDS = ("database", "broker", "s3")


@asynccontextmanager
async def servers(
    given: Mapping[str, str] = os.environ, *, state: Path = STATE, only: Collection[str] = KINDS
) -> AsyncIterator[dict[str, str]]:
    """Start the servers without an address in ``given``; yield the TEST_ variables of all, and stop them at exit.

    Raise ``MissingPart`` or ``NotReady`` if one cannot start; then none runs.
    """
    with _run_folder(state / "test") as folder:
        running: list[tuple[Process, Child]] = []

        async def run_server(process: Process) -> None:
            log = folder / f"{process.name}.log"
            with log.open("wb") as output:
                child = await start(process, output=output)
            running.append((process, child))
            try:
                await wait_ready(process, child)
            except NotReady as error:
                last_lines = log.read_text(errors="replace").strip().splitlines()[-20:]
                raise NotReady("\n".join((str(error), *last_lines))) from error

        async def database() -> dict[str, str]:
            port = free_port()
            await run_server(await postgres.prepare(folder, durable=False, port=port))
            return {"TEST_DATABASE_URL": postgres.url(folder, port=port)}

        async def broker() -> dict[str, str]:
            port = free_port()
            process = await rabbitmq.prepare(folder, tools=state / "tools", port=port)
            await run_server(_killed_at_the_end(process))
            return {"TEST_RABBITMQ_URL": rabbitmq.url(folder, port=port)}

        async def storage() -> dict[str, str]:
            port = free_port()
            await run_server(_killed_at_the_end(await seaweedfs.prepare(folder, port=port)))
            settings = seaweedfs.client_env(folder, port=port)
            return {name: settings[name.removeprefix("TEST_")] for name in _NAMES if name.startswith("TEST_S3_")}

        begin = {"database": database, "broker": broker, "s3": storage}
        address = {"database": "TEST_DATABASE_URL", "broker": "TEST_RABBITMQ_URL", "s3": "TEST_S3_ENDPOINT"}
        env = _given(given)
        tasks = [asyncio.ensure_future(begin[kind]()) for kind in only if address[kind] not in env]
        try:
            for started in await asyncio.gather(*tasks):
                env.update(started)
            yield env
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*(stop(process, child) for process, child in running))


_NAMES = {
    "TEST_DATABASE_URL": "DATABASE_URL",
    "TEST_RABBITMQ_URL": "RABBITMQ_URL",
    "TEST_S3_ENDPOINT": "S3_ENDPOINT",
    "TEST_S3_ACCESS_KEY_ID": "S3_ACCESS_KEY_ID",
    "TEST_S3_SECRET_ACCESS_KEY": "S3_SECRET_ACCESS_KEY",
}


def _given(env: Mapping[str, str]) -> dict[str, str]:
    found = {name: env.get(name) or env.get(other) for name, other in _NAMES.items()}
    return {name: value for name, value in found.items() if value}


def _killed_at_the_end(process: Process) -> Process:
    """Stop it with SIGKILL: its files are deleted, so a clean stop gains nothing."""
    return dataclasses.replace(process, stop_signal=signal.SIGKILL)


@contextmanager
def _run_folder(runs: Path) -> Iterator[Path]:
    """Yield a folder of this run, after ending and removing what killed runs left.

    A run holds the lock of its folder until it ends, however it ends.
    """
    runs.mkdir(parents=True, exist_ok=True)
    folder = runs / str(os.getpid())
    with (runs / "lock").open("a") as beginning:
        fcntl.flock(beginning, fcntl.LOCK_EX)
        for left in runs.glob("*/lock"):
            if not _is_locked(left):
                _remove(left.parent)
        folder.mkdir()
        own = (folder / "lock").open("a")
        fcntl.flock(own, fcntl.LOCK_EX)
    with own:
        try:
            yield folder
        finally:
            _remove(folder)


def _is_locked(path: Path) -> bool:
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _remove(folder: Path) -> None:
    for pid in working_in(folder):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    seaweedfs.remove_sockets(folder)
    shutil.rmtree(folder, ignore_errors=True)


async def _run(command: list[str], *, only: Collection[str]) -> int:
    """Run the command beside the servers; return its exit code. Ctrl-C reaches it, as it shares the terminal."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, _this_task().cancel)
    async with servers(only=only) as env:
        child = await asyncio.create_subprocess_exec(*command, env={**os.environ, **env})
        loop.add_signal_handler(signal.SIGTERM, child.terminate)
        loop.add_signal_handler(signal.SIGINT, lambda: None)
        code = await child.wait()
        return code if code >= 0 else 128 - code


def _this_task() -> asyncio.Task[object]:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - called from a coroutine only
    return task


async def _serve() -> int:
    """Stay until a signal; a signal during the start ends the servers too."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _this_task().cancel)
    async with servers() as env:
        for name, value in env.items():
            print(f"export {name}={shlex.quote(value)}")
        sys.stdout.flush()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.local.testservers", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="start the servers, run a command, stop them, return its exit code")
    run.add_argument("--only", action="append", choices=KINDS, help="start only this server; may be repeated")
    run.add_argument("command", nargs="+")
    verbs.add_parser("serve", help="start the servers, print their addresses, stay until a signal")
    arguments = parser.parse_args()
    try:
        return asyncio.run(
            _run(arguments.command, only=arguments.only or KINDS) if arguments.verb == "run" else _serve()
        )
    except (asyncio.CancelledError, KeyboardInterrupt):
        return 130
    except (MissingPart, NotReady, StepFailed) as error:
        print(f"testservers: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
