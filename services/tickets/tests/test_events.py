"""The copy of events: what messages tell, however often and in whatever order."""

from typing import Any

import httpx
import pytest
from sqlalchemy import select

from shared.contracts.events import EventChangedV1, EventCreatedV1, EventPublishedV1, EventUnpublishedV1
from shared.database.engine import Sessions
from testkit.plugin import RecordedOutbox, TokenFactory
from tickets.models import EventCopy


@pytest.mark.main_path
async def test_the_youngest_message_wins_whatever_the_order(tell_of_event: Any, sessions: Sessions) -> None:
    event_id = await tell_of_event(EventPublishedV1, seq=3, name="Third", state="published")
    await tell_of_event(EventCreatedV1, event_id=event_id, seq=1, name="First", state="draft")
    await tell_of_event(EventChangedV1, event_id=event_id, seq=2, name="Second", state="draft")
    async with sessions() as session:
        copy = (await session.scalars(select(EventCopy).where(EventCopy.event_id == event_id))).one()
        assert (copy.name, copy.state, copy.seq) == ("Third", "published", 3)


@pytest.mark.main_path
async def test_publishing_opens_the_list_and_unpublishing_closes_it(
    client: httpx.AsyncClient, tell_of_event: Any
) -> None:
    event_id = await tell_of_event(EventCreatedV1, state="draft")
    path = f"/v1/events/{event_id}/tickets"
    assert (await client.get(path)).status_code == 404
    await tell_of_event(EventPublishedV1, event_id=event_id, seq=2)
    assert (await client.get(path)).json() == {"items": [], "next_cursor": None}
    await tell_of_event(EventUnpublishedV1, event_id=event_id, seq=3, state="draft")
    assert (await client.get(path)).status_code == 404


@pytest.mark.main_path
async def test_an_event_that_is_not_known_yet_says_that_it_may_take_a_moment(
    client: httpx.AsyncClient, tokens: TokenFactory
) -> None:
    body = {"name": "Regular", "type": "free"}
    for reference in ("0192f0c1-2345-7abc-8def-0123456789ab", "zzzzzzzz", "no-event", "x" * 36, "%00"):
        answer = await client.post(f"/v1/events/{reference}/tickets", json=body, headers=tokens.organizer())
        assert (answer.status_code, answer.json()["code"]) == (404, "not-found")
        assert "moment" in answer.json()["detail"]
        assert answer.headers["retry-after"] == "1"


@pytest.mark.main_path
async def test_a_new_zone_keeps_what_the_clocks_show_and_moves_the_instants(
    client: httpx.AsyncClient,
    tokens: TokenFactory,
    tell_of_event: Any,
    create_ticket: Any,
    outbox: RecordedOutbox,
) -> None:
    event_id = await tell_of_event()
    window = {"sales_starts_at": "2097-06-01T10:00", "sales_ends_at": "2097-10-26T09:00"}
    ticket = await create_ticket(event_id, **window)
    assert ticket["sales_starts_at"] == "2097-06-01T10:00:00+02:00"
    listed = await client.get(f"/v1/events/{event_id}/tickets")

    await tell_of_event(EventChangedV1, event_id=event_id, seq=2, timezone="America/New_York")

    moved = (await client.get(f"/v1/tickets/{ticket['id']}")).json()
    assert moved["sales_starts_at"] == "2097-06-01T10:00:00-04:00"
    assert moved["sales_ends_at"] == "2097-10-26T09:00:00-04:00"
    assert moved["version"] == 2
    relisted = await client.get(f"/v1/events/{event_id}/tickets", headers={"If-None-Match": listed.headers["ETag"]})
    assert relisted.json()["items"] == [moved]
    (message,) = await outbox.messages("tickets.ticket.changed.v1")
    assert (message.seq, message.payload["sales_starts_at"]) == (2, "2097-06-01T14:00:00Z")

    await tell_of_event(EventChangedV1, event_id=event_id, seq=3, timezone="Europe/Berlin")
    back = (await client.get(f"/v1/tickets/{ticket['id']}")).json()
    assert [back[name] for name in window] == [ticket[name] for name in window]


@pytest.mark.parametrize(
    ("from_zone", "window", "to_zone", "moved"),
    [
        pytest.param(
            "America/New_York",
            ("2097-03-31T02:30", "2097-03-31T12:00"),
            "Europe/Berlin",
            ("2097-03-31T03:30:00+02:00", "2097-03-31T12:00:00+02:00"),
            id="a start in a gap of the new zone happens after the jump",
        ),
        pytest.param(
            "America/New_York",
            ("2097-03-31T02:30", "2097-03-31T03:15"),
            "Europe/Berlin",
            ("2097-03-31T03:30:00+02:00", "2097-03-31T04:15:00+02:00"),
            id="an end that the gap puts before the start keeps the window's length",
        ),
        pytest.param(
            "America/New_York",
            ("2097-06-01T10:00", "2097-10-27T02:30"),
            "Europe/Berlin",
            ("2097-06-01T10:00:00+02:00", "2097-10-27T02:30:00+02:00"),
            id="a reading that happens twice in the new zone is its first",
        ),
        pytest.param(
            "Europe/Berlin",
            ("2097-10-27T02:45:00+02:00", "2097-10-27T02:15:00+01:00"),
            "America/New_York",
            ("2097-10-27T02:45:00-04:00", "2097-10-27T03:15:00-04:00"),
            id="a window within the fold stays half an hour",
        ),
    ],
)
async def test_a_new_zone_never_fails_on_a_gap_or_a_fold(
    client: httpx.AsyncClient,
    tell_of_event: Any,
    create_ticket: Any,
    from_zone: str,
    window: tuple[str, str],
    to_zone: str,
    moved: tuple[str, str],
) -> None:
    event_id = await tell_of_event(timezone=from_zone)
    ticket = await create_ticket(event_id, sales_starts_at=window[0], sales_ends_at=window[1])
    await tell_of_event(EventChangedV1, event_id=event_id, seq=2, timezone=to_zone)
    shown = (await client.get(f"/v1/tickets/{ticket['id']}")).json()
    assert (shown["sales_starts_at"], shown["sales_ends_at"]) == moved


@pytest.mark.main_path
async def test_nothing_is_on_sale_after_an_event_that_was_moved_to_an_earlier_end(
    client: httpx.AsyncClient, tokens: TokenFactory, tell_of_event: Any, create_ticket: Any, names: Any
) -> None:
    event_id = await tell_of_event()
    ticket = await create_ticket(event_id)
    assert await names(event_id, sales="open") == ["Regular"]
    over = {"starts_at": "2020-01-01T00:00:00Z", "ends_at": "2020-01-02T00:00:00Z"}
    await tell_of_event(EventChangedV1, event_id=event_id, seq=2, **over)
    assert await names(event_id, sales="open") == []
    assert await names(event_id, sales="past") == ["Regular"]
    # Its window now ends after the event; that must not keep anybody from changing the rest of it.
    path = f"/v1/tickets/{ticket['id']}"
    renamed = await client.patch(path, json={"name": "Late"}, headers=tokens.organizer())
    assert (renamed.status_code, renamed.json()["sales"]) == (200, "past")
