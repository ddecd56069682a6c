"""Which drafts a caller may read. Each query applies the rest of the access rules."""

from typing import Annotated

from fastapi import Depends, Path

from events.events.repository import EventHead
from events.events.service import read_head
from shared.auth.access import organizer, reader
from shared.http.dependencies import SessionDep
from shared.http.etags import etag_of

Reader = Annotated[str | None, Depends(reader("events:read"))]
"""The organizer who may read its own drafts; ``None`` for the public."""

Organizer = Annotated[str, Depends(organizer("events:write"))]
"""The organizer who may change its events."""

EventReference = Annotated[str, Path(description="The event's `id` or its `identifier`.", examples=["k3x9q0ab"])]


async def _event(event_ref: EventReference, reader: Reader, session: SessionDep) -> EventHead:
    return await read_head(session, event_ref, reader)


EventDep = Annotated[EventHead, Depends(_event)]
"""The event of the path, published or the reader's own."""


async def _is_own(event: EventDep, reader: Reader) -> bool:
    return event.organizer == reader


IsOwn = Annotated[bool, Depends(_is_own)]
"""True for the event's organizer, whose reads include what the public cannot see."""


def tag_for(*parts: int | None, is_own: bool) -> str:
    """Return a tag that differs between the organizer and the public, whose responses differ too."""
    return etag_of(".".join([*(str(part) for part in parts if part is not None), *(["own"] if is_own else [])]))
