"""Role 2: sends what the outbox holds and reacts to what other services say."""

from shared.database.engine import Sessions
from shared.database.idempotency import forget_expired_keys
from shared.messaging.messenger import run_messenger
from tickets.events.handlers import SUBSCRIPTIONS
from tickets.settings import TicketsSettings


async def forget_keys(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        await forget_expired_keys(session)


if __name__ == "__main__":
    run_messenger(TicketsSettings(), SUBSCRIPTIONS, [forget_keys])
