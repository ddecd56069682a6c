"""Role 2: publish the outbox and handle the messages of other services."""

from typing import Any

from shared.contracts.events import EventChangedV1, EventCreatedV1, EventPublishedV1, EventUnpublishedV1
from shared.messaging.inbox import Subscription
from shared.messaging.messenger import run_messenger
from tickets.event_copies.handlers import on_event
from tickets.settings import TicketsSettings

SUBSCRIPTIONS: list[Subscription[Any]] = [
    Subscription(message, on_event, keep="latest")
    for message in (EventCreatedV1, EventChangedV1, EventPublishedV1, EventUnpublishedV1)
]


if __name__ == "__main__":
    run_messenger(TicketsSettings(), SUBSCRIPTIONS)
