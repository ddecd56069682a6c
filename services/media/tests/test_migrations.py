import asyncio
from collections.abc import Callable

import alembic.command
import alembic.config
import asyncpg
from pydantic import SecretStr

from media.settings import MediaSettings
from shared.testing import Databases, ServiceUnderTest


async def test_migrations_build_the_tables_of_the_models_and_step_back(
    service: ServiceUnderTest, databases: Databases
) -> None:
    url = await databases.empty("media_migrations")
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    await connection.execute("CREATE SCHEMA media")
    await connection.close()
    config = alembic.config.Config(service.root / "alembic.ini")
    config.attributes["settings"] = MediaSettings(database_url=SecretStr(url))

    async def run(command: Callable[..., None], *arguments: str) -> None:
        await asyncio.to_thread(command, config, *arguments)

    await run(alembic.command.upgrade, "head")
    await run(alembic.command.check)
    await run(alembic.command.downgrade, "-1")
    await run(alembic.command.upgrade, "head")
    await run(alembic.command.check)
