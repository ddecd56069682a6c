"""Find revisions that break running code: while a release is rolled out, old pods work on the new schema.

Compare the schema before and after each revision, so that hand-written SQL counts as well.
"""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import alembic.command
import alembic.config
import asyncpg
from alembic.script import Script, ScriptDirectory

from shared.database.engine import asyncpg_dsn
from shared.settings import Settings

REFUSAL = """\
Revision {revision} ({file}) can break running code:
{contractions}
While a release is rolled out, pods of the previous release work on this schema. Spread the change over releases
("Add a migration" in CONTRIBUTING.md). If no running code is affected, say why in the revision:
  contracts = "why no running code needs it any more"\
"""

COLUMNS = """
SELECT c.relname AS table, a.attname AS name, a.attnotnull AS required,
       a.atthasdef OR a.attidentity <> '' AS filled,
       format_type(a.atttypid, a.atttypmod)
       || CASE WHEN a.attgenerated <> '' OR a.attidentity = 'a' THEN ' GENERATED ALWAYS' ELSE '' END AS type
FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = to_regnamespace(quote_ident($1)) AND c.relkind IN ('r', 'p', 'f', 'v', 'm')
  AND c.relname <> 'alembic_version'
"""

# A NOT VALID rule still applies to new rows, so it counts like a validated one.
RULES = """
SELECT c.relname AS table, k.conname AS name, k.contype IN ('p', 'u', 'x') AS is_unique,
       regexp_replace(pg_get_constraintdef(k.oid), ' NOT VALID$', '') AS definition
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
WHERE c.relnamespace = to_regnamespace(quote_ident($1)) AND k.contype IN ('c', 'f', 'p', 'u', 'x')
  AND c.relname <> 'alembic_version'
UNION ALL
SELECT c.relname, x.relname, true, pg_get_indexdef(i.indexrelid)
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_class x ON x.oid = i.indexrelid
WHERE c.relnamespace = to_regnamespace(quote_ident($1)) AND i.indisunique
  AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x'))
"""


class ContractingRevision(AssertionError):
    """A revision takes something from running code, and does not say why it may."""


@dataclass(frozen=True)
class Column:
    type: str
    required: bool
    filled: bool  # by a default, an identity or an expression


@dataclass(frozen=True)
class Rule:
    """A constraint or a unique index."""

    name: str
    definition: str
    is_unique: bool


@dataclass(frozen=True)
class Table:
    columns: dict[str, Column] = field(default_factory=dict)
    rules: set[Rule] = field(default_factory=set)


Schema = dict[str, Table]


async def read_schema(connection: asyncpg.Connection, name: str) -> Schema:
    """Return the tables and views of the schema, without Alembic's own."""
    schema: Schema = {}
    for row in await connection.fetch(COLUMNS, name):
        table = schema.setdefault(row["table"], Table())
        if row["name"] is not None:
            table.columns[row["name"]] = Column(row["type"], row["required"], row["filled"])
    for row in await connection.fetch(RULES, name):
        schema[row["table"]].rules.add(Rule(row["name"], row["definition"], row["is_unique"]))
    return schema


def contractions(before: Schema, after: Schema) -> list[str]:
    """Return the changes from ``before`` to ``after`` that can break code written for ``before``."""
    found: list[str] = []
    for name, old in sorted(before.items()):
        if name not in after:
            found.append(f"{name} was dropped or renamed")
            continue
        new = after[name]
        found += [f"{name}.{column} was dropped or renamed" for column in old.columns.keys() - new.columns.keys()]
        for column, now in new.columns.items():
            found += [f"{name}.{column} {what}" for what in _narrowed(old.columns.get(column), now)]
        found += [f"{name} has the new rule {rule.name}: {rule.definition}" for rule in new.rules - old.rules]
        # ON CONFLICT fails without the unique index that it names.
        lost = [rule for rule in old.rules - new.rules if rule.is_unique]
        found += [f"{name} no longer has {rule.name}: {rule.definition}" for rule in lost]
    return sorted(found)


def _narrowed(old: Column | None, new: Column) -> list[str]:
    if old is None:
        return ["is new and NOT NULL without a default"] if new.required and not new.filled else []
    found = []
    if new.type != old.type:
        # A wider type too: each open connection fails once, because its prepared statements become invalid.
        found.append(f"changes its type from {old.type} to {new.type}")
    if new.required and not old.required:
        found.append("becomes NOT NULL")
    if old.filled and not new.filled:
        found.append("no longer has a default")
    return found


async def upgrade_in_steps(config: alembic.config.Config) -> None:
    """Upgrade to the head, and raise ``ContractingRevision`` after the first revision that breaks running code.

    Requires ``config.attributes["settings"]``.
    """
    settings: Settings = config.attributes["settings"]
    connection = await asyncpg.connect(asyncpg_dsn(settings.database_url.get_secret_value()))
    try:
        before = await read_schema(connection, settings.service)
        for revision in reversed(list(ScriptDirectory.from_config(config).walk_revisions())):
            await asyncio.to_thread(alembic.command.upgrade, config, revision.revision)
            after = await read_schema(connection, settings.service)
            _refuse(revision, contractions(before, after))
            before = after
    finally:
        await connection.close()


def _refuse(revision: Script, found: list[str]) -> None:
    reason = getattr(revision.module, "contracts", None)
    if found and not (isinstance(reason, str) and reason.strip()):
        raise ContractingRevision(
            REFUSAL.format(
                revision=revision.revision,
                file=Path(revision.path).name,
                contractions="\n".join(f"  - {what}" for what in found),
            )
        )
