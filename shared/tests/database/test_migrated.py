import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import alembic.command
import alembic.config
import asyncpg
import pytest
from pydantic import SecretStr

from shared.database.engine import asyncpg_dsn
from shared.database.migrated import is_migrated, wait_until_migrated
from shared.settings import Settings
from testkit.plugin import Databases

ENV = """
from shared.database.tables import new_metadata
from shared.database.migrations import run
from shared.settings import Settings
run(Settings, new_metadata())
"""

REVISION = """
revision = {revision!r}
down_revision = {after!r}
def upgrade(): pass
def downgrade(): pass
"""


class Release:
    """The migrations of one release, and the database that they are for."""

    def __init__(self, folder: Path, url: str, *revisions: str) -> None:
        (folder / "versions").mkdir(parents=True)
        (folder / "env.py").write_text(ENV)
        for after, revision in zip((None, *revisions), revisions, strict=False):
            (folder / "versions" / f"{revision}.py").write_text(REVISION.format(revision=revision, after=after))
        self.settings = Settings(service="probe", database_url=SecretStr(url))
        self.config = alembic.config.Config()
        self.config.set_main_option("script_location", str(folder))
        self.config.set_main_option("path_separator", "os")
        self.config.attributes["settings"] = self.settings

    async def migrate(self, to: str = "head") -> None:
        await asyncio.to_thread(alembic.command.upgrade, self.config, to)

    async def is_migrated(self) -> bool:
        return await is_migrated(self.settings, self.config)


@pytest.fixture
async def url(databases: Databases) -> str:
    url = await databases.empty("migrated")
    connection = await asyncpg.connect(asyncpg_dsn(url))
    await connection.execute("CREATE SCHEMA probe")
    await connection.close()
    return url


async def test_it_waits_until_the_migration_of_its_release_is_done(url: str, tmp_path: Path) -> None:
    release = Release(tmp_path / "one", url, "a1", "b2")
    assert not await release.is_migrated()
    waiting = asyncio.create_task(wait_until_migrated(release.settings, release.config))
    await release.migrate("a1")
    assert not await release.is_migrated()
    await release.migrate()
    await asyncio.wait_for(waiting, 30)


async def test_what_a_later_release_has_migrated_is_good_for_the_one_before(url: str, tmp_path: Path) -> None:
    await Release(tmp_path / "later", url, "a1", "b2", "c3").migrate()
    assert await Release(tmp_path / "before", url, "a1", "b2").is_migrated()


async def test_it_waits_for_a_database_that_is_not_there_yet(url: str, tmp_path: Path) -> None:
    whole = urlsplit(url)
    later = whole._replace(path=f"{whole.path}_later").geturl()
    release = Release(tmp_path / "one", later, "a1")
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await release.is_migrated()
    waiting = asyncio.create_task(wait_until_migrated(release.settings, release.config))
    connection = await asyncpg.connect(asyncpg_dsn(url))
    try:
        await connection.execute(f'CREATE DATABASE "{later.rpartition("/")[2]}"')
        inside = await asyncpg.connect(asyncpg_dsn(later))
        await inside.execute("CREATE SCHEMA probe")
        await inside.close()
        await release.migrate()
        await asyncio.wait_for(waiting, 30)
    finally:
        await connection.execute(f'DROP DATABASE IF EXISTS "{later.rpartition("/")[2]}" WITH (FORCE)')
        await connection.close()
