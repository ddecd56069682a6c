import pytest
from aio_pika.abc import AbstractQueue

from shared.database.engine import Sessions
from shared.ids import new_id
from shared.messaging import outbox
from shared.messaging.outbox import MessageTooLarge
from shared.messaging.relay import Relay
from shared.settings import Settings
from testkit.messages import paint, painted_class, receive, running


async def test_a_rolled_back_change_sends_nothing_and_a_committed_one_is_sent_as_a_cloud_event(
    settings: Settings, sessions: Sessions, spy: AbstractQueue
) -> None:
    painted = painted_class(settings.service)
    wall = new_id()
    async with sessions() as session:
        await outbox.add(session, paint(painted, "ghost"), subject=wall, seq=1)
        await session.rollback()
    async with sessions.begin() as session:
        message_id = await outbox.add(session, paint(painted, "red"), subject=wall, seq=1)
    async with running(Relay(settings)):
        (envelope,) = await receive(spy, 1)
    assert envelope["data"] == {"organizer": "acme", "color": "red"}
    assert envelope["id"] == str(message_id)
    assert envelope["type"] == painted.message_type
    assert (envelope["specversion"], envelope["subject"], envelope["aggregateseq"]) == ("1.0", str(wall), 1)


async def test_an_oversize_message_is_refused_when_it_is_written(settings: Settings, sessions: Sessions) -> None:
    async with sessions() as session:
        with pytest.raises(MessageTooLarge, match="at most 65536"):
            await outbox.add(session, paint(painted_class(settings.service), "x" * 70_000), subject=new_id(), seq=1)
