import asyncpg

from shared.database.engine import asyncpg_dsn
from shared.ids import new_id
from testkit.plugin import Databases, ServiceUnderTest, check_migrations, migrate

SHIPPED = "ad8f63978edc"


async def test_migrations_create_the_schema_of_the_models_and_can_be_reverted_by_one(
    service: ServiceUnderTest, databases: Databases
) -> None:
    await check_migrations(service, databases)


async def test_limits_per_order_survive_their_new_names(service: ServiceUnderTest, databases: Databases) -> None:
    url = await databases.empty("limits_per_order")
    connection = await asyncpg.connect(asyncpg_dsn(url), server_settings={"search_path": "tickets"})
    await connection.execute("CREATE SCHEMA tickets")
    await migrate(service, url, SHIPPED)
    event_id = new_id()
    await connection.execute(
        "INSERT INTO event_copies (event_id, organizer, identifier, name, timezone, starts_at, ends_at, state, seq)"
        " VALUES ($1, 'acme', 'k3x9q0ab', 'Days', 'UTC', now(), now(), 'draft', 1)",
        event_id,
    )
    for position in (1, 2):
        await connection.execute(
            "INSERT INTO tickets (id, event_id, organizer, name, description, type, quantity, min_order, max_order,"
            " is_hidden, position, sales_starts_local, sales_starts_fold, sales_starts_at, sales_starts_text,"
            " sales_ends_local, sales_ends_fold, sales_ends_at, sales_ends_text, tzdata_version)"
            " VALUES ($1, $2, 'acme', $3::int::text, '', 'free', 100, $3, $3 + 10, false, $3,"
            " now(), 0, now(), '', now(), 0, now() + '1 day', '', '')",
            new_id(),
            event_id,
            position,
        )
    await migrate(service, url)
    rows = await connection.fetch("SELECT min_per_order, max_per_order FROM tickets ORDER BY position")
    assert [tuple(row) for row in rows] == [(1, 11), (2, 12)]
    await connection.close()
