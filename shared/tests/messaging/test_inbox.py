from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from shared.contracts.envelope import Envelope
from shared.database.engine import Sessions
from shared.messaging.inbox import Subscription, by_message_type, handle_once
from shared.messaging.tables import INBOX
from shared.settings import Settings
from testkit.messages import Painted, Recorder, body_of, painted_class


async def receive(sessions: Sessions, subscription: Subscription[Painted], seq: int) -> str:
    body = body_of(subscription.message, subject=UUID(int=7), seq=seq)
    return await handle_once(sessions, body, Envelope.model_validate_json(body), subscription)


@pytest.mark.parametrize("keep", ["latest", "every"])
async def test_a_message_has_one_effect_because_of_its_inbox_row(
    settings: Settings, sessions: Sessions, keep: str
) -> None:
    painted, handler = painted_class(settings.service), Recorder()
    body = body_of(painted, "red")
    envelope = Envelope.model_validate_json(body)
    subscription = Subscription(painted, handler, keep="latest" if keep == "latest" else "every")
    assert await handle_once(sessions, body, envelope, subscription) == "handled"
    assert await handle_once(sessions, body, envelope, subscription) == "duplicate"
    assert handler.colors == ["red"]
    async with sessions.begin() as session:
        await session.execute(INBOX.delete())
    assert await handle_once(sessions, body, envelope, subscription) == "handled"
    assert handler.colors == ["red", "red"]


async def test_a_failing_handler_leaves_no_inbox_row(settings: Settings, sessions: Sessions) -> None:
    async def fail(session: AsyncSession, message: Painted, envelope: Envelope) -> None:
        raise RuntimeError("not yet")

    painted = painted_class(settings.service)
    body = body_of(painted)
    envelope = Envelope.model_validate_json(body)
    with pytest.raises(RuntimeError, match="not yet"):
        await handle_once(sessions, body, envelope, Subscription(painted, fail, keep="latest"))
    assert (
        await handle_once(sessions, body, envelope, Subscription(painted, Recorder(), keep="latest")) == "handled"
    )


async def test_a_state_message_older_than_the_newest_handled_of_its_aggregate_is_dropped(
    settings: Settings, sessions: Sessions
) -> None:
    handler = Recorder()
    painted = Subscription(painted_class(settings.service), handler, keep="latest")
    washed = Subscription(painted_class(settings.service, "washed"), handler, keep="latest")
    assert await receive(sessions, painted, 2) == "handled"
    assert await receive(sessions, painted, 1) == "stale"
    assert await receive(sessions, washed, 1) == "stale"
    assert await receive(sessions, washed, 2) == "handled"
    assert await receive(sessions, painted, 3) == "handled"


async def test_every_fact_is_handled_and_leaves_no_state_message_stale(
    settings: Settings, sessions: Sessions
) -> None:
    state = Subscription(painted_class(settings.service), Recorder(), keep="latest")
    fact = Subscription(painted_class(settings.service, "washed"), Recorder(), keep="every")
    assert await receive(sessions, state, 3) == "handled"
    assert await receive(sessions, fact, 2) == "handled"
    assert await receive(sessions, fact, 1) == "handled"
    assert await receive(sessions, fact, 9) == "handled"
    assert await receive(sessions, state, 4) == "handled"


def test_subscriptions_that_would_lose_messages_to_one_another_are_refused() -> None:
    painted, washed = painted_class("walls"), painted_class("walls", "washed")
    latest, every = Subscription(painted, Recorder(), keep="latest"), Subscription(washed, Recorder(), keep="every")
    assert set(by_message_type([latest, every])) == {painted.message_type, washed.message_type}
    with pytest.raises(ValueError, match=r'painted\.v1 and walls\.wall\.washed\.v1 keep "latest"'):
        by_message_type([latest, Subscription(washed, Recorder(), keep="latest")])
    with pytest.raises(ValueError, match=r"walls\.wall\.washed\.v1 has two subscriptions"):
        by_message_type([every, every])
