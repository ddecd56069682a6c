import asyncio
from collections.abc import Callable

import alembic.command
import alembic.config
import asyncpg
from pydantic import SecretStr

from shared.testing import Databases, ServiceUnderTest


async def test_migrations_lead_from_nothing_to_the_models_and_one_step_back(
    service: ServiceUnderTest, databases: Databases
) -> None:
    url = await databases.empty("migrations")
    connection = await asyncpg.connect(url.replace("+asyncpg", "", 1))
    await connection.execute("CREATE SCHEMA exports")
    await connection.close()
    config = alembic.config.Config(service.root / "alembic.ini")
    config.attributes["settings"] = service.settings(database_url=SecretStr(url))

    async def run(command: Callable[..., object], *arguments: str) -> None:
        await asyncio.to_thread(command, config, *arguments)

    await run(alembic.command.upgrade, "head")
    await run(alembic.command.check)
    await run(alembic.command.downgrade, "-1")
    await run(alembic.command.upgrade, "head")
    await run(alembic.command.check)
