"""Role 2: sends what the outbox holds and reacts to what other services say."""

from typing import Any

from shared.contracts.events import EventChangedV1, EventCreatedV1, EventPublishedV1, EventUnpublishedV1
from shared.database.engine import Sessions
from shared.database.idempotency import forget_expired_keys
from shared.messaging.inbox import Subscription
from shared.messaging.messenger import run_messenger
from tickets.events.handlers import on_event
from tickets.settings import TicketsSettings

SUBSCRIPTIONS: list[Subscription[Any]] = [
    Subscription(message, on_event, keep="latest")
    for message in (EventCreatedV1, EventChangedV1, EventPublishedV1, EventUnpublishedV1)
]


async def forget_keys(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        await forget_expired_keys(session)


if __name__ == "__main__":
    run_messenger(TicketsSettings(), SUBSCRIPTIONS, [forget_keys])
