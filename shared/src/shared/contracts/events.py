"""Messages that the events service sends."""

from typing import ClassVar
from uuid import UUID

from pydantic import AwareDatetime, Field

from shared.contracts.envelope import Message


class EventFacts(Message):
    """What others need to know of an event, whole in every message so that each one can stand alone."""

    event_id: UUID = Field(description="The event. The envelope's `subject` is the same id.")
    identifier: str = Field(description="The event's short name in links: 8 lower-case letters and digits.")
    name: str = Field(description="As the organizer wrote it, in any script.")
    timezone: str = Field(description="IANA zone of the venue, in which times are shown, such as `Europe/Berlin`.")
    starts_at: AwareDatetime = Field(
        description="The instant the event begins, sent in UTC. With `timezone` it says what clocks there show."
    )
    ends_at: AwareDatetime = Field(description="The instant the event is over, sent in UTC; after `starts_at`.")
    state: str = Field(description="`draft` or `published`; readers must bear other words.")
    version: int = Field(
        description="Rises with every change of the event. The envelope's `aggregateseq` is the same number."
    )


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
