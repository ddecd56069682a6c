"""The events service, as this one needs it."""

import asyncio
from uuid import UUID

from pydantic import BaseModel

from exports.archive.reader import Repair
from exports.clients.calls import Neighbours, call
from shared.contracts.programme import Programme

LOOK_UP_TIMEOUT = 10.0


class EventFacts(BaseModel):
    event_id: UUID
    identifier: str
    name: str


class StoredProgramme(BaseModel):
    event_id: UUID
    identifier: str
    counts: dict[str, int]
    repairs: list[Repair]


class _ProgrammeImport(BaseModel):
    import_id: UUID
    organizer: str
    programme: Programme


async def find_event(neighbours: Neighbours, event_id: UUID, organizer: str) -> EventFacts:
    """Raises the 404 of events when it is not this organizer's."""
    response = await call(
        neighbours,
        "GET",
        f"{neighbours.events_url}/internal/events/{event_id}",
        params={"organizer": organizer},
        timeout=LOOK_UP_TIMEOUT,
    )
    return EventFacts.model_validate_json(response.content)


async def store_programme(
    neighbours: Neighbours, import_id: UUID, organizer: str, programme: Programme
) -> StoredProgramme:
    """Makes the event; the same ``import_id`` again gives the same event."""
    body = _ProgrammeImport(import_id=import_id, organizer=organizer, programme=programme)
    content = await asyncio.to_thread(lambda: body.model_dump_json().encode())
    response = await call(neighbours, "POST", f"{neighbours.events_url}/internal/programmes", content=content)
    return StoredProgramme.model_validate_json(response.content)


async def read_programme(neighbours: Neighbours, event_id: UUID, organizer: str) -> Programme:
    response = await call(
        neighbours,
        "GET",
        f"{neighbours.events_url}/internal/programmes/{event_id}",
        params={"organizer": organizer},
    )
    return await asyncio.to_thread(Programme.model_validate_json, response.content)
