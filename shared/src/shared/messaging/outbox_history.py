"""The outbox as an operator sees it: what has not left yet and why, and what left and is to go out once more.

Rows stay for ``KEEP_PUBLISHED`` after they were published; what is older can't be sent again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, bindparam, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.messaging.tables import OUTBOX

REPLAY_BATCH = 1000
REFUSED_SHOWN = 50

# Every relay of a service holds shared locks of 16 buckets, each one alone; see shared.messaging.relay.
_BUCKET_HOLDERS = text("""
    SELECT lock.pid, activity.application_name AS name, host(activity.client_addr) AS address,
           activity.backend_start AS since, array_agg(lock.objid::bigint ORDER BY lock.objid) AS buckets
    FROM pg_locks AS lock JOIN pg_stat_activity AS activity USING (pid)
    WHERE lock.locktype = 'advisory' AND lock.granted AND lock.mode = 'ExclusiveLock'
      AND lock.classid = hashtext('rostrum.relay.' || :service)::oid
      AND lock.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    GROUP BY lock.pid, activity.application_name, activity.client_addr, activity.backend_start
    ORDER BY min(lock.objid)
""")


async def outbox_status(engine: AsyncEngine, service: str) -> dict[str, Any]:
    """What waits, what the broker refused, what went out lately, and which relay holds which buckets."""
    now = func.clock_timestamp()
    waiting = OUTBOX.c.published_at.is_(None)
    age = func.extract("epoch", now - func.min(OUTBOX.c.created_at)).label("oldest_seconds")
    by_type = (
        select(OUTBOX.c.kind, OUTBOX.c.type, func.count().label("rows"), age)
        .where(waiting)
        .group_by(OUTBOX.c.kind, OUTBOX.c.type)
        .order_by(func.count().desc(), OUTBOX.c.type)
    )
    refused = waiting & (OUTBOX.c.attempts > 0)
    refused_rows = (
        select(
            OUTBOX.c.id,
            OUTBOX.c.type,
            OUTBOX.c.aggregate_id,
            OUTBOX.c.aggregate_seq,
            OUTBOX.c.attempts,
            OUTBOX.c.next_attempt_at,
            OUTBOX.c.last_error,
        )
        .where(refused)
        .order_by(OUTBOX.c.created_at, OUTBOX.c.aggregate_seq)
        .limit(REFUSED_SHOWN)
    )
    async with engine.connect() as connection:
        types = (await connection.execute(by_type)).all()
        refused_count = await connection.scalar(select(func.count()).select_from(OUTBOX).where(refused))
        shown = (await connection.execute(refused_rows)).all()
        published = {
            name: await connection.scalar(
                select(func.count()).select_from(OUTBOX).where(OUTBOX.c.published_at > now - text(interval))
            )
            for name, interval in (("last_hour", "interval '1 hour'"), ("last_24_hours", "interval '24 hours'"))
        }
        holders = (await connection.execute(_BUCKET_HOLDERS, {"service": service})).all()
    return {
        "service": service,
        "unpublished": {
            "rows": sum(row.rows for row in types),
            "oldest_seconds": max((float(row.oldest_seconds) for row in types), default=None),
            "types": [
                {
                    "kind": row.kind,
                    "type": row.type,
                    "rows": row.rows,
                    "oldest_seconds": float(row.oldest_seconds),
                }
                for row in types
            ],
        },
        "refused": {
            "rows": refused_count,
            "oldest": [
                {
                    "id": str(row.id),
                    "type": row.type,
                    "subject": str(row.aggregate_id),
                    "seq": row.aggregate_seq,
                    "attempts": row.attempts,
                    "next_attempt_at": row.next_attempt_at.isoformat(),
                    "error": row.last_error,
                }
                for row in shown
            ],
        },
        "published": published,
        "relays": [
            {
                "name": row.name,
                "pid": row.pid,
                "address": row.address,
                "since": row.since.isoformat(),
                "buckets": row.buckets,
            }
            for row in holders
        ],
    }


@dataclass(frozen=True)
class Period:
    """Which published messages: of these types, written in ``[since, until)``, about this aggregate."""

    types: frozenset[str] = frozenset()
    since: datetime | None = None
    until: datetime | None = None
    subject: UUID | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        conditions: list[ColumnElement[bool]] = [OUTBOX.c.kind == "message", OUTBOX.c.published_at.is_not(None)]
        if self.types:
            conditions.append(OUTBOX.c.type.in_(self.types))
        if self.since is not None:
            conditions.append(OUTBOX.c.created_at >= self.since)
        if self.until is not None:
            conditions.append(OUTBOX.c.created_at < self.until)
        if self.subject is not None:
            conditions.append(OUTBOX.c.aggregate_id == self.subject)
        return conditions


@dataclass(frozen=True)
class Replayable:
    count: int
    oldest: datetime | None
    newest: datetime | None
    kept_since: datetime | None  # the oldest published message that is still there, whatever its type


async def find_replayable(engine: AsyncEngine, period: Period) -> Replayable:
    found = select(func.count(), func.min(OUTBOX.c.created_at), func.max(OUTBOX.c.created_at)).where(
        *period.conditions()
    )
    kept = select(func.min(OUTBOX.c.created_at)).where(*Period().conditions())
    async with engine.connect() as connection:
        count, oldest, newest = (await connection.execute(found)).one()
        return Replayable(count, oldest, newest, await connection.scalar(kept))


async def replay(engine: AsyncEngine, period: Period, marked: Callable[[list[UUID]], None]) -> None:
    """Makes published messages unpublished, so that the relay sends them again, with the same ids.

    ``marked`` is told after each commit which ones. Only what was published before the call is taken: the relay is
    at work meanwhile, and what it has sent again is not to go out a third time.
    """
    batch = (
        select(OUTBOX.c.id)
        .where(*period.conditions(), OUTBOX.c.published_at < bindparam("begun_at"))
        .order_by(OUTBOX.c.created_at, OUTBOX.c.aggregate_seq)
        .limit(REPLAY_BATCH)
        .with_for_update()
    )
    mark = (
        update(OUTBOX)
        .where(OUTBOX.c.id.in_(batch))
        # As if it had never left: attempts and errors of the first time say nothing about the second.
        .values(published_at=None, attempts=0, last_error=None, next_attempt_at=func.clock_timestamp())
        .returning(OUTBOX.c.id)
    )
    async with engine.connect() as connection:
        begun_at = await connection.scalar(select(func.clock_timestamp()))
    while True:
        async with engine.begin() as connection:
            ids = (await connection.execute(mark, {"begun_at": begun_at})).scalars().all()
        if not ids:
            return
        marked(list(ids))
