"""RabbitMQ from Debian's packages, unpacked into a folder: no installation into the system, no root."""

import asyncio
import contextlib
import fcntl
import os
import platform
import re
import secrets
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aio_pika
import aiormq.exceptions

from deploy.local.ports import free_port
from deploy.local.process import MissingPart, Process, Ready, StepFailed, run, tcp_ready

USER = "rostrum"
_HOST = "127.0.0.1"
_WAY_OUT = "or set RABBITMQ_URL to a running server."

# Raise it when `_unpack` changes its result, so that older copies are not used.
_LAYOUT = 2

# Erlang terms start faster than `key = value`, for which RabbitMQ compiles the schemas of all plugins.
_SETTINGS = """\
[{{rabbit, [
   {{tcp_listeners, [{{"{host}", {port}}}]}},
   {{default_user, <<"{user}">>}},
   {{default_pass, <<"{password}">>}},
   {{vm_memory_high_watermark, {{absolute, "512MB"}}}},
   {{disk_free_limit, {{absolute, "200MB"}}}},
   %% Milliseconds. Longer than any job, or its unacknowledged message would be redelivered to a second worker.
   {{consumer_timeout, 7200000}},
   {{collect_statistics_interval, 30000}},
   {{log, [{{file, [{{file, false}}]}}, {{console, [{{enabled, true}}, {{level, warning}}]}}]}}]}},
 %% Quorum queues keep their write-ahead log in memory too.
 {{ra, [{{wal_max_size_bytes, 33554432}}]}}].
"""

# Idle schedulers sleep at once instead of spinning, and are not bound to a core that others use.
_EMULATOR = "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none +stbt u"


def url(state: Path, *, port: int) -> str:
    """Return the administrator's URL."""
    return f"amqp://{USER}:{_password(state)}@{_HOST}:{port}/"


async def prepare(state: Path, *, tools: Path, port: int) -> Process:
    """Fetch RabbitMQ into ``tools`` if it is missing, write its settings, and return how to start.

    Raise ``MissingPart`` if it cannot be fetched. Print the progress of a download to stderr.
    """
    root = await install(tools)
    folder = _folder(state)
    settings = _SETTINGS.format(host=_HOST, port=port, user=USER, password=_password(state))
    (folder / "rabbitmq.config").write_text(settings)
    (folder / "enabled_plugins").write_text("[].\n")
    erlang = root / "usr" / "lib" / "erlang"
    libraries = ":".join(str(path) for path in sorted((root / "usr" / "lib").glob("*-linux-gnu*")))
    env = {
        "PATH": f"{erlang / 'bin'}:{os.environ.get('PATH', os.defpath)}",
        "LD_LIBRARY_PATH": libraries,
        "LC_ALL": "C.UTF-8",
        "HOME": str(folder),
        "ROSTRUM_ERLANG": str(erlang),
        "ERL_LIBS": "",
        "ERL_CRASH_DUMP_SECONDS": "0",
        "ERL_EPMD_ADDRESS": _HOST,
        "ERL_EPMD_PORT": str(free_port()),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_NODENAME": "rostrum@localhost",
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.config"),
        "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "schema"),
        "RABBITMQ_SCHEMA_DIR": str(folder / "schema"),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"-kernel inet_dist_use_interface {{127,0,0,1}} {_EMULATOR}",
        # Makes the script exec the server, so that the stop signal reaches it.
        "RUNNING_UNDER_SYSTEMD": "true",
        "NOTIFY_SOCKET": "",
    }
    # The server would start a name daemon that outlives it; this one stays in the process group.
    start = 'epmd & exec "$1"'
    return Process(
        name="rabbitmq",
        command=("sh", "-c", start, "rabbitmq", str(_server_script(root))),
        env=env,
        cwd=folder,
        ready=_answers(port, url(state, port=port)),
        ready_timeout=90.0,
    )


def _folder(state: Path) -> Path:
    return state.absolute() / "rabbitmq"


def _password(state: Path) -> str:
    path = _folder(state) / "password"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(24))
    return path.read_text()


def _server_script(root: Path) -> Path:
    return next((root / "usr" / "lib" / "rabbitmq" / "lib").glob("rabbitmq_server-*/sbin/rabbitmq-server"))


def _answers(port: int, address: str) -> Ready:
    accepts = tcp_ready(_HOST, port)

    async def probe() -> bool:
        if not await accepts():  # first, as the client logs every refused connection
            return False
        try:
            connection = await aio_pika.connect(address, timeout=5.0)
        except (OSError, TimeoutError, aiormq.exceptions.AMQPError):
            return False
        await connection.close()
        return True

    return probe


