import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any
from urllib.request import urlopen

import psutil
import pytest

from deploy.local.__main__ import NOTHING_RUNS
from deploy.local.cluster import SERVICES, plan, tiers
from deploy.local.ports import free_port
from deploy.local.process import Process
from deploy.local.running import ROOT, read_running, running_pid
from deploy.local.supervisor import ClusterFailed, process_of, read_records


def planned(state: Path, **given: str) -> dict[str, Process]:
    """Return the processes of the roles, by name."""
    by_tier = {tier.name: tier for tier in tiers(plan(state, given))}

    async def prepare() -> list[Process]:
        return [process for name in ("apis", "consumers") for process in await by_tier[name].prepare()]

    return {process.name: process for process in asyncio.run(prepare())}


EXTERNAL = {"DATABASE_URL": "postgresql://root:pw@db.example:6000/postgres", "RABBITMQ_URL": "amqp://mq.example/v"}


def test_every_role_runs_with_its_own_port_and_its_services_settings(tmp_path: Path) -> None:
    roles = planned(tmp_path, **EXTERNAL)
    assert set(roles) == {f"{service}.{role}" for service, names in SERVICES.items() for role in names}
    ports = {role.env.get("HEALTH_PORT") or role.env["API_PORT"] for role in roles.values()}
    assert len(ports) == len(roles)
    for name, role in roles.items():
        assert role.command == (sys.executable, "-m", name)
        assert role.ready is not None
        assert ("API_PORT" in role.env) == name.endswith(".api")
        assert role.env["EVENTS_URL"] == f"http://127.0.0.1:{roles['events.api'].env['API_PORT']}"
        assert role.env["PYTHONTZPATH"] == ""


def test_each_service_has_its_own_role_on_an_external_database(tmp_path: Path) -> None:
    roles = planned(tmp_path, **EXTERNAL)
    urls = {name: role.env["DATABASE_URL"] for name, role in roles.items()}
    password = urls["events.api"].split(":")[2].split("@")[0]
    assert urls["events.api"] == f"postgresql+asyncpg://events:{password}@db.example:6000/rostrum"
    assert urls["events.messenger"] == urls["events.api"]
    assert urls["tickets.api"].startswith("postgresql+asyncpg://tickets:")
    assert password not in urls["tickets.api"]
    assert {role.env["RABBITMQ_URL"] for role in roles.values()} == {"amqp://mq.example/v"}


