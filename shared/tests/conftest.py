from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import DeclarativeBase

from shared.database.engine import Sessions, new_engine, new_sessions
from shared.database.idempotency import idempotency_table
from shared.database.tables import COLUMN_TYPES, new_metadata
from shared.ids import new_id
from shared.jobs.rows import JobColumns
from shared.messaging.tables import messaging_tables
from shared.settings import Settings
from testkit.plugin import Databases, server


class Base(DeclarativeBase):
    metadata = new_metadata()
    type_annotation_map = COLUMN_TYPES


class PaintJob(Base, JobColumns):
    """A job of no service, to test what all jobs have in common."""

    __tablename__ = "paint_jobs"


messaging_tables(Base.metadata)
idempotency_table(Base.metadata)


@pytest.fixture
async def settings(databases: Databases) -> Settings:
    """Settings of a service that exists for one test: a database and queues of its own."""
    name = f"probe_{new_id().hex[-12:]}"
    return Settings(
        service=name,
        database_url=SecretStr(await databases.empty("shared")),
        rabbitmq_url=SecretStr(server("TEST_RABBITMQ_URL")),
    )


@pytest.fixture
async def engine(settings: Settings) -> AsyncIterator[AsyncEngine]:
    engine = new_engine(settings, "test")
    async with engine.begin() as connection:
        await connection.execute(text(f"CREATE SCHEMA {settings.service}"))
        await connection.run_sync(Base.metadata.create_all)
    yield engine
    await engine.dispose()


@pytest.fixture
def sessions(engine: AsyncEngine) -> Sessions:
    return new_sessions(engine)


@pytest.fixture
def job_class() -> type[PaintJob]:
    return PaintJob
