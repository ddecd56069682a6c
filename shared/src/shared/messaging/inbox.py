"""Inbox: handle each message once, and no state older than what was handled before.

The inbox row, the position and the handler's effect are one transaction. Handlers therefore need not compare
sequence numbers. ``docs/messages.md`` says what this promises to them.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from shared.contracts.envelope import Envelope, Message
from shared.database.engine import Sessions

M = TypeVar("M", bound=Message)

Outcome = Literal["handled", "duplicate", "stale"]


@dataclass(frozen=True)
class Subscription(Generic[M]):
    """One type of message, and the handler that reacts in the transaction of the session it gets.

    ``keep="latest"`` is for state messages, which carry the whole state of their aggregate: a message older than
    the newest one handled of that aggregate is dropped. ``keep="every"`` is for facts: each one is handled.
    """

    message: type[M]
    handler: Callable[[AsyncSession, M, Envelope], Awaitable[None]]
    keep: Literal["latest", "every"]


def by_message_type(subscriptions: Iterable[Subscription[Any]]) -> Mapping[str, Subscription[Any]]:
    """Return the subscriptions by type. Raise ``ValueError`` for those that would lose messages to one another."""
    found: dict[str, Subscription[Any]] = {}
    latest: dict[str, Subscription[Any]] = {}
    for subscription in subscriptions:
        message_type = subscription.message.message_type
        if message_type in found:
            raise ValueError(f"{message_type} has two subscriptions. Call both handlers from one.")
        found[message_type] = subscription
        if subscription.keep == "latest":
            aggregate = ".".join(message_type.split(".")[:2])
            first = latest.setdefault(aggregate, subscription)
            if first.handler != subscription.handler:
                raise ValueError(
                    f'{first.message.message_type} and {message_type} keep "latest" of {aggregate} by different '
                    'handlers, so each would miss states. Use one handler for both, or keep "every".'
                )
    return found


async def handle_once(
    sessions: Sessions, body: bytes, envelope: Envelope, subscription: Subscription[Any]
) -> Outcome:
    """Run the handler in one transaction with the inbox row, unless the message is a duplicate or stale."""
    message = subscription.message.model_validate(orjson.loads(body)["data"])
    row = {"message_id": envelope.id, "type": envelope.type}
    async with sessions.begin() as session:
        if subscription.keep == "latest":
            position = {
                "aggregate_type": envelope.aggregatetype,
                "aggregate_id": envelope.subject,
                "seq": envelope.aggregateseq,
            }
            is_new, is_latest = (await session.execute(_RECEIVE_LATEST, row | position)).one()
        else:
            is_new, is_latest = (await session.execute(_RECEIVE, row)).first() is not None, True
        if not is_new:
            return "duplicate"
        if not is_latest:
            return "stale"
        await subscription.handler(session, message, envelope)
    return "handled"


_RECEIVE = text("""
    INSERT INTO inbox (message_id, type) VALUES (:message_id, :type)
    ON CONFLICT DO NOTHING
    RETURNING message_id
""")

# One statement, so that a message costs one round trip beyond its effect. The position stays locked until the
# commit, so several messengers of a service handle the messages of an aggregate one after the other.
_RECEIVE_LATEST = text("""
    WITH received AS (
        INSERT INTO inbox (message_id, type) VALUES (:message_id, :type)
        ON CONFLICT DO NOTHING
        RETURNING message_id
    ), moved AS (
        INSERT INTO inbox_positions AS known (aggregate_type, aggregate_id, seq)
        SELECT :aggregate_type, CAST(:aggregate_id AS uuid), CAST(:seq AS bigint) FROM received
        ON CONFLICT (aggregate_type, aggregate_id) DO UPDATE SET seq = excluded.seq WHERE known.seq <= excluded.seq
        RETURNING seq
    )
    SELECT EXISTS (SELECT FROM received) AS is_new, EXISTS (SELECT FROM moved) AS is_latest
""")
