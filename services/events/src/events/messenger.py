"""Role 2: publish the outbox and handle the messages of other services."""

from typing import Any

from events.images.handlers import on_image_processed
from events.settings import EventsSettings
from shared.contracts.media import ImageProcessedV1
from shared.messaging.inbox import Subscription
from shared.messaging.messenger import run_messenger

SUBSCRIPTIONS: list[Subscription[Any]] = [Subscription(ImageProcessedV1, on_image_processed, keep="latest")]


if __name__ == "__main__":
    run_messenger(EventsSettings(), SUBSCRIPTIONS)