def test_a_second_run_keeps_ports_keys_and_passwords(tmp_path: Path) -> None:
    # In separate processes, because one process never gets the same port twice.
    show = "import sys, pathlib; from deploy.local.cluster import *; " + (
        "c = plan(pathlib.Path(sys.argv[1]), {}); print(sorted(c.ports.items()), c.secrets, c.issuer.key.kid)"
    )
    first, second = (
        subprocess.run(
            [sys.executable, "-c", show, str(tmp_path)], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    )
    assert first == second
    assert (tmp_path / "secrets.json").stat().st_mode & 0o777 == 0o600


def test_an_unusable_gateway_port_is_refused(tmp_path: Path) -> None:
    with socket.socket() as used:
        used.bind(("127.0.0.1", 0))
        used.listen()
        with pytest.raises(ClusterFailed, match=r"GATEWAY_PORT=\d+ is in use: choose another port"):
            plan(tmp_path, {"GATEWAY_PORT": str(used.getsockname()[1])})
    with pytest.raises(ClusterFailed, match=r"GATEWAY_PORT=http is not a port"):
        plan(tmp_path, {"GATEWAY_PORT": "http"})


def test_s3_storage_starts_a_server_unless_an_endpoint_is_set(tmp_path: Path) -> None:
    own = planned(tmp_path / "own", STORAGE_PLACE="s3", **EXTERNAL)["media.worker"].env
    assert own["STORAGE_PLACE"] == "s3"
    assert own["S3_ENDPOINT"].startswith("http://127.0.0.1:")
    assert own["S3_SECRET_ACCESS_KEY"]
    given = planned(tmp_path / "given", STORAGE_PLACE="s3", S3_ENDPOINT="https://s3.example", **EXTERNAL)
    assert "S3_ENDPOINT" not in given["media.worker"].env  # inherited as it is
    assert planned(tmp_path / "local", **EXTERNAL)["media.worker"].env["STORAGE_PLACE"] == "local"


# -------------------- a whole cluster: real servers, roles that only return their settings

FAKE_ROLE = """
import http.server, json, os

class Role(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"role": __spec__.name, "path": self.path, "env": dict(os.environ)}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        print(json.dumps({"event": "request.done", "path": self.path}))

port = int(os.environ["API_PORT" if __spec__.name.endswith(".api") else "HEALTH_PORT"])
http.server.ThreadingHTTPServer(("127.0.0.1", port), Role).serve_forever()
"""
FAKE_MIGRATION = """
import asyncio, os, asyncpg

async def migrate():
    connection = await asyncpg.connect(os.environ["DATABASE_URL"].replace("+asyncpg", ""))
    assert await connection.fetchval("SELECT current_schema()") == await connection.fetchval("SELECT current_user")
    await connection.close()

asyncio.run(migrate())
"""


def make_root(root: Path) -> Path:
    for service, roles in SERVICES.items():
        (root / service).mkdir(parents=True)
        (root / service / "__init__.py").touch()
        for role in roles:
            (root / service / f"{role}.py").write_text(dedent(FAKE_ROLE))
        migrations = root / "services" / service / "migrations"
        (migrations / "versions").mkdir(parents=True)
        (migrations / "env.py").write_text(dedent(FAKE_MIGRATION))
        (migrations.parent / "alembic.ini").write_text("[alembic]\nscript_location = %(here)s/migrations\n")
    shutil.copytree(ROOT / "deploy" / "gateway", root / "deploy" / "gateway")
    return root


UP = """
import asyncio, pathlib, sys
from deploy.local.cluster import up
sys.exit(asyncio.run(up(pathlib.Path(sys.argv[1]), root=pathlib.Path(sys.argv[2]))))
"""


class Started:
    def __init__(self, folder: Path, root: Path, rabbitmq_port: int, **env: str) -> None:
        self.state = folder / "state"
        self.temporary = folder / "tmp"
        self.temporary.mkdir(exist_ok=True)
        self.env = {
            **{name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "STORAGE_PLACE")},
            "GATEWAY_PORT": str(free_port()),
            "RABBITMQ_URL": f"amqp://127.0.0.1:{rabbitmq_port}/",
            "ROSTRUM_STATE": str(self.state),
            "TMPDIR": str(self.temporary),
            **env,
        }
        self._output = (folder / "output").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-c", UP, str(self.state), str(root)],
            env=self.env,
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )

    @property
    def output(self) -> str:
        return Path(self._output.name).read_text()

    def until_ready(self) -> None:
        deadline = time.monotonic() + 90
        while (running := read_running(self.state)) is None or not running.ready:
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.1)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "deploy.local", *arguments],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=90,
        )

    def get(self, path: str) -> dict[str, Any]:
        running = read_running(self.state)
        assert running is not None
        with urlopen(running.gateway_url + path, timeout=10) as answer:
            body: dict[str, Any] = json.load(answer)
            return body

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(60)
        self.process.kill()
        self.process.wait()
        self._output.close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    folder = tmp_path_factory.mktemp("cluster")
    with socket.create_server(("127.0.0.1", 0)) as rabbitmq:  # an external server only has to accept connections
        root = make_root(folder / "root")
        started = Started(folder, root, rabbitmq.getsockname()[1], STORAGE_PLACE="s3")
        try:
            started.until_ready()
            yield started
        finally:
            started.end()


