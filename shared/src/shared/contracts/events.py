"""Messages that the events service sends."""

from typing import ClassVar
from uuid import UUID

from pydantic import AwareDatetime

from shared.contracts.envelope import Message


class EventFacts(Message):
    """What others need to know of an event, whole in every message so that each one can stand alone.

    ``starts_at`` and ``ends_at`` are instants; ``timezone`` is the IANA zone in which they are shown.
    ``state`` is ``draft`` or ``published``; readers must bear other words.
    """

    event_id: UUID
    identifier: str
    name: str
    timezone: str
    starts_at: AwareDatetime
    ends_at: AwareDatetime
    state: str
    version: int


class EventCreatedV1(EventFacts):
    """An event came to be, by hand or by an import."""

    message_type: ClassVar[str] = "events.event.created.v1"


class EventChangedV1(EventFacts):
    """Something of the event itself changed; its state did not."""

    message_type: ClassVar[str] = "events.event.changed.v1"


class EventPublishedV1(EventFacts):
    """The event became visible to everybody."""

    message_type: ClassVar[str] = "events.event.published.v1"


class EventUnpublishedV1(EventFacts):
    """The event went back to a draft, visible to its organizer only."""

    message_type: ClassVar[str] = "events.event.unpublished.v1"
