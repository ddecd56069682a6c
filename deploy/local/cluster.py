"""The local cluster: its processes, their settings and their order.

postgres ─── provisioning ─── migrations ─┬─ apis ─── gateway
rabbitmq ─────────────────────────────────┼─ consumers
storage ─── bucket ───────────────────────┘   (SeaweedFS, for STORAGE_PLACE=s3 only)
"""

import asyncio
import json
import os
import secrets
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from deploy.local import postgres, rabbitmq, seaweedfs, traefik
from deploy.local.issuer import (
    AUDIENCE,
    ISSUER,
    Issuer,
    keep_service_tokens_fresh,
    load_issuer,
    service_token_path,
    write_secret,
    write_service_tokens,
)
from deploy.local.ports import free_port
from deploy.local.process import MissingPart, Process, StepFailed, http_ready, tcp_ready
from deploy.local.running import ROOT, Running, only_one, publish_running, remove_running
from deploy.local.supervisor import ClusterFailed, Log, Supervisor, Tier, stop_leftovers

HOST = "127.0.0.1"
GATEWAY_PORT = 8080

# The roles of each service. Events and tickets have no jobs, so they have no worker.
SERVICES: Mapping[str, tuple[str, ...]] = {
    "events": ("api", "messenger"),
    "tickets": ("api", "messenger"),
    "media": ("api", "messenger", "worker"),
    "exports": ("api", "messenger", "worker"),
}


@dataclass(frozen=True)
class Cluster:
    """What is decided before anything starts. ``given`` is the environment of the command that starts it.

    Servers that its DATABASE_URL, RABBITMQ_URL or S3_ENDPOINT name are used instead of local ones.
    """

    state: Path
    given: Mapping[str, str]
    ports: Mapping[str, int]
    secrets: Mapping[str, str]
    issuer: Issuer
    root: Path = ROOT

    @property
    def gateway_url(self) -> str:
        return f"http://{HOST}:{self.ports['gateway']}"

    @property
    def tokens(self) -> Path:
        return self.state / "tokens"

    @property
    def own_postgres(self) -> bool:
        return not self.given.get("DATABASE_URL")

    @property
    def own_rabbitmq(self) -> bool:
        return not self.given.get("RABBITMQ_URL")

    @property
    def own_s3(self) -> bool:
        return self.given.get("STORAGE_PLACE") == "s3" and not self.given.get("S3_ENDPOINT")

    @property
    def admin_database_url(self) -> str:
        if self.own_postgres:
            return postgres.url(self.state, port=self.ports["postgres"])
        return self.given["DATABASE_URL"]

    def database_url(self, service: str) -> str:
        """Return the URL of the service's own role, on the server of the administrator's URL."""
        admin = urlsplit(self.admin_database_url)
        server = admin.netloc.rpartition("@")[2]
        password = self.secrets[f"database.{service}"]
        return admin._replace(
            scheme="postgresql+asyncpg", netloc=f"{service}:{password}@{server}", path="/rostrum"
        ).geturl()

    @property
    def rabbitmq_url(self) -> str:
        if self.own_rabbitmq:
            return rabbitmq.url(self.state, port=self.ports["rabbitmq"])
        return self.given["RABBITMQ_URL"]


def plan(state: Path, given: Mapping[str, str], *, root: Path = ROOT) -> Cluster:
    """Choose ports and generate secrets and keys, or load those of the last run. Raise ``ClusterFailed``."""
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Cluster(
        state=state,
        given=given,
        ports=_choose_ports(state / "ports.json", given.get("GATEWAY_PORT")),
        secrets=_secrets(state / "secrets.json"),
        issuer=load_issuer(state / "issuer"),
        root=root,
    )


def settings_of_running(state: Path, running: Running, service: str) -> dict[str, str]:
    """Return the environment of the service's processes in the running cluster."""
    # The cluster passes its own environment, such as RABBITMQ_URL, on to them.
    given = psutil.Process(running.pid).environ()
    cluster = Cluster(
        state=state,
        given=given,
        ports=running.ports,
        secrets=_secrets(state / "secrets.json"),
        issuer=load_issuer(state / "issuer"),
    )
    return {**given, **_settings(cluster, service), "SERVICE": service}


