"""The outbox for operators: what is not published yet and why, and publishing again what was."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, func, select, text, true, update

from shared.database.engine import Sessions
from shared.messaging.tables import OUTBOX

# Each relay of a service holds shared locks of 16 buckets, each one alone; see shared.messaging.relay.
_STATUS = text("""
    WITH types AS (
        SELECT kind, type, count(*) AS rows, extract(epoch FROM now() - min(created_at)) AS oldest_seconds
        FROM outbox WHERE published_at IS NULL GROUP BY kind, type
    ), refused AS (
        SELECT id, type, aggregate_id AS subject, aggregate_seq AS seq, attempts, next_attempt_at,
               last_error AS error
        FROM outbox WHERE published_at IS NULL AND attempts > 0
    ), oldest AS (
        SELECT refused.* FROM refused JOIN outbox USING (id) ORDER BY created_at, seq LIMIT 50
    ), published AS (
        SELECT count(*) FILTER (WHERE published_at > now() - interval '1 hour') AS last_hour,
               count(*) AS last_24_hours
        FROM outbox WHERE published_at > now() - interval '24 hours'
    ), relays AS (
        SELECT activity.application_name AS name, lock.pid, host(activity.client_addr) AS address,
               activity.backend_start AS since, array_agg(lock.objid::bigint ORDER BY lock.objid) AS buckets
        FROM pg_locks AS lock JOIN pg_stat_activity AS activity USING (pid)
        WHERE lock.locktype = 'advisory' AND lock.granted AND lock.mode = 'ExclusiveLock'
          AND lock.classid = hashtext('rostrum.relay.' || :service)::oid
          AND lock.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        GROUP BY lock.pid, activity.application_name, activity.client_addr, activity.backend_start
    )
    SELECT json_build_object(
        'service', CAST(:service AS text),
        'unpublished', (SELECT json_build_object(
            'rows', coalesce(sum(rows), 0), 'oldest_seconds', max(oldest_seconds),
            'types', coalesce(json_agg(types ORDER BY rows DESC, type), '[]')) FROM types),
        'refused', json_build_object(
            'rows', (SELECT count(*) FROM refused),
            'oldest', (SELECT coalesce(json_agg(oldest), '[]') FROM oldest)),
        'published', (SELECT to_json(published) FROM published),
        'relays', (SELECT coalesce(json_agg(relays ORDER BY buckets), '[]') FROM relays)
    )::text
""")


async def outbox_status(sessions: Sessions, service: str) -> dict[str, Any]:
    """Return what waits, what the broker refused, what was published, and which relay holds which buckets."""
    async with sessions() as session:
        status: dict[str, Any] = json.loads((await session.execute(_STATUS, {"service": service})).scalar_one())
    return status


def published(
    types: Sequence[str] | None = None,
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


async def replay(sessions: Sessions, condition: ColumnElement[bool]) -> Sequence[UUID]:
    """Make published messages unpublished, so that the relay sends them again; return their ids."""
    # Attempts and errors of the first time say nothing about the second.
    values = {"published_at": None, "attempts": 0, "last_error": None, "next_attempt_at": func.clock_timestamp()}
    async with sessions.begin() as session:
        await session.execute(text("SET LOCAL statement_timeout = 0"))
        return (await session.scalars(update(OUTBOX).where(condition).values(values).returning(OUTBOX.c.id))).all()
