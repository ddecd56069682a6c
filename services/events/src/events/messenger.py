"""The messenger: publishes the outbox and handles the messages of other services."""

from typing import Any

from events.images.handlers import on_image_processed
from events.settings import EventsSettings
from shared.contracts.media import ImageProcessedV1
from shared.database.engine import Sessions
from shared.database.idempotency import forget_expired_keys
from shared.messaging.inbox import Subscription
from shared.messaging.messenger import run_messenger

SUBSCRIPTIONS: list[Subscription[Any]] = [Subscription(ImageProcessedV1, on_image_processed, keep="latest")]


async def forget_old_requests(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        await forget_expired_keys(session)


if __name__ == "__main__":
    run_messenger(EventsSettings(), SUBSCRIPTIONS, [forget_old_requests])