def tiers(cluster: Cluster) -> list[Tier]:
    async def start_postgres() -> Sequence[Process]:
        if cluster.own_postgres:
            return [await postgres.prepare(cluster.state, durable=True, port=cluster.ports["postgres"])]
        return await _wait_for_external(cluster, "DATABASE_URL", 5432)

    async def start_rabbitmq() -> Sequence[Process]:
        if cluster.own_rabbitmq:
            tools = cluster.root / ".state" / "tools"
            return [await rabbitmq.prepare(cluster.state, tools=tools, port=cluster.ports["rabbitmq"])]
        return await _wait_for_external(cluster, "RABBITMQ_URL", 5672)

    async def start_storage() -> Sequence[Process]:
        return [await seaweedfs.prepare(cluster.state, port=cluster.ports["s3"])] if cluster.own_s3 else []

    async def make_bucket() -> Sequence[Process]:
        if cluster.own_s3:
            await seaweedfs.create_bucket(_s3_settings(cluster))
        return []

    async def provision() -> Sequence[Process]:
        return [_provisioning(cluster)]

    async def migrate() -> Sequence[Process]:
        return [_migrations(cluster)]

    async def start_apis() -> Sequence[Process]:
        return [_role(cluster, service, "api") for service in SERVICES]

    async def start_consumers() -> Sequence[Process]:
        return [
            _role(cluster, service, role) for service, roles in SERVICES.items() for role in roles if role != "api"
        ]

    async def start_gateway() -> Sequence[Process]:
        return [await _gateway(cluster)]

    return [
        Tier("postgres", start_postgres),
        Tier("rabbitmq", start_rabbitmq),
        Tier("storage", start_storage),
        Tier("bucket", make_bucket, after=("storage",)),
        Tier("provisioning", provision, after=("postgres",)),
        Tier("migrations", migrate, after=("provisioning",)),
        Tier("apis", start_apis, after=("migrations", "bucket")),
        Tier("consumers", start_consumers, after=("migrations", "rabbitmq", "bucket")),
        Tier("gateway", start_gateway, after=("apis",)),
    ]


def _provisioning(cluster: Cluster) -> Process:
    passwords = ",".join(f"{service}:{cluster.secrets[f'database.{service}']}" for service in SERVICES)
    return Process(
        name="provisioning",
        command=(sys.executable, "-m", "shared.database.provisioning"),
        env={**_PYTHON, "ADMIN_DATABASE_URL": cluster.admin_database_url, "PROVISION": passwords},
        cwd=cluster.root,
        once=True,
    )


def _migrations(cluster: Cluster) -> Process:
    urls = {service: cluster.database_url(service) for service in SERVICES}
    return Process(
        name="migrations",
        command=(sys.executable, str(Path(__file__).with_name("migrations.py"))),
        env={**_PYTHON, "MIGRATE": json.dumps(urls)},
        cwd=cluster.root,
        # Another migrator may hold the lock for long.
        ready_timeout=180.0,
        once=True,
    )


def _role(cluster: Cluster, service: str, role: str) -> Process:
    name = f"{service}.{role}"
    port = cluster.ports[name]
    port_setting = "API_PORT" if role == "api" else "HEALTH_PORT"
    # Each connection costs a PostgreSQL process on this machine.
    pool = {"DATABASE_POOL_SIZE": "2" if role == "messenger" else "4"}
    return Process(
        name=name,
        command=(sys.executable, "-m", name),
        env={**_settings(cluster, service), **pool, port_setting: str(port)},
        cwd=cluster.root,
        ready=http_ready(f"http://{HOST}:{port}/healthz/ready"),
    )


async def _gateway(cluster: Cluster) -> Process:
    return await traefik.prepare(
        cluster.state,
        port=cluster.ports["gateway"],
        dynamic=cluster.root / "deploy" / "gateway" / "dynamic.yml",
        env=_service_urls(cluster),
    )


# The pinned tzdata for every process; unbuffered output; bytecode written once, as compiling takes most of a start;
# less memory for threads.
_PYTHON = {
    "PYTHONTZPATH": "",
    "PYTHONUNBUFFERED": "1",
    "PYTHONDONTWRITEBYTECODE": "",
    "MALLOC_ARENA_MAX": "2",
}


def _service_urls(cluster: Cluster) -> dict[str, str]:
    return {f"{service.upper()}_URL": f"http://{HOST}:{cluster.ports[f'{service}.api']}" for service in SERVICES}


def _settings(cluster: Cluster, service: str) -> dict[str, str]:
    return {
        **_PYTHON,
        "DATABASE_URL": cluster.database_url(service),
        "RABBITMQ_URL": cluster.rabbitmq_url,
        "API_HOST": HOST,
        "TOKEN_ISSUER": ISSUER,
        "TOKEN_AUDIENCE": AUDIENCE,
        "JWKS_URL": cluster.issuer.jwks_url,
        "SERVICE_TOKEN_FILE": str(service_token_path(cluster.tokens, service)),
        "STORAGE_PLACE": cluster.given.get("STORAGE_PLACE", "local"),
        "STORAGE_FOLDER": str(cluster.state / "storage" / service),
        "STORAGE_SIGNING_KEY": cluster.secrets["storage_signing_key"],
        "PUBLIC_URL": cluster.gateway_url,
        **_service_urls(cluster),
        **(_s3_settings(cluster) if cluster.own_s3 else {}),
    }


