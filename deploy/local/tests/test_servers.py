import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aio_pika
import asyncpg
import httpx
import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from deploy.local import postgres, rabbitmq, seaweedfs, testservers, traefik
from deploy.local.ports import free_port
from deploy.local.process import MissingPart, NotReady, Process, start, stop, wait_ready, working_in

TOOLS = testservers.STATE / "tools"


@asynccontextmanager
async def running(process: Process, log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    with log.open("ab") as output:
        child = await start(process, output=output)
    try:
        await wait_ready(process, child)
        yield child
    finally:
        await stop(process, child)


async def nothing_works_in(folder: Path) -> None:
    """Wait for the end of the stopped server's helpers, such as Erlang's resolver."""
    async with asyncio.timeout(10):
        while working_in(folder):  # noqa: ASYNC110 - another process changes it
            await asyncio.sleep(0.05)


async def test_postgres_keeps_its_data_after_a_kill_and_leaves_no_process(tmp_path: Path) -> None:
    port = free_port()
    process = await postgres.prepare(tmp_path, durable=True, port=port)
    url = postgres.url(tmp_path, port=port, scheme="postgresql")

    async with running(process, tmp_path / "log") as child:
        connection = await asyncpg.connect(url)
        await connection.execute("CREATE TABLE kept (value text); INSERT INTO kept VALUES ('still here')")
        child.kill()
        await child.wait()
        connection.terminate()

    async with running(await postgres.prepare(tmp_path, durable=True, port=port), tmp_path / "log"):
        connection = await asyncpg.connect(url)
        assert await connection.fetchval("SELECT value FROM kept") == "still here"
        await connection.close()
    await nothing_works_in(tmp_path)


async def test_postgres_starts_after_its_supervisor_was_killed(tmp_path: Path) -> None:
    first = await postgres.prepare(tmp_path, durable=False, port=free_port())
    async with running(first, tmp_path / "log") as orphan:
        port = free_port()
        async with running(await postgres.prepare(tmp_path, durable=False, port=port), tmp_path / "log"):
            assert await asyncio.wait_for(orphan.wait(), 10) == 0
            connection = await asyncpg.connect(postgres.url(tmp_path, port=port, scheme="postgresql"))
            await connection.close()


async def test_postgres_starts_with_a_lock_file_that_names_another_process(tmp_path: Path) -> None:
    async with running(await postgres.prepare(tmp_path, durable=False, port=free_port()), tmp_path / "log"):
        lock = (tmp_path / "postgres" / "data" / "postmaster.pid").read_text()
    stale = lock.splitlines()
    stale[0] = str(os.getpid())
    (tmp_path / "postgres" / "data" / "postmaster.pid").write_text("\n".join(stale) + "\n")

    async with running(await postgres.prepare(tmp_path, durable=False, port=free_port()), tmp_path / "log"):
        pass


async def test_postgres_requires_the_password(tmp_path: Path) -> None:
    port = free_port()
    async with running(await postgres.prepare(tmp_path, durable=False, port=port), tmp_path / "log"):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(host="127.0.0.1", port=port, user=postgres.SUPERUSER, password="guessed")
    assert (tmp_path / "postgres" / "password").stat().st_mode & 0o077 == 0


async def test_rabbitmq_keeps_messages_after_a_kill_and_leaves_no_process(tmp_path: Path) -> None:
    port = free_port()
    process = await rabbitmq.prepare(tmp_path, tools=TOOLS, port=port)
    async with running(process, tmp_path / "log") as child:
        async with await aio_pika.connect(rabbitmq.url(tmp_path, port=port)) as connection:
            channel = await connection.channel(publisher_confirms=True)
            await channel.declare_queue("kept", durable=True, arguments={"x-queue-type": "quorum"})
            message = aio_pika.Message(b"still here", delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
            await channel.default_exchange.publish(message, routing_key="kept")
        # RabbitMQ stores the name of a new quorum queue half a second late. Only then are confirmed messages safe.
        names = next((tmp_path / "rabbitmq" / "mnesia").glob("*/quorum/*/names.dets"))
        while b"_kept" not in names.read_bytes():  # noqa: ASYNC110 - another process writes the file
            await asyncio.sleep(0.05)
        child.kill()
        await child.wait()

    port = free_port()
    async with running(await rabbitmq.prepare(tmp_path, tools=TOOLS, port=port), tmp_path / "log"):
        connection = await aio_pika.connect(rabbitmq.url(tmp_path, port=port))
        queue = await (await connection.channel()).get_queue("kept")
        received = await queue.get(no_ack=True, timeout=30)
        assert received is not None
        assert received.body == b"still here"
        await connection.close()
    await nothing_works_in(tmp_path)


async def test_s3_keeps_objects_after_a_kill_and_verifies_signatures(tmp_path: Path) -> None:
    port = free_port()
    config = AioConfig(signature_version="s3v4", s3={"addressing_style": "path"})
    async with running(await seaweedfs.prepare(tmp_path, port=port), tmp_path / "log") as child:
        env = seaweedfs.client_env(tmp_path, port=port)
        await seaweedfs.create_bucket(env)
        await seaweedfs.create_bucket(env)
        keys = {"aws_access_key_id": env["S3_ACCESS_KEY_ID"], "aws_secret_access_key": env["S3_SECRET_ACCESS_KEY"]}
        async with get_session().create_client(
            "s3", endpoint_url=env["S3_ENDPOINT"], region_name=env["S3_REGION"], config=config, **keys
        ) as client:
            await client.put_object(Bucket=env["S3_BUCKET"], Key="kept", Body=b"still here")
        child.kill()
        await child.wait()

    port = free_port()
    async with running(await seaweedfs.prepare(tmp_path, port=port), tmp_path / "log"):
        env = seaweedfs.client_env(tmp_path, port=port)
        async with get_session().create_client(
            "s3", endpoint_url=env["S3_ENDPOINT"], region_name=env["S3_REGION"], config=config, **keys
        ) as client:
            answer = await client.get_object(Bucket=env["S3_BUCKET"], Key="kept")
            assert await answer["Body"].read() == b"still here"
        async with httpx.AsyncClient() as anonymous:
            refused = await anonymous.get(f"{env['S3_ENDPOINT']}/{env['S3_BUCKET']}/kept")
            assert refused.status_code == 403
    await nothing_works_in(tmp_path)


ROUTES = """
http:
  routers: {all: {rule: "PathPrefix(`/v1`)", service: events}}
  services: {events: {loadBalancer: {servers: [{url: {{ env "EVENTS_URL" | quote }}}]}}}
"""


async def test_the_gateway_uses_the_given_routes(tmp_path: Path) -> None:
    (tmp_path / "routes.yml").write_text(ROUTES)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
        await writer.drain()
        writer.close()

    service = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = free_port()
    env = {"EVENTS_URL": f"http://127.0.0.1:{service.sockets[0].getsockname()[1]}"}
    process = await traefik.prepare(tmp_path, port=port, dynamic=tmp_path / "routes.yml", env=env)
    async with service, running(process, tmp_path / "log"), httpx.AsyncClient() as client:
        assert (await client.get(f"http://127.0.0.1:{port}/v1/events")).text == "hello"
        assert (await client.get(f"http://127.0.0.1:{port}/api/http/routers")).status_code == 404
        assert (await client.get(f"http://127.0.0.1:{port}/v1/a%2Fb")).status_code == 400


async def test_the_gateway_is_not_ready_with_unreadable_routes(tmp_path: Path) -> None:
    (tmp_path / "routes.yml").write_text("http: {routers: [")
    process = await traefik.prepare(tmp_path, port=free_port(), dynamic=tmp_path / "routes.yml", env={})
    impatient = Process(process.name, process.command, process.env, ready=process.ready, ready_timeout=2.0)
    with pytest.raises(NotReady):
        async with running(impatient, tmp_path / "log"):
            pass


async def test_missing_apt_is_reported_in_one_line_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingPart) as refused:
        await rabbitmq.prepare(tmp_path / "state", tools=tmp_path / "tools", port=1)
    assert "apt-get" in str(refused.value)
    assert "RABBITMQ_URL" in str(refused.value)
    assert "\n" not in str(refused.value)


async def test_an_unreachable_package_archive_leaves_no_partial_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "bin" / "apt-get"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho 'E: Could not resolve' >&2; exit 100\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{broken.parent}:{os.environ['PATH']}")
    with pytest.raises(MissingPart, match=r"RABBITMQ_URL.*Could not resolve"):
        await rabbitmq.install(tmp_path / "tools")

    # A partial installation does not count as one.
    monkeypatch.undo()
    assert not list((tmp_path / "tools" / "rabbitmq").glob("*-[0-9]"))


async def test_two_runs_have_separate_test_servers_and_return_the_exit_code() -> None:
    command = (sys.executable, "-m", "deploy.local.testservers", "run", "--only", "database")
    env = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "TEST_DATABASE_URL")}
    show = ("--", "sh", "-c", "echo $TEST_DATABASE_URL; exit 7")
    children = [
        await asyncio.create_subprocess_exec(
            *command, *show, env=env, cwd=testservers.STATE.parent, stdout=asyncio.subprocess.PIPE
        )
        for _ in range(2)
    ]
    printed = [(await child.communicate())[0].strip() for child in children]

    assert [child.returncode for child in children] == [7, 7]
    assert all(printed)
    assert printed[0] != printed[1]
    assert not any((testservers.STATE / "test" / str(child.pid)).exists() for child in children)


