from uuid import UUID

from aio_pika.abc import AbstractQueue
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.messaging import outbox
from shared.messaging.commit_notifier import notifying_sessions
from shared.messaging.relay import Relay, Timings
from shared.settings import Settings
from testkit.messages import paint, painted_class, receive, running


async def test_a_commit_wakes_the_relay_long_before_it_polls(
    settings: Settings, engine: AsyncEngine, spy: AbstractQueue
) -> None:
    painted = painted_class(settings.service)
    async with (
        notifying_sessions(engine, settings.service) as sessions,
        running(Relay(settings, timings=Timings(poll=600))),
    ):
        for seq in range(1, 4):
            async with sessions.begin() as session:
                await outbox.add(session, paint(painted, "red"), subject=UUID(int=7), seq=seq)
            await receive(spy, 1)  # times out unless the notification arrives
