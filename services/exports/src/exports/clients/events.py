"""Calls to the events service."""

import asyncio
import re
from uuid import UUID

from exports.clients.calls import PeerServices, call, parsed
from shared.contracts.calls import OrganizerQuery
from shared.contracts.events import EventState
from shared.contracts.programme import Programme, ProgrammeImport, ProgrammeImported
from shared.problems import NotFound

LOOK_UP_TIMEOUT = 10.0

# It becomes a part of a path; the events service decides on the rest.
_MAY_BE_REFERENCE = re.compile(r"[0-9A-Za-z-]{1,36}")


async def find_event(peers: PeerServices, reference: str, organizer: str) -> EventState:
    """Return the organizer's event with this id or identifier. Raises the 404 of events."""
    if not _MAY_BE_REFERENCE.fullmatch(reference):
        raise NotFound("Event not found. Use the event's id or its identifier.")
    url = f"{peers.events_url}/internal/events/{reference}"
    response = await call(peers, "GET", url, query=OrganizerQuery(organizer=organizer), timeout=LOOK_UP_TIMEOUT)
    return parsed(EventState, response)


async def store_programme(
    peers: PeerServices, import_id: UUID, organizer: str, programme: Programme
) -> ProgrammeImported:
    """Create the event, once per ``import_id``."""
    body = ProgrammeImport(import_id=import_id, organizer=organizer, programme=programme)
    content = await asyncio.to_thread(lambda: body.model_dump_json().encode())
    response = await call(peers, "POST", f"{peers.events_url}/internal/programmes", content=content)
    return parsed(ProgrammeImported, response)


async def read_programme(peers: PeerServices, event_id: UUID, organizer: str) -> Programme:
    url = f"{peers.events_url}/internal/programmes/{event_id}"
    response = await call(peers, "GET", url, query=OrganizerQuery(organizer=organizer))
    return await asyncio.to_thread(parsed, Programme, response)