async def test_the_next_run_ends_the_servers_of_a_killed_run(tmp_path: Path) -> None:
    stay = (
        "import asyncio, pathlib, sys; from deploy.local.testservers import servers\n"
        "async def main():\n"
        "    async with servers({}, state=pathlib.Path(sys.argv[1]), only=('database',)):\n"
        "        print('ready', flush=True); await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", stay, str(tmp_path)), cwd=testservers.STATE.parent, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    assert await child.stdout.readline() == b"ready\n"
    child.send_signal(signal.SIGKILL)
    await child.communicate()
    assert working_in(tmp_path) != []

    async with testservers.servers({}, state=tmp_path, only=()):
        assert working_in(tmp_path) == []
        assert not (tmp_path / "test" / str(child.pid)).exists()


async def test_given_servers_are_used_instead_of_own_ones(tmp_path: Path) -> None:
    given = {
        "DATABASE_URL": "postgresql+asyncpg://a@b/c",
        "RABBITMQ_URL": "amqp://d",
        "TEST_S3_ENDPOINT": "http://e",
    }
    async with testservers.servers(given, state=tmp_path) as env:
        assert env == {
            "TEST_DATABASE_URL": given["DATABASE_URL"],
            "TEST_RABBITMQ_URL": given["RABBITMQ_URL"],
            "TEST_S3_ENDPOINT": given["TEST_S3_ENDPOINT"],
        }
        assert [path.name for path in (tmp_path / "test" / str(os.getpid())).iterdir()] == ["lock"]