async def install(tools: Path) -> Path:
    """Return the folder with RabbitMQ and Erlang, fetched once per release of the system. It is never partial."""
    root = _root(tools)
    if root.is_dir():
        return root
    for command in ("apt-get", "dpkg"):
        if shutil.which(command) is None:
            raise MissingPart(f"RabbitMQ is missing, and so is `{command}` to fetch it: use Debian, {_WAY_OUT}")
    root.parent.mkdir(parents=True, exist_ok=True)
    async with _locked(root.parent / "lock"):
        if root.is_dir():
            return root
        unfinished = root.with_name(f"{root.name}.unfinished")
        await asyncio.to_thread(shutil.rmtree, unfinished, ignore_errors=True)
        try:
            packages = await _download(unfinished / "apt")
        except StepFailed as error:
            raise MissingPart(
                f"RabbitMQ could not be fetched from the package archive: check the network, {_WAY_OUT} ({error})"
            ) from error
        _report(f"unpacking {len(packages)} packages")
        await _unpack(packages, unfinished)
        await asyncio.to_thread(shutil.rmtree, unfinished / "apt")
        unfinished.rename(root)
        _report(f"unpacked to {root}")
    return root


def _root(tools: Path) -> Path:
    return tools.absolute() / "rabbitmq" / f"{_system()}-{_LAYOUT}"


def _report(what: str) -> None:
    print(f"rabbitmq: {what}", file=sys.stderr, flush=True)


def _system() -> str:
    release = platform.freedesktop_os_release()
    return f"{release['ID']}-{release.get('VERSION_ID', 'rolling')}-{platform.machine()}"


@asynccontextmanager
async def _locked(path: Path) -> AsyncIterator[None]:
    with path.open("w") as file:
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            await asyncio.sleep(0.5)
        yield


async def _download(folder: Path) -> list[Path]:
    """Fetch the server and those of its dependencies that the system lacks, with private lists and caches."""
    for name in ("state", "lists/partial", "cache/archives/partial", "log"):
        (folder / name).mkdir(parents=True)
    (folder / "status").write_text(await asyncio.to_thread(_installed_without_rabbitmq))
    (folder / "apt.conf").write_text(
        f"""\
Dir::State "{folder}/state";
Dir::State::lists "{folder}/lists";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
Dir::Log "{folder}/log";
APT::Sandbox::User "root";
APT::Install-Recommends "false";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
#clear APT::Update;
#clear DPkg;
"""
    )
    apt_get = ("apt-get", f"--config-file={folder / 'apt.conf'}", "--quiet", "--assume-yes")
    _report("reading Debian's package lists (once)")
    with contextlib.suppress(StepFailed):  # one unreachable source does no harm; a missing package fails below
        await run(*apt_get, "update")
    _report("downloading the packages, about 35 MB (once)")
    await run(*apt_get, "install", "--download-only", "rabbitmq-server")
    return sorted((folder / "cache" / "archives").glob("*.deb"))


_KEPT_FIELDS = re.compile(
    r"^(Package|Status|Version|Architecture|Multi-Arch|Provides|Essential): .*\n", re.MULTILINE
)


def _installed_without_rabbitmq() -> str:
    """Return the system's package list without Erlang and RabbitMQ, so that apt fetches them even if installed.

    It omits dependencies, so that installed packages which need the removed ones stay valid.
    """
    installed = Path("/var/lib/dpkg/status")
    text = installed.read_text(errors="replace") if installed.exists() else ""
    stanzas = re.split(r"\n{2,}", text)
    kept = (stanza for stanza in stanzas if not re.match(r"Package: (rabbitmq-server|erlang)", stanza))
    return "\n".join("".join(field.group(0) for field in _KEPT_FIELDS.finditer(f"{stanza}\n")) for stanza in kept)


async def _unpack(packages: list[Path], root: Path) -> None:
    for package in packages:
        await run("dpkg", "--extract", str(package), str(root))
    for name in ("share", "sbin"):
        await asyncio.to_thread(shutil.rmtree, root / "usr" / name, ignore_errors=True)
    await asyncio.to_thread(_drop_plugins, _server_script(root).parents[1] / "plugins")
    # Erlang's start scripts contain an absolute path; the environment sets it, so that the checkout may move.
    for script in (root / "usr" / "lib" / "erlang").glob("**/bin/erl"):
        script.write_text(script.read_text().replace("ROOTDIR=/usr/lib/erlang", 'ROOTDIR="$ROSTRUM_ERLANG"'))


def _drop_plugins(folder: Path) -> None:
    """Remove unneeded plugins: Erlang searches each of their folders for every module."""
    manifest = next(folder.glob("rabbit-*/ebin/rabbit.app")).read_text()
    needed = set(re.findall(r"\brabbitmq_\w+", manifest))
    for plugin in folder.glob("rabbitmq_*"):
        if plugin.name.partition("-")[0] not in needed:
            shutil.rmtree(plugin)
