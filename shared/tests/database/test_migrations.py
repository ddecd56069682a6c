import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import alembic.command
import alembic.config
import asyncpg
import pytest
from alembic.script import ScriptDirectory
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from shared.database.engine import asyncpg_dsn, new_engine
from shared.database.migrations import LossyRevision
from shared.database.provisioning import provision
from shared.settings import Settings
from testkit.migrations import ContractingRevision, contractions, read_schema
from testkit.plugin import Databases, ServiceUnderTest, check_migrations, server

MODELS = """
import sqlalchemy as sa
from shared.database.tables import new_metadata
metadata = new_metadata()
sa.Table({table!r}, metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column({column!r}, sa.Text))
"""

ENV = """
import runpy
from pathlib import Path
from shared.database.migrations import run
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
        (folder / "alembic.ini").write_text("[alembic]\nscript_location = %(here)s\npath_separator = os\n")
        (folder / "env.py").write_text(ENV)
        (folder / "script.py.mako").write_text(TEMPLATE)
        self.folder = folder
        self.config = alembic.config.Config(folder / "alembic.ini")
        self.config.attributes["settings"] = Settings(service="probe", database_url=SecretStr(url))

    def model(self, table: str, column: str) -> None:
        (self.folder / "models.py").write_text(MODELS.format(table=table, column=column))

    def write(self, upgrade: str, downgrade: str, *, contracts: str | None = None) -> None:
        """A revision by hand, on top of the others; replaces one that was written before."""
        file = self.folder / "versions" / "by_hand.py"
        file.unlink(missing_ok=True)
        head = ScriptDirectory.from_config(self.config).get_current_head()
        lines = [f"revision = 'byhand'\ndown_revision = {head!r}\nfrom alembic import op"]
        if contracts is not None:
            lines.append(f"contracts = {contracts!r}")
        lines += [
            f"def upgrade():\n    op.execute({upgrade!r})",
            f"def downgrade():\n    op.execute({downgrade!r})",
        ]
        file.write_text("\n".join(lines))

    async def revision(self) -> None:
        await asyncio.to_thread(alembic.command.revision, self.config, "next", autogenerate=True)

    async def upgrade(self) -> None:
        await asyncio.to_thread(alembic.command.upgrade, self.config, "head")


@pytest.fixture
async def project(tmp_path: Path, databases: Databases) -> Project:
    url = await databases.empty("migrations")
    connection = await asyncpg.connect(asyncpg_dsn(url))
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


WALLS = """
CREATE SCHEMA "a wall's";
SET search_path = "a wall's";
CREATE TABLE rooms (id int PRIMARY KEY);
CREATE TABLE walls (
    id int PRIMARY KEY, color text, code varchar(10), width int NOT NULL DEFAULT 1, room int REFERENCES rooms,
    height int NOT NULL CONSTRAINT high CHECK (height > 0), CONSTRAINT one_code UNIQUE (code)
);
ALTER TABLE walls ADD CONSTRAINT wide CHECK (width > 0) NOT VALID;
CREATE UNIQUE INDEX one_color ON walls (lower(color));
CREATE INDEX by_height ON walls (height);
CREATE VIEW wide_walls AS SELECT id FROM walls WHERE id > 5;
"""


@pytest.fixture(scope="module")
async def walls(databases: Databases) -> AsyncIterator[asyncpg.Connection]:
    url = await databases.empty("walls")
    connection = await asyncpg.connect(asyncpg_dsn(url))
    await connection.execute(WALLS)
    yield connection
    await connection.close()


async def found_in(walls: asyncpg.Connection, change: str) -> list[str]:
    change_only = walls.transaction()
    await change_only.start()
    try:
        before = await read_schema(walls, "a wall's")
        await walls.execute(change)
        return contractions(before, await read_schema(walls, "a wall's"))
    finally:
        await change_only.rollback()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("DROP TABLE rooms CASCADE", "rooms was dropped"),
        ("ALTER TABLE walls RENAME TO facades", "walls was dropped or renamed"),
        ("DROP VIEW wide_walls", "wide_walls was dropped"),
        ("ALTER TABLE walls DROP COLUMN color", "walls.color was dropped"),
        ("ALTER TABLE walls RENAME color TO colour", "walls.color was dropped"),
        ("ALTER TABLE walls ALTER width TYPE smallint", "walls.width changes its type from integer to smallint"),
        (
            "ALTER TABLE walls ALTER code TYPE int USING 1",
            "walls.code changes its type from character varying(10) to integer",
        ),
        (
            "ALTER TABLE walls ALTER code TYPE varchar(5)",
            "walls.code changes its type from character varying(10) to",
        ),
        (
            "ALTER TABLE walls ALTER code TYPE text",
            "walls.code changes its type from character varying(10) to text",
        ),
        ("ALTER TABLE walls ADD depth int NOT NULL", "walls.depth is new and NOT NULL without a default"),
        ("ALTER TABLE walls ALTER color SET NOT NULL", "walls.color becomes NOT NULL"),
        ("ALTER TABLE walls ALTER width DROP DEFAULT", "walls.width no longer has a default"),
        ("ALTER TABLE walls ADD CONSTRAINT low CHECK (height < 9)", "walls has the new rule low: CHECK"),
        ("ALTER TABLE walls ADD CONSTRAINT low CHECK (height < 9) NOT VALID", "walls has the new rule low: CHECK"),
        ("ALTER TABLE walls DROP CONSTRAINT high, ADD CONSTRAINT high CHECK (height > 1)", "the new rule high"),
        ("ALTER TABLE walls ADD CONSTRAINT flat UNIQUE (height)", "walls has the new rule flat: UNIQUE"),
        ("CREATE UNIQUE INDEX flat ON walls (height)", "walls has the new rule flat: CREATE UNIQUE INDEX"),
        ("ALTER TABLE walls ADD CONSTRAINT up FOREIGN KEY (height) REFERENCES rooms", "new rule up: FOREIGN KEY"),
        ("ALTER TABLE walls ADD roof int CONSTRAINT up REFERENCES rooms", "new rule up: FOREIGN KEY"),
        ("ALTER TABLE walls ADD CONSTRAINT alone EXCLUDE (height WITH =)", "walls has the new rule alone: EXCLUDE"),
        ("ALTER TABLE walls DROP CONSTRAINT one_code", "walls no longer has one_code: UNIQUE"),
        ("DROP INDEX one_color", "walls no longer has one_color: CREATE UNIQUE INDEX"),
    ],
)
async def test_what_running_code_may_fail_at_is_found(walls: asyncpg.Connection, change: str, words: str) -> None:
    assert any(words in what for what in await found_in(walls, change))


@pytest.mark.parametrize(
    "change",
    [
        "CREATE TABLE doors (id int PRIMARY KEY, wall int NOT NULL UNIQUE REFERENCES walls CHECK (wall > 0))",
        "ALTER TABLE walls ADD depth int",
        "ALTER TABLE walls ADD depth int NOT NULL DEFAULT 1",
        "ALTER TABLE walls ADD number int NOT NULL GENERATED BY DEFAULT AS IDENTITY",
        "ALTER TABLE walls ADD area int NOT NULL GENERATED ALWAYS AS (width * height) STORED",
        "ALTER TABLE walls ALTER color SET DEFAULT 'white', ALTER width SET DEFAULT 2",
        "ALTER TABLE walls ALTER height DROP NOT NULL, DROP CONSTRAINT high, DROP CONSTRAINT walls_room_fkey",
        "ALTER TABLE walls VALIDATE CONSTRAINT wide",
        "CREATE INDEX by_width ON walls (width); DROP INDEX by_height",
        "UPDATE walls SET color = 'white'; ALTER TABLE walls SET (fillfactor = 70)",
    ],
)
async def test_what_running_code_does_not_notice_is_free(walls: asyncpg.Connection, change: str) -> None:
    assert await found_in(walls, change) == []


class ProbeSettings(Settings):
    service: str = "probe"


async def test_a_revision_that_breaks_running_code_passes_only_with_a_reason(
    project: Project, databases: Databases
) -> None:
    rename, back = "ALTER TABLE walls RENAME color TO colour", "ALTER TABLE walls RENAME colour TO color"
    service = ServiceUnderTest(ProbeSettings, lambda _: FastAPI(), project.folder)
    project.model("walls", "colour")
    for reason in (None, " "):
        project.write(rename, back, contracts=reason)
        with pytest.raises(ContractingRevision) as refusal:
            await check_migrations(service, databases)
        for words in ("byhand", "by_hand.py", "walls.color was dropped", "contracts = "):
            assert words in str(refusal.value)

    project.write(rename, back, contracts="colour is what all running code reads since 1.4")
    await check_migrations(service, databases)


async def test_the_version_table_lies_in_the_service_s_own_schema(project: Project) -> None:
    settings: Settings = project.config.attributes["settings"]
    connection = await asyncpg.connect(asyncpg_dsn(settings.database_url.get_secret_value()))
    rows = await connection.fetch(
        "SELECT schemaname, tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
    )
    await connection.close()
    assert {tuple(row) for row in rows} == {("probe", "alembic_version"), ("probe", "walls")}


async def test_one_migrator_waits_for_the_other(project: Project) -> None:
    settings: Settings = project.config.attributes["settings"]
    connection = await asyncpg.connect(asyncpg_dsn(settings.database_url.get_secret_value()))
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
        admin = await asyncpg.connect(asyncpg_dsn(url))
        for role in (one, other):
            await admin.execute(f'DROP OWNED BY "{role}" CASCADE')
            await admin.execute(f'DROP ROLE "{role}"')
        await admin.close()
