"""The Alembic environment of all services: their ``migrations/env.py`` only calls ``run``.

A change never loses data: see ``refuse_lossy_changes``. One migrator runs at a time per service, and a migration
gives up on a lock before the requests that queue behind it become an outage.
"""

import asyncio
from collections.abc import Iterable, Iterator

from alembic import context
from alembic.operations import ops
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import Connection, MetaData, NullPool, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from shared.database.engine import connection_settings
from shared.settings import Settings
from shared.walltime import use_pinned_tzdata

LOCK_TIMEOUT = "4s"
STATEMENT_TIMEOUT = "60s"
MIGRATOR_WAIT = 120.0

LOSSY = """\
This revision would drop {dropped} and add {added}, and lose the data of the dropped part.
Write the change that you mean by hand, in a revision without autogenerate (`make revision` with AUTO=):
  renamed column:  op.alter_column("table", "old", new_column_name="new")
  renamed table:   op.rename_table("old", "new")
  changed type:    op.alter_column("table", "column", type_=NewType(), postgresql_using="column::new_type")
  column → table:  create the table and INSERT … SELECT into it; drop the column in a later revision,
                   when no running code reads it any more
If the dropped and the added part are unrelated, make two revisions: one that adds, and a later one that drops."""


class LossyRevision(CommandError):
    """A revision has a drop beside an add, which is how autogenerate writes a rename."""


def refuse_lossy_changes(
    _context: MigrationContext, _revision: object, directives: list[ops.MigrationScript]
) -> None:
    """Alembic hook ``process_revision_directives``, also for ``alembic check``. Raises ``LossyRevision``."""
    for script in directives:
        operations = list(_flat(script.upgrade_ops.ops if script.upgrade_ops else ()))
        dropped = [_dropped(op) for op in operations if isinstance(op, ops.DropColumnOp | ops.DropTableOp)]
        added = [_added(op) for op in operations if isinstance(op, ops.AddColumnOp | ops.CreateTableOp)]
        if dropped and added:
            raise LossyRevision(LOSSY.format(dropped=", ".join(dropped), added=", ".join(added)))


def _flat(operations: Iterable[ops.MigrateOperation]) -> Iterator[ops.MigrateOperation]:
    for operation in operations:
        if isinstance(operation, ops.OpContainer):
            yield from _flat(operation.ops)
        else:
            yield operation


def _dropped(operation: ops.MigrateOperation) -> str:
    if isinstance(operation, ops.DropColumnOp):
        return f"column {operation.table_name}.{operation.column_name}"
    assert isinstance(operation, ops.DropTableOp)  # noqa: S101 - the caller chose the two kinds
    return f"table {operation.table_name}"


def _added(operation: ops.MigrateOperation) -> str:
    if isinstance(operation, ops.AddColumnOp):
        return f"column {operation.table_name}.{operation.column.name}"
    assert isinstance(operation, ops.CreateTableOp)  # noqa: S101 - the caller chose the two kinds
    return f"table {operation.table_name}"


def run(settings_class: type[Settings], metadata: MetaData) -> None:
    """Run the migrations, online or as ``--sql``. Only the service's ``DATABASE_URL`` is needed.

    A caller of Alembic's API may pass settings as ``config.attributes["settings"]``.
    """
    use_pinned_tzdata()
    settings: Settings = context.config.attributes.get("settings") or settings_class()
    if context.is_offline_mode():
        context.configure(
            dialect_name="postgresql",
            target_metadata=metadata,
            literal_binds=True,
            transaction_per_migration=True,
        )
        context.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
        context.execute(f"SET statement_timeout = '{STATEMENT_TIMEOUT}'")
        context.run_migrations()
    else:
        asyncio.run(_migrate(settings, metadata))


async def _migrate(settings: Settings, metadata: MetaData) -> None:
    engine = create_async_engine(
        settings.database_url.get_secret_value(),
        poolclass=NullPool,
        connect_args={"server_settings": connection_settings(settings, "migrations"), "timeout": 10},
    )
    try:
        async with engine.connect() as lock_session, engine.connect() as connection:
            await lock_session.execution_options(isolation_level="AUTOCOMMIT")
            await _become_only_migrator(lock_session, settings.service)
            await connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
            await connection.execute(text(f"SET statement_timeout = '{STATEMENT_TIMEOUT}'"))
            await connection.commit()
            await connection.run_sync(_run_migrations, metadata)
            await connection.commit()
    finally:
        await engine.dispose()


async def _become_only_migrator(lock_session: AsyncConnection, service: str) -> None:
    # Polls, because a session that blocks in pg_advisory_lock holds a snapshot, for which a CREATE INDEX
    # CONCURRENTLY of the running migrator would wait in turn.
    async with asyncio.timeout(MIGRATOR_WAIT):
        while not await lock_session.scalar(  # noqa: ASYNC110 - the condition depends on another process
            text("SELECT pg_try_advisory_lock(hashtext('rostrum.migrations'), hashtext(:service))"),
            {"service": service},
        ):
            await asyncio.sleep(0.5)


def _run_migrations(connection: Connection, metadata: MetaData) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        compare_type=True,
        compare_server_default=True,
        transaction_per_migration=True,
        process_revision_directives=refuse_lossy_changes,
    )
    with context.begin_transaction():
        context.run_migrations()
