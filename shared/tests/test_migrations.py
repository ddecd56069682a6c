import asyncio
from pathlib import Path

import alembic.command
import alembic.config
import asyncpg
import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from shared.database import new_engine
from shared.migrations import LossyRevision
from shared.provisioning import provision
from shared.settings import Settings
from shared.testing import Databases, server

MODELS = """
import sqlalchemy as sa
from shared.database import new_metadata
metadata = new_metadata()
sa.Table({table!r}, metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column({column!r}, sa.Text))
"""

ENV = """
import runpy
from pathlib import Path
from shared.migrations import run
from shared.settings import Settings
run(Settings, runpy.run_path(str(Path(__file__).parent / "models.py"))["metadata"])
"""

TEMPLATE = """revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
import sqlalchemy as sa
from alembic import op
def upgrade():
    ${upgrades if upgrades else "pass"}
def downgrade():
    ${downgrades if downgrades else "pass"}
"""


class Project:
    """A service's migrations folder, small enough to break on purpose."""

    def __init__(self, folder: Path, url: str) -> None:
        (folder / "versions").mkdir()
        (folder / "env.py").write_text(ENV)
        (folder / "script.py.mako").write_text(TEMPLATE)
        self.folder = folder
        self.config = alembic.config.Config()
        self.config.set_main_option("script_location", str(folder))
        self.config.set_main_option("path_separator", "os")
        self.config.attributes["settings"] = Settings(service="probe", database_url=SecretStr(url))

    def model(self, table: str, column: str) -> None:
        (self.folder / "models.py").write_text(MODELS.format(table=table, column=column))

    async def revision(self) -> None:
        await asyncio.to_thread(alembic.command.revision, self.config, "next", autogenerate=True)

    async def upgrade(self) -> None:
        await asyncio.to_thread(alembic.command.upgrade, self.config, "head")


@pytest.fixture
async def project(tmp_path: Path, databases: Databases) -> Project:
    url = await databases.empty("migrations")
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    await connection.execute("CREATE SCHEMA probe")
    await connection.close()
    project = Project(tmp_path, url)
    project.model("walls", "color")
    await project.revision()
    await project.upgrade()
    return project


@pytest.mark.parametrize(
    ("table", "column", "words"),
    [
        ("walls", "colour", "column walls.color and add column walls.colour"),
        ("facades", "color", "table walls and add table facades"),
    ],
)
async def test_a_rename_that_autogenerate_would_write_as_drop_and_add_is_refused_with_the_way_out(
    project: Project, table: str, column: str, words: str
) -> None:
    project.model(table, column)
    with pytest.raises(LossyRevision) as refusal:
        await project.revision()
    assert words in str(refusal.value)
    assert "new_column_name" in str(refusal.value)
    assert "postgresql_using" in str(refusal.value)
    assert len(list((project.folder / "versions").glob("*.py"))) == 1, "no file may be left behind"


async def test_the_version_table_lies_in_the_service_s_own_schema(project: Project) -> None:
    settings: Settings = project.config.attributes["settings"]
    connection = await asyncpg.connect(settings.database_url.get_secret_value().replace("+asyncpg", ""))
    rows = await connection.fetch(
        "SELECT schemaname, tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
    )
    await connection.close()
    assert {tuple(row) for row in rows} == {("probe", "alembic_version"), ("probe", "walls")}


async def test_one_migrator_waits_for_the_other(project: Project) -> None:
    settings: Settings = project.config.attributes["settings"]
    connection = await asyncpg.connect(settings.database_url.get_secret_value().replace("+asyncpg", ""))
    await connection.execute("SELECT pg_advisory_lock(hashtext('rostrum.migrations'), hashtext('probe'))")
    second = asyncio.create_task(project.upgrade())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(second), 1.5)
    await connection.close()
    await asyncio.wait_for(second, 20)


async def test_a_service_s_role_sees_no_other_schema(databases: Databases) -> None:
    url = await databases.empty("provision")
    name = url.rsplit("/", 1)[1]
    one, other = f"{name}_one", f"{name}_two"
    for _ in range(2):  # a second run changes nothing and does not fail
        await provision(server("TEST_DATABASE_URL"), {one: "pw'1", other: "pw2"}, database=name)
    own_url = url.replace(url.split("//")[1].split("@")[0], f"{one}:pw'1")
    engine = new_engine(Settings(service=one, database_url=SecretStr(own_url)), "test")
    try:
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE mine (id int)"))
            assert await connection.scalar(text("SELECT count(*) FROM mine")) == 0
        for forbidden in (f'CREATE TABLE "{other}".theirs (id int)', "CREATE TABLE public.everyones (id int)"):
            async with engine.connect() as connection:
                with pytest.raises(DBAPIError, match="permission denied"):
                    await connection.execute(text(forbidden))
    finally:
        await engine.dispose()
        admin = await asyncpg.connect(url.replace("+asyncpg", ""))
        for role in (one, other):
            await admin.execute(f'DROP OWNED BY "{role}" CASCADE')
            await admin.execute(f'DROP ROLE "{role}"')
        await admin.close()