def test_the_gateway_routes_to_roles_with_their_settings(cluster: Started) -> None:
    body = cluster.get("/v1/tickets/1")
    assert body["role"] == "tickets.api"
    env = body["env"]
    assert (
        env["PUBLIC_URL"] == f"http://127.0.0.1:{json.loads((cluster.state / 'ports.json').read_text())['gateway']}"
    )
    assert env["JWKS_URL"] == (cluster.state / "issuer" / "jwks.json").as_uri()
    assert Path(env["SERVICE_TOKEN_FILE"]).read_text().count(".") == 2
    assert env["STORAGE_FOLDER"] == str(cluster.state / "storage" / "tickets")
    assert len(env["STORAGE_SIGNING_KEY"]) >= 32


def test_one_log_stream_holds_every_line(cluster: Started) -> None:
    cluster.get("/v1/events?marked")
    line = 'events.api | {"event": "request.done", "path": "/v1/events?marked"}'
    deadline = time.monotonic() + 10
    while line not in cluster.output.splitlines():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert line in cluster.command("logs", "events.api").stdout.splitlines()
    assert line not in cluster.command("logs", "tickets.api", "cluster").stdout.splitlines()
    for tier in ("postgres", "provisioning", "migrations", "apis", "consumers", "gateway"):
        assert f"cluster | {tier} ready after " in cluster.output


def test_a_second_cluster_of_the_checkout_is_refused(cluster: Started) -> None:
    for arguments in (("up",), ("up", "--detach"), ("clean-state",)):
        refused = cluster.command(*arguments)
        assert refused.returncode == 1
        assert f"as process {cluster.process.pid}" in refused.stderr


def test_ps_lists_every_process_with_its_memory(cluster: Started) -> None:
    shown = cluster.command("ps")
    assert shown.returncode == 0, shown.stderr
    rows = {line.split()[0]: line.split() for line in shown.stdout.splitlines()}
    roles = {f"{service}.{role}" for service, names in SERVICES.items() for role in names}
    assert {"cluster", "postgres", "gateway", "all", *roles} <= set(rows)
    assert rows["events.api"][2] == "ready"
    assert int(rows["all"][-3]) > int(rows["cluster"][-3]) > 0


def test_down_leaves_no_process_and_no_temporary_file(cluster: Started) -> None:
    processes = [process for record in read_records(cluster.state / "run") if (process := process_of(record))]
    families = [member for process in processes for member in [process, *process.children(recursive=True)]]
    assert len(processes) > 10
    stopped = cluster.command("down")
    assert stopped.returncode == 0, stopped.stderr
    assert stopped.stdout.startswith("Stopped after ")
    assert cluster.process.wait(10) == 0, cluster.output
    assert not [
        process for process in families if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    ]
    assert running_pid(cluster.state) is None
    assert list(cluster.temporary.iterdir()) == []
    ports = json.loads((cluster.state / "seaweedfs" / "sockets.json").read_text())
    assert ports
    assert not [path for port in ports for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock")]
    assert NOTHING_RUNS in cluster.command("down").stdout
    assert cluster.command("ps").returncode == 1
    assert cluster.command("clean-state").returncode == 0
    assert [path.name for path in cluster.state.iterdir()] == ["cluster.lock"]


def test_a_cluster_starts_after_a_kill(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    with socket.create_server(("127.0.0.1", 0)) as rabbitmq:
        for ending in (signal.SIGKILL, signal.SIGINT):
            started = Started(tmp_path, root, rabbitmq.getsockname()[1])
            try:
                started.until_ready()
                assert started.get("/v1/timezones")["role"] == "events.api"
                started.process.send_signal(ending)
                started.process.wait(60)
            finally:
                started.end()
    assert started.process.returncode == 0


def test_a_failed_migration_stops_the_cluster_with_its_output(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    (root / "services" / "media" / "migrations" / "env.py").write_text("raise SystemExit('no such revision: 42')")
    with socket.create_server(("127.0.0.1", 0)) as rabbitmq:
        started = Started(tmp_path, root, rabbitmq.getsockname()[1])
        try:
            assert started.process.wait(60) == 1
            output = started.output
            assert "cluster | failed and stopped: migrations failed with exit code 1" in output
            assert "no such revision: 42" in output.partition("failed and stopped")[2]
        finally:
            started.end()
    assert read_records(started.state / "run") == []
