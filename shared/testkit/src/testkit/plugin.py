"""pytest plugin: real PostgreSQL with migrated databases, sessions that roll back, clients, tokens, the outbox.

Each service's ``tests/conftest.py`` provides the fixture ``service`` (a ``ServiceUnderTest``); the rest is here.
``TEST_DATABASE_URL`` and the like name the servers; ``make test`` starts them and sets these variables.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import alembic.command
import alembic.config
import asyncpg
import httpx
import pytest
from aio_pika.abc import AbstractChannel
from asgi_lifespan import LifespanManager
from fastapi import FastAPI
from joserfc import jwt
from joserfc.jwk import KeySet, OKPKey
from pydantic import SecretStr
from sqlalchemy import NullPool, select
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

from shared.database.engine import Sessions, asyncpg_dsn, connection_settings, new_sessions
from shared.messaging.tables import OUTBOX
from shared.messaging.topology import dead_letter_queue_name, parked_queue_name, queue_name
from shared.settings import Settings
from shared.telemetry.logs import configure_test_logs
from shared.walltime import use_pinned_tzdata
from testkit.migrations import upgrade_in_steps

ISSUER = "https://issuer.test/rostrum"
AUDIENCE = "rostrum"
SIGNING_KEY = "test-signing-key-of-sufficient-length"


def pytest_configure() -> None:
    use_pinned_tzdata()
    configure_test_logs()


@dataclass(frozen=True)
class ServiceUnderTest:
    """The parts of a service that the plugin uses.

    ``root`` is the folder of ``alembic.ini``; ``extra`` adds settings to the tests' defaults.
    """

    settings: type[Settings]
    create_app: Callable[[Any], FastAPI]
    root: Path
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.settings.model_fields["service"].default)


def server(variable: str) -> str:
    """Return the address of a test server; end the run with instructions when the variable is not set."""
    value = os.environ.get(variable)
    if not value:
        pytest.exit(
            f"{variable} is not set. Run `make test`, or for single tests "
            "`python -m deploy.local.testservers run -- pytest …`.",
            returncode=4,
        )
    return value


class Databases:
    """The databases of this test process: one migrated template per service, and its clones."""

    def __init__(self) -> None:
        self._admin_url = server("TEST_DATABASE_URL")
        self._prefix = f"test_{os.getpid()}"
        self._templates: dict[str, asyncio.Task[str]] = {}
        self._created: list[str] = []
        self._shared: dict[str, str] = {}

    def url(self, database: str) -> str:
        return make_url(self._admin_url).set(database=database).render_as_string(hide_password=False)

    async def clone(self, service: ServiceUnderTest) -> str:
        """Return the URL of a new database with the service's migrated schema, dropped after the session."""
        template = await self._template(service)
        name = f"{template}_{len(self._created)}"
        await self._admin(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy')
        self._created.append(name)
        return self.url(name)

    async def shared(self, service: ServiceUnderTest) -> str:
        """Return the URL of the one database for all tests that roll their transaction back."""
        if service.name not in self._shared:
            self._shared[service.name] = await self.clone(service)
        return self._shared[service.name]

    async def empty(self, label: str) -> str:
        """Return the URL of a new, empty database."""
        name = f"{self._prefix}_{label}_{len(self._created)}"
        await self._admin(f'CREATE DATABASE "{name}"')
        self._created.append(name)
        return self.url(name)

    async def drop_all(self) -> None:
        for name in reversed(self._created):
            await self._admin(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    async def _template(self, service: ServiceUnderTest) -> str:
        if service.name not in self._templates:
            self._templates[service.name] = asyncio.create_task(self._make_template(service))
        return await self._templates[service.name]

    async def _make_template(self, service: ServiceUnderTest) -> str:
        url = await self.empty(service.name)
        await self._admin(f'CREATE SCHEMA "{service.name}"', url=url)
        await migrate(service, url)
        database = make_url(url).database
        assert database is not None
        return database

    async def _admin(self, statement: str, *, url: str | None = None) -> None:
        connection = await asyncpg.connect(asyncpg_dsn(url or self._admin_url))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


async def migrate(service: ServiceUnderTest, url: str, revision: str = "head") -> None:
    """Run the service's own Alembic upgrade, as in production."""
    config = alembic.config.Config(service.root / "alembic.ini")
    config.attributes["settings"] = service.settings(database_url=SecretStr(url))
    await asyncio.to_thread(alembic.command.upgrade, config, revision)


async def check_migrations(service: ServiceUnderTest, databases: Databases) -> None:
    """Fail unless the revisions lead from an empty schema to the models, one step down and up again.

    Raises ``ContractingRevision`` for a revision that breaks running code.
    """
    url = await databases.empty(f"{service.name}_migrations")
    connection = await asyncpg.connect(asyncpg_dsn(url))
    await connection.execute(f'CREATE SCHEMA "{service.name}"')
    await connection.close()
    config = alembic.config.Config(service.root / "alembic.ini")
    config.attributes["settings"] = service.settings(database_url=SecretStr(url))

    async def run(command: Callable[..., object], *arguments: str) -> None:
        await asyncio.to_thread(command, config, *arguments)

    await upgrade_in_steps(config)
    await run(alembic.command.check)
    await run(alembic.command.downgrade, "-1")
    await run(alembic.command.upgrade, "head")
    await run(alembic.command.check)


async def delete_queues(channel: AbstractChannel, service: str) -> None:
    """Delete the service's message queues, because the server may be shared."""
    for name in (queue_name(service), dead_letter_queue_name(service), parked_queue_name(service)):
        await channel.queue_delete(name)


class TokenFactory:
    """A token issuer for tests, with its public keys at ``jwks_url``."""

    def __init__(self, folder: Path) -> None:
        self._key = OKPKey.generate_key("Ed25519", {"kid": "test"}, private=True)
        path = folder / "jwks.json"
        keys = KeySet([self._key])
        path.write_text(json.dumps(keys.as_dict(private=False)))
        self.jwks_url = path.as_uri()

    def token(self, org: str | None = "acme", scope: str = "", subject: str = "user-1", **claims: Any) -> str:
        now = datetime.now(UTC)
        body = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": subject,
            "scope": scope,
            "iat": int(now.timestamp()),
            "exp": int((now + timedelta(minutes=10)).timestamp()),
            **({"org": org} if org else {}),
            **claims,
        }
        return jwt.encode(
            {"alg": "Ed25519", "kid": "test", "typ": "at+jwt"}, body, self._key, algorithms=["Ed25519"]
        )

    def organizer(self, org: str = "acme", scope: str | None = None, **claims: Any) -> dict[str, str]:
        """Return the headers of a request by an organizer, with every public scope by default."""
        return {"Authorization": f"Bearer {self.token(org, ALL_SCOPES if scope is None else scope, **claims)}"}

    def service(self, name: str) -> dict[str, str]:
        """Return the headers of a request by another service."""
        return {"Authorization": f"Bearer {self.token(None, 'internal', subject=f'service:{name}')}"}


ALL_SCOPES = (
    "events:read events:write tickets:read tickets:write media:read media:write "
    "exports:read exports:write imports:write"
)


@dataclass(frozen=True)
class RecordedMessage:
    type: str
    payload: dict[str, Any]
    subject: Any
    seq: int


class RecordedOutbox:
    """The messages and jobs that the code under test added to its outbox, in sequence. Nothing is published."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def messages(self, *types: str) -> list[RecordedMessage]:
        rows = await self._connection.execute(
            select(OUTBOX).where(OUTBOX.c.kind == "message").order_by(OUTBOX.c.created_at, OUTBOX.c.aggregate_seq)
        )
        return [
            RecordedMessage(row.type, row.payload, row.aggregate_id, row.aggregate_seq)
            for row in rows
            if not types or row.type in types
        ]

    async def jobs(self) -> list[tuple[str, str]]:
        """Return pairs of actor and job id."""
        rows = await self._connection.execute(
            select(OUTBOX).where(OUTBOX.c.kind == "job").order_by(OUTBOX.c.created_at)
        )
        return [(row.type, row.payload["job_id"]) for row in rows]


class NewSettings(Protocol):
    """The fixture ``new_settings``. The settings are of the service under test, so typed as ``Any``."""

    def __call__(self, **values: Any) -> Any: ...


@dataclass(frozen=True)
class Live:
    """A service on its own database, where commits are real: for races, streams and raw connections."""

    app: FastAPI
    client: httpx.AsyncClient
    settings: Any
    engine: AsyncEngine
    sessions: Sessions


def settings_of(service: ServiceUnderTest, tokens: TokenFactory, folder: Path, **values: Any) -> Settings:
    """Return settings of a service for tests, with its files in the folder; ``values`` override the defaults."""
    defaults: dict[str, Any] = {
        "jwks_url": tokens.jwks_url,
        "token_issuer": ISSUER,
        "token_audience": AUDIENCE,
        "public_url": "http://gateway.test",
        "rabbitmq_url": SecretStr(os.environ.get("TEST_RABBITMQ_URL", "amqp://broker.test/")),
        "storage_folder": folder / "storage",
        "storage_signing_key": SecretStr(SIGNING_KEY),
    }
    known = {name: value for name, value in defaults.items() if name in service.settings.model_fields}
    return service.settings(**{**known, **service.extra, **values})


@asynccontextmanager
async def started(service: ServiceUnderTest, settings: Settings) -> AsyncIterator[Live]:
    app = service.create_app(settings)
    async with LifespanManager(app), _client(app) as client:
        yield Live(app, client, settings, app.state.engine, new_sessions(app.state.engine))


@pytest.fixture(scope="session")
async def databases() -> AsyncIterator[Databases]:
    databases = Databases()
    yield databases
    await databases.drop_all()


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> TokenFactory:
    return TokenFactory(tmp_path_factory.mktemp("issuer"))


@pytest.fixture
def new_settings(service: ServiceUnderTest, tokens: TokenFactory, tmp_path: Path) -> NewSettings:
    """Return a function that makes settings of the service; keyword arguments override the tests' defaults."""

    return partial(settings_of, service, tokens, tmp_path)


@pytest.fixture
async def connection(service: ServiceUnderTest, databases: Databases) -> AsyncIterator[AsyncConnection]:
    """Yield a connection whose outer transaction is rolled back after the test."""
    url = await databases.shared(service)
    settings = service.settings(database_url=SecretStr(url))
    engine = create_async_engine(
        url, poolclass=NullPool, connect_args={"server_settings": connection_settings(settings, "test")}
    )
    async with engine.connect() as connection:
        transaction = await connection.begin()
        yield connection
        await transaction.rollback()
    await engine.dispose()


@pytest.fixture
def sessions(connection: AsyncConnection) -> Sessions:
    """Return sessions inside the test's transaction, which may commit and roll back as in production."""
    return async_sessionmaker(connection, join_transaction_mode="create_savepoint", expire_on_commit=False)


@pytest.fixture
async def session(sessions: Sessions) -> AsyncIterator[AsyncSession]:
    async with sessions() as session:
        yield session


@pytest.fixture
def outbox(connection: AsyncConnection) -> RecordedOutbox:
    return RecordedOutbox(connection)


@pytest.fixture
async def app(
    service: ServiceUnderTest, new_settings: NewSettings, sessions: Sessions, databases: Databases
) -> AsyncIterator[FastAPI]:
    """Yield the service's started application, working inside the test's transaction."""
    settings = new_settings(database_url=SecretStr(await databases.shared(service)))
    app = service.create_app(settings)
    async with LifespanManager(app):
        app.state.sessions = sessions
        yield app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with _client(app) as client:
        yield client


@pytest.fixture
async def live(service: ServiceUnderTest, new_settings: NewSettings, databases: Databases) -> AsyncIterator[Live]:
    settings = new_settings(database_url=SecretStr(await databases.clone(service)))
    async with started(service, settings) as live:
        yield live


@asynccontextmanager
async def _client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    # With raise_app_exceptions off, a test gets the 500 that a user would get.
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://service.test") as client:
        yield client


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the developer's environment out of the tests."""
    for name in ("DATABASE_URL", "RABBITMQ_URL", "STORAGE_PLACE", "JWKS_URL", "TOKEN_ISSUER", "TOKEN_AUDIENCE"):
        monkeypatch.delenv(name, raising=False)
