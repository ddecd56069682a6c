"""The outbox for operators: what is not published yet and why, and publishing again what was."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, TextClause, and_, func, select, text, true, update

from shared.database.engine import Sessions
from shared.messaging.tables import OUTBOX

_UNPUBLISHED = text("""
    SELECT kind, type, count(*) AS rows,
           extract(epoch FROM clock_timestamp() - min(created_at))::float8 AS oldest_seconds
    FROM outbox WHERE published_at IS NULL GROUP BY kind, type ORDER BY rows DESC, type
""")
_REFUSED = text("""
    SELECT id, type, aggregate_id AS subject, aggregate_seq AS seq, attempts, next_attempt_at, last_error AS error
    FROM outbox WHERE published_at IS NULL AND attempts > 0
    ORDER BY created_at, aggregate_seq LIMIT 50
""")
_REFUSED_COUNT = text("SELECT count(*) AS rows FROM outbox WHERE published_at IS NULL AND attempts > 0")
_PUBLISHED = text("""
    SELECT count(*) FILTER (WHERE published_at > clock_timestamp() - interval '1 hour') AS last_hour,
           count(*) AS last_24_hours
    FROM outbox WHERE published_at > clock_timestamp() - interval '24 hours'
""")
# Each relay of a service holds shared locks of 16 buckets, each one alone; see shared.messaging.relay.
_RELAYS = text("""
    SELECT activity.application_name AS name, lock.pid, host(activity.client_addr) AS address,
           activity.backend_start AS since, array_agg(lock.objid::bigint ORDER BY lock.objid) AS buckets
    FROM pg_locks AS lock JOIN pg_stat_activity AS activity USING (pid)
    WHERE lock.locktype = 'advisory' AND lock.granted AND lock.mode = 'ExclusiveLock'
      AND lock.classid = hashtext('rostrum.relay.' || :service)::oid
      AND lock.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    GROUP BY lock.pid, activity.application_name, activity.client_addr, activity.backend_start
    ORDER BY min(lock.objid)
""")


async def outbox_status(sessions: Sessions, service: str) -> dict[str, Any]:
    """Return what waits, what the broker refused, what was published, and which relay holds which buckets."""
    async with sessions() as session:

        async def rows(statement: TextClause, **values: str) -> list[dict[str, Any]]:
            return [dict(row) for row in (await session.execute(statement, values)).mappings()]

        types = await rows(_UNPUBLISHED)
        oldest = max((item["oldest_seconds"] for item in types), default=None)
        return {
            "service": service,
            "unpublished": {
                "rows": sum(item["rows"] for item in types),
                "oldest_seconds": oldest,
                "types": types,
            },
            "refused": {**(await rows(_REFUSED_COUNT))[0], "oldest": await rows(_REFUSED)},
            "published": (await rows(_PUBLISHED))[0],
            "relays": await rows(_RELAYS, service=service),
        }


def published(
    *,
    types: Sequence[str] = (),
    since: datetime | None = None,
    until: datetime | None = None,
    subject: UUID | None = None,
) -> ColumnElement[bool]:
    """Select published messages: of these types, written in ``[since, until)``, about this aggregate."""
    columns = OUTBOX.c
    return and_(
        columns.kind == "message",
        columns.published_at.is_not(None),
        columns.type.in_(types) if types else true(),
        columns.created_at >= since if since else true(),
        columns.created_at < until if until else true(),
        columns.aggregate_id == subject if subject else true(),
    )


async def count_and_span(
    sessions: Sessions, condition: ColumnElement[bool]
) -> tuple[int, datetime | None, datetime | None]:
    """Return how many messages there are, and when the first and the last were written."""
    created_at = OUTBOX.c.created_at
    async with sessions() as session:
        found = select(func.count(), func.min(created_at), func.max(created_at)).where(condition)
        count, first, last = (await session.execute(found)).one()
    return count, first, last


async def replay(
    sessions: Sessions, condition: ColumnElement[bool], *, batch: int = 1000
) -> AsyncIterator[list[UUID]]:
    """Make published messages unpublished, so that the relay sends them again; yield the ids of each commit.

    Only those published before the call: a relay may have sent the first of them again meanwhile.
    """
    async with sessions() as session:
        began_at = await session.scalar(select(func.clock_timestamp()))
    chosen = (
        select(OUTBOX.c.id)
        .where(condition, OUTBOX.c.published_at < began_at)
        .order_by(OUTBOX.c.created_at, OUTBOX.c.aggregate_seq)
        .limit(batch)
        .with_for_update()
    )
    mark = (
        update(OUTBOX)
        .where(OUTBOX.c.id.in_(chosen))
        # Attempts and errors of the first time say nothing about the second.
        .values(published_at=None, attempts=0, last_error=None, next_attempt_at=func.clock_timestamp())
        .returning(OUTBOX.c.id)
    )
    while True:
        async with sessions.begin() as session:
            ids = list((await session.execute(mark)).scalars())
        if not ids:
            return
        yield ids