def _s3_settings(cluster: Cluster) -> dict[str, str]:
    return seaweedfs.client_env(cluster.state, port=cluster.ports["s3"])


async def _wait_for_external(cluster: Cluster, variable: str, default_port: int) -> Sequence[Process]:
    """Wait until an external server answers; it needs no process."""
    address = urlsplit(cluster.given[variable])
    host, port = address.hostname or HOST, address.port or default_port
    answers = tcp_ready(host, port)
    for _ in range(50):
        if await answers():
            return []
        await asyncio.sleep(0.2)
    raise ClusterFailed(
        f"{variable} points to {host}:{port}, where nothing answers: start a server there, or unset {variable}."
    )


def _choose_ports(path: Path, gateway_port: str | None) -> dict[str, int]:
    """Return the ports of the last run, replacing those that are not free any more."""
    try:
        last: dict[str, int] = json.loads(path.read_text())
    except (OSError, ValueError):
        last = {}
    names = [
        "postgres",
        "rabbitmq",
        "s3",
        *(f"{name}.{role}" for name, roles in SERVICES.items() for role in roles),
    ]
    ports = {"gateway": _gateway_port(gateway_port, last.get("gateway"))}
    ports.update((name, free_port(last.get(name))) for name in names)
    write_secret(path, json.dumps(ports, indent=2))
    return ports


def _gateway_port(asked: str | None, last: int | None) -> int:
    if not asked:
        port = free_port(GATEWAY_PORT)
        return port if port == GATEWAY_PORT or last is None else free_port(last)
    if not asked.isdecimal() or not 0 < int(asked) < 65536:
        raise ClusterFailed(f"GATEWAY_PORT={asked} is not a port: it must be a number from 1 to 65535.")
    if free_port(int(asked)) != int(asked):
        raise ClusterFailed(f"GATEWAY_PORT={asked} is in use: choose another port, or unset it to get a free one.")
    return int(asked)


def _secrets(path: Path) -> dict[str, str]:
    """Load the secrets, and generate missing ones."""
    known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    names = ("storage_signing_key", *(f"database.{service}" for service in SERVICES))
    wanted = {name: known.get(name) or secrets.token_hex(24) for name in names}
    if known != {**known, **wanted}:
        write_secret(path, json.dumps({**known, **wanted}, indent=2))
    return wanted


# -------------------- run


async def up(state: Path, *, root: Path = ROOT) -> int:
    """Run the cluster until a signal or a failure stops it; return the exit code. Raise ``AlreadyRunning``."""
    with only_one(state):
        leftovers = await asyncio.to_thread(stop_leftovers, state / "run")
        log = Log(state / "logs" / "cluster.log", echo=True)
        if leftovers:
            log.line("cluster", f"stopped the processes that a killed run left: {', '.join(leftovers)}")
        try:
            await _run(plan(state, os.environ, root=root), log)
        except (ClusterFailed, MissingPart, StepFailed) as failure:
            log.line("cluster", f"failed and stopped: {failure}")
            return 1
        finally:
            remove_running(state)
            seaweedfs.remove_sockets(state)
            log.close()
    return 0


async def _run(cluster: Cluster, log: Log) -> None:
    supervisor = Supervisor(tiers(cluster), run_folder=cluster.state / "run", log=log)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, supervisor.request_stop)
    write_service_tokens(cluster.issuer, cluster.tokens, tuple(SERVICES))

    def publish(*, ready: bool) -> None:
        running = Running(os.getpid(), ready, cluster.gateway_url, dict(cluster.ports))
        publish_running(cluster.state, running)

    def when_ready(seconds: float) -> None:
        publish(ready=True)
        gateway = cluster.gateway_url
        supervisor.say(f"ready after {seconds:.1f} s: gateway {gateway}, documentation {gateway}/docs")

    publish(ready=False)
    renewing = asyncio.create_task(
        keep_service_tokens_fresh(cluster.issuer, cluster.tokens, tuple(SERVICES), trouble=supervisor.say)
    )
    try:
        await supervisor.run(when_ready=when_ready)
    finally:
        renewing.cancel()
    supervisor.say("stopped")
