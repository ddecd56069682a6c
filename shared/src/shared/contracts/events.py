"""Messages that the events service sends."""

from typing import ClassVar
from uuid import UUID

from pydantic import AwareDatetime, Field

from shared.contracts.envelope import Message


class EventState(Message):
    """The whole public state of an event: the latest message is enough."""

    event_id: UUID = Field(description="The event. The envelope's `subject` is the same id.")
    identifier: str = Field(description="The event's short name in links: 8 lower-case letters and digits.")
    name: str = Field(description="As the organizer wrote it, in any script.")
    timezone: str = Field(description="IANA zone of the venue, for the display of times, such as `Europe/Berlin`.")
    starts_at: AwareDatetime = Field(
        description="The instant of the start, in UTC. With `timezone` it gives the wall time."
    )
    ends_at: AwareDatetime = Field(description="The instant of the end, in UTC; after `starts_at`.")
    state: str = Field(description="`draft` or `published`; consumers must accept other values.")
    version: int = Field(
        description="Grows with every change of the event. The envelope's `aggregateseq` is the same number."
    )


class EventCreatedV1(EventState):
    """An event was created, through the API or by an import."""

    message_type: ClassVar[str] = "events.event.created.v1"


class EventChangedV1(EventState):
    """The event itself changed, except for its `state`."""

    message_type: ClassVar[str] = "events.event.changed.v1"


class EventPublishedV1(EventState):
    """The event was published: everybody can see it."""

    message_type: ClassVar[str] = "events.event.published.v1"


class EventUnpublishedV1(EventState):
    """The event is a draft again: only its organizer can see it."""

    message_type: ClassVar[str] = "events.event.unpublished.v1"
