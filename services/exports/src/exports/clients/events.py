"""Calls to the events service."""

import asyncio
import re
from uuid import UUID

from pydantic import BaseModel

from exports.archive.reader import Repair
from exports.clients.calls import PeerServices, call
from shared.contracts.programme import Programme
from shared.problems import NotFound

LOOK_UP_TIMEOUT = 10.0

# It becomes a part of a path; the events service decides on the rest.
_MAY_BE_REFERENCE = re.compile(r"[0-9A-Za-z-]{1,36}")


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


async def find_event(peers: PeerServices, reference: str, organizer: str) -> EventFacts:
    """Return the organizer's event with this id or identifier. Raises the 404 of the events service."""
    if not _MAY_BE_REFERENCE.fullmatch(reference):
        raise NotFound("Event not found. Use the event's id or its identifier.")
    response = await call(
        peers,
        "GET",
        f"{peers.events_url}/internal/events/{reference}",
        params={"organizer": organizer},
        timeout=LOOK_UP_TIMEOUT,
    )
    return EventFacts.model_validate_json(response.content)


async def store_programme(
    peers: PeerServices, import_id: UUID, organizer: str, programme: Programme
) -> StoredProgramme:
    """Create the event, once per ``import_id``."""
    body = _ProgrammeImport(import_id=import_id, organizer=organizer, programme=programme)
    content = await asyncio.to_thread(lambda: body.model_dump_json().encode())
    response = await call(peers, "POST", f"{peers.events_url}/internal/programmes", content=content)
    return StoredProgramme.model_validate_json(response.content)


async def read_programme(peers: PeerServices, event_id: UUID, organizer: str) -> Programme:
    response = await call(
        peers,
        "GET",
        f"{peers.events_url}/internal/programmes/{event_id}",
        params={"organizer": organizer},
    )
    return await asyncio.to_thread(Programme.model_validate_json, response.content)
