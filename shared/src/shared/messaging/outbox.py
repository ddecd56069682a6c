"""Outbox: messages and triggers of jobs, committed together with the state that they report.

``add`` and ``add_job`` insert a row in the caller's transaction. The messenger publishes it after the commit.
"""

import json
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from shared.contracts.envelope import Message
from shared.ids import new_id
from shared.telemetry.traces import current_traceparent

# The size that every CloudEvents intermediary forwards. A larger row might never leave and would block the rows
# behind it, so it is refused when it is written.
MAX_PAYLOAD_SIZE = 64 * 1024


class MessageTooLarge(ValueError):
    """The payload exceeds ``MAX_PAYLOAD_SIZE``. Send a reference in place of the content."""


async def add(session: AsyncSession, message: Message, *, subject: UUID, seq: int) -> UUID:
    """Record that ``message`` is to be sent when the caller's transaction commits. Return the message's id.

    ``subject`` is the aggregate's id and ``seq`` its version after the change. The caller must hold the
    aggregate's row lock or have created the row, so that ``seq`` rises in commit order.
    """
    service, aggregate, *_ = message.message_type.split(".")
    payload = message.model_dump_json()
    size = len(payload.encode())
    if size > MAX_PAYLOAD_SIZE:
        raise MessageTooLarge(f"{message.message_type}: {size} bytes, at most {MAX_PAYLOAD_SIZE}")
    return await _insert(
        session,
        kind="message",
        type=message.message_type,
        aggregate_type=f"{service}.{aggregate}",
        aggregate_id=subject,
        aggregate_seq=seq,
        payload=payload,
    )


async def add_job(session: AsyncSession, actor: str, *, queue: str, job_id: UUID, attempt: int = 0) -> UUID:
    """Record a trigger that starts the job. The job's own row is the truth; the trigger may be delivered twice."""
    return await _insert(
        session,
        kind="job",
        type=actor,
        aggregate_type=f"job.{actor}",
        aggregate_id=job_id,
        aggregate_seq=attempt,
        payload=json.dumps({"queue": queue, "job_id": str(job_id)}),
    )


# As text, because building the statement by SQLAlchemy costs more than running it.
_INSERT = text("""
    INSERT INTO outbox (id, kind, type, aggregate_type, aggregate_id, aggregate_seq, payload, traceparent)
    VALUES (:id, :kind, :type, :aggregate_type, :aggregate_id, :aggregate_seq,
            CAST(CAST(:payload AS text) AS jsonb), :traceparent)
""")


async def _insert(session: AsyncSession, **values: Any) -> UUID:
    row_id = new_id()
    await session.execute(_INSERT, {"id": row_id, "traceparent": current_traceparent(), **values})
    session.info["outbox_written"] = True
    return row_id
