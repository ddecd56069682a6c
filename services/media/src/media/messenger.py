"""Role 2: sends what the outbox holds and reacts to what other services say."""

from typing import Any

from media.settings import MediaSettings
from shared.messaging.consumer import Subscription
from shared.messaging.messenger import run_messenger

SUBSCRIPTIONS: list[Subscription[Any]] = []

if __name__ == "__main__":
    run_messenger(MediaSettings(), SUBSCRIPTIONS)
